"""Archives: downloaded whole or not at all, checked before they are opened, unpacked safely.

The network is a server on 127.0.0.1 that can misbehave; archives are made here, hostile ones too.
"""

from __future__ import annotations

import errno
import hashlib
import io
import random
import shutil
import socket
import stat
import sys
import tarfile
import threading
import types
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.sets import (
    BODY,
    IMAGES,
    PAGE,
    FileServer,
    cut,
    damaged,
    make_datasets,
    placed,
    published,
    refusal,
    unlisted,
    with_archives,
    zipped,
)

from benchmark.acquire import archives, sources, unpack
from benchmark.acquire.archives import obtain
from benchmark.acquire.fetch import fetch
from benchmark.acquire.sources import SourceError
from benchmark.acquire.unpack import Refused
from benchmark.data.cards import Archive
from benchmark.errors import UserError

PNG = b"\x89PNG\r\n" + bytes(range(256)) * 20


def zip_member(name: str, content: bytes = PNG, mode: int = 0, flags: int = 0) -> bytes:
    """A zip of one member with this name and Unix mode, however strange."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        member = zipfile.ZipInfo("placeholder")
        member.filename = name
        member.create_system = 3
        member.external_attr = mode << 16
        archive.writestr(member, content, zipfile.ZIP_DEFLATED)
    content = buffer.getvalue()
    if flags:
        where = content.index(b"PK\x01\x02") + 8
        content = content[:where] + bytes([content[where] | flags]) + content[where + 1 :]
    return content


def tarred(
    files: dict[str, bytes],
    kind: bytes = tarfile.REGTYPE,
    link: str = "",
    mode: str = "w:",
    **how: int,
) -> bytes:
    """A tar of members of one kind."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, **how) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            member.size = len(content) if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def everything(folder: Path) -> dict[str, bytes | None]:
    """Path → content of all that lies below a folder; None for what is no file."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


# ------------------------------------------------------------------ unpacking

TREE = {"a/one.png": PNG, "a/Größe µm/细胞.png": PNG[::-1], "b/two.png": b"2"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("set.zip", zipped(TREE)),
        ("set.tar", tarred(TREE)),
        ("set.tar.gz", tarred(TREE, mode="w:gz")),
        ("SET.TGZ", tarred({f"./{name}": content for name, content in TREE.items()}, mode="w:gz")),
    ],
)
def test_an_archive_is_unpacked_as_it_is_names_beyond_ascii_included(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    unpack.unpack(tmp_path / name, tmp_path / "out")
    assert {p: c for p, c in everything(tmp_path / "out").items() if c is not None} == TREE
    assert {path.name for path in tmp_path.iterdir()} == {name, "out"}


@pytest.mark.parametrize(("name", "make"), [("x.zip", zipped), ("x.tar", tarred)])
def test_only_the_content_of_the_folder_asked_for_is_taken(tmp_path, name, make):
    (tmp_path / name).write_bytes(make({f"repo-1/data/{n}": c for n, c in TREE.items()}))
    unpack.unpack(tmp_path / name, tmp_path / "out", "repo-1/data/a/")
    found = {p: c for p, c in everything(tmp_path / "out").items() if c is not None}
    assert found == {"one.png": PNG, "Größe µm/细胞.png": PNG[::-1]}
    with pytest.raises(Refused, match="holds no folder 'repo-2/data'"):
        unpack.unpack(tmp_path / name, tmp_path / "other", "repo-2/data")
    assert not (tmp_path / "other").exists()


def test_the_shadow_files_of_a_mac_are_left_out(tmp_path):
    (tmp_path / "x.zip").write_bytes(zipped({"a/1.png": PNG, "__MACOSX/a/._1.png": b"x"}))
    unpack.unpack(tmp_path / "x.zip", tmp_path / "out")
    assert set(everything(tmp_path / "out")) == {"a", "a/1.png"}


def lying_size(content: bytes, size: int) -> bytes:
    """A zip whose directory states another unpacked size than the data has."""
    where = content.rindex(b"PK\x01\x02") + 24
    return content[:where] + size.to_bytes(4, "little") + content[where + 4 :]


def misplaced(content: bytes) -> bytes:
    """A zip whose end states another place of its directory."""
    where = content.rindex(b"PK\5\6") + 16
    return content[:where] + (2**31).to_bytes(4, "little") + content[where + 4 :]


ZEROS = bytes(4 * 2**20)
NOISE = bytes(hashlib.shake_256(b"noise").digest(4096))
OUTSIDE = "leads out of its folder"
STRANGE = "no plain relative path"
LINK = "a link or device"

HOSTILE: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "zip with ../": ("x.zip", lambda: zip_member("../out.png"), OUTSIDE),
    "zip with ../ inside": ("x.zip", lambda: zip_member("a/../../out.png"), OUTSIDE),
    "zip with a folder ../": ("x.zip", lambda: zip_member("../out/"), OUTSIDE),
    "zip with /": ("x.zip", lambda: zip_member("/tmp/out.png"), STRANGE),
    "zip with //": ("x.zip", lambda: zip_member("a//out.png"), STRANGE),
    "zip with C:": ("x.zip", lambda: zip_member("C:/out.png"), STRANGE),
    "zip with backslashes": ("x.zip", lambda: zip_member("..\\out.png"), STRANGE),
    "zip symlink": ("x.zip", lambda: zip_member("a", b"/etc", stat.S_IFLNK | 0o777), LINK),
    "zip device": ("x.zip", lambda: zip_member("a", b"", stat.S_IFCHR | 0o666), LINK),
    "zip fifo": ("x.zip", lambda: zip_member("a", b"", stat.S_IFIFO | 0o666), LINK),
    "zip encrypted": ("x.zip", lambda: zip_member("a", PNG, flags=1), "encrypted"),
    "zip file and folder": ("x.zip", lambda: zipped({"a": PNG, "a/b": PNG}), "'a/b' twice"),
    "zip folder and file": ("x.zip", lambda: zipped({"a/b": PNG, "a": PNG}), "'a' twice"),
    "zip truncated": ("x.zip", lambda: cut(zipped(TREE)), "truncated zip"),
    "zip damaged": (
        "x.zip",
        lambda: zipped({"a": NOISE}).replace(NOISE[100:200], bytes(100)),
        "truncated or damaged",
    ),
    "zip short of data": (
        "x.zip",
        lambda: lying_size(zipped({"a": PNG}), len(PNG) - 50),
        "truncated or damaged",
    ),
    "zip bomb": ("x.zip", lambda: zip_member("a", ZEROS), "a bomb"),
    "zip said to be huge": (
        "x.zip",
        lambda: lying_size(zipped({"a": PNG}), 2**32 - 2),
        "more than is credible",
    ),
    "zip empty": ("x.zip", lambda: zipped({}), "holds no file"),
    "page as zip": ("x.zip", lambda: PAGE, "a web page"),
    "text as zip": ("x.zip", lambda: b"no zip at all" * 99, "not a zip"),
    "nothing as zip": ("x.zip", lambda: b"", "not a zip"),
    "tar with ../": ("x.tar", lambda: tarred({"../out.png": PNG}), OUTSIDE),
    "tar with a folder ../": ("x.tar", lambda: tarred({"../o": b""}, tarfile.DIRTYPE), OUTSIDE),
    "tar with /": ("x.tar", lambda: tarred({"/tmp/out.png": PNG}), STRANGE),
    "tar symlink": ("x.tar", lambda: tarred({"a": b""}, tarfile.SYMTYPE, "/etc"), LINK),
    "tar symlink inside": ("x.tar", lambda: tarred({"a": b""}, tarfile.SYMTYPE, "b"), LINK),
    "tar hard link": ("x.tar", lambda: tarred({"a": b""}, tarfile.LNKTYPE, "/etc/passwd"), LINK),
    "tar character device": ("x.tar", lambda: tarred({"a": b""}, tarfile.CHRTYPE), LINK),
    "tar block device": ("x.tar", lambda: tarred({"a": b""}, tarfile.BLKTYPE), LINK),
    "tar fifo": ("x.tar", lambda: tarred({"a": b""}, tarfile.FIFOTYPE), LINK),
    "tar truncated": ("x.tar", lambda: cut(tarred(TREE)), "truncated"),
    "tar cut between members": (
        "x.tar",
        lambda: tarred({"a": bytes(512) + b"1" * 512})[:1536],
        "truncated",
    ),
    "tgz truncated": ("x.tgz", lambda: cut(tarred({"a": NOISE}, mode="w:gz")), "truncated"),
    "tgz bomb": ("x.tgz", lambda: tarred({"a": ZEROS}, mode="w:gz"), "a bomb"),
    "tgz of good and bad": (
        "x.tgz",
        lambda: tarred({**TREE, "../../out.png": PNG}, mode="w:gz"),
        OUTSIDE,
    ),
    "zip 1,500 folders deep": ("x.zip", lambda: zip_member("a/" * 1500 + "b"), "folders deep"),
    "tar 1,500 folders deep": ("x.tar", lambda: tarred({"a/" * 1500 + "b": PNG}), "folders deep"),
    "zip with a long name": ("x.zip", lambda: zip_member("a" * 300), "a name of 300 bytes"),
    "zip with NUL": ("x.zip", lambda: zip_member("a\0b").replace(b"a\0b", b"\0ab"), "damaged"),
    "tar not UTF-8": (
        "x.tar",
        lambda: tarred({"c__lula.png": PNG}, format=tarfile.GNU_FORMAT).replace(b"__", b"\xe9\xe8"),
        "truncated or damaged",
    ),
    "zip whose directory lies elsewhere": (
        "x.zip",
        lambda: misplaced(zipped(TREE)),
        "truncated",
    ),
    "page as tar": ("x.tar", lambda: PAGE, "a web page"),
    "page as tgz": ("x.tar.gz", lambda: PAGE, "a web page"),
    "text as tgz": ("x.tgz", lambda: b"no gzip" * 99, "not gzip-compressed"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_is_refused_and_nothing_is_written_anywhere(tmp_path, monkeypatch, case):
    monkeypatch.setattr(unpack, "RATIO_FROM_BYTES", 2**20)
    name, make, told = HOSTILE[case]
    home = tmp_path / "very" / "deep"
    home.mkdir(parents=True)
    (home / name).write_bytes(make())
    before = everything(tmp_path)
    with pytest.raises(Refused) as caught:
        unpack.unpack(home / name, home / "out")
    assert told in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert everything(tmp_path) == before
    assert not Path("/tmp/out.png").exists()


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tgz"])
def test_d14_a_damaged_archive_is_refused_in_one_line_or_unpacked(tmp_path, name):
    """300 of each kind, bytes exchanged anywhere or the rest cut off; never a traceback."""
    make = {"x.zip": zipped, "x.tar": tarred, "x.tgz": lambda files: tarred(files, mode="w:gz")}
    whole = make[name]({path: content[:600] for path, content in TREE.items()})
    generator = random.Random(14)
    outcomes = Counter()
    for number in range(300):
        content = bytearray(whole)
        for _ in range(generator.randint(1, 12)):
            content[generator.randrange(len(content))] = generator.randrange(256)
        if generator.random() < 0.2:
            del content[generator.randrange(len(content)) :]
        (tmp_path / name).write_bytes(content)
        try:
            unpack.unpack(tmp_path / name, tmp_path / f"out{number}")
            outcomes["unpacked"] += 1
        except Refused as why:
            outcomes["refused"] += len(str(why).splitlines()) == 1
    assert outcomes.total() == 300
    assert outcomes["refused"] > 50
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith("out")}
    assert left == {name}


def test_d14_a_place_that_cannot_be_sought_is_damage_and_no_fault_of_the_disk(
    tmp_path, monkeypatch
):
    def lost(*_, **__):
        raise OSError(errno.EINVAL, "Invalid argument")

    (tmp_path / "x.zip").write_bytes(zipped(TREE))
    monkeypatch.setattr(zipfile.ZipFile, "open", lost)
    with pytest.raises(Refused, match="truncated or damaged"):
        unpack.unpack(tmp_path / "x.zip", tmp_path / "out")


@pytest.mark.parametrize(("name", "make"), [("x.zip", zipped), ("x.tar", tarred)])
@pytest.mark.parametrize(
    ("bound", "value", "told"),
    [
        ("MOST_MEMBERS", 2, "more than 2 members"),
        ("MOST_MEMBER_BYTES", 100, "more than is credible"),
        ("MOST_TOTAL_BYTES", len(PNG) + 5, "more than is credible"),
    ],
)
def test_number_and_sizes_are_bounded(tmp_path, monkeypatch, name, make, bound, value, told):
    monkeypatch.setattr(unpack, bound, value)
    (tmp_path / name).write_bytes(make(TREE))
    with pytest.raises(Refused, match=told):
        unpack.unpack(tmp_path / name, tmp_path / "out")
    assert everything(tmp_path).keys() == {name}


def test_masks_that_shrink_a_thousandfold_are_no_bomb(tmp_path):
    masks = {f"{k}.bmp": bytes(2**20) for k in range(20)}
    (tmp_path / "x.zip").write_bytes(zipped(masks))
    assert (tmp_path / "x.zip").stat().st_size * 500 < 20 * 2**20
    unpack.unpack(tmp_path / "x.zip", tmp_path / "out")
    assert everything(tmp_path / "out") == masks


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("name", "make"), [("x.zip", zipped), ("x.tar", tarred)])
def test_a_disk_that_fills_while_unpacking_leaves_nothing(tmp_path, monkeypatch, name, make):
    (tmp_path / name).write_bytes(make(TREE))
    monkeypatch.setattr(shutil, "copyfileobj", full_disk)
    with pytest.raises(UserError, match="disk full"):
        unpack.unpack(tmp_path / name, tmp_path / "out")
    assert everything(tmp_path).keys() == {name}


def test_a_zip_that_will_not_fit_is_not_begun(tmp_path, monkeypatch):
    (tmp_path / "x.zip").write_bytes(zipped(TREE))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="disk full"):
        unpack.unpack(tmp_path / "x.zip", tmp_path / "out")
    assert everything(tmp_path).keys() == {"x.zip"}


# ------------------------------------------------------------------ a server


@pytest.fixture
def serve(monkeypatch):
    """Start a server of these files; it ends with the test."""
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sources, "PAUSES_S", (0.01, 0.02))
    monkeypatch.setattr(archives, "BLOCK", 1 << 14)
    running: list[FileServer] = []

    def start(files: dict[str, bytes]) -> FileServer:
        running.append(FileServer(files))
        return running[-1]

    yield start
    for server in running:
        server.close()


@pytest.fixture
def server(serve) -> FileServer:
    return serve({"set.zip": BODY})


def got(archive: Archive, home: Path, *more: Path, offline: bool = False) -> Path:
    home.mkdir(exist_ok=True)
    return obtain(archive, [home, *more], offline, threading.Event(), lambda: None)


def lost(*arguments, **keywords) -> str:
    with pytest.raises(SourceError) as caught:
        got(*arguments, **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------ downloading


def test_an_archive_is_downloaded_and_leaves_no_part(server, tmp_path):
    assert got(published(server("good")), tmp_path / "home").read_bytes() == BODY
    assert everything(tmp_path / "home").keys() == {"set.zip"}
    assert server.ranges() == [None]


@pytest.mark.parametrize("content", [BODY, None])
def test_a_broken_download_goes_on_where_it_broke_off(server, tmp_path, content):
    file = got(published(server("break"), content=content), tmp_path / "home")
    assert file.read_bytes() == BODY
    (first, second) = server.ranges()
    begun = int(second.removeprefix("bytes=").removesuffix("-"))
    assert first is None
    # What of the last block had come is not kept.
    assert len(BODY) // 2 - archives.BLOCK < begun <= len(BODY) // 2
    assert server.sent == len(BODY) + len(BODY) // 2 - begun


def test_a_server_without_ranges_sends_it_anew(server, tmp_path):
    assert got(published(server("norange")), tmp_path / "home").read_bytes() == BODY
    assert server.sent == len(BODY) // 2 + len(BODY)


def test_a_file_that_changed_meanwhile_is_not_mixed_with_the_old_one(server, tmp_path):
    """Without a published hash only the server's own mark (ETag) can tell."""
    archive = published(server("other", "set.bin"), content=None, file="set.bin")
    server.files["set.bin"] = BODY
    assert got(archive, tmp_path / "home").read_bytes() == BODY[::-1]
    assert server.ranges()[1].startswith("bytes=")


def test_the_next_run_goes_on_from_another_address_if_a_hash_will_judge(server, tmp_path):
    home = tmp_path / "home"
    assert "connection broke off" in lost(published(server("half")), home)
    begun = (home / "set.zip.part").stat().st_size
    assert len(BODY) // 2 - archives.BLOCK < begun < len(BODY)
    assert got(published(server("good")), home).read_bytes() == BODY
    assert server.ranges()[-1] == f"bytes={begun}-"


def test_without_a_hash_another_address_begins_anew(server, tmp_path):
    home = tmp_path / "home"
    lost(published(server("half"), content=None), home)
    assert got(published(server("good"), content=None), home).read_bytes() == BODY
    assert server.ranges()[-1] is None


def test_a_wrong_part_is_thrown_away_once_the_hash_says_so(server, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/set.zip.part").write_bytes(b"junk" * 1000)
    assert got(published(server("good")), tmp_path / "home").read_bytes() == BODY
    assert server.ranges() == ["bytes=4000-", None]


def test_a_part_that_is_whole_already_is_not_sent_again(server, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/set.zip.part").write_bytes(BODY)
    assert got(published(server("good")), tmp_path / "home").read_bytes() == BODY
    assert server.sent == 0


def test_a_part_longer_than_the_archive_is_thrown_away(server, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/set.zip.part").write_bytes(BODY + b"more")
    assert got(published(server("good")), tmp_path / "home").read_bytes() == BODY


WRONG = {
    "404": ("404", {}, "HTTP 404"),
    "busy": ("503", {}, "HTTP 503"),
    "page": ("page", {}, "a web page, not the file"),
    "page under another kind, unsized": ("sly", {"bytes": None}, "a web page, not the file"),
    "announced size": ("short", {}, f"offers {len(BODY) // 2} bytes, expected {len(BODY)}"),
    "truncated": ("short", {"bytes": None}, "truncated zip"),
    "hash": ("changed", {}, "expected sha256 "),
    "md5": ("changed", {"sha256": None, "md5": "0" * 32}, "expected md5 0000"),
    "more than published": ("unsized", {"bytes": 1000}, "sends more than the archive holds"),
    "broken off": ("half", {}, "connection broke off"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_bad_answer_is_told_and_the_next_address_serves(server, tmp_path, case):
    behaviour, changes, told = WRONG[case]
    archive = published(server(behaviour), **changes)
    line = lost(archive, tmp_path / "home")
    assert line.startswith(f"{server(behaviour)} (")
    assert told in line
    assert not (tmp_path / "home/set.zip").exists()
    both = published(server(behaviour), server("good"))
    assert got(both, tmp_path / "home").read_bytes() == BODY


def test_what_is_not_the_archive_is_deleted_so_that_it_is_never_continued(server, tmp_path):
    lost(published(server("changed")), tmp_path / "home")
    assert everything(tmp_path / "home") == {}


def test_a_download_that_will_not_fit_is_not_begun(server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="disk full while writing"):
        got(published(server("good")), tmp_path / "home")
    assert everything(tmp_path / "home") == {}


def test_a_disk_that_fills_while_downloading_leaves_nothing_under_the_name(
    server, tmp_path, monkeypatch
):
    monkeypatch.setattr(archives.Download, "write", full_disk)
    with pytest.raises(UserError, match="disk full while writing"):
        got(published(server("good")), tmp_path / "home")
    assert not (tmp_path / "home/set.zip").exists()
    monkeypatch.undo()
    assert got(published(server("good")), tmp_path / "home").read_bytes() == BODY


def test_offline_asks_nobody_and_uses_what_is_there(server, tmp_path, monkeypatch):
    archive = published(server("good"))
    assert lost(archive, tmp_path / "home", offline=True) == "no address: offline"
    (tmp_path / "home/set.zip").write_bytes(damaged(BODY))
    assert "expected sha256" in lost(archive, tmp_path / "home", offline=True)
    (tmp_path / "home/set.zip").write_bytes(BODY)
    assert got(archive, tmp_path / "home", offline=True) == tmp_path / "home/set.zip"
    assert server.requests == []


def test_an_archive_in_the_mirror_is_used_where_it_lies(server, tmp_path):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "set.zip").write_bytes(BODY)
    assert got(published(server("good")), tmp_path / "home", mirror) == mirror / "set.zip"
    (mirror / "set.zip").write_bytes(cut(BODY))
    found = got(published(server("good")), tmp_path / "home", mirror)
    assert found == tmp_path / "home/set.zip"
    assert (mirror / "set.zip").read_bytes() == cut(BODY)


def test_a_fetch_that_is_stopped_keeps_what_came_and_asks_no_further_address(server, tmp_path):
    stop = threading.Event()
    archive = published(server("good"), server("good"), content=None)
    with pytest.raises(SourceError, match="stopped"):
        obtain(archive, [tmp_path], False, stop, stop.set)
    assert (tmp_path / "set.zip.part").stat().st_size == archives.BLOCK
    assert len(server.requests) == 1


def test_an_archive_without_address_is_placed_by_hand(tmp_path):
    assert lost(published(), tmp_path / "home") == "no address: by hand only"


# ------------------------------------------------------------------ Google Drive


def drive(monkeypatch, answer: bytes | str) -> list[dict]:
    """A stand-in for gdown that gives these bytes, or fails with this text."""
    calls: list[dict] = []
    module = types.ModuleType("gdown")
    module.DownloadError = type("DownloadError", (Exception,), {})
    module.DownloadCancelled = type("DownloadCancelled", (Exception,), {})

    def download(**keywords):
        calls.append(keywords)
        if isinstance(answer, str):
            raise module.DownloadError(answer)
        Path(keywords["output"]).write_bytes(answer)

    module.download = download
    monkeypatch.setitem(sys.modules, "gdown", module)
    return calls


def test_a_file_of_google_drive_is_checked_like_any_other(tmp_path, monkeypatch):
    calls = drive(monkeypatch, BODY)
    assert got(published("drive:1gk"), tmp_path / "home").read_bytes() == BODY
    assert calls[0]["id"] == "1gk"
    drive(monkeypatch, PAGE)
    assert "drive:1gk (a web page" in lost(published("drive:1gk"), tmp_path / "other")
    assert everything(tmp_path / "other") == {}


def test_google_drive_refuses_or_gdown_is_absent_in_one_line(server, tmp_path, monkeypatch):
    drive(monkeypatch, "Cannot retrieve the public link of the file.\nYou may need\n")
    line = lost(published("drive:1gk"), tmp_path / "home")
    assert line == "drive:1gk (Google Drive: Cannot retrieve the public link of the file.)"
    monkeypatch.setitem(sys.modules, "gdown", None)
    line = lost(published("drive:1gk"), tmp_path / "home")
    assert "pip install 'wbc-shift[drive]'" in line
    assert got(published("drive:1gk", server("good")), tmp_path / "home").read_bytes() == BODY


# ------------------------------------------------------------------ from archives to images


@pytest.fixture
def datasets(tmp_path) -> Path:
    """The `datasets/` folder of a project."""
    return make_datasets(tmp_path / "datasets")


SET = zipped(IMAGES, "repo-abc/images/")


def entry(*urls: str, content: bytes = SET, **changes) -> Archive:
    return published(*urls, content=content, take="repo-abc/images", **changes)


def test_images_come_from_an_archive_where_no_address_gives_them(datasets, serve):
    server = serve({"set.zip": SET})
    tiny = with_archives(entry(server("good")), addresses=(server("404", ""),))
    report = fetch(datasets, tiny, "all", None)
    assert (report.unpacked, report.downloaded) == (12, 0)
    assert str(report) == "tiny: 12 images (12 unpacked)"
    assert placed(datasets) == IMAGES
    home = datasets / "raw/archives/tiny"
    assert {path.name for path in home.iterdir()} == {".lock", "set.zip"}
    asked = len(server.requests)
    assert fetch(datasets, tiny, "all", None).kept == 12
    assert len(server.requests) == asked


def test_only_what_is_missing_is_taken_from_the_archive(datasets, serve):
    server = serve({"set.zip": SET})
    tiny = with_archives(entry(server("good")))
    assert fetch(datasets, tiny, "core", None).unpacked == 5
    assert len(placed(datasets)) == 5
    report = fetch(datasets, tiny, "all", None, offline=True)
    assert (report.kept, report.unpacked) == (5, 7)


def test_several_archives_each_fill_their_folder(datasets, serve):
    parts = {
        f"part{k}.zip": zipped({p[6:]: c for p, c in IMAGES.items() if p.startswith(f"Set {k}/")})
        for k in range(2)
    }
    server = serve(parts)
    tiny = with_archives(
        *(
            published(server("good", name), content=content, file=name, folder=f"Set {k}")
            for k, (name, content) in enumerate(parts.items())
        )
    )
    assert fetch(datasets, tiny, "all", None).unpacked == 12
    assert placed(datasets) == IMAGES


def test_an_image_in_the_archive_that_is_not_the_manifests_is_not_placed(datasets, serve):
    wrong = dict(IMAGES)
    wrong["Set 1/cell_3.png"] = damaged(wrong["Set 1/cell_3.png"])
    content = zipped(wrong, "repo-abc/images/")
    server = serve({"set.zip": content})
    tiny = with_archives(entry(server("good"), content=content))
    line = refusal(datasets, tiny, "all", None)
    assert "1 of 12 images are missing or damaged, first Set 1/cell_3.png" in line
    assert placed(datasets).keys() == IMAGES.keys() - {"Set 1/cell_3.png"}


def test_an_archive_without_published_hash_is_said_to_be_so_in_one_line(datasets, serve, capsys):
    server = serve({"set.zip": SET})
    tiny = with_archives(entry(server("good"), bytes=None, sha256=None))
    assert fetch(datasets, tiny, "all", None).unpacked == 12
    said = [line for line in capsys.readouterr().out.splitlines() if "published" in line]
    assert len(said) == 1
    assert "no size or hash is published: only its content is checked" in said[0]


def test_a_hostile_archive_costs_only_its_own_images(datasets, serve):
    good = zipped({p: c for p, c in IMAGES.items() if p.startswith("Set 0/")})
    bad = zip_member("../../out.png")
    server = serve({"good.zip": good, "bad.zip": bad})
    tiny = with_archives(
        published(server("good", "bad.zip"), content=bad, file="bad.zip"),
        published(server("good", "good.zip"), content=good, file="good.zip"),
    )
    before = {path for path in datasets.parent.rglob("*") if not path.is_relative_to(datasets)}
    line = refusal(datasets, tiny, "all", None)
    assert "6 of 12 images are missing or damaged" in line
    assert "bad.zip (holds '../../out.png', which leads out of its folder: refused" in line
    assert len(placed(datasets)) == 6
    assert not (datasets / "raw/archives/tiny/unpacking").exists()
    after = {path for path in datasets.parent.rglob("*") if not path.is_relative_to(datasets)}
    assert after == before


def test_what_to_place_by_hand_names_archives_and_folders(datasets, tmp_path):
    line = refusal(datasets, with_archives(entry()), "all", None)
    assert "set.zip: no address: by hand only" in line
    home = f"{datasets}/raw/archives/tiny"
    assert f"(archives unopened: set.zip in {home} or DIR/archives/tiny)" in line
    (datasets / "raw/archives/tiny/set.zip").write_bytes(SET)
    assert fetch(datasets, with_archives(entry()), "all", None).unpacked == 12


def test_an_archive_is_found_in_the_mirror_and_offline_needs_no_socket(
    datasets, tmp_path, monkeypatch
):
    home = tmp_path / "mirror/archives/tiny"
    home.mkdir(parents=True)
    (home / "set.zip").write_bytes(SET)

    def refuse(*_, **__):
        pytest.fail("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    tiny = with_archives(entry("https://example.org/set.zip"))
    assert fetch(datasets, tiny, "all", tmp_path / "mirror", offline=True).unpacked == 12
    assert everything(tmp_path / "mirror").keys() == {
        "archives",
        "archives/tiny",
        "archives/tiny/set.zip",
    }


def test_what_a_killed_fetch_left_of_unpacking_is_cleared_away(datasets, serve):
    server = serve({"set.zip": SET})
    stale = datasets / "raw/archives/tiny/unpacking/0/Set 0/cell_0.png"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"half")
    assert fetch(datasets, with_archives(entry(server("good"))), "all", None).unpacked == 12
    assert not (datasets / "raw/archives/tiny/unpacking").exists()


# ------------------------------------------------------------------ manifests made here


@pytest.fixture
def unshipped(datasets) -> Path:
    (datasets / "manifests/tiny.csv").unlink()
    return datasets


def write_images(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(IMAGES[name])


def notes(capsys) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("note:")]


def test_a_manifest_is_made_from_an_archives_files(unshipped, serve, capsys):
    server = serve({"set.zip": SET})
    report = fetch(unshipped, unlisted(entry(server("good"))), "all", None)
    assert report.images == report.kept == 12
    assert placed(unshipped) == IMAGES
    assert (unshipped / "raw/.manifests/tiny.csv").read_text().count("\n") == 13
    assert notes(capsys) == []
    assert fetch(unshipped, unlisted(entry(server("404"))), "all", None).kept == 12


def test_a_manifest_is_made_from_files_placed_by_hand(unshipped):
    write_images(unshipped / "raw/tiny/images", list(IMAGES))
    assert fetch(unshipped, unlisted(), "all", None, offline=True).images == 12


def test_b11_files_of_a_set_that_no_one_can_read_are_counted_and_the_first_is_named(
    unshipped, capsys
):
    write_images(unshipped / "raw/tiny/images", list(IMAGES))
    for name in ("a.heic", "b.czi"):
        (unshipped / "raw/tiny/images/Set 0" / name).write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    assert fetch(unshipped, unlisted(), "all", None, offline=True).images == 12
    (line,) = notes(capsys)
    assert "2 files were passed over, the first is in no format that is read" in line
    assert line.endswith(": Set 0/a.heic")


def test_a_manifest_is_made_from_a_mirrors_folder_which_stays_as_it_is(unshipped, tmp_path):
    write_images(tmp_path / "mirror/tiny/images", list(IMAGES))
    before = everything(tmp_path / "mirror")
    assert fetch(unshipped, unlisted(), "all", tmp_path / "mirror").images == 12
    assert placed(unshipped) == IMAGES
    assert everything(tmp_path / "mirror") == before


def test_half_a_set_is_refused_where_it_was_counted_and_completed_later(unshipped):
    write_images(unshipped / "raw/tiny/images", list(IMAGES)[:7])
    line = refusal(unshipped, unlisted(), "all", None)
    assert "tiny Set 0: 4 images, 6 published; tiny Set 1: 3 images, 6 published" in line
    assert len(placed(unshipped)) == 7
    write_images(unshipped / "raw/tiny/images", list(IMAGES))
    assert fetch(unshipped, unlisted(), "all", None).images == 12


def test_counts_that_nobody_checked_may_differ_which_is_said_in_one_line(unshipped, capsys):
    write_images(unshipped / "raw/tiny/images", list(IMAGES)[:7])
    stated = unlisted(counts_source="literature")
    for _ in range(2):
        capsys.readouterr()
        assert fetch(unshipped, stated, "all", None).images == 7
        (line,) = notes(capsys)
        assert "tiny Set 0: 4 images, 6 published; tiny Set 1: 3 images, 6 published" in line
    (unshipped / "raw/.manifests/tiny.csv").unlink()
    write_images(unshipped / "raw/tiny/images", list(IMAGES))
    assert fetch(unshipped, stated, "all", None).images == 12
    assert notes(capsys) == []


def test_an_archive_that_nothing_here_opens_is_checked_and_left_to_the_user(unshipped, capsys):
    half = zipped({p: c for p, c in IMAGES.items() if p.startswith("Set 0/")})
    home = unshipped / "raw/archives/tiny"
    home.mkdir(parents=True)
    (home / "half.zip").write_bytes(half)
    (home / "rest.rar").write_bytes(b"Rar!" * 99)
    entries = (
        published(content=half, file="half.zip"),
        published(content=b"Rar!" * 99, file="rest.rar", folder="Set 1"),
    )
    by_hand = f"{home}/rest.rar (whole: unpack it by hand into {unshipped}/raw/tiny/images/Set 1)"
    line = refusal(unshipped, unlisted(*entries), "all", None)
    assert by_hand in line
    assert fetch(unshipped, unlisted(*entries, counts_source="literature"), "all", None).kept == 6
    (line,) = notes(capsys)
    assert by_hand in line
    assert "Set 1: 0 images, 6 published" in line


def test_half_a_set_is_completed_from_the_archive(unshipped, serve):
    server = serve({"set.zip": SET})
    write_images(unshipped / "raw/tiny/images", list(IMAGES)[:7])
    assert fetch(unshipped, unlisted(entry(server("good"))), "all", None).images == 12


def test_nothing_at_all_is_one_line_that_says_what_to_place_where(unshipped):
    line = refusal(unshipped, unlisted(entry("https://example.org/a.zip")), "all", None, True)
    assert line.startswith("tiny: no image is here; tried set.zip: no address: offline; to place")
    assert f"the folder is {unshipped}/raw/tiny/images" in line
    assert not (unshipped / "raw/.manifests").exists()


def test_c7_images_that_are_not_the_set_are_not_said_to_be_missing(unshipped):
    """All of them under a name that the layout does not have: "no image is here" is wrong."""
    write_images(unshipped / "raw/tiny/images", list(IMAGES))
    layout = {"reader": "class_folders", "files": "Main/{label}/*.png"}
    line = refusal(unshipped, unlisted(layout=layout), "all", None)
    assert line.startswith("tiny: 12 images are here, which are not the set; tried ")
    assert "no image of the form Main/{label}/*.png, 12 others" in line


def npz_card(content: bytes | None):
    """A card of a MedMNIST archive that is published with its MD5, or of which none is known."""
    archives = [Archive(file="tiny.npz", md5=hashlib.md5(content).hexdigest())] if content else []
    layout = {"reader": "npz", "file": "tiny.npz", "parts": ["train"]}
    layout |= {"labels": {"0": "Set 0", "1": "Set 1"}, "size": [8, 8]}
    counts = {"Set 0": 3, "Set 1": 3}
    return unlisted(*archives, layout=layout, counts=counts, counts_source="literature")


def npz_content(side: int, turned: bool = False) -> bytes:
    images = np.random.default_rng(0).integers(0, 256, (6, side, side, 3), np.uint8)
    labels = np.array([[0], [1]] * 3, np.uint8)
    if turned:
        images, labels = images[::-1], labels[::-1]
    buffer = io.BytesIO()
    np.savez(buffer, train_images=images, train_labels=labels)
    return buffer.getvalue()


def test_b04_the_hash_of_the_card_is_asked_of_an_archive_placed_by_hand(unshipped):
    folder = unshipped / "raw/tiny/images"
    folder.mkdir(parents=True)
    wrong = npz_card(npz_content(8))
    (folder / "tiny.npz").write_bytes(npz_content(8, turned=True))
    line = refusal(unshipped, wrong, "all", None, offline=True)
    assert f"{folder}/tiny.npz (expected md5" in line
    assert "replace it" in line
    assert {path.name for path in folder.iterdir()} == {"tiny.npz"}, "nothing is unpacked of it"


def test_b04_a_wrong_archive_tried_once_does_not_block_the_right_one(unshipped):
    """Neither one of another size, where no hash is published, nor one of another order."""
    folder, manifest = unshipped / "raw/tiny/images", unshipped / "raw/.manifests/tiny.csv"
    folder.mkdir(parents=True)
    unchecked = npz_card(None)
    (folder / "tiny.npz").write_bytes(npz_content(4))
    assert "6 of 6 images are 4 x 4 px" in refusal(unshipped, unchecked, "all", None)
    (folder / "tiny.npz").write_bytes(npz_content(8))
    assert fetch(unshipped, unchecked, "all", None).images == 6
    first = {path.name: path.read_bytes() for path in (folder / "train").iterdir()}
    labels = pd.read_csv(manifest)["label"].tolist()
    manifest.unlink()
    (folder / "tiny.npz").write_bytes(npz_content(8, turned=True))
    assert fetch(unshipped, unchecked, "all", None).images == 6
    second = {path.name: path.read_bytes() for path in (folder / "train").iterdir()}
    backwards = sorted(first, reverse=True)
    assert [second[name] for name in sorted(second)] == [first[name] for name in backwards]
    assert pd.read_csv(manifest)["label"].tolist() == labels[::-1]


def test_a_file_damaged_after_its_manifest_was_made_is_found(unshipped, capsys):
    write_images(unshipped / "raw/tiny/images", list(IMAGES))
    fetch(unshipped, unlisted(), "all", None)
    (unshipped / "raw/tiny/images/Set 0/cell_0.png").write_bytes(b"scribble")
    line = refusal(unshipped, unlisted(), "all", None)
    assert "1 of 12 images are missing or damaged, first Set 0/cell_0.png" in line
    assert "if these files are right, delete " in line


def test_the_lock_of_a_card_keeps_two_fetches_from_one_archive(unshipped, serve):
    """Both end with the whole set, and the archive is sent once."""
    server = serve({"set.zip": SET})
    tiny = with_archives(entry(server("good")))
    found: list[list[Path]] = []

    def work() -> None:
        with archives.unpacked(unshipped, tiny, None, False, []) as folders:
            found.append([path.name for path in folders])

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [["0"], ["0"]]
    assert server.sent == len(SET)
