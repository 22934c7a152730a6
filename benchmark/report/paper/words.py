"""Words: what methods are called in print, and which of them and of their changes print shows.

The supplement has them all, under the names that the code uses.
"""

from __future__ import annotations

from typing import NamedTuple

SOURCES = {"raabin->*": "Raabin", "pbc-main->*": "PBC"}
"""Scenario → what its source is called."""
PLAIN_NETWORK = "resnet18-bn-ce"
BEST_SEEN = "squeezenet-imagenet-stain"
"""The network whose rejection stands beside that of the plain one."""

METHODS: dict[str, dict[str, str]] = {
    "ResNet-18 from scratch": {
        PLAIN_NETWORK: "batch normalisation (plain)",
        "resnet18-gn-ce": "group normalisation",
        "resnet18-in-ce": "instance normalisation",
        "resnet18-ibn_a-ce": "IBN-a",
    },
    "with stain augmentation": {
        "resnet18-bn-ce-stain": "batch normalisation",
        "resnet18-gn-ce-stain": "group normalisation",
        "resnet18-in-ce-stain": "instance normalisation",
        "robust": "instance, and further parts (robust)",
    },
    "Other networks from scratch": {
        "resnet34-bn-ce": "ResNet-34",
        "convnext_tiny": "ConvNeXt, small",
        "swin_tiny": "Swin, small",
        "crossformer_tiny": "CrossFormer, small",
        "vit_tiny": "vision transformer, small",
        "squeezenet": "SqueezeNet",
        "squeezenet-stain": "SqueezeNet, stain augmentation",
    },
    "From the weights of ImageNet": {
        "squeezenet-imagenet": "SqueezeNet",
        BEST_SEEN: "SqueezeNet, stain augmentation",
        "squeezenet-imagenet-stain-tta": "SqueezeNet, stain augm., eight views",
    },
    "Put together": {
        "ensemble-bn-gn-in": "ensemble of three normalisations",
        "tsutsui-small": "GN, Mixup and smoothed labels, small",
        "le-small": "decoupled ensemble, small",
        "he-small": "CrossFormer with class centroids, small",
    },
    "Colours alone": {"colour-histogram": "histogram, logistic regression"},
}
"""The rows of the table of scores, by group."""

ADAPTED = {
    "resnet18-bn-ce-adabn": "AdaBN",
    "resnet18-bn-ce-bn_mix": "half-mixed statistics",
    "resnet18-bn-ce-tent": "TENT",
    "resnet18-bn-ce-prior_correction": "prior correction (EMQ)",
}
"""Methods that see the target's unlabelled images, and never share a table with the others."""

HEAT = {
    PLAIN_NETWORK: "plain",
    "resnet18-in-ce": "instance norm.",
    "resnet18-bn-ce-stain": "stain augm.",
    "resnet18-in-ce-stain": "both",
    BEST_SEEN: "ImageNet + stain",
}
"""The rows of the heat map."""


class Change(NamedTuple):
    """Two methods that differ in one part, and what that is called."""

    name: str
    method: str
    reference: str


CHANGES: dict[str, tuple[Change, ...]] = {
    "Augmentation": (
        Change("stain, BN", "resnet18-bn-ce-stain", "resnet18-bn-ce"),
        Change("stain, GN", "resnet18-gn-ce-stain", "resnet18-gn-ce"),
        Change("stain, IN", "resnet18-in-ce-stain", "resnet18-in-ce"),
        Change("stain, BN, larger image", "resnet18-bn-ce-stain-large", "resnet18-bn-ce-large"),
        Change("stain, SqueezeNet", "squeezenet-stain", "squeezenet"),
        Change("stain, ImageNet", "squeezenet-imagenet-stain", "squeezenet-imagenet"),
        Change("strong, BN", "resnet18-bn-ce-strong", "resnet18-bn-ce"),
        Change("strong, GN", "resnet18-gn-ce-strong", "resnet18-gn-ce"),
        Change("strong, IN", "resnet18-in-ce-strong", "resnet18-in-ce"),
    ),
    "Normalisation, for BN": (
        Change("IN", "resnet18-in-ce", "resnet18-bn-ce"),
        Change("IN, larger image", "resnet18-in-ce-large", "resnet18-bn-ce-large"),
        Change("IN, ResNet-34", "resnet34-in-ce", "resnet34-bn-ce"),
        Change("IN, stain augmentation", "resnet18-in-ce-stain", "resnet18-bn-ce-stain"),
        Change("GN", "resnet18-gn-ce", "resnet18-bn-ce"),
        Change("GN, stain augmentation", "resnet18-gn-ce-stain", "resnet18-bn-ce-stain"),
        Change("IBN-a", "resnet18-ibn_a-ce", "resnet18-bn-ce"),
        Change("IBN, literal reading", "resnet18-ibn_literal-ce", "resnet18-bn-ce"),
    ),
    "Weights and input": (
        Change("ImageNet, SqueezeNet", "squeezenet-imagenet", "squeezenet"),
        Change("ImageNet, with stain", "squeezenet-imagenet-stain", "squeezenet-stain"),
        Change("Macenko normalisation", "resnet18-bn-ce-macenko", "resnet18-bn-ce"),
        Change("larger image", "resnet18-bn-ce-large", "resnet18-bn-ce"),
        Change("tighter crop", "resnet18-bn-ce-tight", "resnet18-bn-ce"),
    ),
    "Loss, for cross-entropy": (
        Change("class centroids", "resnet18-bn-ccl", "resnet18-bn-ce"),
        Change("balanced softmax", "resnet18-bn-balanced_softmax", "resnet18-bn-ce"),
        Change("focal", "resnet18-bn-focal", "resnet18-bn-ce"),
        Change("centre-triplet, mined", "resnet18-bn-triplet_centre_hard", "resnet18-bn-ce"),
    ),
    "Answer": (
        Change(
            "decoupled classifier", "resnet18-bn-ce-decoupled", "resnet18-bn-ce-decoupled_neither"
        ),
        Change("eight views", "squeezenet-imagenet-stain-tta", "squeezenet-imagenet-stain"),
    ),
    "Recipe, both sources": (
        Change("Mixup", "pair-mixup", "pair-erm"),
        Change("IDG, BoDA-like", "pair-idg_boda", "pair-erm"),
        Change("GroupDRO", "pair-groupdro", "pair-erm"),
        Change("CORAL", "pair-coral", "pair-erm"),
    ),
    "Sees unlabelled target images": (
        Change("AdaBN", "resnet18-bn-ce-adabn", "resnet18-bn-ce"),
        Change("TENT", "resnet18-bn-ce-tent", "resnet18-bn-ce"),
        Change("half-mixed statistics", "resnet18-bn-ce-bn_mix", "resnet18-bn-ce"),
        Change("prior correction", "resnet18-bn-ce-prior_correction", "resnet18-bn-ce"),
    ),
}
"""The rows of the figure of differences, by group."""


def method_words(name: str) -> str:
    """What a method is called in a sentence; a name that is not in print stays itself."""
    for group, methods in METHODS.items():
        if name in methods:
            group = group if group.startswith("ResNet") else f"{group[0].lower()}{group[1:]}"
            return f"{methods[name]}, {group}"
    return ADAPTED.get(name, name)
