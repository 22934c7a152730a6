"""Published archives → folders of their content; an archive is checked before it is opened.

An archive is taken where it lies (`archives/<folder>/<file>` below `datasets/raw/` or a mirror's
root), else downloaded from its addresses in turn, going on where a download broke off.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue

from filelock import FileLock

from benchmark.data.cards import Archive, Card
from benchmark.data.downloads import BLOCK, Download, archive_fault
from benchmark.data.sources import Busy, NotThere, Unreachable, Unusable
from benchmark.data.unpack import BY_HAND, Refused, is_archive, unpack
from benchmark.files import atomic, cannot_write
from benchmark.progress import say, track

DOWNLOADS = 4
"""Archives downloaded at once: publishers' servers slow down those who ask for more."""


class Unobtainable(Exception):
    """What was tried for one archive, in words."""


def archive_home(root: Path, card: Card) -> Path:
    """Where a card's archives lie below `datasets/raw/` or a mirror's root: sets that share a
    folder come from one archive."""
    return Path(root) / "archives" / Path(card.folder).parts[0]


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
    home = archive_home(Path(datasets) / "raw", card)
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
                    place = Path(datasets) / "raw" / card.folder / archive.folder
                    tried.append(f"{file} (whole: unpack it by hand into {place})")
                    continue
                folder = staging / str(number)
                if not (archive.bytes or archive.sha256 or archive.md5):
                    say(f"{file}: no size or hash is published: only its content is checked")
                try:
                    open_archive(file, folder / archive.folder, archive.take)
                except Refused as why:
                    tried.append(f"{file} ({why}: refused; delete it to download it again)")
                    continue
                folders.append(folder)
            yield folders
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def open_archive(file: Path, folder: Path, take: str) -> None:
    """Unpack an archive into a new folder; a file that is none is copied into it."""
    if is_archive(file.name):
        unpack(file, folder, take)
        return
    with atomic(folder / file.name) as temporary:
        shutil.copyfile(file, temporary)


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
            except Unobtainable as why:
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
        Unobtainable: nowhere to be had whole.
    """
    tried = []
    for file in (folder / archive.file for folder in places):
        if file.is_file():
            why = archive_fault(archive, file)
            if why is None:
                return file
            tried.append(f"{file} ({why})")
    for url in () if offline else archive.urls:
        if stop.is_set():
            break
        try:
            Download(archive, url, places[0] / archive.file, stop, arrived).run()
        except (Unreachable, Busy, NotThere, Unusable) as error:
            tried.append(f"{url} ({error})")
            continue
        return places[0] / archive.file
    if offline or not archive.urls:
        tried.append("no address: offline" if offline else "no address: by hand only")
    raise Unobtainable(", ".join(tried))
