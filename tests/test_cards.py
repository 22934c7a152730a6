"""Dataset cards and manifests: the published facts, the traps, and what bad input says."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmark.data.cards import (
    Card,
    card_of,
    domain_images,
    load_cards,
    load_label_spaces,
    read_manifest,
)
from benchmark.errors import UserError

DATASETS = Path(__file__).parents[1] / "datasets"
PUBLISHED = ("raabin", "pbc", "bccd", "jtsc", "cellavision")
WBC5 = ["neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil"]


@pytest.fixture(scope="module")
def cards() -> dict[str, Card]:
    return load_cards(DATASETS)


@pytest.fixture(scope="module")
def manifests(cards) -> dict[str, pd.DataFrame]:
    return {name: read_manifest(DATASETS, cards[name]) for name in PUBLISHED}


def counts(cards, domain: str, subset: str = "all") -> dict[str, int]:
    images = domain_images(DATASETS, card_of(cards, domain), domain, "wbc5", subset)
    return images["class_name"].value_counts().to_dict()


# ------------------------------------------------------------------ the cards of this repository


def test_every_published_set_has_a_card(cards):
    assert set(PUBLISHED) <= set(cards)


def test_the_logits_of_wbc5_have_this_order():
    assert load_label_spaces(DATASETS)["wbc5"] == WBC5


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_card_maps_exactly_the_labels_of_its_manifest(cards, manifests, name):
    assert set(cards[name].labels["wbc5"]) == set(manifests[name]["label"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_image_is_identified_and_belongs_to_exactly_one_domain(cards, manifests, name):
    table = manifests[name]
    assert table["sha256"].str.fullmatch("[0-9a-f]{64}").all()
    assert (table["bytes"].astype(int) > 0).all()
    domains = pd.Series(0, index=table.index)
    for domain in cards[name].domains.values():
        member = pd.Series(True, index=table.index)
        for column, value in domain.select.items():
            member &= table[column] == value
        domains += member
    assert (domains == 1).all()


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_card_can_be_cited_fetched_and_placed_by_hand(cards, manifests, name):
    card = cards[name]
    assert f"{{{card.citation.key}," in card.citation.bibtex
    assert card.citation.bibtex.count("{") == card.citation.bibtex.count("}")
    assert len(card.addresses) >= 2
    for address in card.addresses:
        assert address.startswith("https://")
        assert address.endswith("/")
    example = card.by_hand.removesuffix(".").rsplit("holds ", 1)[1]
    assert example in set(manifests[name]["path"]), "by_hand names an image of the manifest"


def test_images_are_never_promised_to_be_free_where_the_terms_are_unknown(cards):
    redistribution = {name: cards[name].licence.redistribution for name in PUBLISHED}
    assert redistribution == {
        "raabin": "unknown",
        "pbc": "allowed",
        "bccd": "allowed",
        "jtsc": "allowed",
        "cellavision": "unknown",
    }


# ------------------------------------------------------------------ published facts and traps


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("raabin", [6231, 2427, 561, 744, 212]),
        ("pbc-366", [50, 50, 50, 50, 50]),
        ("bccd", [207, 33, 20, 88, 3]),
        ("jtsc", [176, 52, 48, 22, 1]),  # without the second copy of one lymphocyte
        ("cellavision", [33, 37, 15, 12, 3]),
    ],
)
def test_a_domain_has_the_published_number_of_images_per_class(cards, domain, expected):
    assert counts(cards, domain) == dict(zip(WBC5, expected, strict=True))


def test_the_core_subset_is_what_the_mirror_holds(cards):
    sizes = {name: len(read_manifest(DATASETS, cards[name], "core")) for name in PUBLISHED}
    assert sizes == {"raabin": 2717, "pbc": 3250, "bccd": 351, "jtsc": 299, "cellavision": 100}
    assert counts(cards, "pbc-main", "core") == dict.fromkeys(WBC5, 500)
    assert counts(cards, "raabin", "core") == dict(
        zip(WBC5, [600, 600, 561, 744, 212], strict=True)
    )


def test_raabin_has_58_smear_names_before_the_underscore_of_its_files_on_53_slides(manifests):
    raabin = manifests["raabin"]
    assert len(raabin) == 10_175
    assert raabin["path"].str.extract(r"/([^/_]+)_[^/]*$")[0].nunique() == 58
    assert raabin["group"].nunique() == 53


def test_raabin_basophils_and_nothing_else_come_from_the_captures_of_2019(manifests):
    raabin = manifests["raabin"]
    assert ((raabin["label"] == "Basophil") == raabin["group"].str.startswith("2019")).all()


def test_a_raabin_smear_of_eosinophils_only_is_known(manifests):
    raabin = manifests["raabin"]
    smear = raabin.loc[raabin["group"] == "95-8-27-1", "label"]
    assert smear.value_counts().to_dict() == {"Eosinophil": 380}


def test_pbc_prefixes_count_as_published():
    table = pd.read_csv(DATASETS / "manifests/pbc.csv", dtype=str, keep_default_na=False)
    prefix = table["path"].str.extract(r"/([A-Z]+)_")[0]
    assert len(table) == 17_092
    assert (prefix == table["fine_label"]).all()
    assert prefix.value_counts().to_dict() == {
        "SNE": 1646,
        "BNE": 1633,
        "NEUTROPHIL": 50,
        "EO": 3117,
        "BA": 1218,
        "LY": 1214,
        "MO": 1420,
        "MY": 1137,
        "MMY": 1015,
        "PMY": 592,
        "IG": 151,
        "ERB": 1551,
        "PLATELET": 2348,
    }


def test_the_three_acquisitions_of_pbc_are_told_apart_by_image_size(manifests):
    pbc = manifests["pbc"]
    size = pbc["width"] + "x" + pbc["height"]
    assert set(size[pbc["acquisition"] == "main"]) == {"360x363"}
    assert set(size[pbc["acquisition"] == "366"]) == {"366x369"}
    other = pbc["acquisition"] == "other"
    assert not set(size[other]) & {"360x363", "366x369"}
    assert pbc.loc[other, "fine_label"].value_counts().to_dict() == {"IG": 151, "ERB": 52}
    assert (pbc["acquisition"] == "366").sum() == 250


def test_odd_sizes_never_enter_pbc_main(cards, manifests):
    images = domain_images(DATASETS, cards["pbc"], "pbc-main", "wbc5", "all")
    assert set(images["width"] + "x" + images["height"]) == {"360x363"}
    with pytest.raises(UserError, match="'pbc-other' has no image in 'wbc5'"):
        domain_images(DATASETS, cards["pbc"], "pbc-other", "wbc5", "all")


def test_no_pbc_image_is_used_twice_and_a_duplicate_with_two_labels_not_at_all(manifests):
    pbc = manifests["pbc"]
    assert len(pbc) == 17_092 - 18, "16 pairs lose one image, the conflicting pair both"
    assert not pbc["sha256"].duplicated().any()
    assert "neutrophil/BNE_191112.jpg" not in set(pbc["path"])
    assert "eosinophil/EO_225902.jpg" not in set(pbc["path"])


def test_no_image_stands_in_two_published_sets(manifests):
    owners: dict[str, str] = {}
    for name, table in manifests.items():
        for sha256 in set(table["sha256"]):
            assert owners.setdefault(sha256, name) == name


def test_classes_outside_the_label_space_are_left_out(cards):
    images = domain_images(DATASETS, cards["pbc"], "pbc-main", "wbc5", "core")
    assert set(images["label"]) == set(WBC5)
    assert len(images) == 2500


# ------------------------------------------------------------------ a user's own card

CARD = """
name: tiny
title: Tiny
homepage: https://example.org
citation: {key: tiny, bibtex: "@misc{tiny, title = {Tiny}}"}
licence: {name: CC0, redistribution: allowed}
folder: tiny
by_hand: draw it
manifest: manifests/tiny.csv
groups: patient
domains: {tiny: {title: Tiny, crop: 1.0}}
labels: {wbc5: {N: neutrophil, L: lymphocyte, platelet: null}}
"""
ROWS = "path,label,group\na/1.png,N,p1\na/2.png,L,p1\nb/1.png,platelet,p2\n"


@pytest.fixture
def project(tmp_path):
    """A `datasets/` folder with one good card; tests then spoil a part of it."""
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests/tiny.csv").write_text(ROWS)
    (tmp_path / "tiny.yaml").write_text(CARD)
    (tmp_path / "label_spaces.yaml").write_text(f"wbc5: {WBC5}\n")
    return tmp_path


def spoil(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) >= 1
    file.write_text(text.replace(old, new, 1))


def tiny_images(project: Path) -> pd.DataFrame:
    return domain_images(project, load_cards(project)["tiny"], "tiny", "wbc5", "all")


def refusal(project: Path) -> str:
    """The line that refuses the project's card, manifest or domain."""
    with pytest.raises(UserError) as caught:
        tiny_images(project)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_a_card_and_a_csv_are_enough(project):
    images = tiny_images(project)
    assert images["path"].tolist() == ["a/1.png", "a/2.png"]
    assert images["class_name"].tolist() == ["neutrophil", "lymphocyte"]
    assert images["group"].tolist() == ["p1", "p1"]
    assert images["sha256"].tolist() == ["", ""]


def test_without_a_group_column_every_image_is_its_own_group(project):
    (project / "manifests/tiny.csv").write_text("path,label\na/1.png,N\na/2.png,L\n")
    images = tiny_images(project)
    assert images["group"].tolist() == images["path"].tolist()


def test_core_keeps_marked_rows_and_excluded_rows_are_never_read(project):
    (project / "manifests/tiny.csv").write_text(
        "path,label,core,excluded\n1,N,1,\n2,N,0,\n3,N,1,blurred\n"
    )
    card = load_cards(project)["tiny"]
    assert read_manifest(project, card, "core")["path"].tolist() == ["1"]
    assert read_manifest(project, card, "all")["path"].tolist() == ["1", "2"]


def test_an_unknown_key_names_the_nearest(project):
    spoil(project / "tiny.yaml", "folder: tiny", "folder: tiny\nadresses: []")
    line = refusal(project)
    assert "tiny.yaml" in line
    assert "unknown key 'adresses'; did you mean 'addresses'?" in line


def test_an_unknown_key_inside_a_domain_names_the_nearest(project):
    spoil(project / "tiny.yaml", "crop: 1.0", "crop: 1.0, scaner: X")
    line = refusal(project)
    assert "unknown key 'domains.tiny.scaner'; did you mean 'scanner'?" in line


def test_a_missing_field_is_named(project):
    spoil(project / "tiny.yaml", "by_hand: draw it\n", "")
    assert "by_hand: Field required" in refusal(project)


@pytest.mark.parametrize("crop", ["0", "1.2", "wide"])
def test_a_crop_that_is_no_fraction_of_the_image_is_refused(project, crop):
    spoil(project / "tiny.yaml", "crop: 1.0", f"crop: {crop}")
    assert "domains.tiny.crop" in refusal(project)


def test_a_label_that_the_card_does_not_map_is_named(project):
    spoil(project / "manifests/tiny.csv", "a/2.png,L", "a/2.png,Lymph")
    line = refusal(project)
    assert "datasets/tiny.yaml: labels.wbc5: 'Lymph' is not mapped" in line


def test_a_label_mapped_to_a_class_that_does_not_exist_names_the_nearest(project):
    spoil(project / "tiny.yaml", "N: neutrophil", "N: neutrophile")
    line = refusal(project)
    assert "labels.wbc5.N: no class 'neutrophile'; did you mean 'neutrophil'?" in line


def test_an_unknown_label_space_names_the_nearest(project):
    spoil(project / "tiny.yaml", "wbc5:", "wcb5:")
    assert "unknown label space 'wcb5'; did you mean 'wbc5'?" in refusal(project)


def test_an_unknown_domain_names_the_nearest(cards):
    with pytest.raises(UserError, match="unknown domain 'rabin'; did you mean 'raabin'"):
        card_of(cards, "rabin")


def test_an_empty_group_names_the_image(project):
    spoil(project / "manifests/tiny.csv", "a/2.png,L,p1", "a/2.png,L,")
    line = refusal(project)
    assert "a/2.png has an empty group: name its patient" in line


def test_an_image_listed_twice_is_named(project):
    spoil(project / "manifests/tiny.csv", "a/2.png,L", "a/1.png,L")
    assert "a/1.png is listed twice" in refusal(project)


@pytest.mark.parametrize("path", ["../secret.png", "a/../../secret.png", "/etc/secret.png", "a/.."])
def test_a_path_that_leads_out_of_its_folder_is_refused(project, path):
    spoil(project / "manifests/tiny.csv", "a/2.png", path)
    line = refusal(project)
    assert f"{path}: leads out of its folder" in line


def test_dots_inside_a_name_are_no_way_out(project):
    spoil(project / "manifests/tiny.csv", "a/2.png", "a/..2..png")
    assert "a/..2..png" in tiny_images(project)["path"].tolist()


def test_a_domain_that_two_cards_claim_names_both(project):
    second = CARD.replace("name: tiny", "name: twin")
    (project / "twin.yaml").write_text(second)
    line = refusal(project)
    assert "twin.yaml: domain 'tiny' is also in" in line
    assert "tiny.yaml" in line


def test_a_domain_given_twice_in_one_card_is_refused(project):
    spoil(
        project / "tiny.yaml",
        "domains: {tiny: {title: Tiny, crop: 1.0}}",
        "domains:\n  tiny: {title: Tiny, crop: 1.0}\n  tiny: {title: Again, crop: 0.5}",
    )
    line = refusal(project)
    assert "tiny.yaml is not valid YAML" in line
    assert 'duplicate key "tiny"' in line


def test_a_card_named_unlike_its_file_is_refused(project):
    (project / "tiny.yaml").rename(project / "small.yaml")
    assert "name is 'tiny', the file 'small'" in refusal(project)


def test_a_missing_manifest_is_named(project):
    (project / "manifests/tiny.csv").unlink()
    assert "tiny.csv is missing: it is the manifest of tiny" in refusal(project)


def test_a_manifest_without_a_label_column_says_so(project):
    spoil(project / "manifests/tiny.csv", "path,label", "path,lable")
    assert "no column 'label'; did you mean 'lable'?" in refusal(project)


def test_selecting_by_a_column_that_does_not_exist_is_refused(project):
    spoil(project / "tiny.yaml", "crop: 1.0", "crop: 1.0, select: {acquisition: main}")
    assert "manifest has no column 'acquisition'" in refusal(project)


def test_a_folder_without_cards_says_where_to_run(tmp_path):
    (tmp_path / "label_spaces.yaml").write_text(f"wbc5: {WBC5}\n")
    with pytest.raises(UserError, match="holds no dataset card"):
        load_cards(tmp_path)
