"""Cells of no class: prepared apart, answered by every inductive run, told from known cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import edit
from sklearn.metrics import roc_auc_score
from support.tables import read_lines

from benchmark.data.arrays import PreparedImages
from benchmark.data.cards import load_cards
from benchmark.data.prepare import prepare
from benchmark.errors import UserError
from benchmark.evaluation import rejection
from benchmark.evaluation.evaluate import evaluate
from benchmark.execution import runner
from benchmark.files import read_json
from benchmark.models.predict import predict
from benchmark.report.report import report
from benchmark.settings import load_params
from benchmark.study.plan import plan_profile

RESULTS = Path("results/tiny")
RUN = "resnet10t-bn-ce/toy-a_to_others/seed0"
ADAPTED = "adapted/toy-a_to_others/seed0"
SETTINGS = """\
inferences: {adabn: {}}
methods:
  adapted: {backbone: resnet10t, inference: adabn}
profiles:
"""


def make_foreign(labels: dict[str, str]) -> None:
    """Relabel the first lymphocytes of toy-b as cells of no class, and prepare and plan anew."""
    manifest = Path("datasets/manifests/toy.csv")
    table = pd.read_csv(manifest)
    rows = table.index[(table["acquisition"] == "b") & (table["label"] == "lymphocyte")]
    for row, label in zip(rows, labels, strict=False):
        table.loc[row, "label"] = label
    table.to_csv(manifest, index=False)
    mapped = "".join(f", {label}: {kind}" for label, kind in labels.items())
    edit(Path("datasets/toy.yaml"), ", artefact: null", f", artefact: null{mapped}")
    params = load_params()
    prepare(Path(), "tiny", params.profile("tiny"), load_cards(Path("datasets")))
    plan_profile(Path(), params, "tiny")


@pytest.fixture
def answered(prepared: Path) -> Path:
    """A run and an adapted one, done before the first foreign cell was known, and done again."""
    edit(Path("params.yaml"), "profiles:\n", SETTINGS)
    edit(Path("params.yaml"), "losses: [ce, focal]\n", "losses: [ce]\n        methods: [adapted]\n")
    plan_profile(Path(), load_params(), "tiny")
    runner.train_experiment(Path(), "tiny", "first")
    make_foreign({"blast": "near", "myelocyte": "near", "platelet": "far"})
    return prepared


def predictions(run_id: str) -> pd.DataFrame:
    return pd.read_parquet(RESULTS / "runs" / run_id / "predictions.parquet")


def test_foreign_cells_are_predicted_alone_and_known_predictions_stand(
    answered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = predictions(RUN)
    asked = []
    monkeypatch.setattr(
        "benchmark.models.predict.predict",
        lambda model, pixels, *more: asked.append(len(pixels)) or predict(model, pixels, *more),
    )
    monkeypatch.setattr(runner, "fit", lambda *_: pytest.fail("a foreign cell retrained a run"))
    runner.train_experiment(Path(), "tiny", "first")
    after = predictions(RUN)
    known = after[after["part"] != "open_set"].reset_index(drop=True)
    shifted = before["part"] == "shifted"
    # Three lymphocytes fewer in the target: it is another test set, and predicted again.
    assert len(known) == len(before) - 3
    pd.testing.assert_frame_equal(before[~shifted], known[known["part"] != "shifted"])
    foreign = after[after["part"] == "open_set"]
    assert foreign["label"].tolist() == [-1, -1, -2]
    assert set(foreign["domain"]) == {"toy-b"}
    assert 3 in asked


def test_what_adapts_to_test_images_is_not_asked_about_foreign_cells_alone(answered: Path) -> None:
    runner.train_experiment(Path(), "tiny", "first")
    assert "open_set" in set(predictions(RUN)["part"])
    assert "open_set" not in set(predictions(ADAPTED)["part"])


def test_scores_set_foreign_cells_against_the_known_of_the_same_domain(answered: Path) -> None:
    runner.train_experiment(Path(), "tiny", "first")
    evaluate(RESULTS)
    table = predictions(RUN)
    logits = table.filter(like="logit_").to_numpy()
    known = (table["domain"] == "toy-b") & (table["part"] == "shifted")
    near = table["label"] == -1
    chosen = known | near
    expected = roc_auc_score(known[chosen], rejection.maximum_probability(logits[chosen]))
    rows = pd.read_parquet(RESULTS / "open_set.parquet").set_index(["kind", "rejector"])
    assert rows.loc[("near", "msp"), "auroc"] == pytest.approx(expected)
    assert rows.loc[("near", "msp"), ["known_n", "foreign_n"]].tolist() == [int(known.sum()), 2]
    assert rows.loc[("far", "msp"), "foreign_n"] == 1
    # No foreign cell is an image of a class: neither scores nor counts know of them.
    confusion = pd.read_parquet(RESULTS / "confusion.parquet").query("run_id == @RUN")
    assert confusion.query("domain == 'toy-b'")["count"].sum() == known.sum()


def test_the_report_has_a_table_of_open_set_scores(answered: Path) -> None:
    runner.train_experiment(Path(), "tiny", "first")
    evaluate(RESULTS)
    report(RESULTS)
    lines = read_lines(RESULTS / "tables" / "open_set.md")
    assert list(dict.fromkeys(line["foreign cells"] for line in lines)) == ["near", "far"]
    assert {line["method"] for line in lines} == {"resnet10t-bn-ce"}


def test_no_array_of_foreign_cells_outlives_them(answered: Path) -> None:
    cache = Path("datasets/cache/tiny")
    assert np.load(cache / "toy-b.open_set.npy").shape == (3, 48, 48, 3)
    text = Path("datasets/toy.yaml").read_text()
    for label, kind in {"blast": "near", "myelocyte": "near", "platelet": "far"}.items():
        text = text.replace(f"{label}: {kind}", f"{label}: null")
    Path("datasets/toy.yaml").write_text(text)
    params = load_params()
    prepare(Path(), "tiny", params.profile("tiny"), load_cards(Path("datasets")))
    assert not (cache / "toy-b.open_set.npy").exists()
    assert "open_set" not in read_json(RESULTS / "data.json")["domains"]["toy-b"]
    with pytest.raises(UserError, match="prepare"):
        PreparedImages(Path(), "tiny", []).test_set("toy-b", "open_set")
