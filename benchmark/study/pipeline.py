"""Write each profile's `dvc.yaml` from `params.yaml`, so that stages and settings cannot disagree.

The first profile is the embedded default and lies at the root, beside the `split` stage that all
profiles share; the others lie in `pipelines/<profile>/`.

A stage depends on code where nothing else decides, by a digest of the modules that it imports,
without comments and docstrings: so a changed title of a column reaches the tables, and a comment
makes nothing stale. The stage `code` writes these digests, for every profile. Elsewhere files are
known by their hash: a fetch leaves what the manifests say, a split that is there is kept, prepared
images are of a declared version, and fingerprints say which runs a training stage carries out.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import os
import re
import tokenize
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmark.data.cards import LABEL_SPACES, Card, card_of
from benchmark.data.haematology import LINEAGE, PREVALENCES
from benchmark.data.manifests import EXCLUSIONS, SAME_CELLS
from benchmark.errors import UserError
from benchmark.files import read_yaml, write_text
from benchmark.parts import BLOCKS
from benchmark.progress import say
from benchmark.settings import Params, Profile
from benchmark.study.numerics import version

PACKAGE = Path(__file__).parents[1]
CODE = "pipelines/code.yaml"
CODE_STAGE = {
    "cmd": "wbc-shift pipeline --code",
    "deps": ["benchmark"],
    "outs": [{CODE: {"cache": False, "persist": True}}],
}
ENTRIES = {
    "prepare": ("domains/ranges.py", "domains/"),
    "audit": ("audit/audit.py", "audit/"),
    "plan": ("study/plan.py", ""),
    "evaluate": ("evaluation/evaluate.py", ""),
    "report": ("report/report.py", ""),
}
"""Stage → the module that it calls, and where the modules lie that it depends on. The first two
read images, which are not in every clone: they depend on what is their own alone."""
BESIDE = (".jinja", ".mplstyle")
"""What a module of these folders reads of the package."""
AUDITED = ("label_space", "experiments")
"""Keys of a profile that the audit's verdict follows from."""
REPORTED = ("tables", "figures", "report.html", "pages")
REPORTED += ("results.csv.gz", "results.parquet", "croissant.json")
"""What `report` writes into a results folder."""
HEADER = "# Written by `wbc-shift pipeline` from params.yaml: change that, then run the command.\n"


def code_digests() -> dict[str, int | str]:
    """What the file `CODE` holds: the numerics version of prepared images, and of each stage
    in `ENTRIES` a digest of its code."""
    digests: dict[str, int | str] = {"data": version("data")}
    for stage, (entry, within) in ENTRIES.items():
        parts = sorted(p for p in code_of(PACKAGE / entry) if p.startswith(within))
        whole = "\n".join(f"{part}\n{words(PACKAGE / part)}" for part in parts)
        digests[stage] = hashlib.sha256(whole.encode()).hexdigest()[:16]
    return digests


def code_of(entry: Path) -> set[str]:
    """All modules that one imports, at its head or within a function, and what lies beside them
    (templates, styles): paths in the package."""
    found: set[Path] = set()
    waiting = [entry]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += imported(path)
    folders = {path.parent for path in found} - {PACKAGE}
    beside = {p for folder in folders for p in folder.glob("*.*") if p.suffix in BESIDE}
    return {path.relative_to(PACKAGE).as_posix() for path in found | beside}


def imported(path: Path) -> list[Path]:
    """The modules of the package that a module imports, or names as `module:REGISTRY`."""
    names = names_imported(path.read_text(encoding="utf-8"))
    own = [name.split(".")[1:] for name in names if name.split(".")[0] == PACKAGE.name]
    modules = [PACKAGE.joinpath(*parts).with_suffix(".py") for parts in own if parts]
    return [module for module in modules if module.is_file()]


@functools.cache  # stages share most of their modules
def names_imported(text: str) -> list[str]:
    """The names that a module imports, of any package, and those in `module:REGISTRY`."""
    names: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            names += re.findall(r"^([\w.]+):[A-Z_]+$", node.value)
        if isinstance(node, ast.Import):
            names += [one.name for one in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{one.name}" for one in node.names)]
    return names


def words(path: Path) -> str:
    """A file as the program reads it: of Python without comments, docstrings and blank lines."""
    text = path.read_text(encoding="utf-8")
    return without_comments(text) if path.suffix == ".py" else text


@functools.cache
def without_comments(text: str) -> str:
    """The text of a module without comments, docstrings and blank lines."""
    lines = text.splitlines()
    for token in tokenize.generate_tokens(StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            for row in range(node.lineno - 1, node.end_lineno or node.lineno):
                lines[row] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip())


def write_code(root: Path) -> None:
    """Write the digests of the code."""
    write_text(root / CODE, as_yaml(code_digests()))


def write_pipelines(root: Path, params: Params, cards: dict[str, Card], check: bool) -> None:
    """Write (or with `check` only compare) the pipeline file of every profile.

    Raises:
        UserError: `check` found a file that is not what the settings give.
    """
    files = {}
    keys = (*BLOCKS.values(), "methods")
    blocks = [key for key in keys if key in params.model_fields_set]
    for position, (name, profile) in enumerate(params.profiles.items()):
        path = pipeline_path(root, params, name)
        stages = {"code": CODE_STAGE, "split": split_stage(params, cards)} if position == 0 else {}
        stages |= profile_stages(name, profile, cards, blocks)
        # Made by hand (`wbc-shift embed`, `unlabelled-cells`, `score --features`, `speed`): no
        # stage can depend on what may not be there, and a file that git keeps not on what git
        # ignores, as it does the first profile's results.
        by_hand = ("embeddings", "unlabelled_cells", "features") if position else ()
        for made in (*(f"results/{name}/{own}" for own in by_hand), "results/speed"):
            if (root / made).is_dir():
                stages["report"]["deps"].append(made)
        wdir = os.path.relpath(root, path.parent)
        for stage in stages.values():
            if wdir != ".":
                stage["wdir"] = wdir
        files[path] = HEADER + as_yaml({"stages": stages})
    for path, text in files.items():
        if not check:
            write_text(path, text)
            say(f"wrote {path}")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            raise UserError(f"{path} is out of date: run `wbc-shift pipeline`")


def as_yaml(value: dict[str, Any]) -> str:
    """A file's text."""
    buffer, writer = StringIO(), YAML()
    writer.width = 100
    writer.dump(value, buffer)
    return buffer.getvalue()


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
        "deps": facts(names, cards),
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
    stages: dict[str, Any] = {
        "fetch": {
            "cmd": f"wbc-shift fetch --profile {name}",
            "params": data_keys,
            "deps": facts(names, cards),
            "outs": [small(f"datasets/raw/{name}.json")],
        },
        "prepare": {
            "cmd": f"wbc-shift prepare --profile {name}",
            "params": [*data_keys, *shape_keys, code("data", "prepare")],
            "deps": [f"datasets/raw/{name}.json", *splits, *facts(names, cards)],
            "outs": [
                {f"datasets/cache/{name}": {"cache": False, "persist": True}},
                small(f"{results}/data.json"),
                small(f"{results}/ranges.json"),
            ],
        },
        "audit": {
            "cmd": f"wbc-shift audit --profile {name}",
            "params": [
                *data_keys,
                *(f"profiles.{name}.{key}" for key in AUDITED),
                code("audit"),
            ],
            "deps": [f"datasets/raw/{name}.json", *splits, *facts(names, cards)],
            "outs": [small(f"{results}/audit.json")],
        },
        "plan": {
            "cmd": f"wbc-shift plan --profile {name}",
            "params": [*blocks, f"profiles.{name}", code("plan")],
            "deps": [
                f"{results}/data.json",
                f"{results}/audit.json",  # nothing is trained on data that the audit refuses
                *splits,
            ],
            "outs": [small(f"{results}/plans/{e}.json") for e in profile.experiments],
        },
    }
    for experiment in profile.experiments:
        stages[f"train-{experiment}"] = {
            "cmd": f"wbc-shift train --profile {name} --experiment {experiment}",
            "deps": [f"{results}/plans/{experiment}.json"],
            "outs": [small(f"{results}/experiments/{experiment}.json")],
        }
    tables = ("metrics", "confusion", "intervals", "standings", "evidence", "effects")
    tables += ("rejection", "curves", "open_set", "unlabelled", "severity", "same_cells")
    tables += ("differential", "labels_needed", "local_thresholds")
    metrics = [f"{results}/{table}.parquet" for table in tables]
    stages["evaluate"] = {
        "cmd": f"wbc-shift evaluate --profile {name}",
        "params": [code("evaluate")],
        "deps": [
            *indices,
            *splits,
            *(f"datasets/{facts}" for facts in (PREVALENCES, LINEAGE, SAME_CELLS)),
        ],
        "outs": [small(path) for path in metrics],
    }
    stages["report"] = {
        "cmd": f"wbc-shift report --profile {name}",
        "params": [code("report")],
        "deps": [
            *indices,
            *metrics,
            *(f"{results}/{facts}.json" for facts in ("data", "audit")),
            *(f"datasets/{name}.yaml" for name in names),
        ],
        "outs": [small(f"{results}/{part}") for part in REPORTED],
    }
    return stages


def facts(names: list[str], cards: dict[str, Card]) -> list[str]:
    """Cards, manifests and label spaces of the named sets, and the known faults in them."""
    files = [f"datasets/{file}" for file in (LABEL_SPACES, EXCLUSIONS, SAME_CELLS)]
    files += [f"datasets/{name}.yaml" for name in names]
    # A manifest below raw/ is made by fetch from one's own copy: no dependency, but a product.
    manifests = [cards[name].manifest for name in names]
    return files + [f"datasets/{path}" for path in manifests if not path.startswith("raw/")]


def code(*keys: str) -> dict[str, list[str]]:
    """A dependency on digests of code."""
    return {CODE: list(keys)}


def small(path: str) -> dict[str, Any]:
    """An output that is small enough for git, or made for one machine: not in DVC's cache."""
    return {path: {"cache": False}}
