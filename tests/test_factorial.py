"""Crossed parts: sums of squares worked out by hand, and nothing shown of a grid with a gap."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from support.tables import texts_of

from benchmark.evaluation.experiments import Experiment, RecordedMethod
from benchmark.evaluation.factorial import RESIDUAL, SEED, analysis_of_variance, crossed_parts
from benchmark.metrics import HEADLINE
from benchmark.report.crossed import effects_sheet, grids, levels_sheet
from benchmark.report.results import Scores
from benchmark.report.shift_parts import shift_parts, shift_parts_figure, shift_parts_sheet

PARTS = ("backbone", "normalisation", "loss")
CHOICES = {
    "backbone": ("resnet10t", "resnet18", "regnety_002"),
    "normalisation": ("bn", "in"),
    "loss": ("ce", "focal"),
}
CELLS = list(product(*CHOICES.values()))


def observed(seeds: int = 3, spread: float = 1.0) -> pd.DataFrame:
    """A run per cell and seed: a main effect, an interaction of two parts, a seed's, and noise."""
    generator = np.random.default_rng(0)
    rows = []
    for (backbone, normalisation, loss), seed in product(CELLS, range(seeds)):
        score = 50 + 5 * CHOICES["backbone"].index(backbone) + 3 * seed
        score += 4 * (normalisation == "in" and loss == "focal")
        noise = spread * generator.normal()
        rows.append((backbone, normalisation, loss, seed, score + noise))
    return pd.DataFrame(rows, columns=[*PARTS, SEED, "score"])


def of(runs: pd.DataFrame, parts: tuple[str, ...] = PARTS) -> pd.DataFrame:
    return analysis_of_variance(runs, parts).set_index("term")


def test_the_battery_experiment_has_the_sums_of_squares_of_the_textbook() -> None:
    """Montgomery, Design and Analysis of Experiments, chapter 5: three materials by three
    temperatures, four batteries each."""
    hours = {
        ("1", "15"): (130, 155, 74, 180), ("1", "70"): (34, 40, 80, 75),
        ("1", "125"): (20, 70, 82, 58), ("2", "15"): (150, 188, 159, 126),
        ("2", "70"): (136, 122, 106, 115), ("2", "125"): (25, 70, 58, 45),
        ("3", "15"): (138, 110, 168, 160), ("3", "70"): (174, 120, 150, 139),
        ("3", "125"): (96, 104, 82, 60),
    }  # fmt: skip
    rows = [(*cell, 0, life) for cell, lives in hours.items() for life in lives]
    found = of(pd.DataFrame(rows, columns=["a", "b", SEED, "score"]), ("a", "b"))
    squares = found["squares"].round(2).to_dict()
    assert squares == {"a": 10683.72, "b": 39118.72, "a × b": 9613.78, RESIDUAL: 18230.75}
    assert found["freedom"].to_dict() == {
        "a": 2, "b": 2, "a × b": 4, RESIDUAL: 27,
    }  # fmt: skip
    assert found["f"][["a", "b", "a × b"]].round(2).tolist() == [7.91, 28.97, 3.56]
    assert found["p"]["a × b"] == pytest.approx(0.0186, abs=5e-5)


def test_a_balanced_grid_of_three_parts_by_hand() -> None:
    runs, seeds = observed(), 3
    found = of(runs)
    grand = runs["score"].mean()

    def mean(*columns: str) -> pd.Series:
        """The mean of the runs alike in these, of each run."""
        return runs.groupby(list(columns))["score"].transform("mean")

    a, b, c = (mean(part) for part in PARTS)
    ab, ac, bc = (mean(*pair) for pair in (PARTS[:2], PARTS[::2], PARTS[1:]))
    cell, seed = mean(*PARTS), mean(SEED)
    expected = {
        "backbone": a - grand,
        "normalisation": b - grand,
        "loss": c - grand,
        "backbone × normalisation": ab - a - b + grand,
        "backbone × loss": ac - a - c + grand,
        "normalisation × loss": bc - b - c + grand,
        "higher interactions": cell - ab - ac - bc + a + b + c - grand,
        SEED: seed - grand,
        RESIDUAL: runs["score"] - cell - seed + grand,
    }
    squares = {term: float((values**2).sum()) for term, values in expected.items()}
    assert found["squares"].to_dict() == pytest.approx(squares)
    assert found["freedom"].to_dict() == {
        "backbone": 2, "normalisation": 1, "loss": 1, "backbone × normalisation": 2,
        "backbone × loss": 2, "normalisation × loss": 1, "higher interactions": 2,
        SEED: seeds - 1, RESIDUAL: (len(CELLS) - 1) * (seeds - 1),
    }  # fmt: skip
    assert found["share"].sum() == pytest.approx(1)
    for term in ("backbone", "normalisation × loss"):
        freedom, left = found["freedom"][term], found["freedom"][RESIDUAL]
        f = squares[term] / freedom / (squares[RESIDUAL] / left)
        assert found["f"][term] == pytest.approx(f)
        assert found["p"][term] == pytest.approx(stats.f.sf(f, freedom, left))
        eta = squares[term] / (squares[term] + squares[RESIDUAL])
        assert found["partial"][term] == pytest.approx(eta)


def test_what_was_put_in_is_found_and_what_was_not_is_not() -> None:
    p = of(observed())["p"]
    assert p["backbone"] < 1e-6
    assert p["normalisation × loss"] < 1e-3
    assert p["backbone × loss"] > 0.05
    assert p["higher interactions"] > 0.05


def least_squares(runs: pd.DataFrame, *terms: tuple[str, ...]) -> float:
    """Squares left by indicator columns of the terms, by numpy alone."""
    columns = [np.ones((len(runs), 1))]
    for term in terms:
        columns.append(pd.get_dummies(runs[list(term)].agg("|".join, axis=1)).to_numpy(float))
    design, score = np.hstack(columns), runs["score"].to_numpy()
    solved = np.linalg.lstsq(design, score, rcond=None)[0]
    return float(((score - design @ solved) ** 2).sum())


def test_cells_of_different_numbers_of_seeds_are_compared_by_models_with_and_without() -> None:
    runs = observed().drop(index=[0, 5, 7, 8, 20]).astype({SEED: str})
    found = of(runs)["squares"]
    seed, a, b, c = (SEED,), *((part,) for part in PARTS)
    ab, ac, bc = PARTS[:2], PARTS[::2], PARTS[1:]
    without_a = least_squares(runs, seed, b, c, bc)
    with_a = least_squares(runs, seed, a, b, c, bc)
    assert found["backbone"] == pytest.approx(without_a - with_a)
    pairs = least_squares(runs, seed, a, b, c, ab, ac, bc)
    assert found["normalisation × loss"] == pytest.approx(
        least_squares(runs, seed, a, b, c, ab, ac) - pairs
    )
    whole = least_squares(runs, seed, PARTS)
    assert found["higher interactions"] == pytest.approx(pairs - whole)
    assert found[RESIDUAL] == pytest.approx(whole)


def test_with_one_seed_a_cell_the_higher_interactions_are_what_is_left() -> None:
    found = of(observed(seeds=1))
    assert SEED not in found.index
    assert "higher interactions" not in found.index
    assert found["freedom"][RESIDUAL] == 2  # (3 - 1)(2 - 1)(2 - 1)
    assert found["f"]["backbone"] > 0


def methods(cells: list[tuple[str, ...]] = CELLS, **more: str) -> list[RecordedMethod]:
    return [
        RecordedMethod(name="-".join(cell), **dict(zip(PARTS, cell, strict=True)), **more)
        for cell in cells
    ]


def test_parts_are_crossed_where_no_cell_is_missing_or_planned_twice() -> None:
    assert crossed_parts(methods(framing="small")) == {p: list(c) for p, c in CHOICES.items()}
    assert crossed_parts(methods(CELLS[1:])) == {}
    beside = RecordedMethod(name="robust", backbone="resnet18", normalisation="in", training="ema")
    assert crossed_parts([*methods(), beside]) == {}
    assert crossed_parts(methods([cell for cell in CELLS if cell[2] == "ce"])) == {}


# --------------------------------------------------------------------------- tables


def experiment(missing: tuple[str, ...] = ()) -> Experiment:
    """Two sources, all cells, three seeds; of the runs whose id begins like one of `missing` none
    is done."""
    runs = []
    for source, method, seed in product(("raabin", "pbc"), methods(), range(3)):
        run_id = f"{method.name}/{source}/seed{seed}"
        scenario = {"name": f"{source}->*", "source": source, "targets": ("bccd", "jtsc")}
        outcome = "missing" if run_id.startswith(missing) else "done"
        facts = {"run_id": run_id, "outcome": outcome, "track": "inductive", "seed": seed}
        runs.append(facts | {"method": method, "scenario": scenario})
    facts = {"experiment": "grid", "title": "Grid", "profile": "toy", "label_space": "wbc5"}
    return Experiment(schema_version=1, classes=("neutrophil",), runs=runs, **facts)


def scored(own: Experiment) -> tuple[Scores, dict[str, dict]]:
    """Scores of `observed` at home, of half as much in two targets; the backbone sets the speed."""
    table = observed().set_index([*PARTS, SEED])["score"]
    values, records = {}, {}
    for run in own.runs:
        method = run.method
        home = table[method.backbone, method.normalisation, method.loss, run.seed] / 100
        for domain, share in ((run.scenario.source, 1), ("bccd", 0.25), ("jtsc", 0.75)):
            part = "id_test" if share == 1 else "shifted"
            values[run.run_id, domain, part, "", HEADLINE] = (share * home, 100)
        speed = 100.0 * (1 + CHOICES["backbone"].index(method.backbone))
        records[run.run_id] = {"train_images_per_s": speed}
    counted = {"raabin->*": ("bccd", "jtsc"), "pbc->*": ("bccd", "jtsc")}
    return Scores(values, {}, {}, {}, counted, {}), records


def test_the_effects_of_each_source_and_score_stand_in_one_list() -> None:
    own = experiment()
    table = effects_sheet(own, grids(own, *scored(own)))
    lines = texts_of(table)
    assert len(lines) == 2 * 2 * 9
    found = {(line["trained on"], line["score"], line["effect"]): line for line in lines}
    by_hand = of(observed())
    line = found["raabin", "in-domain", "backbone"]
    assert line["share"] == f"{100 * by_hand['share']['backbone']:.1f}"
    assert line["partial"] == f"{100 * by_hand['partial']['backbone']:.1f}"
    assert line["F"] == f"{by_hand['f']['backbone']:.1f}"
    assert line["p"] == "< 0.001"
    # Half of every score: the same shares, whatever the scale.
    assert found["pbc", "mean of targets", "backbone"]["share"] == line["share"]
    assert found["raabin", "in-domain", RESIDUAL]["p"] == ""
    assert "28 effects" in table.caption  # seven tested terms, two scores, two sources


def test_choices_and_cells_are_averaged_with_their_speed() -> None:
    own = experiment()
    crossing = grids(own, *scored(own))
    levels = {
        (line["trained on"], line["choice"]): line for line in texts_of(levels_sheet(own, crossing))
    }
    mean = observed().query("backbone == 'resnet18'")["score"].mean()
    line = levels["pbc", "resnet18"]
    assert (line["in-domain"], line["drop"]) == (f"{mean:.1f}", f"{mean / 2:.1f}")
    assert (line["runs"], line["images/s"]) == ("12", "200")


def test_nothing_is_shown_of_a_source_with_an_empty_cell() -> None:
    own = experiment(missing=("resnet18-in-focal/raabin",))
    table = effects_sheet(own, grids(own, *scored(own)))
    assert {line["trained on"] for line in texts_of(table)} == {"pbc"}
    assert "Not shown, since cells are empty: raabin (1 of 12 cells without a run)" in table.notes
    none = experiment(missing=("resnet18-in-focal",))
    crossing = grids(none, *scored(none))
    assert effects_sheet(none, crossing) is None
    assert levels_sheet(none, crossing) is None


def test_a_seed_counts_once_none_of_its_cells_is_empty() -> None:
    """Means of a choice are over the same seeds, and so the same folds, as those of the others."""
    own = experiment(missing=("resnet18-in-focal/raabin/seed2",))
    crossing = grids(own, *scored(own))
    for table in (effects_sheet(own, crossing), levels_sheet(own, crossing)):
        notes = " ".join(table.notes)
        assert "raabin: 24 of 36 runs in 12 cells" in notes
        assert "Runs not counted, whose seed has empty cells: raabin: 11" in notes
        assert "found 71 of 72 planned runs" in table.caption
    lines = [own for own in texts_of(levels_sheet(own, crossing)) if own["trained on"] == "raabin"]
    for line in lines:
        part = next(name for name, own in CHOICES.items() if line["choice"] in own)
        seen = observed().query(f"{part} == '{line['choice']}' and {SEED} < 2")
        assert line["in-domain"] == f"{seen['score'].mean():.1f}"


def test_answers_of_one_training_are_no_replicates_of_each_other() -> None:
    """As many runs again, of the same networks under another inference: two lists, not one."""
    own = experiment()
    again = [
        run.model_copy(
            update={
                "run_id": f"again-{run.run_id}",
                "track": "transductive",
                "method": run.method.model_copy(
                    update={"name": f"{run.method.name}-moments", "inference": "moments"}
                ),
            }
        )
        for run in own.runs
    ]
    both = own.model_copy(update={"runs": (*own.runs, *again)})
    table = texts_of(effects_sheet(both, grids(both, *scored(both))))
    sources = [line["trained on"] for line in table if line["effect"] == RESIDUAL]
    assert sources == [
        name for name in ("raabin", "pbc", "raabin (moments)", "pbc (moments)") for _ in range(2)
    ]
    assert {line["df"] for line in table if line["effect"] == RESIDUAL} == {"22"}  # (12 - 1)(3 - 1)


def test_a_single_seed_in_every_cell_is_told() -> None:
    own = experiment()
    own = own.model_copy(update={"runs": tuple(run for run in own.runs if run.seed == 0)})
    table = effects_sheet(own, grids(own, *scored(own)))
    assert "raabin, pbc: a single seed in every cell" in table.notes[0]
    assert {line["effect"] for line in texts_of(table)} >= {"backbone × loss", RESIDUAL}


def answers(outcome: str = "done") -> tuple[Experiment, Scores]:
    """One training of two seeds under four inferences, the last with this outcome."""
    won = {"single": (0.2, 0.4), "moments": (0.5, 0.4), "scale": (0.3, 0.5)}
    won["scale_and_moments"] = (0.8, 0.6)
    scenario = {"name": "pbc->*", "source": "pbc", "targets": ("bccd", "jtsc")}
    runs, values = [], {}
    for (inference, shifted), seed in product(won.items(), range(2)):
        name = f"net-{inference}"
        method = RecordedMethod(name=name, backbone="resnet18", inference=inference)
        run = {"run_id": f"{name}/s/seed{seed}", "method": method, "scenario": scenario}
        run |= {"track": "inductive", "seed": seed}
        runs.append(run | {"outcome": outcome if inference == "scale_and_moments" else "done"})
        # The seeds differ by four points everywhere, so that their mean is what stands above.
        away = 0.02 * (1 if seed else -1)
        values[run["run_id"], "pbc", "id_test", "", HEADLINE] = (0.95 + away, 100)
        for target, value in zip(("bccd", "jtsc"), shifted, strict=True):
            values[run["run_id"], target, "shifted", "", HEADLINE] = (value + away, 100)
    facts = {"experiment": "made_of", "title": "Made of", "profile": "toy", "label_space": "wbc5"}
    own = Experiment(schema_version=1, classes=("neutrophil",), runs=runs, **facts)
    return own, Scores(values, {}, {}, {}, {"pbc->*": ("bccd", "jtsc")}, {})


def test_colour_framing_and_the_rest_add_up_to_the_loss() -> None:
    lines = {line["target"]: line for line in texts_of(shift_parts_sheet(*answers()))}
    # By hand, bccd: colour wins 30 alone and 50 beside framing, framing 10 and 30.
    shown = ("in-domain", "as is", "loss", "colour", "framing", "rest")
    assert [lines["bccd"][name] for name in shown] == [
        "95.0", "20.0", "75.0", "40.0", "20.0", "15.0",
    ]  # fmt: skip
    # jtsc: colour 0 and 10, framing 10 and 20.
    assert [lines["jtsc"][name] for name in shown[3:]] == ["5.0", "15.0", "35.0"]
    mean = lines["mean of targets"]
    assert [mean[name] for name in shown[2:]] == ["65.0", "22.5", "17.5", "25.0"]
    assert mean["seeds"] == "2/2"
    for line in lines.values():
        parts = (float(line[name]) for name in ("colour", "framing", "rest"))
        assert sum(parts) == pytest.approx(float(line["loss"]))


def test_the_figure_of_parts_shows_what_the_table_says() -> None:
    """A dot for each target and a bar for their mean, in a panel for each part of the loss."""
    own, given = answers()
    figure = shift_parts_figure(own, shift_parts(own, given))
    for axes, dots, mean in zip(
        figure.axes, [(40, 5), (20, 15), (15, 35)], [22.5, 17.5, 25], strict=True
    ):
        shown = [line.get_xdata()[0] for line in axes.lines if line.get_marker() != "None"]
        assert shown == pytest.approx(dots)
        (bar,) = axes.collections
        assert bar.get_segments()[0][:, 0] == pytest.approx([mean, mean])


def test_nothing_is_split_before_all_four_answers_are_there() -> None:
    assert shift_parts_sheet(*answers(outcome="missing")) is None
    assert shift_parts_sheet(experiment(), answers()[1]) is None
