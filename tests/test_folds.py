"""Cross-fitting: every group is tested at home once, never cut, and each seed sees its own fold."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from conftest import CLASSES, REPOSITORY, edit, working_copy
from support.splits import split_anew

from benchmark.data.arrays import PreparedImages
from benchmark.data.cards import card_of, load_cards
from benchmark.data.split import (
    Fold,
    read_split,
    split_digest,
    split_domain,
    split_into_folds,
    split_path,
)
from benchmark.errors import UserError
from benchmark.evaluation.cross_fitting import runs_by_fold
from benchmark.evaluation.feature_files import cells_of
from benchmark.files import read_json
from benchmark.laboratory.embed_all import source_of
from benchmark.settings import load_params

DATASETS = REPOSITORY / "datasets"
FIVE = [Fold(number, 5) for number in range(5)]


@pytest.mark.parametrize("domain", ["raabin", "pbc-main"])
def test_the_committed_folds_are_what_the_command_writes(domain: str, tmp_path: Path) -> None:
    split_anew(domain, tmp_path)
    params = load_params(REPOSITORY / "params.yaml")
    split_into_folds(tmp_path, card_of(load_cards(DATASETS), domain), domain, params.split, 5)
    fresh = split_path(tmp_path, domain, 5).read_text()
    assert fresh == split_path(DATASETS, domain, 5).read_text()


@pytest.mark.parametrize("domain", ["raabin", "pbc-main"])
def test_every_group_is_whole_and_tested_in_one_fold(domain: str) -> None:
    splits = [read_split(DATASETS, domain, fold) for fold in FIVE]
    for split in splits:
        assert split["part"].notna().all()
        assert split.groupby("group")["part"].nunique().max() == 1
    times = sum((split["part"] == "id_test").astype(int) for split in splits)
    assert (times == 1).all()


@pytest.mark.parametrize("domain", ["raabin", "pbc-main"])
def test_classes_are_trained_on_in_every_fold_and_tested_where_groups_suffice(domain: str) -> None:
    for fold in FIVE:
        split = read_split(DATASETS, domain, fold)
        groups = split.groupby("label")["group"].nunique()
        for part in ("train", "id_val", "calibration", "id_test"):
            here = set(split.loc[split["part"] == part, "label"])
            assert set(groups.index[groups >= 8]) <= here
        # Of Raabin's basophils there are three groups: a fold may lack them, training may not.
        assert set(split.loc[split["part"] == "train", "label"]) == set(groups.index)
        shares = split["part"].value_counts(normalize=True)
        assert shares["train"] == pytest.approx(0.6, abs=0.04)
        assert shares["id_test"] == pytest.approx(0.2, abs=0.04)
        assert shares["id_val"] == pytest.approx(0.1, abs=0.04)


def test_the_split_of_profiles_without_folds_keeps_its_digest() -> None:
    assert split_digest(DATASETS, "raabin") == "73801f24bb5a10a7"
    assert split_digest(DATASETS, "pbc-main") == "dfae36a5576234ef"
    assert len({split_digest(DATASETS, "raabin", fold) for fold in (None, *FIVE)}) == 6


@pytest.fixture(scope="module")
def folded_template(prepared_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy project cut into three folds, with a method that has four seeds, and one of two."""
    from benchmark import cli

    folder = tmp_path_factory.mktemp("folded") / "project"
    shutil.copytree(prepared_template, folder)
    params = folder / "params.yaml"
    edit(params, "    label_space: wbc5\n", "    label_space: wbc5\n    folds: 3\n")
    edit(params, "seeds: 1", "seeds: 4")
    edit(params, "losses: [ce, focal]", "losses: [ce]")
    text = params.read_text()
    second = text[text.index("      first:") :].replace("first", "second").replace("ce]", "focal]")
    params.write_text(text + second.replace("seeds: 4", "seeds: 2"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        cli.split()
        cli.plan("tiny")
        cli.train("tiny", None)
    return folder


@pytest.fixture
def folded(folded_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, the current folder."""
    return working_copy(folded_template, tmp_path, monkeypatch)


def planned() -> list[dict]:
    """The planned runs of the toy profile."""
    return read_json(Path("results/tiny/plans/first.json"))["runs"]


def at_home(run_id: str) -> pd.DataFrame:
    """What a run predicted of its id_test."""
    table = pd.read_parquet(Path("results/tiny/runs") / run_id / "predictions.parquet")
    return table[table["part"] == "id_test"]


def test_features_of_another_fold_s_network_are_contaminated_at_home(folded: Path) -> None:
    """Cells are scored by the fold of seed 0, whose test part another fold has trained on."""
    params, cards = load_params(), load_cards(Path("datasets"))
    cells = cells_of(folded, params, cards, "tiny")
    found = {}
    for seed in (0, 1, 3):  # of three folds: the first, the second, and the first again
        run_id = f"resnet10t-bn-ce/toy-a_to_others/seed{seed}"
        about = source_of(folded, params, cells, "tiny", run_id).about
        found[seed] = cells.contamination(about, cells.scenarios[0])
    assert found == {0: {}, 1: {"contaminated": ["toy-a"]}, 3: {}}


def test_a_seed_is_tested_on_its_fold(folded: Path) -> None:
    runs = planned()
    assert [run["scenario"]["folds"] for run in runs] == [3] * 4
    tested = []
    for run in runs:
        held_out = at_home(run["run_id"])
        split = read_split(Path("datasets"), "toy-a", Fold(run["seed"] % 3, 3))
        expected = split.loc[split["part"] == "id_test", "path"]
        assert sorted(held_out["image"]) == sorted(expected)
        tested.append(set(held_out["image"]))
    whole = PreparedImages(Path(), "tiny", CLASSES).domain("toy-a").table["image"]
    assert set.union(*tested[:3]) == set(whole)
    assert sum(len(images) for images in tested[:3]) == len(whole)
    assert tested[3] == tested[0]


def test_another_cut_into_folds_makes_the_runs_of_the_changed_folds_stale(
    folded: Path, wbc_shift: Callable
) -> None:
    before = [run["fingerprint"] for run in planned()]
    path = split_path(Path("datasets"), "toy-a", 3)
    table = pd.read_csv(path, dtype=str)
    row = table.index[table["fold1"] == "train"][0]
    table.loc[row, "fold1"] = "id_val"
    table.to_csv(path, index=False)
    assert wbc_shift("plan", "-p", "tiny").status == 0
    after = [run["fingerprint"] for run in planned()]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True, True]


def test_what_is_said_at_home_is_of_all_folds_together(folded: Path, wbc_shift: Callable) -> None:
    """Of those that every method of the scenario has: here two of the three."""
    for command in ("evaluate", "report"):
        outcome = wbc_shift(command, "-p", "tiny")
        assert outcome.status == 0, outcome.err
    found = pd.read_parquet("results/tiny/intervals.parquet")
    found = found[(found["column"] == "in_domain") & (found["metric"] == "accuracy")]
    assert found.set_index("method")["seeds"].to_dict() == {
        "resnet10t-bn-ce": 4,
        "resnet10t-bn-focal": 2,
    }
    for method, mean in found.set_index("method")["mean"].items():
        both = pd.concat([at_home(f"{method}/toy-a_to_others/seed{seed}") for seed in range(2)])
        assert both["image"].is_unique
        predicted = both[[f"logit_{name}" for name in CLASSES]].to_numpy().argmax(1)
        assert mean == pytest.approx((predicted == both["label"]).mean(), abs=1e-5)
    images = pd.read_parquet("results/tiny/evidence.parquet").query(
        "column == 'in_domain' and metric == 'accuracy'"
    )
    assert set(images["images"]) == {len(both)}
    assert set(images["groups"]) == {both["group"].nunique()}


@pytest.mark.parametrize(
    ("method", "round", "expected"),
    [("a", 0, [0, 1]), ("a", 1, [3, 1]), ("b", 0, [0, 1])],
)
def test_runs_of_a_second_round_are_joined_by_those_of_the_first_that_it_lacks(
    method: str, round: int, expected: list[int]
) -> None:
    def run(name: str, seed: int) -> SimpleNamespace:
        return SimpleNamespace(run_id=f"{name}{seed}", seed=seed, method=SimpleNamespace(name=name))

    runs = [run("a", seed) for seed in range(4)] + [run("b", seed) for seed in range(2)]
    of = runs_by_fold(runs, 3)[f"{method}{3 * round}"]
    assert of == [f"{method}{seed}" for seed in expected]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda table: table.iloc[1:], "has to be in one row here"),
        (lambda table: pd.concat([table, table[:1]]), "has to be in one row here"),
        (lambda table: table.assign(fold1="training"), "unknown part 'training'"),
    ],
)
def test_damaged_folds_are_one_line(
    folded: Path, wbc_shift: Callable, change: Callable, told: str
) -> None:
    path = split_path(Path("datasets"), "toy-a", 3)
    change(pd.read_csv(path, dtype=str)).to_csv(path, index=False)
    for command in ("split",), ("plan", "-p", "tiny"), ("validate", "-p", "tiny"):
        outcome = wbc_shift(*command)
        assert outcome.status == 1
        assert told in outcome.err
        assert str(path) in outcome.err


def test_folds_that_are_not_there_are_one_line(folded: Path) -> None:
    split_path(Path("datasets"), "toy-a", 3).unlink()
    with pytest.raises(UserError, match="is missing: run `wbc-shift split`"):
        read_split(Path("datasets"), "toy-a", Fold(0, 3))


def test_several_sources_are_held_out_fold_by_fold_together(prepared: Path) -> None:
    edit(Path("params.yaml"), "    label_space: wbc5\n", "    label_space: wbc5\n    folds: 3\n")
    params = load_params()
    cards = load_cards(Path("datasets"))
    for domain in ("toy-a", "toy-b"):
        if not split_path(Path("datasets"), domain).exists():
            split_domain(Path("datasets"), card_of(cards, domain), domain, params.split)
        split_into_folds(Path("datasets"), card_of(cards, domain), domain, params.split, 3)
    images = PreparedImages(Path(), "tiny", CLASSES)
    tested = [images.in_fold(Fold(k, 3)).part("toy-a+toy-b", "id_test") for k in range(3)]
    named = [name for part in tested for name in part.table["image"]]
    both = [images.domain(domain).table["image"] for domain in ("toy-a", "toy-b")]
    assert sorted(named) == sorted(pd.concat(both))
    assert all(set(part.domains) == {0, 1} for part in tested)
