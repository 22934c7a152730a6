"""`results/speed/*.csv` → the throughput table, results/speed/throughput.md."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from benchmark.errors import UserError
from benchmark.files import write_text

NETWORK = ["device", "threads", "precision", "layout", "backbone", "normalisation"]
NETWORK += ["image_size", "batch_size"]
HEADER = (
    "device", "threads", "precision", "layout", "backbone", "normalisation", "px", "batch",
    "training images/s", "of the floor", "inference images/s", "peak memory (MiB)", "note",
)  # fmt: skip


class Workload(NamedTuple):
    """What a speed of training is measured on."""

    device: str
    threads: int
    precision: str
    backbone: str
    normalisation: str
    image_size: int


def training_rows(root: Path) -> pd.DataFrame:
    """Recorded rows of the steps that a run trains with; none if nothing was measured."""
    try:
        table = read_speed(root)
    except UserError:
        return pd.DataFrame(columns=[*Workload._fields, "images_per_s"])
    return table[(table["stage"] == "train") & (table["outcome"] == "done")]


def training_speeds(root: Path) -> dict[Workload, float]:
    """Images per second of the steps that a run trains with."""
    table = training_rows(root)[[*Workload._fields, "images_per_s"]]
    return {Workload(*row[:-1]): row[-1] for row in table.itertuples(index=False, name=None)}


def read_speed(root: Path) -> pd.DataFrame:
    """Every recorded row, with the precision and layout that its file's name says.

    Raises:
        UserError: nothing is recorded.
    """
    paths = sorted((Path(root) / "results" / "speed").glob("*.csv"))
    if not paths:
        raise UserError("results/speed/ holds no record: run `wbc-shift speed`")
    tables = []
    for path in paths:
        precision, layout = path.stem.rsplit("-", 2)[1:]
        tables.append(pd.read_csv(path).assign(precision=precision, layout=layout))
    return pd.concat(tables, ignore_index=True)


def throughput(table: pd.DataFrame) -> list[list[str]]:
    """Rows of the throughput table, as text; what was measured on a processor says CPU.

    Training is that of a run, else (another layout than a run's) of its floor; "of the floor" is
    what gathering and augmenting the images leave of the speed of the bare steps.
    """
    rows = []
    networks = table[table["stage"] != "prepare"].assign(
        device=lambda t: t["device"].where(t["device_type"] != "cpu", "CPU: " + t["device"])
    )
    for key, stages in networks.groupby(NETWORK, sort=True):
        speeds = stages.set_index("stage")["images_per_s"]
        floor, train = speeds.get("train_floor"), speeds.get("train")
        share = f"{train / floor:.0%}" if pd.notna(train) and pd.notna(floor) else ""
        peak = stages.set_index("stage")["peak_memory_mib"].get(
            "train" if pd.notna(train) else "train_floor"
        )
        numbers = [train if pd.notna(train) else floor, speeds.get("inference"), peak]
        shown = ["" if pd.isna(n) else f"{n:.4g}" for n in numbers]
        note = "; ".join(stages["reason"].dropna().unique())
        if pd.isna(train) and pd.notna(floor):
            note = "; ".join(filter(None, [note, "bare steps"]))
        rows.append([*map(str, key), shown[0], share, *shown[1:], note])
    return rows


def write_throughput(root: Path) -> Path:
    """Write the throughput table of every recorded machine as Markdown."""
    lines = [HEADER, ["---"] * len(HEADER), *throughput(read_speed(root))]
    path = Path(root) / "results" / "speed" / "throughput.md"
    text = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    write_text(path, f"{text}\n")
    return path
