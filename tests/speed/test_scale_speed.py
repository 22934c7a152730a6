"""What 3,000 finished runs cost: to see that nothing is left to do, and to aggregate them.

`pytest --benchmark -s tests/speed/test_scale_speed.py`. The runs are synthetic: 20 experiments of
30 methods with 5 seeds, each with predictions of 4,750 images (as many as a core run's).
Goals: the check under 5 s; the aggregation under 60 s and 4 GiB. `WBC_RUNS` scales the number.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmark.files import sha256_file, write_json
from benchmark.launch import missing_tasks
from benchmark.plan import plan_path
from benchmark.speed.measure import in_turn
from benchmark.training.records import write_index

RUNS = int(os.environ.get("WBC_RUNS", "3000"))
METHODS, SEEDS = 30, 5
EXPERIMENTS = max(1, RUNS // (METHODS * SEEDS))
CLASSES = ["neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil"]
SETS = (("raabin", "id_val"), ("raabin", "id_test"), ("bccd", "shifted"), ("jtsc", "shifted"))
SETS += (("pbc-main", "shifted"),)
IMAGES = 950
"""Of each set."""
SETTINGS = {
    "normalisation": {}, "loss": {}, "image_size": 64,
    "training": {"epochs": 10, "batch_size": 64, "precision": "fp32"},
}  # fmt: skip


def predictions(seed: int) -> pd.DataFrame:
    """Random answers that lean towards the true class."""
    random = np.random.default_rng(seed)
    frames = []
    for domain, part in SETS:
        labels = np.arange(IMAGES) % 5
        logits = random.normal(0, 1, (IMAGES, 5))
        logits[np.arange(IMAGES), labels] += 2
        frame = pd.DataFrame({"image": [f"{part}/{i:04d}.jpg" for i in range(IMAGES)]})
        frame = frame.assign(domain=domain, part=part, group=[f"g{i // 5}" for i in range(IMAGES)])
        frame["label"] = labels.astype(np.int8)
        for place, name in enumerate(CLASSES):
            frame[f"logit_{name}"] = logits[:, place].astype(np.float16)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose planned runs are all done."""
    root = tmp_path_factory.mktemp("scale")
    answers = [
        predictions(seed).to_parquet(None, index=False, compression="zstd") for seed in range(25)
    ]
    for experiment in range(EXPERIMENTS):
        runs = []
        for index in range(METHODS * SEEDS):
            method, seed = divmod(index, SEEDS)
            name = f"net{experiment}x{method}-bn-ce"
            run = {
                "run_id": f"{name}/raabin_to_others/seed{seed}",
                "fingerprint": f"{experiment:08x}{index:08x}",
                "training_fingerprint": f"{experiment:08x}{index:08x}",
                "skip": None,
                "method": {"name": name, "backbone": name.split("-")[0], "normalisation": "bn"}
                | {"loss": "ce", "recipe": "erm", "weights": "scratch"},
                "track": "inductive",
                "scenario": {"name": "raabin->*", "source": "raabin"}
                | {"targets": ["bccd", "jtsc", "pbc-main"]},
                "seed": seed,
                "settings": SETTINGS,
            }
            runs.append(run)
            folder = root / "results" / "toy" / "runs" / run["run_id"]
            folder.mkdir(parents=True)
            path = folder / "predictions.parquet"
            path.write_bytes(answers[index % len(answers)])
            history = [{"epoch": e, "train_loss": 1 / (e + 1), "lr": 1e-3} for e in range(10)]
            done = {"outcome": "done", "reason": None, "predictions_sha256": sha256_file(path)}
            write_json(folder / "run.json", run | done | {"history": history})
        plan = {"schema_version": 1, "experiment": f"e{experiment}", "title": "Synthetic"}
        plan |= {"profile": "toy", "label_space": "wbc5", "classes": CLASSES, "runs": runs}
        write_json(plan_path(root, "toy", f"e{experiment}"), plan)
    return root


def test_seeing_that_nothing_is_left_to_do(benchmark, finished: Path) -> None:
    names = [f"e{i}" for i in range(EXPERIMENTS)]

    def check() -> None:
        assert missing_tasks(finished, "toy", names) == []
        for name in names:
            write_index(finished, "toy", name)

    time_of = in_turn({"check": check}, 3, torch.device("cpu"))["check"]
    print(
        f"\n{EXPERIMENTS * METHODS * SEEDS} finished runs: looked through twice and indexed in "
        f"{time_of.wall_s:.1f} s ({time_of.processor_s:.1f} s of processor time)"
    )
    benchmark.pedantic(check, rounds=1)


def test_aggregating(benchmark, finished: Path) -> None:
    for i in range(EXPERIMENTS):
        write_index(finished, "toy", f"e{i}")
    code = "from pathlib import Path; from benchmark.evaluation.evaluate import evaluate; "
    code += "evaluate(Path('results/toy'))"
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=finished, check=True)
    seconds = time.perf_counter() - started
    gib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    processor = resource.getrusage(resource.RUSAGE_CHILDREN)
    benchmark.extra_info |= {"peak_gib": gib, "seconds": seconds}
    print(
        f"\n{EXPERIMENTS * METHODS * SEEDS} runs aggregated in {seconds:.0f} s "
        f"({processor.ru_utime + processor.ru_stime:.0f} s of processor time), {gib:.2f} GiB"
    )
    benchmark.pedantic(lambda: None, rounds=1)
