"""Claims: what published tables assert, what was measured here, and what neither of them shows.

A claim whose runs are missing says so: it is a row, never a gap. What is "computed" follows from a
formula alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmark.report.sheets.measures import (
    Evidence,
    Measured,
    augmentation_against_normalisation,
    constant_against_models,
    constant_ld,
    effect,
    ensembles_against_members,
    far_from_centroids,
    useless_ld,
)
from benchmark.report.sheets.sheet import Sheet

NOT_RUN = "not run"
HEADER = ("claim", "source", "published", "measured here", "what this does not show")


@dataclass(frozen=True)
class Claim:
    """One published claim and how it is checked."""

    text: str
    source: str
    published: str
    measure: Callable[[Evidence], Measured]
    not_shown: str


CLAIMS = (
    Claim(
        "Networks are better than a constant on BCCD",
        "tsutsui2023",
        "best of 9 models 53.1 accuracy; always neutrophil 59.0",
        constant_against_models,
        "Accuracy rewards the commonest class: 207 of the 351 cells are neutrophils",
    ),
    Claim(
        "Group instead of batch normalisation helps under shift",
        "tsutsui2023",
        "BCCD accuracy 49.1 (gn) against 23.2 (bn), different networks and weights",
        effect("normalisation", "gn", "bn"),
        "Same network from scratch: nothing about pre-trained weights",
    ),
    Claim(
        "Mixed instance and batch normalisation (IBN) generalises",
        "ma2020",
        "92 against 87 accuracy (ResNet-50), in-domain",
        effect("normalisation", "ibn_a", "bn"),
        "Placement `a` of the official code; the paper's set has 71 test smears at most",
    ),
    Claim(
        "Augmentation matters more than normalisation",
        "this benchmark",
        "–",
        augmentation_against_normalisation,
        "Ranges depend on the choices on each axis and on the image size, and carry no interval",
    ),
    Claim(
        "Strong augmentation helps under shift",
        "this benchmark",
        "–",
        effect("augmentation", "strong", ""),
        "One setting of its strengths, not the best one",
    ),
    Claim(
        "Weights learnt on ImageNet help under shift",
        "this benchmark",
        "–",
        effect("weights", "squeezenet_tv", "scratch"),
        "One small network without normalisation; nothing about large ones or weights of cells",
    ),
    Claim(
        "Decoupled classifier learning helps",
        "le2026",
        "macro-F1 65.8 → 70.4 (ResNet-50), 13 classes, one seed",
        effect("readout", "decoupled", "decoupled_neither"),
        "Equal budget: both retrain the head; another set and label space than the published one",
    ),
    Claim(
        "An ensemble of different networks is better than each of them",
        "le2026",
        "macro-F1 74.2 (three networks) against 70.4 and 70.6 (ResNet-50 and -152 alone); "
        "the challenge's final ranking is led by 77.7, 77.1 and 74.0",
        ensembles_against_members,
        "Smaller members, from scratch; the best one is chosen on the targets",
    ),
    Claim(
        "Macenko normalisation helps",
        "le2026",
        "credited with the gain, but never ran in the released code",
        effect("stain", "macenko", "none"),
        "One reference image; sets without a haematoxylin-eosin stain",
    ),
    Claim(
        "Balanced softmax helps the rare classes",
        "he2023",
        "recall 91.35 against 90.86 (General)",
        effect("loss", "balanced_softmax", "ce"),
        "Private data there; macro-F1 here, not recall",
    ),
    Claim(
        "Class centroid learning beats cross-entropy",
        "he2023",
        "F1 92.27 against 91.45 (CrossFormer-T), one seed",
        effect("loss", "ccl", "ce"),
        "Private data and networks that had longer to learn there",
    ),
    Claim(
        "CCL's confidence tells the unreliable",
        "he2023",
        "rejects 21.1 % at 98.6 % accuracy against 28.0 % at 99.1 % (conformal)",
        far_from_centroids,
        "Unequal accuracies of the accepted cannot be compared",
    ),
    Claim(
        "Ld measures learning under imbalance",
        "he2023",
        "Ld 96.8 (Focal-CCL)",
        useless_ld,
        "Ld is 1 for every uniform F1, a useless one included",
    ),
    Claim(
        "Ld ranks methods",
        "he2023",
        "Ld 95.6 to 96.8",
        constant_ld,
        "Ld is reported, never ranked by",
    ),
    Claim(
        "Hard-mined centre-triplet loss helps",
        "ma2020",
        "92 accuracy, without an ablation of the loss alone",
        effect("loss", "triplet_centre_hard", "ce"),
        "The weight of the loss is not given in the paper",
    ),
    Claim(
        "Domain-imbalance losses beat plain training on several sources",
        "umer2023",
        "BoDA 64.7 against ERM 63.2 macro-F1 (SADA paper)",
        effect("recipe", "idg_boda", "erm"),
        "Inspired by the abstract, the full text could not be read",
    ),
    Claim(
        "CORAL beats plain training on several sources",
        "umer2023",
        "64.7 against 63.2 macro-F1 (SADA paper)",
        effect("recipe", "coral", "erm"),
        "Other sets and classes than the published ones",
    ),
    Claim(
        "Mixup beats plain training on several sources",
        "umer2023",
        "63.3 against 63.2 macro-F1 (SADA paper)",
        effect("recipe", "mixup", "erm"),
        "Other sets and classes than the published ones",
    ),
)


def claims_sheet(evidence: Evidence) -> Sheet:
    """One line per claim, with every place where it was measured; `not run` where there is none."""
    rows = []
    for claim in CLAIMS:
        found = dict.fromkeys(f"{where}: {value}" for where, value in claim.measure(evidence))
        measured = "; ".join(found) or NOT_RUN
        rows.append((claim.text, claim.source, claim.published, measured, claim.not_shown))
    return Sheet(
        "claims",
        "Claims checked. Measured here: per cent, differences in points of macro-F1 with 95 % "
        "intervals over other test images and seeds (mean of the seeds that both methods have) and "
        "p-values corrected by Holm for all exchanged parts of the profile, or those of the table, "
        "of methods that differ in one part and are plain in all others but normalisation, if "
        "there are any. Computed: from the formula alone.",
        HEADER,
        tuple(rows),
        text_columns=len(HEADER),
    )
