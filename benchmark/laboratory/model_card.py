"""The numbers of a network in the repository, and the model card that states them.

Every number follows from the predictions that lie beside the network, by the code that scores the
study: the same images count, in the same classes, and the intervals are drawn from the same
resamples. One network is scored, so they cover other test images and no other seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmark import metrics
from benchmark.evaluation.columns import counted_targets, resample
from benchmark.evaluation.experiments import RecordedRun, ScenarioRuns
from benchmark.evaluation.intervals import Interval, interval
from benchmark.evaluation.rejection import maximum_probability
from benchmark.laboratory.networks import ACCURACY, Gauge, gauge_of, part_of
from benchmark.laboratory.shipped import LARGEST, NETWORK, Shipped
from benchmark.metrics import HEADLINE, METRICS
from benchmark.scenarios import sources_of
from benchmark.study.predictions import by_test_set, row_order
from benchmark.texts import markdown, templates_beside

LEAST_TAKEN = 0.1
"""Share of a class's images that another class takes, from which on the card says it in words."""

MOST_TOLD = 4
"""Such pairs of classes, the largest, of each test set."""


@dataclass(frozen=True)
class Score:
    """What a network reaches on one test set.

    Attributes:
        classes: how many classes enter the macro-F1: those with ten images or more.
        confusion: int [C, C], true × predicted.
        majority: macro-F1 of naming the commonest class for every image.
        confident: images whose confidence reaches the threshold of the source.
        wrong: how many of these are answered wrong.
    """

    domain: str
    images: int
    classes: int
    macro_f1: Interval
    accuracy: Interval
    majority: float
    confusion: np.ndarray
    confident: int
    wrong: int


@dataclass(frozen=True)
class Scores:
    """What a network reaches at home and on every target.

    Attributes:
        counted: the targets that the mean and the worst are of.
        mean, worst: macro-F1 over them.
        foreign: domain → its cells of no class, and how many of them reach the threshold.
    """

    home: Score
    targets: list[Score]
    counted: tuple[str, ...]
    mean: Interval
    worst: Interval
    gauge: Gauge
    foreign: dict[str, tuple[int, int]]


def scores_of(shipped: Shipped) -> Scores:
    """Score the predictions that lie beside a network.

    Raises:
        UserError: they are missing, or are not those of the network.
    """
    record, table = shipped.record, shipped.table()
    classes, scenario = record.classes, record.run.scenario
    run = RecordedRun.model_validate(record.run.record() | {"outcome": "done"})
    found = by_test_set(table, classes, row_order(table, len(classes)))
    resampled = resample(ScenarioRuns(scenario, classes, (run,)), {run.run_id: found.known})
    names = list(classes)
    gauge = gauge_of(
        scenario.source,
        *part_of(table.to_pandas(), names, scenario.source, "calibration"),
        ACCURACY,
    )

    def of(metric: str, column: str) -> Interval:
        key = (metric, "")
        points, draws = resampled.points[key][column], resampled.draws[key][column]
        nothing = Interval(float("nan"), float("nan"), float("nan"), 1)
        return nothing if np.isnan(points[0]) else interval(draws[0], float(points[0]), 1)

    def score(column: str, test_set: tuple[str, str]) -> Score:
        own = found.known[test_set]
        confusion = metrics.confusion_matrix(own.labels, own.predicted, len(classes))
        counts = metrics.support(confusion)
        confident = maximum_probability(own.logits) >= gauge.threshold
        return Score(
            test_set[0],
            len(own.labels),
            int(metrics.supported(counts).sum()),
            of(HEADLINE, column),
            of("accuracy", column),
            float(METRICS[HEADLINE].of_confusion(metrics.constant_confusion(counts))),
            confusion,
            int(confident.sum()),
            int((confident & ~own.correct).sum()),
        )

    home, *targets = map(score, ["in_domain", *scenario.targets], scenario.test_sets)
    nothing = Interval(float("nan"), float("nan"), float("nan"), 1)
    mean, worst = (
        of(HEADLINE, column) if resampled.counted else nothing
        for column in ("mean_target", "worst_target")
    )
    foreign = {
        domain: (len(own.kinds), int((maximum_probability(own.logits) >= gauge.threshold).sum()))
        for domain, own in found.foreign.items()
    }
    return Scores(home, targets, resampled.counted, mean, worst, gauge, foreign)


def headline(shipped: Shipped) -> dict[str, float]:
    """Target that is counted → macro-F1, without an interval.

    Raises:
        UserError: the predictions are missing, or are not those of the network.
    """
    record, stored = shipped.record, shipped.stored()
    scenario, names = record.run.scenario, list(record.classes)
    confusions = {}
    for target in scenario.targets:
        logits, labels = part_of(stored, names, target, "shifted")
        predicted = metrics.predicted_classes(logits)
        confusions[target] = metrics.confusion_matrix(labels, predicted, len(names))
    counts = np.array([metrics.support(own) for own in confusions.values()])
    counted = counted_targets(scenario, counts.reshape(-1, len(names)))
    return {name: float(METRICS[HEADLINE].of_confusion(confusions[name])) for name in counted}


def recommended(shipped: list[Shipped]) -> Shipped | None:
    """The network with the highest mean macro-F1 over the targets on which all can be compared:
    those that all were tested on, of no set that any was trained on; None of none."""
    if not shipped:
        return None
    trained_on = {
        own.record.sets[domain].dataset
        for own in shipped
        for domain in sources_of(own.record.run.scenario.source)
    }
    headlines = [headline(own) for own in shipped]
    datasets = {name: known.dataset for own in shipped for name, known in own.record.sets.items()}
    common = set.intersection(*map(set, headlines))
    fair = sorted(name for name in common if datasets[name] not in trained_on)

    def standing(found: dict[str, float]) -> float:
        values = [found[name] for name in fair or found]
        return float(np.mean(values)) if values else -1.0

    place = max(range(len(shipped)), key=lambda place: standing(headlines[place]))
    return shipped[place]


def percent(value: Interval | float) -> str:
    """`81.2 [78.0, 84.1]`, in %; a dash where there is no value."""
    if not isinstance(value, Interval):
        return "–" if np.isnan(value) else f"{100 * value:.1f}"
    if np.isnan(value.mean):
        return "–"
    return f"{100 * value.mean:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]"


def taken_for(score: Score, classes: tuple[str, ...]) -> str:
    """The confusions of a test set in words, the most images first."""
    counts = metrics.support(score.confusion)
    pairs = [
        (int(number), true, predicted)
        for (true, predicted), number in np.ndenumerate(score.confusion)
        if true != predicted and number and number >= LEAST_TAKEN * counts[true]
    ]
    pairs.sort(key=lambda pair: (-pair[0], pair[1:]))
    told = [
        f"{number} of {counts[true]} {classes[true]}s taken for {classes[predicted]}s"
        for number, true, predicted in pairs
    ]
    if len(told) > MOST_TOLD:
        more = len(told) - MOST_TOLD
        told[MOST_TOLD:] = [f"and {more} more such pair{'s' if more > 1 else ''}"]
    return "; ".join(told) or "no class loses a tenth of its cells to another"


def model_card(shipped: Shipped) -> str:
    """The model card (Mitchell et al. 2019) of a network: Markdown, made of its record and its
    predictions alone.

    Raises:
        UserError: the predictions are missing, or are not those of the network.
    """
    environment = templates_beside(__file__).overlay(autoescape=False)
    environment.filters |= {"markdown": markdown, "percent": percent}
    record = shipped.record
    sources = sources_of(record.run.scenario.source)
    tested = [name for name in record.sets if name not in sources]
    return environment.get_template("model_card.md.jinja").render(
        record=record,
        run=record.run,
        scores=scores_of(shipped),
        sources=sources,
        tested=tested,
        accuracy=ACCURACY,
        taken_for=taken_for,
        file=NETWORK,
        megabytes=f"{shipped.bytes / 1e6:.1f}",
        largest=LARGEST // 1_000_000,
    )
