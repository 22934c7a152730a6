"""A run's network and the prepared images → its features in the plane (t-SNE), as a small record.

Features are not in git; the record is, so that a clone without images draws its figure. The images
drawn depend on the images alone, so that records of several runs show the same cells.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.manifold import TSNE

from benchmark.data.arrays import Images
from benchmark.errors import UserError
from benchmark.execution.networks import RunContext, axis_seed, trained_network
from benchmark.execution.predicting import cached_features, conditions_of
from benchmark.files import write_text
from benchmark.progress import track
from benchmark.scenarios import corruption_of
from benchmark.study.plan import profile_folder
from benchmark.study.records import network_sha256
from benchmark.training.readouts import Features

MOST_IMAGES = 150
"""drawn of a test set, as many of each class as it has"""
PERPLEXITY = 30
NEIGHBOURS = 10
"""counted in the features themselves, where t-SNE distorts nothing"""


def embed(root: Path, profile: str, classes: list[str], run_ids: list[str]) -> list[Path]:
    """Write `results/<profile>/embeddings/<run>.json` of each run.

    Raises:
        UserError: no such run, or not done; its checkpoint or the images are not here; more than
            its network predicts (an ensemble, a readout, what adapts to the test images).
    """
    context = RunContext(root, profile, classes)
    context.open_images()
    written = []
    for run_id in track(run_ids, "embedding"):
        path = profile_folder(root, profile) / "embeddings" / f"{run_id.replace('/', '__')}.json"
        write_text(path, json.dumps(embedding(context, run_id)) + "\n")
        written.append(path)
    return written


def embedding(context: RunContext, run_id: str) -> dict[str, Any]:
    """The source's id_test and every plain target in the plane of one run's features.

    Returns:
        run_id and digest of its predictions; test sets as (domain, part); of each image drawn the
        place of its test set, its class and its coordinates; shares as in `neighbours_alike`.
    """
    run, model = trained_network(context, run_id)
    images, source = context.images_of(run), run.scenario.source
    conditions = conditions_of(context, run, images.part(source, "train"))
    targets = [name for name in run.scenario.targets if corruption_of(name) is None]
    if not targets:
        raise UserError(f"{run_id} has no target but corruptions: choose a run that has another")
    test_sets = [(source, "id_test"), *((name, "shifted") for name in targets)]
    network = network_sha256(model.state_dict())
    columns = []
    for index, (domain, part) in enumerate(test_sets):
        seed = axis_seed("embedding", domain, part)
        chosen = draw(images.test_set(domain, part), len(context.classes), seed)
        values = cached_features(context, run, Features(model), network, chosen, conditions)
        columns.append((values, chosen.labels, np.full(len(chosen), index)))
    features, labels, test_set = map(np.concatenate, zip(*columns, strict=True))
    # It has to be below the number of images, which a small set of one's own may not have.
    perplexity = min(PERPLEXITY, (len(features) - 1) // 3)
    plane = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(features)
    same_domain, same_class = neighbours_alike(features, test_set, labels)
    return {
        "schema_version": 1,
        "run_id": run_id,
        "predictions_sha256": run.predictions_sha256,
        "perplexity": perplexity,
        "neighbours": NEIGHBOURS,
        "same_domain": same_domain,
        "same_class_elsewhere": same_class,
        "test_sets": test_sets,
        "images": {
            "test_set": test_set.tolist(),
            "class": labels.tolist(),
            "x": [round(float(value), 1) for value in plane[:, 0]],
            "y": [round(float(value), 1) for value in plane[:, 1]],
        },
    }


def draw(images: Images, classes: int, seed: int) -> Images:
    """Of each class of a test set equally many images at random, or all that it has, in order."""
    generator = np.random.default_rng(seed)
    each = [generator.permutation(np.flatnonzero(images.labels == c)) for c in range(classes)]
    rows = np.sort(np.concatenate([some[: MOST_IMAGES // classes] for some in each]))
    return Images(images.pixels[rows], images.labels[rows], images.table.iloc[rows])


def neighbours_alike(
    features: np.ndarray, test_sets: np.ndarray, labels: np.ndarray
) -> tuple[float, float]:
    """Shares, mean over images, of an image's nearest neighbours: from its own test set, of all;
    and of its own class, of those from the other test sets.

    Args:
        features: [N, D]; distances are Euclidean.
        test_sets: [N], index of the test set that an image is of.
        labels: [N].
    """
    distances = cdist(features, features)
    np.fill_diagonal(distances, np.inf)
    same_set = test_sets == test_sets[:, None]
    counted = min(NEIGHBOURS, len(features) - 1)
    nearest = distances.argsort(axis=1)[:, :counted]
    same_domain = np.take_along_axis(same_set, nearest, axis=1).mean()
    counted = min(NEIGHBOURS, int((~same_set).sum(axis=1).min()))
    abroad = np.where(same_set, np.inf, distances).argsort(axis=1)[:, :counted]
    same_class = (labels[abroad] == labels[:, None]).mean()
    return round(float(same_domain), 4), round(float(same_class), 4)
