"""Check this machine and the addresses of the cards: a line per check says what is broken.

The environment is checked without network; links are asked for their head only, several at once.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlsplit

import requests
from packaging.requirements import Requirement

from benchmark.acquire import sources
from benchmark.acquire.archives import DRIVE
from benchmark.acquire.inventory import readable
from benchmark.acquire.sources import Busy, NotThere, Unreachable, translated
from benchmark.data.cards import Card, load_cards
from benchmark.data.manifests import published_images
from benchmark.errors import UserError
from benchmark.progress import track

LEAST_PYTHON = (3, 11)
LEAST_FREE_BYTES = 2 * 10**9
"""Less is called broken: the core subsets with their arrays and runs take about this much."""
ASKED_AT_ONCE = 8
ASKED_AT_ONE_HOST = 2
"""Publishers take more for an attack, and answer 429."""
Verdict = Literal["ok", "note", "broken"]


@dataclass(frozen=True)
class Check:
    """One thing looked at. `note` is worth knowing and stops nothing."""

    what: str
    verdict: Verdict
    text: str

    def __str__(self) -> str:
        return f"{self.verdict:<6} {self.what}: {self.text}"


def check_environment(
    datasets: Path, cards: dict[str, Card], mirror: Path | None, offline: bool
) -> list[Check]:
    """Look over Python, packages, disk, manifests, mirror and switches; opens no socket.

    Args:
        mirror, offline: as the environment names them (WBC_MIRROR, WBC_OFFLINE).
    """
    checks = [check_python(), *check_packages(), check_torch(), check_disk(datasets)]
    checks += [check_manifest(datasets, card) for card in cards.values()]
    checks.append(check_mirror(cards, mirror))
    state = "no address is asked (WBC_OFFLINE)" if offline else "the network may be used"
    checks.append(Check("network", "ok", state))
    archives = [archive for card in cards.values() for archive in card.archives]
    if any(url.startswith(DRIVE) for archive in archives for url in archive.urls):
        here = find_spec("gdown") is not None
        absent = "gdown is not installed: pip install 'wbc-shift[drive]'"
        text = f"gdown {metadata.version('gdown')}" if here else absent
        checks.append(Check("Google Drive", "ok" if here else "note", text))
    return checks


def check_cards(datasets: Path) -> tuple[dict[str, Card], list[Check]]:
    """The cards, which the further checks are about: none if one of them is broken."""
    try:
        cards = load_cards(datasets)
    except UserError as error:
        return {}, [Check("cards", "broken", str(error))]
    return cards, [Check("cards", "ok", f"{len(cards)} read")]


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> Check:
    """Whether this Python is new enough."""
    text = ".".join(map(str, version))
    if version < LEAST_PYTHON:
        least = ".".join(map(str, LEAST_PYTHON))
        return Check("python", "broken", f"{text}: install {least} or newer")
    return Check("python", "ok", text)


def check_packages() -> list[Check]:
    """Whether each package that the project requires is installed in a version that will do."""
    try:
        required = [Requirement(line) for line in metadata.requires("wbc-shift") or ()]
    except metadata.PackageNotFoundError:
        return [Check("packages", "broken", "wbc-shift is not installed: pip install -e .")]
    required = [r for r in required if r.marker is None or r.marker.evaluate({"extra": ""})]
    bad = []
    for requirement in required:
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            bad.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            bad.append(f"{requirement.name} {version} is not {requirement.specifier}")
    if bad:
        mend = "pip install -r requirements.lock"
        return [Check("packages", "broken", f"{'; '.join(bad)}: {mend}")]
    return [Check("packages", "ok", f"all {len(required)} in versions that will do")]


def check_torch() -> Check:
    """Whether torch and torchvision are a pair, which shows only when both are loaded."""
    mend = "install both from the same index, as the pair that belongs together"
    try:
        torch = importlib.import_module("torch")
        torchvision = importlib.import_module("torchvision")
        importlib.import_module("torchvision.ops")
        boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
        torchvision.ops.nms(boxes, torch.ones(1), 0.5)
    except (ImportError, RuntimeError, OSError, AttributeError, NotImplementedError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Check("torch", "broken", f"{first}: {mend}")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    text = f"{torch.__version__} with torchvision {torchvision.__version__}, {device}"
    return Check("torch", "ok", text)


def check_disk(datasets: Path) -> Check:
    """Whether there is room, and leave to write, where images go."""
    place = datasets / "raw" if (datasets / "raw").exists() else datasets
    free = shutil.disk_usage(place).free
    if not os.access(place, os.W_OK):
        return Check("disk", "broken", f"{place} cannot be written: make the folder writable")
    if free < LEAST_FREE_BYTES:
        return Check("disk", "broken", f"{readable(free)} free at {place}: make room")
    return Check("disk", "ok", f"{readable(free)} free at {place}")


def check_manifest(datasets: Path, card: Card) -> Check:
    """Whether a card's manifest can be read."""
    if not card.ships_manifest and not (datasets / card.manifest).exists():
        return Check(card.name, "note", "not here; its manifest is made once its images are")
    try:
        table = published_images(datasets, card)
    except UserError as error:
        return Check(card.name, "broken", str(error))
    return Check(card.name, "ok", f"{len(table):,} images listed")


def check_mirror(cards: dict[str, Card], mirror: Path | None) -> Check:
    """Whether the mirror exists, and which sets it has something of."""
    if mirror is None:
        return Check("mirror", "ok", "none (WBC_MIRROR is not set)")
    if not mirror.is_dir():
        return Check("mirror", "broken", f"{mirror} is no folder: correct or unset WBC_MIRROR")
    held = [card.name for card in cards.values() if (mirror / card.folder).is_dir()]
    if not held:
        return Check("mirror", "note", f"{mirror} holds no folder of any card")
    return Check("mirror", "ok", f"{mirror} has a folder of {', '.join(held)}")


# ------------------------------------------------------------------ links


@dataclass(frozen=True)
class Link:
    """One address of a card: a `file` must be given, a `page` is for people to read."""

    card: str
    url: str
    kind: Literal["file", "page"]
    size: int | None = None
    """Bytes that the address must state, if it states any."""


def links_of(datasets: Path, cards: dict[str, Card]) -> list[Link]:
    """Every address of every card: the first image below each prefix, archives, pages."""
    links = []
    for card in cards.values():
        if card.addresses and card.ships_manifest:
            first = published_images(datasets, card).iloc[0]
            size = int(first["bytes"]) if first.get("bytes") else None
            for prefix in card.addresses:
                links.append(Link(card.name, prefix + quote(first["path"]), "file", size))
        for archive in card.archives:
            for url in archive.urls:
                if url.startswith(DRIVE):
                    page = f"https://drive.google.com/file/d/{url.removeprefix(DRIVE)}/view"
                    links.append(Link(card.name, page, "page"))
                else:
                    links.append(Link(card.name, url, "file", archive.bytes))
        links += [
            Link(card.name, url, "page")
            for url in (card.homepage, card.licence.url)
            if url and url.startswith(("http://", "https://"))
        ]
    return list(dict.fromkeys(links))


def check_links(datasets: Path, cards: dict[str, Card], offline: bool) -> list[Check]:
    """Ask every address of the cards whether it still answers.

    Raises:
        UserError: the offline switch is set.
    """
    if offline:
        raise UserError("doctor --links asks the network, which WBC_OFFLINE forbids: unset it")
    links = links_of(datasets, cards)
    turns: defaultdict[str, threading.Semaphore] = defaultdict(
        lambda: threading.Semaphore(ASKED_AT_ONE_HOST)
    )
    hosts = [turns[urlsplit(link.url).netloc] for link in links]

    def ask_in_turn(link: Link, host: threading.Semaphore) -> Check:
        with host:
            return ask(link)

    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        return list(track(pool.map(ask_in_turn, links, hosts), "asking addresses", len(links)))


def ask(link: Link) -> Check:
    """Ask one address, by HEAD, or for the first byte where a server knows no HEAD."""
    what = f"{link.card} {link.url}"
    try:
        status, size, kind = head(link.url)
    except (NotThere, Unreachable, Busy) as error:
        # Many sites answer people and turn programs away: that is no dead page.
        if link.kind == "page" and str(error) in ("HTTP 401", "HTTP 403", "HTTP 429"):
            return Check(what, "note", f"{error}, turns programs away: look by hand")
        return Check(what, "broken", str(error))
    if link.kind == "page":
        return Check(what, "ok", f"HTTP {status}")
    if kind.startswith("text/html"):
        return Check(what, "broken", f"HTTP {status}, but a web page, not the file")
    if None not in (link.size, size) and link.size != size:
        return Check(what, "broken", f"HTTP {status}, but {size} bytes, expected {link.size}")
    return Check(what, "ok", f"HTTP {status}" + (f", {readable(size)}" if size else ""))


def head(url: str) -> tuple[int, int | None, str]:
    """Status, stated bytes and kind of what an address holds.

    Raises:
        NotThere, Busy, Unreachable: as for a download.
    """
    headers = {"Accept-Encoding": "identity"}
    timeout = sources.TIMEOUT_S
    with translated():
        answer = requests.head(url, headers=headers, timeout=timeout, allow_redirects=True)
        if not answer.ok:
            headers["Range"] = "bytes=0-0"
            with requests.get(url, headers=headers, timeout=timeout, stream=True) as answer:
                answer.raise_for_status()
        facts = answer.headers
        size = facts.get("Content-Range", "").rpartition("/")[2] or facts.get("Content-Length")
        size = int(size) if size and size.isdigit() else None
        return answer.status_code, size, facts.get("Content-Type", "")
