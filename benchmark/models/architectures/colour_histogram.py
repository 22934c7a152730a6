"""A picture's colours and nothing else, as a network that has nothing to train.

What a classifier reads off colour alone, without the shape of a nucleus, is the floor that a
network has to beat, and under another stain the first thing to break. With the readout
`linear_probe` it is a colour histogram + logistic regression.
"""

from __future__ import annotations

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from benchmark.models.architectures import TimmNetwork

BINS = 8
"""Per channel: 512 colours."""


class ColourHistogram(TimmNetwork):
    """Images [N, 3, S, S], standardised as from scratch → logits [N, classes].

    The features [N, 512] are square roots of the shares of pixels in each of 8 × 8 × 8 colours
    (Euclidean distance between them is Hellinger's).
    """

    num_features = BINS**3

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.pretrained_cfg = {"classifier": "classifier", "architecture": "colour_histogram"}
        self.reset_classifier(num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        mean = x.new_tensor(IMAGENET_DEFAULT_MEAN)[:, None, None]
        std = x.new_tensor(IMAGENET_DEFAULT_STD)[:, None, None]
        # Rounded to 8-bit values first: standardising and back must not push one over an edge.
        values = ((x * std + mean) * 255).round().clamp(0, 255).long() * BINS // 256
        colours = (values[:, 0] * BINS + values[:, 1]) * BINS + values[:, 2]
        shares = torch.zeros(len(x), self.num_features, device=x.device)
        colours = colours.flatten(1)
        ones = torch.full(colours.shape, 1 / colours.shape[1], device=x.device)
        return shares.scatter_add_(1, colours, ones).sqrt()


@timm.models.register_model
def colour_histogram(
    pretrained: bool = False, num_classes: int = 1000, **_: object
) -> ColourHistogram:
    """Colours alone: the histogram of an image and a linear classifier."""
    return ColourHistogram(num_classes)
