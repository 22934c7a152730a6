"""The audit as a gate: what it refuses, what it lets pass, and how a find becomes a known case."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import edit
from PIL import Image, ImageEnhance, ImageOps

from benchmark.audit.checks import Audit, check_sides, csv_line
from benchmark.audit.equal_files import equal_files
from benchmark.audit.images import VERSION, Look, look_at
from benchmark.audit.pairs import UNREVIEWED, check_pairs
from benchmark.data.cards import load_cards
from benchmark.data.split import read_split
from benchmark.files import sha256_file
from benchmark.settings import load_params

REPOSITORY = Path(__file__).parents[1]
RAW = Path("datasets/raw/toy")
MANIFEST = Path("datasets/manifests/toy.csv")


def record() -> dict:
    """What the last audit of the toy profile wrote."""
    return json.loads(Path("results/tiny/audit.json").read_text())


def checks(kind: str) -> set[str]:
    """Names of the checks that found something."""
    return {finding["check"] for finding in record()[kind]}


def put(path: str, image: Image.Image, **options: object) -> None:
    """Replace an image of the toy set, and its line in the manifest, as if it were published so."""
    image.save(RAW / path, **options)
    table = pd.read_csv(MANIFEST, dtype=str)
    row = table["path"] == path
    table.loc[row, "sha256"] = sha256_file(RAW / path)
    table.loc[row, ["width", "height"]] = [str(side) for side in image.size]
    table.to_csv(MANIFEST, index=False)


def picture(path: str) -> Image.Image:
    """An image of the toy set."""
    return Image.open(RAW / path).convert("RGB")


def two_of_parts(first: str, second: str, label: str = "neutrophil") -> tuple[str, str]:
    """An image of each of two parts of the toy split."""
    split = read_split(Path("datasets"), "toy-a")
    split = split[split["label"] == label]
    return tuple(split.loc[split["part"] == part, "path"].iloc[0] for part in (first, second))


def accept_findings(kind: str) -> None:
    """Add the lines that the record gives for its findings."""
    for finding in record()[kind]:
        for mend in finding["mend"]:
            with Path(mend["file"]).open("a") as file:
                file.write(mend["line"] + "\n")


def test_clean_data_passes_and_the_record_holds_no_picture(prepared, wbc_shift) -> None:
    outcome = wbc_shift("audit", "-p", "tiny")
    assert outcome.status == 0, outcome.err
    found = record()
    assert (found["verdict"], found["failures"], found["warnings"]) == ("passed", [], [])
    assert found["domains"]["toy-a"]["images"] == 100
    assert sum(found["domains"]["toy-a"]["parts"].values()) == 100
    assert "base64" not in Path("results/tiny/audit.json").read_text()
    page = Path("results/tiny/audit.html").read_text()
    assert "data:image/jpeg;base64" in page
    assert "http" not in page, "the page needs no network"


def test_a_second_audit_writes_the_same_record(prepared, wbc_shift) -> None:
    wbc_shift("audit", "-p", "tiny")
    first = Path("results/tiny/audit.json").read_bytes()
    wbc_shift("audit", "-p", "tiny")
    assert Path("results/tiny/audit.json").read_bytes() == first


def test_a_turned_and_recompressed_copy_in_another_part_fails(prepared, wbc_shift) -> None:
    train, test = two_of_parts("train", "id_test")
    put(test, ImageOps.mirror(picture(train)).rotate(90), quality=70)
    outcome = wbc_shift("audit", "-p", "tiny")
    assert outcome.status == 1
    assert outcome.err.count("\n") == 1
    assert "toy-a: one cell in" in outcome.err
    (failure,) = record()["failures"]
    assert failure["check"] == "across parts"
    assert {path for _, path in failure["images"]} == {train, test}
    assert failure["similarity"] > 0.8


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(ImageOps.mirror, id="flipped"),
        pytest.param(lambda image: image.rotate(270), id="rotated"),
        pytest.param(lambda image: image, id="compressed again"),
        pytest.param(lambda image: image.resize((90, 90)), id="resized"),
        pytest.param(lambda image: ImageEnhance.Brightness(image).enhance(1.2), id="brighter"),
    ],
)
def test_a_planted_copy_of_a_training_image_is_found_however_it_was_changed(
    prepared, wbc_shift, change
) -> None:
    train, test = two_of_parts("train", "id_test", "eosinophil")
    put(test, change(picture(train)), quality=75)
    assert wbc_shift("audit", "-p", "tiny").status == 1
    (failure,) = record()["failures"]
    assert {path for _, path in failure["images"]} == {train, test}


def test_a_copy_in_a_target_domain_fails_and_passes_once_it_is_excluded(
    prepared, wbc_shift
) -> None:
    source, target = "a/monocyte/slide0_0.jpg", "b/monocyte/slide3_0.jpg"
    put(target, picture(source), quality=60)
    assert wbc_shift("audit", "-p", "tiny").status == 1
    assert checks("failures") == {"across domains"}
    accept_findings("failures")
    assert wbc_shift("audit", "-p", "tiny").status == 0
    assert "excluded" in checks("known")


def test_a_copy_of_a_training_image_among_cells_of_no_class_is_found(prepared, wbc_shift) -> None:
    source, foreign = "a/monocyte/slide0_0.jpg", "b/monocyte/slide3_0.jpg"
    put(foreign, picture(source), quality=90)
    table = pd.read_csv(MANIFEST, dtype=str)
    table.loc[table["path"] == foreign, "label"] = "blast"
    table.to_csv(MANIFEST, index=False)
    edit(Path("datasets/toy.yaml"), ", artefact: null", ", artefact: null, blast: near")
    assert wbc_shift("audit", "-p", "tiny").status == 1
    (found,) = (f for f in record()["failures"] if f["check"] == "conflicting labels")
    assert {path for _, path in found["images"]} == {source, foreign}
    assert record()["domains"]["toy-b.open_set"]["images"] == 1


def test_one_cell_in_two_groups_of_one_domain_is_a_warning_until_its_line_is_added(
    prepared, wbc_shift
) -> None:
    put("b/monocyte/slide5_0.jpg", ImageOps.flip(picture("b/monocyte/slide3_0.jpg")), quality=80)
    outcome = wbc_shift("audit", "-p", "tiny")
    assert outcome.status == 0
    assert "slide3_0.jpg and b/monocyte/slide5_0.jpg" in outcome.out
    (warning,) = record()["warnings"]
    assert warning["mend"][0]["file"] == "datasets/same_cells.csv"
    accept_findings("warnings")
    assert wbc_shift("audit", "-p", "tiny").status == 0
    found = record()
    assert (found["warnings"], found["pairs_kept_together_by_their_group"]) == ([], 1)
    assert "same cell" in checks("known")


def test_the_record_tells_how_many_flagged_pairs_review_confirms(prepared, wbc_shift) -> None:
    def pairs() -> list:
        wbc_shift("audit", "-p", "tiny")
        found = record()["pairs"]
        return [found[key] for key in ("flagged", "one_cell", "two_cells", "unreviewed")]

    put("b/monocyte/slide5_0.jpg", ImageOps.flip(picture("b/monocyte/slide3_0.jpg")), quality=80)
    put("b/lymphocyte/slide5_0.jpg", picture("b/lymphocyte/slide3_0.jpg"), quality=80)
    put("b/basophil/slide3_0.jpg", picture("a/basophil/slide0_0.jpg"), quality=60)
    assert pairs() == [3, 0, 0, 3]
    assert record()["pairs"]["precision"] is None
    # An image taken out is not read, whether its file is still here or not.
    accept_findings("failures")
    assert pairs() == [2, 0, 0, 2]
    (monocytes,) = (
        mend["line"]
        for finding in record()["warnings"]
        for mend in finding["mend"]
        if "monocyte" in mend["line"]
    )
    with Path("datasets/same_cells.csv").open("a") as file:
        file.write(monocytes + "\n")
    Path("datasets/different_cells.csv").write_text(
        "dataset,path,other_dataset,other,finder\n"
        "toy,b/lymphocyte/slide3_0.jpg,toy,b/lymphocyte/slide5_0.jpg,a reader\n"
    )
    assert pairs() == [2, 1, 1, 0]
    assert record()["warnings"] == []
    assert record()["pairs"]["precision"] == 0.5
    # Wilson's interval by hand: z = 1.96, (p + z²/2n ± z √(p q / n + z²/4n²)) / (1 + z²/n).
    assert record()["pairs"]["precision_95"] == pytest.approx([0.0945, 0.9055], abs=2e-4)
    assert "Precision 0.500 (n = 2" in Path("results/tiny/audit.html").read_text()


def test_a_pair_of_two_domains_that_review_calls_two_cells_fails_no_more(
    prepared, wbc_shift
) -> None:
    put("b/monocyte/slide3_0.jpg", picture("a/monocyte/slide0_0.jpg"), quality=60)
    Path("datasets/different_cells.csv").write_text(
        "dataset,path,other_dataset,other,finder\n"
        "toy,b/monocyte/slide3_0.jpg,toy,a/monocyte/slide0_0.jpg,a reader\n"
    )
    assert wbc_shift("audit", "-p", "tiny").status == 0


def test_a_pair_inside_one_group_is_shown_until_somebody_has_looked_at_it(
    prepared, wbc_shift
) -> None:
    put("b/monocyte/slide3_1.jpg", picture("b/monocyte/slide3_0.jpg"), quality=60)
    wbc_shift("audit", "-p", "tiny")
    assert (record()["warnings"], len(record()["unreviewed_in_one_group"])) == ([], 1)
    accept_findings("unreviewed_in_one_group")
    wbc_shift("audit", "-p", "tiny")
    found = record()
    assert (found["unreviewed_in_one_group"], found["pairs"]["one_cell"]) == ([], 1)


def test_equal_files_with_two_labels_fail_and_name_the_lines_that_mend_it(
    prepared, wbc_shift
) -> None:
    first, second = "b/monocyte/slide3_0.jpg", "b/basophil/slide3_0.jpg"
    (RAW / second).write_bytes((RAW / first).read_bytes())
    table = pd.read_csv(MANIFEST, dtype=str)
    table.loc[table["path"] == second, "sha256"] = sha256_file(RAW / first)
    table.to_csv(MANIFEST, index=False)
    assert wbc_shift("audit", "-p", "tiny").status == 1
    assert checks("failures") == {"conflicting labels"}
    accept_findings("failures")
    assert wbc_shift("audit", "-p", "tiny").status == 0


@pytest.mark.parametrize(
    ("image", "fault"),
    [
        (Image.new("RGB", (56, 56), "white"), "is blank"),
        (Image.new("RGB", (56, 56), (3, 3, 3)), "is black"),
        (Image.new("RGB", (1, 1), "red"), "is blank"),
    ],
)
def test_an_image_that_shows_nothing_fails(prepared, wbc_shift, image, fault) -> None:
    put("b/monocyte/slide3_0.jpg", image)
    assert wbc_shift("audit", "-p", "tiny").status == 1
    (failure,) = record()["failures"]
    assert failure["text"] == f"toy-b: b/monocyte/slide3_0.jpg {fault}"


def test_a_truncated_image_fails_and_does_not_hide_other_faults(prepared, wbc_shift) -> None:
    file = RAW / "b/monocyte/slide3_0.jpg"
    file.write_bytes(file.read_bytes()[:400])
    put("b/monocyte/slide4_0.jpg", Image.new("RGB", (56, 56), "white"))
    outcome = wbc_shift("audit", "-p", "tiny")
    assert outcome.status == 1
    assert "(2 faults in all)" in outcome.err
    assert {finding["check"] for finding in record()["failures"]} == {"file"}


def test_an_image_of_another_size_or_content_than_the_manifest_says_fails(
    prepared, wbc_shift
) -> None:
    path = "b/monocyte/slide3_0.jpg"
    edited = picture(path).resize((60, 56))
    edited.save(RAW / path)
    wbc_shift("audit", "-p", "tiny")
    assert "is not the published file" in record()["failures"][0]["text"]
    put(path, edited)
    table = pd.read_csv(MANIFEST, dtype=str)
    table.loc[table["path"] == path, ["width", "height"]] = ["56", "56"]
    table.to_csv(MANIFEST, index=False)
    wbc_shift("audit", "-p", "tiny")
    assert "has 60 x 56 px where the manifest says 56 x 56" in record()["failures"][0]["text"]


def test_a_group_cut_by_the_split_fails(prepared, wbc_shift) -> None:
    path = Path("datasets/splits/toy-a.csv")
    split = pd.read_csv(path)
    rows = split.index[split["group"] == "a0"]
    split.loc[rows, "part"] = "train"
    split.loc[rows[0], "part"] = "id_test"
    split.to_csv(path, index=False)
    assert wbc_shift("audit", "-p", "tiny").status == 1
    assert (
        record()["failures"][0]["text"]
        == "datasets/splits/toy-a.csv: group 'a0' is cut by the split"
    )


def test_an_image_that_the_split_does_not_know_fails(prepared, wbc_shift) -> None:
    path = Path("datasets/splits/toy-a.csv")
    pd.read_csv(path).iloc[1:].to_csv(path, index=False)
    assert wbc_shift("audit", "-p", "tiny").status == 1
    assert "split" in checks("failures")


def test_counts_that_differ_from_the_card_fail(prepared, wbc_shift) -> None:
    card = Path("datasets/toy.yaml")
    card.write_text(card.read_text() + "images: 201\ncounts_source: counted\n")
    assert wbc_shift("audit", "-p", "tiny").status == 1
    assert record()["failures"][0]["text"] == "toy: 200 images, 201 published"


def test_missing_images_are_told_before_anything_is_done(prepared, wbc_shift) -> None:
    (RAW / "b/monocyte/slide3_0.jpg").unlink()
    outcome = wbc_shift("audit", "-p", "tiny")
    assert outcome.status == 1
    assert "run `wbc-shift fetch -p tiny`" in outcome.err
    assert not Path("results/tiny/audit.json").exists()


def two_sets(root: Path, family: str | None) -> tuple:
    """The toy profile with its two domains in two sets, which share cells if given a family."""
    params, cards = load_params(root / "params.yaml"), load_cards(root / "datasets")
    toy = cards["toy"]
    one = toy.model_copy(update={"domains": {"toy-a": toy.domains["toy-a"]}, "family": family})
    other = toy.model_copy(
        update={"name": "copy", "domains": {"toy-b": toy.domains["toy-b"]}, "family": family}
    )
    images = pd.DataFrame(
        {"domain": ["toy-a", "toy-b"], "path": ["x", "y"], "group": ["slide", "slide"]}
    )
    return params.profile("tiny"), {"toy": one, "copy": other}, images


def test_sets_of_one_family_never_stand_on_two_sides(prepared) -> None:
    profile, cards, images = two_sets(prepared, "discs")
    (finding,) = check_sides(profile, cards, images)
    assert "toy-a and toy-b show the same cells" in finding.text
    profile, cards, images = two_sets(prepared, None)
    assert check_sides(profile, cards, images) == []


def test_each_of_several_sources_is_compared_with_the_targets(prepared) -> None:
    profile, cards, images = two_sets(prepared, "discs")
    third = cards["toy"].model_copy(
        update={
            "name": "third",
            "family": "discs",
            "domains": {"toy-c": cards["copy"].domains["toy-b"]},
        }
    )
    first = profile.experiments["first"].model_copy(update={"scenarios": ["toy-a+toy-b->toy-c"]})
    profile = profile.model_copy(
        update={"domains": ["toy-a", "toy-b", "toy-c"], "experiments": {"first": first}}
    )
    found = check_sides(profile, cards | {"third": third}, images)
    assert [finding.text.split(" show ")[0] for finding in found] == [
        "toy-a+toy-b->toy-c: toy-a and toy-c",
        "toy-a+toy-b->toy-c: toy-b and toy-c",
    ]


def test_domains_of_one_set_never_share_a_group(prepared) -> None:
    params, cards = load_params(prepared / "params.yaml"), load_cards(prepared / "datasets")
    images = two_sets(prepared, None)[2]
    (finding,) = check_sides(params.profile("tiny"), cards, images)
    assert "group 'slide' is in toy-a and in toy-b" in finding.text


def test_the_manifest_of_pbc_alone_names_its_equal_files_the_conflict_first(
    monkeypatch, wbc_shift
) -> None:
    monkeypatch.chdir(REPOSITORY)
    outcome = wbc_shift("audit", "--manifest", "datasets/manifests/pbc.csv")
    assert outcome.status == 0
    title, first, *others = outcome.out.splitlines()
    assert title.endswith("17092 images, 17 pairs of equal files")
    assert "conflicting labels" in first
    assert {"neutrophil/BNE_191112.jpg", "eosinophil/EO_225902.jpg"} <= set(first.split())
    assert len(others) == 16
    assert all(line.startswith("  equal: ") for line in others)


def test_conflicting_labels_of_a_manifest_fail_unless_both_images_are_excluded() -> None:
    table = pd.DataFrame(
        {"path": ["x", "y", "z"], "label": ["one", "two", "one"], "sha256": ["1", "1", "2"]}
    )
    (pair,) = equal_files(table, {"x": "doubtful"})
    assert (pair.conflicting, pair.resolved) == (True, False)
    (pair,) = equal_files(table, {"x": "doubtful", "y": "doubtful"})
    assert pair.resolved
    (same,) = equal_files(table.assign(label="one"), {"x": "a copy"})
    assert (same.conflicting, same.resolved) == (False, True)


def test_a_line_to_add_is_quoted_where_a_reason_holds_a_comma() -> None:
    fields = ["toy", "a.jpg", 'the same as "b.jpg", labelled two', "me"]
    assert next(csv.reader([csv_line(*fields)])) == fields


def test_images_are_decoded_once_and_seen_anew_when_they_change(tmp_path: Path) -> None:
    file, cache = tmp_path / "image.png", tmp_path / "cache"
    noise = np.random.default_rng(0).integers(0, 255, (80, 100, 3), np.uint8)
    Image.fromarray(noise).save(file)
    (first,) = look_at([file], cache)
    assert (first.width, first.height, first.fault) == (100, 80, None)
    (again,) = look_at([file], cache)
    np.testing.assert_array_equal(again.miniature, first.miniature)
    assert replace(again, miniature=None) == replace(first, miniature=None)
    file.write_bytes(file.read_bytes()[:200])
    assert look_at([file], cache)[0].fault.startswith("cannot be decoded")
    (cache / f"miniatures-{VERSION}.parquet").write_bytes(b"broken")
    Image.fromarray(noise[::-1]).save(file)
    assert look_at([file], cache)[0].sha256 == sha256_file(file)


def test_a_file_that_is_gone_is_a_fault(tmp_path: Path) -> None:
    assert look_at([tmp_path / "none.png"], tmp_path)[0].fault == "is missing"


def test_a_copy_in_a_domain_that_no_scenario_shares_is_only_a_warning(prepared, wbc_shift) -> None:
    edit(Path("params.yaml"), 'scenarios: ["toy-a->*"]', 'scenarios: ["toy-a->corruptions"]')
    put("b/monocyte/slide3_0.jpg", picture("a/monocyte/slide0_0.jpg"), quality=60)
    outcome = wbc_shift("audit", "-p", "tiny")
    assert outcome.status == 0
    assert len(record()["warnings"]) == 1


@pytest.mark.parametrize(
    ("similarity", "classes", "failures", "warnings"),
    [
        (0.8, ("monocyte", "neutrophil"), [], ["conflicting labels"]),
        (0.98, ("monocyte", "neutrophil"), ["conflicting labels", "across domains"], []),
        (0.8, ("monocyte", "monocyte"), ["across domains"], []),
    ],
)
def test_c8_cells_of_two_laboratories_with_two_labels_are_one_only_if_copied(
    similarity: float, classes: tuple[str, str], failures: list[str], warnings: list[str]
) -> None:
    """The domains meet in a scenario, in which a cell of both would be a leak."""

    class Meeting:
        joining = staticmethod(lambda domain, other: ["a->*"])

    rows = [
        {"dataset": d, "domain": d, "path": f"{d}.png", "group": d, "class_name": c, "part": ""}
        for d, c in zip("ab", classes, strict=True)
    ]
    pair = {"first": 0, "second": 1, "similarity": similarity, "view": 0, "verdict": UNREVIEWED}
    judged = Audit()
    check_pairs(judged, Meeting(), pd.DataFrame(rows), [Look("1"), Look("2")], pd.DataFrame([pair]))
    assert [finding.check for finding in judged.failures] == failures
    assert [finding.check for finding in judged.warnings] == warnings


def test_cells_declared_to_be_shown_again_are_counted_and_not_searched_unless_trained_on(
    prepared, wbc_shift
) -> None:
    """26 domains of the same drawn cells are 49,000 pairs by design; a training image is none."""
    table = pd.read_csv(MANIFEST, dtype=str)
    targets = table[table["path"].str.startswith("b/")]["path"].tolist()
    trained = table[table["path"].str.startswith("a/")]["path"].iloc[0]
    one, other = targets[:2]
    put(other, picture(one))
    again = pd.read_csv(MANIFEST, dtype=str).assign(cell="")
    again.loc[again["path"].isin([one, other, trained]), "cell"] = "a cell"
    again.to_csv(MANIFEST, index=False)
    assert wbc_shift("audit", "-p", "tiny").status == 0
    found = [f["text"] for f in record()["known"] if f["check"] == "declared cells"]
    assert found == [
        "toy: 1 cells are declared to be shown again in 1 domains, none of them trained on: "
        "1 images are passed over in the search for pairs"
    ]
    assert record()["pairs"]["flagged"] == 0

    put(one, picture(trained))
    done = wbc_shift("audit", "-p", "tiny")
    assert done.status == 1
    assert "across domains" in checks("failures")
