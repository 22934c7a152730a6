"""Networks in the repository: what is shipped, what is told of it, and what it is used for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import CLASSES, edit, working_copy
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, f1_score
from support.trained import RUN
from torch import nn

from benchmark.data.arrays import PreparedImages
from benchmark.data.stain import STAINS, moments_of
from benchmark.errors import UserError
from benchmark.files import read_json, sha256_file, write_json
from benchmark.laboratory import export, model_card, shipping
from benchmark.laboratory.adaptation import adapted_logits, cautions, check_adaptation
from benchmark.laboratory.model_card import recommended, scores_of
from benchmark.laboratory.networks import Network
from benchmark.laboratory.shipped import read_shipped
from benchmark.laboratory.shipping import add_network, standings
from benchmark.models.predict import predict

LOGITS = [f"logit_{name}" for name in CLASSES]
FOCAL = RUN.replace("-ce/", "-focal/")
BOX = Path("results/networks/toy")


@pytest.fixture(scope="module")
def shipped_template(trained_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy project with the network of one of its runs in the repository."""
    with pytest.MonkeyPatch.context() as patch:
        folder = working_copy(trained_template, tmp_path_factory.mktemp("shipped"), patch)
        add_network(Path(), "tiny", RUN, "toy", CLASSES, "wbc5")
    return folder


@pytest.fixture
def shipped(shipped_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, the current folder."""
    return working_copy(shipped_template, tmp_path, monkeypatch)


def ten_images(name: str = "new") -> Path:
    """A folder of ten of the toy set's images, in every class two."""
    Path(name).mkdir()
    for label in CLASSES:
        for slide in range(2):
            file = Path(f"datasets/raw/toy/a/{label}/slide{slide}_0.jpg")
            shutil.copy(file, f"{name}/{label}{slide}.jpg")
    return Path(name)


def alone() -> None:
    """Delete all that a fresh clone does not have: images, runs, checkpoints."""
    for folder in ("datasets/raw", "datasets/cache", "results/tiny"):
        shutil.rmtree(folder)


def restate(change) -> None:
    """Change the shipped predictions so that every hash and number beside them agrees."""
    table = pd.read_parquet(BOX / "predictions.parquet")
    change(table)
    table.to_parquet(BOX / "predictions.parquet", index=False)
    record = read_json(BOX / "network.json")
    record["predictions_sha256"] = sha256_file(BOX / "predictions.parquet")
    write_json(BOX / "network.json", record)


# --------------------------------------------------------------------------- what is shipped


def test_the_file_is_the_runs_network_in_half_precision(shipped: Path) -> None:
    record = read_json(BOX / "network.json")
    run = read_json(Path("results/tiny/runs") / RUN / "run.json")
    assert record["network_sha256"] == run["network_sha256"]
    assert record["sha256"] == sha256_file(BOX / "network.safetensors")
    whole = load_file(f"results/tiny/checkpoints/{run['training_fingerprint']}.safetensors")
    state = load_file(BOX / "network.safetensors")
    assert state.keys() == whole.keys()
    for name, value in whole.items():
        kept = value.half() if value.is_floating_point() else value
        assert torch.equal(state[name], kept), name
    counters = [value for name, value in state.items() if name.endswith("num_batches_tracked")]
    assert {value.dtype for value in counters} == {torch.int64}


def test_the_predictions_are_those_of_the_shipped_file(shipped: Path) -> None:
    """Of every test set of the run, by its weights rounded to half precision."""
    stored = pd.read_parquet(BOX / "predictions.parquet")
    of_run = pd.read_parquet(Path("results/tiny/runs") / RUN / "predictions.parquet")
    keys = ["domain", "part", "image", "label", "group"]
    pd.testing.assert_frame_equal(stored[keys], of_run[keys])
    network = Network.of_run(Path(), "tiny", RUN, CLASSES)
    with torch.no_grad():
        for value in network.model.state_dict().values():
            if value.is_floating_point():
                value.copy_(value.half().float())
    images = PreparedImages(Path(), "tiny", CLASSES).domain("toy-b")
    wanted = network.logits_of_seen(images.pixels)
    found = stored.query("domain == 'toy-b'")[LOGITS].to_numpy(np.float64)
    np.testing.assert_allclose(found, wanted, atol=0.01, rtol=1e-3)  # kept in half precision
    with_images = Network.shipped(Path(), "toy")
    np.testing.assert_allclose(with_images.logits(images.pixels), wanted, atol=1e-4)


def test_a_shipped_network_is_asked_like_a_run(shipped: Path) -> None:
    of_run, box = Network.of_run(Path(), "tiny", RUN, CLASSES), Network.shipped(Path(), "toy")
    for name in ("source", "classes", "image_size", "framing_crop", "crops", "preprocessing"):
        assert getattr(box, name) == getattr(of_run, name), name
    assert (box.name, of_run.name) == ("toy", RUN)
    assert [vars(own) for own in box.ranges] == [vars(own) for own in of_run.ranges]
    train = PreparedImages(Path(), "tiny", CLASSES).part("toy-a", "train").pixels
    for moments in (box.moments, of_run.moments):
        np.testing.assert_allclose(moments.mean, train.mean(axis=(0, 1, 2)))
        np.testing.assert_allclose(moments.spread, train.std(axis=(0, 1, 2)))
    logits, labels = box.held_out("calibration")
    np.testing.assert_array_equal(labels, of_run.held_out("calibration")[1])
    np.testing.assert_allclose(logits, of_run.held_out("calibration")[0], atol=0.1)


def test_the_stain_needs_no_image_of_the_source(shipped: Path) -> None:
    """What it was fitted to lies in network.json; here image by image, to the source's moments."""
    path = Path("results/tiny/runs") / RUN / "run.json"
    record = read_json(path)
    record["method"]["stain"] = "image_moments"
    write_json(path, record)
    add_network(Path(), "tiny", RUN, "stained", CLASSES, "wbc5")
    prepared = PreparedImages(Path(), "tiny", CLASSES)
    fitted = STAINS["image_moments"](prepared.part("toy-a", "train").pixels)
    images = prepared.domain("toy-b").pixels
    alone()
    network = Network.shipped(Path(), "stained")
    np.testing.assert_array_equal(network.stained(images), fitted(images)[0])
    with pytest.raises(UserError, match="brings every image to the same colour anyway"):
        check_adaptation(network, "colour")


def test_the_cards_numbers_are_those_of_its_predictions(shipped: Path) -> None:
    """Macro-F1, accuracy and majority by scikit-learn; every one stands in the card."""
    stored, card = pd.read_parquet(BOX / "predictions.parquet"), (BOX / "README.md").read_text()
    scores = scores_of(read_shipped(Path(), "toy"))
    assert [own.domain for own in (scores.home, *scores.targets)] == ["toy-a", "toy-b"]
    for own, part in ((scores.home, "id_test"), (scores.targets[0], "shifted")):
        rows = stored[(stored["domain"] == own.domain) & (stored["part"] == part)]
        labels, predicted = rows["label"], rows[LOGITS].to_numpy().argmax(axis=1)
        counts = labels.value_counts()
        supported = sorted(counts.index[counts >= 10])
        constant = np.full(len(labels), counts.sort_index().idxmax())
        wanted = f1_score(labels, predicted, labels=supported, average="macro", zero_division=0)
        majority = f1_score(labels, constant, labels=supported, average="macro", zero_division=0)
        if supported:
            assert own.macro_f1.mean == pytest.approx(wanted)
            assert own.majority == pytest.approx(majority)
            assert own.macro_f1.low <= wanted <= own.macro_f1.high
            assert f"{100 * wanted:.1f} [" in card
        assert own.accuracy.mean == pytest.approx(accuracy_score(labels, predicted))
        assert own.images == len(rows)
        assert own.classes == len(supported)
    assert scores.mean.mean == pytest.approx(scores.targets[0].macro_f1.mean)
    record = read_json(BOX / "network.json")
    assert record["sha256"] in card
    for heading in ("Model details", "Intended use", "Factors", "Metrics", "Evaluation data",
                    "Training data", "Quantitative analyses", "Ethical considerations",
                    "Caveats and recommendations"):  # fmt: skip
        assert f"\n## {heading}\n" in card
    for said in ("not a medical device", "licence Apache-2.0", "Toy A", "toy2020",
                 "crop 0.9 of toy-a", "a new laboratory may expect less"):  # fmt: skip
        assert said in card


def test_confusions_are_told_in_words_the_largest_first() -> None:
    confusion = np.array([[80, 20, 0], [0, 100, 0], [30, 6, 64]])
    own = SimpleNamespace(confusion=confusion)
    assert model_card.taken_for(own, ("a", "b", "c")) == (
        "30 of 100 cs taken for as; 20 of 100 as taken for bs"
    )
    own = SimpleNamespace(confusion=100 - 40 * np.eye(3, dtype=int))
    assert model_card.taken_for(own, ("a", "b", "c")).endswith("; and 2 more such pairs")
    own.confusion[0, 1] = 0
    assert model_card.taken_for(own, ("a", "b", "c")).endswith("; and 1 more such pair")
    own = SimpleNamespace(confusion=np.eye(3, dtype=int))
    assert "no class loses a tenth" in model_card.taken_for(own, ("a", "b", "c"))


# --------------------------------------------------------------------------- list, check, add


def test_networks_are_listed_with_their_numbers(shipped: Path, wbc_shift) -> None:
    alone()
    outcome = wbc_shift("networks")
    assert outcome.status == 0, outcome.err
    scores = scores_of(read_shipped(Path(), "toy"))
    assert "toy *" in outcome.out
    assert f"{100 * scores.mean.mean:.1f}" in outcome.out
    shutil.rmtree("results/networks")
    outcome = wbc_shift("networks")
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert "networks add" in outcome.err


def test_check_computes_the_card_and_asks_the_network_again(shipped: Path, wbc_shift) -> None:
    outcome = wbc_shift("networks", "--check")
    assert outcome.status == 0, outcome.err
    stored = pd.read_parquet(BOX / "predictions.parquet")
    said = " ".join(outcome.out.split())
    assert "every number of the card, of 2 test sets, computed again" in said
    assert f"the network answers {len(stored)} images as stored" in said
    shutil.rmtree("datasets/cache")
    outcome = wbc_shift("networks", "--check")
    assert outcome.status == 0
    assert "are not prepared here" in " ".join(outcome.out.split())


def test_check_finds_a_number_that_was_written_by_hand(shipped: Path, wbc_shift) -> None:
    card = BOX / "README.md"
    scores = scores_of(read_shipped(Path(), "toy"))
    number = f"worst: **{100 * scores.worst.mean:.1f}"
    edit(card, number, "worst: **99.9")
    outcome = wbc_shift("networks", "--check")
    assert outcome.status == 1
    line = next(n for n, text in enumerate(card.read_text().splitlines(), 1) if "99.9" in text)
    assert f"line {line} is not what the predictions" in " ".join(outcome.out.split())


@pytest.mark.parametrize("name", ["network.safetensors", "predictions.parquet"])
def test_a_file_that_was_exchanged_is_noticed(shipped: Path, wbc_shift, name: str) -> None:
    with (BOX / name).open("ab") as file:
        file.write(b" ")
    outcome = wbc_shift("networks", "--check")
    assert outcome.status == 1
    assert f"{name} has the SHA-256" in " ".join(outcome.out.split())
    ten_images()
    outcome = wbc_shift("predict", "new", "--crop", "0.9")
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)


def test_a_network_whose_file_is_missing_is_one_line(shipped: Path, wbc_shift) -> None:
    (BOX / "network.safetensors").unlink()
    outcome = wbc_shift("networks")
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert "network.safetensors is missing" in outcome.err


@pytest.mark.parametrize("change", [lambda names: names[::-1], lambda names: names[:-1]])
def test_predictions_of_other_classes_than_the_record_says_are_noticed(
    shipped: Path, wbc_shift, change: Callable[[list[str]], list[str]]
) -> None:
    record = read_json(BOX / "network.json")
    write_json(BOX / "network.json", record | {"classes": change(record["classes"])})
    ten_images()
    for command in (("networks",), ("predict", "new", "--crop", "0.9")):
        outcome = wbc_shift(*command)
        assert (outcome.status, outcome.err.count("\n")) == (1, 1)
        assert "predictions.parquet is of other classes than network.json beside it" in outcome.err


def test_a_record_that_cannot_be_computed_with_is_one_line(shipped: Path, wbc_shift) -> None:
    record = read_json(BOX / "network.json")
    flat = record["ranges"][0] | {"covariance": [[0.0] * 8] * 8}
    for change, said in (
        ({"preprocessing": record["preprocessing"] | {"std": [0, 0, 0]}}, "preprocessing.std"),
        ({"ranges": [flat]}, "covariance"),
    ):
        write_json(BOX / "network.json", record | change)
        outcome = wbc_shift("networks", "--check")
        assert (outcome.status, outcome.err.count("\n")) == (1, 1)
        assert said in outcome.err


def test_check_tells_other_answers_from_other_rounding(shipped: Path, wbc_shift) -> None:
    """Another processor rounds differently; another network answers differently."""

    def moved(by: float):
        def change(table: pd.DataFrame) -> None:
            table[LOGITS] = (table[LOGITS].astype(np.float32) + by).astype(np.float16)

        return change

    sound = [shipping.answers_again(Path(), read_shipped(Path(), "toy"))[0]]
    restate(moved(0.01))
    sound.append(shipping.answers_again(Path(), read_shipped(Path(), "toy"))[0])
    restate(moved(0.2))
    verdict, line = shipping.answers_again(Path(), read_shipped(Path(), "toy"))
    assert [*sound, verdict] == [True, True, False]
    assert "are answered otherwise than stored" in line


def test_what_cannot_be_added_is_one_line(shipped: Path, wbc_shift, monkeypatch) -> None:
    def refused(run: str = FOCAL, name: str = "other") -> str:
        outcome = wbc_shift("networks", "add", run, "-p", "tiny", "--name", name)
        assert (outcome.status, outcome.err.count("\n")) == (1, 1)
        return outcome.err

    assert "toy is there: choose another name" in refused(name="toy")
    assert "cannot be a name" in refused(name="../toy")
    assert "did you mean" in refused(run=FOCAL.replace("focal", "focl"))
    path = Path("results/tiny/runs") / FOCAL / "run.json"
    whole = read_json(path)
    write_json(path, whole | {"method": whole["method"] | {"inference": "adabn"}})
    assert "predicts with more than its network" in refused()
    write_json(path, whole)
    monkeypatch.setattr(shipping, "LARGEST", 1_000_000)
    assert "1 MB are the most" in refused()
    monkeypatch.undo()
    monkeypatch.chdir(shipped)
    for number in range(2):
        shutil.copytree(BOX, BOX.with_name(f"toy{number}"))
    assert "as many as a clone shall carry" in refused()
    assert not Path("results/networks/other").exists()


def test_the_rule_takes_the_best_method_and_keeps_it(shipped: Path, wbc_shift) -> None:
    """Of two methods with a seed each: that with the higher macro-F1 on toy-b."""
    means = {}
    for run in (RUN, FOCAL):
        stored = pd.read_parquet(Path("results/tiny/runs") / run / "predictions.parquet")
        rows = stored.query("part == 'shifted'")
        predicted = rows[LOGITS].to_numpy().argmax(axis=1)
        means[run] = f1_score(rows["label"], predicted, average="macro", zero_division=0)
    best, other = sorted(means, key=means.__getitem__, reverse=True)
    found = standings(Path(), "tiny")["toy-a"]
    assert [own.best.run_id for own in found] == [best, other]
    assert [own.mean for own in found] == pytest.approx([means[best], means[other]])
    shutil.rmtree("results/networks")
    add_network(Path(), "tiny", other, "by-hand", CLASSES, "wbc5")
    first = wbc_shift("networks", "renew", "-p", "tiny")
    assert first.status == 0, first.err
    assert "by-hand gave way to" in " ".join(first.out.split())
    there = {path.name for path in Path("results/networks").iterdir()}
    # The plain method stands beside the best, if it is not the best itself.
    chosen = {f"{run.split('/')[0]}-toy-a" for run in (best, RUN)}
    assert there == chosen
    again = wbc_shift("networks", "renew", "-p", "tiny")
    assert again.out.count("kept") == len(chosen)
    card = Path("results/networks", f"{best.split('/')[0]}-toy-a", "README.md").read_text()
    assert f"({100 * means[best]:.1f} % over 1 seed)" in card


def test_the_rule_changes_nothing_where_a_checkpoint_is_missing(shipped: Path, wbc_shift) -> None:
    shutil.rmtree("results/networks")
    shutil.rmtree("results/tiny/checkpoints")
    outcome = wbc_shift("networks", "renew", "-p", "tiny")
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert "is not on this machine" in outcome.err
    assert not Path("results/networks").exists()


def test_the_recommended_network_is_compared_where_no_other_is_at_home(monkeypatch) -> None:
    """x was trained on set X, and is the best on X's second laboratory; y on those that are new."""

    def network(name: str, source: str) -> SimpleNamespace:
        sets = {"x": "X", "x2": "X", "y": "Y", "new": "N"}
        known = {domain: SimpleNamespace(dataset=set_) for domain, set_ in sets.items()}
        run = SimpleNamespace(scenario=SimpleNamespace(source=source))
        return SimpleNamespace(record=SimpleNamespace(name=name, run=run, sets=known))

    scores = {"x": {"x2": 0.9, "y": 0.6, "new": 0.5}, "y": {"x": 0.4, "x2": 0.5, "new": 0.6}}
    monkeypatch.setattr(model_card, "headline", lambda own: scores[own.record.name])
    assert recommended([network("x", "x"), network("y", "y")]).record.name == "y"
    assert recommended([network("x", "x")]).record.name == "x"
    assert recommended([]) is None


# --------------------------------------------------------------------------- predict


def test_predict_needs_neither_a_run_nor_an_image_of_the_source(shipped: Path, wbc_shift) -> None:
    folder = ten_images()
    of_run = ("--run", RUN, "-p", "tiny", "--out", "run.csv")
    assert wbc_shift("predict", "new", "--crop", "0.9", *of_run).status == 0
    alone()
    outcome = wbc_shift("predict", "new", "--crop", "0.9")
    assert outcome.status == 0, outcome.err
    assert "network toy, trained on toy-a" in outcome.out
    found = pd.read_csv("predictions.csv").set_index("image")
    assert set(found.index) == {path.name for path in folder.iterdir()}
    of_run = pd.read_csv("run.csv").set_index("image").loc[found.index]
    np.testing.assert_allclose(found.filter(like="p_"), of_run.filter(like="p_"), atol=0.02)
    assert set(found["flag_holds_for"]) == {"toy-a only"}
    named = wbc_shift("predict", "new", "--network", "toy", "--crop", "0.9", "--out", "named.csv")
    assert named.status == 0
    assert Path("named.csv").read_bytes() == Path("predictions.csv").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--network", "tyo"), "did you mean 'toy'"),
        (("--network", "toy", "--run", RUN), "give --network or --run"),
        (("--adapt", "colours"), "use batch or colour"),
        (("--tta",), "run `wbc-shift prepare -p tiny`"),
    ],
)
def test_what_predict_cannot_do_is_one_line(shipped: Path, wbc_shift, arguments, said) -> None:
    ten_images()
    shutil.rmtree("datasets/cache")
    outcome = wbc_shift("predict", "new", *arguments)
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert said in outcome.err


def test_whole_fields_are_not_accepted_however_sure(shipped: Path, wbc_shift) -> None:
    # Calibration images that are right with low confidence: any answer is sure enough.
    table = pd.read_parquet(BOX / "predictions.parquet")
    rows = table[table["part"] == "calibration"].iloc[[0] * 100].assign(label=4)
    rows[LOGITS] = np.float16(0)
    rows[LOGITS[4]] = np.float16(0.001)
    table = pd.concat([table[table["part"] != "calibration"], rows])
    table.to_parquet(BOX / "predictions.parquet", index=False)
    restate(lambda table: None)
    assert Network.shipped(Path(), "toy").gauge(0.95).threshold < 0.21
    cells = PreparedImages(Path(), "tiny", CLASSES).domain("toy-a").pixels
    Path("fields").mkdir()
    for number in range(10):
        chosen = [cells[(7 * number + k) % 100] for k in range(16)]
        rows_of = [np.concatenate(chosen[k::4], axis=1) for k in range(4)]
        Image.fromarray(np.concatenate(rows_of)).save(f"fields/{number}.png")
    assert wbc_shift("predict", "fields").status == 0
    table = pd.read_csv("predictions.csv")
    assert set(table["flag"]) == {"reject"}
    assert table["reason"].str.contains("unlike toy-a's").all()


def test_cells_of_fields_are_cut_by_their_boxes(shipped: Path, wbc_shift) -> None:
    """Pascal VOC, whose labels are not looked at, or a CSV; what has no box is named."""
    cells = PreparedImages(Path(), "tiny", CLASSES).domain("toy-a").pixels
    field = np.full((200, 300, 3), 180, np.uint8)
    corners = [(20, 30), (150, 100)]
    for (x, y), cell in zip(corners, cells[[0, 9]], strict=True):
        field[y : y + 48, x : x + 48] = cell
    Path("fields").mkdir()
    for name in ("one", "bare"):
        Image.fromarray(field).save(f"fields/{name}.png")
    objects = "".join(
        f"<object><name>{label}</name><bndbox><xmin>{x + 8}</xmin><ymin>{y + 8}</ymin>"
        f"<xmax>{x + 40}</xmax><ymax>{y + 40}</ymax></bndbox></object>"
        for (x, y), label in zip(corners, ("WBC", "unknown"), strict=True)
    )
    size = "<size><width>300</width><height>200</height><depth>3</depth></size>"
    xml = f"<annotation><filename>one.png</filename>{size}{objects}</annotation>"
    Path("fields/one.xml").write_text(xml)
    outcome = wbc_shift("predict", "fields")
    assert outcome.status == 0, outcome.err
    assert "2 cells were cut of 1 fields" in " ".join(outcome.out.split())
    table = pd.read_csv("predictions.csv").set_index("image")
    assert "the first: bare.png has no annotation" in " ".join(outcome.out.split())
    cut = table
    assert set(cut["field"]) == {"one.png"}
    assert sorted(zip(cut["box_x"], cut["box_y"], strict=True)) == [(28, 38), (158, 108)]
    assert cut["label"].isin(CLASSES).all()
    assert Path("predictions.html").read_text().count("data:image/jpeg;base64") == 2
    assert list(Path("datasets/cache").glob("cells-*")) == []
    Path("fields/one.xml").unlink()
    Path("boxes.csv").write_text(
        "path,x,y,width,height\none.png,28,38,32,32\none.png,158,108,32,32\n"
    )
    assert wbc_shift("predict", "fields", "--boxes", "boxes.csv", "--out", "by.csv").status == 0
    by_csv = pd.read_csv("by.csv").set_index("image").loc[cut.index]
    assert by_csv["label"].tolist() == cut["label"].tolist()
    Path("boxes.csv").write_text("path,x\none.png,28\n")
    outcome = wbc_shift("predict", "fields", "--boxes", "boxes.csv")
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert "boxes.csv: no boxes of cells: the columns" in outcome.err


def test_adapted_answers_are_never_accepted(shipped: Path, wbc_shift) -> None:
    ten_images()
    for how in ("batch", "colour"):
        outcome = wbc_shift("predict", "new", "--crop", "0.9", "--adapt", how)
        assert outcome.status == 0, outcome.err
        table = pd.read_csv("predictions.csv")
        assert set(table["flag"]) == {"check"}
        assert set(table["flag_holds_for"]) == {"no laboratory"}
        said = " ".join(outcome.out.split())
        assert "adapting changed" in said
        assert "warning: 10 images say little" in said
        assert "transductive" in said
        assert "Nothing is accepted." in Path("predictions.html").read_text()


def test_adapting_to_batches_puts_the_folders_statistics_in_place(shipped: Path) -> None:
    """AdaBN written out: each layer normalises by mean and variance of the folder, kept."""
    network = Network.shipped(Path(), "toy")
    pixels = PreparedImages(Path(), "tiny", CLASSES).domain("toy-b").pixels
    found = adapted_logits(network, pixels, "batch")
    layers = batch_norms(network)
    before = [layer.running_mean.clone() for layer in layers]
    for layer in layers:
        layer.momentum = 1.0
        layer.train()
    standard = network.preprocessing
    mean, std = (torch.tensor(x)[:, None, None] for x in (standard.mean, standard.std))
    with torch.no_grad():
        network.model((torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std)
    for layer in layers:
        layer.eval()
    wanted = predict(network.model, pixels, "fp32", network.device, standard)
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    fresh = batch_norms(Network.shipped(Path(), "toy"))
    assert all(torch.equal(a, b.running_mean) for a, b in zip(before, fresh, strict=True))


def batch_norms(network: Network) -> list[nn.BatchNorm2d]:
    """The layers of a network that keep statistics of batches."""
    return [layer for layer in network.model.modules() if isinstance(layer, nn.BatchNorm2d)]


def test_adapting_by_colour_gives_the_folder_the_sources_moments(shipped: Path) -> None:
    network = Network.shipped(Path(), "toy")
    pixels = PreparedImages(Path(), "tiny", CLASSES).domain("toy-b").pixels
    source = network.moments
    seen = []
    network.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    adapted_logits(network, pixels, "colour")
    standard = network.preprocessing
    back = torch.cat(seen) * torch.tensor(standard.std)[:, None, None]
    back = 255 * (back + torch.tensor(standard.mean)[:, None, None])
    found = moments_of(back.round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
    assert np.abs(moments_of(pixels).mean - source.mean).max() > 10
    np.testing.assert_allclose(found.mean, source.mean, atol=2)  # but for what is clipped
    np.testing.assert_allclose(found.spread, source.spread, atol=2)


def test_what_adapting_cannot_do_is_said() -> None:
    network = SimpleNamespace(name="n", model=nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4)))
    with pytest.raises(UserError, match="n has no layer that keeps statistics of batches"):
        check_adaptation(network, "batch")


def test_a_folder_of_few_classes_is_warned_of() -> None:
    two = np.eye(3)[[0] * 60 + [1] * 60 + [2] * 5]
    adapted = np.eye(3)[[2] * 10 + [0] * 50 + [1] * 60 + [2] * 5]
    changed, warning = cautions(two, adapted, ["a", "b", "c"])
    assert changed == "adapting changed 10 of 125 labels"
    assert "nearly all images are a and b" in warning
    mixed = np.eye(3)[[0, 1, 2] * 40]
    assert cautions(mixed, mixed, ["a", "b", "c"]) == ["adapting changed 0 of 120 labels"]


# --------------------------------------------------------------------------- export


def test_stain_in_the_graph_is_that_of_the_arrays() -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (6, 16, 16, 3)).astype(np.uint8)
    pixels[1] = 128
    pixels[2, ..., 1] //= 64
    train = generator.integers(60, 200, (5, 16, 16, 3)).astype(np.uint8)
    for name in ("none", "image_moments", "grey"):
        stain = STAINS[name](train)
        network = SimpleNamespace(
            model=nn.Identity(),
            averages=False,
            preprocessing=None,
            record=SimpleNamespace(method=SimpleNamespace(stain=name)),
            stain=stain,
        )
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        inside = export.Exported(network, 1.0).stained(images)
        np.testing.assert_array_equal(inside.permute(0, 2, 3, 1).numpy(), stain(pixels)[0])


def test_without_the_extra_one_line_says_so(shipped: Path, wbc_shift, monkeypatch) -> None:
    monkeypatch.setattr(export, "NEEDED", ("onnx_that_is_not_there",))
    outcome = wbc_shift("export", "toy", "--onnx", "toy.onnx")
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert "pip install -e '.[export]'" in outcome.err
    assert "name a .onnx file" in wbc_shift("export", "toy", "--onnx", "toy.bin").err


def test_the_exported_network_answers_as_the_network(shipped: Path, wbc_shift) -> None:
    for package in export.NEEDED:
        pytest.importorskip(package)
    import onnxruntime

    pixels = PreparedImages(Path(), "tiny", CLASSES).domain("toy-b").pixels[:7]
    alone()
    outcome = wbc_shift("export", "toy", "--onnx", "toy.onnx")
    assert outcome.status == 0, outcome.err
    facts = json.loads(Path("toy.json").read_text())
    session = onnxruntime.InferenceSession("toy.onnx", providers=["CPUExecutionProvider"])
    logits, stated = session.run(None, {facts["input"]["name"]: pixels})
    network = Network.shipped(Path(), "toy")
    wanted = network.logits(pixels)
    np.testing.assert_allclose(logits, wanted, atol=1e-3)
    powers = np.exp(wanted / facts["temperature"])
    np.testing.assert_allclose(stated, powers / powers.sum(axis=1, keepdims=True), atol=1e-3)
    assert facts["sha256"] == sha256_file(Path("toy.onnx"))
    assert facts["classes"] == CLASSES
    assert facts["before_the_graph"]["crop"] == {"toy-a": 0.9}
    assert facts["threshold"] is None  # too few calibration images


def test_names_of_networks_are_completed(shipped: Path) -> None:
    from benchmark import cli

    shutil.copytree(BOX, BOX.with_name("tiny-one"))
    assert cli.complete_network("to") == ["toy"]
    context = SimpleNamespace(params={"profile": "tiny"})
    assert cli.complete_run_or_network(context, "") == ["tiny-one", "toy", RUN, FOCAL]
