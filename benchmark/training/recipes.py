"""Recipes by name: what training does with images, losses and source domains.

To add one, write a `Recipe` (see `contracts.py`) here or in a file of its own, register it below
and name it with its parameters under `recipes` in `params.yaml`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.schema import Share
from benchmark.training.alignment import Coral, ImbalancedDomains
from benchmark.training.contracts import Batch, Loss, Recipe


class Mixup(Recipe):
    """λ·x + (1 - λ)·x' under the loss λ·L(y) + (1 - λ)·L(y'), one λ ~ Beta(α, α) a batch.

    Zhang et al., ICLR 2018; as timm's in batch mode (tsutsui2023): x' is the batch in reverse.
    The loss is the method's: with `label_smoothing` at 0.1 it is timm's cross-entropy to soft
    targets, which is linear in them. Departure: a batch of odd size keeps its middle image as it
    is, where timm refuses the batch and tsutsui2023 drops an image.

    Args:
        alpha: α, above 0; 1 is the uniform distribution.
    """

    mixes = True

    def __init__(self, alpha: PositiveFloat = 1.0) -> None:
        super().__init__()
        self.alpha = alpha
        self.share = 1.0

    def attach(self, counts: Tensor, epochs: int, seed: int) -> None:
        self.generator = np.random.default_rng(seed)

    def mix(self, images: Tensor, groups: list[Tensor]) -> Tensor:
        self.share = float(self.generator.beta(self.alpha, self.alpha))
        return self.share * images + (1 - self.share) * images.flip(0)

    def forward(self, loss: Loss, batch: Batch) -> Tensor:
        first = loss(batch.logits, batch.labels, batch.features)
        second = loss(batch.logits, batch.labels.flip(0), batch.features)
        return self.share * first + (1 - self.share) * second


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


class GroupDRO(Recipe):
    """Σ_g q_g·L_g over source domains, q_g ∝ q_g·exp(η·L_g) at every step: the worst counts most.

    Sagawa et al., ICLR 2020, algorithm 1. Decision: groups are domains, not pairs of domain and
    class. As in the authors' code, a step sees a batch of all groups, not of one drawn at random,
    and q moves before it is used. A domain that is absent from a batch has no loss: its q changes
    by the normalisation alone.

    Args:
        eta: η, the rate of the weights.
    """

    needs_domains = True
    remedy = "lower eta or the learning rate"

    def __init__(self, eta: NonNegativeFloat = 0.01) -> None:
        super().__init__()
        self.eta = eta

    def attach(self, counts: Tensor, epochs: int, seed: int) -> None:
        self.register_buffer("weights", torch.full((len(counts),), 1 / len(counts)))

    def forward(self, loss: Loss, batch: Batch) -> Tensor:
        zero = batch.logits.new_zeros(())
        risks = torch.stack(
            [batch.of(group).value(loss) if len(group) else zero for group in batch.groups]
        )
        raised = self.weights * (self.eta * risks.detach()).exp()
        self.weights = raised / raised.sum()
        return self.weights @ risks

    def facts(self) -> dict[str, float]:
        return {f"domain_weight_{d}": q for d, q in enumerate(self.weights.tolist())}


RECIPES: dict[str, Callable[..., Recipe]] = {
    "erm": Recipe,
    "mixup": Mixup,
    "interdomain_mixup": InterDomainMixup,
    "mixstyle": MixStyle,
    "coral": Coral,
    "groupdro": GroupDRO,
    "idg_boda": ImbalancedDomains,
}
