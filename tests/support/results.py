"""Folders of results as training and evaluation leave them, of drawn predictions."""

from __future__ import annotations

import hashlib
import itertools
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmark.evaluation.columns import SUMMARIES
from benchmark.evaluation.evaluate import evaluate
from benchmark.evaluation.scores import majority_id
from benchmark.report import page
from benchmark.report.blocks import METRICS, score_tables
from benchmark.report.page import Section, write_page
from benchmark.report.pictures import Picture
from benchmark.report.results import Results, Scores
from benchmark.report.sheets import ablations_sheet, runs_sheet
from benchmark.report.table import Cell, sheet
from benchmark.report.tables import Tables

CLASSES = ["neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil"]


COUNTS = {
    ("raabin", "id_val"): [3, 3, 3, 3, 3],
    ("raabin", "id_test"): [12, 20, 11, 10, 10],
    ("bccd", "shifted"): [30, 12, 10, 14, 3],
    ("jtsc", "shifted"): [25, 13, 12, 10, 0],
}


TARGETS = ["bccd", "jtsc"]


def predictions(seed, shifted_skill=1.0, counts=None):
    """A predictions table: logits that lean towards the true class, less so on the targets."""
    random = np.random.default_rng(seed)
    frames = []
    for (domain, part), numbers in (counts or COUNTS).items():
        labels = np.repeat(np.arange(len(CLASSES)), numbers)
        logits = random.normal(0, 1, (len(labels), len(CLASSES)))
        logits[np.arange(len(labels)), labels] += shifted_skill if part == "shifted" else 4
        frame = pd.DataFrame({"image": [f"{part}/{i:04d}.jpg" for i in range(len(labels))]})
        frame = frame.assign(domain=domain, part=part, group=frame["image"])
        frame["label"] = labels.astype(np.int8)
        for place, name in enumerate(CLASSES):
            frame[f"logit_{name}"] = logits[:, place].astype(np.float16)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def write_run(results, run_id, table):
    """Write a run's predictions; return their SHA-256."""
    path = results / "runs" / run_id / "predictions.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path, index=False)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run_record(name, seed, sha, outcome="done", reason=None, source="raabin", targets=TARGETS):
    """A run as it stands in an experiment's record."""
    backbone, normalisation, loss = name.split("-")
    return {
        "run_id": f"{name}/{source}_to_others/seed{seed}",
        "fingerprint": "0",
        "outcome": outcome,
        "reason": reason,
        "predictions_sha256": sha,
        "method": {"name": name, "backbone": backbone, "normalisation": normalisation}
        | {"loss": loss, "recipe": "erm", "weights": "scratch"},
        "track": "inductive",
        "scenario": {"name": f"{source}->*", "source": source, "targets": targets},
        "seed": seed,
    }


def write_experiment(results, runs, name="norms", title="Normalisation at fixed architecture"):
    """Write an experiment's record."""
    record = {"schema_version": 1, "experiment": name, "title": title, "profile": "toy"}
    record |= {"label_space": "wbc5", "classes": CLASSES, "runs": runs}
    path = results / "experiments" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))


def write_results(results, methods=("resnet18-bn-ce", "resnet18-gn-ce"), seeds=2):
    """A results folder with every run done; returns its run records."""
    runs = []
    for place, name in enumerate(methods):
        for seed in range(seeds):
            record = run_record(name, seed, None)
            table = predictions(10 * place + seed, shifted_skill=0.5 + place)
            record["predictions_sha256"] = write_run(results, record["run_id"], table)
            runs.append(record)
    write_experiment(results, runs)
    return runs


def write_data(folder):
    """The facts of the prepared images that a report reads."""
    counts = dict(zip(CLASSES, [1, 2, 3, 4, 5], strict=True))
    domain = {"dataset": "raabin", "images": 15, "classes": counts, "crop": 0.6, "digest": "0"}
    data = {"image_size": 48, "label_space": "wbc5", "subset": "all"}
    data["domains"] = {"raabin": domain}
    (folder / "data.json").write_text(json.dumps(data))


def write_gaps(folder):
    """A results folder with a gap: gn has one seed of two, in has none; bn is in two questions."""
    runs = write_results(folder)
    write_experiment(folder, runs[:1], name="losses", title="Loss under class imbalance")
    runs[3] |= {"outcome": "missing", "predictions_sha256": None}
    reason = "loss is <NaN> in epoch 3"
    runs.append(run_record("resnet18-in-ce", 0, None, outcome="nan", reason=reason))
    write_experiment(folder, runs)
    write_data(folder)
    evaluate(folder)
    return show(folder)


def show(folder):
    """Write the page with two small pictures for each experiment."""
    results = Results.of(folder)
    (folder / "figures").mkdir(exist_ok=True)
    pictures = {"": [picture("heat_map", "A picture of all the experiments together.")]}
    text = "A claim that is long enough to be broken over several lines."
    claims = sheet("claims", "Claims.", ("claim", "here"), ((text, Cell(1.0)),), ("A note",), 2)
    sections = [Section(None, Tables([], [claims]), pictures[""])]
    for place, experiment in enumerate(results.experiments):
        scores = score_tables(experiment, results.scores)
        own = pictures[experiment.experiment] = []
        for kind in ("shift", "confusion"):
            name = f"{kind}_{experiment.experiment}"
            Image.new("RGB", (8, 8 + place)).save(folder / "figures" / f"{name}.png")
            own.append(picture(name, f"A picture of the kind that is called {kind}."))
        levels = sheet(f"{experiment.experiment}_levels", "Levels.", ("part",), [["x"]])
        sections.append(Section(experiment, Tables(scores, [levels]), own))
    Image.new("RGB", (8, 8)).save(folder / "figures" / "heat_map.png")
    write_page(results, *sections)
    return folder


def picture(name, caption):
    return Picture(name, caption, caption, "metrics.parquet")


def write_large(folder, seeds):
    """A study of 800 runs from two sources on eight other domains, in four experiments; its scores
    are drawn, and held in memory alone."""
    targets = ["pbc-366", "bccd", "bccd-wide", "jtsc", "cellavision", "chula", "lisc", "mll23"]
    sources = ("raabin", "pbc-main")
    methods = [f"network{i:03d}-instance_norm-balanced_softmax" for i in range(400 // seeds)]
    runs = {
        method: [
            run_record(method, seed, f"{place:064d}", source=source, targets=targets)
            for source in sources
            for seed in range(seeds)
        ]
        for place, method in enumerate(methods)
    }
    for name, own in enumerate(np.array_split(methods, 4)):
        planned = [run for method in own for run in runs[method]]
        write_experiment(folder, planned, name=f"part{name}", title=f"Part {name} of a study")
    random = np.random.default_rng(0)
    counts = dict.fromkeys(CLASSES, 50) | {"basophil": 3}
    results = Results.of(folder)
    scores = Scores({}, {}, {}, {}, {f"{s}->*": tuple(targets) for s in sources}, {})
    for source in sources:
        scenario = f"{source}->*"
        sets = [(source, "id_test"), *((target, "shifted") for target in targets)]
        for where in sets:
            for name, n in counts.items():
                scores.values[majority_id(scenario), *where, name, "f1"] = (0.1, n)
        columns = ("in_domain", *SUMMARIES, *targets)
        for method, metric, column in itertools.product(methods, METRICS, columns):
            low, mean, high = np.sort(random.uniform(0.1, 1, 3))
            own = {"mean": mean, "low": low, "high": high, "seeds": seeds, "freedom": seeds - 1}
            scores.intervals[scenario, "inductive", method, metric, "", column] = own
            if column == "mean_target":
                ranks = {"rank": 100, "rank_low": 100, "rank_high": 200}
                where = ("", scenario, "inductive", method, metric, column)
                scores.standings[where] = ranks | {"best": False, "as_good": False}
    effects = [
        (f"{source}->*", "inductive", "loss", method, "ce", method, methods[0], "mean_target")
        for source in sources
        for method in methods
    ]
    names = ("scenario", "track", "part", "choice", "plain", "method", "reference", "column")
    numbers = {"mean": 0.1, "low": 0.05, "high": 0.15, "p": 0.01, "p_holm": 0.02}
    vars(results)["scores"] = scores
    vars(results)["effects"] = pd.DataFrame(effects, columns=names).assign(**numbers)
    return results


def show_large(folder, seeds):
    """Its pages; which cells are errors is left out, since that does not grow with the runs."""
    results = write_large(folder, seeds)
    sheets = [runs_sheet(results.experiments), ablations_sheet(results)]
    sections = [Section(None, Tables([], sheets), [])]
    for experiment in results.experiments:
        scores = score_tables(experiment, results.scores)
        sections.append(Section(experiment, Tables(scores, []), []))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "confident_errors", lambda folder, experiments: [])
        write_page(results, *sections)
    return folder


ONE_CLASS = {("own-baso", "shifted"): [0, 0, 0, 0, 12], ("few", "shifted"): [20, 9, 12, 3, 0]}
ONE_CLASS |= {("own-good", "shifted"): [20, 20, 20, 20, 20]}


def results_with_own_targets(results):
    """Two published targets, one with two supported classes, and two of a laboratory's own."""
    counts = COUNTS | ONE_CLASS
    targets = [domain for domain, part in counts if part == "shifted"]
    runs = []
    for place, name in enumerate(("a-bn-ce", "b-gn-ce")):
        for seed in (0, 1):
            record = run_record(name, seed, None, targets=targets)
            record["scenario"]["own"] = ["own-baso", "own-good"]
            table = predictions(10 * place + seed, shifted_skill=0.5 + place, counts=counts)
            record["predictions_sha256"] = write_run(results, record["run_id"], table)
            runs.append(record)
    write_experiment(results, runs)
    return runs


def scores(results):
    """`metrics.parquet` with one row per (run, domain, part, class, metric)."""
    keys = ["run_id", "domain", "part", "class_name", "metric"]
    return pd.read_parquet(results / "metrics.parquet").set_index(keys).sort_index()
