"""Dataset cards and manifests: the published facts, the traps, and what bad input says."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from benchmark.acquire.fetch import SHIPPED
from benchmark.data.cards import (
    Card,
    CentredPixels,
    card_of,
    load_cards,
    load_label_spaces,
    read_label_spaces,
    share_cells,
)
from benchmark.data.manifests import (
    count_faults,
    domain_images,
    open_set_images,
    published_images,
    read_manifest,
)
from benchmark.errors import UserError

DATASETS = Path(__file__).parents[1] / "datasets"
PUBLISHED = ("raabin", "pbc", "bccd", "bccd-kaggle", "jtsc", "cellavision", "chula", "bccd-wide")
"""Sets whose manifest is shipped."""
OWN_COPY = (
    "raabin-test", "lisc", "lisc-crops", "matek19", "mll23", "bloodmnist", "chula8", "wbcbench2026",
)  # fmt: skip
"""Sets whose manifest is made from the user's copy."""
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
    assert set(cards) == {*PUBLISHED, *OWN_COPY, "phantom", "phantom-dose"}


def test_every_card_says_how_its_folder_is_read_and_where_to_get_it(cards):
    for name in (*PUBLISHED, *OWN_COPY):
        card = cards[name]
        # No copy of BCCD's fields says of which class a cell is: only the manifest does.
        assert card.layout is not None or name == "bccd-wide"
        assert f"{{{card.citation.key}," in card.citation.bibtex
        assert card.citation.bibtex.count("{") == card.citation.bibtex.count("}")
        assert card.manifest.startswith("raw/.manifests/" if name in OWN_COPY else "manifests/")


def test_no_address_is_plain_text_where_a_hash_could_not_tell_a_forged_file(cards):
    for card in cards.values():
        for archive in card.archives:
            for url in archive.urls:
                assert url.startswith(("https://", "drive:")) or card.name in OWN_COPY
        assert all(address.startswith("https://") for address in card.addresses)


def test_the_logits_of_wbc5_have_this_order():
    assert load_label_spaces(DATASETS)["wbc5"] == WBC5


@pytest.mark.parametrize("name", PUBLISHED)
def test_exactly_the_labels_of_a_manifest_are_mapped(cards, manifests, name):
    card = cards[name]
    for labels in card.labels.values():
        assert set(labels) == set(manifests[name][card.label_column])


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
    shipped = (DATASETS / SHIPPED / card.folder).is_dir()
    assert shipped or (len(card.addresses) >= 2 and len(card.archives) >= 1)
    for address in card.addresses:
        assert address.startswith("https://")
        assert address.endswith("/")
    example = card.by_hand.strip().removesuffix(".").rsplit("holds ", 1)[1]
    assert example in set(manifests[name]["path"]), "by_hand names an image of the manifest"


def test_images_are_never_promised_to_be_free_where_the_terms_are_unknown(cards):
    for card in cards.values():
        name, terms = card.licence.name, card.licence.redistribution
        if re.search(r"not checked|no licence", name):
            assert terms == "unknown", card.name
        elif re.search(r"only|NC|agreement", name):
            assert terms == "forbidden", card.name
        elif terms == "allowed":
            assert re.match(r"(MIT|Apache-2\.0|CC BY [34]\.0|GPL-3\.0)\b", name), card.name


# ------------------------------------------------------------------ published facts and traps


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("raabin", [6231, 2427, 561, 744, 212]),
        ("pbc-366", [50, 50, 50, 50, 50]),
        ("bccd", [207, 33, 20, 88, 3]),
        ("bccd-wide", [205, 33, 20, 87, 3]),
        ("jtsc", [175, 52, 47, 22, 1]),  # without a second copy, and a cell of two labels
        ("cellavision", [33, 37, 15, 12, 3]),
        ("chula", [112, 109, 86, 99, 100]),  # without a second copy, and cells of two labels
    ],
)
def test_a_domain_has_the_published_number_of_images_per_class(cards, domain, expected):
    assert counts(cards, domain) == dict(zip(WBC5, expected, strict=True))


def test_the_core_subset_is_what_the_mirror_holds(cards):
    sizes = {name: len(read_manifest(DATASETS, cards[name], "core")) for name in PUBLISHED}
    assert sizes == {
        "raabin": 2717,
        "pbc": 3250,
        "bccd": 351,
        "bccd-kaggle": 1671,
        "jtsc": 297,
        "cellavision": 100,
        "chula": 506,
        "bccd-wide": 348,
    }
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


# ------------------------------------------------------------------ numbers and families


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_manifest_has_the_numbers_its_card_states(cards, name):
    card = cards[name]
    table = published_images(DATASETS, card)
    assert count_faults(card, table) == []
    more = pd.concat([table, table.tail(1)])
    if card.complete:
        assert len(count_faults(card, more)) == len(count_faults(card, table.tail(-1))) == 1


def test_the_numbers_of_the_cards_add_up_to_what_is_published(cards):
    totals = {
        name: card.images
        or sum(
            sum(part.values()) for part in [card.counts, *(d.counts for d in card.domains.values())]
        )
        for name, card in cards.items()
    }
    assert totals["raabin"] == 10_175
    assert totals["raabin-test"] == 4339 + 2119
    assert totals["pbc"] == totals["bloodmnist"] == 17_092
    assert totals["lisc"] == 242
    assert totals["matek19"] == 18_365
    assert totals["mll23"] == 41_621
    assert totals["bccd-kaggle"] == 9957 + 2487 + 71
    assert totals["wbcbench2026"] == 55_012 - 16_477


def test_more_images_than_published_are_a_fault_even_of_a_part(cards):
    card = cards["bccd-kaggle"]
    rows = published_images(DATASETS, card)
    simple = rows[(rows["split"] == "TEST_SIMPLE") & (rows["label"] == "Monocyte")]
    (fault,) = count_faults(card, pd.concat([rows, simple.head(1)]))
    assert fault == "bccd-kaggle-simple Monocyte: 5 images, 4 published"


def test_what_was_not_counted_says_so(cards):
    counted = {name for name, card in cards.items() if card.counts_source == "counted"}
    assert counted == {"raabin", "pbc", "bccd", "jtsc", "cellavision", "chula", "bccd-wide"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("pbc-main", "bloodmnist"),
        ("pbc-366", "bloodmnist"),
        ("bccd", "bccd-kaggle-test"),
        ("bccd", "bccd-wide"),
        ("bccd-wide", "bccd-kaggle-test"),
        ("jtsc", "cellavision"),
        ("lisc", "lisc-crops"),
    ],
)
def test_the_same_cells_under_two_names_are_one_family(cards, one, other):
    assert share_cells(cards, one, other)
    assert share_cells(cards, other, one)


def test_parts_of_one_set_and_sets_of_no_family_share_no_cells(cards):
    assert not share_cells(cards, "pbc-main", "pbc-366")
    assert not share_cells(cards, "raabin", "raabin-test-a")
    assert not share_cells(cards, "raabin", "pbc-main")
    assert not share_cells(cards, "bccd-kaggle-train", "bccd-kaggle-test")


# ------------------------------------------------------------------ label spaces


def test_the_classes_of_every_label_space():
    spaces = load_label_spaces(DATASETS)
    assert set(spaces) == {"wbc5", "wbc4", "pbc11", "cyto11", "wbc13"}
    assert spaces["wbc4"] == WBC5[:4]
    assert len(spaces["pbc11"]) == len(spaces["cyto11"]) == 11
    assert set(spaces["pbc11"]) ^ set(spaces["cyto11"]) == {"platelet", "myeloblast"}
    assert spaces["wbc13"] == [
        "SNE",
        "LY",
        "MO",
        "BL",
        "EO",
        "BNE",
        "MY",
        "MMY",
        "VLY",
        "BA",
        "PMY",
        "PC",
        "PLY",
    ]


def test_every_set_with_a_card_and_no_other_has_labels(cards):
    assert set(read_label_spaces(DATASETS).sets) == set(cards)


def test_every_class_has_cells_that_count_as_it():
    found = read_label_spaces(DATASETS)
    for space, classes in found.spaces.items():
        assert {row[space] for row in found.cell_types.values()} >= set(classes)


def test_every_cell_type_is_of_some_set():
    found = read_label_spaces(DATASETS)
    used = {cell_type for labels in found.sets.values() for cell_type in labels.values()}
    assert used == set(found.cell_types)


def test_labels_without_number_of_images_are_those_of_the_card(cards):
    for name in ("lisc", "matek19", "mll23"):
        assert set(cards[name].counts) == set(cards[name].labels["wbc5"])


def test_a_metamyelocyte_is_a_class_where_there_is_one_and_near_where_there_is_none(cards):
    matek = cards["matek19"].labels
    assert matek["cyto11"]["MMZ"] == "metamyelocyte"
    assert matek["wbc13"]["MMZ"] == "MMY"
    assert matek["wbc5"]["MMZ"] == "near"


def test_wbc4_drops_basophils_and_does_not_score_them_as_unknown(cards):
    raabin = cards["raabin"].labels
    assert raabin["wbc4"]["Basophil"] is None
    assert {k: v for k, v in raabin["wbc5"].items() if k != "Basophil"} == {
        k: v for k, v in raabin["wbc4"].items() if k != "Basophil"
    }


def test_acevedo_in_cyto11_has_the_numbers_that_the_publishers_of_mll23_used(cards):
    """labels_harmonised.csv at marrlab/MLL23, column "used subset" (without pbc-366, pbc-other)."""
    card = cards["pbc"]
    rows = published_images(DATASETS, card)
    main = rows[rows["acquisition"] == "main"]
    found = main["fine_label"].map(card.labels["cyto11"]).value_counts()
    assert {c: n for c, n in found.items() if c not in ("near", "far")} == {
        "neutrophil_segmented": 1646,
        "neutrophil_band": 1633,
        "lymphocyte": 1164,
        "eosinophil": 3067,
        "monocyte": 1370,
        "erythroblast": 1499,
        "myelocyte": 1137,
        "basophil": 1168,
        "metamyelocyte": 1015,
        "promyelocyte": 592,
    }


def test_images_of_pbc_main_are_in_the_space_near_it_or_far_from_it(cards):
    card = cards["pbc"]
    outside = open_set_images(DATASETS, card, "pbc-main", "wbc5", "core")
    assert outside.groupby("class_name")["fine_label"].value_counts().to_dict() == {
        ("near", "MY"): 100,
        ("near", "MMY"): 100,
        ("near", "PMY"): 100,
        ("far", "ERB"): 100,
        ("far", "PLATELET"): 100,
    }
    inside = domain_images(DATASETS, card, "pbc-main", "wbc5", "core")
    rows = read_manifest(DATASETS, card, "core", "pbc-main")
    assert sorted([*inside["path"], *outside["path"]]) == sorted(rows["path"])


def test_a_set_within_the_space_has_no_image_outside(cards):
    assert open_set_images(DATASETS, cards["bccd"], "bccd", "wbc5", "all").empty


def test_acevedo_is_cropped_to_25_micrometres_in_cyto11_only(cards):
    domain = cards["pbc"].domains["pbc-main"]
    assert domain.crop_for("wbc5") == 0.6
    assert domain.crop_for("cyto11") == CentredPixels(pixels=250)
    assert cards["matek19"].domains["matek19"].crop_for("cyto11") == CentredPixels(pixels=345)
    assert cards["mll23"].domains["mll23"].crop_for("cyto11") == 1.0


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
SPACES = f"""
spaces: {{wbc5: {WBC5}}}
cell_types: {{neutrophil: {{wbc5: neutrophil}}, blast: {{wbc5: near}}}}
sets: {{elsewhere: {{N: neutrophil}}}}
"""
ROWS = "path,label,group\na/1.png,N,p1\na/2.png,L,p1\nb/1.png,platelet,p2\n"


@pytest.fixture
def project(tmp_path):
    """A `datasets/` folder with one good card; tests then spoil a part of it."""
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests/tiny.csv").write_text(ROWS)
    (tmp_path / "tiny.yaml").write_text(CARD)
    (tmp_path / "label_spaces.yaml").write_text(SPACES)
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


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("{reader: class_folder}", "layout"),
        ('{reader: class_folders, files: "*/*.png"}', "name the place of {label}"),
        ("{reader: csv_labels, tables: {a.csv: '{name}'}, image: i, label: l}", "only {image}"),
    ],
)
def test_a_layout_that_cannot_be_read_is_refused(project, layout, expected):
    spoil(project / "tiny.yaml", "folder: tiny", f"folder: tiny\nlayout: {layout}")
    line = refusal(project)
    assert "tiny.yaml: layout" in line
    assert expected in line


def test_numbers_without_a_source_are_refused(project):
    spoil(project / "tiny.yaml", "folder: tiny", "folder: tiny\ncounts: {N: 1}")
    assert "counts_source: say who counted" in refusal(project)


def test_a_crop_in_a_label_space_that_does_not_exist_names_the_nearest(project):
    spoil(project / "tiny.yaml", "crop: 1.0", "crop: 1.0, crop_in: {wbc: 0.5}")
    assert "domains.tiny.crop_in: no space 'wbc'; did you mean 'wbc5'?" in refusal(project)


def test_a_label_that_the_card_does_not_map_is_named(project):
    spoil(project / "manifests/tiny.csv", "a/2.png,L", "a/2.png,Lymph")
    line = refusal(project)
    assert "datasets/tiny.yaml: labels.wbc5: 'Lymph' is not mapped" in line


def test_a_label_mapped_to_a_class_that_does_not_exist_names_the_nearest(project):
    spoil(project / "tiny.yaml", "N: neutrophil", "N: neutrophile")
    line = refusal(project)
    assert "labels.wbc5.N: no class 'neutrophile'; did you mean 'neutrophil'?" in line


def test_a_set_listed_in_the_reviewed_file_needs_no_labels_of_its_own(project):
    spoil(
        project / "tiny.yaml", "labels: {wbc5: {N: neutrophil, L: lymphocyte, platelet: null}}", ""
    )
    line = refusal(project)
    assert "tiny.yaml: no labels: list them in label_spaces.yaml under sets.tiny" in line
    spoil(project / "label_spaces.yaml", "{elsewhere:", "{tiny:")
    spoil(
        project / "label_spaces.yaml",
        "N: neutrophil}}",
        "N: neutrophil, L: blast, platelet: blast}}",
    )
    assert tiny_images(project)["path"].tolist() == ["a/1.png"]


def test_labels_in_two_places_are_refused(project):
    spoil(project / "label_spaces.yaml", "{elsewhere:", "{tiny:")
    assert "its labels are in label_spaces.yaml under sets.tiny too" in refusal(project)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "N: neutrophil}}",
            "N: neutrofil}}",
            "no cell type 'neutrofil'; did you mean 'neutrophil'",
        ),
        (
            "{wbc5: near}",
            "{wbc5: nera}",
            "cell_types.blast.wbc5: no class 'nera'; did you mean 'near'",
        ),
        ("{wbc5: near}", "{wbc6: near}", "cell_types.blast: no space 'wbc6'; did you mean 'wbc5'"),
        ("{wbc5: near}", "{}", "cell_types.blast: 'wbc5' is not given"),
        ("'basophil']", "'far']", "none of them near or far"),
        ("'basophil']", "'monocyte']", "needs two or more different classes"),
        ("cell_types:", "celltypes:", "unknown key 'celltypes'; did you mean 'cell_types'"),
    ],
)
def test_a_fault_of_the_label_spaces_is_one_line(project, old, new, expected):
    spoil(project / "label_spaces.yaml", old, new)
    assert expected in refusal(project)


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
    spoil(project / "tiny.yaml", "manifests/tiny.csv", "raw/.manifests/tiny.csv")
    assert "made from its images: run `wbc-shift fetch tiny`" in refusal(project)


def test_a_manifest_without_a_label_column_says_so(project):
    spoil(project / "manifests/tiny.csv", "path,label", "path,lable")
    assert "no column 'label'; did you mean 'lable'?" in refusal(project)


def test_selecting_by_a_column_that_does_not_exist_is_refused(project):
    spoil(project / "tiny.yaml", "crop: 1.0", "crop: 1.0, select: {acquisition: main}")
    assert "manifest has no column 'acquisition'" in refusal(project)


def test_a_folder_without_cards_says_where_to_run(tmp_path):
    (tmp_path / "label_spaces.yaml").write_text(SPACES)
    with pytest.raises(UserError, match="holds no dataset card"):
        load_cards(tmp_path)
