"""Networks that timm lacks, each behind timm's interface."""

from __future__ import annotations

from torch import Tensor, nn


class TimmNetwork(nn.Module):
    """Images → features by `forward_features` → logits by one linear layer, as timm's networks.

    A subclass sets `num_features`, the features that enter the classifier, and places the
    classifier by `reset_classifier`.
    """

    num_features: int
    classifier_name = "classifier"

    def get_classifier(self) -> nn.Module:
        return getattr(self, self.classifier_name)

    def reset_classifier(self, num_classes: int) -> None:
        """Place a new classifier; 0 gives the pooled features instead of logits."""
        self.num_classes = num_classes
        new = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        setattr(self, self.classifier_name, new)

    def pool(self, x: Tensor) -> Tensor:
        """What `forward_features` gives → features [N, num_features]."""
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """What `forward_features` gives → logits, or the features that enter the classifier."""
        x = self.pool(x)
        return x if pre_logits else self.get_classifier()(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))
