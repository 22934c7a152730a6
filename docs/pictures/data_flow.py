"""Write the picture of the data flow into `docs/architecture.md`, drawn from the pipeline itself.

Stages and files are those of the `dvc.yaml` that DVC runs; a test fails where the picture is of
another pipeline. After a change of stages: `python docs/pictures/data_flow.py`.
"""

from __future__ import annotations

import re
from pathlib import Path

from benchmark.files import read_yaml

PAGE = Path("docs/architecture.md")
PIPELINE = Path("dvc.yaml")
BEGIN, END = "<!-- data flow -->\n", "<!-- end -->"
WRITTEN_BY_PEOPLE = "datasets/*.yaml, manifests"
THROUGH_THE_PLAN = (("prepare", "datasets/cache/PROFILE/", "train"),)
"""What a stage reads without declaring it: the plan holds the digests of the prepared images."""


def named(path: str) -> str | None:
    """A file as the picture names it; None for code, which is no data."""
    if path.startswith("benchmark/"):
        return None
    if path.endswith(".parquet") and not path.endswith("/results.parquet"):
        return "results/PROFILE/*.parquet"
    for folder, name in (
        ("datasets/splits/", "datasets/splits/SOURCE.csv"),
        ("datasets/raw/", "datasets/raw/PROFILE.json"),
        ("datasets/cache/", "datasets/cache/PROFILE/"),
        ("datasets/", WRITTEN_BY_PEOPLE),
    ):
        if path.startswith(folder):
            return name
    name = re.sub(r"^results/\w+/", "results/PROFILE/", path)
    return re.sub(r"(plans|experiments)/\w+\.json", r"\1/EXPERIMENT.json", name)


def edges(pipeline: Path) -> list[tuple[str, str, str]]:
    """Every (stage or "", file, stage or ""): made by the first, read by the second."""
    reads: dict[str, dict[str, None]] = {}
    made_by: dict[str, str] = {}
    for name, stage in read_yaml(pipeline)["stages"].items():
        name = "train" if name.startswith("train-") else name
        outs = [next(iter(out)) if isinstance(out, dict) else out for out in stage["outs"]]
        made_by |= {file: name for file in filter(None, map(named, outs))}
        reads.setdefault(name, {}).update(
            dict.fromkeys(filter(None, map(named, stage.get("deps", ()))))
        )
    found = [(made_by.get(file, ""), file, stage) for stage in reads for file in reads[stage]]
    read = {file for _, file, _ in [*found, *THROUGH_THE_PLAN]}
    ends = [(stage, file, "") for file, stage in made_by.items() if file not in read]
    return [*found, *THROUGH_THE_PLAN, *ends]


def mermaid(found: list[tuple[str, str, str]]) -> str:
    """The edges as a flow chart in Mermaid, which GitHub and most editors draw."""
    lines = ["```mermaid", "flowchart TD"]
    files = list(dict.fromkeys(file for _, file, _ in found))
    lines += [f'  f{number}[/"{file}"/]' for number, file in enumerate(files)]
    arrows = []
    for maker, file, reader in found:
        node = f"f{files.index(file)}"
        arrows += [f"  {maker}([{maker}]) --> {node}"] if maker else []
        arrows += [f"  {node} --> {reader}([{reader}])"] if reader else []
    return "\n".join([*lines, *dict.fromkeys(arrows), "```", ""])


def with_picture(page: str, pipeline: Path = PIPELINE) -> str:
    """The page with the picture of a pipeline between its markers."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + mermaid(edges(pipeline)) + END + rest.split(END, 1)[1]


if __name__ == "__main__":
    PAGE.write_text(with_picture(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
