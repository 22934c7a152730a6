"""How soon `predict` calls a folder another laboratory's, against the alarm itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY

from benchmark.data.cards import load_cards
from benchmark.domains.alarm import (
    CELLS,
    LOOKS,
    alarm_figure,
    alarm_probability,
    alarm_table,
    dose_figure,
    single_sources,
    write_alarm,
)
from benchmark.domains.ranges import SourceRange, beyond, read_ranges
from benchmark.errors import UserError
from benchmark.phantom.acquisition import Acquisition, dose_of
from benchmark.settings import load_params

FLAT = SourceRange("home", 100, 50, [0.0] * 8, np.eye(8).tolist(), 3.0)
"""Mean 0, standard deviation 1; distances up to 3 are its own."""


def looks(domain: str, part: str, outside: list[bool], group: list[str]) -> pd.DataFrame:
    facts = np.zeros((len(outside), 8))
    facts[outside] = 20
    table = pd.DataFrame(facts, columns=LOOKS)
    table.insert(0, "group", group)
    table.insert(0, "part", part)
    table.insert(0, "domain", domain)
    return table


def test_by_hand() -> None:
    """Two cells: an alarm needs both (one is tolerated). Twenty: four or more of twenty."""
    assert alarm_probability(0.5, 2) == pytest.approx(0.25)
    few = sum(n * 0.1**k * 0.9 ** (20 - k) for k, n in enumerate((1, 20, 190, 1140)))
    assert alarm_probability(0.1, 20) == pytest.approx(1 - few)
    assert alarm_probability(0.0, 500) == 0
    assert alarm_probability(1.0, 10) == 1


@pytest.mark.parametrize("cells", [10, 20, 50, 100])
@pytest.mark.parametrize("share", [0.02, 0.15, 0.3])
def test_it_is_how_often_the_alarm_is_given(cells: int, share: float) -> None:
    """Folders drawn cell by cell, and judged by what judges them in `predict`."""
    generator = np.random.default_rng(cells)
    given = 0
    for _ in range(600):
        facts = np.zeros((cells, 8))
        facts[generator.random(cells) < share] = 20
        given += all(beyond([FLAT], facts))
    expected = float(alarm_probability(share, cells))
    spread = np.sqrt(expected * (1 - expected) / 600)
    assert given / 600 == pytest.approx(expected, abs=4 * spread + 1e-3)


def test_false_alarms_are_of_the_part_that_the_range_was_not_made_of() -> None:
    table = pd.concat(
        [
            looks("home", "calibration", [True] * 40, [f"c{i}" for i in range(40)]),
            looks("home", "id_test", [False] * 99 + [True], [f"t{i}" for i in range(100)]),
            looks("away", "shifted", [True] * 60 + [False] * 40, [f"a{i}" for i in range(100)]),
        ]
    )
    rows = alarm_table(table, [FLAT], ["home", "away"])
    own, away = (rows[rows["target"] == name].iloc[0] for name in ("home", "away"))
    assert (own["images"], own["beyond"]) == (100, 0.01)
    assert away["beyond"] == 0.6
    assert rows["cells"].tolist() == 2 * list(CELLS)
    # Clopper and Pearson (1934), 60 of 100: their limits by statsmodels' proportion_confint.
    from statsmodels.stats.proportion import proportion_confint

    assert (away["beyond_low"], away["beyond_high"]) == pytest.approx(
        proportion_confint(60, 100, method="beta")
    )
    assert away["alarm_low"] <= away["alarm"] <= away["alarm_high"]


def test_cells_of_one_slide_are_more_alike_than_cells_of_many() -> None:
    """Half the slides wholly beyond the range: a folder of one slide gives the alarm half the time,
    one of all slides always."""
    slides = [f"s{i // 20}" for i in range(200)]
    table = looks("away", "shifted", [(i // 20) % 2 == 0 for i in range(200)], slides)
    own = looks("home", "id_test", [False] * 20, ["h"] * 20)
    rows = alarm_table(pd.concat([own, table]), [FLAT], ["home", "away"])
    away = rows[(rows["target"] == "away") & (rows["cells"] == 100)].iloc[0]
    assert away["alarm"] > 0.999
    assert away["one_slide"] == pytest.approx(0.5)
    assert away["one_slide_highest"] == 1
    assert away["slides_counted"] == 10
    # Ten slides of twenty cells tell less of the share than two hundred cells would.
    assert away["beyond_high"] - away["beyond_low"] > 0.5


def test_a_slide_of_few_cells_says_nothing_by_itself() -> None:
    table = looks("away", "shifted", [True] * 9 + [False] * 10, ["few"] * 9 + ["enough"] * 10)
    own = looks("home", "id_test", [False] * 20, ["h"] * 20)
    rows = alarm_table(pd.concat([own, table]), [FLAT], ["home", "away"])
    away = rows[rows["target"] == "away"].iloc[0]
    assert (away["slides_counted"], away["one_slide"]) == (1, 0)


def test_what_is_kept_gives_the_committed_numbers_without_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = REPOSITORY / "results" / "core2" / "domains"
    kept = pd.read_parquet(folder / "appearance.parquet")
    profile = load_params(REPOSITORY / "params.yaml").profile("core2")
    ranges = [read_ranges(REPOSITORY, "core2", s, None)[0] for s in single_sources(profile)]
    table = alarm_table(kept, ranges, profile.domains)
    text = table.to_csv(index=False, float_format="%.4f", lineterminator="\n")
    assert text == (folder / "alarm.csv").read_text()
    for own in ranges:  # its limit is that of the images that it was fitted to, to rounding
        fitted = kept[(kept["domain"] == own.source) & kept["part"].isin(["id_val", "calibration"])]
        inside = own.distances(fitted[LOOKS].to_numpy(float)) <= own.limit * (1 + 1e-4)
        assert len(fitted) == own.held_out
        assert 0.99 <= inside.mean() <= 0.99 + 1.5 / len(fitted)
    assert len(alarm_figure(table).axes) == len(ranges)


def test_neither_images_nor_what_was_kept_is_one_line(tmp_path: Path) -> None:
    params, cards = load_params(REPOSITORY / "params.yaml"), load_cards(REPOSITORY / "datasets")
    with pytest.raises(UserError, match=r"appearance.parquet is missing.*prepare -p core2"):
        write_alarm(tmp_path, params, cards, "core2")


def test_a_dose_is_the_only_knob_that_is_changed() -> None:
    assert dose_of(Acquisition()) == ("none", 0.0)
    assert dose_of(Acquisition(blur_um=1.2)) == ("blur_um", 1.2)
    assert dose_of(Acquisition(white_balance=(1, 1, 0.7))) == ("white_balance", 0.7)
    assert dose_of(Acquisition(white_balance=(0.9, 1, 0.7))) is None
    assert dose_of(Acquisition(blur_um=1.2, noise_sd=0.1)) is None
    assert dose_of(Acquisition(gamma=2)) is None


def test_doses_are_drawn_from_the_training_setting_to_far() -> None:
    cards = load_cards(REPOSITORY / "datasets")
    domains = cards["phantom-dose"].domains
    doses = {name: dose_of(domain.acquisition) for name, domain in domains.items()}
    assert None not in doses.values()
    knobs = [knob for knob, _ in doses.values()]
    assert {knob: knobs.count(knob) for knob in set(knobs)} == {
        "none": 1, "ph_shift": 5, "white_balance": 5, "blur_um": 5, "noise_sd": 5, "uneven": 5,
    }  # fmt: skip
    rows = pd.concat(
        looks(name, "shifted", [True] * 5 + [False] * 5, list("abcdefghij")) for name in doses
    )
    own = looks("home", "id_test", [False] * 20, list("abcdefghijklmnopqrst"))
    table = alarm_table(pd.concat([own, rows]), [FLAT], ["home", *doses])
    for axes in dose_figure(table, doses).axes:
        values = [float(tick.get_text()) for tick in axes.get_xticklabels()]
        left, right = axes.get_xlim()
        assert len(values) == 6
        assert abs(values[0] - left) < abs(values[-1] - left)
        assert (right > left) == (values[-1] > values[0])
