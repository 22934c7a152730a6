"""The gallery: the errors of the report, each with its own picture, where git does not look."""

from __future__ import annotations

import base64
import io
import re
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
from conftest import CLASSES, REPOSITORY
from PIL import Image
from support.results import run_record, write_experiment, write_run

from benchmark.data.arrays import PreparedImages
from benchmark.evaluation.experiments import load_experiments
from benchmark.report.confident_errors import confident_errors
from benchmark.study.records import predictions_table


def answer(results: Path, images: PreparedImages, name: str, mistaken: int) -> dict:
    """A done run that answers `mistaken` basophils of toy-b as neutrophils, ever less sure."""
    parts = [images.part("toy-a", "id_test"), images.domain("toy-b")]
    tables = []
    for part in parts:
        logits = 9.0 * np.eye(5, dtype=np.float32)[part.labels]
        if part is parts[1]:
            wrong = np.flatnonzero(part.labels == 4)[:mistaken]
            logits[wrong] = 0
            logits[wrong, 0] = 6 - np.arange(mistaken) / 10
        tables.append(predictions_table(part.table, part.labels, logits, CLASSES))
    table = pd.concat(tables, ignore_index=True)
    record = run_record(name, 0, None, source="toy-a", targets=["toy-b"])
    return record | {"predictions_sha256": write_run(results, record["run_id"], table)}


def test_every_error_has_its_own_picture_and_the_numbers_of_the_report(
    prepared: Path, wbc_shift
) -> None:
    results, images = Path("results/tiny"), PreparedImages(Path(), "tiny", CLASSES)
    runs = [answer(results, images, name, n) for name, n in (("net-bn-ce", 3), ("net-gn-ce", 2))]
    write_experiment(results, runs)
    outcome = wbc_shift("gallery", "-p", "tiny")
    assert outcome.status == 0, outcome.err
    page = (results / "gallery" / "all.html").read_text()
    (found,) = [f for f in confident_errors(results, load_experiments(results)) if f.wrong]
    assert [(error.true, error.predicted) for error in found.shown] == [
        ("basophil", "neutrophil")
    ] * 2
    # The third is one run's alone, and the other is surer.
    assert f"toy-b, trained on toy-a: 2 of {found.images} wrong" in page
    shown = re.findall(r'base64,([^"]+)" alt="([^"]+)">.*? answered neutrophil ([\d.]+) %', page)
    assert [(name, float(sure)) for _, name, sure in shown] == [
        (error.image, error.confidence) for error in found.shown
    ]
    whole = images.domain("toy-b")
    for picture, name, _ in shown:
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))), float)
        away = np.abs(whole.pixels.astype(float) - pixels).mean(axis=(1, 2, 3))
        assert whole.table["image"].iloc[int(away.argmin())] == name
    assert 'src="http' not in page

    run_id = runs[0]["run_id"]
    assert wbc_shift("gallery", run_id, "-p", "tiny").status == 0
    page = (results / "gallery" / f"{run_id.replace('/', '__')}.html").read_text()
    assert page.count("<figure>") == 3
    outcome = wbc_shift("gallery", run_id.replace("bn", "bm"), "-p", "tiny")
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert "did you mean" in outcome.err


def test_git_ignores_the_gallery() -> None:
    command = ["git", "check-ignore", "-q", "results/core/gallery/all.html"]
    assert subprocess.run(command, cwd=REPOSITORY, check=False).returncode == 0
