"""Finished runs and `results/speed/` → the hours that the runs still to do will take at most."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from benchmark.data.cards import Card, card_of
from benchmark.data.manifests import domain_images
from benchmark.data.split import fold_of, read_split
from benchmark.errors import UserError
from benchmark.scenarios import sources_of
from benchmark.settings import Params
from benchmark.speed.records import training_rows
from benchmark.study.records import kind_of_work
from benchmark.study.runs import Run, RunRecord, read_run_record

Network = tuple[str, int, str]
"""Backbone, image size in pixels, precision."""


@dataclass(frozen=True)
class Speed:
    """What a network costs on this device, and what says so."""

    images_per_s: float
    overhead_s: float
    """Loading the images and predicting the test sets, a run."""
    source: str


@dataclass(frozen=True)
class Forecast:
    """Hours of the runs whose speed is known, and the networks of those whose speed is not."""

    hours: float
    runs: int
    sources: list[str]
    unknown: dict[str, int]

    def lines(self, device: str, profile: str) -> list[str]:
        """What to tell: an upper bound, since training stops early where nothing improves."""
        lines = []
        if self.runs:
            hours = f"{self.hours:.1f} h" if self.hours >= 1 else f"{60 * self.hours:.0f} min"
            lines.append(
                f"forecast: at most {hours} for {self.runs} runs, one after the other on "
                f"{device}, from {'; '.join(self.sources)}"
            )
        lines += [
            f"forecast: {count} runs of {name} were never timed on {device}: run "
            f"`wbc-shift speed -p {profile}`"
            for name, count in self.unknown.items()
        ]
        return lines


def forecast(
    speeds: dict[Network, Speed],
    runs: list[Run],
    training_images: Callable[[str], int],
    to_train: Callable[[Run], bool],
) -> Forecast:
    """Add up epochs × images / speed; runs that share a training pay for it once.

    Args:
        runs: those to do.
        training_images: source → number of images it is trained on.
        to_train: whether a run's network is not here; of the others only the answers cost time.
    """
    seconds, known = 0.0, 0
    trained: set[str] = set()
    sources: dict[str, None] = {}
    unknown: dict[str, int] = defaultdict(int)
    for run in runs:
        training = run.settings.training
        if training is None:
            continue  # an ensemble averages stored predictions
        network = run.method.backbone, run.settings.image_size, training.precision
        if network not in speeds:
            unknown[f"{network[0]} at {network[1]} px"] += 1
            continue
        speed = speeds[network]
        known += 1
        sources[speed.source] = None
        seconds += speed.overhead_s
        if to_train(run) and run.training_fingerprint not in trained:
            trained.add(run.training_fingerprint)
            images = training_images(run.scenario.source)
            seconds += training.epochs * images / speed.images_per_s
    return Forecast(seconds / 3600, known, list(sources), dict(unknown))


def known_speeds(root: Path, device: str) -> dict[Network, Speed]:
    """Speeds on a device: the median of finished runs, else of `results/speed/`.

    A network that was never timed on this device has the speed of another one, and says so: a
    rough forecast is worth more than none.
    """
    found: dict[str, dict[Network, Speed]] = defaultdict(dict)
    table = training_rows(root)
    timings = table.groupby(["device", "backbone", "image_size", "precision"])["images_per_s"]
    for (timed_on, *network), speed in timings.median().items():
        source = f"results/speed of {network[0]} at {network[1]} px"
        found[timed_on][tuple(network)] = Speed(float(speed), 0.0, source)
    timed: dict[tuple[str, Network], list[RunRecord]] = defaultdict(list)
    for path in (Path(root) / "results").glob("*/runs/*/*/seed*/run.json"):
        try:
            run = read_run_record(path)
        except UserError:
            continue  # `train` counts it as missing
        # A training's speed is that of the device it ran on, which is the record's environment.
        timed_on, training = run.environment.get("device"), run.settings.training
        if run.outcome == "done" and run.train_images_per_s and timed_on and training:
            network = run.method.backbone, run.settings.image_size, training.precision
            timed[timed_on, network].append(run)
    for (timed_on, network), runs in timed.items():
        overheads = [r.time.get("load_s", 0.0) + r.time.get("evaluate_s", 0.0) for r in runs]
        found[timed_on][network] = Speed(
            float(np.median([run.train_images_per_s for run in runs])),
            float(np.median(overheads)),
            f"{len(runs)} finished runs of {network[0]} at {network[1]} px",
        )
    speeds: dict[Network, Speed] = {}
    for other, known in sorted(found.items()):
        for network, speed in known.items():
            # Of several other devices the slowest: a forecast is an upper bound.
            if network not in speeds or speed.images_per_s < speeds[network].images_per_s:
                speeds[network] = replace(speed, source=f"{speed.source} on {other}")
    return speeds | found[device]


def forecast_profile(
    root: Path, params: Params, cards: dict[str, Card], name: str, runs: list[Run]
) -> list[str]:
    """Lines that say how long runs will take on this device, and what that is estimated from."""
    from benchmark.device import choose_device, environment

    profile = params.profile(name)

    @cache
    def training_images(source: str) -> int:
        count = 0
        for domain in sources_of(source):
            split = read_split(root / "datasets", domain, fold_of(0, profile.folds))
            trained = set(split.loc[split["part"] == "train", "path"])
            what = (card_of(cards, domain), domain, profile.label_space, profile.subset)
            count += domain_images(root / "datasets", *what)["path"].isin(trained).sum()
        return int(count)

    device = environment(choose_device())["device"]
    return forecast(
        known_speeds(root, device),
        runs,
        training_images,
        lambda run: kind_of_work(root, name, run) == "train",
    ).lines(device, name)
