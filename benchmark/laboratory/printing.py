"""Print a page to PDF with a browser that is installed, without a network."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmark.files import temporary_beside

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
"""Names of browsers that print from the command line, all of one make."""
PATIENCE_S = 60


def print_page(page: Path) -> str:
    """Print a page to a PDF beside it; say where it is, or how to make it.

    A PDF of an earlier page does not stay beside a page that it does not show.
    """
    pdf = page.with_suffix(".pdf")
    pdf.unlink(missing_ok=True)
    by_hand = f"to print it or keep it as PDF, open {page} in a browser and print it"
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        return f"no PDF: none of {', '.join(BROWSERS)} is installed; {by_hand}"
    with tempfile.TemporaryDirectory() as profile, temporary_beside(pdf) as temporary:
        command = [
            browser,
            "--headless",
            "--disable-gpu",
            "--disable-extensions",
            "--disable-background-networking",
            "--no-first-run",
            "--no-pdf-header-footer",
            f"--user-data-dir={profile}",
            f"--print-to-pdf={temporary}",
            page.resolve().as_uri(),
        ]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.insert(1, "--no-sandbox")  # without which root's browser does not start
        with contextlib.suppress(OSError, subprocess.SubprocessError):  # told below
            subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=True)
        if temporary.read_bytes().startswith(b"%PDF"):
            temporary.chmod(0o644)
            temporary.replace(pdf)
            return f"wrote {pdf}"
    return f"no PDF: {Path(browser).name} did not print the page; {by_hand}"
