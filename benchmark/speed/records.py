"""The rows of `results/speed/<device>-<torch>-<precision>-<layout>.csv`, and their table.

The name of a processor is followed by its instructions (`avx512-bf16`): names repeat.

A row per stage, network and batch.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from benchmark.errors import UserError
from benchmark.files import write_text

COLUMNS = (
    "stage", "backbone", "normalisation", "image_size", "batch_size", "outcome", "reason",
    "images_per_s", "ms_per_step", "processor_ms_per_image", "peak_memory_mib",
    "multiply_adds_g", "rounds", "device", "device_type", "threads", "torch", "timm",
)  # fmt: skip
NETWORK = ["device", "threads", "precision", "layout", "backbone", "normalisation"]
NETWORK += ["image_size", "batch_size"]
HEADER = (
    "device", "threads", "precision", "layout", "backbone", "normalisation", "px", "batch",
    "training images/s", "of the floor", "inference images/s", "peak memory (MiB)", "note",
)  # fmt: skip
Row = dict[str, Any]


def speed_path(root: Path, facts: dict[str, Any], precision: str, layout: str) -> Path:
    """Where a machine's speed is recorded: the setting is the file's name."""
    words = f"{facts['device']} {facts.get('instructions', '')}".lower()
    device = re.sub(r"[^a-z0-9]+", "-", words).strip("-")
    kind = "cpu" if facts["device_type"] == "cpu" else "gpu"
    name = f"{kind}-{device}-torch{facts['torch']}-{precision}-{layout}.csv"
    return Path(root) / "results" / "speed" / name


def write_rows(root: Path, rows: list[Row], precision: str, layout: str) -> Path:
    """Write rows of one machine and setting; rows of other networks or sizes stay as they are."""
    path = speed_path(root, rows[-1], precision, layout)
    key = ["stage", "backbone", "normalisation", "image_size", "batch_size", "threads"]
    # Compared and kept as text: a number that is read and written again may change its digits.
    tables = [pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(index=False)]
    if path.exists():
        tables.insert(0, path.read_text(encoding="utf-8"))
    read = [pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False) for text in tables]
    table = pd.concat(read, ignore_index=True)
    write_text(path, table[~table[key].duplicated(keep="last")].to_csv(index=False))
    return path


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


class Network(NamedTuple):
    """What a speed of prediction is measured on, on one machine."""

    backbone: str
    normalisation: str
    image_size: int


def inference_speeds(root: Path) -> tuple[str, dict[Network, float]]:
    """Images per second in prediction on the machine that measured the most networks, and that
    machine in words; the faster of several batch sizes and layouts."""
    try:
        table = read_speed(root)
    except UserError:
        return "", {}
    table = table[(table["stage"] == "inference") & (table["outcome"] == "done")]
    if table.empty:
        return "", {}
    machine = ["device", "threads", "precision"]
    device, threads, precision = table[machine].value_counts().index[0]
    own = table[(table[machine] == [device, threads, precision]).all(axis=1)]
    fastest = own.groupby(list(Network._fields))["images_per_s"].max()
    where = f"{device}, {threads} thread{'s' if threads != 1 else ''}, {precision}"
    return where, {Network(*key): float(speed) for key, speed in fastest.items()}


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
