"""Evaluate and report of a profile of a hundred runs and seven domains, drawn at random.

`pytest --benchmark -s` prints the seconds of each. Asked for are 60 s on two processors.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.evaluation.evaluate import evaluate
from benchmark.report.report import report

CLASSES = ["neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil"]
DOMAINS = {"raabin": 2717, "pbc-main": 2500, "pbc-366": 250, "bccd": 351, "jtsc": 299}
DOMAINS |= {"cellavision": 100, "own": 300}
HELD_OUT = {"id_val": 270, "calibration": 330, "id_test": 592}
CORRUPTIONS = ["gaussian_noise", "salt_and_pepper", "gaussian_blur", "defocus_blur", "motion_blur"]
CORRUPTIONS += ["brightness", "contrast", "uneven_illumination", "colour_cast", "jpeg"]
SHARES = np.array([0.59, 0.1, 0.06, 0.24, 0.01])


def method(normalisation: str, loss: str = "ce", **parts: str) -> dict[str, str]:
    """A method's record; its name says how it differs."""
    name = "-".join(["resnet18", normalisation, loss, *parts.values()])
    own = {"name": name, "backbone": "resnet18", "normalisation": normalisation, "loss": loss}
    return own | {"recipe": "erm", "weights": "scratch"} | parts


def experiments() -> dict[str, list[tuple[str, dict[str, str], int, str]]]:
    """Experiment → (scenario, method, seeds, track): 101 runs."""
    norms = [method(n) for n in ("bn", "gn", "in", "ibn_a")]
    strong = [method(n, augmentation=a) for n in ("bn", "gn", "in") for a in ("stain", "strong")]
    losses = ["weighted_ce", "focal", "balanced_softmax", "logit_adjusted", "ldam", "ccl"]
    readouts = ["linear_probe", "nearest_neighbours", "decoupled", "decoupled_neither"]
    others = [f"{'+'.join(d for d in DOMAINS if d != target)}->{target}" for target in DOMAINS]
    corrupted = [norms[0], norms[2], *strong[:4]]
    return {
        "norms": [(f"{s}->*", m, 3, "inductive") for s in ("raabin", "pbc-main") for m in norms],
        "augmentation": [("raabin->*", m, 3, "inductive") for m in (*norms[:3], *strong)],
        "losses": [("raabin->*", method("bn", loss), 3, "inductive") for loss in ("ce", *losses)],
        "corruptions": [("raabin->corruptions", m, 2, "inductive") for m in corrupted],
        "recipes": [("raabin->*", method("bn", readout=r), 3, "inductive") for r in readouts]
        + [("raabin->*", method("bn", inference="adabn"), 3, "transductive")],
        "leave_one_out": [
            (s, m, 1, "inductive") for s in others for m in (norms[0], method("bn", recipe="coral"))
        ],
    }


def test_sets(scenario: str) -> tuple[str, list[str]]:
    """Source and targets of a scenario's name."""
    source, targets = scenario.split("->")
    if targets == "corruptions":
        return source, [f"{source}:{c}:{s}" for c, s in product(CORRUPTIONS, (1, 2, 3, 4))]
    return source, [d for d in DOMAINS if d != source] if targets == "*" else targets.split(",")


def write_predictions(path: Path, source: str, targets: list[str], seed: int) -> str:
    """Random logits that lean to the true class, less so on targets; the file's SHA-256."""
    random = np.random.default_rng(seed)
    parts = [(source, part, n, 3.5) for part, n in HELD_OUT.items()]
    parts += [(t, "shifted", DOMAINS.get(t, 592), 1.0 + 0.2 * (seed % 5)) for t in targets]
    columns: dict[str, list] = {"image": [], "domain": [], "part": [], "group": [], "label": []}
    logits = []
    for domain, part, n, skill in parts:
        fixed = np.random.default_rng(n)
        labels = fixed.choice(5, n, p=SHARES)
        labels[:5] = range(5)
        columns["image"] += [f"{i:05d}.png" for i in range(n)]
        columns["domain"] += [domain] * n
        columns["part"] += [part] * n
        columns["group"] += [f"{i // 3:04d}" for i in range(n)]
        columns["label"] += labels.tolist()
        logits.append(random.normal(0, 1.5, (n, 5)) + skill * np.eye(5)[labels])
    values = np.concatenate(logits).astype(np.float16)
    table = pa.table(columns | {f"logit_{c}": values[:, i] for i, c in enumerate(CLASSES)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_results(folder: Path) -> int:
    """A results folder of `experiments`; returns the number of its runs."""
    known: dict[str, dict] = {}
    for name, rows in experiments().items():
        runs = []
        for scenario, own, seeds, track in rows:
            for seed in range(seeds):
                place = scenario.replace("->", "_to_").replace("*", "others").replace("+", "_")
                run_id = f"{own['name']}/{place}/seed{seed}"
                if run_id not in known:
                    source, targets = test_sets(scenario)
                    path = folder / "runs" / run_id / "predictions.parquet"
                    sha = write_predictions(path, source, targets, len(known))
                    history = [
                        {"epoch": e, "train_loss": 1.5 / (e + 1), "id_val_macro_f1": 1 - 0.7**e}
                        for e in range(10)
                    ]
                    known[run_id] = {
                        "run_id": run_id,
                        "outcome": "done",
                        "predictions_sha256": sha,
                        "method": own,
                        "track": track,
                        "scenario": {"name": scenario, "source": source, "targets": targets},
                        "seed": seed,
                    }
                    facts = {"device": "Toy", "device_type": "cpu", "threads": 1}
                    record = {"run_id": run_id, "history": history, "environment": facts}
                    record |= {"train_images_per_s": 20.0 + len(known) % 17}
                    record |= {"time": {"train_s": 60.0, "evaluate_s": 5.0}}
                    (path.parent / "run.json").write_text(json.dumps(record))
                runs.append(known[run_id])
        experiment = {"schema_version": 1, "experiment": name, "title": f"About {name}"}
        experiment |= {"profile": "toy", "label_space": "wbc5", "classes": CLASSES, "runs": runs}
        path = folder / "experiments" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(experiment))
    return len(known)


def test_a_hundred_runs_are_evaluated_and_reported(tmp_path):
    runs = write_results(tmp_path)
    assert runs >= 100
    for step in (evaluate, report):
        start, before = time.perf_counter(), os.times()
        step(tmp_path)
        spent = sum(os.times()[:4]) - sum(before[:4])
        elapsed = time.perf_counter() - start
        print(f"{step.__name__}: {runs} runs, {elapsed:.1f} s, {spent:.1f} s of processors")
    assert (tmp_path / "report.html").is_file()
