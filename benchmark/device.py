"""Where a run is made: the device, its settings, and the facts that are recorded beside the run."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import torch

from benchmark.errors import UserError
from benchmark.parallel import wanted_threads


def choose_device() -> torch.device:
    """`WBC_DEVICE` if set, else the GPU if there is one, else the processor.

    Raises:
        UserError: `WBC_DEVICE` names no device of this machine.
    """
    name = os.environ.get("WBC_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"WBC_DEVICE={name}: {reason}: use cpu or cuda") from None
    return device


def configure(device: torch.device) -> None:
    """Make a run a function of its seed; `WBC_THREADS` sets the processor threads it uses."""
    if threads := wanted_threads():
        torch.set_num_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
    torch.backends.cudnn.benchmark = False


def environment(device: torch.device) -> dict[str, Any]:
    """Where a run was made: recorded, not hashed."""
    facts: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "device_type": device.type,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "platform": platform.system(),
    }
    packages = ("torch", "timm", "numpy", "pandas", "pillow")
    facts |= {package: installed(package) for package in packages}
    return facts | git_state()


def processor() -> str:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(li.split(":", 1)[1].strip() for li in lines if li.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


INSTRUCTIONS = {
    "amx_bf16": "amx",
    "avx512_bf16": "avx512-bf16",
    "avx512f": "avx512",
    "avx2": "avx2",
    "asimd": "neon",
}
"""Flag of a processor → what it multiplies with, the fastest first."""


def instructions() -> str:
    """The fastest of a processor's instructions that products of matrices use; "" if not known.

    Processors of one name and different instructions train at speeds that lie threefold apart.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    flags = next((li for li in lines if li.startswith(("flags", "Features"))), "").split()
    return next((name for flag, name in INSTRUCTIONS.items() if flag in flags), "")


CODE_AND_SETTINGS = (":(top)benchmark", ":(top)params.yaml", ":(top)pyproject.toml")
"""What a run follows from; results and texts that change make no checkout dirty."""


def git_state() -> dict[str, Any]:
    """Commit of the harness and whether its code or settings were changed; None outside a
    checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    changed = [*git, "status", "--porcelain", "--untracked-files=no", "--", *CODE_AND_SETTINGS]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        status = subprocess.run(changed, capture_output=True, text=True)
    except OSError:
        return {"git_commit": None, "git_dirty": None}
    if commit.returncode:
        return {"git_commit": None, "git_dirty": None}
    return {"git_commit": commit.stdout.strip(), "git_dirty": bool(status.stdout.strip())}
