"""Places an image can come from: a mirror folder or an address, both distrusted alike.

A source writes an image to its target whole and as the manifest states it, or not at all.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import pooch
import requests

from benchmark.files import atomic, sha256_file
from benchmark.progress import say

TIMEOUT_S = (10, 60)
"""Connecting, and waiting for the next bytes."""
PAUSES_S = (1.0, 4.0)
"""Before the second and the third attempt at one file."""
CONNECTION_PATIENCE = 5
"""Connection failures in a row before an address is given up: never 10,000 time-outs."""
ANSWER_PATIENCE = 50
"""Useless answers in a row (not found, busy, wrong content) before an address is given up."""
OF_THE_TARGET = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Error numbers of a disk that takes no more: no source is to blame, and no other one helps."""
NAMED = 3
"""Damaged files named per source; the rest is counted."""


class SourceError(Exception):
    """Why a source did not give a file."""


class Unreachable(SourceError):
    """No answer, or one that broke off: worth another attempt."""


class Busy(SourceError):
    """The address says later (too many requests, server error): worth another attempt."""


class NotThere(SourceError):
    """The address answers, but has no such file."""


class Unusable(SourceError):
    """What came is not the published file."""


@contextmanager
def translated() -> Iterator[None]:
    """Tell requests' errors apart as this module does. Whoever writes a file must not see them:
    they are OSErrors, which `atomic` takes for a disk that cannot be written."""
    try:
        yield
    except requests.HTTPError as error:
        status = error.response.status_code
        if status == 429 or status >= 500:
            raise Busy(f"HTTP {status}") from None
        raise NotThere(f"HTTP {status}") from None
    except requests.Timeout:
        raise Unreachable("timed out") from None
    except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError):
        raise Unreachable("connection broke off") from None
    except requests.RequestException as error:
        known = isinstance(error, requests.ConnectionError)
        raise Unreachable("no connection" if known else type(error).__name__) from None


@dataclass(frozen=True)
class Expected:
    """One image as the manifest states it; an empty hash or no size means not published."""

    path: str
    sha256: str
    size: int | None


def fault(image: Expected, file: Path) -> str | None:
    """Why `file` is not the image the manifest states, or None: size first, for it is cheap."""
    try:
        size = file.stat().st_size
        if not file.is_file():
            return "not a file"
        if size == 0 or image.size not in (None, size):
            return f"expected {image.size or 'some'} bytes, found {size}"
        found = sha256_file(file) if image.sha256 else ""
    except (FileNotFoundError, NotADirectoryError):
        return "not there"
    except OSError as error:
        return error.strerror or str(error)
    if found != image.sha256:
        return f"expected sha256 {image.sha256[:16]}…, found {found[:16]}…"
    return None


class Source:
    """A place of single images: it counts those that are damaged there, and names the first."""

    def __init__(self, where: str, verb: str) -> None:
        self.where = where
        self.verb = verb  # how its images come, for the report
        self.damaged = 0
        self.lock = threading.Lock()

    def get(self, image: Expected, target: Path) -> bool:
        """Write one image to `target`, whole and as the manifest states it, or return False."""
        raise NotImplementedError

    def report(self, image: Expected, why: SourceError) -> None:
        """Say that an image is damaged; beyond the first ones, only that there are more."""
        with self.lock:
            self.damaged += 1
            count = self.damaged
        if count <= NAMED:
            say(f"{self.where}: {image.path}: {why}: damaged or changed there, not used")
        elif count == NAMED + 1:
            say(f"{self.where}: more such files, not named")

    def outcome(self) -> str:
        """What became of this source, for the error line."""
        damaged = f"{self.damaged} not matching the manifest" if self.damaged else ""
        return f"{self.where} ({damaged or self.why_not()})"

    def why_not(self) -> str:
        """Why it did not give an image."""
        raise NotImplementedError


class Mirror(Source):
    """A local folder. Files are copied, not linked, so that nobody's mirror is ever changed."""

    def __init__(
        self, folder: Path, verb: Literal["copied", "unpacked"] = "copied", name: str = "mirror"
    ) -> None:
        super().__init__(f"{name} {folder}", verb)
        self.folder = folder

    def get(self, image: Expected, target: Path) -> bool:
        file = self.folder / image.path
        if not os.path.isfile(file):
            return False
        try:
            with atomic(target) as temporary:
                try:
                    shutil.copyfile(file, temporary)
                except OSError as error:
                    # A copy that fails midway bears the name of what is read, whatever failed.
                    if error.filename == str(file) and error.errno not in OF_THE_TARGET:
                        raise Unusable(error.strerror or str(error)) from None
                    raise
                if why := fault(image, temporary):
                    raise Unusable(why)
        except Unusable as error:
            self.report(image, error)
            return False
        return True

    def why_not(self) -> str:
        return "lacks them" if self.folder.is_dir() else "no such folder"


class Address(Source):
    """One URL prefix. Given up after failures in a row; threads share it."""

    def __init__(self, prefix: str, stop: threading.Event) -> None:
        super().__init__(prefix, "downloaded")
        self.stop = stop
        self.silent = 0
        self.useless = 0
        self.last = "not tried"
        self.download = pooch.HTTPDownloader(timeout=TIMEOUT_S, chunk_size=1 << 16)

    def get(self, image: Expected, target: Path) -> bool:
        for pause in (*PAUSES_S, None):
            if self.given_up() or self.stop.is_set():
                return False
            try:
                with atomic(target) as temporary:
                    self.receive(image, temporary)
                    if why := fault(image, temporary):
                        raise Unusable(why)
            except (Unreachable, Busy) as error:
                self.note("silent" if isinstance(error, Unreachable) else "useless", str(error))
                if pause is not None:
                    self.stop.wait(pause)
                continue
            except NotThere as error:
                self.note("useless", str(error))
                return False
            except Unusable as error:
                self.note("useless", "wrong content")
                self.report(image, error)
                return False
            self.note("good", self.last)
            return True
        return False

    def receive(self, image: Expected, temporary: Path) -> None:
        with translated():
            self.download(self.where + quote(image.path), str(temporary), None)

    def note(self, answer: Literal["silent", "useless", "good"], last: str) -> None:
        """Count failures in a row: any answer ends a silence, a good one ends both."""
        with self.lock:
            self.last = last
            self.silent = self.silent + 1 if answer == "silent" else 0
            if answer != "silent":
                self.useless = self.useless + 1 if answer == "useless" else 0

    def given_up(self) -> bool:
        """Whether this address failed too often in a row to be asked again in this fetch."""
        return self.silent >= CONNECTION_PATIENCE or self.useless >= ANSWER_PATIENCE

    def why_not(self) -> str:
        return self.last
