"""Compare and score: two methods in words, one's own predictions from a file, a WBCBench file."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score
from support.results import CLASSES, predictions, write_results

from benchmark.errors import UserError
from benchmark.evaluation.compare import compare_methods, sentence
from benchmark.evaluation.comparisons import Comparison
from benchmark.evaluation.evaluate import evaluate
from benchmark.evaluation.intervals import Interval
from benchmark.evaluation.submission import CLASSES as CHALLENGE
from benchmark.evaluation.submission import score_challenge, score_submission, with_interval

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
    assert f": {BETTER} is better." in lines
    assert f": {WORSE} is worse." in turned


def test_methods_that_are_alike_are_not_told_apart_and_what_could_have_been_is_said(tmp_path):
    write_results(tmp_path, seeds=2)
    lines = "\n".join(compare_methods(tmp_path, WORSE, BETTER))
    in_domain = next(line for line in lines.splitlines() if "in-domain" in line)
    assert "not told apart" in in_domain
    assert "would have been found" in in_domain


def test_a8_what_compare_calls_better_is_corrected_for_all_of_its_lines(results):
    """By hand from the p-values that `evaluate` wrote for the same pair, the better one first."""
    evaluate(results)
    table = pd.read_parquet(results / "standings.parquet").query(
        "metric == 'macro_f1' and experiment != ''"
    )
    table = table[(table["method"] == WORSE) & table["p_both"].notna()].set_index("column")
    p = np.fmax(table["p_images"], table["p_both"]).sort_values()
    lines = "\n".join(compare_methods(results, BETTER, WORSE)).splitlines()[2:]
    assert len(lines) == len(p) + 1  # and the shift drop, which no table tests
    names = {"mean of targets": "mean_target", "worst target": "worst_target"}
    for line in lines:
        name = line.strip().split(":")[0].split(" (n")[0]
        column = names.get(name, name)
        if column in p.index and "is better" in line:
            assert p[column] * (len(lines) - list(p.index).index(column) - 1) < 0.05


@pytest.mark.parametrize(
    ("ends", "p_images", "p_both", "corrected", "told", "parted"),
    [
        ((0.02, 0.2), 0.004, 0.01, 0.2, "p = 0.010 (0.20): not told apart", ""),
        ((0.02, 0.2), 0.3, 0.01, 1.0, "p = 0.30 (1.00): not told apart", "leaves out 0, the test"),
        ((-0.02, 0.2), 0.01, np.nan, 0.02, "p = 0.010 (0.020): A is better", "holds 0, the test"),
        # Where the seeds decide, interval and p are of the same draws: they part by rounding.
        ((0.001, 0.2), 0.004, 0.0505, 0.5, "p = 0.051 (0.50): not told apart", ""),
    ],
)
def test_an_interval_stands_beside_its_own_p_value(ends, p_images, p_both, corrected, told, parted):
    """`+10 [+2, +20]: not told apart (p = 1.00)` was said: an interval of one line beside a
    p-value of nine, and of another test."""
    compared = Comparison(Interval(0.1, *ends, 3), p_images, p_both, 0.1, 0.1)
    text = sentence(compared, corrected, corrected, "A", is_drop=False)
    assert told in text
    assert parted in text
    assert ("The interval" in text) == bool(parted)


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
    score, _ = score_challenge(path, truth)
    expected = f1_score(labels, answers, average="macro", labels=range(13), zero_division=0)
    assert score.macro_f1 == pytest.approx(expected)
    assert score.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, answers))


def test_a_challenge_file_that_lacks_an_image_is_one_line(tmp_path):
    truth, path = challenge_files(tmp_path, [0, 1, 2], [0, 1])
    with pytest.raises(UserError, match=r"no answer for 1 of 3 IDs .*'00002\.jpg'"):
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


def lines_of(path, results):
    """What `score` says of a file, as one text."""
    return "\n".join(score_submission(path, results, "raabin->*"))


def with_chances(table, predicted, decimals):
    """A table with softmax columns of so many decimals, whose highest is the prediction's."""
    chances = np.random.default_rng(0).dirichlet(np.full(5, 0.7), len(table)) * 0.45
    chances[np.arange(len(table)), predicted] += 0.55
    return table.assign(**dict(zip(CLASSES, chances.round(decimals).T, strict=True)))


def test_b08_a_comma_at_the_end_of_every_row_is_no_column(results, own, tmp_path):
    path, _, _ = own
    other = tmp_path / "commas.csv"
    header, *rows = path.read_text().splitlines()
    other.write_text("\n".join([header, *(f"{row}," for row in rows)]) + "\n")
    assert lines_of(other, results).splitlines()[1:] == lines_of(path, results).splitlines()[1:]
    truth, answers = challenge_files(tmp_path, [0, 1, 2], [0, 1, 1])
    expected = score_challenge(answers, truth)
    for file in (truth, answers):
        header, *rows = file.read_text().splitlines()
        file.write_text("\n".join([header, *(f"{row}," for row in rows)]) + "\n")
    assert score_challenge(answers, truth) == expected


@pytest.mark.parametrize("decimals", [1, 2, 3])
def test_b09_rounded_probabilities_are_taken_normalised_and_said_to_be(
    results, own, tmp_path, decimals
):
    path, _, predicted = own
    other = tmp_path / "rounded.csv"
    table = pd.read_csv(path).drop(columns="prediction")
    with_chances(table, predicted, decimals).to_csv(other, index=False)
    lines = lines_of(other, results)
    assert "as rounded numbers do: each row was divided by its sum" in lines
    assert lines.count("ECE") == 3


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ([0.5, 0.2, 0.1, 0.1, 0.05], "here to 0.95"),
        ([50, 20, 10, 10, 10], "add up to 1, here to 100"),
        ([1, 1, 0, 0, 0], "here to 2"),
        ([0.5, 0.5, "-", 0, 0], "monocyte is '-', no number"),
        ([0.5, 0.5, "1_0", 0, 0], "monocyte is '1_0', no number"),
        ([1.5, -0.5, 0, 0, 0], "must be 0 or more"),
        ([float("inf"), 0, 0, 0, 0], "neutrophil is 'inf', no number"),
    ],
)
def test_b09_numbers_that_no_rounding_explains_are_refused_with_their_line(
    results, own, tmp_path, row, told
):
    path, _, predicted = own
    other = tmp_path / "wrong.csv"
    table = with_chances(pd.read_csv(path).drop(columns="prediction"), predicted, 4)
    table[CLASSES] = table[CLASSES].astype(object)
    table.loc[2, CLASSES] = row
    table.to_csv(other, index=False)
    with pytest.raises(UserError, match="line 4: ") as refusal:
        lines_of(other, results)
    assert told in str(refusal.value)


def test_d14_a_prediction_that_contradicts_its_probabilities_is_refused(results, own, tmp_path):
    path, _, predicted = own
    other = tmp_path / "both.csv"
    table = with_chances(pd.read_csv(path), predicted, 4)
    table.to_csv(other, index=False)
    assert "ECE" in lines_of(other, results)
    table.loc[2, "prediction"] = CLASSES[(predicted[2] + 1) % 5]
    table.to_csv(other, index=False)
    with pytest.raises(UserError, match=r"line 4: the prediction is .* \(1 such rows\)"):
        lines_of(other, results)


def test_c9_the_csv_that_predict_writes_is_scored(results, own, tmp_path):
    """With its paths below the folder it was asked of, and its rows without an answer."""
    path, _, predicted = own
    table = with_chances(pd.read_csv(path), predicted, 5)
    other = tmp_path / "predictions.csv"
    written = pd.DataFrame(
        {
            "image": [name.rpartition("/")[2] for name in table["image"]],
            "domain": table["domain"],
            "label": table["prediction"],
            "confidence": table[CLASSES].max(axis=1),
            "flag": "reject",
            "flag_holds_for": "raabin only",
            "reason": "",
            **{f"p_{name}": table[name] for name in CLASSES},
        }
    )
    broken = pd.DataFrame({"image": ["broken.jpg"], "flag": "unreadable", "reason": "is blank"})
    pd.concat([broken, written]).to_csv(other, index=False)
    found = lines_of(other, results)
    assert "note: 1 row left out, without an answer: line 2" in found
    for line in lines_of(path, results).splitlines()[1:]:
        assert line.partition(",")[0] in found
    assert "ECE" in found


def test_e10_what_is_scored_with_what_is_named(results, own, tmp_path, wbc_shift, monkeypatch):
    path, _, _ = own
    table = pd.read_csv(path)
    extra = pd.DataFrame({"image": ["mine/1.png"], "domain": "bccd", "prediction": "monocyte"})
    pd.concat([table, extra]).to_csv(path, index=False)
    lines = lines_of(path, results)
    assert "1 of " in lines
    assert "rows name no test image of this scenario and were left out: mine/1.png" in lines
    assert f"{BETTER} (3 seeds)" in lines
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "datasets").mkdir()
    (tmp_path / "params.yaml").touch()
    (tmp_path / "results" / "toy").symlink_to(results)
    outcome = wbc_shift("score", "--images", "i.csv", "-p", "toy", "--scenario", "raabin->*")
    assert outcome.status == 0, outcome.err
    listed = pd.read_csv("i.csv")
    assert list(listed.columns) == ["image", "domain"]
    assert set(map(tuple, listed.to_numpy())) == set(
        map(tuple, table[["image", "domain"]].to_numpy())
    )
    table.iloc[3:].to_csv(path, index=False)
    with pytest.raises(UserError, match=r"no answer for 3 of \d+ test images, .*--images FILE"):
        lines_of(path, results)


def test_e10_a_score_that_there_is_not_is_a_dash():
    assert with_interval(np.nan, np.full(9, np.nan)) == "–"


def test_e10_a_part_of_a_path_names_an_image_only_if_it_can_be_no_other(results, own):
    path, _, _ = own
    table = pd.read_csv(path)
    table["image"] = "C:\\slides\\" + table["image"].str.replace("/", "\\")
    table.to_csv(path, index=False)
    assert "bccd, n = " in lines_of(path, results)
    table.drop(columns="domain").assign(image=table["image"].str.split("\\").str[-1]).to_csv(
        path, index=False
    )
    if table["image"].str.split("\\").str[-1].duplicated().any():
        with pytest.raises(UserError, match="add a column 'domain'"):
            lines_of(path, results)


def test_e12_the_help_of_score_names_its_columns(wbc_shift):
    text = wbc_shift("score", "--help").out
    for column in ("`image`", "`prediction`", "`label`", "`domain`", "p_<class>", "`labels`"):
        assert column in text
