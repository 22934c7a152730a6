"""A project of thousands of runs that are all done: synthetic answers, real plans and pipeline.

Data facts, splits and code are the repository's own `core`; the grid is widened until it holds the
number of runs asked for, and answers are drawn by chance instead of by networks.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
from conftest import REPOSITORY
from ruamel.yaml import YAML

from benchmark.data.cards import load_cards
from benchmark.files import read_json, sha256_file
from benchmark.settings import load_params
from benchmark.study.pipeline import write_pipelines
from benchmark.study.plan import plan_profile
from benchmark.study.records import run_folder, write_index
from benchmark.study.runs import Run

PROFILE = "core"
CLASSES = ["neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil"]
VARIANTS = 25
"""Files of predictions drawn for each scenario; more runs take them in turn."""
GRID = {
    "scenarios": ["raabin->*", "pbc-main->*"], "losses": ["ce", "weighted_ce", "focal"],
    "normalisations": ["bn", "gn", "in", "ibn_a", "none"], "seeds": 5,
}  # fmt: skip
"""150 runs an experiment."""
EXPERIMENTS = [
    (backbone, augmentation)
    for augmentation in (None, "stain", "strong", "flips")
    for backbone in ("resnet10t", "resnet18", "resnet26", "resnet34", "resnet50")
]
"""Twenty of them: 3,000 runs."""


def finished_project(root: Path, experiments: int) -> list[str]:
    """Make the project and its finished runs; returns the names of its experiments."""
    listing = ["git", "ls-files", "-z", "-co", "--exclude-standard", "benchmark", "datasets"]
    names = subprocess.check_output(listing, cwd=REPOSITORY, text=True).split("\0")
    for name in filter(None, names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, root / name)
    results = root / "results" / PROFILE
    results.mkdir(parents=True)
    for name in ("data.json", "audit.json"):
        shutil.copy(REPOSITORY / "results" / PROFILE / name, results)
    settings = YAML(typ="safe", pure=True).load((REPOSITORY / "params.yaml").read_text())
    profile = settings["profiles"][PROFILE]
    profile["experiments"] = {
        f"e{place}": {"title": "Synthetic", "backbones": [backbone]}
        | {"augmentations": [augmentation]}
        | GRID
        for place, (backbone, augmentation) in enumerate(EXPERIMENTS[:experiments])
    }
    settings["profiles"] = {PROFILE: profile}
    (root / "params.yaml").write_text(json.dumps(settings))  # JSON is YAML
    params = load_params(root / "params.yaml")
    plans = plan_profile(root, params, PROFILE)
    write_pipelines(root, params, load_cards(root / "datasets"), check=False)
    drawn: dict[str, list[bytes]] = {}
    for runs in plans.values():
        for place, run in enumerate(runs):
            files = drawn.setdefault(run.scenario.name, [])
            if len(files) < VARIANTS:
                table = predictions(root, run, seed=len(files))
                files.append(table.to_parquet(None, index=False, compression="zstd"))
            write_finished(root, run, files[place % len(files)])
    for name in plans:
        write_index(root, PROFILE, name)
    return list(plans)


def write_finished(root: Path, run: Run, predictions: bytes) -> None:
    """The record and the predictions of a run."""
    folder = run_folder(root, PROFILE, run.run_id)
    folder.mkdir(parents=True)
    path = folder / "predictions.parquet"
    path.write_bytes(predictions)
    history = [{"epoch": e, "train_loss": 1 / (e + 1), "lr": 1e-3} for e in range(10)]
    done = {"outcome": "done", "reason": None, "predictions_sha256": sha256_file(path)}
    record = {"schema_version": 1} | run.record() | done | {"history": history}
    # Three thousand calls of `write_json` would wait for the disk three thousand times.
    (folder / "run.json").write_text(json.dumps(record, indent=1))


def predictions(root: Path, run: Run, seed: int) -> pd.DataFrame:
    """Answers that lean towards the true class, for all that the run is tested on."""
    random = np.random.default_rng(seed)
    source, targets = run.scenario.source, run.scenario.targets
    domains = read_json(root / "results" / PROFILE / "data.json")["domains"]
    split = pd.read_csv(root / "datasets" / "splits" / f"{source}.csv")
    parts = split["part"].value_counts(normalize=True) * domains[source]["images"]
    sets = [(source, part, int(parts[part])) for part in ("id_val", "calibration", "id_test")]
    sets += [(target, "shifted", domains[target]["images"]) for target in targets]
    frames = []
    for domain, part, images in sets:
        classes = domains[domain]["classes"]
        shares = np.array([classes[name] for name in CLASSES])
        labels = np.searchsorted(
            np.cumsum(shares), np.arange(images) * shares.sum() // images, "right"
        )
        logits = random.normal(0, 1, (images, len(CLASSES)))
        logits[np.arange(images), labels] += 2
        frame = pd.DataFrame({"image": [f"{part}/{i:04d}.jpg" for i in range(images)]})
        frame = frame.assign(domain=domain, part=part, group=[f"g{i // 5}" for i in range(images)])
        frame["label"] = labels.astype(np.int8)
        for place, name in enumerate(CLASSES):
            frame[f"logit_{name}"] = logits[:, place].astype(np.float16)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def commit_pipeline(root: Path) -> None:
    """Tell DVC that every stage is done; what the others than training leave is the repository's.

    Images and what is computed from runs enter by their size alone: DVC compares digests.
    """
    results = Path("results") / PROFILE
    stages = YAML(typ="safe", pure=True).load((root / "dvc.yaml").read_text())["stages"]
    for stage in stages.values():
        for path in (next(iter(out)) for out in stage["outs"]):
            source, target = REPOSITORY / path, root / path
            if target.exists():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir() and source.is_relative_to(REPOSITORY / results):
                shutil.copytree(source, target)
            elif source.is_file():
                shutil.copy(source, target)
            elif target.suffix:
                target.touch()
            else:
                target.mkdir()
    shutil.copy(REPOSITORY / ".dvcignore", root)
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"], ["dvc", "commit", "-q", "-f"]):
        subprocess.run(command, cwd=root, check=True)
