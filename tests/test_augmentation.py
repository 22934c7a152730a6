"""Augmentation: exact where it claims to be, bounded, and a function of the seed."""

from __future__ import annotations

import itertools

import pytest
import torch

from benchmark.config import Augmentation
from benchmark.training.augmentation import Augmenter


def augment(batch: torch.Tensor, seed: int = 0, **settings: object) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return Augmenter(Augmentation(**settings), len(batch), generator)(batch, 0)


def test_without_settings_nothing_changes() -> None:
    batch = torch.rand(4, 3, 8, 8)
    assert torch.equal(augment(batch), batch)


def test_dihedral_gives_each_of_the_eight_views_exactly() -> None:
    image = torch.rand(3, 6, 6)
    views = [
        torch.rot90(torch.flip(image, (2,)) if flip else image, turns, (1, 2))
        for flip, turns in itertools.product((False, True), range(4))
    ]
    seen = set()
    for changed in augment(image.repeat(200, 1, 1, 1), dihedral=True):
        matches = [i for i, view in enumerate(views) if torch.allclose(changed, view, atol=1e-5)]
        assert len(matches) == 1
        seen.add(matches[0])
    assert seen == set(range(8))


def test_scale_magnifies_about_the_centre() -> None:
    batch = torch.zeros(64, 3, 33, 33)
    batch[:, :, 12:21, 12:21] = 1
    area = augment(batch, scale=0.3)[:, 0].sum(dim=(1, 2)) / 81
    assert area.min() == pytest.approx(0.7**2, abs=0.12)
    assert area.max() == pytest.approx(1.3**2, abs=0.12)


def test_shift_moves_the_centre_of_mass_by_no_more_than_asked() -> None:
    batch = torch.zeros(64, 3, 41, 41)
    batch[:, :, 19:22, 19:22] = 1
    moved = augment(batch, shift=0.2)[:, 0]
    position = torch.arange(41.0)
    x = (moved.sum(1) * position).sum(1) / moved.sum(dim=(1, 2)) - 20
    assert 5 < x.abs().max() <= 0.2 * 41 + 0.1


def test_colour_changes_are_bounded_and_move_what_they_name() -> None:
    batch = torch.rand(32, 3, 8, 8) * 0.5 + 0.2
    brighter = augment(batch, brightness=0.2)
    ratio = (brighter / batch).amax(dim=(1, 2, 3))
    assert torch.allclose(ratio, (brighter / batch).amin(dim=(1, 2, 3)), atol=1e-4)
    assert ((ratio - 1).abs() <= 0.2 + 1e-5).all()
    contrast = augment(batch, contrast=0.2)
    assert torch.allclose(contrast.mean(dim=(1, 2, 3)), batch.mean(dim=(1, 2, 3)), atol=1e-5)
    grey = augment(batch.mean(1, keepdim=True).expand(-1, 3, -1, -1), saturation=0.2)
    assert torch.allclose(grey[:, 0], grey[:, 2], atol=1e-5)


def test_the_same_seed_gives_the_same_images_in_any_batching() -> None:
    batch = torch.rand(10, 3, 8, 8)
    settings = Augmentation(dihedral=True, scale=0.1, brightness=0.1)
    whole = Augmenter(settings, 10, torch.Generator().manual_seed(5))(batch, 0)
    halves = Augmenter(settings, 10, torch.Generator().manual_seed(5))
    parts = torch.cat([halves(batch[:4], 0), halves(batch[4:], 4)])
    assert torch.allclose(whole, parts, atol=1e-6)
    assert not torch.allclose(
        whole, augment(batch, seed=6, dihedral=True, scale=0.1, brightness=0.1)
    )
