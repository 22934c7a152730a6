"""The pipeline end to end on phantoms, through DVC as a user runs it: offline, from nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import PARAMS, REPOSITORY, edit
from support.tables import read_lines

from benchmark.data.cards import load_cards
from benchmark.errors import UserError
from benchmark.files import read_json, sha256_file
from benchmark.settings import load_params
from benchmark.study import pipeline
from benchmark.study.pipeline import write_pipelines

BIN = Path(sys.executable).parent


def test_the_committed_pipelines_are_what_the_settings_give() -> None:
    params = load_params(REPOSITORY / "params.yaml")
    write_pipelines(REPOSITORY, params, load_cards(REPOSITORY / "datasets"), check=True)


def test_a_pipeline_that_disagrees_with_the_settings_is_told(project: Path, wbc_shift) -> None:
    assert wbc_shift("pipeline").status == 0
    edit(Path("params.yaml"), "      first:", "      second:")
    outcome = wbc_shift("pipeline", "--check")
    assert outcome.status == 1
    assert "dvc.yaml is out of date: run `wbc-shift pipeline`" in outcome.err


def test_e5_features_of_the_first_profile_leave_the_pipeline_as_it_is(
    project: Path, wbc_shift
) -> None:
    """Git ignores its results: what `embed` leaves there is in no other clone."""
    assert wbc_shift("pipeline").status == 0
    Path("results/tiny/embeddings").mkdir(parents=True)
    assert wbc_shift("pipeline", "--check").status == 0


def test_profiles_share_the_splits_and_nothing_else() -> None:
    from benchmark.files import read_yaml

    files = [REPOSITORY / "dvc.yaml", *sorted((REPOSITORY / "pipelines").glob("*/dvc.yaml"))]
    seen: dict[str, Path] = {}
    for path in files:
        for stage in read_yaml(path)["stages"].values():
            for out in stage["outs"]:
                name = out if isinstance(out, str) else next(iter(out))
                assert name not in seen, f"{name} is written by {seen.get(name)} and {path}"
                seen[name] = path
    params = load_params(REPOSITORY / "params.yaml")
    folds = [f"{n}_folds/{source}" for source in params.sources() for n in params.folds_of(source)]
    assert {p for p in seen if p.startswith("datasets/splits/")} == {
        f"datasets/splits/{name}.csv" for name in (*params.sources(), *folds)
    }


@pytest.mark.parametrize("stage", pipeline.ENTRIES)
def test_the_code_of_a_stage_holds_every_module_that_it_loads(stage: str) -> None:
    """Those of functions beside those at a module's head; registries are loaded by name."""
    entry, _ = pipeline.ENTRIES[stage]
    name = f"benchmark.{entry.removesuffix('.py').replace('/', '.')}"
    show = "print(*(m.__file__ for n, m in sys.modules.items() if n.startswith('benchmark.')))"
    loaded = call(REPOSITORY, sys.executable, "-c", f"import sys, {name}; {show}").split()
    files = {Path(file).relative_to(pipeline.PACKAGE).as_posix() for file in loaded}
    missing = files - pipeline.code_of(pipeline.PACKAGE / entry)
    assert {file for file in missing if not file.endswith("__init__.py")} == set()


def test_a_comment_changes_no_digest_of_code_and_a_title_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "benchmark"
    shutil.copytree(pipeline.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(pipeline, "PACKAGE", copy)
    before = pipeline.code_digests()
    module = copy / "report" / "results.py"
    text = module.read_text()
    module.write_text(f'# A comment.\n{text}\n\n"""What is told of it."""\n')
    assert pipeline.code_digests() == before
    module.write_text(text + '\nTITLE = "Macro-F1"\n')
    after = pipeline.code_digests()
    assert {stage for stage in before if before[stage] != after[stage]} == {"report"}


def test_words_are_a_module_without_what_is_written_for_people(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text('"""Doc."""\n\n\nSIGN = "#"  # why\n"""What."""\ndef f():\n    """It."""\n')
    assert pipeline.words(module) == 'SIGN = "#"\ndef f():'


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in small: two phantom domains of 50 and 25 cells, one network, two losses."""
    root = tmp_path_factory.mktemp("checkout")
    (root / "datasets" / "manifests").mkdir(parents=True)
    for name in ("phantom.yaml", "label_spaces.yaml", "exclusions.csv", "same_cells.csv"):
        shutil.copy(REPOSITORY / "datasets" / name, root / "datasets")
    shutil.copytree(REPOSITORY / "datasets/haematology", root / "datasets/haematology")
    manifest = pd.read_csv(REPOSITORY / "datasets/manifests/phantom.csv", dtype=str)
    few = manifest.groupby(["acquisition", "group", "label"]).head(1)
    few.to_csv(root / "datasets" / "manifests" / "phantom.csv", index=False)
    text = PARAMS.replace("toy-a, toy-b", "phantom-a, phantom-b").replace("toy-a", "phantom-a")
    (root / "params.yaml").write_text(text)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "benchmark", root / "benchmark", ignore=ignore)
    shutil.copytree(
        REPOSITORY / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache")
    )
    for name in (".dvcignore", ".gitignore"):
        shutil.copy(REPOSITORY / name, root)
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    call(root, "wbc-shift", "pipeline")
    call(root, "dvc", "repro")
    return root


def call(root: Path, *command: str) -> str:
    """Run a command in a project as a user would, offline, by the project's own code; return what
    it printed."""
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "WBC_OFFLINE": "1"}
    environment["PYTHONPATH"] = str(root)
    environment.pop("WBC_MIRROR", None)
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def written(root: Path) -> dict[str, bytes]:
    """Everything below results/tiny that the evaluation and the report wrote, by name."""
    folder = root / "results" / "tiny"
    paths = [*folder.glob("tables/*"), *folder.glob("figures/*"), *folder.glob("*.parquet")]
    paths += folder.glob("pages/*")
    return {str(p.relative_to(folder)): p.read_bytes() for p in [*paths, folder / "report.html"]}


def record_times(root: Path) -> dict[str, int]:
    """When each run was recorded."""
    runs = root / "results" / "tiny" / "runs"
    return {str(p.relative_to(runs)): p.stat().st_mtime_ns for p in runs.rglob("run.json")}


def test_one_command_goes_from_nothing_to_tables_figures_and_page(phantoms: Path) -> None:
    results = phantoms / "results" / "tiny"
    lines = read_lines(results / "tables" / "first_macro_f1.md")
    methods = [line["method"] for line in lines]
    assert methods == ["resnet10t-bn-ce", "resnet10t-bn-focal", "majority"]
    assert (results / "figures" / "shift_first.png").stat().st_size > 1000
    assert "<html" in (results / "report.html").read_text()


def test_a_second_repro_does_nothing(phantoms: Path) -> None:
    before = record_times(phantoms)
    assert "Data and pipelines are up to date." in call(phantoms, "dvc", "repro")
    assert record_times(phantoms) == before


def test_e2_what_a_processor_decides_is_not_in_git(phantoms: Path) -> None:
    """The lock holds hashes of predictions, which another processor moves."""
    assert (phantoms / "dvc.lock").exists()
    assert subprocess.run(["git", "check-ignore", "-q", "dvc.lock"], cwd=phantoms).returncode == 0
    listed = subprocess.run(
        ["git", "ls-files", "--error-unmatch", "dvc.lock"], cwd=REPOSITORY, capture_output=True
    )
    assert listed.returncode != 0


def test_e6_the_pipeline_needs_no_git(phantoms: Path, tmp_path: Path) -> None:
    """An archive downloaded from the project's page holds no .git."""
    copy = tmp_path / "copy"
    ignore = shutil.ignore_patterns(".git")
    shutil.copytree(phantoms, copy, copy_function=shutil.copy2, ignore=ignore)
    assert "up to date" in call(copy, "dvc", "repro")


def test_e7_deleted_tables_come_back_bit_for_bit_without_images(
    phantoms: Path, tmp_path: Path
) -> None:
    """By the command that README gives for it; DVC's own check takes them for unchanged."""
    readme = (REPOSITORY / "README.md").read_text()
    assert "wbc-shift evaluate -p core && wbc-shift report -p core " in readme
    clone = tmp_path / "clone"
    # A clone has what git has: no raw images, no arrays, no checkpoints.
    absent = {"raw", "cache", "checkpoints", "locks", "tables", "figures", "tmp"}

    def left_out(folder: str, names: list[str]) -> set[str]:
        return set() if "benchmark" in Path(folder).parts else absent & set(names)

    shutil.copytree(phantoms, clone, ignore=left_out)
    (clone / "results/tiny/metrics.parquet").unlink()
    (clone / "results/tiny/report.html").unlink()
    call(clone, "wbc-shift", "evaluate", "-p", "tiny")
    call(clone, "wbc-shift", "report", "-p", "tiny")
    assert written(clone) == written(phantoms)
    out = call(clone, "dvc", "repro", "--allow-missing")
    assert "up to date" in out, out
    (clone / "benchmark/report/tables.py").open("a").write("# a comment\n")
    out = call(clone, "dvc", "repro", "--allow-missing")
    assert "wbc-shift pipeline --code" in out
    assert "wbc-shift report" not in out
    (clone / "benchmark/report/tables.py").open("a").write('TITLE = "Macro-F1"\n')
    out = call(clone, "dvc", "repro", "--allow-missing")
    assert "wbc-shift report" in out
    assert "wbc-shift train" not in out
    assert written(clone) == written(phantoms)


def test_a_comment_in_the_loop_retrains_nothing_and_a_new_parameter_only_its_runs(
    phantoms: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(phantoms, copy, copy_function=shutil.copy2)
    before = record_times(copy)
    (copy / "benchmark/training/fit.py").open("a").write("# a comment\n")
    edit(copy / "params.yaml", "focal: {gamma: 2.0}", "focal: {gamma: 1.5}")
    call(copy, "dvc", "repro")
    changed = {run for run, when in record_times(copy).items() if when != before[run]}
    assert changed == {"resnet10t-bn-focal/phantom-a_to_others/seed0/run.json"}


def test_a_drawn_image_that_is_damaged_is_named(phantoms: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(phantoms, copy)
    image = next((copy / "datasets/raw/phantom/phantom-a").rglob("*.png"))
    image.write_bytes(image.read_bytes()[:200])
    shutil.rmtree(copy / "datasets" / "cache")
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["dvc", "repro"], cwd=copy, env=environment, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert f"{image.name} cannot be decoded" in done.stdout + done.stderr


def test_missing_fields_of_a_card_stop_everything_before_it_starts(
    phantoms: Path, tmp_path: Path
) -> None:
    shutil.copytree(
        phantoms / "datasets", tmp_path / "datasets", ignore=shutil.ignore_patterns("raw")
    )
    edit(tmp_path / "datasets/phantom.yaml", "folder: phantom\n", "")
    with pytest.raises(UserError, match=r"phantom\.yaml: folder: Field required"):
        load_cards(tmp_path / "datasets")


BLOCKS = """\
weights: {file: {file: weights.safetensors, training_datasets: []}}
augmentations:
  every: {rotation: 30, stain_mixing: 0.1, hed_jitter: 0.05, stain_gain: 0.2, background: 0.1,
          blur: 0.02, resolution_loss: 0.4, noise: 0.02, jpeg: 0.4}
methods:
  frozen-norms: {backbone: resnet10t, normalisation: bn_frozen, weights: file}
  probe: {backbone: resnet10t, weights: file, freezing: linear}
  addfc: {backbone: resnet10t, head: addfc}
  transformer: {backbone: test_vit, normalisation: ln} # the smallest that timm has
  recurrent: {backbone: resnet10t+lstm}
profiles:
"""
EXPERIMENTS = """\
    experiments:
      norms:
        title: Every normalisation
        scenarios: ["phantom-a->*"]
        backbones: [resnet10t]
        normalisations: {norms}
        losses: [ce]
        seeds: 1
      losses:
        title: Every loss
        scenarios: ["phantom-a->*"]
        backbones: [resnet10t]
        losses: {losses}
        seeds: 1
      others:
        title: Heads, freezing, weights, stain, augmentation
        scenarios: ["phantom-a->*"]
        backbones: [resnet10t]
        stains: [jpeg95, macenko, reinhard]
        augmentations: [every]
        methods: [frozen-norms, probe, addfc, transformer, recurrent]
        seeds: 1
      corrupted:
        title: Corruptions
        scenarios: ["phantom-a->corruptions", "phantom-a->corruptions_medmnist"]
        backbones: [resnet10t]
        seeds: 1
"""


def test_every_building_block_trains_on_phantoms(phantoms: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from benchmark.data.corruptions import CORRUPTIONS
    from benchmark.models.build import build_model
    from benchmark.models.normalisation import NORMALISATIONS
    from benchmark.training.losses import LOSSES

    copy = tmp_path / "copy"
    shutil.copytree(phantoms, copy)
    whole = load_params(REPOSITORY / "params.yaml")
    norms = [n for n in NORMALISATIONS if n not in ("bn_frozen", "ln", "evonorm")]
    text = (copy / "params.yaml").read_text()
    head, _, rest = text.partition("normalisations:")
    tail = rest.partition("profiles:\n")[2].partition("    experiments:\n")[0]
    tail = tail.replace("epochs: 2", "epochs: 1")
    blocks = f"normalisations: {whole.normalisations}\nlosses: {whole.losses}\n"
    experiments = EXPERIMENTS.format(norms=norms, losses=list(LOSSES))
    text = head + blocks + BLOCKS + tail + experiments
    model = build_model("resnet10t", "bn", {}, 5, 48, seed=1)
    weights = copy / "weights.safetensors"
    save_file(model.state_dict(), weights)
    text = text.replace(
        "weights.safetensors", f"weights.safetensors, sha256: {sha256_file(weights)}"
    )
    (copy / "params.yaml").write_text(text)
    call(copy, "wbc-shift", "plan", "-p", "tiny")
    call(copy, "wbc-shift", "train", "-p", "tiny")
    outcomes = {}
    for path in (copy / "results/tiny/experiments").glob("*.json"):
        for run in read_json(path)["runs"]:
            outcomes[run["run_id"]] = (run["outcome"], run["reason"])
    assert len(outcomes) == len(norms) + len(LOSSES) - 1 + 8 + 2
    # `in` has nothing to normalise on the last feature map, which is one pixel wide at 48 px.
    failed = {k: v for k, v in outcomes.items() if v[0] != "done"}
    assert all("instance" in reason or outcome == "done" for outcome, reason in failed.values())
    runs = copy / "results/tiny/runs/resnet10t-bn-ce"
    for family, number in (("corruptions", 10 * 4), ("corruptions_medmnist", 11 * 5)):
        predictions = runs / f"phantom-a_to_{family}/seed0/predictions.parquet"
        domains = set(pd.read_parquet(predictions)["domain"])
        own = {n: c for n, c in CORRUPTIONS.items() if c.family == family}
        named = {f"phantom-a:{n}:{s}" for n, c in own.items() for s in c.severities}
        assert domains == {"phantom-a"} | named
        assert len(named) == number
