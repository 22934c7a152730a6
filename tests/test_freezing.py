"""What is trained, and what stands where the classifier was."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import REPOSITORY
from torch import nn

from benchmark.errors import UserError
from benchmark.models.build import build_model, create, skip_reason
from benchmark.models.heads import FREEZING, HEADS, features_and_logits, replace_classifier
from benchmark.settings import load_params


def trained(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_last16_trains_sixteen_convolutions_of_resnet50_and_the_classifier() -> None:
    with torch.device("meta"):
        model = build_model("resnet50", "bn", {}, 5, 64, seed=0, freezing="last16").train()
    names = trained(model)
    assert {n.rpartition(".")[0] for n in names} >= {"layer3.4.conv1", "layer3.5.conv3", "fc"}
    convolutions = {n for n in names if "conv" in n or "downsample.0" in n}
    assert len(convolutions) == 16  # 2 blocks × 3, 3 blocks × 3, a shortcut
    assert all(n.startswith(("layer3.4.", "layer3.5.", "layer4.", "fc.")) for n in names)
    training = {n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d) and m.training}
    assert {n.split(".bn")[0].split(".down")[0] for n in training} == {
        "layer3.4", "layer3.5", "layer4.0", "layer4.1", "layer4.2",
    }  # fmt: skip


def test_last16_trains_sixteen_convolutions_of_efficientnet_lite0_and_the_classifier() -> None:
    with torch.device("meta"):
        model = build_model("tf_efficientnet_lite0", "bn", {}, 5, 64, 0, freezing="last16").train()
    names = trained(model)
    # 4 blocks of 3 convolutions (expansion, depthwise, projection), one such block, the last.
    modules = dict(model.named_modules())
    owners = {n.rpartition(".")[0] for n in names}
    assert sum(isinstance(modules[n], nn.Conv2d) for n in owners) == 16
    whole = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    assert set(whole[-16:]) <= owners
    normalised = {n for n, m in modules.items() if isinstance(m, nn.BatchNorm2d)}
    training = {n for n in normalised if modules[n].training}
    assert training == owners & normalised
    assert len(training) == 16
    assert owners - training - set(whole) == {"classifier"}


def test_last16_is_skipped_where_it_is_not_defined() -> None:
    for backbone in ("resnet34", "resnet101", "vgg11", "tf_efficientnet_lite1"):
        own = "none" if backbone == "vgg11" else "bn"
        reason = skip_reason(backbone, own, {}, 64, freezing="last16")
        assert reason.endswith("last16 is defined on ResNet-50 and EfficientNet-Lite 0")


@pytest.mark.parametrize(
    ("backbone", "own", "classifier"),
    [("resnet10t", "bn", "fc"), ("convnext_atto", "ln", "head.fc")],
)
def test_a_linear_probe_trains_the_classifier_on_features_in_evaluation_mode(
    backbone: str, own: str, classifier: str
) -> None:
    model = build_model(backbone, own, {}, 5, 48, seed=0, freezing="linear")
    assert trained(model) == {f"{classifier}.weight", f"{classifier}.bias"}
    x = torch.randn(3, 3, 48, 48)
    before = copy.deepcopy(model.state_dict())
    features = model.eval().forward_features(x)
    for probe in (model, copy.deepcopy(model)):
        probe.train()
        assert torch.equal(probe.forward_features(x), features)
        probe(x).square().sum().backward()
        torch.optim.SGD(probe.parameters(), 0.1).step()
        after = probe.state_dict()
        assert {n for n in after if not torch.equal(after[n], before[n])} == trained(probe)


@pytest.mark.parametrize("freezing", FREEZING)
def test_freezing_leaves_names_in_the_state_as_they_are(freezing: str) -> None:
    with torch.device("meta"):
        plain = build_model("resnet50", "bn", {}, 5, 64, seed=0)
        model = build_model("resnet50", "bn", {}, 5, 64, seed=0, freezing=freezing)
    assert list(model.state_dict()) == list(plain.state_dict())


def test_addfc_on_resnet50_is_the_published_head() -> None:
    with torch.device("meta"):
        model = build_model("resnet50", "bn", {}, 5, 64, seed=0, head="addfc")
    layers = [type(layer).__name__ for layer in model.fc]
    assert layers == ["Linear", "ReLU", "Dropout"] * 2 + ["Linear"]
    widths = [(m.in_features, m.out_features) for m in model.fc if isinstance(m, nn.Linear)]
    assert widths == [(2048, 2048), (2048, 2048), (2048, 5)]


def test_a12_both_stages_of_le2026_have_the_released_head() -> None:
    params = load_params(REPOSITORY / "params.yaml")
    for name, method in params.methods.items():
        if name.startswith("le-") and "small" not in name and not method.members:
            assert method.head == "hidden512", name
    with torch.device("meta"):
        model = build_model("resnet50", "bn", {}, 5, 64, seed=0, head="hidden512")
    layers = [type(layer).__name__ for layer in model.fc]
    assert layers == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert (model.fc[0].in_features, model.fc[0].out_features) == (2048, 512)
    assert (model.fc[3].in_features, model.fc[3].out_features) == (512, 5)
    head = HEADS["hidden512"](2048, 5)
    assert head[0].weight.std().item() == pytest.approx((2 / 2048) ** 0.5, rel=0.02)
    assert head[0].bias.abs().max() == head[3].bias.abs().max() == 0


def test_a_new_head_follows_the_seed_and_leaves_the_backbone_as_without_it() -> None:
    plain = build_model("resnet10t", "bn", {}, 5, 48, seed=3)
    one, again = (build_model("resnet10t", "gn", {}, 5, 48, 3, head="addfc") for _ in range(2))
    assert torch.equal(one.conv1[0].weight, plain.conv1[0].weight)
    assert torch.equal(one.fc[0].weight, again.fc[0].weight)


# One of each kind of classifier: `fc`, `head.fc`, `head`, `classifier`, a 1 × 1 convolution, ours.
SMALL = (
    "resnet10t",
    "convnext_atto",
    "vit_tiny_patch16_224",
    "mobilenetv3_small_050",
    "resnetv2_18",
    "squeezenet1_1",
    "resnet10t+lstm",
)


@pytest.mark.parametrize("backbone", SMALL)
def test_features_lead_to_the_very_logits_of_the_network(backbone: str) -> None:
    model = create(backbone, 48, num_classes=5).eval()
    x = torch.randn(2, 3, 48, 48)
    with torch.inference_mode():
        features, logits = features_and_logits(model, x)
        assert torch.equal(logits, model(x))
        replace_classifier(model, lambda width: nn.Linear(width, 3))
        again, three = features_and_logits(model, x)
        assert torch.equal(again, features)
        assert torch.equal(three, model(x))
    assert three.shape == (2, 3)


def test_a_model_with_two_classifiers_has_no_features_and_takes_no_head() -> None:
    with torch.device("meta"):
        model = create("deit_tiny_distilled_patch16_224", 64, num_classes=5).eval()
        features, logits = features_and_logits(model, torch.empty(2, 3, 64, 64))
    assert features is None
    assert logits.shape == (2, 5)
    with pytest.raises(UserError, match=r"expected one classifier, found \('head', 'head_dist'\)"):
        replace_classifier(model, lambda n: nn.Linear(n, 5))


def test_unknown_heads_and_freezings_are_one_line_with_the_nearest() -> None:
    with pytest.raises(UserError, match="head: no 'addfcs'; did you mean 'addfc'"):
        build_model("resnet10t", "bn", {}, 5, 48, 0, head="addfcs")
    with pytest.raises(UserError, match="freezing: no 'last'; did you mean 'last16'"):
        build_model("resnet10t", "bn", {}, 5, 48, 0, freezing="last")
