"""What a conformal p-value costs as the calibration set grows: sorted once, and as it is defined.

`pytest --benchmark -s tests/speed/test_conformal_speed.py` prints the seconds of 200 queries in
five classes: O(log n) a value by binary search, O(n) by comparing with every calibration image.
"""

from __future__ import annotations

import numpy as np
import torch

from benchmark.evaluation.rejection import conformal_calibration, p_values
from benchmark.speed.measure import in_turn

CLASSES, QUERIES = 5, 200
SIZES = (2_000, 20_000, 200_000, 2_000_000)
"""Calibration images, in all classes together."""


def naive_p_values(own: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """(queries, classes) p-values by their definition: each query meets each calibration image.

    Args:
        own: (images,) scores of the calibration images for their own classes.
        labels: (images,) those classes.
        queries: (queries, classes) scores.
    """
    p = np.empty(queries.shape)
    for c in range(queries.shape[1]):
        scores = own[labels == c]
        for place, score in enumerate(queries[:, c]):
            p[place, c] = (1 + np.count_nonzero(scores >= score)) / (len(scores) + 1)
    return p


def test_p_values_sorted_once_against_their_definition(benchmark) -> None:
    random = np.random.default_rng(0)
    # Rounded, so that equal scores occur.
    queries = random.random((QUERIES, CLASSES)).round(4)
    print()
    for size in SIZES:
        labels = random.integers(0, CLASSES, size)
        scores = random.random((size, CLASSES)).round(4)
        calibration = conformal_calibration(scores, labels)
        own = scores[np.arange(size), labels]
        sides = {
            "sorted": lambda: p_values(calibration, queries),  # noqa: B023
            "naive": lambda: naive_p_values(own, labels, queries),  # noqa: B023
        }
        assert np.array_equal(*(compute() for compute in sides.values()))
        seconds = {
            name: t.processor_s for name, t in in_turn(sides, 3, torch.device("cpu")).items()
        }
        benchmark.extra_info[size] = seconds
        print(
            f"{size:7d} calibration images: sorted {1e3 * seconds['sorted']:.2f} ms, naive "
            f"{1e3 * seconds['naive']:.0f} ms: {seconds['naive'] / seconds['sorted']:.0f} x"
        )
    benchmark(lambda: p_values(calibration, queries))
