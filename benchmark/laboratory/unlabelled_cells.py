"""A network adapted to few unlabelled cells of each target, and what it then predicts of others.

Nothing is trained, and no method sees a label. Of each target some cells are tested and the others
are there to be adapted to; a group (a slide, the photographs of one cell) is on one side only. All
methods, numbers and orders of a draw are tested on the same cells. Which cells a draw takes depends
on the target alone, so that networks are compared on the same ones.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from benchmark.data.arrays import Images
from benchmark.data.haematology import read_prevalences
from benchmark.errors import UserError
from benchmark.evaluation.unlabelled_cells import (
    COLUMNS,
    DRAWS,
    METHODS,
    NONE,
    NUMBERS,
    ORDERS,
    UNLABELLED_CELLS_SCHEMA,
    read_unlabelled_cells,
    unlabelled_cells_folder,
)
from benchmark.execution.networks import axis_seed
from benchmark.files import atomic, digest, writable_folder
from benchmark.laboratory.adaptation import colour_matters, has_batch_statistics
from benchmark.laboratory.networks import Network
from benchmark.metrics import confusion_matrix, predicted_classes, support, supported
from benchmark.models.predict import (
    VIEWS,
    Averaged,
    BatchStatistics,
    Conditions,
    Inference,
    MatchedMoments,
    MatchedScale,
    Tent,
)
from benchmark.progress import say, track
from benchmark.scenarios import corruption_of
from benchmark.study.numerics import version
from benchmark.study.plan import profile_folder
from benchmark.study.records import locks_folder

TESTED = 100
"""Cells of a target that a draw tests; half of the target where it has fewer than twice as many."""
SLIDE = 5
"""Cells that a target's groups hold on average, at the least, where they are slides; others are
photographs of one cell."""
PATIENT = "adult normal"
"""Of `datasets/haematology/prevalences.yaml`, whose shares are the clinical prevalence."""
INFERENCES: dict[str, Callable[[], Inference]] = {
    NONE: Inference,
    "adabn": BatchStatistics,
    "adabn_half": partial(BatchStatistics, 0.5),
    "moments": MatchedMoments,
    "scale_and_moments": partial(MatchedScale, colour=True),
    "tent": Tent,
}


@dataclass(frozen=True)
class Draw:
    """Which cells of a target are tested, and which are adapted to.

    Attributes:
        tested: their rows.
        orders: order → rows in which cells come to be adapted to: a number takes the first.
    """

    tested: np.ndarray
    orders: dict[str, np.ndarray]


def draw_cells(
    labels: np.ndarray,
    groups: Sequence[str],
    names: Sequence[str],
    prevalence: np.ndarray | None,
    seed: int,
) -> Draw:
    """One draw.

    Tested are whole groups, drawn within each class by the commonest class of a group, so that the
    tested have the target's classes; all other groups are there to be adapted to.

    Args:
        labels: int64 [N].
        groups: of each cell.
        names: of the files; numbers in them tell the order of arrival, and folders and letters, in
            which publishers write the class, do not.
        prevalence: (classes,) shares for the order `clinical`; None without it.
        seed: that the draw is a function of.
    """
    generator = np.random.default_rng(seed)
    _, owner = np.unique(np.asarray(groups), return_inverse=True)
    table = pd.DataFrame({"owner": owner, "label": labels})
    # The commonest label of each group; of equally common ones the smallest.
    commonest = table.groupby("owner")["label"].agg(lambda own: own.mode().iloc[0]).to_numpy()
    number = min(TESTED, len(labels) // 2)
    held = np.zeros(len(commonest), bool)
    tested = []
    for label in np.unique(commonest):
        own = generator.permutation(np.flatnonzero(commonest == label))
        cells = np.flatnonzero(commonest[owner] == label)
        wanted = round(number * len(cells) / len(labels))
        sizes = np.bincount(owner, minlength=len(commonest))[own]
        taken = own[np.cumsum(sizes) - sizes < wanted][: max(1, len(own) - 1)]
        taken = taken if wanted else taken[:0]
        held[taken] = True
        tested.append(generator.permutation(cells[held[owner[cells]]])[:wanted])
    pool = np.flatnonzero(~held[owner])
    orders = {"random": generator.permutation(pool)}
    if SLIDE * len(commonest) <= len(labels):
        place = generator.permutation(len(commonest))[owner]
        shuffled = generator.permutation(pool)
        orders["slides"] = shuffled[np.argsort(place[shuffled], kind="stable")]
    if prevalence is not None:
        orders["clinical"] = at_prevalence(
            labels, generator.permutation(pool), prevalence, generator
        )
    pool = sorted(pool, key=lambda row: (arrival(names[row]), names[row]))
    first = int(generator.integers(len(pool))) if len(pool) else 0
    orders["arrival"] = np.roll(np.array(pool, np.int64), -first)
    return Draw(
        np.sort(np.concatenate(tested)),
        {name: rows[: max(NUMBERS)] for name, rows in orders.items()},
    )


def at_prevalence(
    labels: np.ndarray, pool: np.ndarray, prevalence: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Rows of the pool as a smear shows its cells: the class of each next one by the prevalence.

    It ends where the pool has no cell left of the class that would come next.
    """
    left = {label: list(pool[labels[pool] == label]) for label in range(len(prevalence))}
    rows = []
    for label in generator.choice(len(prevalence), max(NUMBERS), p=prevalence):
        if not left[label]:
            break
        rows.append(left[label].pop())
    return np.array(rows, np.int64)


def arrival(name: str) -> tuple[int, ...]:
    """The numbers in a file's name, in their order."""
    return tuple(map(int, re.findall(r"\d+", name.rpartition("/")[2])))


@dataclass(frozen=True)
class Target:
    """A target, and its draws.

    Attributes:
        cells: digest of its images and of how they are drawn.
        numbers: order → the numbers that every one of `DRAWS` draws has cells for.
    """

    name: str
    images: Images
    cells: str
    draws: list[Draw]
    numbers: dict[str, list[int]]

    @staticmethod
    def of(name: str, images: Images, prevalence: np.ndarray | None) -> Target:
        facts = (images.labels, *(images.table[key].tolist() for key in ("group", "image")))
        draws = [
            draw_cells(*facts, prevalence, axis_seed("unlabelled_cells", name, place))
            for place in range(DRAWS)
        ]
        enough = {
            order: [n for n in NUMBERS if n <= min(len(draw.orders[order]) for draw in draws)]
            for order in draws[0].orders
        }
        rows = [[draw.tested.tolist(), *(own.tolist() for own in draw.orders.values())]
                for draw in draws]  # fmt: skip
        pixels = hashlib.sha256(np.ascontiguousarray(images.pixels)).hexdigest()
        cells = digest([pixels, images.labels.tolist(), rows, version("inference")])
        return Target(name, images, cells, draws, enough)


@dataclass(frozen=True)
class Asked:
    """Which draws are to be made; all where nothing is said."""

    draws: int = DRAWS
    methods: Sequence[str] = ()
    orders: Sequence[str] = ()
    numbers: Sequence[int] = ()

    def keys(self, target: Target, methods: Sequence[str]) -> Iterator[tuple[str, str, int]]:
        """Method, order and number of each row of one draw of a target."""
        yield NONE, NONE, 0
        for order, enough in target.numbers.items():
            for number in enough:
                if order in (self.orders or ORDERS) and number in (self.numbers or NUMBERS):
                    yield from ((method, order, number) for method in methods)


def adapt_to_cells(root: Path, network: Network, asked: Asked) -> Path:
    """Write what is missing of `results/<profile>/unlabelled_cells/<network>.parquet`.

    It is written after each draw of each target, so that a killed process loses little.

    Raises:
        UserError: the images are not prepared, or no target has cells enough; another process is at
            the same network.
    """
    name = network.name.replace("/", "__")
    locks = writable_folder(locks_folder(root, network.profile))
    path = unlabelled_cells_folder(profile_folder(root, network.profile)) / f"{name}.parquet"
    try:
        with FileLock(locks / f"unlabelled_cells-{name}.lock", timeout=0):
            fill(path, root, network, asked)
    except Timeout:
        raise UserError(f"another process works on {path}: wait for it") from None
    return path


def fill(path: Path, root: Path, network: Network, asked: Asked) -> None:
    """The same without a lock."""
    targets = targets_of(root, network)
    methods = [name for name in able_methods(network) if name in (asked.methods or METHODS)]
    rows = kept_rows(path, network, targets)
    known = {tuple(row[name] for name in COLUMNS[1:]) for row in rows}
    missing = {
        (place, target.name): [
            key for key in asked.keys(target, methods) if (target.name, *key, place) not in known
        ]
        for place in range(asked.draws)
        for target in targets
    }
    missing = {key: own for key, own in missing.items() if own}
    say(f"{path}: {len(rows)} rows kept, {sum(map(len, missing.values()))} to be added")
    by_name = {target.name: target for target in targets}
    predicting = Predicting(network) if missing else None
    for (place, name), keys in track(missing.items(), f"draws of {network.name}"):
        rows += predicting.rows(by_name[name], place, keys)
        write(path, rows, network.classes)


def targets_of(root: Path, network: Network) -> list[Target]:
    """The targets of the network's scenario that have cells enough, with their draws.

    The source's own test part is one, by the source's name: what a method costs where there is no
    shift.

    Raises:
        UserError: there is none.
    """
    prevalences = read_prevalences(root / "datasets")
    shares = None
    if set(prevalences.classes) == set(network.classes):
        place = list(prevalences.patients).index(PATIENT)
        shares = prevalences.counts(tuple(network.classes))[place]
        shares = shares / shares.sum()
    found = []
    plain = (name for name in network.record.scenario.targets if corruption_of(name) is None)
    for name, part in ((network.source, "id_test"), *((name, "shifted") for name in plain)):
        images = network.prepared(name, part)
        counts = np.bincount(images.labels, minlength=len(network.classes))
        if supported(counts).sum() < 2:
            say(f"note: {name} is left out: fewer than two classes have cells enough to be scored")
            continue
        target = Target.of(name, images, shares)
        if not any(target.numbers.values()):
            say(f"note: {name} is left out: the groups that are tested leave too few cells")
            continue
        found.append(target)
    if not found:
        raise UserError(f"{network.name} has no target with cells enough: choose another network")
    return found


def able_methods(network: Network) -> list[str]:
    """The methods that can do anything to a network; says which cannot, and why."""
    able = []
    for name in METHODS:
        if INFERENCES[name]().batch_statistics and not has_batch_statistics(network):
            say(f"note: {name} is left out: {network.name} keeps no statistics of batches")
        elif name == "moments" and not colour_matters(network):
            say(f"note: {name} is left out: {network.name} brings all images to the same colour")
        elif name != NONE:
            able.append(name)
    return able


def kept_rows(path: Path, network: Network, targets: list[Target]) -> list[dict[str, Any]]:
    """The rows of a file that hold: of this network, and of the cells that are drawn now."""
    if not path.is_file():
        return []
    table = read_unlabelled_cells(path)
    cells = {target.name: target.cells for target in targets}
    same = table["network_sha256"] == network.sha256
    holds = same & (table["target"].map(cells) == table["cells"])
    if not holds.all():
        why = "another network, or of other cells"
        say(f"note: {path}: {(~holds).sum()} rows are of {why}, and are left out")
    return table[holds].to_dict("records")


class Predicting:
    """A network and its methods, which predict draws."""

    def __init__(self, network: Network) -> None:
        train = network.prepared(network.source, "train")
        self.network = network
        self.model = (
            Averaged(network.model, VIEWS["dihedral"]) if network.averages else network.model
        )
        self.conditions = Conditions(
            network.record.settings.training.precision,
            network.device,
            network.preprocessing,
            np.bincount(train.labels, minlength=len(network.classes)) / len(train),
            train.pixels,
        )
        self.methods = {name: build() for name, build in INFERENCES.items()}

    def rows(
        self, target: Target, place: int, keys: Sequence[tuple[str, str, int]]
    ) -> list[dict[str, Any]]:
        """A row for each method, order and number of one draw of a target."""
        classes, images, draw = len(self.network.classes), target.images, target.draws[place]
        counts = support(confusion_matrix(images.labels, images.labels, classes)).tolist()
        found = []
        for method, order, number in keys:
            seen = images.pixels[draw.orders[order][:number] if number else []]
            predictor = self.methods[method].fit(self.model, seen, self.conditions)
            predicted = predicted_classes(predictor(images.pixels[draw.tested]))
            confusion = confusion_matrix(images.labels[draw.tested], predicted, classes)
            values = (self.network.profile, self.network.source, self.network.name)
            values += (self.network.sha256, target.name, target.cells, method, order, number, place)
            values += (counts, confusion.ravel().tolist())
            found.append(dict(zip(UNLABELLED_CELLS_SCHEMA.names, values, strict=True)))
        return found


def write(path: Path, rows: list[dict[str, Any]], classes: Sequence[str]) -> None:
    """Write all rows, in an order that does not depend on which were made first."""
    order = [list(METHODS), [NONE, *ORDERS]]

    def key(row: dict[str, Any]) -> tuple:
        places = (order[0].index(row["method"]), order[1].index(row["order"]))
        return row["draw"], row["target"], *places, row["number"]

    about = {"classes": json.dumps(list(classes))}
    schema = UNLABELLED_CELLS_SCHEMA.with_metadata(about)
    table = pa.Table.from_pylist(sorted(rows, key=key), schema=schema)
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
