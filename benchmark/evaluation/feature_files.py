"""Feature files: a vector for every cell of a profile, from any framework; and which those are.

A file holds names of images and as many vectors, as parquet or as NumPy's npz. Labels, groups and
parts are never read from it: they are the benchmark's own, from the manifests and splits that every
clone has, so that a file is checked and scored without an image.
"""

from __future__ import annotations

import json
import lzma
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmark.data.arrays import cache_folder, facts_path, read_prepared, read_rows, table_path
from benchmark.data.cards import (
    Card,
    card_of,
    load_label_spaces,
    names_of_images,
    raw_folder,
    share_cells,
)
from benchmark.data.manifests import domain_images
from benchmark.data.split import Fold, read_split
from benchmark.errors import UserError, suggest
from benchmark.evaluation.features import About
from benchmark.files import atomic, write_text
from benchmark.scenarios import corruption_of, expand_scenario, sources_of
from benchmark.schema import parse
from benchmark.settings import Params, Weights
from benchmark.study.expansion import own_domains
from benchmark.study.runs import Scenario
from benchmark.tables import shown, tidy_path
from benchmark.texts import shortened

FOLD = 0
"""The fold that is held out where a profile cross-fits: one of them, the same for all features."""
ABOUT = b"about"
"""The key in a parquet file's metadata under which `About` stands as JSON."""
KINDS = (".parquet", ".npz")
NAMES = ("image", "domain", "part")
"""Columns of a parquet file that are no features."""
NEVER_FEATURES = ("label", "labels", "class", "class_name", "target", "group", "index")
"""Names of columns of numbers that would tell what is asked for, or the order of the rows."""
BROKEN = (ValueError, OSError, EOFError, RuntimeError, MemoryError, OverflowError, TypeError)
BROKEN += (zipfile.BadZipFile, zlib.error, lzma.LZMAError)
"""What NumPy and zipfile raise of a file that is no whole npz of numbers and texts."""


@dataclass(frozen=True)
class Cells:
    """Every prepared cell of a profile, in the order of its domains."""

    table: pd.DataFrame
    """domain, image, group, label (index of the class), and part: train, id_val, calibration or
    id_test of a source, "" of another domain."""
    classes: list[str]
    scenarios: list[Scenario]
    """One for each source that is trained on by itself, as the profile's experiments have it."""
    cards: dict[str, Card]

    def rows(self, domain: str, part: str = "shifted") -> np.ndarray:
        """Rows of a part of a domain; `shifted` are all of it."""
        chosen = self.table["domain"] == domain
        return np.flatnonzero(
            chosen if part == "shifted" else chosen & (self.table["part"] == part)
        )

    @property
    def own(self) -> dict[str, int]:
        """Domain that is a laboratory's own → its cells."""
        own = {domain for card in self.cards.values() if card.own for domain in card.domains}
        counts = self.table["domain"].value_counts(sort=False)
        return {domain: int(number) for domain, number in counts.items() if domain in own}

    def published(self) -> Cells:
        """The same without what is a laboratory's own, which no other clone has."""
        own = self.own
        scenarios = []
        for scenario in self.scenarios:
            targets = tuple(target for target in scenario.targets if target not in own)
            if scenario.source not in own and targets:
                scenarios.append(scenario.model_copy(update={"targets": targets, "own": ()}))
        kept = self.table[~self.table["domain"].isin(list(own))].reset_index(drop=True)
        return Cells(kept, self.classes, scenarios, self.cards)

    def share_cells(self, domain: str, other: str) -> bool:
        """Whether two domains may show the same cells."""
        return share_cells(self.cards, domain, other)

    def contamination(self, about: About, scenario: Scenario) -> dict[str, list[str]]:
        """`contaminated` or `unknown` → the test sets that the network has seen, or may have.

        What it has learnt of the training part of the source is no contamination.
        """
        names, found = names_of_images(self.cards), {}
        seen = Weights(file="any", training_datasets=about.training_datasets)
        home = () if about.trained_on == scenario.source else (scenario.source,)
        for domain in (*home, *scenario.targets):
            verdict = seen.contamination(names[domain] | {domain})
            if verdict != "clean":
                found.setdefault(verdict, []).append(domain)
        return found


def cells_of(root: Path, params: Params, cards: dict[str, Card], profile: str) -> Cells:
    """The cells of a profile, from what was prepared, or else from manifests and splits alone.

    Raises:
        UserError: no split; no source that is trained on by itself; manifests that do not tell
            which images were prepared, where those are not here.
    """
    chosen = params.profile(profile)
    classes = load_label_spaces(root / "datasets")[chosen.label_space]
    scenarios = scenarios_of(params, cards, profile)
    rows = prepared_rows(root, params, cards, profile)
    rows = rows.assign(part="", label=rows["class_name"].map(classes.index))
    fold = Fold(FOLD, chosen.folds) if chosen.folds else None
    for source in {scenario.source for scenario in scenarios}:
        split = read_split(root / "datasets", source, fold).set_index("path")["part"]
        own = rows["domain"] == source
        rows.loc[own, "part"] = rows.loc[own, "image"].map(split)
    table = rows[["domain", "image", "group", "label", "part"]].reset_index(drop=True)
    return Cells(table, classes, scenarios, cards)


def prepared_rows(root: Path, params: Params, cards: dict[str, Card], profile: str) -> pd.DataFrame:
    """domain, image, group and class_name of every prepared cell of a class."""
    chosen, cache = params.profile(profile), table_path(cache_folder(root, profile))
    if cache.exists():
        rows = read_rows(cache, profile)
        return pd.concat([rows[rows["domain"] == domain] for domain in chosen.domains])
    facts, tables = facts_path(root, profile), []
    stated = read_prepared(facts)["domains"] if facts.exists() else {}
    for domain in chosen.domains:
        asked = domain, chosen.label_space, chosen.subset
        table = domain_images(root / "datasets", card_of(cards, domain), *asked)
        if domain in stated and stated[domain]["images"] != len(table):
            raise UserError(
                f"{facts}: {stated[domain]['images']} cells of {domain} were prepared, its "
                f"manifest lists {len(table)}: `wbc-shift prepare -p {profile}` tells which"
            )
        tables.append(table.rename(columns={"path": "image"}).assign(domain=domain))
    return pd.concat(tables)


def scenarios_of(params: Params, cards: dict[str, Card], profile: str) -> list[Scenario]:
    """The first scenario of each source that is trained on by itself, in the order of the plan."""
    chosen, found = params.profile(profile), {}
    names = [name for experiment in chosen.experiments.values() for name in experiment.scenarios]
    for name in names:
        source, targets = expand_scenario(name, chosen.domains)
        if len(sources_of(source)) == 1 and corruption_of(targets[0]) is None:
            own = tuple(own_domains(cards, targets))
            scenario = Scenario(name=name, source=source, targets=tuple(targets), own=own,
                                folds=chosen.folds)  # fmt: skip
            found.setdefault(source, scenario)
    if not found:
        raise UserError(
            f"profile {profile}: no scenario trains on one domain and tests on others, which "
            "features are scored by: choose another profile"
        )
    return list(found.values())


def write_cells(path: Path, root: Path, cells: Cells) -> tuple[int, int]:
    """Write which cells a feature file has to hold: a CSV of image, domain, part, class and the
    file that `fetch` places; return their number, and how many of these files are not there."""
    table = cells.table[["image", "domain", "part"]]
    folders = {
        domain: raw_folder(root / "datasets", card_of(cells.cards, domain))
        for domain in table["domain"].unique()
    }
    files = [
        (folders[domain] / image).as_posix()
        for domain, image in zip(table["domain"], table["image"], strict=True)
    ]
    names = np.array(cells.classes)[cells.table["label"]]
    text = table.assign(**{"class": names}, file=files).to_csv(index=False, lineterminator="\n")
    write_text(path, text)
    return len(table), sum(not Path(file).is_file() for file in files)


# --------------------------------------------------------------------------- reading


def write_features(path: Path, cells: Cells, features: np.ndarray, about: About) -> None:
    """Write features float [N, D] of all cells as parquet, half precision where it holds them."""
    with np.errstate(over="ignore"):
        half = features.astype(np.float16)
    values = half if np.isfinite(half).all() else features.astype(np.float32)
    kind = pa.float16() if values.dtype == np.float16 else pa.float32()
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), kind), values.shape[1])
    columns = {name: pa.array(cells.table[name]) for name in ("image", "domain", "part")}
    table = pa.table(columns | {"features": vectors})
    stated = {ABOUT: about.model_dump_json(exclude_none=True)}
    with atomic(path) as temporary:
        pq.write_table(table.replace_schema_metadata(stated), temporary, compression="zstd")


def read_features(path: Path, cells: Cells) -> tuple[np.ndarray, About, list[str]]:
    """Features float32 [N, D] of all cells, in their order; what the file says of itself; notes.

    A parquet file has a column `image`, if need be `domain`, and either a column `features` of
    lists or only columns of numbers besides; an npz file has arrays `images`, if need be `domains`,
    and `features` [N, D]. Images are called as `write_cells` calls them.

    Raises:
        UserError: one line for the first fault: no such file or of another kind, no names, no
            numbers, lists of several lengths, NaN, a cell twice, missing, or of unknown domain.
    """
    path = Path(path)
    if path.suffix not in KINDS:
        raise UserError(f"{path}: a feature file ends in {' or '.join(KINDS)}")
    if not path.is_file():
        raise UserError(f"{path} is missing: name a feature file")
    read = (read_npz if path.suffix == ".npz" else read_parquet)(path)
    about = parse(About, read.about, str(path))
    images, values = read.images, read.vectors
    if values.ndim != 2 or not values.size or values.dtype.kind not in "fiu":
        shape = " x ".join(map(str, values.shape))
        raise UserError(f"{path}: features are {shape} of {values.dtype}: a vector of numbers for "
                        "each image is needed, images x dimensions")  # fmt: skip
    if len(images) != len(values) or len(read.domains) not in (0, len(images)):
        raise UserError(f"{path}: {len(values)} vectors, {len(images)} names of images and "
                        f"{len(read.domains)} of domains: one of each is needed")  # fmt: skip
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    if len(broken := np.flatnonzero(~np.isfinite(values).all(axis=1))):
        raise UserError(
            f"{path}: {len(broken)} of {len(values)} vectors hold NaN or infinite numbers: those "
            f"of {shown(images[row] for row in broken)}"
        )
    order, notes = place(path, read, cells)
    values = values[order]
    if (idle := int((np.ptp(values, axis=0) == 0).sum())) == values.shape[1]:
        raise UserError(f"{path}: every cell has the same vector")
    if idle:
        notes.append(f"{idle} of {values.shape[1]} dimensions are the same for every cell")
    return values, about, notes


class Read(NamedTuple):
    """What a file holds, unchecked."""

    images: list[str]
    domains: list[str]
    """empty where the file does not tell"""
    vectors: np.ndarray
    about: dict[str, Any]


def read_npz(path: Path) -> Read:
    """An npz file, of which no code is run; arrays beside the three are what it says of itself."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except BROKEN as error:
        why = shortened(str(error))
        raise UserError(f"{path} cannot be read ({why}): write it with numpy.savez") from None
    for name in ("images", "features"):
        if name not in arrays:
            raise UserError(f"{path}: no array '{name}'{suggest(name, arrays)}")
    if bare := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise UserError(f"{path}: '{shortened(bare[0])}' is no array: write it with numpy.savez")
    names = [names_in(path, arrays.pop(n, np.array([], str)), n) for n in ("images", "domains")]
    vectors = arrays.pop("features")
    return Read(*names, vectors, {name: array.tolist() for name, array in arrays.items()})


def names_in(path: Path, array: np.ndarray, name: str) -> list[str]:
    """Names in an array [N] of an npz file; bytes are UTF-8."""
    if array.ndim != 1:
        raise UserError(f"{path}: '{name}' has {array.ndim} dimensions: a list of names is needed")
    try:
        texts = np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array.astype(str)
    except UnicodeDecodeError:
        raise UserError(f"{path}: '{name}' holds bytes that are no UTF-8") from None
    return texts.tolist()


def read_parquet(path: Path) -> Read:
    """A parquet file; what it says of itself stands in its metadata, as JSON under `about`."""
    try:
        table = pq.read_table(path, partitioning=None)
        about = json.loads((table.schema.metadata or {}).get(ABOUT, b"{}"))
    except (ValueError, OSError, RecursionError) as error:  # pyarrow's errors are ValueErrors
        raise UserError(f"{path} cannot be read ({shortened(str(error))})") from None
    names = table.column_names
    if "image" not in names:
        raise UserError(f"{path}: no column 'image'{suggest('image', names)}")
    images, domains = (
        [str(name) for name in table[column].to_pylist()] if column in names else []
        for column in ("image", "domain")
    )
    if "features" in names:
        return Read(images, domains, stacked(path, table["features"].combine_chunks()), about)
    wide = table.drop_columns([name for name in NAMES if name in names])
    for name, kind in zip(wide.schema.names, wide.schema.types, strict=True):
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            raise UserError(
                f"{path}: column '{name}' holds {kind} and no numbers: remove it, or give the "
                "vectors as lists in a column 'features'"
            )
        if name.lower() in NEVER_FEATURES or name.startswith("__"):
            raise UserError(f"{path}: column '{name}' is no feature: remove it")
    columns = [column.to_numpy().astype(np.float32) for column in wide.columns]
    vectors = np.stack(columns, axis=1) if columns else np.empty((len(images), 0))
    return Read(images, domains, vectors, about)


def stacked(path: Path, column: pa.Array) -> np.ndarray:
    """A column of lists of equally many numbers as an array [N, D]."""
    kind = column.type
    if not (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    ):
        raise UserError(f"{path}: column 'features' holds {kind}, lists of numbers are needed")
    lengths = set(pc.unique(pc.list_value_length(column)).to_pylist())
    if len(lengths) > 1 or None in lengths:
        known = sorted(length for length in lengths if length is not None)
        raise UserError(
            f"{path}: column 'features' holds lists of {shown(known)} numbers"
            f"{' and rows without any' if None in lengths else ''}: all need equally many"
        )
    width = max(lengths, default=0)
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), width)


def place(path: Path, read: Read, cells: Cells) -> tuple[np.ndarray, list[str]]:
    """The row of the file that each cell's vector is in, and a note of rows that name no cell."""
    known = cells.table["domain"].unique()
    if unknown := sorted(set(read.domains) - set(known)):
        raise UserError(f"{path}: unknown domain '{shortened(unknown[0])}'"
                        f"{suggest(unknown[0], known)}")  # fmt: skip
    names = [tidy_path(name) for name in read.images]
    wanted = cells.table["image"].tolist()
    if not read.domains and cells.table["image"].duplicated().any():
        # One name in two domains: only those are ambiguous that are not the same cell.
        raise UserError(f"{path}: images of two domains have one name: add the domains")
    keys = list(zip(read.domains, names, strict=True)) if read.domains else names
    rows: dict[Any, int] = {}
    for row, key in enumerate(keys):
        if key in rows:
            raise UserError(f"{path}: image '{names[row]}' has two vectors: one each")
        rows[key] = row
    cell_keys = list(zip(cells.table["domain"], wanted, strict=True)) if read.domains else wanted
    if missing := [place for place, key in enumerate(cell_keys) if key not in rows]:
        counts = cells.table["domain"].iloc[missing].value_counts()
        where = ", ".join(f"{number} of {domain}" for domain, number in counts.items())
        raise UserError(
            f"{path}: no vector for {len(missing)} of {len(wanted)} cells ({where}): "
            f"{shown(wanted[place] for place in missing)}; --images FILE lists all that are needed"
        )
    spare = sorted(set(rows) - set(cell_keys), key=str)
    notes = (
        [
            f"{len(spare)} of {len(names)} vectors are of no cell of the profile and are not used: "
            f"{shown(key if isinstance(key, str) else key[1] for key in spare)}"
        ]
        if spare
        else []
    )
    return np.array([rows[key] for key in cell_keys]), notes
