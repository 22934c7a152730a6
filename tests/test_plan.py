"""The plan: grids and named methods become runs; a fingerprint moves with what it names only."""

from __future__ import annotations

import importlib
import inspect
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import REPOSITORY, edit

from benchmark.data.cards import load_cards
from benchmark.errors import UserError
from benchmark.files import read_json
from benchmark.parts import BLOCKS, PARTS, build, check_block, registry
from benchmark.settings import load_params
from benchmark.study import numerics
from benchmark.study.expansion import check_sampler, expand
from benchmark.study.plan import read_data
from benchmark.study.records import write_run
from benchmark.study.validate import validate_profile
from benchmark.training.losses import LOSSES

NAMED = """\
augmentations: {strong: {scale: 0.3, contrast: 0.4}}
methods:
  same-as-grid: {backbone: resnet10t}
  longer: {backbone: resnet10t, normalisation: gn, training: {epochs: 5}}
profiles:
"""


def runs(experiment: str = "first") -> dict[str, dict]:
    """The expanded runs of the toy profile as they are written, by run id."""
    params, root = load_params(), Path()
    prepared = read_data(root, "tiny", params.profile("tiny"))
    return {r.run_id: r.record() for r in expand(root, params, "tiny", experiment, prepared)}


def with_named_methods(project: Path, methods: str, more: str = "") -> None:
    edit(project / "params.yaml", "profiles:\n", NAMED)
    edit(
        project / "params.yaml",
        "        losses: [ce, focal]\n",
        f"        losses: [ce, focal]\n        methods: {methods}\n{more}",
    )


def test_named_methods_stand_beside_the_grid(prepared: Path) -> None:
    grid = runs()
    with_named_methods(prepared, "[longer]")
    added = set(runs()) - set(grid)
    assert added == {"longer/toy-a_to_others/seed0"}
    run = runs()[added.pop()]
    assert run["settings"]["training"]["epochs"] == 5
    assert run["method"]["normalisation"] == "gn"


def test_a_new_option_elsewhere_makes_no_planned_run_stale(prepared: Path) -> None:
    before = runs()
    with_named_methods(prepared, "[longer]")
    after = runs()
    assert all(after[name] == run for name, run in before.items())


def test_a_named_method_shares_the_training_of_the_grid_s_equal(prepared: Path) -> None:
    with_named_methods(prepared, "[same-as-grid]")
    named = runs()["same-as-grid/toy-a_to_others/seed0"]
    grid = runs()["resnet10t-bn-ce/toy-a_to_others/seed0"]
    assert named["training_fingerprint"] == grid["training_fingerprint"]


def test_an_augmentation_axis_multiplies_the_grid_and_names_its_methods(prepared: Path) -> None:
    with_named_methods(prepared, "[]", "        augmentations: [null, strong]\n")
    planned = runs()
    assert len(planned) == 4
    strong = planned["resnet10t-bn-focal-strong/toy-a_to_others/seed0"]
    assert strong["settings"]["training"]["augmentation"] == {"scale": 0.3, "contrast": 0.4}
    plain = planned["resnet10t-bn-focal/toy-a_to_others/seed0"]
    assert plain["training_fingerprint"] != strong["training_fingerprint"]


def test_nothing_stays_of_an_experiment_that_is_no_more(prepared: Path, wbc_shift) -> None:
    kept, gone = (Path("results/tiny/experiments") / f"{name}.json" for name in ("first", "gone"))
    kept.parent.mkdir(parents=True, exist_ok=True)
    for path in (kept, gone, Path("results/tiny/plans/gone.json")):
        path.write_text("{}")
    assert wbc_shift("plan", "-p", "tiny").status == 0
    assert kept.exists()
    assert not gone.exists()
    assert [path.stem for path in Path("results/tiny/plans").glob("*.json")] == ["first"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[longer]", "[longest]", "no 'longest' under methods; did you mean 'longer'?"),
        ("normalisation: gn", "normalisation: gm", "methods.longer: no 'gm' under normalisations"),
        ("{epochs: 5}", "{epoch: 5}", "training of resnet10t-gn-ce: unknown key 'epoch'"),
    ],
)
def test_a_wrong_name_in_a_named_method_is_one_line(
    prepared: Path, old: str, new: str, message: str
) -> None:
    with_named_methods(prepared, "[longer]")
    edit(prepared / "params.yaml", old, new)
    with pytest.raises(UserError, match=message.replace("?", r"\?")) as error:
        runs()
    assert "\n" not in str(error.value)


LOSS = """\
import torch

STRENGTH = 2.0


def helper(z):
    return STRENGTH * z


def mine(counts):
    # the first words
    return lambda z, y: torch.nn.functional.cross_entropy(helper(z), y)
"""


def own_loss(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Register a loss whose source lies in a file of one's own."""
    (folder / "own_loss.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop("own_loss", None)
    importlib.invalidate_caches()
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    monkeypatch.setitem(LOSSES, "mine", importlib.import_module("own_loss").mine)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("cross_entropy(helper(z), y)", "cross_entropy(-helper(z), y)"),
        ("return STRENGTH * z", "return STRENGTH + z"),
        ("STRENGTH = 2.0", "STRENGTH = 3.0"),
    ],
)
def test_e3_a_loss_of_ones_own_that_changes_makes_its_runs_stale(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    edit(prepared / "params.yaml", "losses: {ce: {},", "losses: {mine: {}, ce: {},")
    edit(prepared / "params.yaml", "losses: [ce, focal]", "losses: [ce, mine]")
    own_loss(prepared, monkeypatch, LOSS)
    before = runs()
    assert runs() == before
    own_loss(prepared, monkeypatch, LOSS.replace(old, new))
    after = runs()
    mine, ce = (f"resnet10t-bn-{loss}/toy-a_to_others/seed0" for loss in ("mine", "ce"))
    assert after[mine]["training_fingerprint"] != before[mine]["training_fingerprint"]
    assert after[ce] == before[ce]


def test_e3_a_declared_version_lets_the_words_of_a_loss_change(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(numerics.VERSIONS, "loss.mine", 1)
    own_loss(prepared, monkeypatch, LOSS)
    assert numerics.version("loss", "mine") == 1
    own_loss(prepared, monkeypatch, LOSS.replace("the first words", "other words"))
    assert numerics.version("loss", "mine") == 1


def test_e3_a_part_without_a_source_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    scope: dict = {"__name__": "typed_in"}
    exec("def mine(counts):\n    return len", scope)
    monkeypatch.setitem(LOSSES, "mine", scope["mine"])
    with pytest.raises(UserError, match=r'declare `"loss.mine": 1` in VERSIONS'):
        numerics.version("loss", "mine")


def test_e3_every_part_of_the_project_has_a_declared_version() -> None:
    for kind, names in numerics.BLOCKS.items():
        assert set(names.split()) <= set(registry(kind)), kind
        assert {type(numerics.version(kind, name)) for name in names.split()} == {int}


def parameters_of(kind: str, name: str) -> list[inspect.Parameter]:
    """What a registered function takes beside the arguments that the harness passes."""
    taken = list(inspect.signature(registry(kind)[name]).parameters.values())[PARTS[kind].passed :]
    return taken if name != "erm" else []


KINDS = [kind for kind in BLOCKS if PARTS[kind].registry]
PARAMETERS = [
    (kind, name, parameter.name)
    for kind in KINDS
    for name in registry(kind)
    for parameter in parameters_of(kind, name)
]


@pytest.mark.parametrize(("kind", "name", "parameter"), PARAMETERS)
def test_d14_every_parameter_of_every_block_refuses_what_it_cannot_be(
    kind: str, name: str, parameter: str
) -> None:
    told = rf"params.yaml: {BLOCKS[kind]}.{name}.{parameter}: "
    wrong = ["big", "", None, [1.0], {}, float("nan"), float("inf"), -1, -0.5, 1e400]
    if parameter == "zooms":  # the one that is a list
        wrong[wrong.index([1.0])] = [1.0, -1.0]
    for value in wrong:
        with pytest.raises(UserError, match=told) as error:
            check_block(kind, name, {parameter: value})
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_d14_the_settings_of_the_repository_and_every_default_are_accepted(kind: str) -> None:
    for name, block in getattr(load_params(REPOSITORY / "params.yaml"), BLOCKS[kind]).items():
        check_block(kind, name, block)
    for name in registry(kind):
        taken = parameters_of(kind, name)
        check_block(kind, name, {parameter.name: parameter.default for parameter in taken})


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("{gamma: 2.0}", "{gamma: big}", "losses.focal.gamma: Input should be a valid number"),
        ("{gamma: 2.0}", "{gamma: -2.0}", "losses.focal.gamma: Input should be greater than or"),
        ("[bn]", "[bn]\n        stains: [macenca]", "no stain 'macenca'; did you"),
        ("[bn]", "[bn]\n        stains: [vahadane]", "no stain 'vahadane'; known:"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "validate"])
def test_d14_a_wrong_value_is_told_by_the_plan_and_not_in_training(
    prepared: Path, wbc_shift, command: str, old: str, new: str, told: str
) -> None:
    edit(prepared / "params.yaml", old, new)
    outcome = wbc_shift(command, "-p", "tiny")
    assert outcome.status == 1
    assert outcome.err.count("\n") == 1
    assert told in outcome.err


def test_d14_a_batch_smaller_than_its_domains_is_told_by_the_plan() -> None:
    training = {"batch_size": 2, "sampler": "domain_balanced"}
    check_sampler(training, "a+b")
    with pytest.raises(UserError, match="batch_size 2 is less than one image of each of 3 domains"):
        check_sampler(training, "a+b+c")
    check_sampler(training | {"sampler": "instance"}, "a+b+c")


def test_finished_runs_are_not_to_be_done_again_before_anything_is_prepared(
    prepared: Path,
) -> None:
    def validated() -> tuple[Counter[str], list[str]]:
        cards = load_cards(Path("datasets"))
        experiments, problems, _ = validate_profile(Path(), load_params(), cards, "tiny")
        return Counter(outcome["outcome"] for outcome in experiments["first"]), problems

    done = next(iter(runs().values()))
    record = done | {"outcome": "done", "reason": None}
    table = pd.DataFrame({"image": ["a"]})
    write_run(Path("results/tiny/runs") / done["run_id"], record, table)
    assert validated() == ({"done": 1, "missing": 1}, [])
    Path("results/tiny/data.json").unlink()
    outcomes, (missing,) = validated()
    assert outcomes == {"done": 1, "missing": 1}
    assert "run `wbc-shift prepare -p tiny`" in missing
    # Of other settings it is no longer the run that is recorded.
    edit(Path("params.yaml"), "      epochs: 2", "      epochs: 1")
    assert validated()[0] == {"missing": 2}


def test_e9_an_experiment_without_a_stage_is_told_of(prepared: Path, wbc_shift) -> None:
    assert wbc_shift("pipeline").status == 0
    assert "warning" not in wbc_shift("plan", "-p", "tiny").out
    text = Path("params.yaml").read_text()
    block = text[text.index("      first:") :]
    Path("params.yaml").write_text(text + block.replace("      first:", "      second:"))
    for command in ("plan", "validate"):
        outcome = wbc_shift(command, "-p", "tiny")
        assert "warning: second: no stage in the dvc.yaml of tiny" in outcome.out
        assert "run `wbc-shift pipeline`" in outcome.out
    wbc_shift("pipeline")
    assert "warning" not in wbc_shift("plan", "-p", "tiny").out


def test_e9_a_run_trained_by_name_says_where_it_stands(prepared: Path, wbc_shift) -> None:
    edit(Path("params.yaml"), "      epochs: 2", "      epochs: 1")
    edit(
        Path("params.yaml"),
        "profiles:\n",
        "methods: {mine: {backbone: resnet10t, normalisation: gn}}\nprofiles:\n",
    )
    wbc_shift("plan", "-p", "tiny")
    one = ("--scenario", "toy-a->*", "-p", "tiny")
    outcome = wbc_shift("train", "--method", "mine", *one)
    assert outcome.status == 0, outcome.err
    assert "results/tiny/runs/mine/toy-a_to_others/seed0" in outcome.out
    assert "in no table and no `compare`" in outcome.out
    assert "name mine under methods" in outcome.out
    outcome = wbc_shift("train", "--method", "resnet10t-bn-ce", *one)
    assert outcome.status == 0, outcome.err
    assert "after `wbc-shift train -p tiny -e first`" in outcome.out


def test_a_second_set_of_parameters_says_of_what_it_is(prepared: Path) -> None:
    path = prepared / "params.yaml"
    before = runs()
    blocks = "sharp: {of: focal, gamma: 1.0}, focal_1: {of: focal, gamma: 1.0}"
    edit(path, "losses: {ce: {},", f"losses: {{{blocks}, ce: {{}},")
    edit(path, "losses: [ce, focal]", "losses: [ce, focal, sharp, focal_1]")
    after = runs()
    assert before.items() <= after.items()
    sharp, numbered = (
        after[f"resnet10t-bn-{loss}/toy-a_to_others/seed0"] for loss in ("sharp", "focal_1")
    )
    assert sharp["settings"]["loss"] == {"of": "focal", "gamma": 1.0}
    # A name that continues the function's says it already.
    assert numbered["settings"]["loss"] == {"gamma": 1.0}
    for run in (sharp, numbered):
        loss = build("loss", run["method"]["loss"], run["settings"]["loss"])(torch.ones(2))
        logits, labels = torch.tensor([[1.0, 0.0]]), torch.tensor([1])
        assert loss(logits, labels) == LOSSES["focal"](torch.ones(2), gamma=1.0)(logits, labels)
    # The same name and parameters of something else are another training.
    edit(path, "sharp: {of: focal", "sharp: {of: hybrid")
    other = runs()["resnet10t-bn-sharp/toy-a_to_others/seed0"]
    assert other["training_fingerprint"] != sharp["training_fingerprint"]


@pytest.mark.parametrize(
    ("block", "told"),
    [
        ("focl: {gamma: 1.0}", "losses: unknown 'focl'; did you mean 'focal' or"),
        ("focal_1: {gamma: 1.0}", "losses: unknown 'focal_1'; did you mean 'focal'"),
        ("sharp: {of: focl}", "losses.sharp.of: unknown 'focl'; did you mean 'focal'"),
        ("sharp: {of: focal, gama: 1.0}", "losses.sharp: unknown parameter 'gama'; did you mean"),
    ],
)
def test_a_block_of_nothing_is_one_line(prepared: Path, block: str, told: str) -> None:
    edit(prepared / "params.yaml", "losses: {ce: {},", f"losses: {{{block}, ce: {{}},")
    edit(prepared / "params.yaml", "losses: [ce, focal]", f"losses: [ce, {block.split(':')[0]}]")
    with pytest.raises(UserError, match=told) as error:
        runs()
    assert "\n" not in str(error.value)


def test_a_slip_in_a_block_that_no_run_uses_is_told(prepared: Path) -> None:
    edit(prepared / "params.yaml", "weighted_ce: {}", "weighted_ce: {gama: 2.0}")
    with pytest.raises(UserError, match=r"losses\.weighted_ce: unknown parameter 'gama'"):
        validate_profile(prepared, load_params(), load_cards(prepared / "datasets"), "tiny")


def test_a_new_axis_is_a_field_of_parts_and_its_parameters_are_in_plan_and_fingerprint(
    prepared: Path, tmp_path: Path
) -> None:
    """A part that is declared in parts.py, in a copy of the package, and nowhere else."""
    package = tmp_path / "changed" / "benchmark"
    shutil.copytree(REPOSITORY / "benchmark", package, ignore=shutil.ignore_patterns("__pycache__"))
    edit(
        package / "parts.py",
        "    stain: Annotated",
        '    dropout: Annotated[str, Part("dropouts", "benchmark.parts:DROPOUTS", 1, blocks=True)]'
        ' = "none"\n    stain: Annotated',
    )
    with (package / "parts.py").open("a") as file:
        file.write("\n\ndef dropped(model, rate: float = 0.5): ...\n\n\n")
        file.write('DROPOUTS = {"none": lambda model: None, "dropped": dropped}\n')
    before = read_json(prepared / "results/tiny/plans/first.json")["runs"]
    edit(prepared / "params.yaml", "losses: [ce, focal]", "dropouts: [none, dropped]")
    planned = {}
    for rate in (0.5, 0.9):
        text = (prepared / "params.yaml").read_text().split("\ndropouts:")[0].rstrip("\n")
        (prepared / "params.yaml").write_text(f"{text}\ndropouts: {{dropped: {{rate: {rate}}}}}\n")
        command = [sys.executable, "-m", "benchmark", "plan", "-p", "tiny"]
        environment = os.environ | {"PYTHONPATH": str(package.parent)}
        subprocess.run(command, cwd=prepared, env=environment, check=True)
        plain, planned[rate] = read_json(prepared / "results/tiny/plans/first.json")["runs"]
        assert plain == before[0], "a run without the part stays what it was"
        assert planned[rate]["settings"]["dropout"] == {"rate": rate}
    assert planned[0.5]["fingerprint"] != planned[0.9]["fingerprint"]
