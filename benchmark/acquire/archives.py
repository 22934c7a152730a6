"""The published archives of a card, downloaded, checked and unpacked.

An archive is taken where it lies (`archives/<folder>/<file>` below `datasets/raw/` or a mirror's
root), else downloaded from its addresses in turn, and checked before it is opened. A download goes
on where it broke off: what has come lies in `<file>.part`; `<file>.part.json` says which address it
is of, and the mark (ETag or date) by which that address tells whether the file is still the same.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue

import requests
from filelock import FileLock

from benchmark.acquire import sources
from benchmark.acquire.sources import (
    Busy,
    NotThere,
    SourceError,
    Unreachable,
    Unusable,
    translated,
)
from benchmark.acquire.unpack import (
    BY_HAND,
    MOST_TOTAL_BYTES,
    UNPACKED,
    Refused,
    opening_fault,
    unpack,
)
from benchmark.data.cards import Archive, Card, raw_folder
from benchmark.errors import UserError
from benchmark.files import atomic, cannot_write, read_json, sha256_file, write_json
from benchmark.progress import say, track

DOWNLOADS = 4
"""Archives downloaded at once: publishers' servers slow down those who ask for more."""
BLOCK = 1 << 20
DRIVE = "drive:"
"""Prefix of an address that is a file's identity on Google Drive."""


def archive_home(root: Path, card: Card) -> Path:
    """Where a card's archives lie below `datasets/raw/` or a mirror's root: sets that share a
    folder come from one archive."""
    return root / "archives" / Path(card.folder).parts[0]


@contextmanager
def unpacked(
    datasets: Path, card: Card, mirror: Path | None, offline: bool, tried: list[str]
) -> Iterator[list[Path]]:
    """Give a folder per archive that could be had, laid out as the card's own folder.

    The folders are temporary: whoever wants a file copies or moves it. Archives stay.

    Args:
        tried: receives a line part per archive that could not be had or was refused.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    home = archive_home(datasets / "raw", card)
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(home, error) from error
    with FileLock(home / ".lock"):
        staging = home / "unpacking"
        shutil.rmtree(staging, ignore_errors=True)
        try:
            found = obtain_all(card, home, mirror, offline, tried)
            folders = []
            for number, (archive, file) in enumerate(found):
                if file.name.lower().endswith(BY_HAND):
                    place = raw_folder(datasets, card) / archive.folder
                    tried.append(f"{file} (whole: unpack it by hand into {place})")
                    continue
                folder = staging / str(number)
                if not (archive.bytes or archive.sha256 or archive.md5):
                    say(f"{file}: no size or hash is published: only its content is checked")
                try:
                    if file.name.lower().endswith(UNPACKED):
                        unpack(file, folder / archive.folder, archive.take)
                    else:
                        with atomic(folder / archive.folder / file.name) as temporary:
                            shutil.copyfile(file, temporary)
                except Refused as why:
                    tried.append(f"{file} ({why}: refused; delete it to download it again)")
                    continue
                folders.append(folder)
            yield folders
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def obtain_all(
    card: Card, home: Path, mirror: Path | None, offline: bool, tried: list[str]
) -> list[tuple[Archive, Path]]:
    """Every archive of a card that can be had, whole and checked; several are loaded at once."""
    stop = threading.Event()
    blocks: SimpleQueue[None] = SimpleQueue()
    places = [home] if mirror is None else [home, archive_home(mirror, card)]
    pool = ThreadPoolExecutor(DOWNLOADS)
    futures = [
        pool.submit(obtain, archive, places, offline, stop, lambda: blocks.put(None))
        for archive in card.archives
    ]
    sizes = [archive.bytes for archive in card.archives]
    total = sum(sizes) // BLOCK if all(sizes) else None
    found = []
    try:
        for _ in track(arrivals(blocks, futures), f"downloading {card.name} (MiB)", total):
            pass
        for archive, future in zip(card.archives, futures, strict=True):
            try:
                found.append((archive, future.result()))
            except SourceError as why:
                tried.append(f"{archive.file}: {why}")
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
    return found


def arrivals(blocks: SimpleQueue[None], futures: list[Future[Path]]) -> Iterator[None]:
    """One item per block that arrived, until every download has ended."""
    while not (all(future.done() for future in futures) and blocks.empty()):
        try:
            blocks.get(timeout=0.05)
        except Empty:
            continue
        yield


def obtain(
    archive: Archive,
    places: list[Path],
    offline: bool,
    stop: threading.Event,
    arrived: Callable[[], None],
) -> Path:
    """The whole archive, checked: as it lies in one of the places, else downloaded to the first.

    Raises:
        SourceError: it is nowhere to be had whole; says what was tried.
    """
    tried = []
    for file in (folder / archive.file for folder in places):
        if file.is_file():
            if (why := archive_fault(archive, file)) is None:
                return file
            tried.append(f"{file} ({why})")
    for url in () if offline else archive.urls:
        if stop.is_set():
            break
        try:
            Download(archive, url, places[0] / archive.file, stop, arrived).run()
        except SourceError as error:
            tried.append(f"{url} ({error})")
            continue
        return places[0] / archive.file
    if offline or not archive.urls:
        tried.append("no address: offline" if offline else "no address: by hand only")
    raise SourceError(", ".join(tried))


def archive_fault(archive: Archive, file: Path) -> str | None:
    """Why `file` is not the published archive, or None; nothing is unpacked for this."""
    if why := opening_fault(file, archive.file):
        return why
    size = file.stat().st_size
    if archive.bytes not in (None, size):
        return f"expected {archive.bytes} bytes, found {size}"
    if archive.sha256 and (found := sha256_file(file)) != archive.sha256:
        return f"expected sha256 {archive.sha256[:16]}…, found {found[:16]}…"
    if archive.md5:  # what Zenodo publishes
        with file.open("rb") as content:
            found = hashlib.file_digest(content, "md5").hexdigest()
        if found != archive.md5:
            return f"expected md5 {archive.md5}, found {found}"
    return None


def length(file: Path) -> int:
    """Bytes of a file; 0 if there is none."""
    return file.stat().st_size if file.exists() else 0


class Download:
    """One archive from one address to `target`; `arrived` is called once a block."""

    def __init__(
        self,
        archive: Archive,
        url: str,
        target: Path,
        stop: threading.Event,
        arrived: Callable[[], None],
    ) -> None:
        self.archive, self.url, self.target = archive, url, target
        self.stop, self.arrived = stop, arrived
        self.part = target.with_name(f"{target.name}.part")
        self.note = target.with_name(f"{target.name}.part.json")

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
                return self.receive()
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
        with (
            translated(),
            requests.get(
                self.url, headers=headers, stream=True, timeout=sources.TIMEOUT_S
            ) as answer,
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
