"""Confident errors: predictions of all runs in; per test set the images that they get wrong, out.

The runs of a test set vote with their mean probability. The page has names alone, for pictures of
others are not ours to publish; `write_gallery` shows them to who has them.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmark.audit.images import address
from benchmark.data.arrays import PreparedImages
from benchmark.errors import UserError, suggest
from benchmark.evaluation.cross_fitting import pooled_at_home
from benchmark.evaluation.experiments import (
    Experiment,
    RecordedRun,
    ScenarioRuns,
    done_runs,
    load_experiments,
    predictions_of,
)
from benchmark.files import write_text
from benchmark.scenarios import corruption_of, sources_of
from benchmark.study.plan import profile_folder
from benchmark.study.predictions import Predictions
from benchmark.texts import templates_beside

MOST_SHOWN = 8
"""errors listed of each test set on the page"""
MOST_PICTURES = 24
"""errors shown of each test set in the gallery"""


class Mistake(NamedTuple):
    image: str
    true: str
    predicted: str
    confidence: float
    """mean probability of the predicted class, in per cent"""
    runs_wrong: int


class Mistakes(NamedTuple):
    """The most confident errors on one test set."""

    domain: str
    part: str
    source: str
    """the domain trained on"""
    runs: int
    images: int
    wrong: int
    """images whose mean probability favours a wrong class"""
    shown: tuple[Mistake, ...]
    own: bool = False
    """a laboratory's own images, whose names the page does not print"""

    @property
    def title(self) -> str:
        where = f"{self.domain} (in-domain)" if self.part == "id_test" else self.domain
        return f"{where}, trained on {self.source}"


def confident_errors(
    results: Path,
    experiments: list[Experiment],
    run_id: str | None = None,
    most: int = MOST_SHOWN,
) -> list[Mistakes]:
    """Every test set of every scenario, corrupted copies aside.

    Args:
        run_id: the run whose errors are asked for; without it, all of the inductive track vote.
        most: errors shown of a test set.

    Raises:
        UserError: no such run; a done run's predictions are not those that it recorded.
    """
    done = done_runs(experiments)
    planned = dict.fromkeys(run.run_id for experiment in experiments for run in experiment.runs)
    if run_id is not None and run_id not in done:
        what = f"run '{run_id}' is not done" if run_id in planned else f"no run '{run_id}'"
        raise UserError(f"{results}: {what}{suggest(run_id, done)}")
    scenarios: dict[tuple, list[RecordedRun]] = {}
    for run, classes in (done[name] for name in planned if name in done):
        if run.run_id == run_id or (run_id is None and run.track == "inductive"):
            scenarios.setdefault((run.scenario, classes), []).append(run)
    found = []
    for (scenario, classes), runs in scenarios.items():
        layouts = {}
        known = {r.run_id: predictions_of(results, r, classes, layouts).known for r in runs}
        votes = pooled_at_home(ScenarioRuns(scenario, classes, tuple(runs)), known).values()
        for test_set in scenario.test_sets:
            rows = [vote[test_set] for vote in votes if test_set in vote]
            if rows and corruption_of(test_set[0]) is None:
                told = mistakes(test_set, scenario.source, classes, rows, most)
                found.append(told._replace(own=test_set[0] in scenario.own))
    return found


def mistakes(
    test_set: tuple[str, str],
    source: str,
    classes: tuple[str, ...],
    votes: list[Predictions],
    most: int,
) -> Mistakes:
    """The errors of the mean probability, the most confident first."""
    first = votes[0]
    mean = np.mean([vote.probabilities for vote in votes], axis=0)
    predicted = mean.argmax(axis=1)
    runs_wrong = sum(~vote.correct for vote in votes)
    # As printed, so that the order is the same wherever it is computed.
    confidence = np.round(100 * mean.max(axis=1), 1)
    wrong = np.flatnonzero(predicted != first.labels)
    order = sorted(wrong, key=lambda row: (-confidence[row], first.images[row]))
    shown = tuple(
        Mistake(
            str(first.images[row]),
            classes[first.labels[row]],
            classes[predicted[row]],
            float(confidence[row]),
            int(runs_wrong[row]),
        )
        for row in order[:most]
    )
    return Mistakes(*test_set, source, len(votes), len(first.labels), len(wrong), shown)


def write_gallery(root: Path, profile: str, run_id: str | None = None) -> Path:
    """Write `results/<profile>/gallery/<run>.html`, which shows third-party images: it stays on the
    machine that made it and is not for git.

    Args:
        run_id: the run whose errors are shown; without it, those of the report: all runs vote.

    Raises:
        UserError: no such run; its predictions or the prepared images are not here.
    """
    results = profile_folder(root, profile)
    experiments = load_experiments(results)
    found = confident_errors(results, experiments, run_id, MOST_PICTURES)
    images = PreparedImages(root, profile, list(experiments[0].classes))
    template = templates_beside(__file__).get_template("gallery.html.jinja")
    text = template.render(
        what=run_id or f"all runs of {profile}",
        sets=[(one, list(zip(one.shown, pictures(images, one), strict=True))) for one in found],
    )
    path = results / "gallery" / f"{(run_id or 'all').replace('/', '__')}.html"
    write_text(path, text)
    return path


def pictures(images: PreparedImages, found: Mistakes) -> list[str]:
    whole = [images.domain(domain) for domain in sources_of(found.domain)]
    pixels = {
        name: picture
        for one in whole
        for name, picture in zip(one.table["image"], one.pixels, strict=True)
    }
    return [address(Image.fromarray(pixels[one.image])) for one in found.shown]
