"""Class centroid learning (he2023): a head of centroids, its loss, and how the centroids move.

Class i has a projection W_i and a centroid CE_i. A sample with features f belongs to it by
D_i = exp(-mean_M((W_i f - CE_i)²) / (2σ²)), and is given to the class of the largest D.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from benchmark.models.heads import replace_classifier
from benchmark.schema import Share
from benchmark.training.class_weights import median_frequency
from benchmark.training.loss import Loss, membership

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
    """Binary cross-entropy on D, averaged over samples and classes; centroids move after each step.

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

    def attach(self, model: nn.Module) -> None:
        def build(width: int) -> nn.Module:
            self.head = CentroidHead(width, self.classes)
            return self.head

        replace_classifier(model, build)

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
