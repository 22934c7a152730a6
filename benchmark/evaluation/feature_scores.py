"""Scores of features: fixed readouts of a source's training part, and what labelled cells buy.

The readouts are the same for all features, and none is chosen on a target: the vote of the 1 or 20
nearest training cells by cosine, logistic regression on standardised features (L2, C chosen by
macro-F1 on id_val), and the nearest class mean by cosine.

*Labelled cells*: a target is cut into halves, ten times, no group on two sides. Of one half k cells
of each class are labelled, and two readouts are fitted on these alone; the other half is tested,
the same for every k. At k = 0 the source's readouts answer it. No label chooses anything: C is 1,
and features are standardised by all cells of the first half, labelled or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold

from benchmark import metrics
from benchmark.errors import UserError
from benchmark.evaluation.feature_files import Cells, read_features
from benchmark.evaluation.features import (
    LOCAL,
    READOUTS,
    About,
    FeatureRecord,
    FeatureSet,
    common_neighbours,
    features_folder,
    read_sets,
    robustness_at,
    scores_of,
    verdict_of,
    write_set,
)
from benchmark.evaluation.intervals import Interval
from benchmark.evaluation.resampling import generator
from benchmark.evaluation.robustness import NEIGHBOURS, drawn_cells, normalised, robustness
from benchmark.files import digest
from benchmark.progress import track
from benchmark.tables import shown
from benchmark.training.readouts import LinearProbe, NearestNeighbours, Source, id_val_macro_f1

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""C of the logistic regression, the inverse of its penalty; of equally good ones the smallest."""
BUDGETS = (1, 5, 10, 20, 50)
"""Labelled cells of each class, beside none."""
DRAWS = 10
HALVES = 100
"""Random halves of the groups of a target, of which the one is taken that cuts its classes best."""
FOLDS = 5
"""Of the cells of two laboratories."""

Predictor = Callable[[np.ndarray], np.ndarray]
"""Features [N, D] → class indices [N]."""


# --------------------------------------------------------------------------- readouts


def readouts(source: Source, classes: int) -> tuple[dict[str, Predictor], float]:
    """Every readout fitted on the source, and the C that id_val chose."""
    probes = [(penalty, LinearProbe(penalty)(source, classes, 0)) for penalty in PENALTIES]
    scores = [id_val_macro_f1(probe, source, classes) for _, probe in probes]
    chosen, probe = probes[int(np.argmax(scores))]
    nearest = (NearestNeighbours(k)(source, classes, 0) for k in (1, 20))
    modules = (*nearest, probe)
    found = {name: answers_of(module) for name, module in zip(READOUTS, modules, strict=False)}
    found["prototypes"] = fit_prototypes(source.features, source.labels)
    return found, chosen


def answers_of(module: torch.nn.Module) -> Predictor:
    @torch.inference_mode()
    def predict(features: np.ndarray) -> np.ndarray:
        batches = torch.from_numpy(features).split(1024)
        return torch.cat([module(batch).argmax(1) for batch in batches]).numpy()

    return predict


def fit_prototypes(features: np.ndarray, labels: np.ndarray) -> Predictor:
    """The class whose mean is nearest by cosine; means are of vectors of unit length."""
    known = np.unique(labels)
    vectors = normalised(features)
    means = normalised(np.stack([vectors[labels == c].mean(axis=0) for c in known]))
    return lambda new: known[(normalised(new) @ means.T).argmax(axis=1)]


def fit_linear(features: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Logistic regression (multinomial, L2, C = 1) of few cells, as a function of features.

    It is fitted in the space that the cells span, which holds the weights that the penalty allows:
    the same answers in a fraction of the time where there are fewer cells than features.

    Args:
        features: [N, D], scaled.
        labels: [N]; of a single class, which is then the answer.
    """
    if len(np.unique(labels)) == 1:
        return lambda new: np.full(len(new), labels[0])
    centre = features.mean(axis=0)
    basis, _ = np.linalg.qr((features - centre).T)
    regression = LogisticRegression(max_iter=2000).fit((features - centre) @ basis, labels)
    return lambda new: regression.predict((new - centre) @ basis)


# --------------------------------------------------------------------------- laboratories


def laboratory_told(
    features: np.ndarray, labels: np.ndarray, laboratories: np.ndarray, groups: np.ndarray
) -> float:
    """How well a linear classifier tells which of two laboratories a cell is from: balanced
    accuracy, mean over all pairs; one half by chance.

    Of each class that both have, `CELLS` cells of each; logistic regression (C = 1) on standardised
    features, cross-validated in five folds that cut no group.

    Args:
        features, labels, laboratories, groups: as in `robustness`.
    """
    drawn, found = drawn_cells(labels, laboratories, 0), []
    for pair in track([*combinations(np.unique(laboratories), 2)], "laboratories told"):
        shared = [c for c in np.unique(labels) if all((lab, c) in drawn for lab in pair)]
        if not shared:
            continue
        rows = np.concatenate([drawn[lab, c] for lab in pair for c in shared])
        answers = np.empty(len(rows), laboratories.dtype)
        folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
        for train, test in folds.split(rows, laboratories[rows], groups[rows]):
            own = features[rows[train]]
            mean, spread = own.mean(axis=0), own.std(axis=0)
            scaled = (features[rows] - mean) / np.where(spread > 1e-12, spread, 1)
            answers[test] = fit_linear(scaled[train], laboratories[rows[train]])(scaled[test])
        found.append(balanced_accuracy_score(laboratories[rows], answers))
    return float(np.mean(found)) if found else float("nan")


# --------------------------------------------------------------------------- labelled cells


def halves(labels: np.ndarray, groups: np.ndarray, *names: str) -> np.ndarray:
    """[N] booleans: which cells of a target may be labelled, about one half, whole groups alone.

    Of `HALVES` random halves of the groups the one in which the share of no class is far from half.

    Args:
        names: what the cells belong to; they fix the random numbers.
    """
    random = generator("halves", *names)
    present, members = np.unique(groups, return_inverse=True)
    table = np.zeros((len(present), labels.max() + 1))
    np.add.at(table, (members, labels), 1)
    shares = table[:, table.sum(axis=0) > 1]
    shares = shares / shares.sum(axis=0)
    order = np.argsort(random.random((HALVES, len(present))), axis=1)
    chosen = order < (len(present) + 1) // 2
    worst = np.abs(chosen @ shares - 0.5).max(axis=1)
    return chosen[worst.argmin()][members]


def labelled_cells(labels: np.ndarray, pool: np.ndarray, *names: str) -> dict[int, np.ndarray]:
    """k → rows of k cells of each class of a pool; those of a smaller k are among them.

    Classes that carry no claim (`metrics.MINIMUM_SUPPORT`) give what they have; a k that a class
    which does cannot give is left out.
    """
    counts = np.bincount(labels)
    order = generator("labelled", *names).permutation(np.flatnonzero(pool))
    by_class = {c: order[labels[order] == c] for c in np.flatnonzero(counts)}
    fewest = min((len(by_class[c]) for c in by_class if metrics.supported(counts[c])), default=0)
    return {
        k: np.concatenate([rows[:k] for rows in by_class.values()]) for k in BUDGETS if k <= fewest
    }


def budget_rows(
    cells: Cells, features: np.ndarray, fitted: dict[str, dict[str, Predictor]]
) -> Iterator[dict[str, Any]]:
    """A row per target, readout, number of labelled cells and draw, as in `FeatureSet.budgets`.

    Args:
        fitted: source → its readouts, which answer where nothing is labelled.
    """
    sources = {target: [s.source for s in cells.scenarios if target in s.targets]
               for target in cells.table["domain"].unique()}  # fmt: skip
    classes = len(cells.classes)
    for target in track([name for name in sources if sources[name]], "labelled cells"):
        rows = cells.rows(target)
        own, labels = features[rows], cells.table["label"].to_numpy()[rows]
        groups = np.unique(cells.table["group"].iloc[rows], return_inverse=True)[1]
        support = np.bincount(labels, minlength=classes).tolist()
        for draw in range(DRAWS):
            pool = halves(labels, groups, target, str(draw))
            tested, truth = own[~pool], labels[~pool]
            answers = [
                (source, readout, 0, 0, fitted[source][readout](tested))
                for source in sources[target]
                for readout in LOCAL
            ]
            mean, spread = own[pool].mean(axis=0), own[pool].std(axis=0)
            scaled = (own - mean) / np.where(spread > 1e-12, spread, 1)
            for k, chosen in labelled_cells(labels, pool, target, str(draw)).items():
                linear = fit_linear(scaled[chosen], labels[chosen])(scaled[~pool])
                means = fit_prototypes(own[chosen], labels[chosen])(tested)
                for readout, predicted in zip(LOCAL, (linear, means), strict=True):
                    answers.append(("", readout, k, len(chosen), predicted))
            for source, readout, k, number, predicted in answers:
                confusion = metrics.confusion_matrix(truth, predicted, classes)
                yield {
                    "source": source,
                    "target": target,
                    "method": readout,
                    "per_class": k,
                    "number": number,
                    "draw": draw,
                    "support": support,
                    "confusion": confusion.ravel().tolist(),
                }


# --------------------------------------------------------------------------- scoring


def score_features(
    cells: Cells, features: np.ndarray, about: About, name: str, profile: str
) -> FeatureSet:
    """Fit every readout on every source, and measure what features hold of cell and laboratory.

    Args:
        features: float32 [N, D] of all cells, in their order.
    """
    labels = cells.table["label"].to_numpy(np.int64)
    fitted, penalty, tables = {}, {}, []
    for scenario in cells.scenarios:
        train, id_val = (cells.rows(scenario.source, part) for part in ("train", "id_val"))
        source = Source(features[train], labels[train], features[id_val], labels[id_val])
        fitted[scenario.source], penalty[scenario.source] = readouts(source, len(cells.classes))
        for domain, part in scenario.test_sets:
            rows = cells.rows(domain, part)
            answers = {
                readout: predict(features[rows]).astype(np.int8)
                for readout, predict in fitted[scenario.source].items()
            }
            where = {"scenario": scenario.name, "domain": domain, "part": part}
            own = cells.table.iloc[rows][["image", "group", "label"]]
            tables.append(own.assign(**where, **answers))
    budgets = pd.DataFrame(budget_rows(cells, features, fitted))
    measured = where_measured(cells)
    domains = cells.table["domain"].unique().tolist()
    places = cells.table["domain"].map(domains.index).to_numpy()[measured]
    groups = np.unique(cells.table["domain"] + "/" + cells.table["group"], return_inverse=True)[1]
    own = features[measured], labels[measured], places, groups[measured]
    found = robustness(*own)
    curve = {name: known(values) for name, values in found._asdict().items()}
    (told,) = known(np.array([laboratory_told(*own)]))
    record = FeatureRecord(
        schema_version=1,
        name=name,
        profile=profile,
        about=about,
        dimension=features.shape[1],
        classes=tuple(cells.classes),
        scenarios=tuple(cells.scenarios),
        cells=cells_digest(cells),
        penalty=penalty,
        robustness={"neighbours": list(NEIGHBOURS)} | curve,
        laboratory_told=told,
        contamination={s.source: cells.contamination(about, s) for s in cells.scenarios},
    )
    return FeatureSet(record, pd.concat(tables, ignore_index=True), budgets)


def cells_digest(cells: Cells) -> str:
    """What scores have to have in common to stand in one table."""
    return digest(cells.table.to_numpy().tolist())


def where_measured(cells: Cells) -> np.ndarray:
    """Rows of the cells by which robustness is measured: none that a network here has learnt.

    Of a source its id_test; of domains that share their cells the first; no laboratory's own, for
    which a published number would be another in every clone.
    """
    sources = {scenario.source for scenario in cells.scenarios}
    own = {domain for card in cells.cards.values() if card.own for domain in card.domains}
    kept: list[str] = []
    for domain in cells.table["domain"].unique():
        if domain not in own and not any(cells.share_cells(domain, other) for other in kept):
            kept.append(domain)
    parts = [cells.rows(name, "id_test" if name in sources else "shifted") for name in kept]
    return np.concatenate(parts)


def known(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 4) for value in values]


# --------------------------------------------------------------------------- told


def score_file(cells: Cells, results: Path, path: Path, name: str) -> Iterator[str]:
    """Score a feature file, keep what tables need of it, and place it among the other sets.

    Where these were scored on published sets alone, a laboratory's own cells are left out and said.

    Args:
        name: of the set, and of its folder; a set of this name is replaced.

    Raises:
        UserError: as `feature_files.read_features` and `read_sets`.
    """
    others = [other for other in read_sets(results) if other.record.name != name]
    own_cells: dict[str, int] = {}
    if others and others[0].record.cells != cells_digest(cells):
        own_cells = cells.own
        cells = cells.published() if own_cells else cells
    if others and others[0].record.cells != cells_digest(cells):
        raise UserError(
            f"{features_folder(results)} holds sets that were scored on other cells than the "
            f"{len(cells.table)} of the profile {results.name} here: score those again, or delete "
            f"them: {shown(other.record.name for other in others)}"
        )
    features, about, notes = read_features(path, cells)
    yield f"{path}: {features.shape[1]} features of {len(features)} cells"
    yield from (f"  note: {note}" for note in notes)
    if own_cells:
        listed = ", ".join(f"{number} of {domain}" for domain, number in own_cells.items())
        yield (
            f"  note: a laboratory's own cells are not scored ({listed}), for the "
            f"{len(others)} sets beside were scored without them; to score them, delete those in "
            f"{features_folder(results)}"
        )
    own = score_features(cells, features, about, name, results.name)
    folder = write_set(results, own)
    yield from told([*others, own], name)
    yield f"wrote {folder}, from which `wbc-shift report -p {results.name}` makes its row"


def told(sets: list[FeatureSet], name: str) -> Iterator[str]:
    """Lines about one of the sets, and its place by the mean of targets of logistic regression."""
    (own,) = (each for each in sets if each.record.name == name)
    values = {score[:4]: score.value for score in scores_of(sets)}
    for scenario in own.record.scenarios:
        penalty = own.record.penalty[scenario.source]
        yield (
            f"trained on {scenario.source} (C = {penalty:g}); contamination: "
            f"{verdict_of(own, scenario.source)}; macro-F1 in %, intervals cover the images only"
        )
        for readout in READOUTS:
            columns = [("in_domain", "in-domain"), *((t, t) for t in scenario.targets)]
            columns.append(("mean_target", "mean of targets"))
            texts = [
                f"{title} {percent(values[name, scenario.name, readout, column])}"
                for column, title in columns
                if (name, scenario.name, readout, column) in values
            ]
            yield f"  {readout}: {', '.join(texts)}"
        ranked = [
            (values[key].mean, each.record.name)
            for each in sets
            if (key := (each.record.name, scenario.name, "logistic", "mean_target")) in values
        ]
        if ranked:
            ranked.sort(key=lambda pair: (-pair[0], pair[1] == name))
            place = [other for _, other in ranked].index(name) + 1
            yield f"  place {place} of {len(ranked)} by mean of targets, logistic regression"
            yield from (f"    {100 * value:5.1f}  {other}" for value, other in ranked)
    k = common_neighbours(sets)
    index, low, high = robustness_at(own, k)
    if np.isnan(index):
        yield "robustness index: no two domains have enough cells of two classes"
        return
    yield (
        f"robustness index {index:.2f}, {low:.2f} to {high:.2f} over draws, k = {k} (0: neighbours "
        "share the laboratory alone, 1: the class alone); a linear classifier tells two "
        f"laboratories apart in {100 * own.record.laboratory_told:.1f} % (by chance 50 %)"
    )


def percent(value: Interval) -> str:
    """`45.3 [43.1, 47.0]`; `–` where no class has the images that a score needs."""
    if not np.isfinite(value.mean):
        return "–"
    return f"{100 * value.mean:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]"
