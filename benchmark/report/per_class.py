"""Per class: F1 of every class with its n, for each method, scenario and test set."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.evaluation.experiments import Experiment
from benchmark.evaluation.metrics import MINIMUM_SUPPORT
from benchmark.evaluation.scores import MAJORITY, majority_id
from benchmark.report.formats import (
    NOTHING,
    cell_text,
    csv_text,
    markdown_rows,
    plain,
)
from benchmark.report.notes import CONFOUNDED, INTERVAL_NOTE, found_of_planned, gap_notes
from benchmark.report.tables import (
    Cell,
    Row,
    Scores,
    by_method,
    cell,
    class_counts,
    done_ids,
    values,
)
from benchmark.scenarios import corruption_of
from benchmark.texts import markdown


@dataclass(frozen=True)
class ClassBlock:
    """Methods × classes on one test set of one scenario; cells are F1 in per cent."""

    scenario: str
    track: str
    domain: str
    part: str
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        """Scenario, test set and, if it is not the inductive one, the track."""
        place = f"{self.domain} (in-domain)" if self.part == "id_test" else self.domain
        track = "" if self.track == "inductive" else f" [{self.track}]"
        return f"{self.scenario}{track}, tested on {place}"

    @property
    def headings(self) -> list[tuple[str, str]]:
        """(class, n) of each column; † marks a class whose n is too small to carry a claim."""
        return [
            (name + ("†" if 0 < n < MINIMUM_SUPPORT else ""), f"n = {n or NOTHING}")
            for name, n in zip(self.classes, self.counts, strict=True)
        ]


def class_blocks(experiment: Experiment, scores: Scores) -> list[ClassBlock]:
    """Every test set of every scenario and track, in plan order; no single corruption."""
    blocks = []
    for (scenario, track), runs in experiment.blocks().items():
        counts = class_counts(scores, scenario, experiment.classes)
        where = (experiment.experiment, scenario.name, track)
        columns = ["in_domain", *scenario.targets]
        for place, (test_set, column) in enumerate(zip(scenario.test_sets, columns, strict=True)):
            if corruption_of(column):
                continue
            rows = []
            for method, planned in by_method(runs).items():
                cells = tuple(
                    cell(scores, where, method, "f1", name, column) for name in experiment.classes
                )
                rows.append(Row(method, len(done_ids(planned)), len(planned), cells))
            if counts.any():
                ids = [majority_id(scenario.name)]
                constant = tuple(
                    Cell(100 * float(values(scores, ids, (test_set,), "f1", name)[0, 0]))
                    for name in experiment.classes
                )
                rows.append(Row(MAJORITY, 0, 0, constant))
            blocks.append(
                ClassBlock(
                    scenario.name,
                    track,
                    *test_set,
                    experiment.classes,
                    tuple(counts[place].tolist()),
                    tuple(rows),
                )
            )
    return blocks


def caption(experiment: Experiment) -> str:
    return (
        f"{experiment.title}: F1 of each class in %, mean over seeds [95 % interval]; "
        f"{found_of_planned(experiment)} runs (in brackets the seeds behind the values, if others "
        f"ran more of them). {INTERVAL_NOTE} n: test images of the class. † n < "
        f"{MINIMUM_SUPPORT}: the class carries no claim. {NOTHING}: class absent, or no run."
    )


def notes(experiment: Experiment, blocks: list[ClassBlock]) -> list[str]:
    """Caveats on classes that occur here, and the runs that are not done."""
    places = {(block.domain, name) for block in blocks for name in block.classes}
    caveats = [text for place, text in CONFOUNDED.items() if place in places]
    return caveats + gap_notes(experiment)


def to_csv(blocks: list[ClassBlock]) -> str:
    """Long: one line per scenario, test set, method and class."""
    lines: list[list[object]] = [
        ["scenario", "track", "domain", "part", "method", "class", "n", "carries_claim"]
        + ["f1", "f1_low", "f1_high", "found", "planned"]
    ]
    for block in blocks:
        for row in block.rows:
            counts = [row.found, row.planned] if row.planned else ["", ""]
            for name, n, shown in zip(block.classes, block.counts, row.cells, strict=True):
                claim = "yes" if n >= MINIMUM_SUPPORT else "no"
                where = [block.scenario, block.track, block.domain, block.part, row.method]
                lines.append([*where, name, n, claim, *map(plain, shown[:3]), *counts])
    return csv_text(lines)


def to_markdown(experiment: Experiment, blocks: list[ClassBlock]) -> str:
    """One Markdown table per test set."""
    parts = [markdown(caption(experiment), emphasis=True)]
    for block in blocks:
        titles = [markdown(f"{name}, {n}", emphasis=True) for name, n in block.headings]
        header = ["method", "runs", *titles]
        rows = [
            [markdown(row.method, emphasis=True), row.runs or NOTHING, *map(cell_text, row.cells)]
            for row in block.rows
        ]
        parts += [f"**{markdown(block.title)}**", markdown_rows(header, rows)]
    parts += [f"{markdown(note)}." for note in notes(experiment, blocks)]
    return "\n\n".join(parts) + "\n"
