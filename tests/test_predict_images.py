"""Labels for images of unknown class: what is answered, and what is not promised."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import CLASSES, draw_disc
from PIL import Image
from scipy.stats import beta, binomtest
from support.laboratory import deep_png
from support.results import run_record
from support.trained import RUN, assert_answers_as_stored, labelled

from benchmark.data.arrays import PreparedImages
from benchmark.data.fields import cut_cells, read_fields
from benchmark.data.prepare import decode
from benchmark.domains.ranges import SourceRange
from benchmark.evaluation.experiments import RecordedRun
from benchmark.evaluation.selective import ACCURACY, rejection_rows
from benchmark.files import read_json, write_json
from benchmark.laboratory.label_images import size_note
from benchmark.laboratory.networks import Network
from benchmark.metrics import probabilities
from benchmark.study.predictions import Predictions
from benchmark.study.records import write_run

PREDICT = ("predict", "new", "--run", RUN, "-p", "tiny")


def test_the_answer_is_that_of_the_run_on_its_own_images(trained: Path) -> None:
    assert_answers_as_stored(RUN)


def test_images_get_a_row_each_and_a_sheet_shows_them(trained: Path, wbc_shift) -> None:
    outcome = wbc_shift(*PREDICT, "--out", "out/labels.csv")
    assert outcome.status == 0, outcome.err
    table = pd.read_csv("out/labels.csv")
    assert sorted(table["image"]) == sorted(
        p.relative_to("new").as_posix() for p in Path("new").rglob("*.png")
    )
    assert table["confidence"].is_monotonic_increasing
    np.testing.assert_allclose(table.filter(like="p_").sum(axis=1), 1, atol=1e-4)
    assert set(table["flag_holds_for"]) == {"toy-a only"}
    sheet = Path("out/labels.html").read_text()
    assert sheet.count("data:image/jpeg;base64") == 10
    assert "http" not in sheet
    assert "The flags rest on toy-a alone" in sheet
    assert "too few calibration images of toy-a" in outcome.out


@pytest.mark.parametrize(
    ("size", "crop", "advice"),
    [
        (0.5, 1.0, ""),
        (0.25, 1.0, "try --crop 0.50"),
        (0.9, 0.5, "try --crop 0.90"),
        (0.8, 1.0, "cut too closely"),
        (0.9, 0.8, "cut too closely"),  # the whole picture has it at 0.72
    ],
)
def test_a_crop_is_advised_where_the_picture_has_one(size: float, crop: float, advice: str) -> None:
    """A nucleus takes half of the side in the source's images."""
    source = SourceRange("a", 1, 1, mean=[0.5] * 8, covariance=np.eye(8).tolist(), limit=1)
    told = size_note([source], np.full((3, 8), size), crop)
    assert advice in told
    assert bool(told) == bool(advice)


def test_what_cannot_be_read_gets_a_row_with_the_reason(trained: Path, wbc_shift) -> None:
    whole = Path("new/0.png").read_bytes()
    Path("new/cut.png").write_bytes(whole[: len(whole) // 2])
    Path("new/page.jpg").write_text("<html>")
    Image.new("RGB", (1, 1)).save("new/dot.png")
    Image.new("L", (60, 60), 255).save("new/blank ä.png")
    Image.open("new/2.png").convert("CMYK").save("new/cmyk.tif")
    assert wbc_shift(*PREDICT).status == 0
    table = pd.read_csv("predictions.csv").set_index("image")
    broken = table[table["flag"] == "unreadable"]
    assert set(broken.index) == {"cut.png", "page.jpg", "dot.png", "blank ä.png"}
    assert broken["reason"].notna().all()
    assert broken[["label", "confidence"]].isna().all(axis=None)
    assert table.loc["cmyk.tif", "label"] in CLASSES
    assert "page.jpg: is not an image" in Path("predictions.html").read_text()


def test_b02_b11_b18_every_file_has_a_row_and_a_reason(trained: Path, wbc_shift) -> None:
    """The depth is that of the folder; pages and files that no one reads are told in the CSV."""
    plain, deep = Path("plain"), Path("deep")
    for folder in (plain, deep):
        folder.mkdir()
    for number in range(5):
        picture = np.asarray(Image.open(f"new/{'more/' if number % 2 else ''}{number}.png"))
        picture = picture // 8 if number == 4 else picture  # a dark one does not brighten itself
        Image.fromarray(picture).save(plain / f"{number}.png")
        (deep / f"{number}.png").write_bytes(deep_png(picture.astype(np.uint16) << 4))
    assert wbc_shift("predict", "plain", *PREDICT[2:], "--out", "plain.csv").status == 0
    pages = [Image.open(plain / f"{number}.png") for number in range(3)]
    pages[0].save(deep / "stack.tif", save_all=True, append_images=pages[1:])
    Image.open(plain / "1.png").save(deep / "copy.jfif", "JPEG")
    (deep / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    os.mkfifo(deep / "fifo")
    outcome = wbc_shift("predict", "deep", *PREDICT[2:], "--out", "deep.csv")
    assert outcome.status == 0, outcome.err
    assert "2 unreadable" in outcome.out
    expected = pd.read_csv("plain.csv").set_index("image").sort_index()
    found = pd.read_csv("deep.csv").set_index("image")
    assert len(found) == 9
    reasons = found["reason"]
    assert reasons["stack.tif"].endswith("first of 3 pages")
    assert reasons["fifo"] == "is no regular file"
    assert "in no format that is read" in reasons["photo.heic"]
    same = found.loc[expected.index]
    assert same["reason"].str.endswith("12-bit values in a 16-bit file").all()
    columns = ["label", *(f"p_{name}" for name in CLASSES)]
    pd.testing.assert_frame_equal(same[columns], expected[columns])


def test_flags_keep_what_the_calibration_part_guarantees(trained: Path) -> None:
    run = Path("results/tiny/runs") / RUN
    file = run / "predictions.parquet"
    table = pd.read_parquet(file)
    # 100 calibration images, all of them right, the first 60 surer than the others.
    rows = table.iloc[[0] * 100].assign(part="calibration", label=0)
    logits = [f"logit_{name}" for name in CLASSES]
    rows[logits] = 0.0
    rows[logits[0]] = [8.0] * 60 + [4.0] * 40
    table = pd.concat([table[table["part"] != "calibration"], rows])
    write_run(run, read_json(run / "run.json"), table)
    network = Network.of_run(Path(), "tiny", RUN, CLASSES)
    # Clopper-Pearson: n right of n prove an accuracy of 0.05^(1/n), 0.951 for 60, 0.970 for 100.
    assert beta.ppf(0.05, 100, 1) == pytest.approx(0.970, abs=1e-3)
    low, high = (network.gauge(accuracy).threshold for accuracy in (0.97, 0.98))
    assert low == pytest.approx(probabilities(np.array([[4.0, 0, 0, 0, 0]])).max())
    assert high == np.inf
    assert "images like those of toy-a ONLY" in str(network.gauge(0.97))
    flags = labelled(Path("new"), accuracy=0.98).table["flag"]
    assert set(flags) == {"reject"}
    own = folder_of("own")
    answered = labelled(own, crop=0.9, accuracy=0.97).table
    like = ~answered["reason"].str.contains("unlike toy-a's")
    assert like.mean() >= 0.9
    assert ((answered["flag"] == "accept") == (answered["confidence"] >= low) & like).all()


def folder_of(name: str, domain: str = "a", across: int = 1) -> Path:
    """A folder of the toy images whose counterparts in toy-a are its id_test: alone, or in fields
    of so many by so many."""
    split = pd.read_csv("datasets/splits/toy-a.csv").query("part == 'id_test'")
    files = [Path("datasets/raw/toy", domain, *Path(path).parts[1:]) for path in split["path"]]
    cells = [np.asarray(Image.open(file)) for file in files]
    Path(name).mkdir()
    for number, file in enumerate(files):
        if across == 1:
            shutil.copy(file, f"{name}/{number}.jpg")
            continue
        chosen = [cells[(number + k) % len(cells)] for k in range(across**2)]
        rows = [np.concatenate(chosen[k::across], axis=1) for k in range(across)]
        Image.fromarray(np.concatenate(rows)).save(f"{name}/{number}.jpg", quality=95)
    return Path(name)


def test_c5_what_is_unlike_the_source_is_never_accepted_and_the_reason_says_so(
    trained: Path, wbc_shift
) -> None:
    """All answers are sure enough here: cells of another stain and whole fields go all the same."""
    # Of the class that is easiest: a threshold below any confidence.
    calibrated_on(RUN, [[0.0, 0, 0, 0, 0.001]] * 100, [4] * 100)
    number = len(list(folder_of("own").iterdir()))
    folder_of("other", "b")
    folder_of("fields", across=4)
    tables = {}
    for folder in ("own", "other", "fields"):
        outcome = wbc_shift("predict", folder, *PREDICT[2:], "--crop", "0.9", "--out", "o.csv")
        assert outcome.status == 0, outcome.err
        tables[folder] = pd.read_csv("o.csv", keep_default_na=False)
        unlike = tables[folder]["reason"].str.contains("unlike toy-a's").sum()
        said = f"{unlike} of {number} images are unlike toy-a's own and are not accepted"
        assert (said in " ".join(outcome.out.split())) == (unlike > 0)
        assert ("unlike toy-a&#39;s" in Path("o.html").read_text()) == (unlike > 0)
    assert (tables["own"]["flag"] == "accept").mean() >= 0.9
    for folder in ("other", "fields"):
        assert set(tables[folder]["flag"]) == {"reject"}
        assert tables[folder]["reason"].str.contains("unlike toy-a's").all()
    assert list(tables["own"].columns[:6]) == [
        "image", "label", "confidence", "flag", "flag_holds_for", "reason",
    ]  # fmt: skip


def test_c5_without_a_range_of_the_prepared_images_nothing_is_flagged(
    trained: Path, wbc_shift
) -> None:
    path = Path("results/tiny/ranges.json")
    known = path.read_text()
    shutil.rmtree("datasets/cache/tiny")
    assert wbc_shift(*PREDICT).status == 0, "the source's images are not needed"
    path.unlink()
    outcome = wbc_shift(*PREDICT)
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert "does not say how toy-a's own images look" in outcome.err
    assert "wbc-shift prepare -p tiny" in outcome.err
    digest = json.loads(known)["ranges"][0]["data"]
    path.write_text(known.replace(digest, "0" * 16))
    assert "the range of toy-a is of other images" in wbc_shift(*PREDICT).err
    for broken in ("[]", "{", '{"ranges": [{}]}', known.replace('"limit": ', '"limit": -')):
        path.write_text(broken)
        outcome = wbc_shift(*PREDICT)
        assert (outcome.status, outcome.err.count("\n")) == (1, 1)
        assert "run `wbc-shift prepare -p tiny`" in outcome.err


def test_c5_prepare_keeps_a_range_that_is_up_to_date(trained: Path, wbc_shift) -> None:
    path = Path("results/tiny/ranges.json")
    content = json.loads(path.read_text())
    content["ranges"][0]["limit"] = 7.5
    path.write_text(json.dumps(content))
    assert wbc_shift("prepare", "-p", "tiny").status == 0
    assert json.loads(path.read_text())["ranges"][0]["limit"] == 7.5
    content["ranges"][0]["parts"] = "of another split"
    path.write_text(json.dumps(content))
    assert wbc_shift("prepare", "-p", "tiny").status == 0
    assert json.loads(path.read_text())["ranges"][0]["limit"] != 7.5
    path.write_text("{}")
    assert wbc_shift("prepare", "-p", "tiny").status == 0
    assert json.loads(path.read_text())["ranges"]
    Path("datasets/splits/toy-a.csv").unlink()
    outcome = wbc_shift("prepare", "-p", "tiny")
    assert outcome.status == 0, outcome.err
    assert "no range of toy-a's images, so that none is accepted" in " ".join(outcome.out.split())


def calibrated_on(run: str, logits: list[list[float]], labels: list[int]) -> None:
    """Exchange the stored answers of a run to its calibration part."""
    folder = Path("results/tiny/runs") / run
    table = pd.read_parquet(folder / "predictions.parquet")
    rows = table.iloc[[0] * len(labels)].assign(part="calibration", label=labels)
    rows[[f"logit_{name}" for name in CLASSES]] = logits
    table = pd.concat([table[table["part"] != "calibration"], rows])
    write_run(folder, read_json(folder / "run.json"), table)


def test_a13_without_an_error_the_temperature_is_one_and_is_said_to_be(
    trained: Path, wbc_shift
) -> None:
    calibrated_on(RUN, [[9.0, 0, 0, 0, 0]] * 100, [0] * 100)
    outcome = wbc_shift(*PREDICT)
    assert "Temperature 1: none can be fitted to the 100 calibration images" in outcome.out
    assert "Temperature 1: none can be fitted" in Path("predictions.html").read_text()
    table = pd.read_csv("predictions.csv")
    assert (table["confidence"] < 1).all()
    np.testing.assert_allclose(table["confidence"], table.filter(like="p_").max(axis=1))


def test_a13_the_threshold_is_of_confidences_that_nothing_was_fitted_to(trained: Path) -> None:
    right = [[6.0, 0, 0, 0, 0]] * 70 + [[2.0, 0, 0, 0, 0]] * 30
    calibrated_on(RUN, right, [0] * 98 + [1] * 2)
    network = Network.of_run(Path(), "tiny", RUN, CLASSES)
    gauge = network.gauge(0.95)
    assert gauge.temperature != 1
    assert gauge.threshold == pytest.approx(probabilities(np.array(right[:1])).max())
    table = labelled(Path("new")).table
    stated = table.filter(like="p_").to_numpy()
    unscaled = probabilities(np.log(stated) * gauge.temperature).max(axis=1)
    np.testing.assert_allclose(table["confidence"], unscaled)


def test_a13_predict_and_evaluate_fit_the_same_temperature_and_threshold(trained: Path) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 1, (320, 5)) + 9 * np.eye(5)[np.arange(320) % 5]
    logits[-1] = [0.3, 0, 0, 0, 0]
    logits = logits.astype(np.float16)
    calibrated_on(RUN, logits.tolist(), (np.arange(320) % 5).tolist())
    record = run_record("resnet10t-bn-ce", 0, None, targets=[])
    run = RecordedRun.model_validate(
        record | {"scenario": {"name": "a", "source": "a", "targets": []}}
    )
    labels = np.arange(320) % 5
    images, predicted = labels.astype(str), logits.argmax(axis=1)
    held = Predictions(images, labels, labels, "", predicted, None, logits)
    rows = rejection_rows(run, {("a", "calibration"): held, ("a", "id_test"): held})
    found = {(row["rejector"], row["fit"]): row for row in rows}
    gauge = Network.of_run(Path(), "tiny", RUN, CLASSES).gauge(ACCURACY)
    assert gauge.threshold == found["msp", "guaranteed"]["threshold"] < 1
    assert gauge.temperature == found["scaled_msp", "plain"]["temperature"] != 1


def test_a13_a_written_confidence_can_be_told_from_the_threshold(trained: Path, wbc_shift) -> None:
    """Confidences and the threshold differ from 1, and from each other, in the tenth digit."""
    network = Network.of_run(Path(), "tiny", RUN, CLASSES)
    highest = labelled(Path("new")).table["confidence"].max()
    gauge = replace(network.gauge(0.95), threshold=float(np.nextafter(highest, 1)))
    assert gauge.digits(highest) != gauge.digits(gauge.threshold)
    assert replace(gauge, threshold=0.75).digits(1 - 3e-10) == "0.9999999997"
    assert wbc_shift(*PREDICT).status == 0
    assert pd.read_csv("predictions.csv")["confidence"].max() == highest
    accepted = replace(gauge, threshold=1 - 3e-10, images=100)
    assert "accepted from confidence 0.9999999997 on" in str(accepted)


def test_a7_too_few_calibration_images_are_said_with_their_number(trained: Path) -> None:
    calibrated_on(RUN, [[9.0, 0, 0, 0, 0]] * 58, [0] * 58)
    network = Network.of_run(Path(), "tiny", RUN, CLASSES)
    assert "toy-a, 58 where 59 are the fewest" in str(network.gauge(0.95))
    calibrated_on(RUN, [[9.0, 0, 0, 0, 0]] * 59, [1] * 59)
    network = Network.of_run(Path(), "tiny", RUN, CLASSES)
    assert "too many of the most confident predictions for the 59" in str(network.gauge(0.95))


def test_eight_views_give_one_answer_to_a_turned_image(trained: Path) -> None:
    pixels = decode(Path("new/2.png"), 1.0, 48)[0]
    turned = np.stack([np.rot90(pixels), pixels[:, ::-1], pixels])
    network = Network.of_run(Path(), "tiny", RUN, CLASSES, tta=True)
    answers = network.logits(turned)
    np.testing.assert_allclose(answers[0], answers[2], atol=1e-4)
    np.testing.assert_allclose(answers[1], answers[2], atol=1e-4)
    plain = Network.of_run(Path(), "tiny", RUN, CLASSES)
    views = [np.rot90(v, k) for v in (pixels, pixels[:, ::-1]) for k in range(4)]
    mean = probabilities(plain.logits(np.stack(views))).mean(axis=0)
    np.testing.assert_allclose(np.exp(answers[2]), mean, atol=1e-4)


def test_thresholds_of_eight_views_are_those_of_eight_views(trained: Path, wbc_shift) -> None:
    network = Network.of_run(Path(), "tiny", RUN, CLASSES, tta=True)
    logits, labels = network.held_out("calibration")
    images = PreparedImages(Path(), "tiny", CLASSES).part("toy-a", "calibration")
    np.testing.assert_array_equal(logits, network.logits_of_seen(images.pixels))
    np.testing.assert_array_equal(labels, images.labels)
    assert wbc_shift(*PREDICT, "--tta").status == 0
    shutil.rmtree("datasets/cache/tiny")
    outcome = wbc_shift(*PREDICT, "--tta")
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert "run `wbc-shift prepare" in outcome.err
    assert wbc_shift(*PREDICT).status == 0, "one view needs the checkpoint alone"


def test_a_missing_checkpoint_says_how_to_get_it(trained: Path, wbc_shift) -> None:
    shutil.rmtree("results/tiny/checkpoints")
    outcome = wbc_shift(*PREDICT)
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert "checkpoints are not in git" in outcome.err
    assert "wbc-shift train -p tiny" in outcome.err
    assert not Path("predictions.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--run", "resnet10t-bn-cc/toy-a_to_others/seed0"), "did you mean 'resnet10t-bn-ce/"),
        (("--out", "labels.xlsx"), "name a .csv file"),
        (("--profile", "tony"), "did you mean 'tiny'"),
    ],
)
def test_what_cannot_be_done_is_one_line(trained: Path, wbc_shift, arguments, said) -> None:
    outcome = wbc_shift(*PREDICT, *arguments)
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert said in outcome.err


def test_a_folder_without_images_is_one_line(trained: Path, wbc_shift) -> None:
    shutil.rmtree("new")
    assert "new is no folder" in wbc_shift(*PREDICT).err
    Path("new").mkdir()
    assert "no image in it" in wbc_shift(*PREDICT).err


def test_a_checkpoint_answers_without_the_file_of_its_initial_weights(trained: Path) -> None:
    path = Path("results/tiny/runs") / RUN / "run.json"
    before = labelled(Path("new")).table
    record = read_json(path)
    record["method"]["weights"] = "gone"
    record["settings"]["weights"] = {"file": "weights/gone.safetensors"}
    write_json(path, record)
    after = labelled(Path("new")).table
    assert after["label"].tolist() == before["label"].tolist()


def test_c9_the_csv_that_predict_writes_is_scored(trained: Path, wbc_shift) -> None:
    """With images besides those of the test sets, and one that cannot be read."""
    Path("datasets/raw/toy/b/broken.png").write_bytes(b"no image")
    toy = ("predict", "datasets/raw/toy", "--run", RUN, "-p", "tiny", "--crop", "0.9")
    assert wbc_shift(*toy).status == 0
    outcome = wbc_shift("score", "predictions.csv", "-p", "tiny", "--scenario", "toy-a->*")
    assert outcome.status == 0, outcome.err
    assert "toy-b, n = 100: macro-F1" in outcome.out
    assert "note: 1 row left out, without an answer: line " in outcome.out
    assert "rows name no test image of this scenario and were left out: a/" in outcome.out
    assert "ECE" in outcome.out


def test_the_boxed_cells_of_fields_are_labelled_and_found_again(trained: Path, wbc_shift) -> None:
    """The answers are those to the same cells cut beforehand, whatever they are called."""
    Path("fields").mkdir()
    generator = np.random.default_rng(1)
    for number in range(3):
        field, lines = Image.new("RGB", (360, 160), (230, 210, 210)), ["1 0.5 0.9 0.1 0.1"]
        for label in range(3):
            disc = Image.fromarray(draw_disc(label, 1.0, generator))
            field.paste(disc, (32 + 120 * label, 52))
            lines.append(f"0 {(60 + 120 * label) / 360} 0.5 {40 / 360} {40 / 160}")
        field.save(f"fields/{number}.png")
        Path(f"fields/{number}.txt").write_text("\n".join(lines))
    Path("fields/classes.txt").write_text("WBC\nRBC\n")
    outcome = wbc_shift(*PREDICT[:1], "fields", *PREDICT[2:], "--out", "cut.csv")
    assert outcome.status == 0, outcome.err
    assert "9 cells were cut of 3 fields (YOLO)" in outcome.out
    assert "the first: 3 boxes labelled RBC: no leucocytes" in outcome.out
    table = pd.read_csv("cut.csv").sort_values("image", ignore_index=True)
    assert table["field"].tolist() == [f"{number}.png" for number in range(3) for _ in range(3)]
    assert table["box_x"].round(3).tolist() == [40, 160, 280] * 3
    cut_cells(Path("fields"), read_fields(Path("fields")).table, Path("cells"))
    assert (
        wbc_shift("predict", "cells", *PREDICT[2:], "--crop", "0.7", "--out", "b.csv").status == 0
    )
    again = pd.read_csv("b.csv").sort_values("image", ignore_index=True)
    pd.testing.assert_frame_equal(table[again.columns], again)
    assert Path("cut.html").read_text().count("data:image/jpeg;base64") == 9
    assert not list(Path("datasets/cache").glob("cells-*"))


def test_the_differential_of_a_folder_has_the_exact_limits_of_its_counts(
    trained: Path, wbc_shift
) -> None:
    said = wbc_shift(*PREDICT, "--out", "out/labels.csv").out
    counts = pd.read_csv("out/labels.csv")["label"].value_counts()
    (line,) = [line for line in said.splitlines() if line.startswith("differential of 10 cells")]
    for name in CLASSES:
        limits = binomtest(int(counts.get(name, 0)), 10).proportion_ci(method="exact")
        share = f"{name} {counts.get(name, 0) / 10:.1%}"
        assert f"{share} [{100 * limits.low:.1f}, {100 * limits.high:.1f}]" in line
