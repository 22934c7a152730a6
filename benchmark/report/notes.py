"""Notes: what a reader of a table must know, each as one sentence without its full stop."""

from __future__ import annotations

import math
from itertools import product

import numpy as np

from benchmark.evaluation.columns import FEWEST_CLASSES
from benchmark.evaluation.experiments import Experiment, gaps
from benchmark.metrics import MINIMUM_SUPPORT, supported
from benchmark.report.facts import trained_apart
from benchmark.report.results import Records
from benchmark.scenarios import corruption_of, sources_of
from benchmark.settings import Weights
from benchmark.study.runs import Scenario

INTERVAL_NOTE = (
    "The interval covers the sampling of test images (bootstrap, clustered by patient or smear "
    "where known) and of seeds (their variance is pooled over all methods of the scenario, as far "
    "as they agree)."
)
FEW_GROUPS = 10
"""Equal groups below which an interval is said to cover less than it names."""
CONFOUNDED = {
    ("raabin", "basophil"): (
        "raabin: all basophils, and nothing else, come from the captures of 2019 (yellower and "
        "blurrier), so basophil and capture date are confounded"
    )
}
"""(domain, class) → why a score that involves both needs a caveat."""


def found_of_planned(experiment: Experiment) -> str:
    return f"found {experiment.found} of {len(experiment.runs)} planned"


def gap_notes(experiment: Experiment, most: int = 5) -> list[str]:
    """A note that names the first missing runs and counts the rest; none if all are done."""
    lines = gaps([experiment])
    if not lines:
        return []
    more = f"; and {len(lines) - most} more" if len(lines) > most else ""
    return [f"Not done: {'; '.join(lines[:most])}{more}"]


def support_notes(scenario: Scenario, counts: np.ndarray, classes: tuple[str, ...]) -> list[str]:
    """What a reader must know about the classes behind the scores of a scenario."""
    notes = []
    rare, absent = [], []
    for (domain, _), row in zip(scenario.test_sets, counts, strict=True):
        if row.any() and corruption_of(domain) is None:
            few = [
                f"{name} {n}"
                for name, n in zip(classes, row, strict=True)
                if 0 < n < MINIMUM_SUPPORT
            ]
            none = [name for name, n in zip(classes, row, strict=True) if n == 0]
            rare += [f"{domain} ({', '.join(few)})"] if few else []
            absent += [f"{domain} ({', '.join(none)})"] if none else []
    if rare:
        notes.append(
            f"† contains a class with n < {MINIMUM_SUPPORT}, which carries no claim: macro-F1 "
            f"leaves it out, other averages over classes include it: {', '.join(rare)}"
        )
    if absent:
        notes.append(f"Absent classes are left out of averages over classes: {', '.join(absent)}")
    domains = {part for domain, _ in scenario.test_sets for part in sources_of(domain)}
    notes += [
        text for (domain, name), text in CONFOUNDED.items() if domain in domains and name in classes
    ]
    if severities := [name for name in scenario.target_groups if name.startswith("severity ")]:
        kinds = len(scenario.target_groups) - len(severities)
        notes.append(f"A severity is the mean over {kinds} corruptions of the in-domain test set")
    return notes


def left_out_notes(scenario: Scenario, counts: np.ndarray, counted: tuple[str, ...]) -> list[str]:
    """Which targets the mean, the worst and the shift drop are not of, and why.

    Args:
        counts: (test sets, classes) test images.
    """
    reasons = []
    for target, row in zip(scenario.targets, counts[1:], strict=True):
        if target not in counted and corruption_of(target) is None:
            classes = int(supported(row).sum())
            few = f"{classes} class{'' if classes == 1 else 'es'} with n ≥ {MINIMUM_SUPPORT}"
            reasons.append(f"{target} ({'own images' if target in scenario.own else few})")
    if not reasons:
        return []
    return [
        "Excluded from the mean of targets, the worst target and the shift drop, which cover "
        f"published sets with at least {FEWEST_CLASSES} such classes: {', '.join(reasons)}"
    ]


def evidence_notes(rows: dict[str, dict], scenario: Scenario) -> list[str]:
    """What the test sets could have shown, and where the spread comes from.

    Args:
        rows: rows of `evidence.parquet` by column.
    """
    notes = []
    domains = {"in_domain": scenario.source} | {target: target for target in scenario.targets}
    test_sets = {domains[name]: row for name, row in rows.items() if name in domains}
    test_sets = {name: row for name, row in test_sets.items() if row["images"]}
    grouped = {name: r for name, r in test_sets.items() if r["groups"] < r["images"]}
    if grouped:
        listed = (f"{name} {row['images']} in {row['groups']}" for name, row in grouped.items())
        notes.append(f"Images clustered in groups (patients, smears): {', '.join(listed)}")
    few = {n: r["effective_groups"] for n, r in grouped.items() if is_few(r["effective_groups"])}
    if few:
        listed = (f"{name} {number:.1f}" for name, number in few.items())
        notes.append(
            "Few groups: for this score the images of a test set carry the weight of only this "
            f"many equal groups: {', '.join(listed)}. Where smears differ much, such an interval "
            "covers less than 95 %: 78 to 89 % for macro-F1 and 70 to 80 % for accuracy, by "
            "simulation with the twelve smears of Raabin's test part"
        )
    shown = {name: r["detectable"] for name, r in test_sets.items() if is_number(r["detectable"])}
    if shown:
        listed = (f"{name} {100 * value:.1f}" for name, value in shown.items())
        notes.append(
            "Smallest difference from the best method that could have been detected (80 % power, "
            f"two-sided 5 %, these networks, median over methods), in points: {', '.join(listed)}"
        )
    mean = rows.get("mean_target", {})
    spread = {part: mean.get(f"sd_{part}") for part in ("method", "seed", "image")}
    if all(map(is_number, spread.values())):
        listed = ", ".join(f"{part}s {100 * value:.1f}" for part, value in spread.items())
        notes.append(f"Standard deviation of the mean of targets, in points, between {listed}")
    if is_number(mean.get("tau")):
        tau, low, high = (mean[name] for name in ("tau", "tau_range_low", "tau_range_high"))
        agreement = f"{tau:.2f} [{low:.2f}, {high:.2f}]".replace("-", "−")
        notes.append(
            "Rank correlation of the methods in-domain and by mean of targets: Kendall's tau "
            f"{agreement}, in brackets its range over resamples, which is no confidence interval"
        )
    return notes


def apart_notes(experiment: Experiment, records: Records) -> list[str]:
    """Which rows would share a network by their settings, and do not."""
    own = {run.run_id: records[run.run_id] for run in experiment.runs if run.run_id in records}
    return [
        "Trained separately, although settings and seeds are the same (another processor gives "
        f"another network): {'; and '.join(', '.join(methods) for methods in apart)}. A difference "
        "between these includes that of two trainings"
        for apart in trained_apart(own)
    ]


def weights_of(records: Records, run_id: str) -> list[Weights]:
    """The weights that a run's training, or those of an ensemble's members, began with."""
    settings = records.get(run_id, {}).get("settings", {})
    if members := settings.get("members"):
        return [block for one in members for block in weights_of(records, one["run_id"])]
    return [Weights.model_validate(settings.get("weights", {}))]


def repeated_cells_notes(
    experiment: Experiment, cells: dict[str, tuple[int, int]], least: float = 0.1
) -> list[str]:
    """Which test sets show many of their cells more than once: their n is of images.

    Args:
        cells: domain → its images, and the cells that they show.
        least: share of the images that show a cell again, from which a set is named.
    """
    domains = {p for r in experiment.runs for d, _ in r.scenario.test_sets for p in sources_of(d)}
    named = [
        f"{domain}, {images} images of {shown} cells"
        for domain, (images, shown) in cells.items()
        if domain in domains and images - shown >= least * images
    ]
    if not named:
        return []
    return [
        "Cells photographed several times, by the pairs that the audit finds: "
        f"{'; '.join(named)}. n and scores are of images, so that a cell weighs as often as it is "
        "shown; intervals are of groups, which hold all pictures of a cell"
    ]


def contamination_notes(
    experiment: Experiment, records: Records, names: dict[str, set[str]]
) -> list[str]:
    """Which rows start from weights that have seen images of a test set, or may have.

    Args:
        names: domain → every name under which its images circulate.
    """
    contaminated: dict[str, set[str]] = {}
    unknown: set[str] = set()
    for run in experiment.runs:
        domains = {part for name, _ in run.scenario.test_sets for part in sources_of(name)}
        for weights, domain in product(weights_of(records, run.run_id), domains):
            verdict = weights.contamination(names.get(domain, {domain}))
            if verdict == "contaminated":
                contaminated.setdefault(run.method.name, set()).add(domain)
            elif verdict == "unknown":
                unknown.add(run.method.name)
    notes = [
        f"Contaminated: the initial weights of {method} were made with images of "
        f"{', '.join(sorted(domains))}"
        for method, domains in sorted(contaminated.items())
    ]
    if unknown:
        notes.append(
            "It is not known what the initial weights of these were made with, nor so whether "
            f"they have seen test images: {', '.join(sorted(unknown))}"
        )
    return notes


def adaptation_notes(track: str) -> list[str]:
    """What whoever adapts to images of their own must know first."""
    if track != "transductive":
        return []
    return [
        "Adapted to the images of a whole test set, in which classes are mixed. AdaBN collapses "
        "on a smear of one class, whose statistics are the cell type's and not the laboratory's: "
        "adapt to unsorted images only"
    ]


def images_only_note(methods: list[str]) -> list[str]:
    """Names the methods whose seeds tell nothing of other seeds."""
    if not methods:
        return []
    return [f"Intervals of {', '.join(methods)} cover test images only: there is no second seed"]


def is_few(groups: float | None) -> bool:
    return is_number(groups) and groups < FEW_GROUPS


def is_number(value: float | None) -> bool:
    return value is not None and not math.isnan(value)
