"""The range of slides: by hand, by simulation, and on what the images of a source look like."""

import numpy as np
import pandas as pd
import pytest

from benchmark.domains.slide_ranges import (
    allowed_level,
    fit_slide_range,
    slide_limit,
    slides_table,
)


def test_each_slide_weighs_as_much_as_any_other_and_a_new_one_is_infinitely_far():
    """Three slides: of 1/4 each, and 1/4 for the new one; the crowded one does not rule."""
    distances = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    slides = np.array(["a", "a", "a", "a", "b", "c"])
    assert slide_limit(distances, slides, 0.25) == 4
    assert slide_limit(distances, slides, 0.26) == 5
    assert slide_limit(distances, slides, allowed_level(3)) == 6
    assert slide_limit(distances, slides, 0.76) == np.inf


def test_of_new_slides_as_many_cells_lie_within_as_is_meant():
    """Cells of a slide share most of their distance, as stain and focus of a slide make them: a
    quantile of images holds fewer cells of a new slide than it says, one of slides does not."""
    random, repeats, slides, cells = np.random.default_rng(0), 2000, 9, 30
    level = allowed_level(slides)
    shared = random.normal(size=(repeats, slides + 1, 1))
    distances = np.abs(2 * shared + random.normal(size=(repeats, slides + 1, cells)))
    names = np.repeat(np.arange(slides), cells)
    held = {"slides": [], "images": []}
    for *known, new in distances:
        known = np.concatenate(known)
        held["slides"].append(np.mean(new <= slide_limit(known, names, level)))
        held["images"].append(np.mean(new <= np.quantile(known, level)))
    error = np.std(held["slides"]) / np.sqrt(repeats)
    assert np.mean(held["slides"]) > level - 3 * error
    assert np.mean(held["images"]) < level - 3 * error


def looks(random: np.random.Generator, slides: int, cells: int, spread: float) -> np.ndarray:
    """What cells look like whose slides differ by so much: [slides · cells, 8]."""
    own = spread * random.normal(size=(slides, 1, 8))
    return (own + random.normal(size=(slides, cells, 8))).reshape(-1, 8)


@pytest.mark.parametrize(
    ("slides", "level"), [(4, 0.8), (9, 0.9), (18, 0.9), (19, 0.95), (98, 0.95), (99, 0.99)]
)
def test_few_slides_allow_no_high_level(slides, level):
    """A new slide is the farthest of K + 1 with a chance of 1 / (K + 1)."""
    assert allowed_level(slides) == level
    distances = np.arange(slides) + 1.0
    limit = slide_limit(distances, distances, level)
    assert np.sum(distances <= limit) / (slides + 1) >= level - 1e-9
    assert np.sum(distances < limit) / (slides + 1) < level


def test_the_level_that_the_slides_of_a_source_allow_is_said():
    names = np.repeat([f"s{i}" for i in range(9)], 8)
    found = fit_slide_range("a", looks(np.random.default_rng(1), 9, 8, 0.5), names)
    assert (found.slides, found.level) == (9, 0.9)
    assert np.isfinite(found.range.limit)


def test_a_range_fitted_to_few_slides_holds_more_of_a_new_one_than_is_meant():
    """No proof covers distances that are cross-fitted, as they are in use: what they hold is
    simulated."""
    random, held = np.random.default_rng(3), []
    names = np.repeat([f"s{i}" for i in range(9)], 12)
    for _ in range(60):
        found = fit_slide_range("a", looks(random, 9, 12, 1.0), names)
        held.append(np.mean(found.range.distances(looks(random, 20, 12, 1.0)) <= found.range.limit))
    assert np.mean(held) - 3 * np.std(held) / np.sqrt(len(held)) > 0.95 > found.level


def test_images_without_a_nucleus_are_beyond_and_set_no_limit():
    random, names = np.random.default_rng(4), np.repeat([f"s{i}" for i in range(9)], 8)
    facts = looks(random, 9, 8, 0.5)
    more = np.vstack([facts, np.full((3, 8), np.nan)])
    found = fit_slide_range("a", more, np.append(names, ["s0", "s1", "only"]))
    assert found == fit_slide_range("a", facts, names)
    assert np.isinf(found.range.distances(more[-3:])).all()


def test_new_slides_of_the_source_lie_within_and_another_laboratory_beyond():
    random, columns = np.random.default_rng(2), list("abcdefgh")
    tables = []
    for domain, part, first, shift in (("own", "train", 0, 0), ("own", "id_test", 40, 0),
                                       ("other", "shifted", 80, 9)):  # fmt: skip
        table = pd.DataFrame(looks(random, 40, 20, 1.0) + shift, columns=columns)
        table["group"] = np.repeat([f"s{i}" for i in range(first, first + 40)], 20)
        tables.append(table.assign(domain=domain, part=part))
    found = slides_table(pd.concat(tables), columns, ["own"], ["own", "other"], "id_test")
    own, other = found.set_index("target").loc[["own", "other"]].itertuples()
    assert own.level == 0.95
    assert own.mean_of_slides < 0.1
    assert other.beyond > 0.95


def test_a_source_whose_slides_allow_no_range_is_named_and_the_others_stay(capsys):
    """Of one slide nothing is left to measure it with."""
    random, tables = np.random.default_rng(0), []
    columns = [f"look{i}" for i in range(8)]
    for domain, slides in (("one", 1), ("many", 20)):
        for part, slide in [("train", s) for s in range(slides)] + [("id_test", slides)]:
            own = pd.DataFrame(random.normal(size=(60, 8)), columns=columns)
            tables.append(own.assign(domain=domain, part=part, group=f"{domain} {slide}"))
    found = slides_table(pd.concat(tables), columns, ["one", "many"], ["one", "many"], "id_test")
    assert list(zip(found["source"], found["target"], strict=True)) == [
        ("many", "many"),
        ("many", "one"),
    ]
    said = "".join(capsys.readouterr())
    assert "no range of the 1 slides of one" in said
    assert "of many" not in said
