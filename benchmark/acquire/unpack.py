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
from functools import partial
from pathlib import Path
from typing import IO, Literal, NamedTuple

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
UNPACKED = ZIP + TAR + TAR_GZ
"""Any other file is placed as it is."""
BY_HAND = (".rar", ".7z")
"""What no well-kept library without a foreign program opens."""

DAMAGED = (zipfile.BadZipFile, zipfile.LargeZipFile, tarfile.TarError, zlib.error, struct.error)
DAMAGED += (lzma.LZMAError, EOFError, NotImplementedError, ValueError, LookupError, RuntimeError)
"""What the standard library raises of damaged archives."""
UNREADABLE = (None, errno.EINVAL)
"""Error numbers of reading an archive: gzip's own error has none, and a damaged directory has
places sought that are none. Others are of the disk."""


class Refused(Exception):
    """Why an archive was not unpacked; nothing of it was kept."""


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


class Member(NamedTuple):
    """What a zip or a tar says of one of its files or folders."""

    name: str
    kind: Literal["file", "folder", "other"]
    size: int
    packed: int | None
    """Its bytes in the archive, where they are stated."""
    open: Callable[[], IO[bytes]]


def unpack(file: Path, folder: Path, take: str = "") -> None:
    """Unpack `file` into `folder`, which must not exist yet: whole, or not at all.

    Args:
        take: folder inside the archive whose content is unpacked, without its own name; empty:
            everything.

    Raises:
        Refused: a path that is absolute or leads out, a link or device, a name given twice, too
            many or too large members, a bomb, a damaged, truncated or encrypted archive, no such
            folder `take`.
        UserError: the disk is full, or the folder cannot be written.
    """
    if why := opening_fault(file, file.name):
        raise Refused(why)
    packed = file.stat().st_size
    try:
        with ExitStack() as stack:
            temporary = stack.enter_context(temporary_beside(folder, folder=True))
            if file.name.lower().endswith(ZIP):
                archive = stack.enter_context(zipfile.ZipFile(file))
                # A zip's directory states every size, so bounds come first.
                chosen = list(admitted(zip_members(archive), packed, take))
                if sum(member.size for member, _ in chosen) > shutil.disk_usage(temporary).free:
                    raise OSError(errno.ENOSPC, "No space left on device")
            else:
                # A tar is read in one pass: a bound that breaks stops it there.
                mode = "r:gz" if file.name.lower().endswith(TAR_GZ) else "r:"
                archive = stack.enter_context(tarfile.open(file, mode))
                chosen = admitted(tar_members(archive), packed, take)
            for member, path in track(chosen, f"unpacking {file.name}"):
                target = temporary / path
                target.parent.mkdir(parents=True, exist_ok=True)
                # The standard library reads no more than the stated size, and checks a zip's CRC.
                with member.open() as source, target.open("xb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
            temporary.chmod(0o755)
            temporary.rename(folder)
    except DAMAGED as error:
        raise Refused(f"cannot be read: truncated or damaged ({error})") from None
    except OSError as error:
        if error.errno in UNREADABLE:
            raise Refused(f"cannot be read: truncated or damaged ({error})") from None
        raise cannot_write(folder, error) from error


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


def admitted(members: Iterable[Member], packed: int, take: str) -> Iterator[tuple[Member, str]]:
    """The files that are asked for, each with its path below the folder.

    Args:
        packed: bytes of the archive.

    Raises:
        Refused: as `unpack`, but for damage.
    """
    taken = [part for part in take.split("/") if part]
    total = 0
    files: set[str] = set()
    folders: set[str] = set()
    tops: set[str] = set()
    for number, member in enumerate(members, start=1):
        name = shown(member.name)
        if member.kind == "other":
            raise Refused(f"holds {name}, a link or device")
        if number > MOST_MEMBERS:
            raise Refused(f"holds more than {MOST_MEMBERS} members")
        total += member.size
        if member.size > MOST_MEMBER_BYTES or total > MOST_TOTAL_BYTES:
            raise Refused(f"unpacks to more than is credible, at {name}")
        if exceeds(member.size, member.packed) or exceeds(total, packed):
            raise Refused(f"unpacks to over {MOST_RATIO} times its size, at {name}: a bomb")
        parts = plain_parts(member.name)
        tops.add(parts[0])
        below = parts[len(taken) :]
        if member.kind == "folder" or parts[0] == LEFT_OUT or parts[: len(taken)] != taken:
            continue
        path, above = "/".join(below), {"/".join(below[:k]) for k in range(1, len(below))}
        if path in files or path in folders or above & files:
            raise Refused(f"holds {name} twice")
        if path:
            files.add(path)
            folders |= above
            yield member, path
    if not files:
        no_folder = f"holds no folder '{take}'{suggest(take, tops)}"
        raise Refused(no_folder if taken and tops else "holds no file")


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
