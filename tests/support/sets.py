"""Published sets in small: cards, manifests, folders, archives, and a server that has them."""

from __future__ import annotations

import csv
import hashlib
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from benchmark.acquire.fetch import fetch
from benchmark.data.cards import Archive, Card
from benchmark.errors import UserError

PATHS = [f"Set {k % 2}/cell_{k}.png" for k in range(12)]


def drawing(seed: int) -> bytes:
    """A tiny PNG, another one for every seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


IMAGES = {path: drawing(seed) for seed, path in enumerate(PATHS)}


def damaged(content: bytes) -> bytes:
    """The same number of bytes, one bit of them changed."""
    return content[:-1] + bytes([content[-1] ^ 1])


def make_datasets(folder: Path) -> Path:
    """A `datasets/` folder with the manifest of the drawn images."""
    (folder / "manifests").mkdir(parents=True)
    with (folder / "manifests/tiny.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "sha256", "bytes", "label", "core"])
        for k, (path, content) in enumerate(IMAGES.items()):
            sha256 = hashlib.sha256(content).hexdigest()
            table.writerow([path, sha256, len(content), "N", int(k < 5)])
    return folder


def card(*addresses: str, **changes) -> Card:
    facts = {
        "name": "tiny",
        "title": "Tiny",
        "homepage": "https://example.org",
        "citation": {"key": "tiny", "bibtex": "@misc{tiny, title={Tiny}}"},
        "licence": {"name": "CC0", "redistribution": "allowed"},
        "addresses": list(addresses),
        "folder": "tiny/images",
        "by_hand": "download tiny.zip and unpack it, so that the folder holds Set 0/cell_0.png",
        "manifest": "manifests/tiny.csv",
        "groups": None,
        "domains": {"tiny": {"title": "Tiny", "crop": 1.0}},
        "labels": {"wbc5": {"N": "neutrophil"}},
    }
    return Card(**facts | changes)


def placed(datasets: Path) -> dict[str, bytes]:
    """Every file below the card's folder, hidden and temporary ones included."""
    folder = datasets / "raw/tiny/images"
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def refusal(*arguments, **keywords) -> str:
    with pytest.raises(UserError) as caught:
        fetch(*arguments, **keywords)
    line = str(caught.value)
    assert "\n" not in line
    return line


PAGE = b"\n<!DOCTYPE html><html><body>Please sign in</body></html>" + b" " * 2000


def zipped(files: dict[str, bytes], top: str = "") -> bytes:
    """A zip of files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(top + name, content)
    return buffer.getvalue()


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


class FileServer:
    """Serves files below prefixes that name its behaviour; keeps the Range of every request."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.requests: list[tuple[str, str, str | None]] = []
        self.sent = 0
        self.lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.serve(body=False)

            def do_GET(self) -> None:
                self.serve(body=True)

            def serve(self, body: bool) -> None:
                _, behaviour, name = self.path.split("/", 2)
                with owner.lock:
                    first = not any(path == self.path for _, path, _ in owner.requests)
                    method = "GET" if body else "HEAD"
                    owner.requests.append((method, self.path, self.headers.get("Range")))
                content = owner.files.get(unquote(name))
                mark, kind = '"1"', "application/zip"
                if behaviour.isdigit():
                    return self.answer(int(behaviour), b"no", {}, body)
                if behaviour == "nohead" and not body:
                    return self.answer(501, b"", {}, body)
                if content is None:
                    return self.answer(404, b"gone", {}, body)
                if behaviour == "page":
                    content, kind = PAGE, "text/html; charset=utf-8"
                elif behaviour == "sly":
                    content = PAGE
                elif behaviour == "changed":
                    content = damaged(content)
                elif behaviour == "short":
                    content = cut(content)
                elif behaviour == "other" and not first:
                    content, mark = content[::-1], '"2"'
                facts = {"ETag": mark, "Content-Type": kind}
                if behaviour in ("unmarked", "half"):
                    del facts["ETag"]
                start, status = 0, 200
                wanted = self.headers.get("Range")
                same = self.headers.get("If-Range") in (None, mark)
                if wanted and same and behaviour != "norange":
                    start = int(wanted.removeprefix("bytes=").partition("-")[0])
                    if start >= len(content):
                        facts["Content-Range"] = f"bytes */{len(content)}"
                        return self.answer(416, b"", facts, body)
                    facts["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
                    status = 206
                breaks = first and behaviour in ("break", "norange", "other")
                end = start + (len(content) - start) // 2 if breaks or behaviour == "half" else None
                if behaviour == "unsized":
                    return self.answer(status, content[start:], facts, body, sized=False)
                return self.answer(
                    status, content[start:end], facts, body, announced=len(content) - start
                )

            def answer(
                self, status, content, facts, body, announced: int | None = None, sized=True
            ) -> None:
                self.send_response(status)
                for name, value in facts.items():
                    self.send_header(name, value)
                if sized:
                    length = len(content) if announced is None else announced
                    self.send_header("Content-Length", str(length))
                self.end_headers()
                if body:
                    self.wfile.write(content)
                    with owner.lock:
                        owner.sent += len(content)

            def log_message(self, *_) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def __call__(self, behaviour: str, name: str = "set.zip") -> str:
        return f"http://127.0.0.1:{self.server.server_port}/{behaviour}/{name}"

    def ranges(self) -> list[str | None]:
        return [wanted for _, _, wanted in self.requests]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


BODY = zipped({f"{k}.png": hashlib.shake_256(bytes([k])).digest(30_000) for k in range(8)})


"""An archive of noise: about 240 kB."""


def published(*urls: str, content: bytes | None = BODY, **changes) -> Archive:
    """An archive's entry in a card, with size and hash unless `content` is None."""
    facts = {}
    if content is not None:
        facts = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return Archive(**{"file": "set.zip", "urls": list(urls), **facts, **changes})


def with_archives(*entries: Archive, addresses: tuple[str, ...] = (), **changes):
    return card(*addresses, archives=list(entries), **changes)


COUNTS = {"Set 0": 6, "Set 1": 6}


def unlisted(*entries: Archive, **changes):
    """A card whose manifest is made from the files: a folder per label."""
    facts = {
        "manifest": "raw/.manifests/tiny.csv",
        "layout": {"reader": "class_folders"},
        "counts": COUNTS,
        "counts_source": "counted",
        "labels": {"wbc5": {"Set 0": "neutrophil", "Set 1": "monocyte"}},
    }
    return with_archives(*entries, **facts | changes)
