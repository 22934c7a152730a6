"""What a certificate says: each number by other code, verdicts of made-up tables, errors."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import CLASSES, draw_disc
from PIL import Image
from scipy.spatial.distance import mahalanobis
from scipy.stats import beta, binomtest
from sklearn.metrics import f1_score, recall_score
from support.trained import RUN

from benchmark.data.prepare import decode_all
from benchmark.domains.ranges import PARTS, SourceRange, appearance
from benchmark.evaluation.exact import share
from benchmark.files import read_json
from benchmark.laboratory.certificate import (
    Answers,
    Scored,
    appearance_of,
    more_images,
    numbers,
    per_cent,
)
from benchmark.laboratory.crop import CropChoice, LabelledCells, choose_crop
from benchmark.laboratory.networks import Gauge, Network
from benchmark.laboratory.printing import BROWSERS
from benchmark.laboratory.site_test import beside
from benchmark.study.records import write_run

TEST = ("test", "lab", "--name", "our-scanner", "--run", RUN, "-p", "tiny")
OUT = Path("our-scanner")


@pytest.fixture(autouse=True)
def _no_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are printed by the test of printing alone."""
    monkeypatch.setattr("benchmark.laboratory.printing.BROWSERS", ())


def answers_of(table: list[list[int]], groups: int | None = None) -> Answers:
    """Answers whose confusion matrix is a table; images of one group in turns, or of their own."""
    labels, predicted = (
        np.array(column)
        for column in zip(
            *[
                (true, named)
                for true, row in enumerate(table)
                for named, number in enumerate(row)
                for _ in range(number)
            ],
            strict=True,
        )
    )
    images = np.arange(len(labels))
    return Answers(
        labels,
        (images if groups is None else images % groups).astype(str),
        9.0 * np.eye(len(table))[predicted],
        np.zeros((len(labels), 8)),
        [""] * len(labels),
    )


def source_range() -> SourceRange:
    """Of images whose every fact is 0 but for chance."""
    return SourceRange("home", 100, 50, [0.0] * 6 + [0.5, 0.0], np.eye(8).tolist(), 3.0)


def certified(
    table: list[list[int]], home: list[list[int]], level: float = 0.9, groups: int | None = None
) -> dict:
    """The numbers of two confusion tables."""
    theirs = answers_of(home)
    scored = Scored("home home", theirs.labels, theirs.predicted, theirs.groups)
    gauge = Gauge("home", 300, 1.0, 0.5, 0.95)
    classes = CLASSES[: len(table)]
    answers = answers_of(table, groups)
    return numbers(answers, scored, gauge, [source_range()], classes, level)


def diagonal(right: list[int], wrong: list[int]) -> list[list[int]]:
    """A confusion table with so many right, and so many taken for the next class."""
    size = len(right)
    table = np.diag(right)
    table[np.arange(size), (np.arange(size) + 1) % size] += wrong
    return table.tolist()


GOOD_HOME = diagonal([97] * 3, [3] * 3)


@pytest.mark.parametrize(
    ("table", "kind", "said"),
    [
        (diagonal([100] * 3, [0] * 3), "holds", "at least 90 % sensitivity for each class"),
        (diagonal([19] * 3, [1] * 3), "open", "the limits include 90 %"),
        (diagonal([60] * 3, [40] * 3), "worse", "Worse than at home"),
        (diagonal([300, 300, 250], [0, 0, 60]), "worse", "is shown to be below 90 %"),
        (diagonal([950] * 3, [50] * 3), "worse", "yet at least 90 % is shown for each class"),
        (diagonal([100, 100, 9], [0] * 3), "holds", "each of the 2 classes that carry a claim"),
    ],
)
def test_verdicts_of_made_up_tables(table: list[list[int]], kind: str, said: str) -> None:
    # Of so many images at home that a fall of a few points is seen where there are as many here.
    home = diagonal([970] * 3, [30] * 3)
    told = certified(table, home)["verdict"]
    assert told["kind"] == kind
    assert said in " ".join([told["headline"], *told["sentences"]])


def test_what_is_below_the_level_as_at_home_is_said_to_be_below_and_not_worse() -> None:
    table = diagonal([60] * 3, [40] * 3)
    told = certified(table, table)["verdict"]
    assert told["kind"] == "below"
    assert any("not shown to be worse than at home, but a fall by" in s for s in told["sentences"])


def test_fewer_than_ten_cells_carry_no_claim_however_well_they_are_recognised() -> None:
    found = certified(diagonal([100, 100, 9], [0, 0, 0]), GOOD_HOME)
    row = found["classes"]["monocyte"]
    assert (row["claim"], row["level"]) == (False, "open")
    assert any("No claim is made for monocyte" in s for s in found["verdict"]["sentences"])
    none = certified(diagonal([100, 100, 0], [0, 0, 0]), GOOD_HOME)["classes"]["monocyte"]
    assert (none["images"], none["sensitivity"]["rate"], none["claim"]) == (0, None, False)
    assert none["to_settle"] == math.ceil(math.log(0.025) / math.log(0.9))


def test_a_class_of_one_patient_carries_no_claim() -> None:
    answers = answers_of(diagonal([40, 40, 40], [0, 0, 0]))
    answers.groups[answers.labels == 1] = "one"
    home = answers_of(GOOD_HOME)
    scored = Scored("home", home.labels, home.predicted, home.groups)
    gauge = Gauge("home", 300, 1.0, 0.5, 0.95)
    found = numbers(answers, scored, gauge, [source_range()], CLASSES[:3], 0.9)
    row = found["classes"]["lymphocyte"]
    assert (row["claim"], row["groups"]) == (False, 1)
    assert (row["sensitivity"]["low"], row["sensitivity"]["high"]) == (0, 1)


def test_where_no_class_carries_a_claim_the_headline_says_so() -> None:
    answers = answers_of(diagonal([15, 15, 15], [5, 5, 5]))
    answers.groups[:] = "one"
    home = answers_of(GOOD_HOME)
    scored = Scored("home", home.labels, home.predicted, home.groups)
    gauge = Gauge("home", 300, 1.0, 0.5, 0.95)
    told = numbers(answers, scored, gauge, [source_range()], CLASSES[:3], 0.9)["verdict"]
    assert told["kind"] == "open"
    assert told["headline"] == "Nothing is shown of 90 % sensitivity: no class carries a claim"


def test_macro_f1_no_higher_than_a_constants_is_said() -> None:
    """All cells of two classes are taken for each other's."""
    said = "no higher than that of one constant answer"
    table = [[5, 95, 0], [60, 0, 0], [0, 0, 20]]
    assert not any(said in s for s in certified(table, GOOD_HOME)["verdict"]["sentences"])
    table = [[5, 95, 0], [60, 0, 0], [20, 0, 0]]
    found = certified(table, GOOD_HOME)
    constant = f1_score([0] * 100 + [1] * 60 + [2] * 20, [0] * 180, average="macro")
    assert found["compared"]["macro_f1"]["constant"] == pytest.approx(constant)
    assert found["compared"]["macro_f1"]["here"]["mean"] < constant
    assert any(said in s for s in found["verdict"]["sentences"])


def test_another_mix_of_classes_alone_is_not_called_worse() -> None:
    """Each cell is recognised as often as at home; rare classes lose precision, and so F1."""
    here = [[900, 50, 50], [1, 18, 1], [1, 1, 18]]
    home = [[900, 50, 50], [50, 900, 50], [50, 50, 900]]
    found = certified(here, home)
    f1 = found["compared"]["macro_f1"]
    assert f1["here"]["high"] < f1["home"]["low"]
    assert found["verdict"]["kind"] != "worse"
    assert found["compared"]["mean_sensitivity"]["difference"]["mean"] == pytest.approx(0)


def test_home_is_compared_over_the_classes_that_occur_here() -> None:
    home = diagonal([90, 90, 10], [10, 10, 90])
    found = certified(diagonal([90, 90, 0], [10, 10, 0]), home)
    assert found["compared"]["classes"] == [0, 1]
    assert found["compared"]["images_at_home"] == 200
    assert found["compared"]["mean_sensitivity"]["home"]["mean"] == pytest.approx(0.9)


@pytest.mark.parametrize(("right", "number"), [(19, 20), (34, 34), (13, 25), (36, 40), (95, 100)])
def test_the_cells_that_would_settle_a_level_are_the_fewest_that_do(
    right: int, number: int
) -> None:
    found = share(np.arange(number) < right, np.arange(number))
    more, rate = more_images(found, True, 0.9), right / number

    def settled(n: int) -> bool:
        k = rate * n
        low = beta.ppf(0.025, k, n - k + 1)
        high = beta.ppf(0.975, k + 1, n - k) if k < n else 1
        return low >= 0.9 or high < 0.9

    if rate == 0.9:
        assert more is None
    else:
        assert more == next(m for m in range(10_000) if settled(number + m))


def test_grouped_cells_settle_as_slowly_as_they_are_alike() -> None:
    groups = np.repeat(np.arange(20), 10)
    right = (groups % 20 < 19) | (np.arange(200) % 2 == 0)  # all the errors on one slide
    grouped, plain = share(right, groups), share(right, np.arange(200))
    assert grouped.independent < 200
    assert more_images(plain, True, 0.9) == 0
    more = more_images(grouped, True, 0.9)
    needed = (200 + more) * grouped.independent / 200
    k = needed * 0.975
    assert beta.ppf(0.025, k, needed - k + 1) >= 0.9
    k = (needed - 1.01) * 0.975
    assert beta.ppf(0.025, k, needed - 1.01 - k + 1) < 0.9


def test_how_far_images_are_is_the_distance_of_their_mean() -> None:
    generator = np.random.default_rng(0)
    covariance = np.cov(
        generator.normal(size=(50, 8)) @ generator.normal(size=(8, 8)), rowvar=False
    )
    mean = [30, 20, -20, 80, 5, 5, 0.4, -2]
    source = SourceRange("home", 100, 50, mean, covariance.tolist(), 3.5)
    facts = generator.multivariate_normal(np.array(mean) + 0.5, covariance, 60)
    facts[7] = np.nan
    found = appearance_of([source], facts)
    inverse = np.linalg.inv(covariance)
    far = [mahalanobis(row, mean, inverse) > 3.5 for row in np.delete(facts, 7, axis=0)]
    assert (found["outside"], found["without_nucleus"]) == (sum(far) + 1, 1)
    here = np.nanmean(facts, axis=0)
    for name, part in PARTS.items():
        own = np.linalg.inv(covariance[part, part])
        spreads = mahalanobis(here[part], np.array(mean)[part], own) / math.sqrt(len(own))
        assert found["parts"][name]["spreads"] == pytest.approx(spreads)
    assert found["parts"]["size of the nucleus"]["ratio"] == pytest.approx(here[6] / 0.4)
    assert found["parts"]["sharpness"]["ratio"] == pytest.approx(math.exp(here[7] + 2))
    colour = found["parts"]["colour of the nucleus"]["colour_difference"]
    assert colour == pytest.approx(math.dist(here[:3], mean[:3]))
    assert sum(part["outside"] for part in found["parts"].values()) == sum(far)


def test_directions_of_colour_are_words() -> None:
    facts = np.tile([-8.0, 5, 0, 0, 0, -4, 0.6, 0.3], (5, 1))
    parts = appearance_of([source_range()], facts)["parts"]
    assert parts["colour of the nucleus"]["direction"] == "darker, redder"
    assert parts["colour around the nucleus"]["direction"] == "bluer"
    assert parts["size of the nucleus"]["direction"] == "larger"
    assert parts["sharpness"]["direction"] == "sharper"
    assert parts["colour of the nucleus"]["word"] == "very different"


def test_none_and_all_are_never_rounded_to() -> None:
    assert [per_cent(v) for v in (0, 1e-5, 0.3333, 0.99999, 1)] == [
        "0",
        "0.1",
        "33.3",
        "99.9",
        "100",
    ]


# The command, on the toy network of the tests.


def lab(per_class: int = 12, shade: float = 1.0, name: str = "lab") -> None:
    """A labelled folder of discs that no set holds, a folder per class, of odd file names."""
    generator = np.random.default_rng(5)
    for label, cell in enumerate(CLASSES):
        folder = Path(name) / cell
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            picture = Image.fromarray(draw_disc(label, shade, generator))
            picture.save(folder / f"patient-secret-{number}.png")


LOGITS = [f"logit_{name}" for name in CLASSES]


def with_stored(changed: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    """Exchange the predictions that are kept with the toy run."""
    folder = Path("results/tiny/runs") / RUN
    table = changed(pd.read_parquet(folder / "predictions.parquet"))
    write_run(folder, read_json(folder / "run.json"), table)
    return table


def larger_home(table: pd.DataFrame) -> pd.DataFrame:
    """With each image of home's test part four times, so that its classes carry a claim."""
    home = table[table["part"] == "id_test"]
    more = [
        home.assign(image=home["image"] + f"#{k}", group=home["group"] + f"#{k}") for k in "123"
    ]
    return pd.concat([table, *more])


@pytest.fixture
def certificate(trained: Path, wbc_shift) -> dict:
    """A test of sixty images, of which one is a copy, one broken, and two are of other cells."""
    lab()
    with_stored(larger_home)
    shutil.copy("lab/monocyte/patient-secret-0.png", "lab/monocyte/copy-secret.png")
    Path("lab/monocyte/broken-secret.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    Path("lab/blast").mkdir()
    for number in range(2):
        shade = np.random.default_rng(number)
        Image.fromarray(draw_disc(2, 0.9, shade)).save(f"lab/blast/secret-{number}.png")
    before = project_files()
    outcome = wbc_shift(*TEST, "--crop", "0.9")
    assert outcome.status == 0, outcome.err
    assert project_files() == before, "a test is no domain: nothing of the project changes"
    assert "our-scanner: 60 images used (12 neutrophil, 12 lymphocyte" in outcome.out
    assert "2 images of other cells test what should be rejected" in outcome.out
    assert "1 left out; 1 not used" in outcome.out
    return read_json(OUT / "certificate.json")


def project_files() -> dict[str, bytes]:
    """Every file of the project but caches, locks, and what a test wrote."""
    files = [f for f in Path().rglob("*") if f.is_file() and "cache" not in f.parts]
    files = [f for f in files if f.suffix != ".lock" and OUT not in f.parents]
    return {str(f): f.read_bytes() for f in files}


def test_every_number_is_that_of_other_code(certificate: dict) -> None:
    table = pd.read_csv(OUT / "predictions.csv", keep_default_na=False)
    own = table[table["class"].isin(CLASSES)]
    stored = pd.read_parquet(Path("results/tiny/runs") / RUN / "predictions.parquet")
    home = stored.query("part == 'id_test'")
    logits = home[LOGITS].to_numpy(float)
    theirs = np.array(CLASSES)[logits.argmax(axis=1)]
    labelled = np.array(CLASSES)[home["label"]]

    crosstab = pd.crosstab(own["class"], own["predicted"]).reindex(
        index=CLASSES, columns=CLASSES, fill_value=0
    )
    assert certificate["confusion"] == crosstab.to_numpy().tolist()
    assert certificate["images"] == len(own) == 60
    assert certificate["cells_of_no_class"] == 2
    for name in CLASSES:
        row = certificate["classes"][name]
        of, others = own[own["class"] == name], own[own["class"] != name]
        counts = {
            "sensitivity": ((of["predicted"] == name).sum(), len(of)),
            "specificity": ((others["predicted"] != name).sum(), len(others)),
        }
        assert row["images"] == len(of) == 12
        for what, (k, n) in counts.items():
            low = beta.ppf(0.025, k, n - k + 1) if k else 0
            high = beta.ppf(0.975, k + 1, n - k) if k < n else 1
            assert row[what]["right"] == k
            assert row[what]["rate"] == pytest.approx(k / n)
            assert (row[what]["low"], row[what]["high"]) == pytest.approx((low, high))
        at_home = (theirs == name)[labelled == name]
        assert row["sensitivity_at_home"]["rate"] == pytest.approx(at_home.mean())

    compared = certificate["compared"]
    scores = [
        (compared["macro_f1"]["here"], f1_score, own["class"], own["predicted"]),
        (compared["macro_f1"]["home"], f1_score, labelled, theirs),
        (compared["mean_sensitivity"]["here"], recall_score, own["class"], own["predicted"]),
        (compared["mean_sensitivity"]["home"], recall_score, labelled, theirs),
    ]
    for found, score, true, predicted in scores:
        value = score(true, predicted, labels=CLASSES, average="macro", zero_division=0)
        assert found["mean"] == pytest.approx(value)
        assert found["low"] <= found["mean"] <= found["high"]
    constant = f1_score(own["class"], ["neutrophil"] * 60, average="macro", zero_division=0)
    assert compared["macro_f1"]["constant"] == pytest.approx(constant)
    assert compared["mean_sensitivity"]["constant"] == pytest.approx(0.2)
    difference = compared["mean_sensitivity"]["difference"]["mean"]
    means = [compared["mean_sensitivity"][side]["mean"] for side in ("here", "home")]
    assert difference == pytest.approx(means[0] - means[1])
    assert certificate["files"]["left out"] == 1
    assert certificate["files"]["not used"] == 1


def test_accepted_and_wrong_are_those_of_the_table(trained: Path, wbc_shift) -> None:
    """With a threshold that some reach, and of images as at home."""
    lab()
    assert wbc_shift(*TEST, "--crop", "0.9").status == 0
    middle = pd.read_csv(OUT / "predictions.csv")["confidence"].median()
    # 100 calibration images, all right, whose largest probability is the median's.
    stated = [np.log(4 * middle / (1 - middle)), 0, 0, 0, 0]
    with_stored(
        lambda table: pd.concat(
            [
                table[table["part"] != "calibration"],
                table.iloc[[0] * 100].assign(
                    part="calibration", label=0, **dict(zip(LOGITS, stated, strict=True))
                ),
            ]
        )
    )
    assert wbc_shift(*TEST, "--crop", "0.9").status == 0
    found, table = read_json(OUT / "certificate.json"), pd.read_csv(OUT / "predictions.csv")
    accepted = table["flag"] == "accept"
    wrong = table["class"] != table["predicted"]
    sure = table["confidence"] >= found["accepted"]["threshold"]
    assert 0 < sure.sum() < 60
    alone = found["accepted"]["by_confidence_alone"]
    assert alone == {"accepted": sure.sum(), "wrong": (sure & wrong).sum()}
    like = table["reason"].isna()
    assert (accepted == (sure & like)).all()
    for what, (k, n) in {
        "accepted": (accepted.sum(), 60),
        "wrong": ((accepted & wrong).sum(), accepted.sum()),
    }.items():
        assert (found["accepted"][what]["right"], found["accepted"][what]["number"]) == (k, n)
        if n:
            known = binomtest(int(k), int(n)).proportion_ci(0.95, "exact")
            limits = found["accepted"][what]["low"], found["accepted"][what]["high"]
            assert limits == pytest.approx((known.low, known.high))


def test_the_page_prints_what_the_file_says_and_names_no_file(certificate: dict, wbc_shift) -> None:
    page = (OUT / "certificate.html").read_text()
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page))
    assert certificate["network"]["sha256"] in text
    assert certificate["verdict"]["headline"] in text
    for row in certificate["classes"].values():
        for what in ("sensitivity", "specificity"):
            shown = [per_cent(row[what][key]) for key in ("rate", "low", "high")]
            assert "{} [{}, {}]".format(*shown) in text
    for side in ("here", "home"):
        found = certificate["compared"]["macro_f1"][side]
        assert per_cent(found["mean"]) in text
    assert certificate["groups_told"] is False
    assert "The limits take every cell" in text
    assert "where several are of one patient or slide, they are too narrow" in text
    assert "Not a medical device; not a validation under ISO 15189 or CLSI" in text
    for name in ("certificate.html", "certificate.json"):
        content = (OUT / name).read_text()
        assert "secret" not in content
        assert "lab/" not in content
    assert "<script" not in page
    assert not re.search(r"(src|href)=", page), "the page is one file"
    assert wbc_shift(*TEST, "--crop", "0.9", "--with-file-names").status == 0
    table = pd.read_csv(OUT / "predictions.csv")
    wrong = table[(table["class"] != table["predicted"]) & table["class"].isin(CLASSES)]
    named = (OUT / "certificate.html").read_text()
    assert len(wrong)
    assert all(image in named for image in wrong["image"])


def test_groups_that_are_told_widen_the_limits(trained: Path, wbc_shift) -> None:
    lab(20)
    for cell in CLASSES:
        for file in Path("lab", cell).iterdir():
            slide = Path("lab", cell, f"slide{int(re.search(r'[0-9]+', file.name)[0]) % 4}")
            slide.mkdir(exist_ok=True)
            file.rename(slide / file.name)
    outcome = wbc_shift(*TEST, "--crop", "0.9")
    assert outcome.status == 0, outcome.err
    found = read_json(OUT / "certificate.json")
    assert found["by_group"]
    page = (OUT / "certificate.html").read_text()
    assert "Korn–Graubard" in page
    assert "The limits take patients, slides or fields, as told, for independent" in page
    for row in found["classes"].values():
        assert row["groups"] == 4
        known = binomtest(row["sensitivity"]["right"], 20).proportion_ci(0.95, "exact")
        width = row["sensitivity"]["high"] - row["sensitivity"]["low"]
        assert width > known.high - known.low


def test_patients_that_share_a_cell_are_counted_as_one_and_it_is_said(
    trained: Path, wbc_shift
) -> None:
    lab(12)
    for place, file in enumerate(sorted(Path("lab").rglob("*.png"))):
        slide = file.parent / f"slide{place % 4}"
        slide.mkdir(exist_ok=True)
        file.rename(slide / file.name)
    cell = CLASSES[0]
    first = next(Path("lab", cell, "slide0").iterdir())
    again = Path("lab", cell, "slide1", "again.png")
    with Image.open(first) as image:
        image.point(lambda value: min(value + 1, 255)).save(again)
    outcome = wbc_shift(*TEST, "--crop", "0.9")
    assert outcome.status == 0, outcome.err
    assert "note: 2 of 4 patients, slides or fields, as told, are counted as 1" in outcome.out
    assert "slide0, slide1" in outcome.out
    assert read_json(OUT / "certificate.json")["groups"] == 3


def test_photographs_of_one_cell_are_said_to_show_fewer_cells(trained: Path, wbc_shift) -> None:
    lab(12)
    first = next(Path("lab", CLASSES[0]).glob("*.png"))
    with Image.open(first) as image:
        image.point(lambda value: min(value + 1, 255)).save(first.with_name("again.png"))
    images = len(list(Path("lab").rglob("*.png")))
    outcome = wbc_shift(*TEST, "--crop", "0.9")
    assert f"{images} images of {images - 1} cells used" in outcome.out
    assert "note: 1 pair shows one cell: see" in outcome.out


def test_labels_come_from_a_csv_too(trained: Path, wbc_shift) -> None:
    lab()
    rows = [(f"{f.parent.name}/{f.name}", f.parent.name[:4]) for f in Path("lab").rglob("*.png")]
    for path, _ in rows:
        place = Path("flat") / Path(path).parent.name[::-1]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path("lab") / path, place)
    table = pd.DataFrame(rows, columns=["path", "label"])
    table["path"] = [f"{Path(p).parent.name[::-1]}/{Path(p).name}" for p in table["path"]]
    table.to_csv("labels.csv", index=False)
    asked = ("test", "flat", "--name", "our-scanner", "--run", RUN, "-p", "tiny")
    unknown = wbc_shift(*asked, "--labels", "labels.csv")
    assert (unknown.status, unknown.err.count("\n")) == (1, 1)
    assert "labels whose cell type is not known" in unknown.err
    maps = [part for name in CLASSES for part in ("--map", f"{name[:4]}={name}")]
    assert wbc_shift(*asked, "--labels", "labels.csv", *maps, "--crop", "0.9").status == 0
    assert read_json(OUT / "certificate.json")["images"] == 60


def test_images_of_the_source_test_nothing(trained: Path, wbc_shift) -> None:
    """Every published image of the set that the network was trained on is found by its hash."""
    lab()
    manifest = pd.read_csv("datasets/manifests/toy.csv").query("acquisition == 'a'")
    for path in manifest["path"][:7]:
        place = Path("lab", Path(path).parts[1])
        shutil.copy(Path("datasets/raw/toy") / path, place / f"known-{Path(path).name}")
    outcome = wbc_shift(*TEST, "--crop", "0.9")
    assert outcome.status == 0, outcome.err
    audit = pd.read_csv(OUT / "audit.csv")
    reasons = audit[audit["path"].str.contains("known-")]["because"]
    assert len(reasons) == 7
    assert reasons.str.contains("of toy-a, whose images the network was trained on").all()
    assert read_json(OUT / "certificate.json")["images"] == 60
    shutil.rmtree(OUT)
    for file in Path("lab").rglob("*.png"):
        if not file.name.startswith("known-"):
            file.unlink()
    line = refused(wbc_shift)
    assert "7 images are not used, the first, " in line
    assert "whose images the network was trained on: none of the others is of a class" in line


def test_a_place_that_cannot_be_written_is_told_before_a_network_is_read(
    trained: Path, wbc_shift, monkeypatch
) -> None:
    """Images were decoded and answered by four networks before it was."""
    lab()
    Path("a-file").write_text("")
    monkeypatch.delattr("benchmark.laboratory.networks.Network.of_run")
    outcome = wbc_shift(*TEST, "--out", "a-file/below")
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert "a-file" in outcome.err


def test_a_profile_without_a_run_of_it_is_refused_and_not_ignored(trained: Path, wbc_shift) -> None:
    lab()
    for asked in (
        ("test", "lab", "--name", "x"),
        ("predict", "lab"),
        ("export", "some-network", "--onnx", "x.onnx"),
        ("unlabelled-cells",),
    ):
        outcome = wbc_shift(*asked, "-p", "tiny")
        assert (outcome.status, outcome.err.count("\n")) == (1, 1)
        assert "no run is named" in outcome.err


def test_what_something_else_made_is_never_written_over(trained: Path, wbc_shift) -> None:
    lab()
    OUT.mkdir()
    (OUT / "thesis.txt").write_text("mine")
    outcome = wbc_shift(*TEST)
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert "our-scanner is there already, and no earlier test made it" in outcome.err
    assert [file.name for file in OUT.iterdir()] == ["thesis.txt"]
    assert wbc_shift(*TEST, "--out", "elsewhere").status == 0
    (Path("elsewhere") / "certificate.html").write_text("old")
    assert wbc_shift(*TEST, "--out", "elsewhere").status == 0, "its own it makes anew"
    assert (Path("elsewhere") / "certificate.html").read_text() != "old"
    assert (Path("elsewhere") / ".gitignore").read_text() == "*\n"


@pytest.mark.parametrize(
    ("name", "written"),
    [("certificate.json", []), ("certificate.html", ["audit.csv", "predictions.csv", "crop.html"])],
)
def test_what_a_full_disk_cut_short_can_be_done_again(
    trained: Path, wbc_shift, monkeypatch, name: str, written: list[str]
) -> None:
    """At whatever file it stops: the same command then finishes, and no old table stays beside new
    numbers."""
    lab()
    write = Path.write_text

    def full(path: Path, *arguments: Any, **named: Any) -> int:
        if path.name.startswith(f".{name}."):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, *arguments, **named)

    for crop in ("0.9", "0.5"):  # into an empty folder, and over what an earlier test wrote
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", full)
            outcome = wbc_shift(*TEST, "--crop", crop)
        assert (outcome.status, outcome.err.count("\n")) == (1, 1)
        assert f"disk full while writing our-scanner/{name}" in outcome.err
        there = {file.name for file in OUT.iterdir() if not file.name.endswith(".tmp")}
        assert there <= {"certificate.json", ".gitignore", *written}
        (OUT / f".{name}.abcdefgh.wbc-shift.tmp").write_text("of a test that was killed")
        assert wbc_shift(*TEST, "--crop", crop).status == 0
        assert read_json(OUT / "certificate.json")["crop"]["used"] == float(crop)
        assert (OUT / "certificate.html").exists()


def refused(wbc_shift, *arguments: str) -> str:
    """The one line of a test that is refused, and that left nothing."""
    outcome = wbc_shift(*(arguments or TEST))
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert not OUT.exists()
    return outcome.err


def test_what_cannot_be_tested_is_one_line(trained: Path, wbc_shift) -> None:
    assert "lab is no folder" in refused(wbc_shift)
    Path("lab").mkdir()
    assert "no image at all in it" in refused(wbc_shift)
    shutil.copy("new/0.png", "lab/0.png")
    shutil.copy("new/2.png", "lab/2.png")
    unlabelled = refused(wbc_shift)
    assert "lie in no folder of a cell type" in unlabelled
    assert "wbc-shift predict" in unlabelled
    shutil.rmtree("lab")
    lab(1)
    for cell in CLASSES[2:]:
        shutil.rmtree(f"lab/{cell}")
    assert "2 labelled images (1 neutrophil, 1 lymphocyte): no class has the 10" in refused(
        wbc_shift
    )
    shutil.rmtree("lab/lymphocyte")
    assert "all are 1 neutrophil: a test needs two classes or more" in refused(wbc_shift)
    Path("lab/Neutro").mkdir()
    shutil.copy("new/0.png", "lab/Neutro/0.png")
    assert "--map 'Neutro=neutrophil'" in refused(wbc_shift)
    name = refused(wbc_shift, "test", "lab", "--name", "../x", "--run", RUN, "-p", "tiny")
    assert "--name ../x: use small letters, digits and hyphens" in name
    long = refused(wbc_shift, "test", "lab", "--name", "a" * 300, "--run", RUN, "-p", "tiny")
    assert long.endswith("a: File name too long\n")


def test_fields_without_boxes_are_refused(trained: Path, wbc_shift) -> None:
    Path("lab").mkdir()
    shutil.copy("new/0.png", "lab/field.png")
    Path("lab/field.txt").write_text("0 0.5 0.5 0.1 0.1")
    Path("lab/two.png").write_bytes(Path("new/2.png").read_bytes())
    refused(wbc_shift)


def test_cells_of_fields_are_tested_by_field_and_nothing_of_them_stays(
    trained: Path, wbc_shift
) -> None:
    generator = np.random.default_rng(5)
    Path("lab").mkdir()
    Path("lab/classes.txt").write_text("\n".join(CLASSES))
    for number in range(12):
        field, lines = Image.new("RGB", (640, 200), (230, 210, 210)), []
        for label in range(len(CLASSES)):
            disc = Image.fromarray(draw_disc(label, 1.0, generator))
            field.paste(disc, (64 + 128 * label - disc.width // 2, 100 - disc.height // 2))
            lines.append(f"{label} {(64 + 128 * label) / 640} 0.5 {40 / 640} {40 / 200}")
        field.save(f"lab/{number}.png")
        Path(f"lab/{number}.txt").write_text("\n".join(lines))
    outcome = wbc_shift(*TEST)
    assert outcome.status == 0, outcome.err
    assert "our-scanner: 60 images used (12 neutrophil, 12 lymphocyte" in outcome.out
    assert "60 cells were cut of 12 fields (YOLO)" in outcome.out
    certificate = read_json(OUT / "certificate.json")
    assert certificate["by_group"]
    assert certificate["crop"]["start"] == 0.7
    table = pd.read_csv(OUT / "predictions.csv")
    assert table.groupby("field")["image"].count().tolist() == [5] * 12
    assert (table.groupby("field")["group"].nunique() == 1).all()
    assert (table[["box_y", "box_w", "box_h"]].round(3) == [80, 40, 40]).all(axis=None)
    assert not list(Path("datasets/cache").glob("cells-*"))


class Sees:
    """A network of which only what it sees matters."""

    classes = CLASSES
    image_size, framing_crop = 64, 1.0
    view = Network.view

    def __init__(self, share: float) -> None:
        self.ranges = [
            SourceRange("home", 100, 50, [0.0] * 6 + [share, 0.0], np.eye(8).tolist(), 3.0)
        ]


@pytest.fixture
def small_cells(tmp_path: Path) -> list[Path]:
    """Twelve images of a dark nucleus whose diameter is 0.2 of the side, in a pale field."""
    y, x = np.mgrid[:200, :200]
    files = []
    for number in range(12):
        noise = np.random.default_rng(number).normal(0, 2, (200, 200, 3))
        picture = np.full((200, 200, 3), 220.0) + noise
        picture[(y - 100) ** 2 + (x - 100) ** 2 < 20**2] = (80, 40, 120)
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(files[-1])
    return files


def chosen_for(files: list[Path], given: float | None, network: Sees) -> CropChoice:
    """The crop for files of one class."""
    table = pd.DataFrame({"class_name": ["neutrophil"] * len(files)})
    return choose_crop(LabelledCells(table, files, 0, "lab"), given, network)


def test_a_crop_that_the_nuclei_do_not_tell_is_said_to_be_unsure(small_cells, monkeypatch) -> None:
    assert not chosen_for(small_cells, None, Sees(0.2)).unsure  # 0.2 of the side, 0.28 of its 1.4th
    # What is measured is as large in every square: no nucleus, but something all over the picture.
    monkeypatch.setattr("benchmark.laboratory.crop.nucleus_share", lambda *asked: 0.2)
    chosen = chosen_for(small_cells, None, Sees(0.2))
    assert chosen.unsure
    assert "their size is not known: say --crop" in str(chosen)
    assert not chosen_for(small_cells, 0.8, Sees(0.2)).unsure


def test_a_verdict_in_a_crop_that_may_be_wrong_says_so(
    trained: Path, wbc_shift, monkeypatch
) -> None:
    lab()
    monkeypatch.setattr("benchmark.laboratory.crop.nucleus_share", lambda *asked: 0.4)
    assert "whether the crop is right is not known" in wbc_shift(*TEST).out.lower()
    told = read_json(OUT / "certificate.json")["verdict"]
    assert told["headline"].endswith(", in a crop that may be wrong")
    assert "in a crop that may be wrong" in (OUT / "certificate.html").read_text()
    assert "not known" not in wbc_shift(*TEST, "--crop", "1").out


def test_a_crop_is_chosen_where_nuclei_are_far_from_the_sources_size(small_cells) -> None:
    chosen = chosen_for(small_cells, None, Sees(0.4))
    assert chosen.automatic
    assert chosen.used == pytest.approx(0.5, abs=0.08)  # 0.2 of the whole is 0.4 of its half
    assert chosen.nucleus[0] == pytest.approx(0.2, abs=0.03)
    assert chosen.nucleus[1] == pytest.approx(0.4, rel=0.15)
    assert "chosen by the size of the nucleus" in str(chosen)


def test_a_crop_that_is_given_is_kept_and_the_better_one_proposed(small_cells) -> None:
    chosen = chosen_for(small_cells, 1.0, Sees(0.4))
    assert (chosen.used, chosen.automatic) == (1.0, False)
    assert chosen.proposed == pytest.approx(0.5, abs=0.08)
    assert f"--crop {chosen.proposed:.2f} would show them alike" in str(chosen)


def test_a_crop_that_differs_little_is_proposed_and_not_taken(small_cells) -> None:
    chosen = chosen_for(small_cells, None, Sees(0.25))
    assert chosen.used == 1.0
    assert chosen.proposed == pytest.approx(0.8, abs=0.1)
    alike = chosen_for(small_cells, None, Sees(0.2))
    assert (alike.used, alike.proposed) == (1.0, None)


def test_cells_larger_than_any_crop_shows_them_are_left_as_they_are(small_cells) -> None:
    chosen = chosen_for(small_cells, None, Sees(0.05))
    assert (chosen.used, chosen.proposed) == (1.0, None)


def test_appearance_and_crop_sheet_show_what_is_used(certificate: dict) -> None:
    sheet = (OUT / "crop.html").read_text()
    assert sheet.count("as given") >= 10
    assert "secret" not in sheet
    assert certificate["crop"]["used"] == 0.9
    files = sorted(Path("lab").rglob("patient-secret-*.png"))
    facts = appearance(decode_all(files, 0.9, 48, "lab"))
    assert certificate["appearance"]["images"] == 62
    assert certificate["appearance"]["without_nucleus"] >= np.isnan(facts).any(axis=1).sum()
    json.loads((OUT / "certificate.json").read_text(), parse_constant=pytest.fail)


def test_without_a_browser_it_is_said_how_to_print(trained: Path, wbc_shift) -> None:
    lab()
    outcome = wbc_shift(*TEST, "--crop", "0.9")
    assert "no PDF: " in outcome.out
    assert "open our-scanner/certificate.html in a browser and print it" in outcome.out
    assert not (OUT / "certificate.pdf").exists()


@pytest.mark.parametrize("length", [1, 60])
def test_it_prints_on_one_sheet(trained: Path, wbc_shift, monkeypatch, length: int) -> None:
    """On A4 as it is kept, and on Letter; with the longest name too, and groups."""
    if not any(map(shutil.which, BROWSERS)):
        pytest.skip(f"no browser is installed ({', '.join(BROWSERS)})")
    monkeypatch.setattr("benchmark.laboratory.printing.BROWSERS", BROWSERS)
    lab(20)
    shutil.copy("lab/monocyte/patient-secret-0.png", "lab/monocyte/copy.png")
    outcome = wbc_shift(*TEST[:3], "a" * length, *TEST[4:], "--out", "out", "--crop", "0.9")
    assert "wrote out/certificate.pdf" in outcome.out
    pdf = Path("out/certificate.pdf").read_bytes()
    assert pages(pdf) == 1
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        path = next(filter(None, map(shutil.which, BROWSERS)))
        browser = driver.chromium.launch(executable_path=path)
        page = browser.new_page(viewport={"width": 390, "height": 844})
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(Path("out/certificate.html").absolute().as_uri())
        assert pages(page.pdf(format="Letter", prefer_css_page_size=False)) == 1
        assert page.evaluate("document.documentElement.scrollWidth") == 390, "a phone's width"
        assert len(asked) == 1, "it asks for nothing"
        browser.close()


def pages(pdf: bytes) -> int:
    """Pages of a PDF."""
    return len(re.findall(rb"/Type\s*/Page\b(?!s)", pdf))


def test_without_a_run_it_is_of_the_recommended_network_and_the_others_stand_beside(
    trained: Path, wbc_shift
) -> None:
    focal = RUN.replace("-ce/", "-focal/")
    for run, name in ((RUN, "plain"), (focal, "focal")):
        outcome = wbc_shift("networks", "add", run, "--name", name, "-p", "tiny")
        assert outcome.status == 0, outcome.err
    lab()
    outcome = wbc_shift("test", "lab", "--name", "our-scanner", "--crop", "0.9")
    assert outcome.status == 0, outcome.err
    found = read_json(OUT / "certificate.json")
    (other,) = found["other_networks"]
    assert {found["network"]["name"], other["name"]} == {"plain", "focal"}
    file = Path("results/networks") / found["network"]["name"] / "network.safetensors"
    assert found["network"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    page = (OUT / "certificate.html").read_text()
    assert found["network"]["sha256"] in page
    assert "Other networks on the same images" in page
    asked = ("test", "lab", "--name", "our-scanner", "--crop", "0.9", "--network", other["name"])
    assert wbc_shift(*asked).status == 0
    swapped = read_json(OUT / "certificate.json")
    assert swapped["confusion"] == other["numbers"]["confusion"]
    assert swapped["other_networks"][0]["numbers"]["confusion"] == found["confusion"]
    both = wbc_shift(*asked, "--run", RUN, "-p", "tiny")
    assert (both.status, both.err) == (1, "error: give --network or --run, not both\n")


def test_a_network_is_not_compared_on_images_of_its_own_source(trained: Path) -> None:
    lab()
    network = Network.of_run(Path(), "tiny", RUN, CLASSES)
    manifest = pd.read_csv("datasets/manifests/toy.csv")
    chosen = manifest.groupby("acquisition").head(3).groupby("acquisition")["sha256"]
    for domain, known in (("a", 3), ("b", 0)):
        files = sorted(Path("lab").rglob("*.png"))
        images = pd.DataFrame(
            {
                "class_name": [file.parent.name for file in files],
                "group": [str(file) for file in files],
                "sha256": [*chosen.get_group(domain), *[""] * (len(files) - 3)],
            }
        )
        found = beside(Path(), network, LabelledCells(images, files, 0, "lab"), 0.9, 0.9)
        assert found["images_of_its_source"] == known
        assert (found["numbers"] is None) == (known > 0)


def test_cells_of_fields_are_cut_around_their_boxes(trained: Path, wbc_shift) -> None:
    """Pascal VOC: two cells in a field, and a box without area, which is counted and named."""
    Path("lab").mkdir()
    generator = np.random.default_rng(3)
    for number in range(30):
        field = np.full((120, 240, 3), 180, np.uint8)
        objects = ""
        for place in range(2):
            label = (number + place) % 3
            left = 32 + 112 * place
            field[32:88, left : left + 56] = draw_disc(label, 1.0, generator)
            edges = {"xmin": left + 8, "ymin": 40, "xmax": left + 48, "ymax": 80}
            if (number, place) == (7, 1):
                edges["xmax"] = edges["xmin"]
            box = "".join(f"<{edge}>{value}</{edge}>" for edge, value in edges.items())
            objects += f"<object><name>{CLASSES[label]}</name><bndbox>{box}</bndbox></object>"
        Image.fromarray(field).save(f"lab/field{number}.png")
        Path(f"lab/field{number}.xml").write_text(
            f"<annotation><filename>field{number}.png</filename><size><width>240</width>"
            f"<height>120</height><depth>3</depth></size>{objects}</annotation>"
        )
    before = project_files()
    outcome = wbc_shift(*TEST)
    assert outcome.status == 0, outcome.err
    assert project_files() == before
    assert list(Path("datasets/cache").glob("cells-*")) == [], "what was cut is removed"
    found, table = read_json(OUT / "certificate.json"), pd.read_csv(OUT / "predictions.csv")
    assert found["images"] == len(table) == 59
    assert found["files"]["left out"] == 1
    assert pd.read_csv(OUT / "audit.csv")["path"].tolist().count("field7.png") >= 1
    assert found["by_group"], "the cells of a field are one group"
    assert table.groupby("field").size().max() == 2
    assert set(table[["box_w", "box_h"]].to_numpy().ravel()) == {40}
    crop = found["crop"]
    assert (crop["given"], crop["start"]) == (None, 0.7)
    assert "field" not in json.dumps(found["crop"])
