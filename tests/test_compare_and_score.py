"""Compare and score: two methods in words, one's own predictions from a file, a WBCBench file."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score
from test_evaluate import CLASSES, predictions, write_results

from benchmark.errors import UserError
from benchmark.evaluation.compare import compare_methods
from benchmark.evaluation.evaluate import evaluate
from benchmark.evaluation.submission import score_submission
from benchmark.evaluation.wbcbench import CLASSES as CHALLENGE
from benchmark.evaluation.wbcbench import score_challenge

WORSE, BETTER = "resnet18-bn-ce", "resnet18-gn-ce"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    write_results(folder, seeds=3)
    return folder


@pytest.fixture
def own(tmp_path):
    """One's own answers: those of a run of the better method, as classes."""
    table = predictions(10, shifted_skill=1.5).query("part != 'id_val'")
    predicted = table.filter(like="logit_").to_numpy().argmax(1)
    frame = table[["image", "domain"]].assign(prediction=np.array(CLASSES)[predicted])
    path = tmp_path / "own.csv"
    frame.to_csv(path, index=False)
    return path, table["label"].to_numpy(), predicted


def test_a_clear_difference_is_said_whichever_comes_first(results):
    lines = "\n".join(compare_methods(results, BETTER, WORSE))
    turned = "\n".join(compare_methods(results, WORSE, BETTER))
    assert f"{BETTER} is better (p" in lines
    assert f"{WORSE} is worse (p" in turned


def test_methods_that_are_alike_are_not_told_apart_and_what_could_have_been_is_said(tmp_path):
    write_results(tmp_path, seeds=2)
    lines = "\n".join(compare_methods(tmp_path, WORSE, BETTER))
    in_domain = next(line for line in lines.splitlines() if "in-domain" in line)
    assert "not told apart" in in_domain
    assert "would have been found" in in_domain


def test_a8_what_compare_calls_better_is_corrected_for_all_of_its_lines(results):
    """By hand from the p-values that `evaluate` wrote for the same pair, the better one first."""
    evaluate(results)
    table = pd.read_parquet(results / "standings.parquet").query("metric == 'macro_f1'")
    table = table[(table["method"] == WORSE) & table["p_both"].notna()].set_index("column")
    p = np.fmax(table["p_images"], table["p_both"]).sort_values()
    lines = "\n".join(compare_methods(results, BETTER, WORSE)).splitlines()[1:]
    assert len(lines) == len(p) + 1  # and the shift drop, which no table tests
    names = {"mean of targets": "mean_target", "worst target": "worst_target"}
    for line in lines:
        name = line.strip().split(":")[0].split(" (n")[0]
        column = names.get(name, name)
        if column in p.index and "is better" in line:
            assert p[column] * (len(lines) - list(p.index).index(column) - 1) < 0.05


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("resnet18-bn-cee", BETTER), "no finished run of method 'resnet18-bn-cee'; did you mean"),
        ((WORSE, WORSE), "compared with itself"),
        ((WORSE, BETTER, "raabin->x"), "no scenario 'raabin->x'"),
    ],
)
def test_what_cannot_be_compared_is_one_line(results, arguments, told):
    with pytest.raises(UserError, match=told):
        list(compare_methods(results, *arguments))


def test_ones_own_predictions_are_scored_as_scikit_learn_does_and_placed(results, own):
    path, labels, predicted = own
    lines = list(score_submission(path, results, "raabin->*"))
    bccd = predictions(10, shifted_skill=1.5).query("part != 'id_val'")["domain"] == "bccd"
    expected = 100 * f1_score(labels[bccd], predicted[bccd], average="macro")
    line = next(line for line in lines if line.strip().startswith("bccd"))
    assert f"{expected:.1f} [" in line
    assert any(BETTER in line for line in lines)


def test_probabilities_are_scored_as_their_highest(results, own, tmp_path):
    path, _, predicted = own
    table = pd.read_csv(path)
    chances = np.full((len(table), 5), 0.1)
    chances[np.arange(len(table)), predicted] = 0.6
    other = tmp_path / "chances.csv"
    pd.concat([table[["image", "domain"]], pd.DataFrame(chances, columns=CLASSES)], axis=1).to_csv(
        other, index=False
    )
    as_classes = list(score_submission(path, results, "raabin->*"))
    as_chances = list(score_submission(other, results, "raabin->*"))
    for one, two in zip(as_classes[1:4], as_chances[1:4], strict=True):
        assert two.startswith(one)
        assert "ECE" in two


def spoil(path, change):
    table = pd.read_csv(path)
    change(table).to_csv(path, index=False)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.drop(columns="image"), "no column 'image'"),
        (lambda t: t.assign(prediction="neutrophl"), "unknown class 'neutrophl'; did you mean"),
        (lambda t: t.iloc[1:], "no answer for"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "one answer each"),
        (lambda t: t.assign(domain="bcd"), "unknown domain 'bcd'"),
        (lambda t: t.iloc[:0], "no rows"),
    ],
)
def test_a_faulty_file_is_one_line(results, own, change, told):
    spoil(own[0], change)
    with pytest.raises(UserError, match=told):
        list(score_submission(own[0], results, "raabin->*"))


def challenge_files(tmp_path, labels, answers):
    paths = []
    for name, values in (("truth", labels), ("answers", answers)):
        path = tmp_path / f"{name}.csv"
        ids = [f"{i:05d}.jpg" for i in range(len(values))]
        pd.DataFrame({"ID": ids, "labels": np.array(CHALLENGE)[values]}).to_csv(path, index=False)
        paths.append(path)
    return paths


def test_a_challenge_file_is_scored_over_all_thirteen_classes(tmp_path):
    random = np.random.default_rng(0)
    labels, answers = random.integers(0, 12, 200), random.integers(0, 12, 200)  # one never occurs
    truth, path = challenge_files(tmp_path, labels, answers)
    score = score_challenge(path, truth)
    expected = f1_score(labels, answers, average="macro", labels=range(13), zero_division=0)
    assert score.macro_f1 == pytest.approx(expected)
    assert score.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, answers))


def test_a_challenge_file_that_lacks_an_image_is_one_line(tmp_path):
    truth, path = challenge_files(tmp_path, [0, 1, 2], [0, 1])
    with pytest.raises(UserError, match=r"no answer for ID '00002\.jpg'"):
        score_challenge(path, truth)


def test_both_commands_are_there(results, own, wbc_shift, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").touch()
    for folder in ("datasets", "results"):
        (tmp_path / folder).mkdir()
    (tmp_path / "results" / "toy").symlink_to(results)
    outcome = wbc_shift("compare", BETTER, WORSE, "-p", "toy")
    assert (outcome.status, "is better" in outcome.out) == (0, True)
    outcome = wbc_shift("score", str(own[0]), "-p", "toy", "--scenario", "raabin->*")
    assert (outcome.status, "bccd, n = 69" in outcome.out) == (0, True)
    assert "give --scenario, or --truth" in wbc_shift("score", str(own[0]), "-p", "toy").err
