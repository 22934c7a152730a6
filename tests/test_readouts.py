"""Readouts: fitted on frozen features of the source; the network is not touched."""

import numpy as np
import pytest
import timm
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from benchmark.errors import UserError
from benchmark.models.weights import IMAGENET
from benchmark.parts import check_block
from benchmark.training.readouts import READOUTS, Decoupled, Features, PixelFeatures, Source

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
SMALL = {"hidden": 16, "epochs": 60, "batch_size": 32}
PARAMETERS = {"decoupled": SMALL}


@pytest.fixture(scope="module")
def source():
    """Three classes as overlapping clouds in 6 dimensions, 8 times as many of the first."""
    generator = np.random.default_rng(0)

    def cloud(counts):
        labels = np.repeat(np.arange(3), counts)
        centres = 2 * np.eye(3, 6)[labels]
        return (centres + generator.normal(size=centres.shape)).astype(np.float32), labels

    return Source(*cloud([160, 20, 20]), *cloud([30, 30, 30]))


def answers(head, features):
    with torch.inference_mode():
        return head.eval()(torch.from_numpy(features)).argmax(1).numpy()


@pytest.mark.parametrize("name", [name for name in READOUTS if name != "head"])
def test_a_readout_learns_its_source(name, source):
    head = READOUTS[name](**PARAMETERS.get(name, {}))(source, 3, 0)
    recall = [
        (answers(head, source.id_val_features)[source.id_val_labels == c] == c).mean()
        for c in range(3)
    ]
    assert np.mean(recall) > 0.6


def test_the_probe_answers_as_logistic_regression_on_standardised_features(source):
    scaler = StandardScaler().fit(source.features)
    regression = LogisticRegression(max_iter=2000).fit(
        scaler.transform(source.features), source.labels
    )
    head = READOUTS["linear_probe"]()(source, 3, 0)
    with torch.inference_mode():
        probabilities = head(torch.from_numpy(source.id_val_features)).softmax(1)
    expected = regression.predict_proba(scaler.transform(source.id_val_features))
    np.testing.assert_allclose(probabilities, expected, atol=2e-3)


def test_a_feature_that_never_varies_is_no_trouble(source):
    flat = source._replace(
        features=np.pad(source.features, ((0, 0), (0, 1))),
        id_val_features=np.pad(source.id_val_features, ((0, 0), (0, 1))),
    )
    head = READOUTS["linear_probe"]()(flat, 3, 0)
    assert torch.isfinite(head.weight).all()


def test_neighbours_vote_as_in_scikit_learn(source):
    head = READOUTS["nearest_neighbours"](neighbours=7)(source, 3, 0)
    vote = KNeighborsClassifier(7, metric="cosine").fit(source.features, source.labels)
    with torch.inference_mode():
        shares = head(torch.from_numpy(source.id_val_features)).exp().numpy()
    expected = vote.predict_proba(source.id_val_features)
    np.testing.assert_allclose(shares, (7 * expected + 1 / 3) / 8, atol=1e-6)


def test_a_balanced_sampler_serves_the_rare_classes(source):
    def recall_of_rare(sampler):
        head = Decoupled("ce", sampler=sampler, hidden=16, epochs=30)(source, 3, 0)
        predicted = answers(head, source.id_val_features)
        return np.mean([(predicted[source.id_val_labels == c] == c).mean() for c in (1, 2)])

    assert recall_of_rare("class_balanced") > recall_of_rare("instance")


def test_the_same_seed_gives_the_same_head(source):
    fit = READOUTS["decoupled"](**PARAMETERS["decoupled"])
    first, again, other = (fit(source, 3, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["3.weight"], other["3.weight"])


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"sampler": "clas_balanced"}, "class_balanced"),
        ({"loss": "hybird"}, "hybrid"),
        ({"stage2_bn": "drit"}, "drift"),
        ({"loss": "centre"}, "no loss of logits 'centre'"),
    ],
)
def test_a_misspelt_choice_names_those_there_are(parameters, told):
    with pytest.raises(UserError, match=told):
        check_block("readout", "decoupled", parameters)


def test_features_are_read_without_touching_the_network():
    model = timm.create_model("resnet10t", num_classes=3).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = torch.rand(4, 3, 48, 48)
    with torch.inference_mode():
        features = Features(model).eval()(batch)
        torch.testing.assert_close(model.get_classifier()(features), model(batch))
    assert features.shape == (4, model.num_features)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_drift_moves_running_statistics_alone():
    """As released by le2026: every weight frozen, batch normalisation in training mode."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (24, 48, 48, 3), dtype=np.uint8)
    labels = np.arange(24) % 3
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=3)
    network = PixelFeatures(Features(model), IMAGENET).requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit = Decoupled(stage2_bn="drift", hidden=8, epochs=1, batch_size=8)
    stage = fit(Source(pixels, labels, pixels, labels, network), 3, 0)
    moved = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    assert moved == {n for n in before if n.split(".")[-1] in STATISTICS}
    # Three steps of momentum 0.1 on the first layer's own batch statistics.
    first = next(m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert first.num_batches_tracked == 3
    with torch.inference_mode():
        assert stage.eval()(torch.from_numpy(pixels)).shape == (24, 3)


def test_a_histogram_counts_colours():
    model = timm.create_model("colour_histogram", num_classes=2)
    pixels = torch.tensor([[0, 0, 0], [0, 0, 0], [255, 255, 255], [255, 0, 40]]) / 255
    mean, std = torch.tensor(IMAGENET.mean), torch.tensor(IMAGENET.std)
    batch = ((pixels - mean) / std).T.reshape(1, 3, 2, 2)
    shares = model.forward_features(batch)[0] ** 2
    assert {i: round(v, 6) for i, v in enumerate(shares.tolist()) if v} == {
        0: 0.5,
        7 * 64 + 7 * 8 + 7: 0.25,
        7 * 64 + 0 * 8 + 1: 0.25,  # 40 lies in the second of eight bins of 32
    }


FITTED = [name for name in READOUTS if name != "head"]


def clouds(classes, counts):
    """Clouds around unit vectors in 6 dimensions, so many images of each class; id_val has all."""
    generator = np.random.default_rng(1)

    def cloud(counts):
        labels = np.repeat(np.arange(classes), counts)
        centres = 4 * np.eye(classes, 6)[labels]
        return (centres + generator.normal(size=centres.shape)).astype(np.float32), labels

    return Source(*cloud(counts), *cloud([20] * classes))


@pytest.mark.parametrize("name", FITTED)
def test_a04_every_readout_tells_two_classes_apart(name):
    source = clouds(2, [60, 30])
    head = READOUTS[name](**PARAMETERS.get(name, {}))(source, 2, 0)
    predicted = answers(head, source.id_val_features)
    for label in (0, 1):
        assert (predicted[source.id_val_labels == label] == label).mean() > 0.9


def test_a04_the_probe_of_two_classes_has_scikit_learn_s_probabilities():
    source = clouds(2, [60, 30])
    scaler = StandardScaler().fit(source.features)
    regression = LogisticRegression(max_iter=2000)
    regression.fit(scaler.transform(source.features), source.labels)
    head = READOUTS["linear_probe"]()(source, 2, 0)
    with torch.inference_mode():
        logits = head(torch.from_numpy(source.id_val_features))
    expected = regression.predict_proba(scaler.transform(source.id_val_features))
    np.testing.assert_allclose(logits.softmax(1), expected, atol=2e-3)
    np.testing.assert_allclose(logits.sum(1), 0, atol=1e-4)  # as of more classes


def without(absent):
    """Clouds of three classes, one of which has no image in training and validation."""
    source = clouds(3, [0 if label == absent else 30 for label in range(3)])
    return source._replace(id_val_features=source.features, id_val_labels=source.labels)


@pytest.mark.parametrize("name", [name for name in FITTED if name != "nearest_neighbours"])
@pytest.mark.parametrize("absent", [0, 1, 2])
def test_a04_a_class_missing_from_training_is_one_line(name, absent):
    readout = READOUTS[name](**PARAMETERS.get(name, {}))
    told = rf"class {absent} \(counted from 0\) has no training image"
    with pytest.raises(UserError, match=told):
        readout(without(absent), 3, 0)


@pytest.mark.parametrize("absent", [0, 1, 2])
@pytest.mark.parametrize(
    "readout",
    [
        READOUTS["nearest_neighbours"](),
        Decoupled("ce", sampler="instance", learning_rate=0.05, **SMALL),
        Decoupled("ce", sampler="class_balanced", learning_rate=0.05, **SMALL),
    ],
)
def test_a04_a_readout_that_weighs_no_class_never_predicts_one_missing_from_training(
    readout, absent
):
    source = without(absent)
    head = readout(source, 3, 0)
    with torch.inference_mode():
        assert torch.isfinite(head.eval()(torch.from_numpy(source.features))).all()
    assert absent not in answers(head, source.features)
