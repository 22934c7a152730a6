"""How a trained network predicts images: in one view, in several, or adapted to the test images.

An inference that looks at test images before it predicts is *transductive*: it never sees a label,
but its prediction of one image depends on the others, and its rows never share a table with those
of networks that predict image by image. Each test set is adapted to by itself, from the trained
state.

What is taken from a set of images (`fit`) and what then predicts are apart, so that a network can
be adapted to some images of a laboratory and predict others. A test set that is predicted as a
whole is both.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from benchmark.data.cell_finder import nucleus_diameter
from benchmark.data.stain import LEAST_GREY_SPREAD, matched, moments_of
from benchmark.models.weights import IMAGENET, Preprocessing
from benchmark.schema import BelowOne

BATCH = 256
"""Fixed, since a batch's size can move the last bits of a convolution."""


def to_float(pixels: Tensor) -> Tensor:
    """uint8 → float32 in [0, 1]."""
    return pixels.to(torch.float32).div_(255)


def standardise(batch: Tensor, preprocessing: Preprocessing = IMAGENET) -> Tensor:
    """[0, 1] float [N, 3, S, S] → the mean and spread that the weights expect, or each image's
    channels at zero mean and unit deviation (one of less than a grey value is not made noise)."""
    if preprocessing.each_image:
        deviation, mean = torch.std_mean(batch, dim=(2, 3), keepdim=True, correction=0)
        return (batch - mean) / deviation.clamp(min=LEAST_GREY_SPREAD / 255)
    mean, std = preprocessing.mean, preprocessing.std
    return (batch - batch.new_tensor(mean)[:, None, None]) / batch.new_tensor(std)[:, None, None]


@contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """A network's arithmetic in one of `settings.Precision`."""
    mode = FastOnProcessors() if precision == "bf16_cpu" else nullcontext()
    with torch.autocast(device.type, torch.bfloat16, enabled=precision != "fp32"), mode:
        yield


class FastOnProcessors(TorchFunctionMode):
    """bfloat16 autocast, but for what oneDNN and PyTorch have no fast kernels for on a processor.

    Depthwise convolutions, which have one filter a channel, multiply and add in float32, forward
    and back, and what they give is rounded as every convolution's is. Attention is the products of
    matrices that it is defined as (Vaswani et al., NeurIPS 2017, eq. 1), not one fused kernel; with
    a mask it stays as it is. docs/scaling.md has the measurements.
    """

    def __torch_function__(
        self,
        function: Callable,
        types: Sequence[type],
        args: tuple = (),
        kwargs: dict | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function is F.conv2d and is_depthwise(*args, **kwargs):
            image, weight, *others = args
            with torch.autocast(image.device.type, enabled=False):
                return function(image.float(), weight, *others, **kwargs).to(torch.bfloat16)
        if function is F.scaled_dot_product_attention:
            return attention(*args, **kwargs)
        return function(*args, **kwargs)


def is_depthwise(image: Tensor, weight: Tensor, *others: Any, **named: Any) -> bool:
    """Whether a convolution, by the arguments of `F.conv2d`, is of single channels."""
    groups = named.get("groups", others[4] if len(others) > 4 else 1)
    return groups == image.shape[1] > 1


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **others: Any,
) -> Tensor:
    """softmax(q kᵀ · scale) v of [..., L, E], [..., S, E] and [..., S, V]; scale 1/√E by default.

    Arguments are those of `F.scaled_dot_product_attention`, which computes what has a mask. Dropout
    is as there, at any time: callers give 0 in evaluation.
    """
    if attn_mask is not None or is_causal or others:
        named = {"scale": scale, **others}
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, **named
        )
    scaled = query * (query.shape[-1] ** -0.5 if scale is None else scale)
    shares = (scaled @ key.transpose(-2, -1)).softmax(-1)
    return F.dropout(shares, dropout_p) @ value


@torch.inference_mode()
def predict(
    model: nn.Module,
    pixels: np.ndarray,
    precision: str,
    device: torch.device,
    preprocessing: Preprocessing = IMAGENET,
) -> np.ndarray:
    """Logits float32 [N, C] of uint8 images [N, S, S, 3], in evaluation mode."""
    model.eval()
    logits = []
    for start in range(0, len(pixels), BATCH):
        batch = torch.from_numpy(pixels[start : start + BATCH]).permute(0, 3, 1, 2)
        with autocast(device, precision):
            logits.append(model(standardise(to_float(batch.to(device)), preprocessing)).float())
    return torch.cat(logits).cpu().numpy()


View = Callable[[Tensor], Tensor]
"""float [N, 3, S, S] → the same shape"""


@dataclass(frozen=True)
class Conditions:
    """What all predictions of a run have in common."""

    precision: str
    device: torch.device
    preprocessing: Preprocessing
    source_prior: np.ndarray
    """(classes,) shares of the classes among the source's training images"""
    source_images: np.ndarray | None = None
    """uint8 [M, S, S, 3], the source's training images; None where they are not here."""

    def predict(self, model: nn.Module, pixels: np.ndarray) -> np.ndarray:
        """Logits float32 [N, C] of uint8 images [N, S, S, 3], in evaluation mode."""
        return predict(model, pixels, self.precision, self.device, self.preprocessing)

    def standardised(self, pixels: np.ndarray) -> Tensor:
        """uint8 [N, S, S, 3] → float32 [N, 3, S, S] as the network expects it, on the device."""
        batch = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        return standardise(to_float(batch.to(self.device)), self.preprocessing)


Predictor = Callable[[np.ndarray], np.ndarray]
"""Images uint8 [N, S, S, 3] → logits float32 [N, C]; of each image apart from the others."""


class Inference:
    """One view of each image: the logits of the network as it is."""

    transductive = False
    batch_statistics = False
    """Whether it needs a network with running statistics of batches."""
    averages_probabilities = False
    """Whether its logits are logarithms of probabilities."""

    def fit(self, model: nn.Module, pixels: np.ndarray, conditions: Conditions) -> Predictor:
        """What predicts any images once what it needs of these, uint8 [N, S, S, 3], is taken.

        `model` stays as it was.
        """
        return partial(conditions.predict, model)

    def __call__(self, model: nn.Module, pixels: np.ndarray, conditions: Conditions) -> np.ndarray:
        """Logits float32 [N, C] of one test set, uint8 [N, S, S, 3]. `model` stays as it was."""
        return self.fit(model, pixels, conditions)(pixels)


VIEWS: dict[str, tuple[View, ...]] = {
    # The 8 symmetries of the square, each once.
    "dihedral": tuple(
        lambda x, turns=turns, flip=flip: torch.rot90(x.flip(3) if flip else x, turns, (2, 3))
        for flip in (False, True)
        for turns in range(4)
    ),
    # The picture, and mirrored along its diagonal.
    "two": (lambda x: x, lambda x: x.transpose(2, 3)),
    # As le2026 released them: the identity twice, and half a turn twice (as both flips too).
    "as_released": (
        lambda x: x,
        lambda x: x,
        lambda x: x.flip(3),
        lambda x: x.flip(2),
        lambda x: x.flip(2, 3),
        lambda x: torch.rot90(x, 1, (2, 3)),
        lambda x: torch.rot90(x, 2, (2, 3)),
        lambda x: torch.rot90(x, 3, (2, 3)),
    ),
}


class Averaged(nn.Module):
    """Logarithm of the probabilities of a network, averaged over views of each image."""

    def __init__(self, model: nn.Module, views: tuple[View, ...]) -> None:
        super().__init__()
        self.model, self.views = model, views

    def forward(self, batch: Tensor) -> Tensor:
        logits = torch.stack([self.model(view(batch)).float() for view in self.views])
        return log_mean_probability(logits)


def log_mean_probability(logits: Tensor) -> Tensor:
    """Logits [K, N, C] of K predictions → log of their mean probability [N, C]."""
    return logits.log_softmax(-1).logsumexp(0) - np.log(len(logits))


class TestTimeAugmentation(Inference):
    """Probabilities averaged over views of each image.

    Args:
        views: a name of `VIEWS`.
        zooms: magnifications at which each view is shown, standardised as it then is; none is as
            the image is.
    """

    averages_probabilities = True

    def __init__(
        self,
        views: Literal["dihedral", "two", "as_released"] = "dihedral",
        zooms: Sequence[PositiveFloat] = (),
    ) -> None:
        self.views, self.zooms = VIEWS[views], zooms

    def fit(self, model: nn.Module, pixels: np.ndarray, conditions: Conditions) -> Predictor:
        predictor = partial(conditions.predict, Averaged(model, self.views))
        if not self.zooms:
            return predictor

        def at_each_zoom(pixels: np.ndarray) -> np.ndarray:
            shown = (predictor(magnified(pixels, zoom)) for zoom in self.zooms)
            return log_mean_probability(torch.from_numpy(np.stack(list(shown)))).numpy()

        return at_each_zoom


class BatchStatistics(Inference):
    """Batch normalisation by statistics of the test set, or mixed with those of the source.

    With `source_share` 0 it is AdaBN (Li et al. 2016), else the mixture of Schneider et al. 2020.
    One pass in training mode over the whole test set, batch by batch, with the mean of the batches'
    means and variances: statistics of a batch of mixed images, hence shuffled. Every batch weighs
    the same, so they are nearly equal: 256 images or more each, all of a smaller test set in one.
    A single image is predicted with the source's statistics. Both take the test set's mean for the
    laboratory's, which it is of mixed classes alone: on a smear of one class AdaBN collapses.

    Args:
        source_share: weight of the source's statistics, from 0 to below 1.
    """

    transductive = True
    batch_statistics = True

    def __init__(self, source_share: BelowOne = 0.0) -> None:
        self.source_share = source_share

    def fit(self, model: nn.Module, pixels: np.ndarray, conditions: Conditions) -> Predictor:
        if len(pixels) == 1:
            return partial(conditions.predict, model)
        adapted = copy.deepcopy(model).eval()
        layers = [m for m in adapted.modules() if isinstance(m, _BatchNorm)]
        source = [(m.running_mean.clone(), m.running_var.clone()) for m in layers]
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # a cumulative mean over batches
            layer.training = True  # a frozen layer's own `train` does nothing
        chunks = np.array_split(shuffled(pixels), max(1, len(pixels) // BATCH))
        with torch.inference_mode():
            for chunk in chunks:
                with autocast(conditions.device, conditions.precision):
                    adapted(conditions.standardised(chunk))
        share = self.source_share
        for layer, (mean, variance) in zip(layers, source, strict=True):
            layer.running_mean = share * mean + (1 - share) * layer.running_mean
            layer.running_var = share * variance + (1 - share) * layer.running_var
            layer.training = False
        return partial(conditions.predict, adapted)


class Tent(Inference):
    """TENT (Wang et al. 2021): affine parameters of batch norms lower the predictions' entropy.

    One pass, as in the authors' code: each batch is normalised by its own statistics, predicted,
    and then learnt from by one step of Adam, so that no prediction has learnt from its own images;
    what is left after the last whole batch is a batch of its own. Predictions depend on the order
    of the images (shuffled here, always alike: the files are sorted by class) and on the size of
    the batch. A single image that is left has no statistics of a batch: it is predicted among the
    images before it, and where there are none, with the source's statistics.

    Other images are predicted by what was learnt in the whole pass, normalised by the statistics
    of all images that it was learnt from, as AdaBN does. A test set as a whole is predicted on the
    way instead, as above: that is what its authors test.

    Args:
        learning_rate: of Adam.
        batch_size: images predicted at a time, at least 2.
    """

    transductive = True
    batch_statistics = True

    def __init__(
        self,
        learning_rate: NonNegativeFloat = 1e-3,
        batch_size: Annotated[int, Field(ge=2)] = 64,
    ) -> None:
        self.learning_rate, self.batch_size = learning_rate, batch_size

    def fit(self, model: nn.Module, pixels: np.ndarray, conditions: Conditions) -> Predictor:
        if len(pixels) == 1:
            return partial(conditions.predict, model)
        learnt = copy.deepcopy(model).eval().requires_grad_(False)
        self.learn(learnt, pixels, conditions)
        return BatchStatistics().fit(learnt, pixels, conditions)

    def __call__(self, model: nn.Module, pixels: np.ndarray, conditions: Conditions) -> np.ndarray:
        if len(pixels) == 1:
            return conditions.predict(model, pixels)
        learnt = copy.deepcopy(model).eval().requires_grad_(False)
        return self.learn(learnt, pixels, conditions)

    def learn(self, adapted: nn.Module, pixels: np.ndarray, conditions: Conditions) -> np.ndarray:
        """One pass, which changes `adapted`, of no parameter that asks for a gradient yet.

        Returns:
            Logits float32 [N, C] of the images, each as predicted on the way.
        """
        affine = []
        for layer in adapted.modules():
            if isinstance(layer, _BatchNorm):
                layer.training = True  # statistics of the batch; a frozen layer's `train` does not
                affine += [p.requires_grad_() for p in layer.parameters()]
        optimiser = torch.optim.Adam(affine, self.learning_rate)
        ordered, size = shuffled(pixels), self.batch_size
        predicted = []
        for start in range(0, len(ordered), size):
            company = size - 1 if start == len(ordered) - 1 else 0
            batch = conditions.standardised(ordered[start - company : start + size])
            with autocast(conditions.device, conditions.precision):
                logits = adapted(batch).float()[company:]
            log_probability = logits.log_softmax(1)
            entropy = -(log_probability.exp() * log_probability).sum(1).mean()
            optimiser.zero_grad()
            entropy.backward()
            optimiser.step()
            predicted.append(logits.detach())
        logits = torch.cat(predicted).cpu().numpy()
        return logits[np.argsort(order_of(len(pixels)))]


class MatchedMoments(Inference):
    """Mean and deviation of R, G, B over the whole test set made those of the source's training
    images: six numbers, the affine part of another lamp, stain and camera.

    Like AdaBN it takes what the test set has for the laboratory's, which is of mixed classes alone;
    unlike it, it needs no batch normalisation. The images matched are those that the network is
    given, after a stain normalisation.
    """

    transductive = True

    def __init__(self) -> None:
        self.source: np.ndarray | None = None

    def fit(self, model: nn.Module, pixels: np.ndarray, conditions: Conditions) -> Predictor:
        source = conditions.source_images
        if source is None:
            raise ValueError("moments are matched to those of the source's images: give them")
        if source is not self.source:  # one source, and many test sets
            self.source, self.wanted = source, moments_of(source)
        wanted, own = self.wanted, moments_of(pixels)
        return lambda images: conditions.predict(model, matched(images, wanted, own))


class MatchedScale(Inference):
    """Cells shown as large as the source's: all images of the test set are magnified about their
    middle by one factor, which makes the median diameter of their nuclei the source's.

    Where they are made smaller, what lies beyond the picture is its mirror image. With `colour`,
    mean and deviation of R, G, B are matched as well, afterwards. Nuclei differ in size between
    classes too: like `MatchedMoments` it wants a test set of mixed classes.
    """

    transductive = True

    def __init__(self, colour: bool = False) -> None:
        self.colour = colour
        self.source: np.ndarray | None = None

    def fit(self, model: nn.Module, pixels: np.ndarray, conditions: Conditions) -> Predictor:
        source = conditions.source_images
        if source is None:
            raise ValueError("scale is matched to that of the source's images: give them")
        if source is not self.source:  # one source, and many test sets
            self.source, self.wanted = source, typical_nucleus(source)
            self.moments = moments_of(source) if self.colour else None
        own = typical_nucleus(pixels)
        factor = self.wanted / own if own and self.wanted else None

        def framed(images: np.ndarray) -> np.ndarray:
            return images if factor is None else magnified(images, factor)

        if not self.colour:
            return lambda images: conditions.predict(model, framed(images))
        wanted, before = self.moments, moments_of(framed(pixels))
        return lambda images: conditions.predict(model, matched(framed(images), wanted, before))


def typical_nucleus(pixels: np.ndarray) -> float:
    """Median diameter of the nuclei of images uint8 [N, S, S, 3], as a share of the side."""
    return float(np.median([nucleus_diameter(image) for image in pixels]))


def magnified(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Images uint8 [N, S, S, 3] magnified about their middle, bilinearly, mirrored at the edge."""
    theta = torch.tensor([[1 / factor, 0.0, 0.0], [0.0, 1 / factor, 0.0]])
    changed = []
    for start in range(0, len(pixels), BATCH):
        batch = torch.from_numpy(pixels[start : start + BATCH]).permute(0, 3, 1, 2).float()
        grid = F.affine_grid(theta.expand(len(batch), 2, 3), list(batch.shape), align_corners=False)
        moved = F.grid_sample(
            batch, grid, mode="bilinear", padding_mode="reflection", align_corners=False
        )
        changed.append(moved.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy())
    return np.ascontiguousarray(np.concatenate(changed))


class PriorCorrection(Inference):
    """Predictions corrected for the class shares of the test set (Saerens et al. 2002).

    The shares are estimated from the network's own probabilities by expectation maximisation; no
    label is seen. It needs probabilities that are calibrated, which under shift they are not.
    """

    transductive = True

    def __init__(self, iterations: PositiveInt = 100) -> None:
        self.iterations = iterations

    def fit(self, model: nn.Module, pixels: np.ndarray, conditions: Conditions) -> Predictor:
        logits = conditions.predict(model, pixels)
        ratio = log_prior_ratio(logits, conditions.source_prior, self.iterations)

        def corrected(images: np.ndarray) -> np.ndarray:
            # A whole test set is not predicted twice.
            return (logits if images is pixels else conditions.predict(model, images)) + ratio

        return corrected


def log_prior_ratio(logits: np.ndarray, source_prior: np.ndarray, iterations: int) -> np.ndarray:
    """(C,) log of estimated test prior over source prior; -30 at most below (float32 holds it).

    Zero for a class that the source has no image of: nothing is known of its prior.
    """
    probability = torch.from_numpy(logits).double().softmax(1).numpy()
    prior, known = source_prior.astype(np.float64), source_prior > 0

    def ratio(prior: np.ndarray) -> np.ndarray:
        return np.divide(prior, source_prior, out=np.ones_like(prior), where=known)

    for _ in range(iterations):
        weighted = probability * ratio(prior)
        prior = (weighted / weighted.sum(1, keepdims=True)).mean(0)
    return np.log(np.maximum(ratio(prior), np.exp(-30))).astype(np.float32)


def order_of(number: int) -> np.ndarray:
    """A fixed random order of images, that a batch holds more than one class."""
    return np.random.default_rng(0).permutation(number)


def shuffled(pixels: np.ndarray) -> np.ndarray:
    """The images in the fixed random order."""
    return pixels[order_of(len(pixels))]


INFERENCES: dict[str, Callable[..., Inference]] = {
    "single": Inference,
    "tta": TestTimeAugmentation,
    "tta_as_released": partial(TestTimeAugmentation, "as_released"),
    "adabn": partial(BatchStatistics, 0.0),
    "bn_mix": BatchStatistics,
    "tent": Tent,
    "prior_correction": PriorCorrection,
    "moments": MatchedMoments,
    "scale": MatchedScale,
    "scale_and_moments": partial(MatchedScale, colour=True),
}
