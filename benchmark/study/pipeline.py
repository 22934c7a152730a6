"""Write each profile's `dvc.yaml` from `params.yaml`, so that stages and settings cannot disagree.

The first profile is the embedded default and lies at the root, beside the `split` stage that all
profiles share; the others lie in `pipelines/<profile>/`. A stage depends on the modules on its
path, not on the package, and a training stage on its plan: a profile's change never makes
another's stages stale.
"""

from __future__ import annotations

import os
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmark.data.cards import LABEL_SPACES, Card, card_of
from benchmark.data.manifests import EXCLUSIONS, SAME_CELLS
from benchmark.errors import UserError
from benchmark.files import read_yaml, write_text
from benchmark.parts import BLOCKS
from benchmark.progress import say
from benchmark.settings import Params, Profile

FETCHING = ("archives", "fetch", "manifest", "sources", "unpack")
"""Modules that decide which files a fetch leaves."""
AUDITED = ("label_space", "experiments")
AUDITING = ("audit", "checks", "images", "manifest", "near_duplicates", "pairs")
"""Keys of a profile, and modules, that the audit's verdict follows from."""
REPORTED = ("tables", "figures", "figures.json", "report.html")
"""What `report` writes into a results folder."""
HEADER = "# Written by `wbc-shift pipeline` from params.yaml: change that, then run the command.\n"


def write_pipelines(root: Path, params: Params, cards: dict[str, Card], check: bool) -> None:
    """Write (or with `check` only compare) the pipeline file of every profile.

    Raises:
        UserError: `check` found a file that is not what the settings give.
    """
    keys = (*BLOCKS.values(), "methods")
    blocks = [key for key in keys if key in params.model_fields_set]
    for position, (name, profile) in enumerate(params.profiles.items()):
        path = pipeline_path(root, params, name)
        stages = {"split": split_stage(params, cards)} if position == 0 else {}
        stages |= profile_stages(name, profile, cards, blocks)
        # Made by hand (`wbc-shift embed`, `speed`): no stage can depend on what may not be there,
        # and a file that git keeps not on what git ignores, as it does the first profile's results.
        embeddings = [f"results/{name}/embeddings"] if position else []
        for made in (*embeddings, "results/speed"):
            if (root / made).is_dir():
                stages["report"]["deps"].append(made)
        wdir = os.path.relpath(root, path.parent)
        for stage in stages.values():
            if wdir != ".":
                stage["wdir"] = wdir
        buffer = StringIO()
        writer = YAML()
        writer.width = 100
        writer.dump({"stages": stages}, buffer)
        text = HEADER + buffer.getvalue()
        if check:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                raise UserError(f"{path} is out of date: run `wbc-shift pipeline`")
        else:
            write_text(path, text)
            say(f"wrote {path}")


def pipeline_path(root: Path, params: Params, profile: str) -> Path:
    """The pipeline file of a profile: at the root for the first, which is the default."""
    first = next(iter(params.profiles))
    return Path(root) / ("dvc.yaml" if profile == first else f"pipelines/{profile}/dvc.yaml")


def without_stage(root: Path, params: Params, profile: str) -> list[str]:
    """The experiments of a profile that its pipeline file, if there is one, does not train."""
    path = pipeline_path(root, params, profile)
    if not path.exists():
        return []
    content = read_yaml(path)
    stages = content.get("stages") if isinstance(content, dict) else None
    stages = stages if isinstance(stages, dict) else {}
    return [name for name in params.profile(profile).experiments if f"train-{name}" not in stages]


def split_stage(params: Params, cards: dict[str, Card]) -> dict[str, Any]:
    """The stage that cuts every source domain, from manifests alone.

    Its outputs persist: DVC would delete them before a run, and a split that is there is kept.
    """
    sources = params.sources()
    names = sorted({card_of(cards, domain).name for domain in sources})
    splits = sources + [
        f"{n}_folds/{source}" for source in sources for n in params.folds_of(source)
    ]
    return {
        "cmd": "wbc-shift split",
        "params": ["split"],
        "deps": ["benchmark/data/split.py", "benchmark/tables.py", *facts(names, cards)],
        "outs": [
            {f"datasets/splits/{name}.csv": {"cache": False, "persist": True}} for name in splits
        ],
    }


def profile_stages(
    name: str, profile: Profile, cards: dict[str, Card], blocks: list[str]
) -> dict[str, Any]:
    """fetch → prepare, audit → plan → train, once per experiment → evaluate → report.

    Args:
        blocks: keys of `params.yaml` that name building blocks.
    """
    results = f"results/{name}"
    names = sorted({card_of(cards, domain).name for domain in profile.domains})
    splits = [f"datasets/splits/{source}.csv" for source in profile.sources()]
    if profile.folds:
        folder = f"datasets/splits/{profile.folds}_folds"
        splits += [f"{folder}/{source}.csv" for source in profile.sources()]
    data_keys = [f"profiles.{name}.{key}" for key in ("subset", "domains")]
    shape_keys = [f"profiles.{name}.{key}" for key in ("image_size", "label_space")]
    shape_keys += [f"profiles.{name}.framings"] if profile.framings else []
    indices = [f"{results}/experiments/{e}.json" for e in profile.experiments]
    # What draws cells matters only where cells are drawn.
    drawing = ["benchmark/phantom/specimen.py", "benchmark/phantom/acquisition.py"]
    drawing = drawing if any(cards[n].drawn_by for n in names) else []
    stages: dict[str, Any] = {
        "fetch": {
            "cmd": f"wbc-shift fetch --profile {name}",
            "params": data_keys,
            "deps": [
                *(f"benchmark/acquire/{part}.py" for part in FETCHING),
                *(f"benchmark/data/{part}.py" for part in ("image_files", "layouts")),
                "benchmark/tables.py",
                *drawing,
                *facts(names, cards),
            ],
            "outs": [small(f"datasets/raw/{name}.json")],
        },
        "prepare": {
            "cmd": f"wbc-shift prepare --profile {name}",
            "params": [*data_keys, *shape_keys],
            "deps": [
                f"datasets/raw/{name}.json",
                "benchmark/data/prepare.py",
                "benchmark/data/cell_finder.py",
                *(f"benchmark/domains/{part}.py" for part in ("facts", "ranges")),
                *splits,
                "benchmark/data/image_files.py",
                *facts(names, cards),
            ],
            "outs": [
                {f"datasets/cache/{name}": {"cache": False, "persist": True}},
                small(f"{results}/data.json"),
                small(f"{results}/ranges.json"),
            ],
        },
        "audit": {
            "cmd": f"wbc-shift audit --profile {name}",
            "params": [*data_keys, *(f"profiles.{name}.{key}" for key in AUDITED)],
            "deps": [
                f"datasets/raw/{name}.json",
                *splits,
                *(f"benchmark/audit/{part}.py" for part in AUDITING),
                "benchmark/data/image_files.py",
                *facts(names, cards),
            ],
            "outs": [small(f"{results}/audit.json")],
        },
        "plan": {
            "cmd": f"wbc-shift plan --profile {name}",
            "params": [*blocks, f"profiles.{name}"],
            "deps": [
                f"{results}/data.json",
                f"{results}/audit.json",  # nothing is trained on data that the audit refuses
                *splits,
                *(f"benchmark/{part}.py" for part in ("plan", "runs", "numerics")),
            ],
            "outs": [small(f"{results}/plans/{e}.json") for e in profile.experiments],
        },
    }
    for experiment in profile.experiments:
        stages[f"train-{experiment}"] = {
            "cmd": f"wbc-shift train --profile {name} --experiment {experiment}",
            "deps": [
                f"{results}/plans/{experiment}.json",
                "benchmark/data/arrays.py",
                "benchmark/data/corruptions.py",
                "benchmark/data/stain.py",
                "benchmark/models",
                "benchmark/training",
                "benchmark/execution",
            ],
            "outs": [small(f"{results}/experiments/{experiment}.json")],
        }
    tables = ("metrics", "confusion", "intervals", "standings", "evidence", "effects")
    tables += ("rejection", "curves", "open_set")
    metrics = [f"{results}/{table}.parquet" for table in tables]
    stages["evaluate"] = {
        "cmd": f"wbc-shift evaluate --profile {name}",
        "deps": [*indices, *splits, "benchmark/evaluation"],
        "outs": [small(path) for path in metrics],
    }
    stages["report"] = {
        "cmd": f"wbc-shift report --profile {name}",
        "deps": [
            *indices,
            *metrics,
            *(f"{results}/{facts}.json" for facts in ("data", "audit")),
            *(f"datasets/{name}.yaml" for name in names),
            "benchmark/report",
            "benchmark/texts.py",
        ],
        "outs": [small(f"{results}/{part}") for part in REPORTED],
    }
    return stages


def facts(names: list[str], cards: dict[str, Card]) -> list[str]:
    """Cards, manifests and label spaces of the named sets, and the known faults in them."""
    files = [f"datasets/{file}" for file in (LABEL_SPACES, EXCLUSIONS, SAME_CELLS)]
    files += [f"benchmark/data/{part}.py" for part in ("card", "cards")]
    files += ["benchmark/data/manifests.py", *(f"datasets/{name}.yaml" for name in names)]
    # A manifest below raw/ is made by fetch from one's own copy: no dependency, but a product.
    manifests = [cards[name].manifest for name in names]
    return files + [f"datasets/{path}" for path in manifests if not path.startswith("raw/")]


def small(path: str) -> dict[str, Any]:
    """An output that is small enough for git, or made for one machine: not in DVC's cache."""
    return {path: {"cache": False}}
