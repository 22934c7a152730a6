"""params.yaml: typed, strict, and read as DVC reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import PARAMS, REPOSITORY, edit

from benchmark.errors import UserError, suggest
from benchmark.files import read_yaml
from benchmark.scenarios import expand_scenario, scenario_folder
from benchmark.schema import DEFAULT_PROFILE, parse
from benchmark.settings import ExperimentSettings, load_params


@pytest.fixture
def params(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS)
    return path


def test_the_committed_settings_are_valid_and_the_first_profile_is_the_default() -> None:
    params = load_params(REPOSITORY / "params.yaml")
    assert next(iter(params.profiles)) == DEFAULT_PROFILE


def test_numbers_are_read_as_dvc_reads_them(params: Path) -> None:
    from dvc.utils.serialize import load_yaml

    assert load_params(params).profiles["tiny"].training.learning_rate == 1e-3
    assert read_yaml(REPOSITORY / "params.yaml") == load_yaml(str(REPOSITORY / "params.yaml"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  seed: 0", "  sede: 0", "unknown key 'split.sede'; did you mean 'seed'?"),
        ("epochs: 2", "epoch: 2", "did you mean 'epochs'"),
        ("dihedral:", "dihedrall:", "did you mean 'dihedral'?"),
        ("epochs: 2", "epochs: many", "profiles.tiny.training.epochs"),
        ("    domains: [toy-a, toy-b]\n", "", "profiles.tiny.domains: Field required"),
        ("losses: [ce, focal]", "losses: [ce, foccal]", "did you mean 'focal'?"),
        ("[bn]", "[batch]", "no 'batch' under normalisations"),
        ("id_test: 0.2}", "id_test: 0.3}", "must be positive and add up to 1"),
        ('"toy-a->*"', '"toy-c->*"', "no domain 'toy-c'; did you mean 'toy-"),
        ('"toy-a->*"', '"toy-a"', "write 'source->*'"),
        ("  seed: 0", "  seed: 0\n  seed: 1", "not valid YAML"),
    ],
)
def test_a_fault_is_one_line_that_names_file_key_and_mend(
    params: Path, old: str, new: str, message: str
) -> None:
    edit(params, old, new)
    with pytest.raises(UserError) as fault:
        load_params(params)
    assert message in str(fault.value)
    assert "params.yaml" in str(fault.value)
    assert "\n" not in str(fault.value)


def test_d5_sources_in_another_order_are_no_other_scenario(params: Path) -> None:
    edit(params, "domains: [toy-a, toy-b]", "domains: [toy-a, toy-b, toy-c]")
    edit(params, '["toy-a->*"]', '["toy-b+toy-a->*", "toy-a+toy-b->*"]')
    with pytest.raises(UserError, match="are one scenario in two orders"):
        load_params(params)


def test_a_scenario_names_its_source_and_targets() -> None:
    domains = ["a", "b", "c"]
    assert expand_scenario("a->*", domains) == ("a", ["b", "c"])
    assert expand_scenario("b->c,a", domains) == ("b", ["c", "a"])
    assert scenario_folder("a->*") == "a_to_others"
    with pytest.raises(UserError, match="both trained and tested"):
        expand_scenario("a->a", domains)


def test_suggestions_name_the_nearest_or_all_of_few() -> None:
    assert suggest("resnet81", ["resnet18", "vgg16"]) == "; did you mean 'resnet18'?"
    assert suggest("zzz", ["a", "b"]) == "; known: a, b"
    assert suggest("zzz", map(str, range(100))) == ""


def test_axes_of_a_grid_beside_named_methods_alone_are_told() -> None:
    experiment = {"title": "t", "scenarios": ["a->b"], "methods": ["named"], "seeds": 1}
    assert ExperimentSettings.model_validate(experiment).framings == [None]
    idle = {"framings": [None, "large"], "losses": ["focal"], "stains": ["none"]}
    for axis, values in idle.items():
        with pytest.raises(UserError, match=f"{axis} vary a grid, and without backbones") as error:
            parse(ExperimentSettings, experiment | {axis: values}, "params.yaml")
        assert "\n" not in str(error.value)
        with_backbones = experiment | {axis: values, "backbones": ["resnet18"]}
        parse(ExperimentSettings, with_backbones, "params.yaml")


def test_a12_the_rows_of_tsutsui2023_follow_the_schedule_of_its_code() -> None:
    params = load_params(REPOSITORY / "params.yaml")
    rows = [m for name, m in params.methods.items() if name.startswith("tsutsui-")]
    rows = [method for method in rows if method.training]
    assert len(rows) == 9 + 6
    assert {method.training["schedule"] for method in rows} == {"as_released"}
