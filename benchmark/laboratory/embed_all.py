"""A network and the prepared images → the file of its features of every cell of a profile.

A network is named as one of the repository's, as a finished run, or as a backbone with its weights:
`resnet18` (random), `tf_efficientnet_lite0@lite0` (a block of `weights` in params.yaml, which also
says what the weights were made with), `vit_small_patch14_dinov2@lvd142m` (a tag of timm's hub), or
`resnet18@weights/file.safetensors`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmark.data.arrays import Images, PreparedImages
from benchmark.data.split import fold_of
from benchmark.errors import UserError, suggest
from benchmark.evaluation.feature_files import FOLD, KINDS, Cells, write_features
from benchmark.evaluation.features import About
from benchmark.execution.networks import axis_seed, configured_device
from benchmark.files import sha256_file
from benchmark.laboratory.networks import Network
from benchmark.laboratory.shipped import shipped_names
from benchmark.models.build import check_backbone, create, load_initial
from benchmark.models.heads import classifier_name
from benchmark.models.predict import predict
from benchmark.models.weights import Preprocessing, preprocessing
from benchmark.progress import track
from benchmark.scenarios import sources_of
from benchmark.settings import FROM_SCRATCH, Params, Weights
from benchmark.study.records import network_sha256
from benchmark.training.readouts import Features

CHUNK = 256
"""Images between two lines of progress."""
SEED = 0
"""Of random weights."""


@dataclass(frozen=True)
class Source:
    """What features are computed by."""

    model: torch.nn.Module
    preprocessing: Preprocessing
    images: Callable[[str], Images]
    """domain → all its images as the network is shown them"""
    about: About


def embed_all(
    root: Path, params: Params, cells: Cells, profile: str, network: str, out: Path
) -> tuple[int, int]:
    """Write the features that enter a network's classifier, of every cell; their number and width.

    Raises:
        UserError: unknown network or weights; images or weights that are not here; a network that
            does not tell features from logits; another kind of file.
    """
    if out.suffix != KINDS[0]:
        raise UserError(f"--out {out}: name a {KINDS[0]} file")
    source = source_of(root, params, cells, profile, network)
    device = configured_device()
    features = Features(source.model).to(device, memory_format=torch.channels_last)
    found = []
    for domain in cells.table["domain"].unique():
        images, expected = source.images(domain), cells.table["image"].iloc[cells.rows(domain)]
        if images.table["image"].tolist() != expected.tolist():
            raise UserError(
                f"{domain}: the {len(images)} images that {network} is shown are not the "
                f"{len(expected)} cells of the profile {profile}: run `wbc-shift prepare -p "
                f"{profile}`, or name the profile of the network"
            )
        pixels = images.pixels
        found += [
            predict(features, pixels[start : start + CHUNK], "fp32", device, source.preprocessing)
            for start in track(range(0, len(pixels), CHUNK), f"features of {domain}")
        ]
    values = np.concatenate(found)
    write_features(out, cells, values, source.about)
    return values.shape


def source_of(root: Path, params: Params, cells: Cells, profile: str, network: str) -> Source:
    """A network by any of its names."""
    backbone, _, weights = network.partition("@")
    if network in shipped_names(root):
        return trained(Network.shipped(root, network), cells, profile)
    if network.count("/") == 2 and not weights:
        return trained(Network.of_run(root, profile, network, cells.classes), cells, profile)
    try:
        check_backbone(backbone)
    except UserError as error:
        near = suggest(network, shipped_names(root))
        raise UserError(f"{error}; no network of the repository{near}") from None
    block = weights_of(params, weights)
    size = params.profile(profile).image_size
    images = PreparedImages(root, profile, cells.classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(axis_seed("initialisation", backbone, SEED))
        model = create(backbone, size, num_classes=len(cells.classes))
        load_initial(model, block, backbone, size)
    about = About(
        network=network,
        network_sha256=network_sha256(model.state_dict()),
        parameters=parameters(model),
        image_size=size,
        training_datasets=() if block.from_scratch else block.training_datasets,
    )
    expected = preprocessing(block, backbone)
    return Source(model, expected, images.domain, about)


def weights_of(params: Params, name: str) -> Weights:
    """A block of params.yaml, a file, or a tag of timm's hub. A file whose SHA-256 a block states
    is that block's, whatever it is called: what it was made with is known then."""
    if not name:
        return FROM_SCRATCH
    if name in params.weights:
        return params.weights[name]
    if Path(name).suffix in (".safetensors", ".pth", ".pt", ".bin"):
        found = sha256_file(Path(name)) if Path(name).is_file() else None
        blocks = (block for block in params.weights.values() if found and block.sha256 == found)
        if (block := next(blocks, None)) is not None:
            return block.model_copy(update={"file": name, "package": None, "timm": None})
        return Weights(file=name)
    return Weights(timm=name)


def trained(network: Network, cells: Cells, profile: str) -> Source:
    """A network that was trained here or is one of the repository's."""
    run = network.record
    if set(network.classes) != set(cells.classes):
        raise UserError(f"{network.name} was trained on other classes than those of {profile}")
    known = run.settings.weights.training_datasets
    known = [] if run.settings.weights.from_scratch else known
    sources = sources_of(network.source)
    # Of another fold, or of a profile with other folds, it has learnt some of what is tested here.
    (folds,) = {scenario.folds for scenario in cells.scenarios}
    same = fold_of(run.seed, run.scenario.folds) == fold_of(FOLD, folds)
    about = About(
        network=network.name,
        network_sha256=network_sha256(network.model.state_dict()),
        parameters=parameters(network.model),
        image_size=network.image_size,
        training_datasets=None if known is None else (*known, *sources),
        trained_on=network.source if len(sources) == 1 and same else None,
    )
    return Source(
        network.model,
        network.preprocessing,
        lambda domain: network.prepared(domain, "shifted"),
        about,
    )


def parameters(model: torch.nn.Module) -> int:
    """Weights of a network without its classifier."""
    name = classifier_name(model) + "."
    return sum(p.numel() for key, p in model.named_parameters() if not key.startswith(name))
