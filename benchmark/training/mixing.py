"""Recipes that mix domains and styles: images of two domains, statistics of early feature maps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.schema import Share
from benchmark.training.contracts import Batch, Loss, Recipe


class InterDomainMixup(Recipe):
    """Mixup of pairs of source domains, as in DomainBed (Gulrajani & Lopez-Paz, ICLR 2021).

    At every step the domains stand in a random circle and each is mixed with the next, image by
    image, by a λ ~ Beta(α, α) of its own; the loss is the mean over the pairs. Of two domains that
    have not as many images in a batch, those of the larger one that find no partner do not count:
    `sampler: domain_balanced` leaves none out.

    Args:
        alpha: α, above 0; DomainBed's default is 0.2.
    """

    mixes = True
    needs_domains = True

    def __init__(self, alpha: PositiveFloat = 0.2) -> None:
        super().__init__()
        self.alpha = alpha
        self.pairs: list[tuple[Tensor, Tensor, float]] = []

    def attach(self, counts: Tensor, epochs: int, seed: int) -> None:
        self.generator = np.random.default_rng(seed)

    def mix(self, images: Tensor, groups: list[Tensor]) -> Tensor:
        circle = [groups[domain] for domain in self.generator.permutation(len(groups))]
        self.pairs, mixed = [], images.clone()
        for first, second in zip(circle, circle[1:] + circle[:1], strict=True):
            share = float(self.generator.beta(self.alpha, self.alpha))
            number = min(len(first), len(second))
            first, second = first[:number], second[:number]
            mixed[first] = share * images[first] + (1 - share) * images[second]
            if number:
                self.pairs.append((first, second, share))
        return mixed

    def forward(self, loss: Loss, batch: Batch) -> Tensor:
        values = []
        for first, second, share in self.pairs:
            part = batch.of(first)
            own = loss(part.logits, part.labels, part.features)
            other = loss(part.logits, batch.labels[second], part.features)
            values.append(share * own + (1 - share) * other)
        return torch.stack(values).mean() if values else batch.value(loss)


class MixStyle(Recipe):
    """Mean and deviation of early feature maps mixed with those of other images of the batch.

    Zhou et al., ICLR 2021, as in the authors' code: after the stages that reduce the image 4 and 8
    times (layer1 and layer2 of a ResNet), each with a probability of its own in every step; one
    λ ~ Beta(α, α) an image, its partner that of a random order of the batch, whatever the source.
    Labels stay, and no gradient flows through the statistics.

    Args:
        alpha: α, above 0.
        probability: that a stage mixes in a step.
    """

    def __init__(self, alpha: PositiveFloat = 0.1, probability: Share = 0.5) -> None:
        super().__init__()
        self.alpha, self.probability = alpha, probability

    def attach(self, counts: Tensor, epochs: int, seed: int) -> None:
        self.generator = np.random.default_rng(seed)

    @contextmanager
    def inside(self, model: nn.Module) -> Iterator[None]:
        hooks = [stage.register_forward_hook(self.mixed) for stage in early_stages(model)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def mixed(self, stage: nn.Module, inputs: tuple[Tensor, ...], maps: Tensor) -> Tensor:
        """The stage's feature maps [N, C, H, W] with the statistics that they get in this step."""
        if self.generator.random() >= self.probability:
            return maps
        shares = self.generator.beta(self.alpha, self.alpha, len(maps)).astype(np.float32)
        partners = self.generator.permutation(len(maps))
        shares, partners = (torch.from_numpy(a).to(maps.device) for a in (shares, partners))
        return mix_statistics(maps, partners, shares)


MIXED_REDUCTIONS = (4, 8)
"""How many times smaller than the image the feature maps are whose statistics are mixed."""


def early_stages(model: nn.Module) -> list[nn.Module]:
    """The modules after which feature maps are 4 and 8 times smaller than the image.

    Raises:
        UserError: the network does not say where.
    """
    known = {stage["reduction"]: stage["module"] for stage in getattr(model, "feature_info", ())}
    channels_second = getattr(model, "output_fmt", "NCHW") == "NCHW"
    if not (known.keys() >= set(MIXED_REDUCTIONS) and channels_second):
        raise UserError(
            "recipe mixstyle mixes feature maps 4 and 8 times smaller than the image, and "
            f"{type(model).__name__} does not say where it has them: take another backbone"
        )
    return [model.get_submodule(known[reduction]) for reduction in MIXED_REDUCTIONS]


STATISTICS_EPS = 1e-6
"""Added to a variance before its root, as in the authors' code."""


def mix_statistics(maps: Tensor, partners: Tensor, shares: Tensor) -> Tensor:
    """Feature maps [N, C, H, W] of mean λμ + (1 - λ)μ' and deviation λσ + (1 - λ)σ' per channel.

    Args:
        partners: position in the batch of each image's partner, int64 [N].
        shares: λ, float32 [N].
    """
    values, share = maps.float(), shares[:, None, None, None]
    variance, mean = torch.var_mean(values.detach(), dim=(2, 3), keepdim=True)
    deviation = (variance + STATISTICS_EPS).sqrt()
    mean_too = share * mean + (1 - share) * mean[partners]
    deviation_too = share * deviation + (1 - share) * deviation[partners]
    return ((values - mean) / deviation * deviation_too + mean_too).to(maps.dtype)
