"""Losses on features [N, D], which the classifier sees: centres, triplets, contrast, centroids.

Features are not normalised unless a loss says so. The last part is class centroid learning
(he2023): class i has a projection W_i and a centroid CE_i; a sample with features f belongs to it
by D_i = exp(-mean_M((W_i f - CE_i)²) / (2σ²)), and is given to the class of the largest D.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from benchmark.models.heads import classifier_name
from benchmark.schema import Share
from benchmark.training.contracts import Loss, median_frequency, membership


class Centre(Loss):
    """Centre loss: CE + λ/2 · mean ||f_i - c_{y_i}||² (Wen et al., ECCV 2016, eq. 5).

    The paper sums both terms over the batch; here and in its released code both are means. Centres
    start at zero and move by eq. 4 and algorithm 1, with the features of the step itself.

    Args:
        weight: λ.
        rate: α, the part of the way that a centre goes.
    """

    needs_features = True

    def __init__(
        self, class_counts: Tensor, weight: NonNegativeFloat = 0.003, rate: Share = 0.5
    ) -> None:
        super().__init__()
        self.classes = len(class_counts)
        self.weight, self.rate = weight, rate

    def attach(self, model: nn.Module) -> None:
        self.register_buffer("centres", torch.zeros(self.classes, feature_width(model)))

    def forward(self, logits: Tensor, labels: Tensor, features: Tensor | None = None) -> Tensor:
        distances = (features - self.centres[labels]).square().sum(1)
        return F.cross_entropy(logits, labels) + self.weight / 2 * distances.mean()

    def update(self, features: Tensor | None, labels: Tensor) -> None:
        """c_j -= α · Σ_{y_i = j} (c_j - f_i) / (1 + n_j)."""
        members = membership(labels, self.classes).to(features.dtype)
        counts = members.sum(0)[:, None]
        self.centres -= self.rate * (counts * self.centres - members.T @ features) / (1 + counts)


class TripletCentreHard(Loss):
    """Centre-triplet loss, hard-mined: CE + λ·(farthest own - nearest other + m)_+ (ma2020).

    Distances are squared, to centres of classes.

    Centres start from the standard normal distribution and are learned by SGD on the whole loss, as
    in the released triplet-centre loss (He et al., CVPR 2018), from which m, λ and the rate come.

    Args:
        mining: what farthest and nearest range over, a name of `MINING`.
        margin: m, in squared units of the features.
        weight: λ.
        rate: learning rate of the centres.
    """

    needs_features = True

    def __init__(
        self,
        class_counts: Tensor,
        mining: Literal["batch", "per_class", "tcl"] = "batch",
        margin: NonNegativeFloat = 5.0,
        weight: NonNegativeFloat = 0.1,
        rate: NonNegativeFloat = 0.1,
    ) -> None:
        super().__init__()
        self.classes = len(class_counts)
        self.mine = MINING[mining]
        self.margin, self.weight, self.rate = margin, weight, rate

    def attach(self, model: nn.Module) -> None:
        self.centres = nn.Parameter(torch.randn(self.classes, feature_width(model)))

    def own_optimiser(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.centres], self.rate)

    def forward(self, logits: Tensor, labels: Tensor, features: Tensor | None = None) -> Tensor:
        # Not by the expanded square, which cancels where features lie close to their centre.
        distances = (features[:, None] - self.centres).square().sum(2)
        own = membership(labels, self.classes)
        return F.cross_entropy(logits, labels) + self.weight * self.mine(
            distances, own, self.margin
        )


def per_batch(distances: Tensor, own: Tensor, margin: float) -> Tensor:
    """One scalar a batch: the sample farthest from its centre, the nearest of another class to it.

    i* = argmax_i d(f_i, c_{y_i}), y* = y_{i*}, (d(f_{i*}, c_{y*}) + m - min_{j: y_j ≠ y*} d(f_j,
    c_{y*}))_+ (ma2020). Zero where the batch holds one class.

    Args:
        distances: squared distances float [N, C] of samples to centres.
        own: bool [N, C], where the centre is that of the sample's class.
    """
    farthest, hinge = class_hinges(distances, own, margin)
    return hinge.gather(0, farthest.argmax(0, keepdim=True)).squeeze(0)


def per_class(distances: Tensor, own: Tensor, margin: float) -> Tensor:
    """The same for every class in the batch, averaged. Zero where the batch holds one class."""
    _, hinge = class_hinges(distances, own, margin)
    return hinge.sum() / own.any(0).sum()


def class_hinges(distances: Tensor, own: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Farthest own sample [C] (-∞: none) and (farthest + m - nearest other sample)_+ [C]."""
    infinity = float("inf")
    farthest = distances.masked_fill(~own, -infinity).amax(0)
    nearest = distances.masked_fill(own, infinity).amin(0)
    return farthest, F.relu(farthest + margin - nearest)


def per_sample(distances: Tensor, own: Tensor, margin: float) -> Tensor:
    """Mean over samples of (to the own centre + m - to the nearest other centre)_+ (He).

    Other centres count whether or not the batch holds their class.
    """
    to_own = distances.masked_fill(~own, 0).sum(1)
    to_other = distances.masked_fill(own, float("inf")).amin(1)
    return F.relu(to_own + margin - to_other).mean()


MINING: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "batch": per_batch,
    "per_class": per_class,
    "tcl": per_sample,
}


class SupervisedContrast(Loss):
    """CE + weight · supervised contrast of projected features (Khosla et al. 2020, eq. 2).

    Decisions: the classifier is trained along with the representation by the cross-entropy, not in
    a second stage; a batch holds each image once, so that positives are other images of its class
    and an image alone in its class is no anchor. The projection (two layers, to 128, normalised)
    lies in the head, beside a new linear classifier that alone predicts.
    """

    needs_features = True
    brings_head = True

    def __init__(
        self,
        class_counts: Tensor,
        weight: NonNegativeFloat = 1.0,
        temperature: PositiveFloat = 0.1,
    ) -> None:
        super().__init__()
        self.classes = len(class_counts)
        self.weight, self.temperature = weight, temperature

    def new_head(self, width: int) -> nn.Module:
        self.head = ProjectedClassifier(width, self.classes)
        return self.head

    def forward(self, logits: Tensor, labels: Tensor, features: Tensor | None = None) -> Tensor:
        projected = F.normalize(self.head.projection(features), dim=1)
        return F.cross_entropy(logits, labels) + self.weight * contrast(
            projected, labels, self.temperature
        )


class ProjectedClassifier(nn.Module):
    """A linear classifier, and beside it the projection to [N, 128] that only the loss looks at."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(width, classes)
        self.projection = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 128))

    def forward(self, features: Tensor) -> Tensor:
        return self.classifier(features)


def contrast(projected: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Mean over anchors i of -1/|P_i| Σ_{p ∈ P_i} log(e^{z_i·z_p/τ} / Σ_{a ≠ i} e^{z_i·z_a/τ}).

    P_i: the other samples of i's class; samples without one are no anchors, and without any anchor
    the value is zero.

    Args:
        projected: z, unit vectors [N, P].
    """
    similarity = projected @ projected.T / temperature
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    # The smallest number, not -∞: a batch of one sample would have NaN for a gradient.
    others = similarity.masked_fill(itself, torch.finfo(similarity.dtype).min)
    log_p = similarity - others.logsumexp(1, keepdim=True)
    positive = (labels[:, None] == labels) & ~itself
    counts = positive.sum(1)
    per_anchor = log_p.masked_fill(~positive, 0).sum(1) / counts.clamp_min(1)
    return -per_anchor.sum() / (counts > 0).sum().clamp_min(1)


def feature_width(model: nn.Module) -> int:
    """D, the width of the features that a network's classifier sees: its first layer's."""
    layers = model.get_submodule(classifier_name(model)).modules()
    widths = (getattr(x, "in_features", getattr(x, "in_channels", None)) for x in layers)
    return next(width for width in widths if width)


SIGMA = 1.0
SPREAD = 0.05
"""Standard deviation of a centroid's initial coordinates."""

CLAMP = math.log((1 - 1e-7) / 1e-7)
"""D clamped to [1e-7, 1 - 1e-7], as log-odds."""


class CentroidHead(nn.Module):
    """Features [N, D] → log-odds of D_i, [N, C], float32 under autocast too; M = D as published.

    logit(D) = log D - log(1 - D) keeps the order of D, also where D itself rounds to 0 or 1, and
    its sigmoid is D. Centroids are a buffer: the gradient leaves them alone, the state holds them.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.projections = nn.Linear(width, classes * width, bias=False)
        nn.init.kaiming_normal_(self.projections.weight)
        self.register_buffer("centroids", SPREAD * torch.randn(classes, width))

    def project(self, features: Tensor) -> Tensor:
        """W_i f of every class, [N, C, M]."""
        return self.projections(features).unflatten(1, self.centroids.shape)

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            projected = self.project(features.to(self.centroids.dtype))
            return log_odds((projected - self.centroids).square().mean(2) / (2 * SIGMA**2))


def log_odds(q: Tensor) -> Tensor:
    """logit(e^-q) for q >= 0, finite from q = 0 (where D = 1) to the largest number."""
    q = q.clamp_min(torch.finfo(q.dtype).tiny)
    return -q - torch.log(-torch.expm1(-q))


class CentroidLearning(Loss):
    """Class centroid learning: binary cross-entropy on D; centroids move after each step (he2023).

    D is averaged over samples and classes.

    Phase 1 is the optimiser's step on network and W with CE fixed. Phase 2 takes the features of
    the same batch anew, without gradient and in training mode, and moves the centroids. (So batch
    normalisation sees every batch twice.) Predictions are the log-odds of D.

    With γ = β the centroids have no fixed point: they repel each other without bound. Their norms
    are recorded epoch by epoch, and a run ends as `nan` when one is not finite.

    Args:
        gamma: γ, how far a centroid follows its class (eq. 3-3).
        beta: β, how far it leaves the others (eq. 3-4); 0 switches repulsion off.
        renorm: cap the norm of a centroid at its expected initial one, 0.05·√M. Not published.
    """

    needs_features = True
    recomputes_features = True
    brings_head = True
    states_closeness = True
    remedy = "the centroids repel each other without bound; set beta: 0 or renorm: true"

    def __init__(
        self,
        class_counts: Tensor,
        gamma: Share = 1e-4,
        beta: Share = 1e-4,
        renorm: bool = False,
    ) -> None:
        super().__init__()
        self.classes = len(class_counts)
        self.gamma, self.beta, self.renorm = gamma, beta, renorm

    def new_head(self, width: int) -> nn.Module:
        self.head = CentroidHead(width, self.classes)
        return self.head

    def forward(self, logits: Tensor, labels: Tensor, features: Tensor | None = None) -> Tensor:
        return binary_cross_entropy(logits, labels).mean()

    def update(self, features: Tensor | None, labels: Tensor) -> None:
        head = self.head
        moved = move(head.centroids, head.project(features), labels, self.gamma, self.beta)
        if self.renorm:
            moved = moved.renorm(2, dim=0, maxnorm=SPREAD * math.sqrt(moved.shape[1]))
        head.centroids.copy_(moved)

    def facts(self) -> dict[str, float]:
        norms = self.head.centroids.norm(dim=1)
        return {
            "centroid_norm_mean": norms.mean().item(),
            "centroid_norm_max": norms.max().item(),
        }


class FocalCentroidLearning(CentroidLearning):
    """Centroid learning with a focal factor and more weight on rare classes (he2023, Focal-CCL).

    The mean over samples i and classes c of w_{y_i}·(1 - p)^f·BCE, p = D_c for the sample's class
    and 1 - D_c for the others, w_c = median(n) / n_c. Decision: the weight is that of the sample's
    class, in all its terms, and the mean does not divide by the sum of weights.

    Args:
        focusing: f, called γ in the focal loss; 0 leaves the weights alone.
    """

    def __init__(
        self,
        class_counts: Tensor,
        focusing: NonNegativeFloat = 2.0,
        gamma: Share = 1e-4,
        beta: Share = 1e-4,
        renorm: bool = False,
    ) -> None:
        super().__init__(class_counts, gamma, beta, renorm)
        self.focusing = focusing
        self.register_buffer("weights", median_frequency(class_counts))

    def forward(self, logits: Tensor, labels: Tensor, features: Tensor | None = None) -> Tensor:
        entropy = binary_cross_entropy(logits, labels)
        # BCE = -log p, so 1 - p needs no second look at the labels.
        far = -torch.expm1(-entropy)
        weights = self.weights.to(logits.dtype)[labels, None]
        return (weights * far**self.focusing * entropy).mean()


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log D_c for a sample's class and -log(1 - D_c) for the others, [N, C]; D clamped."""
    own = membership(labels, logits.shape[1]).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits.clamp(-CLAMP, CLAMP), own, reduction="none")


def move(centroids: Tensor, projected: Tensor, labels: Tensor, gamma: float, beta: float) -> Tensor:
    """Where the centroids [C, M] go after a batch: first eq. 3-3, then eq. 3-4 on its result.

    CE_i += γ·(mean of the batch's W_i f of class i - CE_i), only classes present;
    CE_i += β·(CE_i - mean_{j≠i} CE_j), every class at once.

    Args:
        projected: W_c f of every sample and class, [N, C, M].
    """
    members = membership(labels, len(centroids)).to(centroids.dtype)
    counts = members.sum(0)[:, None]
    means = torch.einsum("nc,ncm->cm", members, projected) / counts.clamp_min(1)
    followed = torch.where(counts > 0, centroids + gamma * (means - centroids), centroids)
    others = (followed.sum(0) - followed) / (len(centroids) - 1)
    return followed + beta * (followed - others)
