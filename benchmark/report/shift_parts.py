"""What the shift is made of: how much of a network's loss colour and framing account for."""

from __future__ import annotations

import numpy as np

from benchmark.evaluation.experiments import Experiment, RecordedRun
from benchmark.metrics import HEADLINE
from benchmark.parts import PLAIN
from benchmark.report.notes import found_of_planned, gap_notes
from benchmark.report.results import Scores, counted_sets, values
from benchmark.report.table import Cell, Table, Value, sheet

ANSWERS = (PLAIN["inference"], "moments", "scale", "scale_and_moments")
"""Images as they are, with the source's colours, in the source's framing, and with both."""


def shift_parts_sheet(experiment: Experiment, scores: Scores) -> Table | None:
    """A line per training and target; None where no training is answered in all four ways.

    What colour accounts for is what matching it wins, with framing as it is and with framing
    matched, halved (Shapley's value of two players); so that colour, framing and the rest add up to
    the loss.
    """
    groups: dict[tuple, dict[str, list[RecordedRun]]] = {}
    for run in experiment.runs:
        key = run.scenario, run.method.training_parts(), run.method.readout
        groups.setdefault(key, {}).setdefault(run.method.inference, []).append(run)
    rows: list[tuple[Value, ...]] = []
    for (scenario, *_), answers in groups.items():
        if not all(name in answers for name in ANSWERS):
            continue
        done = [{run.seed: run for run in answers[name] if run.done} for name in ANSWERS]
        seeds = sorted(set.intersection(*map(set, done)))
        if not seeds:
            continue
        method = answers[ANSWERS[0]][0].method.name
        counted = counted_sets(scenario, scores)
        home = values(scores, ids_of(done[0], seeds), scenario.test_sets[:1], HEADLINE)[:, 0]
        of = [values(scores, ids_of(runs, seeds), counted, HEADLINE) for runs in done]
        targets = {target: [own[:, i] for own in of] for i, (target, _) in enumerate(counted)}
        if counted:
            targets["mean of targets"] = [own.mean(axis=1) for own in of]
        planned = len(answers[ANSWERS[0]])
        for target, (plain, moments, scale, both) in targets.items():
            colour = (moments - plain + both - scale) / 2
            framing = (scale - plain + both - moments) / 2
            points = (home, plain, home - plain, colour, framing, home - both)
            cells = (Cell(100 * float(np.mean(one))) for one in points)
            rows.append((scenario.source, method, target, f"{len(seeds)}/{planned}", *cells))
    if not rows:
        return None
    return sheet(
        f"{experiment.experiment}_shares",
        f"{experiment.title}: what of the loss of macro-F1 colour and framing account for, in "
        f"points, mean over seeds; {found_of_planned(experiment)} runs. Colour: mean and deviation "
        "of R, G and B of the whole target made the source's; framing: its median nucleus made as "
        "large as the source's; each is the mean of what it wins alone and what it wins beside the "
        "other. Colour, framing and the rest, which is what is lost with both matched, add up to "
        "the loss (in-domain minus as is). In-domain: of each run's own held-out part. Matching "
        "takes the target's images, unlabelled, of mixed classes.",
        ("trained on", "method", "target", "seeds", "in-domain", "as is", "loss", "colour")
        + ("framing", "rest"),
        rows,
        gap_notes(experiment),
        words=3,
    )


def ids_of(runs: dict[int, RecordedRun], seeds: list[int]) -> list[str]:
    """Run ids by seed."""
    return [runs[seed].run_id for seed in seeds]
