"""The prepared images as arrays: where they lie, and the rows of a part or a domain."""

from __future__ import annotations

import hashlib
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmark.data.cards import OPEN_SET
from benchmark.data.corruptions import corrupt
from benchmark.data.split import Fold, anew, read_split
from benchmark.data.stain import Stain, fit_stain
from benchmark.errors import ChangedInput, UserError
from benchmark.files import digest, sha256_file
from benchmark.scenarios import corruption_of, sources_of
from benchmark.schema import Record, read_record
from benchmark.texts import shortened

OPEN_SET_PART = "open_set"
"""The part of cells that are of no class of the label space."""
OPEN_SET_SUFFIX = f".{OPEN_SET_PART}"
FOREIGN = {kind: -1 - place for place, kind in enumerate(OPEN_SET)}
"""What such a cell is → the label it stands under, a negative one."""


def open_set_of(domain: str) -> str:
    """The name under which a domain's cells of no class are prepared."""
    return domain + OPEN_SET_SUFFIX


def cache_folder(root: Path, profile: str) -> Path:
    """Folder of a profile's prepared images."""
    return Path(root) / "datasets" / "cache" / profile


def array_path(cache: Path, domain: str, framing: str | None = None) -> Path:
    """The uint8 [N, S, S, 3] array of a domain, in a framing or as the profile shows it."""
    return cache / (f"{domain}@{framing}.npy" if framing else f"{domain}.npy")


def table_path(cache: Path) -> Path:
    """The table that names every row: domain, row, image, group, class_name."""
    return cache / "manifest.parquet"


def fields_path(cache: Path) -> Path:
    """The table of the fields in which a cell was looked for: domain, image, x, y, contrast."""
    return cache / "fields.parquet"


def facts_path(root: Path, profile: str) -> Path:
    """What was prepared for a profile, with the digest of each array."""
    return Path(root) / "results" / profile / "data.json"


def data_digest(array_sha256: str, rows: pd.DataFrame) -> str:
    """Digest of prepared images: of the array's file, and of the table that names its rows."""
    both = array_sha256 + digest(rows.to_numpy().tolist())
    return hashlib.sha256(both.encode()).hexdigest()[:16]


@lru_cache  # the same array is read again in another stain, and before every corruption
def sha256_once(path: Path, size: int, changed_ns: int) -> str:
    """SHA-256 of a file, computed once a process while its size and its time stay."""
    return sha256_file(path)


def read_rows(path: Path, profile: str) -> pd.DataFrame:
    """The table that names every row; a broken one is a `UserError`."""
    columns = ["domain", "row", "image", "group", "class_name"]
    try:
        return pd.read_parquet(path, columns=columns)
    except (ValueError, OSError) as error:  # pyarrow's errors are ValueErrors
        again = f"run `wbc-shift prepare -p {profile}`"
        raise UserError(f"{path} cannot be read ({shortened(str(error))}): {again}") from None


class PreparedDomain(Record):
    """A domain as `prepare` left it."""

    dataset: str
    images: int
    classes: dict[str, int]
    crop: Any
    digest: str = ""


class Prepared(Record):
    """`data.json`."""

    subset: str
    image_size: int
    label_space: str
    domains: dict[str, PreparedDomain]
    framings: dict[str, dict[str, Any]] = {}  # noqa: RUF012  pydantic copies defaults


def read_prepared(path: Path) -> dict[str, Any]:
    """What `prepare` made: `results/<profile>/data.json`."""
    return read_record(path, Prepared, f"run `wbc-shift prepare -p {Path(path).parent.name}`")


@dataclass(frozen=True)
class Images:
    """Images of one part of one domain, decoded."""

    pixels: np.ndarray
    """uint8 [N, S, S, 3], RGB."""
    labels: np.ndarray
    """int64 [N], index into the label space's classes; negative, of none of them (`FOREIGN`)."""
    table: pd.DataFrame
    """image, group, domain and part of each row."""
    domains: np.ndarray | None = None
    """int64 [N], which of several source domains an image is from; None of one."""

    def __len__(self) -> int:
        return len(self.labels)


class PreparedImages:
    """Prepared images of a profile, in one framing and stain, each read once and kept."""

    def __init__(
        self,
        root: Path,
        profile: str,
        classes: list[str],
        framing: str | None = None,
        stain: Stain | None = None,
    ) -> None:
        self.root, self.profile, self.classes = Path(root), profile, classes
        self.framing = framing
        self.stain = stain
        self.stain_failures: dict[str, float] = {}
        """Domain → share of its images whose stain could not be fitted and is as it was."""
        self.cache = cache_folder(root, profile)
        if not table_path(self.cache).exists():
            raise UserError(f"{self.cache} is empty: run `wbc-shift prepare -p {profile}`")
        self.table = read_rows(table_path(self.cache), profile)
        self._facts = read_prepared(facts_path(root, profile))
        self._domains: dict[str, Images] = {}
        self._splits: dict[str, pd.Series] = {}
        self.fold: Fold | None = None

    def in_fold(self, fold: Fold | None) -> PreparedImages:
        """The same images with a fold of each source held out as its id_test."""
        if fold == self.fold:
            return self
        other = copy(self)
        other.fold, other._splits = fold, {}
        return other

    def domain(self, name: str) -> Images:
        """Every image of a domain, as a shifted test set."""
        if name not in self._domains:
            path = array_path(self.cache, name, self.framing)
            if not path.exists():
                raise ChangedInput(f"{path} is missing: run `wbc-shift prepare -p {self.profile}`")
            self._verify(name, path)
            table = self.table[self.table["domain"] == name].assign(part="shifted")
            codes = FOREIGN | {class_name: code for code, class_name in enumerate(self.classes)}
            labels = table["class_name"].map(codes).to_numpy(np.int64, copy=True)
            columns = ["image", "domain", "part", "group"]
            pixels = np.load(path)
            if self.stain is not None:
                pixels, failed = self.stain(pixels)
                self.stain_failures[name] = float(failed.mean())
            self._domains[name] = Images(pixels, labels, table[columns])
        return self._domains[name]

    def _verify(self, name: str, path: Path) -> None:
        """Refuse an array or labels that are not those that were prepared.

        Their digest is part of every fingerprint: what is trained on others would bear their name.
        """
        facts: dict[str, Any] = self._facts
        if self.framing is not None:
            facts = facts.get("framings", {}).get(self.framing, {"domains": {}})
        domain, apart, _ = name.partition(OPEN_SET_SUFFIX)
        known = facts["domains"].get(domain, {})
        known = (known.get("open_set", {}) if apart else known).get("digest")
        state = path.stat()
        rows = self.table[self.table["domain"] == name]
        found = data_digest(sha256_once(path, state.st_size, state.st_mtime_ns), rows)
        if found != known:
            raise ChangedInput(
                f"{path} and its labels in {table_path(self.cache).name} have the digest {found}, "
                f"{facts_path(self.root, self.profile)} says {known or 'nothing of them'}: "
                f"run `wbc-shift prepare -p {self.profile}`"
            )

    def test_set(self, domain: str, part: str) -> Images:
        """A part of a source, a target, corrupted or not, or cells of no class, as a test set."""
        if part == OPEN_SET_PART:
            whole = self.domain(open_set_of(domain))
            return replace(whole, table=whole.table.assign(domain=domain, part=part))
        if part != "shifted":
            return self.part(domain, part)
        corruption = corruption_of(domain)
        return self.corrupted(*corruption) if corruption else self.domain(domain)

    def seen_by(self, source: str, stain: str, framing: str | None) -> PreparedImages:
        """The same cells in a framing, stain normalised as fitted on the source's training part.

        Args:
            stain: `none`, or a normalisation of `benchmark/data/stain.py`.
            framing: one of the profile's; None, as the profile shows them.
        """
        framed = self if framing == self.framing else self._with(framing)
        if stain == "none":
            return framed
        return self._with(framing, fit_stain(stain, framed.part(source, "train").pixels))

    def _with(self, framing: str | None, stain: Stain | None = None) -> PreparedImages:
        other = PreparedImages(self.root, self.profile, self.classes, framing, stain)
        return other.in_fold(self.fold)

    def corrupted(self, source: str, corruption: str, severity: int) -> Images:
        """The source's id_test under a corruption, as a domain of its own."""
        # The microscope comes before the stain normalisation: the raw image is what is corrupted.
        raw = self if self.stain is None else self._with(self.framing)
        whole = raw.part(source, "id_test")
        pixels = corrupt(whole.pixels, whole.table["image"].tolist(), corruption, severity)
        if self.stain is not None:
            pixels, _ = self.stain(pixels)
        domain = f"{source}:{corruption}:{severity}"
        table = whole.table.assign(domain=domain, part="shifted")
        return Images(pixels, whole.labels, table)

    def part(self, source: str, part: str) -> Images:
        """The images of one part of a source: of one domain, or of several together (`a+b`).

        Raises:
            UserError: an image that the split does not know, a part without images, or a training
                part in which a class is absent.
        """
        parts = [self._part(domain, part) for domain in sources_of(source)]
        images = parts[0] if len(parts) == 1 else pooled(parts, source)
        if part == "train" and (absent := set(range(len(self.classes))) - set(images.labels)):
            names = ", ".join(self.classes[c] for c in sorted(absent))
            splits = ", ".join(f"datasets/splits/{domain}.csv" for domain in sources_of(source))
            raise UserError(
                f"{source}: no training image of {names}: "
                f"check {splits} or choose another label space"
            )
        return images

    def _part(self, domain: str, part: str) -> Images:
        whole = self.domain(domain)
        if domain not in self._splits:
            split = read_split(self.root / "datasets", domain, self.fold)
            self._splits[domain] = split.set_index("path")["part"]
        parts = whole.table["image"].map(self._splits[domain])
        if parts.isna().any():
            unknown = whole.table.loc[parts.isna(), "image"].iloc[0]
            raise UserError(f"{domain}: {unknown} is in no part of the split: {anew(domain)}")
        rows = np.flatnonzero(parts == part)
        if len(rows) == 0:
            raise UserError(f"{domain}: no image in {part}: check datasets/splits/{domain}.csv")
        table = whole.table.iloc[rows].assign(part=part)
        return Images(whole.pixels[rows], whole.labels[rows], table)


def pooled(parts: list[Images], source: str) -> Images:
    """The same part of several source domains as one set of images, which remembers whose."""
    tables = [images.table.assign(domain=source) for images in parts]
    return Images(
        np.concatenate([images.pixels for images in parts]),
        np.concatenate([images.labels for images in parts]),
        pd.concat(tables, ignore_index=True),
        np.repeat(np.arange(len(parts)), [len(images) for images in parts]),
    )
