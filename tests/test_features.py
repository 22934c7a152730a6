"""Features of every cell: files of anybody, readouts, robustness index, labelled cells."""

import errno
import hashlib
import io
import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import REPOSITORY
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.preprocessing import StandardScaler, normalize

from benchmark.data.cards import load_cards
from benchmark.errors import UserError
from benchmark.evaluation import feature_scores, features
from benchmark.evaluation.feature_files import Cells, cells_of, read_features, write_features
from benchmark.evaluation.feature_scores import (
    fit_linear,
    halves,
    labelled_cells,
    laboratory_told,
    readouts,
    score_features,
)
from benchmark.evaluation.features import (
    About,
    budget_scores,
    read_sets,
    scores_of,
    verdict_of,
    write_set,
)
from benchmark.evaluation.robustness import (
    CELLS,
    NEIGHBOURS,
    blocks,
    neighbour_counts,
    robustness,
)
from benchmark.laboratory.embed_all import weights_of
from benchmark.report.features import features_sheet, labelled_cells_sheet
from benchmark.report.figures.features import features_figure
from benchmark.report.results import Results
from benchmark.settings import Weights, load_params
from benchmark.training.readouts import Source


@pytest.fixture
def cells(prepared):
    return cells_of(prepared, load_params(), load_cards(prepared / "datasets"), "tiny")


def informative(cells: Cells, seed: int = 0, width: int = 6) -> np.ndarray:
    """Vectors that tell the class, less clearly in the second domain."""
    random = np.random.default_rng(seed)
    labels = cells.table["label"].to_numpy()
    strength = np.where(cells.table["domain"] == "toy-a", 4.0, 1.5)
    noise = random.normal(size=(len(labels), width))
    return (noise + strength[:, None] * np.eye(5, width)[labels]).astype(np.float32)


def saved(path: Path, cells: Cells, **arrays: object) -> Path:
    names = cells.table["image"].to_numpy(str)
    np.savez(path, **{"images": names, "features": informative(cells)} | arrays)
    return path


# ------------------------------------------------------------------------------------ files


def test_the_cells_are_the_prepared_ones_with_or_without_images(prepared, cells):
    shutil.rmtree(prepared / "datasets" / "cache")
    again = cells_of(prepared, load_params(), load_cards(prepared / "datasets"), "tiny")
    pd.testing.assert_frame_equal(again.table, cells.table)
    split = pd.read_csv(prepared / "datasets/splits/toy-a.csv").set_index("path")["part"]
    own = cells.table[cells.table["domain"] == "toy-a"]
    assert (own["part"].to_numpy() == split[own["image"]].to_numpy()).all()
    assert set(cells.table.loc[cells.table["domain"] == "toy-b", "part"]) == {""}


def test_manifests_that_list_other_images_than_were_prepared_are_refused(prepared):
    shutil.rmtree(prepared / "datasets" / "cache")
    path = prepared / "results/tiny/data.json"
    facts = json.loads(path.read_text())
    facts["domains"]["toy-b"]["images"] += 1
    path.write_text(json.dumps(facts))
    with pytest.raises(UserError, match="cells of toy-b were prepared, its manifest lists"):
        cells_of(prepared, load_params(), load_cards(prepared / "datasets"), "tiny")


@pytest.mark.parametrize("form", ["npz", "lists", "wide", "ours"])
def test_a_file_is_read_in_any_order_and_form(tmp_path, cells, form):
    features = informative(cells)
    order = np.random.default_rng(1).permutation(len(features))
    names = cells.table["image"].to_numpy(str)[order]
    path = tmp_path / f"f.{'npz' if form == 'npz' else 'parquet'}"
    if form == "npz":
        np.savez(path, images=names, features=features[order], parameters=7)
    elif form == "lists":
        pd.DataFrame({"image": names, "features": [*features[order]]}).to_parquet(path)
    elif form == "wide":
        frame = pd.DataFrame(features[order], columns=[f"d{i}" for i in range(6)])
        frame.assign(image=names).to_parquet(path)
    else:
        write_features(path, cells, features, About(parameters=7))
    found, about, notes = read_features(path, cells)
    np.testing.assert_allclose(found, features, rtol=1e-3)
    assert about.parameters == (7 if form in ("npz", "ours") else None)
    assert notes == []


def test_vectors_that_half_precision_cannot_hold_are_kept_in_single(tmp_path, cells):
    features = informative(cells) * 1e5
    write_features(tmp_path / "f.parquet", cells, features, About())
    found, _, _ = read_features(tmp_path / "f.parquet", cells)
    np.testing.assert_array_equal(found, features)


def spoilt(cells: Cells, kind: str) -> dict[str, object]:
    names, features = cells.table["image"].to_numpy(str), informative(cells)
    if kind == "missing":
        return {"images": names[:-3], "features": features[:-3]}
    if kind == "twice":
        return {"images": np.r_[names, names[:1]], "features": np.r_[features, features[:1]]}
    if kind == "nan":
        features[4, 2] = np.nan
        return {"features": features}
    if kind == "flat":
        return {"features": features.ravel()}
    if kind == "short":
        return {"features": features[:-1]}
    if kind == "words":
        return {"features": features.astype(str)}
    if kind == "alike":
        return {"features": np.ones_like(features)}
    if kind == "domain":
        return {"domains": np.full(len(names), "toy-c")}
    return {"sha": "no such fact"}


FAULTS = {
    "missing": r"no vector for 3 of \d+ cells \(3 of toy-b\): b/.*--images FILE lists",
    "twice": r"image 'a/.*' has two vectors",
    "nan": r"1 of \d+ vectors hold NaN or infinite numbers: those of a/",
    "flat": r"features are \d+ of float32: a vector of numbers for each image",
    "short": r"\d+ vectors, \d+ names of images and 0 of domains",
    "words": r"of <U\d+: a vector of numbers",
    "alike": "every cell has the same vector",
    "domain": "unknown domain 'toy-c'",
    "fact": r"sha",
}


@pytest.mark.parametrize("kind", FAULTS)
def test_what_is_wrong_with_a_file_is_said_in_one_line(tmp_path, cells, kind):
    path = saved(tmp_path / "own.npz", cells, **spoilt(cells, kind))
    with pytest.raises(UserError, match=FAULTS[kind]) as fault:
        read_features(path, cells)
    assert str(path) in str(fault.value)
    assert "\n" not in str(fault.value)


def test_a_parquet_file_of_unequal_lists_or_of_words_is_refused(tmp_path, cells):
    names = cells.table["image"].tolist()
    uneven = [[1.0, 2.0]] * (len(names) - 1) + [[1.0]]
    pd.DataFrame({"image": names, "features": uneven}).to_parquet(tmp_path / "uneven.parquet")
    with pytest.raises(UserError, match="holds lists of 1, 2 numbers: all need equally many"):
        read_features(tmp_path / "uneven.parquet", cells)
    pd.DataFrame({"image": names, "d0": 1.0, "note": "x"}).to_parquet(tmp_path / "note.parquet")
    with pytest.raises(UserError, match=r"column 'note' holds .*string and no numbers"):
        read_features(tmp_path / "note.parquet", cells)
    (tmp_path / "no.parquet").write_text("no parquet")
    with pytest.raises(UserError, match="cannot be read"):
        read_features(tmp_path / "no.parquet", cells)
    np.savez(tmp_path / "objects.npz", images=np.array([None]), features=np.ones((1, 2)))
    with pytest.raises(UserError, match="cannot be read"):
        read_features(tmp_path / "objects.npz", cells)
    with pytest.raises(UserError, match=r"ends in \.parquet or \.npz"):
        read_features(tmp_path / "features.csv", cells)


class Runs:
    """What a pickle may hold: code that runs when it is read."""

    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def hostile(kind: str, names: np.ndarray) -> bytes:
    """An npz file that is none, or holds what a vector or name is not."""
    arrays = {"images": names, "features": np.eye(len(names), dtype=np.float32)}
    stream = io.BytesIO()
    if kind == "one array":
        np.save(stream, arrays["features"])
    elif kind == "code":
        np.savez(stream, **arrays | {"network": np.array(Runs(), object)})
    elif kind == "columns of names":
        np.savez(stream, **arrays | {"images": names[:, None]})
    elif kind == "no UTF-8":
        np.savez(stream, **arrays | {"images": np.full(len(names), b"\xff")})
    elif kind == "no arrays":
        with zipfile.ZipFile(stream, "w") as file:
            file.writestr("images", "a")
            file.writestr("features", "b")
    else:
        np.savez_compressed(stream, **arrays)
    content = bytearray(stream.getvalue())
    if kind == "spoilt":
        content[100:160] = b"\xff" * 60
    elif kind == "locked":
        content[content.index(b"PK\x01\x02") + 8] |= 1
    elif kind == "unknown compression":
        content[content.index(b"PK\x01\x02") + 10] = 99
    return bytes(content)


@pytest.mark.parametrize(
    "kind",
    ["one array", "code", "columns of names", "no UTF-8", "no arrays", "spoilt", "locked",
     "unknown compression"],
)  # fmt: skip
def test_a_hostile_npz_is_refused_in_one_line_and_runs_nothing(tmp_path, cells, kind):
    path = tmp_path / "own.npz"
    path.write_bytes(hostile(kind, cells.table["image"].to_numpy(str)))
    with pytest.raises(UserError) as fault:
        read_features(path, cells)
    assert str(path) in str(fault.value)
    assert not Path("ran").exists()


def test_a_parquet_file_without_rows_or_vectors_is_refused(tmp_path, cells):
    path, names = tmp_path / "own.parquet", cells.table["image"].tolist()
    pa_table = {"image": names, "features": [None, *([[1.0, 2.0]] * (len(names) - 1))]}
    pd.DataFrame(pa_table).to_parquet(path)
    with pytest.raises(UserError, match="lists of 2 numbers and rows without any"):
        read_features(path, cells)
    pd.DataFrame(pa_table)[1:1].astype({"features": object}).to_parquet(path)
    pq.write_table(pq.read_table(path).cast(pa.schema(
        [("image", pa.string()), ("features", pa.list_(pa.float32()))])), path)  # fmt: skip
    with pytest.raises(UserError, match="features are 0 x 0"):
        read_features(path, cells)


def test_a_label_among_the_columns_is_no_feature(tmp_path, cells):
    frame = pd.DataFrame(informative(cells), columns=[f"d{i}" for i in range(6)])
    frame = frame.assign(image=cells.table["image"], label=cells.table["label"])
    frame.to_parquet(tmp_path / "own.parquet")
    with pytest.raises(UserError, match="column 'label' is no feature"):
        read_features(tmp_path / "own.parquet", cells)


def test_vectors_of_other_images_are_counted_and_named(tmp_path, cells):
    names, features = cells.table["image"].to_numpy(str), informative(cells)
    more = {"images": np.r_[names, ["z/1.jpg"]], "features": np.r_[features, features[:1]]}
    _, _, notes = read_features(saved(tmp_path / "own.npz", cells, **more), cells)
    assert notes == [f"1 of {len(names) + 1} vectors are of no cell of the profile and are not "
                     "used: z/1.jpg"]  # fmt: skip


# --------------------------------------------------------------------------------- readouts


@pytest.fixture(scope="module")
def clouds():
    """Three overlapping classes in 12 dimensions of unlike scale."""
    random = np.random.default_rng(0)
    scale = random.uniform(0.2, 5, 12)

    def draw(number):
        labels = np.arange(number) % 3
        values = random.normal(size=(number, 12)) + 1.3 * np.eye(3, 12)[labels] + 0.5
        return (values * scale).astype(np.float32), labels

    return Source(*draw(240), *draw(90)), draw(150)


def test_readouts_answer_as_scikit_learn_does(clouds):
    source, (new, _) = clouds
    found, penalty = readouts(source, 3)
    unit = normalize(source.features)
    nearest = KNeighborsClassifier(1, metric="cosine").fit(source.features, source.labels)
    np.testing.assert_array_equal(found["1-NN"](new), nearest.predict(new))
    # Of equally many votes either takes the first class; cosine orders as Euclid on the sphere.
    twenty = KNeighborsClassifier(20).fit(unit, source.labels)
    np.testing.assert_array_equal(found["20-NN"](new), twenty.predict(normalize(new)))
    means = normalize(NearestCentroid().fit(unit, source.labels).centroids_)
    np.testing.assert_array_equal(found["prototypes"](new), (normalize(new) @ means.T).argmax(1))
    scaler = StandardScaler().fit(source.features)
    scores = {}
    for c in feature_scores.PENALTIES:
        regression = LogisticRegression(C=c, max_iter=5000)
        regression.fit(scaler.transform(source.features), source.labels)
        told = regression.predict(scaler.transform(source.id_val_features))
        scores[c] = f1_score(source.id_val_labels, told, average="macro")
        if c == penalty:
            expected = regression.predict(scaler.transform(new))
    assert scores[penalty] == max(scores.values())
    assert (found["logistic"](new) == expected).mean() > 0.99


def test_a_regression_in_the_span_of_few_cells_is_the_regression(clouds):
    source, (new, _) = clouds
    few = slice(0, 9)  # fewer cells than dimensions
    whole = LogisticRegression(max_iter=5000, tol=1e-8)
    whole.fit(source.features[few], source.labels[few])
    found = fit_linear(source.features[few], source.labels[few])(new)
    assert (found == whole.predict(new)).mean() > 0.98


# ------------------------------------------------------------------------------- robustness


def test_neighbours_are_counted_as_by_hand():
    """Four cells on a circle, by angle: A and B are classes, 1 and 2 laboratories.

    A1 at 0°, A2 at 10°, B1 at 30°, B2 at 100°. Nearest of A1: A2 (SO), B1 (OS), B2; of A2: A1 (SO),
    B1 (neither), B2 (OS); of B1: A2 (neither), A1 (OS), B2 (SO); of B2: B1 (SO), A2 (OS), A1.
    """
    angles = np.deg2rad([0, 10, 30, 100])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    classes, laboratories = np.array([0, 0, 1, 1]), np.array([1, 2, 1, 2])
    counts = neighbour_counts(vectors, classes, laboratories, np.arange(4))
    by_k = dict(zip(NEIGHBOURS, counts.astype(int).tolist(), strict=True))
    assert by_k[1] == [3, 0, 3, 4]  # SO, OS, class told, cells
    assert by_k[3] == [4, 4, 0, 4]  # one of three is of the own class
    # A1 and A2 of one slide: neither sees the other, and each has two neighbours.
    alone = neighbour_counts(vectors, classes, laboratories, np.array([0, 0, 2, 3]))
    assert alone[0].astype(int).tolist() == [1, 1, 1, 4]
    assert alone[1].astype(int).tolist() == [2, 4, 0, 4]


def blobs(lab: float, kind: float, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Three laboratories × three classes, so far apart in directions of their own."""
    random = np.random.default_rng(seed)
    laboratories, labels = np.divmod(np.repeat(np.arange(9), CELLS), 3)
    values = random.normal(size=(9 * CELLS, 8))
    values += lab * np.eye(8)[laboratories] + kind * np.eye(8)[3 + labels]
    return values, labels, laboratories, np.arange(len(labels))


def test_the_index_is_one_of_the_class_alone_and_zero_of_the_laboratory_alone():
    assert robustness(*blobs(0, 30)).index[0] == 1
    assert robustness(*blobs(30, 0)).index[0] == 0
    neither = robustness(*blobs(0, 0)).index
    assert neither == pytest.approx(0.5, abs=0.06)
    assert laboratory_told(*blobs(30, 0)) == 1
    assert laboratory_told(*blobs(0, 30)) == pytest.approx(0.5, abs=0.12)


def test_blocks_are_of_two_laboratories_and_two_classes_that_all_have_enough():
    _, labels, laboratories, _ = blobs(0, 0)
    kept = np.ones(len(labels), bool)
    kept[np.flatnonzero((labels == 2) & (laboratories == 2))[0]] = False  # one too few
    labels, laboratories = labels[kept], laboratories[kept]
    found = [
        (tuple(np.unique(laboratories[rows])), tuple(np.unique(labels[rows])))
        for rows in blocks(labels, laboratories, 0)
    ]
    pairs = [(0, 1), (0, 2), (1, 2)]
    assert sorted(found) == sorted([((0, 1), p) for p in pairs] + [(p, (0, 1)) for p in pairs[1:]])


def test_without_two_classes_in_two_laboratories_nothing_is_told():
    values, labels, laboratories, groups = blobs(0, 0)
    one = laboratories == 0
    found = robustness(values[one], labels[one], laboratories[one], groups[one])
    assert np.isnan(found.index).all()
    assert np.isnan(laboratory_told(values[one], labels[one], laboratories[one], groups[one]))


# --------------------------------------------------------------------------- labelled cells


def test_halves_cut_no_group_and_differ_from_draw_to_draw():
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 6)
    labels = random.integers(0, 4, len(groups))
    drawn = [halves(labels, groups, "somewhere", str(draw)) for draw in range(3)]
    for pool in drawn:
        assert not set(groups[pool]) & set(groups[~pool])
        shares = [pool[labels == c].mean() for c in range(4)]
        assert np.abs(np.array(shares) - 0.5).max() < 0.15
    assert (drawn[0] != drawn[1]).any()
    assert (drawn[0] == halves(labels, groups, "somewhere", "0")).all()


def test_larger_budgets_hold_the_smaller_and_those_that_a_class_cannot_give_are_left_out():
    labels = np.repeat([0, 1, 2], [60, 24, 3])  # the last carries no claim
    pool = np.arange(len(labels)) % 2 == 0
    found = labelled_cells(labels, pool, "somewhere", "0")
    assert list(found) == [1, 5, 10]
    for k, rows in found.items():
        assert pool[rows].all()
        assert np.bincount(labels[rows]).tolist() == [k, k, min(k, 2)]
    assert set(found[1]) < set(found[5]) < set(found[10])


# ---------------------------------------------------------------------------------- scoring


def test_scores_are_those_of_the_readouts_on_each_test_set(cells):
    features = informative(cells)
    own = score_features(cells, features, About(training_datasets=()), "own", "tiny")
    values = {score[1:4]: score.value for score in scores_of([own])}
    labels = cells.table["label"].to_numpy()
    train, target = cells.rows("toy-a", "train"), cells.rows("toy-b")
    nearest = KNeighborsClassifier(1, metric="cosine").fit(features[train], labels[train])
    expected = f1_score(labels[target], nearest.predict(features[target]), average="macro")
    assert values["toy-a->*", "1-NN", "toy-b"].mean == pytest.approx(expected)
    assert values["toy-a->*", "1-NN", "mean_target"].mean == pytest.approx(expected)
    assert np.isnan(values["toy-a->*", "logistic", "in_domain"].mean)  # four images of each class
    assert verdict_of(own, "toy-a") == "clean"


def test_more_labels_of_the_new_laboratory_score_higher(cells):
    own = score_features(cells, informative(cells), About(), "own", "tiny")
    scores = budget_scores(own)
    local = scores[scores["method"] == "logistic"].groupby("per_class")["macro_f1"].mean()
    assert local[5] > local[1] + 0.1
    draw = own.budgets[own.budgets["per_class"] == 5].iloc[0]
    matrix = np.array(draw["confusion"]).reshape(5, 5)
    assert draw["number"] == 25
    assert (matrix.sum(1) < np.array(draw["support"])).all()
    at = scores[(scores["per_class"] == 5) & (scores["draw"] == draw["draw"])]
    truth = np.repeat(np.arange(5), matrix.sum(1))
    told = np.concatenate([np.repeat(np.arange(5), row) for row in matrix])
    expected = f1_score(truth, told, average="macro")
    assert at[at["method"] == draw["method"]]["macro_f1"].iloc[0] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("about", "verdict"),
    [
        (About(), "unknown"),
        (About(training_datasets=("imagenet-1k",)), "clean"),
        (About(training_datasets=("imagenet-1k", "Toy")), "contaminated (toy-a, toy-b)"),
        (About(training_datasets=("toy-a",), trained_on="toy-a"), "clean"),
        (About(training_datasets=("toy-a",)), "contaminated (toy-a)"),
    ],
)
def test_contamination_is_told_of_every_test_set(cells, about, verdict):
    found = cells.contamination(about, cells.scenarios[0])
    text = next(iter(found), "clean")
    assert (f"{text} ({', '.join(found[text])})" if text == "contaminated" else text) == verdict


# --------------------------------------------------------------------------------- commands


def test_features_are_written_scored_and_placed(prepared, wbc_shift):
    for network, name in (("resnet10t", "random"), ("colour_histogram", "colours")):
        done = wbc_shift("embed-all", network, "--out", f"{name}.parquet", "-p", "tiny")
        assert done.status == 0, done.err
    done = wbc_shift("score", "--features", "random.parquet", "-p", "tiny")
    assert "contamination: clean" in done.out
    shutil.rmtree(prepared / "datasets" / "cache")  # neither images nor what is made of them
    done = wbc_shift("score", "--features", "colours.parquet", "--name", "hues", "-p", "tiny")
    assert done.status == 0, done.err
    assert "of 2 by mean of targets" in done.out
    assert [own.record.name for own in read_sets(prepared / "results/tiny")] == ["hues", "random"]
    table = pd.read_parquet("colours.parquet")
    assert len(table["features"][0]) == 512
    again = wbc_shift("score", "--features", "colours.parquet", "--name", "../x", "-p", "tiny")
    assert again.status == 1
    assert "cannot be a name" in again.err
    again = wbc_shift("score", "--features", "colours.parquet", "--name", "majority", "-p", "tiny")
    assert "the row of the constant" in again.err


def test_a_file_of_weights_that_a_block_states_is_known_by_its_digest(tmp_path, prepared):
    """Under another name it was `unknown` what it had seen."""
    file = tmp_path / "renamed.safetensors"
    file.write_bytes(b"weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    stated = Weights(package="some_package", sha256=sha256, training_datasets=["raabin"])
    params = load_params().model_copy(update={"weights": {"known": stated}})
    found = weights_of(params, str(file))
    assert (found.file, found.training_datasets) == (str(file), ["raabin"])
    file.write_bytes(b"others")
    assert weights_of(params, str(file)).training_datasets is None


def test_networks_that_are_not_there_are_named(prepared, wbc_shift):
    for network, words in (
        ("resnet1O", "unknown backbone 'resnet1O'"),
        ("resnet10t@nothing", "timm has no 'resnet10t.nothing'"),
        ("resnet10t@gone.pth", "gone.pth is not here"),
        ("a/b/seed0", "no run 'a/b/seed0'"),
    ):
        done = wbc_shift("embed-all", network, "--out", "f.parquet", "-p", "tiny")
        assert done.status == 1
        assert words in done.err
    done = wbc_shift("embed-all", "resnet10t", "--out", "f.npz", "-p", "tiny")
    assert "name a .parquet file" in done.err
    done = wbc_shift("score", "--features", "f.parquet", "--scenario", "toy-a->*", "-p", "tiny")
    assert "scored on every scenario" in done.err


def test_ten_lines_of_foreign_code_are_scored_beside_ours(prepared, wbc_shift):
    page = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- features block -->\n```python\n(.*?)```", page, re.DOTALL)[1]
    assert len(block.strip().splitlines()) <= 12
    assert set(re.findall(r"^(?:import|from) (\w+)", block, re.MULTILINE)) == {
        "csv",
        "numpy",
        "PIL",
    }
    wbc_shift("embed-all", "resnet10t", "--out", "ours.parquet", "-p", "tiny")
    wbc_shift("score", "--features", "ours.parquet", "-p", "tiny")
    assert wbc_shift("score", "--images", "features/cells.csv", "-p", "tiny").status == 0
    exec(compile(block, "README.md", "exec"), {})
    done = wbc_shift(
        "score", "--features", "features/mine.npz", "--name", "mean-colour", "-p", "tiny"
    )
    assert done.status == 0, done.err
    placed = done.out[done.out.index("of 2 by mean of targets") :]
    assert {"mean-colour", "ours"} <= set(placed.split())
    sets = {own.record.name: own.record for own in read_sets(prepared / "results/tiny")}
    assert sets["mean-colour"].dimension == 6
    assert sets["mean-colour"].contamination == {"toy-a": {}}


def test_images_that_are_listed_and_not_here_are_counted(prepared, wbc_shift):
    listed = wbc_shift("score", "--images", "cells.csv", "-p", "tiny")
    assert "not here" not in listed.out
    for path in pd.read_csv("cells.csv")["file"][:3]:
        Path(path).unlink()
    listed = wbc_shift("score", "--images", "cells.csv", "-p", "tiny")
    assert "note: 3 of the files are not here: `wbc-shift fetch -p tiny`" in listed.out


def test_tables_of_features_hold_what_was_scored(cells, prepared):
    for name, seed in (("one", 0), ("other", 1)):
        own = score_features(
            cells, informative(cells, seed), About(parameters=2_500_000), name, "t"
        )
        write_set(prepared / "results/tiny", own)
    results = Results(prepared / "results/tiny", [])
    values = {score[:4]: score.value for score in scores_of(results.feature_sets)}
    table = features_sheet(results)
    titles = [column.title for column in table.blocks[0].columns]
    lines = [dict(zip(titles, row.cells, strict=True)) for row in table.blocks[0].rows]
    best_first = sorted(
        ("one", "other"),
        key=lambda name: -values[name, "toy-a->*", "logistic", "mean_target"].mean,
    )
    assert [line["features"] for line in lines] == [*best_first, "majority"]
    # Twenty images of each of five classes: one class has 20 / (20 + 100) · 2, the others nothing.
    assert lines.pop()["20-NN"].mean == pytest.approx(100 * 2 * 20 / (20 + 100) / 5)
    for line in lines:
        expected = values[line["features"], "toy-a->*", "20-NN", "mean_target"]
        assert line["20-NN"].mean == pytest.approx(100 * expected.mean)
        assert line["contamination"] == "unknown"
        assert line["parameters (M)"].mean == 2.5
    labels = labelled_cells_sheet(results)
    row = labels.blocks[0].rows[0].cells
    frame = budget_scores(next(own for own in results.feature_sets if own.record.name == row[1]))
    one = frame[(frame["method"] == "logistic") & (frame["per_class"] == 1)]
    assert row[0] == "toy-b"
    assert row[3].mean == pytest.approx(100 * one["macro_f1"].mean())
    assert features_figure(results).axes


def test_sets_that_were_scored_on_other_cells_are_refused(cells, prepared):
    for name in ("one", "other"):
        own = score_features(cells, informative(cells), About(), name, "t")
        write_set(prepared / "results/tiny", own)
    path = prepared / "results/tiny/features/other/about.json"
    path.write_text(path.read_text().replace('"cells": "', '"cells": "x'))
    with pytest.raises(UserError, match="was scored on other cells than one"):
        read_sets(prepared / "results/tiny")
    (path.parent / "budgets.parquet").write_text("broken")
    with pytest.raises(UserError, match="score the features again, or delete"):
        read_sets(prepared / "results/tiny")


def test_a_set_that_is_half_written_is_none(cells, prepared, monkeypatch):
    own = score_features(cells, informative(cells), About(), "one", "t")
    write_set(prepared / "results/tiny", own)
    monkeypatch.setattr(features, "write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # the tables are the new ones by then
        write_set(prepared / "results/tiny", own)
    assert read_sets(prepared / "results/tiny") == []


def test_a_set_stays_where_a_new_one_cannot_be_written(cells, prepared, monkeypatch):
    own = score_features(cells, informative(cells), About(), "one", "t")
    write_set(prepared / "results/tiny", own)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(features.pq, "write_table", full)
    with pytest.raises(UserError, match="disk full"):
        write_set(prepared / "results/tiny", own)
    assert [kept.record.name for kept in read_sets(prepared / "results/tiny")] == ["one"]


def test_a_copied_or_foreign_folder_is_no_set(cells, prepared):
    own = score_features(cells, informative(cells), About(), "one", "t")
    folder = write_set(prepared / "results/tiny", own)
    shutil.copytree(folder, folder.with_name("two"))
    with pytest.raises(UserError, match="two holds the features 'one'"):
        read_sets(prepared / "results/tiny")
    shutil.rmtree(folder.with_name("two"))
    own.predictions.drop(columns="1-NN").to_parquet(folder / "predictions.parquet")
    with pytest.raises(UserError, match=r"predictions\.parquet: no column '1-NN'"):
        read_sets(prepared / "results/tiny")


def test_sets_of_other_cells_are_told_before_anything_is_scored(cells, prepared):
    own = score_features(cells, informative(cells), About(), "one", "t")
    write_set(prepared / "results/tiny", own)
    path = prepared / "results/tiny/features/one/about.json"
    path.write_text(path.read_text().replace('"cells": "', '"cells": "x'))
    saved(prepared / "own.npz", cells)
    asked = (cells, prepared / "results/tiny", prepared / "own.npz")
    with pytest.raises(UserError, match=r"scored on other cells than the .* here.*: one"):
        list(feature_scores.score_file(*asked, "two"))
    assert not path.parents[1].joinpath("two").exists()
    list(feature_scores.score_file(*asked, "one"))  # which is replaced
    assert len(read_sets(prepared / "results/tiny")) == 1


def test_a_laboratorys_own_cells_are_left_out_beside_sets_without_them(cells, prepared):
    """A profile to which `domain add` gave a domain was refused, with all of the committed sets."""
    own_card = cells.cards["toy"].model_copy(update={"own": True, "domains": {"lab": None}})
    more = cells.table[cells.table["domain"] == "toy-b"].assign(domain="lab")
    more = more.assign(image="lab/" + more["image"])
    (scenario,) = cells.scenarios
    wider = Cells(
        pd.concat([cells.table, more], ignore_index=True),
        cells.classes,
        [scenario.model_copy(update={"targets": (*scenario.targets, "lab"), "own": ("lab",)})],
        {**cells.cards, "lab": own_card},
    )
    results = prepared / "results/tiny"
    path = saved(prepared / "own.npz", wider)
    lines = list(feature_scores.score_file(wider, results, path, "whole"))
    assert "lab" in "\n".join(lines)
    shutil.rmtree(results / "features/whole")

    write_set(results, score_features(cells, informative(cells), About(), "one", "t"))
    lines = list(feature_scores.score_file(wider, results, path, "two"))
    assert any(f"not scored ({len(more)} of lab)" in line for line in lines)
    assert any("place" in line and "of 2 by mean of targets" in line for line in lines)
    one, two = read_sets(results)
    assert two.record.cells == one.record.cells
    assert two.record.scenarios == one.record.scenarios


def test_the_numbers_of_the_page_are_those_of_the_committed_sets():
    """In the order of the text; recomputed in a clone without features or images."""
    sets = {own.record.name: own for own in read_sets(REPOSITORY / "results/core2")}
    named = [
        sets[name]
        for name in (
            "squeezenet-imagenet",
            "squeezenet-random",
            "colour-histogram",
            "robust2-raabin",
        )
    ]
    found = {score[:4]: 100 * score.value.mean for score in scores_of(named)}
    names = [own.record.name for own in named]
    *untaught, taught = names
    wanted = [
        found[name, "raabin->*", readout, "mean_target"]
        for name in untaught
        for readout in ("logistic", "20-NN")
    ]
    wanted.append(found[taught, "raabin->*", "logistic", "mean_target"])
    wanted += [found[name, "raabin->*", "logistic", "in_domain"] for name in untaught]
    told = [100 * own.record.laboratory_told for own in named]
    scores = budget_scores(sets["colour-histogram"])
    scores = scores[(scores["target"] == "pbc-main") & (scores["method"] == "logistic")]
    labelled = [scores[scores["per_class"] == k]["macro_f1"].mean() for k in (5, 0)]
    wanted += [min(told), max(told), *(100 * value for value in labelled)]
    page = (REPOSITORY / "docs/features.md").read_text(encoding="utf-8")
    section = page.split("## What was found")[1].split("\n## ")[0]
    assert re.findall(r"\d+\.\d", section) == [f"{value:.1f}" for value in wanted]
