"""Every entry of params.yaml in small: settings and narrow networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY
from safetensors.torch import save_file
from timm.models import efficientnet, vgg

from benchmark.files import read_yaml
from benchmark.models import build
from benchmark.settings import Method, grid, load_params

WHOLE = load_params(REPOSITORY / "params.yaml")


NARROW: dict[str, dict[str, Any]] = {
    "resnet18": {"channels": (32, 32, 64, 64)},
    "resnet34": {"channels": (8, 16, 32, 64)},
    "resnet50": {"channels": (8, 16, 32, 64)},
    "resnet50+lstm": {"channels": (8, 16, 32, 64)},
    "resnet50_gn": {"channels": (32, 32, 64, 64)},
    "resnet152": {"channels": (8, 8, 16, 16)},
    "resnext50_32x4d": {"channels": (16, 16, 32, 32)},
    "resnetv2_50d_gn": {"channels": (128, 128, 256, 256)},
    "resnetv2_50d_evos": {"channels": (128, 128, 256, 256)},
    "regnety_040": {"w0": 16, "wa": 24.0, "depth": 6, "group_size": 8},
    "vgg16": {"mlp_ratio": 0.01},
    "vgg16_bn": {"mlp_ratio": 0.01},
    "convnext_tiny": {"depths": (1, 1, 2, 1), "dims": (16, 32, 64, 128)},
    "vit_base_patch16_224": {"depth": 2, "embed_dim": 48, "num_heads": 3},
    "vit_tiny_patch16_224": {"depth": 2},
    "swin_tiny_patch4_window7_224": {"embed_dim": 24, "depths": (2, 2, 2, 2)},
    "crossformer_tiny": {"embed_dim": 16, "depths": (1, 1, 2, 1), "num_heads": (2, 2, 4, 4)},
}
"""Backbone → what timm makes it smaller by; see `fewer_channels` for those that take no such
option, and of the others one that is not here has its real size."""


def entries() -> dict[str, Method]:
    """The methods to carry out, by name."""
    methods = dict(WHOLE.methods)
    members = {name for method in WHOLE.methods.values() for name in method.members}
    for profile in WHOLE.profiles.values():
        for question, experiment in profile.experiments.items():
            for method in grid(experiment):
                if question.startswith("he2023") or method.canonical_name in members:
                    methods[method.canonical_name] = method
    for part, kind in (
        ("loss", "losses"), ("recipe", "recipes"), ("readout", "readouts"),
        ("inference", "inferences"),
    ):  # fmt: skip
        used = {getattr(method, part) for method in methods.values()}
        unused = [name for name in getattr(WHOLE, kind) if name not in used]
        methods |= {f"{part}-{n}": Method(backbone="resnet18", **{part: n}) for n in unused}
    return methods


ENTRIES = entries()


def scratch_settings(
    domains: list[str], scenarios: list[str], sizes: dict[str, int]
) -> dict[str, Any]:
    """The settings of the repository with one epoch, and a profile for each size of image."""
    settings = read_yaml(REPOSITORY / "params.yaml")
    settings["split"]["fractions"] = dict(train=0.4, id_val=0.2, calibration=0.2, id_test=0.2)
    settings["methods"] = {
        name: method.model_dump(exclude_defaults=True) for name, method in ENTRIES.items()
    }
    for method in settings["methods"].values():
        if method.get("training", {}).get("epochs"):
            method["training"]["epochs"] = 1
    training = WHOLE.profiles["full"].training.model_dump(mode="json", exclude_defaults=True)
    training |= {"epochs": 1, "batch_size": 8, "warmup_epochs": 0, "precision": "fp32"}
    every = {"title": "Every entry", "scenarios": scenarios, "methods": list(ENTRIES)}
    settings["profiles"] = {
        name: {
            "subset": "all",
            "image_size": size,
            "label_space": "wbc5",
            "domains": domains,
            "training": training,
            "experiments": {"every": every | {"seeds": 1}},
        }
        for name, size in sizes.items()
    }
    return settings


def fewer_channels(patch: pytest.MonkeyPatch) -> None:
    """A quarter of the channels of an EfficientNet-Lite, an eighth of a VGG's: timm takes no option
    for either."""
    whole = efficientnet._gen_efficientnet_lite

    def lite(variant: str, channel_multiplier: float, **options: object) -> torch.nn.Module:
        return whole(variant, channel_multiplier / 4, **options)

    patch.setattr(efficientnet, "_gen_efficientnet_lite", lite)
    narrow = [size if size == "M" else size // 8 for size in vgg.cfgs["vgg16"]]
    patch.setitem(vgg.cfgs, "vgg16", narrow)


@pytest.fixture
def narrow_networks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Networks by `NARROW`; the hub has a file of random weights for each of its names."""
    fewer_channels(monkeypatch)
    whole = build.create

    def create(name: str, image_size: int, **options: object) -> torch.nn.Module:
        return whole(name, image_size, **NARROW.get(name.partition(".")[0], {}), **options)

    def download(repository: str, *_: object, **__: object) -> str:
        path = tmp_path / "weights.safetensors"
        backbone = repository.removeprefix("timm/").partition(".")[0]
        save_file(create(backbone, 32).state_dict(), path)
        return str(path)

    monkeypatch.setattr(build, "create", create)
    monkeypatch.setattr("benchmark.models.weights.hf_hub_download", download)
