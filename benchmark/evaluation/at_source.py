"""What is known of a run before it meets a target: its answers on the source's calibration part."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from benchmark.evaluation.calibration import fit_temperature
from benchmark.evaluation.experiments import RecordedRun
from benchmark.evaluation.selective import closeness
from benchmark.metrics import confusion_matrix, probabilities
from benchmark.study.predictions import Predictions, TestSet


class AtSource(NamedTuple):
    """A run's answers on the calibration part, which chose nothing before."""

    held: Predictions
    confusion: np.ndarray
    """(classes, classes) counts, true × predicted"""
    temperature: float | None
    """None where the logits are no logits of a softmax, which a temperature could scale"""

    def stated(self, own: Predictions) -> np.ndarray:
        """(images, classes) probabilities of a test set, scaled by the source's temperature."""
        if self.temperature is None:
            return own.probabilities
        return probabilities(own.logits, self.temperature)

    @property
    def prior(self) -> np.ndarray:
        """(classes,) shares of the classes among the calibration images"""
        return self.confusion.sum(axis=1) / self.confusion.sum()


def at_source(run: RecordedRun, known: dict[TestSet, Predictions]) -> AtSource | None:
    """What a run says of its source; None where the calibration part was not predicted."""
    held = known.get((run.scenario.source, "calibration"))
    if held is None or not len(held.labels):
        return None
    confusion = confusion_matrix(held.labels, held.predicted, held.logits.shape[1])
    if run.method.states_shares or closeness(run.method):
        return AtSource(held, confusion, None)
    return AtSource(held, confusion, fit_temperature(held.logits, held.labels))
