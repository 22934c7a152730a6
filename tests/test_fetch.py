"""Fetching: whole, verified images or one line that says what to place where.

Images are drawn here; the network is a server on 127.0.0.1 that can misbehave.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from support.sets import IMAGES, PATHS, card, damaged, make_datasets, placed, refusal

from benchmark.acquire import sources
from benchmark.acquire.fetch import FetchReport, fetch, verify
from benchmark.data.cards import load_cards
from benchmark.errors import UserError

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def datasets(tmp_path) -> Path:
    """The `datasets/` folder of a project."""
    return make_datasets(tmp_path / "datasets")


@pytest.fixture
def mirror(tmp_path) -> Path:
    """A mirror that holds every image."""
    root = tmp_path / "mirror"
    for path, content in IMAGES.items():
        file = root / "tiny/images" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return root


class Server:
    """Serves the drawn images below /good/, and worse things below other prefixes."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                _, behaviour, path = self.path.split("/", 2)
                with owner.lock:
                    owner.requests[behaviour] += 1
                    first = owner.requests[self.path] == 0
                    owner.requests[self.path] += 1
                content = IMAGES.get(unquote(path))
                if content is None or behaviour == "gone":
                    self.answer(404, b"<html>no such page</html>")
                elif behaviour == "page":
                    self.answer(200, b"<html>please sign in</html>")
                elif behaviour == "changed":
                    self.answer(200, damaged(content))
                elif behaviour == "truncated" or (behaviour == "hiccup" and first):
                    self.answer(200, content[: len(content) // 2], length=len(content))
                elif behaviour == "short":
                    self.answer(200, content[: len(content) // 2])
                elif behaviour == "busy" and first:
                    self.answer(503, b"later")
                else:
                    self.answer(200, content)

            def answer(self, status: int, body: bytes, length: int | None = None) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(length or len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_) -> None:
                pass

        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def __call__(self, behaviour: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/{behaviour}/"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server(monkeypatch):
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sources, "PAUSES_S", (0.01, 0.02))
    running = Server()
    yield running
    running.close()


@pytest.fixture
def dead() -> str:
    """An address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return f"http://127.0.0.1:{port}/dead/"


# ------------------------------------------------------------------ from a mirror


def test_images_are_copied_from_the_mirror(datasets, mirror):
    report = fetch(datasets, card(), "all", mirror)
    assert report == FetchReport("tiny", images=12, kept=0, copied=12, downloaded=0, drawn=0)
    assert placed(datasets) == IMAGES
    assert str(report) == "tiny: 12 images (12 copied)"


def test_images_that_the_repository_holds_need_neither_mirror_nor_network(datasets, mirror):
    shutil.copytree(mirror / "tiny/images", datasets / "images/tiny/images")
    report = fetch(datasets, card(), "all", None, offline=True)
    assert report == FetchReport("tiny", 12, kept=0, copied=12, downloaded=0, drawn=0)
    damaged_file = datasets / "images/tiny/images" / PATHS[0]
    damaged_file.write_bytes(damaged(damaged_file.read_bytes()))
    (datasets / "raw/tiny/images" / PATHS[0]).unlink()
    with pytest.raises(UserError, match="1 of 12"):
        fetch(datasets, card(), "all", None, offline=True)


def test_core_fetches_only_the_marked_images(datasets, mirror):
    assert fetch(datasets, card(), "core", mirror).copied == 5
    assert set(placed(datasets)) == set(PATHS[:5])


def test_a_copy_changed_later_leaves_the_mirror_as_it_was(datasets, mirror):
    fetch(datasets, card(), "all", mirror)
    (datasets / "raw/tiny/images" / PATHS[0]).write_bytes(b"scribble")
    assert (mirror / "tiny/images" / PATHS[0]).read_bytes() == IMAGES[PATHS[0]]


def test_a_mirror_that_does_not_exist_is_named(datasets, tmp_path):
    line = refusal(datasets, card(), "all", tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in line
    assert "WBC_MIRROR" in line


def test_a_damaged_mirror_file_is_named_and_taken_from_the_address(
    datasets, mirror, server, capsys
):
    file = mirror / "tiny/images" / PATHS[3]
    file.write_bytes(damaged(IMAGES[PATHS[3]]))
    report = fetch(datasets, card(server("good")), "all", mirror)
    assert (report.copied, report.downloaded) == (11, 1)
    assert placed(datasets) == IMAGES
    expected = hashlib.sha256(IMAGES[PATHS[3]]).hexdigest()[:16]
    found = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    said = capsys.readouterr().out.splitlines()
    assert said == [
        f"mirror {mirror}/tiny/images: {PATHS[3]}: "
        f"expected sha256 {expected}…, found {found}…: "
        "damaged or changed there, not used"
    ]


def test_a_damaged_mirror_file_without_an_address_is_an_error_and_is_not_placed(datasets, mirror):
    (mirror / "tiny/images" / PATHS[3]).write_bytes(damaged(IMAGES[PATHS[3]]))
    line = refusal(datasets, card(), "all", mirror)
    assert "tiny: 1 of 12 images are missing or damaged, first Set 1/cell_3.png" in line
    assert "1 not matching the manifest" in line
    assert placed(datasets) == {p: c for p, c in IMAGES.items() if p != PATHS[3]}


def test_many_damaged_files_are_counted_and_only_the_first_are_named(datasets, mirror, capsys):
    for path, content in IMAGES.items():
        (mirror / "tiny/images" / path).write_bytes(damaged(content))
    assert "12 not matching the manifest" in refusal(datasets, card(), "all", mirror)
    assert len(capsys.readouterr().out.splitlines()) == sources.NAMED + 1


def test_a_folder_linked_into_the_mirror_is_read_but_never_written(datasets, mirror):
    (datasets / "raw/tiny").mkdir(parents=True)
    (datasets / "raw/tiny/images").symlink_to(mirror / "tiny/images")
    assert fetch(datasets, card(), "all", mirror).kept == 12
    broken = mirror / "tiny/images" / PATHS[0]
    broken.write_bytes(b"broken")
    assert "leads into the mirror, which is only read" in refusal(datasets, card(), "all", mirror)
    assert broken.read_bytes() == b"broken"


# ------------------------------------------------------------------ kept, verified, resumed


def test_a_second_fetch_changes_nothing_and_needs_no_source(datasets, mirror):
    fetch(datasets, card(), "all", mirror)
    before = {p: os.stat(datasets / "raw/tiny/images" / p).st_mtime_ns for p in PATHS}
    receipt = (datasets / "raw/.verified/tiny.json").stat().st_mtime_ns
    assert fetch(datasets, card(), "all", None, offline=True).kept == 12
    after = {p: os.stat(datasets / "raw/tiny/images" / p).st_mtime_ns for p in PATHS}
    assert after == before
    assert (datasets / "raw/.verified/tiny.json").stat().st_mtime_ns == receipt


def test_verified_files_are_not_hashed_again(datasets, mirror, monkeypatch):
    fetch(datasets, card(), "all", mirror)
    hashed: list[Path] = []
    monkeypatch.setattr(sources, "sha256_file", lambda path: hashed.append(path) or "")
    fetch(datasets, card(), "all", None, offline=True)
    assert verify(datasets, card(), "all") == []
    assert hashed == []


def test_a_file_damaged_after_it_was_verified_is_found_and_replaced(datasets, mirror):
    fetch(datasets, card(), "all", mirror)
    file = datasets / "raw/tiny/images" / PATHS[7]
    file.write_bytes(damaged(IMAGES[PATHS[7]]))
    os.utime(file, ns=(1, 1))
    assert verify(datasets, card(), "all") == [PATHS[7]]
    report = fetch(datasets, card(), "all", mirror)
    assert (report.kept, report.copied) == (11, 1)
    assert placed(datasets) == IMAGES
    assert verify(datasets, card(), "all") == []


@pytest.mark.parametrize("receipt", ["", "{broken", "[]", '{"Set 0/cell_0.png": 3}'])
def test_a_lost_or_broken_receipt_costs_only_time(datasets, mirror, receipt):
    fetch(datasets, card(), "all", mirror)
    (datasets / "raw/.verified/tiny.json").write_text(receipt)
    assert fetch(datasets, card(), "all", None, offline=True).kept == 12


def test_files_placed_by_hand_are_verified_and_kept(datasets, mirror):
    (datasets / "raw/tiny").mkdir(parents=True)
    (mirror / "tiny/images").rename(datasets / "raw/tiny/images")
    assert fetch(datasets, card(), "all", None, offline=True).kept == 12


def test_verify_names_what_is_missing_truncated_or_changed(datasets, mirror):
    assert verify(datasets, card(), "all") == PATHS
    fetch(datasets, card(), "all", mirror)
    folder = datasets / "raw/tiny/images"
    (folder / PATHS[1]).unlink()
    (folder / PATHS[4]).write_bytes(IMAGES[PATHS[4]][:-10])
    (folder / PATHS[6]).write_bytes(IMAGES[PATHS[5]])
    assert verify(datasets, card(), "all") == [PATHS[1], PATHS[4], PATHS[6]]


def test_only_what_is_missing_is_downloaded(datasets, mirror, server):
    fetch(datasets, card(), "core", mirror)
    report = fetch(datasets, card(server("good")), "all", None)
    assert (report.kept, report.downloaded) == (5, 7)
    assert server.requests["good"] == 7


def test_a_manifest_without_hashes_or_sizes_still_fetches(datasets, mirror):
    (datasets / "manifests/tiny.csv").write_text(
        "path,label\n" + "".join(f"{path},N\n" for path in PATHS)
    )
    assert fetch(datasets, card(), "all", mirror).copied == 12
    assert fetch(datasets, card(), "all", mirror).kept == 12


def test_kill_leaves_whole_files_only_and_the_rest_comes_later(datasets, mirror, server):
    """A process killed while it downloads: what carries an image's name is that image."""
    script = (
        "import sys, time; from pathlib import Path\n"
        "from benchmark.acquire import fetch as module, sources\n"
        "from tests.support.sets import card\n"
        "module.THREADS = 2\n"
        "whole = sources.fault\n"
        "sources.fault = lambda *a: (time.sleep(0.3), whole(*a))[1]\n"
        "module.fetch(Path(sys.argv[1]), card(sys.argv[2]), 'all', None)\n"
    )
    arguments = [sys.executable, "-c", script, str(datasets), server("good")]
    process = subprocess.Popen(arguments, cwd=REPOSITORY)
    deadline = time.monotonic() + 60
    while not list((datasets / "raw").glob("tiny/images/*/cell_*.png")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    whole = {p: c for p, c in placed(datasets).items() if not Path(p).name.startswith(".")}
    assert 0 < len(whole) < 12
    assert whole.items() <= IMAGES.items()
    report = fetch(datasets, card(), "all", mirror)
    assert report.kept == len(whole)
    assert report.copied == 12 - len(whole)
    assert placed(datasets) == IMAGES, "what the killed process was writing is gone (D.9)"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_d14_a_disk_that_takes_no_more_is_told_once_and_no_source_is_blamed(
    datasets, mirror, server, monkeypatch, capsys, number
):
    """As `shutil` reports it: with the name of the file that is read."""

    def full(source, *_, **__):
        raise OSError(number, os.strerror(number), str(source))

    monkeypatch.setattr(sources.shutil, "copyfile", full)
    line = refusal(datasets, card(server("good")), "all", mirror)
    assert "disk full while writing" in line or "cannot be written" in line
    assert "mirror" not in line
    assert capsys.readouterr().out == ""
    assert not server.requests
    assert placed(datasets) == {}


# ------------------------------------------------------------------ from addresses


def test_images_are_downloaded_with_names_quoted(datasets, server):
    report = fetch(datasets, card(server("good")), "all", None)
    assert report.downloaded == 12
    assert placed(datasets) == IMAGES


def test_a_dead_first_address_is_given_up_soon_and_the_second_serves(datasets, server, dead):
    report = fetch(datasets, card(dead, server("good")), "all", None)
    assert report.downloaded == 12
    assert placed(datasets) == IMAGES


def test_an_address_is_not_asked_again_after_five_failures_in_a_row(
    datasets, dead, server, monkeypatch
):
    attempts = []
    receive = sources.Address.receive

    def counted(self, image, temporary):
        attempts.append(image.path)
        receive(self, image, temporary)

    monkeypatch.setattr(sources.Address, "receive", counted)
    refusal(datasets, card(dead), "all", None)
    # Threads already asking when the fifth failure comes may each add one.
    assert 5 <= len(attempts) <= 5 + 8
    assert placed(datasets) == {}


@pytest.mark.parametrize("behaviour", ["hiccup", "busy"])
def test_a_passing_fault_is_retried(datasets, server, behaviour, monkeypatch):
    monkeypatch.setattr(sources, "CONNECTION_PATIENCE", 100)
    assert fetch(datasets, card(server(behaviour)), "all", None).downloaded == 12
    assert placed(datasets) == IMAGES
    assert server.requests[behaviour] == 24


@pytest.mark.parametrize(
    ("behaviour", "told"),
    [
        ("gone", "HTTP 404"),
        ("page", "12 not matching the manifest"),
        ("changed", "12 not matching the manifest"),
        ("short", "12 not matching the manifest"),
        ("truncated", "connection broke off"),
    ],
)
def test_a_bad_answer_is_told_and_never_placed(datasets, server, behaviour, told):
    line = refusal(datasets, card(server(behaviour)), "all", None)
    assert f"{server(behaviour)} ({told})" in line
    assert placed(datasets) == {}


@pytest.mark.parametrize("behaviour", ["gone", "page", "changed", "short", "truncated"])
def test_after_a_bad_answer_the_next_address_serves(datasets, server, behaviour):
    report = fetch(datasets, card(server(behaviour), server("good")), "all", None)
    assert report.downloaded == 12
    assert placed(datasets) == IMAGES


def test_an_address_that_only_says_not_found_is_given_up(datasets, server, monkeypatch):
    monkeypatch.setattr(sources, "ANSWER_PATIENCE", 2)
    refusal(datasets, card(server("gone")), "all", None)
    assert 2 <= server.requests["gone"] <= 2 + 8


# ------------------------------------------------------------------ nothing reachable


def test_nothing_reachable_is_one_line_that_says_what_to_place_where(datasets, tmp_path, dead):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert refusal(datasets, card(dead), "all", empty) == (
        "tiny: 12 of 12 images are missing or damaged, first Set 0/cell_0.png; "
        f"tried mirror {empty}/tiny/images (no such folder), {dead} (no connection); "
        "to place them by hand: download tiny.zip and unpack it, "
        "so that the folder holds Set 0/cell_0.png; "
        f"the folder is {datasets}/raw/tiny/images, or DIR/tiny/images of a mirror given as "
        "WBC_MIRROR=DIR; then run again, what is whole is kept"
    )
    assert placed(datasets) == {}


def test_offline_opens_no_socket_and_says_so(datasets, monkeypatch, server):
    def refuse(*_, **__):
        pytest.fail("a socket was opened")

    address = card(server("good"))
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    line = refusal(datasets, address, "all", None, offline=True)
    assert "tried no address: offline" in line
    assert server.requests.total() == 0


def test_what_the_mirror_has_is_kept_although_the_rest_is_missing(datasets, mirror):
    (mirror / "tiny/images" / PATHS[2]).unlink()
    line = refusal(datasets, card(), "all", mirror)
    assert "1 of 12 images are missing or damaged, first Set 0/cell_2.png" in line
    assert len(placed(datasets)) == 11
    assert verify(datasets, card(), "all") == [PATHS[2]]


def test_a_folder_that_cannot_be_made_is_named(datasets, mirror):
    (datasets / "raw").mkdir()
    (datasets / "raw/tiny").write_text("a file where a folder belongs")
    assert str(datasets / "raw/tiny/images") in refusal(datasets, card(), "all", mirror)


# ------------------------------------------------------------------ real images


@pytest.mark.skipif(
    not os.environ.get("WBC_MIRROR"), reason="WBC_MIRROR names no mirror of the published sets"
)
@pytest.mark.parametrize("name", ["bccd", "jtsc"])
def test_real_images_are_what_the_manifest_says(name, tmp_path):
    published = REPOSITORY / "datasets"
    datasets = tmp_path / "datasets"
    datasets.mkdir()
    (datasets / "manifests").symlink_to(published / "manifests")
    real = load_cards(published)[name]
    report = fetch(datasets, real, "core", Path(os.environ["WBC_MIRROR"]), offline=True)
    assert report.copied == report.images
    assert verify(datasets, real, "core") == []
