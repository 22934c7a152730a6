"""Address of one large file → the file, whole and checked, going on where a download broke off.

What has come lies in `<file>.part`; `<file>.part.json` says which address it is of, and the mark
(ETag or date) by which that address tells whether it still serves the same file.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import requests

from benchmark.data import sources
from benchmark.data.cards import Archive
from benchmark.data.sources import Busy, NotThere, Unreachable, Unusable, translated
from benchmark.data.unpack import MOST_TOTAL_BYTES, opening_fault
from benchmark.errors import UserError
from benchmark.files import cannot_write, read_json, sha256_file, write_json

BLOCK = 1 << 20
DRIVE = "drive:"
"""Prefix of an address that is a file's identity on Google Drive."""


def archive_fault(archive: Archive, file: Path) -> str | None:
    """Why `file` is not the published archive, or None; nothing is unpacked for this."""
    why = opening_fault(file, archive.file)
    if why is not None:
        return why
    size = file.stat().st_size
    if archive.bytes not in (None, size):
        return f"expected {archive.bytes} bytes, found {size}"
    if archive.sha256 and (found := sha256_file(file)) != archive.sha256:
        return f"expected sha256 {archive.sha256[:16]}…, found {found[:16]}…"
    if archive.md5 and (found := md5_file(file)) != archive.md5:
        return f"expected md5 {archive.md5}, found {found}"
    return None


def md5_file(path: Path) -> str:
    """MD5 of a file's bytes, in hexadecimal: what Zenodo publishes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def length(file: Path) -> int:
    """Bytes of a file; 0 if there is none."""
    return file.stat().st_size if file.exists() else 0


@dataclass(frozen=True)
class Download:
    """One archive from one address to `target`; `arrived` is called once a block."""

    archive: Archive
    url: str
    target: Path
    stop: threading.Event
    arrived: Callable[[], None]

    @property
    def part(self) -> Path:
        """What has come so far."""
        return self.target.with_name(f"{self.target.name}.part")

    @property
    def note(self) -> Path:
        """Where that came from."""
        return self.target.with_name(f"{self.target.name}.part.json")

    def run(self) -> None:
        """Bring the archive to `target`, whole and checked.

        Raises:
            Unreachable, Busy, NotThere: it did not come; what did come stays to be continued.
            Unusable: what came is not the published archive, and was deleted.
            UserError: the disk is full, or the folder cannot be written.
        """
        try:
            while True:
                begun = self.part.exists()
                if self.url.startswith(DRIVE):
                    self.receive_from_drive()
                else:
                    self.receive_patiently()
                why = archive_fault(self.archive, self.part)
                self.note.unlink(missing_ok=True)
                if why is None:
                    self.part.replace(self.target)
                    return
                self.part.unlink()
                # What two downloads made together may be wrong where one alone is right.
                if not begun or self.stop.is_set():
                    raise Unusable(why)
        except OSError as error:
            raise cannot_write(self.target, error) from error

    def receive_patiently(self) -> None:
        """Ask again after a pause: as often as more arrives, else three times."""
        pauses = iter(sources.PAUSES_S)
        while True:
            before = length(self.part)
            try:
                self.receive()
                return
            except (Unreachable, Busy):
                if length(self.part) > before:
                    pauses = iter(sources.PAUSES_S)
                pause = next(pauses, None)
                if pause is None or self.stop.wait(pause):
                    raise

    def receive(self) -> None:
        """Append what is lacking (HTTP Range), or write all anew where the server insists."""
        start, mark = self.resumable()
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if mark:
                headers["If-Range"] = mark
        timeout = sources.TIMEOUT_S
        with (
            translated(),
            requests.get(self.url, headers=headers, stream=True, timeout=timeout) as answer,
        ):
            reach = answer.headers.get("Content-Range", "")
            if answer.status_code == 416 and reach.endswith(f"/{start}"):
                return  # All of it is here already.
            if answer.status_code == 416 or (
                answer.status_code == 206 and not reach.startswith(f"bytes {start}-")
            ):
                self.part.unlink(missing_ok=True)
                raise Unreachable("does not continue a download")
            answer.raise_for_status()
            if answer.headers.get("Content-Type", "").startswith("text/html"):
                raise NotThere("a web page, not the file")
            continued = answer.status_code == 206
            total = self.announced(answer, start if continued else 0)
            etag = answer.headers.get("ETag", "W/")
            mark = answer.headers.get("Last-Modified") if etag.startswith("W/") else etag
            write_json(self.note, {"url": self.url, "mark": mark})
            with self.part.open("ab" if continued else "wb") as file:
                for block in answer.iter_content(BLOCK):
                    self.write(file, block)
                file.flush()
                os.fsync(file.fileno())
        if total is not None and length(self.part) < total:
            raise Unreachable("connection broke off")

    def announced(self, answer: requests.Response, start: int) -> int | None:
        """Bytes of the whole file as the answer states them, if it does; they must fit."""
        stated = answer.headers.get("Content-Length", "")
        if not stated.isdigit() or "Content-Encoding" in answer.headers:
            return None
        total = start + int(stated)
        if self.archive.bytes not in (None, total):
            raise NotThere(f"offers {total} bytes, expected {self.archive.bytes}")
        if total - length(self.part) > shutil.disk_usage(self.part.parent).free:
            raise OSError(errno.ENOSPC, "No space left on device")
        return total

    def write(self, file, block: bytes) -> None:
        """Write one block, unless the fetch was stopped or the server does not stop."""
        if self.stop.is_set():
            raise Unreachable("stopped")
        file.write(block)
        if file.tell() > (self.archive.bytes or MOST_TOTAL_BYTES):
            self.part.unlink()
            raise NotThere("sends more than the archive holds")
        self.arrived()

    def resumable(self) -> tuple[int, str | None]:
        """How many bytes need not come again, and the mark of the file they are of.

        Bytes of another address, or of a file without a mark, are continued only where a
        published hash will judge the whole.
        """
        mark = None
        try:
            origin = read_json(self.note)
            if origin["url"] == self.url:
                mark = origin["mark"]
        except (UserError, OSError, KeyError, TypeError):
            pass
        if mark or self.archive.sha256 or self.archive.md5:
            return length(self.part), mark
        return 0, None

    def receive_from_drive(self) -> None:
        """Download a file of Google Drive, past its virus-scan page; gdown resumes by itself."""
        try:
            import gdown
        except ImportError:
            raise NotThere("Google Drive needs gdown: pip install 'wbc-shift[drive]'") from None
        output = self.target.with_name(f"{self.target.name}.drive")
        try:
            with translated():
                gdown.download(
                    id=self.url.removeprefix(DRIVE),
                    output=str(output),
                    quiet=True,
                    use_cookies=False,
                    resume=True,
                    timeout=sources.TIMEOUT_S,
                    cancel=self.stop,
                )
        except (gdown.DownloadError, gdown.DownloadCancelled) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise NotThere(f"Google Drive: {first}") from None
        output.replace(self.part)
