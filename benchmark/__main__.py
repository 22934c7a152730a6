"""`python -m benchmark` is `wbc-shift`."""

import sys


def main() -> None:
    """Load and run the command line; an interrupt while it loads is told as any other."""
    try:
        from benchmark.cli import main as run
    except KeyboardInterrupt:
        print("interrupted: nothing was begun", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
