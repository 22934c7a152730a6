"""`python -m benchmark` is `wbc-shift`."""

from benchmark.cli import main

main()
