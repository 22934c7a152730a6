"""Unpack an archive that nobody vouches for into one new folder, or say in one line why not.

Only plain files at plain relative paths are written, within bounds of number, size and compression
ratio, into a temporary folder that gets its name once everything is in it.
"""

from __future__ import annotations

import errno
import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Literal

from benchmark.errors import suggest
from benchmark.files import cannot_write, temporary_beside
from benchmark.progress import track

MOST_MEMBERS = 500_000
MOST_MEMBER_BYTES = 2 * 2**30
MOST_TOTAL_BYTES = 64 * 2**30
MOST_DEPTH = 32
"""Folders in one another; published sets stay below 8."""
MOST_NAME_BYTES = 255
"""Of one part of a path: what file systems take."""
MOST_RATIO = 200
"""Unpacked over packed bytes; deflate reaches 1,032 on zeros, published images stay below 30."""
RATIO_FROM_BYTES = 256 * 2**20
"""Below this the ratio does not count: a folder of binary masks may well shrink 300-fold."""
LEFT_OUT = "__MACOSX"
"""Shadow copies of every file, which a reader of class folders would take for images."""

ZIP = (".zip",)
TAR = (".tar",)
TAR_GZ = (".tar.gz", ".tgz")
BY_HAND = (".rar", ".7z")
"""What no well-kept library without a foreign program opens."""

DAMAGED = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    tarfile.TarError,  # tarfile's refusals of links and escapes among them
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    ValueError,
    LookupError,
    RuntimeError,
    struct.error,
)
UNREADABLE = (None, errno.EINVAL)
"""Error numbers of reading an archive: gzip's own error has none, and a damaged directory has
places sought that are none. Others are of the disk."""


class Refused(Exception):
    """Why an archive was not unpacked; nothing of it was kept."""


def is_archive(name: str) -> bool:
    """Whether a file of this name is unpacked; any other is placed as it is."""
    return name.lower().endswith(ZIP + TAR + TAR_GZ)


def opening_fault(file: Path, name: str) -> str | None:
    """Why the file cannot be what its name says, from a glance at its bytes; else None."""
    with file.open("rb") as opened:
        head = opened.read(512)
        opened.seek(max(0, file.stat().st_size - 1024))
        tail = opened.read()
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<head")):
        return "a web page, not the file: an error or log-in page saved under its name"
    name = name.lower()
    if name.endswith(ZIP) and not zipfile.is_zipfile(file):
        return "truncated zip" if head.startswith(b"PK") else "not a zip"
    if name.endswith(TAR_GZ) and not head.startswith(b"\x1f\x8b"):
        return "not gzip-compressed"
    # Two empty blocks end a tar; without them it could stop between two members unseen.
    if name.endswith(TAR) and (len(tail) < 1024 or any(tail)):
        return "truncated, or not a tar"
    return None


@dataclass(frozen=True)
class Member:
    """What a zip or a tar says of one of its files or folders.

    Attributes:
        size, packed: its bytes, and its bytes in the archive where they are stated.
    """

    name: str
    kind: Literal["file", "folder", "other"]
    size: int
    packed: int | None
    open: Callable[[], IO[bytes]]


def unpack(file: Path, folder: Path, take: str = "") -> int:
    """Unpack `file` into `folder`, which must not exist yet: whole, or not at all.

    Args:
        take: folder inside the archive whose content is unpacked, without its own name; empty:
            everything.

    Returns:
        Number of files written.

    Raises:
        Refused: a path that is absolute or leads out, a link or device, a name given twice, too
            many or too large members, a bomb, a damaged, truncated or encrypted archive, no such
            folder `take`.
        UserError: the disk is full, or the folder cannot be written.
    """
    if why := opening_fault(file, file.name):
        raise Refused(why)
    admission = Admission(file.stat().st_size, take)
    try:
        with ExitStack() as stack:
            temporary = stack.enter_context(temporary_beside(folder, folder=True))
            if file.name.lower().endswith(ZIP):
                archive = stack.enter_context(zipfile.ZipFile(file))
                # A zip's directory states every size, so bounds come first.
                chosen = list(admission.admitted(zip_members(archive)))
                if sum(member.size for member, _ in chosen) > shutil.disk_usage(temporary).free:
                    raise OSError(errno.ENOSPC, "No space left on device")
            else:
                # A tar is read in one pass: a bound that breaks stops it there.
                mode = "r:gz" if file.name.lower().endswith(TAR_GZ) else "r:"
                archive = stack.enter_context(tarfile.open(file, mode))
                chosen = admission.admitted(tar_members(archive))
            for member, path in track(chosen, f"unpacking {file.name}"):
                target = temporary / path
                target.parent.mkdir(parents=True, exist_ok=True)
                # The standard library reads no more than the stated size, and checks a zip's CRC.
                with member.open() as source, target.open("xb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
            if not admission.files:
                raise Refused(admission.nothing())
            temporary.chmod(0o755)
            temporary.rename(folder)
    except DAMAGED as error:
        raise Refused(f"cannot be read: truncated or damaged ({error})") from None
    except OSError as error:
        if error.errno in UNREADABLE:
            raise Refused(f"cannot be read: truncated or damaged ({error})") from None
        raise cannot_write(folder, error) from error
    return len(admission.files)


def zip_members(archive: zipfile.ZipFile) -> Iterator[Member]:
    """The members of a zip, none of them encrypted."""
    for info in archive.infolist():
        plain = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR)
        kind = "other" if not plain else "folder" if info.is_dir() else "file"
        if plain and info.flag_bits & 1:
            raise Refused("encrypted")
        name = info.filename.removesuffix("/") if kind == "folder" else info.filename
        yield Member(name, kind, info.file_size, info.compress_size, partial(archive.open, info))


def tar_members(archive: tarfile.TarFile) -> Iterator[Member]:
    """The members of a tar, but for `.`, the folder itself."""
    for info in archive:
        kind = "folder" if info.isdir() else "file" if info.isreg() else "other"
        if (kind, info.name) != ("folder", "."):
            yield Member(info.name, kind, info.size, None, partial(archive.extractfile, info))


class Admission:
    """Decides member by member what may be written and where, and keeps the totals."""

    def __init__(self, packed_bytes: int, take: str) -> None:
        self.packed_bytes = packed_bytes
        self.take = take.strip("/")
        self.members = 0
        self.total = 0
        self.files: set[str] = set()
        self.folders: set[str] = set()
        self.tops: set[str] = set()

    def admitted(self, members: Iterable[Member]) -> Iterator[tuple[Member, str]]:
        """The files that are asked for, each with its path below the folder."""
        for member in members:
            if member.kind == "other":
                raise Refused(f"holds {shown(member.name)}, a link or device")
            if member.kind == "folder":
                self.parts(member.name)
            elif path := self.path(member.name, member.size, member.packed):
                yield member, path

    def path(self, name: str, size: int, packed: int | None) -> str | None:
        """Where a file is written below the folder; None if it is not asked for."""
        self.total += size
        if size > MOST_MEMBER_BYTES or self.total > MOST_TOTAL_BYTES:
            raise Refused(f"unpacks to more than is credible, at {shown(name)}")
        if exceeds(size, packed) or exceeds(self.total, self.packed_bytes):
            raise Refused(f"unpacks to over {MOST_RATIO} times its size, at {shown(name)}: a bomb")
        parts = self.parts(name)
        if parts[0] == LEFT_OUT:
            return None
        if self.take:
            taken = self.take.split("/")
            if parts[: len(taken)] != taken or len(parts) == len(taken):
                return None
            parts = parts[len(taken) :]
        path = "/".join(parts)
        above = {"/".join(parts[:k]) for k in range(1, len(parts))}
        if path in self.files or path in self.folders or above & self.files:
            raise Refused(f"holds {shown(name)} twice")
        self.files.add(path)
        self.folders |= above
        return path

    def parts(self, name: str) -> list[str]:
        """The parts of any member's name, a folder's too, each counted."""
        self.members += 1
        if self.members > MOST_MEMBERS:
            raise Refused(f"holds more than {MOST_MEMBERS} members")
        parts = plain_parts(name)
        self.tops.add(parts[0])
        return parts

    def nothing(self) -> str:
        """Why no file was admitted."""
        if self.take and self.tops:
            return f"holds no folder '{self.take}'{suggest(self.take, self.tops)}"
        return "holds no file"


def exceeds(size: int, packed: int | None) -> bool:
    """Whether so many bytes cannot honestly come from so few."""
    return packed is not None and size > RATIO_FROM_BYTES and size > MOST_RATIO * packed


def plain_parts(name: str) -> list[str]:
    """The parts of a relative path; a name that means another place, here or on Windows, is
    refused, not mended: an archive that holds one was not made by a publisher of images."""
    parts = [part for part in name.split("/") if part != "."]
    if ".." in parts:
        raise Refused(f"holds {shown(name)}, which leads out of its folder")
    if not all(parts) or not parts or "\\" in name or "\0" in name or ":" in parts[0]:
        raise Refused(f"holds {shown(name)}, which is no plain relative path")
    if len(parts) > MOST_DEPTH:
        raise Refused(f"holds {shown(name)}, {len(parts):,} folders deep")
    try:
        longest = max(len(part.encode()) for part in parts)
    except UnicodeEncodeError:
        raise Refused(f"holds {shown(name)}, a name that is not UTF-8") from None
    if longest > MOST_NAME_BYTES:
        raise Refused(f"holds {shown(name)}, a name of {longest:,} bytes")
    return parts


def shown(name: str) -> str:
    """A member's name as it may be printed: no control characters, not endless."""
    return repr(name if len(name) <= 80 else name[:77] + "...")
