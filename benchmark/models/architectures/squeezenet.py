"""SqueezeNet 1.1, which timm lacks: torchvision's layers behind timm's interface.

The parameters keep torchvision's names, so its published weights load from file. Its classifier, a
convolution with a ReLU over logits, is replaced by pooling and one linear layer, as every other
network here has.
"""

from __future__ import annotations

import timm
from torch import Tensor
from torchvision.models import squeezenet1_1 as torchvision_squeezenet1_1

from benchmark.models.architectures import TimmNetwork


class SqueezeNet(TimmNetwork):
    """Images [N, 3, S, S] → logits [N, classes]; S at least 32."""

    num_features = 512

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.pretrained_cfg = {"classifier": "classifier", "architecture": "squeezenet1_1"}
        self.features = torchvision_squeezenet1_1().features
        self.reset_classifier(num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.features(x)

    def pool(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


@timm.models.register_model
def squeezenet1_1(pretrained: bool = False, num_classes: int = 1000, **_: object) -> SqueezeNet:
    """SqueezeNet 1.1 (Iandola et al. 2016)."""
    return SqueezeNet(num_classes)
