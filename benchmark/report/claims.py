"""Claims: what published tables assert, what was measured here, and what neither of them shows.

A claim whose runs are missing says so: it is a row, never a gap. What is "computed" follows from a
formula alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmark import metrics
from benchmark.evaluation import rejection
from benchmark.evaluation.compare import p_text
from benchmark.evaluation.comparisons import significant
from benchmark.evaluation.scores import majority_id
from benchmark.metrics import HEADLINE
from benchmark.report.results import Results, by_method, cell, unmarked_cell, values
from benchmark.report.table import Cell, Table, points, share, sheet
from benchmark.report.write import cell_text, interval_text, number, signed_number
from benchmark.scenarios import corruption_of

NOT_RUN = "not run"
CONFIRMED, REFUTED, OPEN, UNTESTED = "confirmed", "contradicted", "not shown", "untested"
Verdicts = dict[str, int]
"""verdict → how many claims have it; `all`: how many there are"""


class Measurement(NamedTuple):
    """One place where a claim was measured."""

    where: str
    value: str
    holds: int | None
    """1 if it is shown there, -1 if the opposite is, 0 if neither; None where nothing was tested"""
    short: str
    """what a printed page has room for"""
    scenario: str = ""
    """where `short` is of one"""
    method: str = ""
    """what `short` is of, where a scenario has several"""


Measured = Iterator[Measurement]
"""none where nothing was run"""


def constant_against_models(results: Results) -> Measured:
    """Accuracy of the constant on BCCD beside that of the best method, by scenario."""
    found: dict[str, dict[str, Cell]] = {}
    for experiment in results.experiments:
        for scenario, track in experiment.blocks():
            if "bccd" not in scenario.targets or track != "inductive":
                continue
            where = (scenario.name, track)
            for name in by_method(experiment.blocks()[scenario, track]):
                shown = unmarked_cell(results.scores, where, name, "accuracy", "", "bccd")
                if not math.isnan(shown.mean):
                    found.setdefault(scenario.name, {}).setdefault(name, shown)
    for scenario, cells in found.items():
        ids = [majority_id(scenario)]
        constant = 100 * values(results.scores, ids, (("bccd", "shifted"),), "accuracy")[0, 0]
        best = max(sorted(cells), key=lambda name: cells[name].mean)
        below = sum(c.mean < constant for c in cells.values())
        shown = cell_text(cells[best])
        yield Measurement(
            f"{scenario}, accuracy on bccd",
            f"constant {number(constant)}, above {below} of {len(cells)} methods; best {best} "
            f"{shown}",
            # The best was chosen on these images, so that to lie above the constant shows nothing.
            -int(cells[best].high < constant),
            f"constant {number(constant)}, best of {len(cells)} methods {shown}",
            scenario,
        )


def effect(part: str, choice: str, plain: str) -> Callable[[Results], Measured]:
    """Difference in macro-F1 between two choices of one part, on the source and the targets.

    Of methods that are plain in all other parts but normalisation, or of all if there are none.
    """

    def measure(results: Results) -> Measured:
        own = results.effects
        own = own[(own["part"] == part) & (own["choice"] == choice) & (own["plain"] == plain)]
        methods = {run.method.name: run.method for e in results.experiments for run in e.runs}
        simple = own["reference"].map(lambda name: methods[name].is_plain(part)).astype(bool)
        own = own[simple] if simple.any() else own
        keys = ["scenario", "method", "reference"]
        for (scenario, method, ref), rows in own.groupby(keys, sort=False):
            found = rows.set_index("column")
            away = "corruptions" if "->corruptions" in scenario else "targets"
            parts = [
                f"{label} {signed(found.loc[column])}, {p_text(found.loc[column, 'p_holm'])}"
                for column, label in (("in_domain", "in-domain"), ("mean_target", away))
                if column in found.index
            ]
            row = found.loc["mean_target"] if "mean_target" in found.index else found.iloc[0]
            yield Measurement(
                f"{scenario}, {method} − {ref}",
                " and ".join(parts),
                int(significant(row["p_holm"])) * (1 if row["mean"] > 0 else -1),
                signed(row),
                scenario,
                f"{methods[method].backbone}, {methods[method].normalisation}",
            )

    return measure


def ensembles_against_members(results: Results) -> Measured:
    """The best ensemble beside the best network of its experiment, by mean of targets.

    The p-value is the table's: corrected for the methods of its column.
    """
    scores = results.scores
    for experiment in results.experiments:
        for (scenario, track), runs in experiment.blocks().items():
            where = (experiment.experiment, scenario.name, track)
            best: dict[bool, tuple[float, str, dict]] = {}
            for run in runs:
                name, together = run.method.name, run.method.is_ensemble
                mean = cell(scores, where, name, HEADLINE, "", "mean_target").mean / 100
                if mean > best.get(together, (-1.0, "", {}))[0]:
                    standing = scores.standings[(*where, name, HEADLINE, "mean_target")]
                    best[together] = mean, name, standing
            if len(best) < 2:
                continue
            (one, name, row), (other, single, theirs) = best[True], best[False]
            # The row of whichever is not the best of the column says how far it lies behind.
            behind, sign = (theirs, -1) if one >= other else (row, 1)
            ends = [behind[key] for key in ("difference_low", "difference_high")]
            low, high = sorted(math.nan if end is None else sign * end for end in ends)
            shown = signed({"mean": one - other, "low": low, "high": high})
            p = behind["p_holm"]
            p = math.nan if p is None else p
            yield Measurement(
                f"{scenario.name}, {name} − {single}",
                f"targets {shown}, {p_text(p)}",
                int(significant(p)) * (1 if one > other else -1),
                shown,
                scenario.name,
                f"{name} − {single}",
            )


def augmentation_against_normalisation(results: Results) -> Measured:
    """Spread of the mean of targets over augmentations and over normalisations, same backbone.

    By scenario, from the experiment that crosses the most of both.
    """
    grids: dict[str, pd.DataFrame] = {}
    for experiment in results.experiments:
        for (scenario, track), runs in experiment.blocks().items():
            where = (experiment.experiment, scenario.name, track)
            table: dict[tuple[str, str], float] = {}
            for run in runs:
                found = cell(results.scores, where, run.method.name, HEADLINE, "", "mean_target")
                if run.method.is_plain("augmentation") and not math.isnan(found.mean):
                    table[run.method.normalisation, run.method.augmentation] = found.mean
            grid = pd.Series(table, dtype=float).unstack() if table else pd.DataFrame()
            if min(grid.shape) < 2 or grid.isna().any().any():
                continue
            if grid.size > grids.get(scenario.name, pd.DataFrame()).size:
                grids[scenario.name] = grid
    for scenario, grid in grids.items():
        over = {"augmentations": grid.mean(axis=0), "normalisations": grid.mean(axis=1)}
        shown, spreads = [], []
        for name, means in over.items():
            ascending = ", ".join(kind or "plain" for kind in means.sort_values().index)
            spreads.append(means.max() - means.min())
            shown.append(f"{number(spreads[-1])} points over {name} ({ascending})")
        yield Measurement(
            f"{scenario}, range of means, mean of targets",
            ", ".join(shown),
            None,
            f"range {number(spreads[0])} against {number(spreads[1])}",
            scenario,
        )


def useless_ld(_: Results) -> Measured:
    """Ld of an answer that is never right, on the class counts of BCCD (207, 33, 20, 88, 3)."""
    counts = np.array([207, 33, 20, 88, 3])
    confusion = np.roll(np.diag(counts), 1, axis=1)
    useless, right = (float(metric(confusion)) for metric in (metrics.ld, metrics.accuracy))
    text = f"Ld {number(100 * useless)}, accuracy {number(100 * right)}"
    yield Measurement(
        "computed: every image predicted wrongly, counts 207, 33, 20, 88 and 3",
        text,
        -1 if useless > 0.5 else 1,
        f"no image right on the counts of BCCD: {text}",
    )


def far_from_centroids(results: Results) -> Measured:
    """The published confidence of a cell that no centroid is near, and its ranking in our runs."""
    far = np.full((1, 5), 1e-6)
    published, closest = (
        float(rejection.CCL_CONFIDENCES[name](far)[0]) for name in ("published", "max")
    )
    text = f"published {published:.4f}, max D {closest:.4f} (1 is most reliable)"
    yield Measurement(
        "computed: D = 0.000001 for all of 5 classes",
        text,
        -1 if published > 0.5 else 1,
        f"a cell near no centroid: {text}",
    )
    table = results.rejection_counted
    own = table[table["rejector"].isin(["ccl_published", "ccl_max"]) & (table["part"] == "shifted")]
    methods = [run_id.split("/")[0] for run_id in own["run_id"]]
    for method, rows in own.groupby(methods):
        means = rows.groupby("rejector")["aurc"].mean()
        shown = ", ".join(
            f"{name.removeprefix('ccl_')} {cell_text(share(v))}" for name, v in means.items()
        )
        where = f"{method}: AURC on targets (× 100, lower is better)"
        # Two means without an interval show nothing of which is better.
        yield Measurement(where, shown, None, f"{method}, AURC: {shown}")


def constant_ld(results: Results) -> Measured:
    """How many scores of runs on test sets the majority constant passes by Ld.

    What the runs were selected and calibrated on is no test set.
    """
    found = results.scores.values
    constants = {
        (key[0].split("/", 1)[1], *key[1:3]): value
        for key, (value, _) in found.items()
        if key[0].startswith("majority/") and key[4] == "ld"
    }
    runs = {run.run_id: run for e in results.experiments for run in e.runs if run.done}
    passed: dict[bool, list[bool]] = {False: [], True: []}
    for (run_id, domain, part, _, metric), (value, _) in found.items():
        run = runs.get(run_id) if metric == "ld" else None
        if run and (domain, part) in run.scenario.test_sets and not math.isnan(value):
            constant = constants[run.scenario.name, domain, part]
            passed[corruption_of(domain) is not None].append(value < constant)
    both = [*passed[False], *passed[True]]
    if both:
        shown = f"the majority constant has a higher Ld in {sum(both)} of {len(both)}"
        if passed[True]:
            shown += f" (without corruptions {sum(passed[False])} of {len(passed[False])})"
        yield Measurement("all runs and test sets", shown, -1 if any(both) else 0, shown)


def signed(row: Mapping[str, float]) -> str:
    """`+3.2 [−1.0, 7.4]`, in points."""
    difference = points(row)
    return f"{signed_number(difference.mean)}{interval_text(difference)}"


@dataclass(frozen=True)
class Claim:
    text: str
    source: str
    published: str
    measure: Callable[[Results], Measured]
    not_shown: str


CLAIMS = (
    Claim(
        "Networks are better than a constant on BCCD",
        "tsutsui2023",
        "best of 9 models 53.1 accuracy; always neutrophil 59.0",
        constant_against_models,
        "Accuracy rewards the most frequent class: 207 of the 351 cells are neutrophils",
    ),
    Claim(
        "Group instead of batch normalisation helps under shift",
        "tsutsui2023",
        "BCCD accuracy 49.1 (gn) against 23.2 (bn), different networks and weights",
        effect("normalisation", "gn", "bn"),
        "Same network from scratch: nothing about pre-trained weights",
    ),
    Claim(
        "Mixed instance and batch normalisation (IBN) generalises",
        "ma2020",
        "92 against 87 accuracy (ResNet-50), in-domain",
        effect("normalisation", "ibn_a", "bn"),
        "Placement `a` of the official code; the paper's set has 71 test smears at most",
    ),
    Claim(
        "Augmentation matters more than normalisation",
        "this benchmark",
        "–",
        augmentation_against_normalisation,
        "Ranges depend on the choices on each axis and on the image size, and carry no interval",
    ),
    Claim(
        "Stain augmentation helps under shift",
        "this benchmark",
        "–",
        effect("augmentation", "stain", ""),
        "One setting of its strengths; colours alone are varied",
    ),
    Claim(
        "Instance instead of batch normalisation helps under shift",
        "this benchmark",
        "–",
        effect("normalisation", "in", "bn"),
        "Networks from scratch at small sizes",
    ),
    Claim(
        "Batch statistics of the target's unlabelled images help",
        "this benchmark",
        "–",
        effect("inference", "adabn", "single"),
        "Test sets of mixed classes, all images at once; a smear holds other shares",
    ),
    Claim(
        "Strong augmentation helps under shift",
        "this benchmark",
        "–",
        effect("augmentation", "strong", ""),
        "One setting of its strengths, not the best one",
    ),
    Claim(
        "Weights learnt on ImageNet help under shift",
        "this benchmark",
        "–",
        effect("weights", "squeezenet_tv", "scratch"),
        "One small network without normalisation; nothing about large ones or weights of cells",
    ),
    Claim(
        "Decoupled classifier learning helps",
        "le2026",
        "macro-F1 65.8 → 70.4 (ResNet-50), 13 classes, one seed",
        effect("readout", "decoupled", "decoupled_neither"),
        "Equal budget: both retrain the head; another set and label space than the published one",
    ),
    Claim(
        "An ensemble of different networks is better than each of them",
        "le2026",
        "macro-F1 74.2 (three networks) against 70.4 and 70.6 (ResNet-50 and -152 alone); "
        "the challenge's final ranking is led by 77.7, 77.1 and 74.0",
        ensembles_against_members,
        "Smaller members, from scratch; the best one is chosen on the targets",
    ),
    Claim(
        "Macenko normalisation helps",
        "le2026",
        "credited with the gain, but never ran in the released code",
        effect("stain", "macenko", "none"),
        "One reference image; sets without a haematoxylin-eosin stain",
    ),
    Claim(
        "Balanced softmax helps the rare classes",
        "he2023",
        "recall 91.35 against 90.86 (General)",
        effect("loss", "balanced_softmax", "ce"),
        "Private data there; macro-F1 here, not recall",
    ),
    Claim(
        "Class centroid learning beats cross-entropy",
        "he2023",
        "F1 92.27 against 91.45 (CrossFormer-T), one seed",
        effect("loss", "ccl", "ce"),
        "Private data and networks that had longer to learn there",
    ),
    Claim(
        "CCL's confidence identifies unreliable predictions",
        "he2023",
        "rejects 21.1 % at 98.6 % accuracy against 28.0 % at 99.1 % (conformal)",
        far_from_centroids,
        "Unequal accuracies of the accepted cannot be compared",
    ),
    Claim(
        "Ld measures learning under imbalance",
        "he2023",
        "Ld 96.8 (Focal-CCL)",
        useless_ld,
        "Ld is 1 for every uniform F1, a useless one included",
    ),
    Claim(
        "Ld ranks methods",
        "he2023",
        "Ld 95.6 to 96.8",
        constant_ld,
        "Ld is reported, never ranked by",
    ),
    Claim(
        "Hard-mined centre-triplet loss helps",
        "ma2020",
        "92 accuracy, without an ablation of the loss alone",
        effect("loss", "triplet_centre_hard", "ce"),
        "The weight of the loss is not given in the paper",
    ),
    Claim(
        "Domain-imbalance losses beat plain training on several sources",
        "umer2023",
        "BoDA 64.7 against ERM 63.2 macro-F1 (SADA paper)",
        effect("recipe", "idg_boda", "erm"),
        "Inspired by the abstract, the full text could not be read",
    ),
    Claim(
        "CORAL beats plain training on several sources",
        "umer2023",
        "64.7 against 63.2 macro-F1 (SADA paper)",
        effect("recipe", "coral", "erm"),
        "Other sets and classes than the published ones",
    ),
    Claim(
        "Mixup beats plain training on several sources",
        "umer2023",
        "63.3 against 63.2 macro-F1 (SADA paper)",
        effect("recipe", "mixup", "erm"),
        "Other sets and classes than the published ones",
    ),
)


def measurements(results: Results) -> dict[str, list[Measurement]]:
    """Claim → the places where it was measured, each once."""
    return {claim.text: list(dict.fromkeys(claim.measure(results))) for claim in CLAIMS}


def verdict(found: list[Measurement]) -> str:
    """What the places say together: `confirmed`, `contradicted`, either `in 1 of 2`, or neither."""
    if not found:
        return NOT_RUN
    tested = [one.holds for one in found if one.holds is not None]
    for word, sign in ((CONFIRMED, 1), (REFUTED, -1)):
        if count := tested.count(sign):
            return word if count == len(tested) else f"{word} in {count} of {len(tested)}"
    return OPEN if tested else UNTESTED


def counted_verdicts(results: Results) -> Verdicts:
    """How many claims are confirmed anywhere, contradicted anywhere and nowhere confirmed, or not
    shown either way."""
    found = [verdict(own) for own in measurements(results).values()]
    words = (CONFIRMED, REFUTED, OPEN, UNTESTED, NOT_RUN)
    return {word: sum(one.startswith(word) for one in found) for word in words} | {
        "all": len(found)
    }


def claims_sheet(results: Results) -> Table:
    """One line per claim, with every place where it was measured; `not run` where there is none."""
    rows = []
    found = measurements(results)
    for claim in CLAIMS:
        own = found[claim.text]
        measured = "; ".join(f"{one.where}: {one.value}" for one in own) or NOT_RUN
        said = (claim.text, claim.source, claim.published, measured, verdict(own))
        rows.append((*said, claim.not_shown))
    return sheet(
        "claims",
        "Claims checked. Measured here: per cent, differences in points of macro-F1 with 95 % "
        "intervals over other test images and seeds (mean of the seeds that both methods have) and "
        "p-values corrected by Holm for all "
        f"{results.compared} single-part ablations of the profile, or those of the table; an "
        "interval is of its difference alone, and may leave out 0 where the corrected p-value does "
        "not; of methods that differ in one part and have the default in all others but "
        "normalisation, where there are any. Computed: from the formula alone. Verdict: on the "
        "mean of targets, after correction; not shown: neither the claim nor its opposite; "
        "untested: what carries no interval.",
        ("claim", "source", "published", "measured here", "verdict", "what this does not show"),
        rows,
        words=6,
    )
