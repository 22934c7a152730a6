"""What is here, what is missing, what is broken: `fetch --list` and `doctor`.

Addresses are those of a server on 127.0.0.1.
"""

from __future__ import annotations

import importlib
import shutil
import sys
import types
from importlib import metadata
from pathlib import Path

import pytest
from conftest import edit
from support.sets import COUNTS, IMAGES, PATHS, FileServer, card, make_datasets, published, unlisted

from benchmark.acquire import doctor, inventory, sources
from benchmark.acquire.doctor import Check, Link, ask, check_links, links_of
from benchmark.acquire.fetch import fetch
from benchmark.data.cards import load_cards
from benchmark.errors import UserError

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def datasets(tmp_path) -> Path:
    return make_datasets(tmp_path / "datasets")


@pytest.fixture
def mirror(tmp_path) -> Path:
    """A mirror that lacks the last two images."""
    root = tmp_path / "mirror"
    for path in PATHS[:-2]:
        (root / "tiny/images" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "tiny/images" / path).write_bytes(IMAGES[path])
    return root


# ------------------------------------------------------------------ what is here


def listed(datasets: Path, tiny, mirror: Path | None = None) -> dict[str, str]:
    """The facts of `fetch --list` by their names, the title under ''."""
    title, *facts = inventory.lines(datasets, tiny, mirror)
    return {"": title} | {fact[2:10].strip(): fact[11:] for fact in facts}


def test_the_list_says_what_is_here_missing_allowed_and_how_to_get_it(datasets, mirror):
    tiny = card("https://example.org/a/", "https://example.org/b/")
    fetch(datasets, tiny, "core", mirror)
    missing = sum(len(IMAGES[path]) for path in PATHS[5:])
    facts = listed(datasets, tiny, mirror)
    assert facts == {
        "": "tiny: Tiny (domains: tiny)",
        "here": "5 of 12 images, 5 verified (core: 5 of 5); the mirror holds 10",
        "missing": f"7 images, {inventory.readable(missing)}",
        "licence": "CC0; redistribution allowed",
        "get": "wbc-shift fetch tiny: one by one from 2 addresses",
        "by hand": "download tiny.zip and unpack it, so that the folder holds "
        f"Set 0/cell_0.png; the folder is {datasets}/raw/tiny/images",
    }


def test_a_manifest_that_lists_a_part_of_the_set_is_said_to(datasets):
    part = listed(datasets, card(complete=False))["here"]
    assert part.endswith("; the manifest lists a part of the set")


def test_files_placed_by_hand_are_here_but_not_verified_until_fetched(datasets, mirror):
    (datasets / "raw/tiny").mkdir(parents=True)
    shutil.copytree(mirror / "tiny/images", datasets / "raw/tiny/images")
    assert "10 of 12 images, 0 verified" in listed(datasets, card())["here"]
    fetch(datasets, card(), "core", None)
    (datasets / "raw/tiny/images" / PATHS[0]).write_bytes(b"not its size")
    assert "9 of 12 images, 4 verified" in listed(datasets, card())["here"]


def test_a_complete_set_lacks_nothing(datasets, mirror):
    for path in PATHS[-2:]:
        (mirror / "tiny/images" / path).write_bytes(IMAGES[path])
    fetch(datasets, card(), "all", mirror)
    assert listed(datasets, card())["missing"] == "nothing"


def test_a_set_without_manifest_is_counted_by_its_card(datasets):
    facts = listed(datasets, unlisted(published()))
    assert facts["here"].startswith("0 of 12 images, 0 verified; not listed yet")
    assert facts["missing"].startswith("12 images, ")
    assert facts["get"].endswith(f"set.zip placed by hand in {datasets}/raw/archives/tiny")
    unknown = listed(datasets, unlisted(counts={}, counts_source=None))
    assert unknown["here"].startswith("0 of an unknown number of images")
    assert unknown["missing"] == "unknown"
    assert unknown["get"] == "by hand only"


def test_archives_that_were_kept_are_mentioned_for_they_may_be_deleted(datasets):
    (datasets / "raw/archives/tiny").mkdir(parents=True)
    (datasets / "raw/archives/tiny/set.zip").write_bytes(bytes(7000))
    assert listed(datasets, card(archives=[published()]))["here"].endswith(
        "; archives of 7.0 kB kept"
    )


def test_the_list_names_archives_their_size_and_google_drive(datasets):
    tiny = unlisted(
        published("https://example.org/a.zip", bytes=2_400_000_000),
        published("drive:1gk", bytes=600_000_000, file="b.zip"),
    )
    assert listed(datasets, tiny)["get"] == (
        "wbc-shift fetch tiny: 2 archives of 3.0 GB; "
        "Google Drive, which needs pip install 'wbc-shift[drive]'"
    )
    assert listed(datasets, tiny)["missing"] == f"{sum(COUNTS.values())} images, 3.0 GB"


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (214e6, "214 MB"), (1.25e10, "12 GB")],
)
def test_sizes_are_readable(size, text):
    assert inventory.readable(int(size)) == text


def test_the_command_lists_every_card_or_the_named_ones(project, wbc_shift):
    outcome = wbc_shift("fetch", "--list")
    assert outcome.status == 0
    assert outcome.out.splitlines()[0] == "toy: Toy discs (domains: toy-a, toy-b)"
    assert "0 of 200 images" in outcome.out
    assert wbc_shift("fetch", "--list", "toy-b").out == outcome.out
    assert not Path("datasets/raw").exists()


def test_the_command_fetches_a_card_or_a_domain_by_name(project, wbc_shift):
    assert wbc_shift("fetch", "toy-b").out.strip() == "toy: 100 images (100 copied)"
    assert wbc_shift("fetch", "toy").out.strip() == "toy: 200 images (100 kept, 100 copied)"
    outcome = wbc_shift("fetch", "toy-c")
    assert outcome.status == 1
    assert outcome.err.startswith("error: no card or domain 'toy-c'; did you mean 'toy-")
    assert (
        "--subset most: use one of sample, core, all"
        in wbc_shift("fetch", "toy", "--subset", "most").err
    )


def test_every_published_card_is_listed(monkeypatch):
    for published_card in load_cards(REPOSITORY / "datasets").values():
        facts = listed(REPOSITORY / "datasets", published_card)
        assert {"", "here", "missing", "licence", "get"} <= facts.keys()


# ------------------------------------------------------------------ links


@pytest.fixture
def server(monkeypatch):
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sources, "TIMEOUT_S", (5, 5))
    running = FileServer({"set.zip": b"x" * 5000, **IMAGES})
    yield running
    running.close()


@pytest.mark.parametrize(
    ("behaviour", "kind", "size", "verdict", "told"),
    [
        ("good", "file", 5000, "ok", "HTTP 200, 5.0 kB"),
        ("good", "file", None, "ok", "HTTP 200, 5.0 kB"),
        ("good", "file", 5001, "broken", "HTTP 200, but 5000 bytes, expected 5001"),
        ("nohead", "file", 5000, "ok", "HTTP 206, 5.0 kB"),
        ("nohead", "file", 4999, "broken", "HTTP 206, but 5000 bytes, expected 4999"),
        ("page", "file", None, "broken", "a web page, not the file"),
        ("page", "page", None, "ok", "HTTP 200"),
        ("404", "file", None, "broken", "HTTP 404"),
        ("404", "page", None, "broken", "HTTP 404"),
        ("403", "file", None, "broken", "HTTP 403"),
        ("403", "page", None, "note", "HTTP 403, turns programs away: look by hand"),
        ("429", "page", None, "note", "HTTP 429, turns programs away: look by hand"),
        ("500", "page", None, "broken", "HTTP 500"),
    ],
)
def test_an_address_is_judged_by_its_answer(server, behaviour, kind, size, verdict, told):
    check = ask(Link("tiny", server(behaviour), kind, size))
    assert (check.what, check.verdict) == (f"tiny {server(behaviour)}", verdict)
    assert told in check.text
    assert server.sent < 10_000


def test_an_address_where_nobody_listens_is_broken():
    check = ask(Link("tiny", "http://127.0.0.1:9/x.zip", "file"))
    assert (check.verdict, check.text) == ("broken", "no connection")


def test_every_address_of_a_card_is_asked_once(datasets, server):
    archive = published(server("good"), server("404"), content=b"x" * 5000)
    tiny = card(server("good", ""), homepage=server("good"), archives=[archive])
    answers = check_links(datasets, {"tiny": tiny}, offline=False)
    assert [(a.what, a.verdict) for a in answers] == [
        (f"tiny {server('good', 'Set%200/cell_0.png')}", "ok"),
        (f"tiny {server('good')}", "ok"),
        (f"tiny {server('404')}", "broken"),
        (f"tiny {server('good')}", "ok"),
    ]
    assert {method for method, path, _ in server.requests if "/good/" in path} == {"HEAD"}


def test_a_file_of_google_drive_is_looked_up_by_its_page(datasets):
    tiny = card(archives=[published("drive:1gk")])
    assert Link("tiny", "https://drive.google.com/file/d/1gk/view", "page") in links_of(
        datasets, {"tiny": tiny}
    )


def test_offline_asks_nobody(datasets, server):
    with pytest.raises(UserError, match="WBC_OFFLINE forbids: unset it"):
        check_links(datasets, {"tiny": card(server("good", ""))}, offline=True)
    assert server.requests == []


def test_published_cards_have_addresses_that_can_be_asked():
    cards = load_cards(REPOSITORY / "datasets")
    for link in links_of(REPOSITORY / "datasets", cards):
        assert link.url.startswith(("http://", "https://"))
        assert " " not in link.url


# ------------------------------------------------------------------ environment


def test_an_old_python_is_broken():
    assert doctor.check_python((3, 10, 14)).verdict == "broken"
    assert doctor.check_python((3, 11, 0)).verdict == "ok"


def test_missing_and_old_packages_are_named(monkeypatch):
    versions = {"torch": "2.11.0", "numpy": "1.26.4"}

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    wanted = ["torch>=2.11", "numpy>=2.2", "timm>=1.0", 'ruff>=0.12; extra == "dev"']
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: wanted)
    monkeypatch.setattr(doctor.metadata, "version", version)
    (check,) = doctor.check_packages()
    assert check.verdict == "broken"
    assert check.text.startswith("numpy 1.26.4 is not >=2.2; timm is missing: pip install")
    versions.update(numpy="2.2", timm="1.0.31")
    assert doctor.check_packages() == [Check("packages", "ok", "all 3 in versions that will do")]


def test_a_torchvision_of_another_torch_is_told_in_one_line(monkeypatch):
    assert doctor.check_torch().verdict == "ok"
    load = importlib.import_module

    def broken(name):
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist\nmore")
        return load(name)

    monkeypatch.setattr(importlib, "import_module", broken)
    check = doctor.check_torch()
    assert check.verdict == "broken"
    assert check.text.startswith("operator torchvision::nms does not exist: install both")


def test_a_full_disk_and_a_folder_that_cannot_be_written_are_broken(datasets, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=3 * 10**9))
    assert doctor.check_disk(datasets).verdict == "ok"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=10**9))
    assert doctor.check_disk(datasets).text == f"1.0 GB free at {datasets}: make room"
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert "cannot be written" in doctor.check_disk(datasets).text


def test_manifests_and_mirror_are_looked_at(datasets, mirror):
    tiny = card()
    assert doctor.check_manifest(datasets, tiny).text == "12 images listed"
    assert doctor.check_manifest(datasets, unlisted()).verdict == "note"
    (datasets / "manifests/tiny.csv").write_text("file,kind\n")
    assert doctor.check_manifest(datasets, tiny).verdict == "broken"
    cards = {"tiny": tiny}
    assert doctor.check_mirror(cards, mirror).text == f"{mirror} has a folder of tiny"
    assert doctor.check_mirror(cards, mirror / "tiny").verdict == "note"
    assert doctor.check_mirror(cards, mirror / "nowhere").verdict == "broken"
    assert doctor.check_mirror(cards, None).verdict == "ok"


def test_google_drive_is_mentioned_only_where_a_card_needs_it(datasets, monkeypatch):
    monkeypatch.setitem(sys.modules, "gdown", None)
    monkeypatch.setattr(doctor, "find_spec", lambda _: None)

    def about_drive(tiny) -> list[Check]:
        checks = doctor.check_environment(datasets, {"tiny": tiny}, None, True)
        return [check for check in checks if check.what == "Google Drive"]

    assert about_drive(card()) == []
    (check,) = about_drive(card(archives=[published("drive:1gk")]))
    assert check.verdict == "note"
    assert "pip install 'wbc-shift[drive]'" in check.text


def test_the_command_ends_well_or_says_how_much_is_broken(project, wbc_shift, monkeypatch):
    outcome = wbc_shift("doctor")
    assert outcome.status == 0, outcome.out
    assert "ok     toy: 200 images listed" in outcome.out
    monkeypatch.setenv("WBC_OFFLINE", "1")
    outcome = wbc_shift("doctor", "--links")
    assert outcome.status == 1
    assert "WBC_OFFLINE forbids" in outcome.err
    monkeypatch.delenv("WBC_OFFLINE")
    edit(Path("datasets/toy.yaml"), "https://example.org/toy", "http://127.0.0.1:9/toy")
    outcome = wbc_shift("doctor", "--links")
    assert "broken toy http://127.0.0.1:9/toy: no connection" in outcome.out
    assert outcome.err.startswith("error: 1 of ")
    edit(Path("datasets/toy.yaml"), "title: Toy discs", "tittle: Toy discs")
    outcome = wbc_shift("doctor")
    assert outcome.status == 1
    assert "broken cards: datasets/toy.yaml" in outcome.out
