"""CNN-RNN: what the two branches read, what the classifier sees, and timm's interface."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.models.architectures.cnn_rnn import CnnRnn, create_cnn_rnn


def small(seed: int = 0, classes: int = 5) -> CnnRnn:
    torch.manual_seed(seed)
    return create_cnn_rnn("resnet10t+lstm", classes, img_size=48)


def read_rows(rows: Tensor, lstm: nn.LSTM) -> Tensor:
    """Last state [64] of the upper layer, gate by gate (Hochreiter & Schmidhuber 1997)."""
    sequence = list(rows)
    for layer in range(2):
        w_in, w_state = (getattr(lstm, f"weight_{k}_l{layer}") for k in ("ih", "hh"))
        b_in, b_state = (getattr(lstm, f"bias_{k}_l{layer}") for k in ("ih", "hh"))
        state, cell, states = torch.zeros(64), torch.zeros(64), []
        for x in sequence:
            gates = w_in @ x + b_in + w_state @ state + b_state
            into, forget, new, out = gates.view(4, 64)
            cell = forget.sigmoid() * cell + into.sigmoid() * new.tanh()
            state = out.sigmoid() * cell.tanh()
            states.append(state)
        sequence = states
    return sequence[-1]


@torch.no_grad()
def test_pooled_features_stand_beside_the_last_state_of_an_lstm_over_grey_rows() -> None:
    model = small().eval()
    images = torch.randn(2, 3, 48, 48)
    features = model.forward_features(images)
    pooled = model.cnn.forward_features(images).mean((2, 3))
    torch.testing.assert_close(features[:, :512], pooled)
    for i in range(2):
        red, green, blue = images[i]
        grey = 0.299 * red + 0.587 * green + 0.114 * blue
        torch.testing.assert_close(
            features[i, 512:], read_rows(grey, model.lstm), atol=1e-4, rtol=1e-3
        )
    assert features.shape == (2, 512 + 64)


@torch.no_grad()
def test_128_features_of_both_branches_enter_the_classifier() -> None:
    model = small().eval()
    both = torch.randn(3, 576)
    features = model.forward_head(both, pre_logits=True)
    expected = (both @ model.fc.weight.T + model.fc.bias).clamp(min=0)
    torch.testing.assert_close(features, expected)
    assert features.shape == (3, model.num_features) == (3, 128)
    torch.testing.assert_close(
        model.forward_head(both), features @ model.classifier.weight.T + model.classifier.bias
    )


@pytest.mark.parametrize(("name", "size"), [("resnet50", 64), ("inception_v3", 96)])
def test_the_published_pairs_build_with_timms_interface(name: str, size: int) -> None:
    with torch.device("meta"):
        model = create_cnn_rnn(f"{name}+lstm", 4, img_size=size)
        assert model.cnn(torch.randn(2, 3, size, size)).shape == (2, 2048)
    assert model.fc.in_features == 2048 + 64
    assert model.pretrained_cfg["architecture"] == f"{name}+lstm"
    assert model.get_classifier() is model.get_submodule(model.pretrained_cfg["classifier"])
    assert model.get_classifier().in_features == 128
    assert model.pretrained_cfg["mean"] == model.cnn.pretrained_cfg["mean"]
    assert model.default_cfg["std"] == model.cnn.pretrained_cfg["std"]


def test_xception_is_built_under_the_name_timm_gives_it_now() -> None:
    with torch.device("meta"), pytest.warns(UserWarning, match="legacy_xception"):
        model = create_cnn_rnn("xception+lstm", 4, img_size=64)
    assert model.fc.in_features == 2048 + 64


def test_every_parameter_is_trained() -> None:
    model = small().train()
    model(torch.randn(4, 3, 48, 48)).square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert all(p.grad.abs().sum() > 0 for p in model.lstm.parameters())


def test_initial_weights_follow_the_seed() -> None:
    first, again, other = (small(seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lstm.weight_ih_l0"], other["lstm.weight_ih_l0"])


def test_a_training_step_of_the_same_seed_gives_the_same_bits() -> None:
    def step() -> Tensor:
        model = small(5)
        model(torch.randn(4, 3, 48, 48)).square().mean().backward()
        return torch.cat([p.grad.flatten() for p in model.lstm.parameters()])

    assert torch.equal(step(), step())


def test_a_saved_state_gives_the_same_logits_in_another_model(tmp_path: Path) -> None:
    first, second = small(1).eval(), small(2).eval()
    images = torch.randn(2, 3, 48, 48)
    save_file(first.state_dict(), tmp_path / "state.safetensors")
    with torch.no_grad():
        assert not torch.equal(first(images), second(images))
        second.load_state_dict(load_file(tmp_path / "state.safetensors"))
        assert torch.equal(first(images), second(images))


def test_bf16_autocast_stays_near_fp32_and_trains() -> None:
    model, images = small().eval(), torch.randn(4, 3, 48, 48)
    exact = model(images).detach()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(images)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).abs().max() < 0.05 * exact.abs().max()
    rounded.float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_the_classifier_can_be_exchanged_and_taken_off() -> None:
    model, images = small().eval(), torch.randn(2, 3, 48, 48)
    model.reset_classifier(3)
    assert model(images).shape == (2, 3)
    model.reset_classifier(0)
    features = model.forward_head(model.forward_features(images), pre_logits=True)
    torch.testing.assert_close(model(images), features)


def test_images_of_another_width_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="rows of 48 pixels, these images have 64: build it with"):
        small()(torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet10t", "'resnet10t' is no CNN-RNN: name it <timm name>\\+lstm"),
        ("resnet10t+gru", "is no CNN-RNN"),
        ("resnet81+lstm", "unknown backbone 'resnet81'.*did you mean"),
    ],
)
def test_a_name_that_means_nothing_is_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_cnn_rnn(name, 5)
