"""Augmentation: exact where it claims to be, bounded, and a function of the seed."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torchvision.transforms.v2 import RandAugment

from benchmark.phantom.acquisition import Acquisition, draw
from benchmark.settings import Augmentation
from benchmark.training.augmentation import (
    DRAWS,
    Augmenter,
    compress,
    mix_amplitudes,
    optics,
    restain,
)

EVERYTHING = {
    "dihedral": True, "rotation": 45, "scale": 0.2, "shift": 0.05, "stain_mixing": 0.1,
    "hed_jitter": 0.1, "stain_gain": 0.3, "background": 0.1, "blur": 0.02, "resolution_loss": 0.5,
    "brightness": 0.1, "contrast": 0.1, "saturation": 0.1, "noise": 0.05, "jpeg": 0.5,
}  # fmt: skip


def augment(batch: torch.Tensor, seed: int = 0, **settings: object) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return Augmenter(Augmentation(**settings), len(batch), generator)(batch, 0)


def density(batch: torch.Tensor) -> np.ndarray:
    """Natural optical density [N, pixels, 3], with black at one grey value below 1 / 256."""
    light = (255 * batch.double() + 1) / 256
    return -light.log().flatten(2).mT.numpy()


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


@pytest.mark.parametrize("option", [None, *DRAWS, "amplitude_mixing"])
def test_no_option_moves_the_order_of_images_or_the_older_draws(option: str | None) -> None:
    settings = Augmentation(**({option: 0.1} if option else {}))
    generator, plain = (torch.Generator().manual_seed(3) for _ in range(2))
    augmenter = Augmenter(settings, 8, generator)
    torch.randint(8, (8,), generator=plain)
    draws = torch.rand((8, 6), generator=plain) * 2 - 1
    augmenter(torch.rand(8, 3, 16, 16), 0)
    assert torch.equal(augmenter.draws, draws)
    assert torch.equal(generator.get_state(), plain.get_state())


def test_an_option_draws_the_same_whichever_others_are_on() -> None:
    batch = torch.rand(6, 3, 16, 16) * 0.5 + 0.2
    alone = augment(batch, stain_gain=0.3)
    beside = augment(batch, stain_gain=0.3, rotation=1e-6, noise=1e-9, blur=1e-9)
    assert torch.allclose(alone, beside, atol=1e-4)


def test_every_epoch_draws_anew() -> None:
    batch, generator = torch.rand(4, 3, 16, 16), torch.Generator().manual_seed(0)
    settings = Augmentation(stain_gain=0.3, noise=0.1)
    first, second = (Augmenter(settings, 4, generator)(batch, 0) for _ in range(2))
    assert not torch.allclose(first, second, atol=0.01)


def test_everything_at_once_is_the_same_in_any_batching_and_stays_in_range() -> None:
    batch, settings = torch.rand(10, 3, 20, 20), Augmentation(**EVERYTHING)
    whole = Augmenter(settings, 10, torch.Generator().manual_seed(5))(batch, 0)
    halves = Augmenter(settings, 10, torch.Generator().manual_seed(5))
    parts = torch.cat([halves(batch[:4], 0), halves(batch[4:], 4)])
    # A coefficient at the edge of two steps of quantisation may fall to either side.
    assert ((whole - parts).abs() < 1e-5).float().mean() > 0.99
    assert whole.shape == batch.shape
    assert whole.min() >= 0
    assert whole.max() <= 1


def test_rotation_turns_by_no_more_than_the_angle_and_keeps_distances() -> None:
    bar = torch.zeros(64, 3, 65, 65)
    bar[:, :, 30:35, 12:53] = 1
    turned = augment(bar, rotation=30)[:, 0].double()
    y, x = torch.meshgrid(*[torch.arange(65.0).double() - 32] * 2, indexing="ij")
    moment = lambda a, b: (turned * a * b).sum(dim=(1, 2)) / turned.sum(dim=(1, 2))  # noqa: E731
    angle = torch.rad2deg(torch.atan2(2 * moment(x, y), moment(x, x) - moment(y, y)) / 2)
    assert 25 < angle.abs().max() <= 30.1
    assert angle.min() < -20
    assert angle.max() > 20
    assert torch.allclose(moment(x, x) + moment(y, y), torch.tensor(142.0).double(), rtol=0.03)


def test_stain_mixing_is_a_matrix_near_identity_in_optical_density() -> None:
    # Densities within a factor of two: no mixture of them reaches black or white, where it is cut.
    batch = torch.rand(20, 3, 12, 12) * 0.2 + 0.4
    before, after = density(batch), density(augment(batch, stain_mixing=0.15))
    matrices = np.stack([np.linalg.lstsq(b, a)[0].T for b, a in zip(before, after, strict=True)])
    assert np.abs(after - before @ matrices.transpose(0, 2, 1)).max() < 1e-4
    assert 0.13 < np.abs(matrices - np.eye(3)).max() <= 0.15 + 1e-3
    white = torch.ones(4, 3, 8, 8)
    assert torch.allclose(augment(white, stain_mixing=0.15), white, atol=1e-5)


def test_stain_gain_multiplies_the_optical_density_of_all_channels_alike() -> None:
    batch = torch.rand(40, 3, 8, 8) * 0.3 + 0.5
    ratio = density(augment(batch, stain_gain=0.4)) / density(batch)
    assert ratio == pytest.approx(np.broadcast_to(ratio[:, :1, :1], ratio.shape), rel=1e-3)
    factor = np.log(ratio[:, 0, 0])
    assert 0.3 < factor.max() <= 0.401
    assert -0.401 <= factor.min() < -0.3


def test_background_shifts_the_optical_density_of_each_channel() -> None:
    batch = torch.rand(40, 3, 8, 8) * 0.3 + 0.3
    shift = density(augment(batch, background=0.2)) - density(batch)
    assert shift == pytest.approx(np.broadcast_to(shift[:, :1], shift.shape), abs=1e-4)
    assert 0.17 < np.abs(shift).max() <= 0.2 + 1e-4
    assert shift[:, 0].std(axis=1).max() > 0.05


def test_hed_jitter_scales_and_shifts_each_stain_by_itself() -> None:
    # Ruifrok & Johnston's matrix, as scikit-image prints it.
    hed = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
    batch = torch.rand(20, 3, 12, 12) * 0.3 + 0.35
    before = density(batch) @ np.linalg.inv(hed)
    after = density(augment(batch, hed_jitter=0.1)) @ np.linalg.inv(hed)
    for stain in range(3):
        pair = before[..., stain], after[..., stain]
        fits = [np.polyfit(b, a, 1) for b, a in zip(*pair, strict=True)]
        slope, offset = np.array(fits).T
        fitted = slope[:, None] * pair[0] + offset[:, None]
        assert np.abs(pair[1] - fitted).max() < 1e-4
        assert 0.05 < np.abs(slope - 1).max() <= 0.1 + 1e-3
        assert 0.05 < np.abs(offset).max() <= 0.1 + 1e-3


def test_restaining_by_hand() -> None:
    pixel = torch.tensor([0.5, 0.25, 1.0]).view(1, 3, 1, 1)
    matrix = torch.tensor([[[1.0, 0.5, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]]])
    shift = torch.tensor([[[0.0], [0.0], [0.1]]])
    # Light (128.5, 64.75, 256) / 256: red · green^½; green²; blue · e^-0.1.
    expected = [128.5 / 256 * (64.75 / 256) ** 0.5, (64.75 / 256) ** 2, np.exp(-0.1)]
    light = (255 * restain(pixel, matrix, shift).flatten() + 1) / 256
    assert light.tolist() == pytest.approx(expected, rel=1e-5)


def test_blur_is_a_gaussian_of_the_deviation_asked_for() -> None:
    batch = torch.rand(3, 3, 40, 40)
    deviation = torch.tensor([0.0, 1.0, 2.5])
    blurred = optics(batch, deviation, None, 0)
    assert torch.allclose(blurred[0], batch[0], atol=1e-6)
    for image, sd, ours in zip(batch, deviation.tolist(), blurred, strict=True):
        expected = gaussian_filter(image.numpy(), (0, sd, sd), truncate=8)
        # Edges are cut off here and mirrored there.
        assert ours[:, 12:-12, 12:-12].numpy() == pytest.approx(
            expected[:, 12:-12, 12:-12], abs=1e-4
        )


def test_blur_is_a_fraction_of_the_side() -> None:
    def spread(size: int) -> float:
        point = torch.zeros(200, 3, size, size)
        point[:, :, size // 2, size // 2] = 1
        spot = augment(point, blur=0.05)[:, 0]
        square = (torch.arange(float(size)) - size // 2) ** 2
        return (spot.sum(1) * square).sum(1).max().sqrt().item() / size

    assert spread(60) == pytest.approx(0.05, rel=0.05)
    assert spread(120) == pytest.approx(0.05, rel=0.05)


def test_resolution_loss_wipes_out_what_a_coarser_grid_cannot_hold() -> None:
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    chequers = ((x + y) % 2).float().expand(200, 3, 32, 32)
    left = augment(chequers, resolution_loss=0.6)[:, :, 8:-8, 8:-8].std(dim=(1, 2, 3))
    assert left.min() < 0.01
    assert left.max() == pytest.approx(0.5, abs=0.01)
    even = torch.full((200, 3, 32, 32), 0.3)
    assert torch.allclose(augment(even, resolution_loss=0.6), even, atol=1e-5)
    coarse = ((x // 8 + y // 8) % 2).float().expand(200, 3, 32, 32)
    kept = augment(coarse, resolution_loss=0.6)
    assert ((kept - coarse).abs().mean(dim=(1, 2, 3)) < 0.2).all()


def test_noise_is_normal_of_at_most_the_deviation_and_differs_between_images() -> None:
    grey = torch.full((50, 3, 32, 32), 0.5)
    noise = augment(grey, noise=0.05) - grey
    deviation = noise.std(dim=(1, 2, 3))
    assert 0.04 < deviation.max() < 0.052
    assert deviation.min() < 0.01
    strong = noise[deviation > 0.01]
    likeness = torch.corrcoef(strong.flatten(1)) - torch.eye(len(strong))
    assert likeness.abs().max() < 0.1
    score = strong[0].flatten() / strong[0].std()
    assert (score.abs() < 1).float().mean() == pytest.approx(0.683, abs=0.03)


@pytest.mark.parametrize("quality", [10, 40, 75, 95])
def test_compression_loses_what_libjpeg_loses_at_the_same_quality(quality: int) -> None:
    cells = np.stack([draw("basophil", Acquisition(noise_sd=0.03), s, size=44) for s in range(3)])
    batch = torch.from_numpy(cells).permute(0, 3, 1, 2) / 255
    ours = compress(batch, torch.full((3,), float(quality))).permute(0, 2, 3, 1).numpy() * 255
    for image, compressed in zip(cells, ours, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling="4:4:4")
        theirs = np.asarray(Image.open(buffer)).astype(float)
        lost = np.abs(theirs - image).mean()
        assert np.abs(compressed - image).mean() == pytest.approx(lost, rel=0.1)
        # libjpeg rounds luma and chroma to whole numbers, which moves coefficients of small steps.
        assert quality == 95 or np.abs(compressed - theirs).mean() < 0.15 * lost + 0.6


def test_jpeg_is_no_stronger_than_asked() -> None:
    batch = torch.from_numpy(draw("basophil", Acquisition(), 1, size=48)).permute(2, 0, 1) / 255
    batch = batch.expand(60, 3, 48, 48)
    change = (augment(batch, jpeg=0.7) - batch).abs().mean(dim=(1, 2, 3))
    worst = (compress(batch[:1], torch.tensor([30.0])) - batch[:1]).abs().mean()
    assert change.max() <= worst * 1.1
    assert change.max() > worst * 0.7
    assert change.min() < worst * 0.4


def grey_values(number: int, size: int = 24) -> torch.Tensor:
    """Smooth pictures that differ, float [number, 3, size, size], multiples of 1 / 255."""
    noise = np.random.default_rng(number).normal(0, 1, (number, 3, size, size))
    smooth = gaussian_filter(noise, (0, 0, 2, 2))
    light = 127 + 60 * smooth / np.abs(smooth).max()
    return torch.from_numpy(light.round()).float() / 255


def test_amplitudes_are_mixed_and_phases_stay() -> None:
    """By numpy's transform of the whole plane."""
    batch, partners = grey_values(3), torch.tensor([1, 2, 0])
    shares = torch.tensor([0.2, 0.0, 0.7])
    found = mix_amplitudes(batch, partners, shares).numpy()
    spectrum = np.fft.fft2(batch.numpy().astype(float))
    amplitude, weight = np.abs(spectrum), shares.numpy()[:, None, None, None]
    mixed = (1 - weight) * amplitude + weight * amplitude[[1, 2, 0]]
    expected = np.fft.ifft2(mixed * np.exp(1j * np.angle(spectrum))).real
    assert expected.min() > 0  # so that nothing is clipped
    assert found == pytest.approx(expected, abs=1e-5)
    assert found[1] == pytest.approx(batch[1].numpy(), abs=1e-6)
    # The mean of a picture is its amplitude at frequency zero.
    means = batch.mean((2, 3)).numpy()
    assert found.mean((2, 3))[0] == pytest.approx(0.8 * means[0] + 0.2 * means[1], abs=1e-5)


def test_a_picture_of_one_colour_takes_the_partner_s_light_and_none_of_its_structure() -> None:
    batch = grey_values(2)
    batch[0] = 100 / 255
    found = mix_amplitudes(batch, torch.tensor([1, 0]), torch.ones(2))
    assert found[0].std((1, 2)).max() < 1e-3
    assert found[0].mean((1, 2)) == pytest.approx(batch[1].mean((1, 2)), abs=1e-4)


def test_amplitude_mixing_is_no_stronger_than_asked_and_stays_among_the_images() -> None:
    batch = torch.stack([torch.full((3, 8, 8), value / 40) for value in range(40)])
    moved = (augment(batch, amplitude_mixing=0.25) - batch)[:, 0, 0, 0]
    assert moved.abs().max() > 0.1
    assert moved.abs().max() < 0.25  # partners differ by less than 1
    assert (moved[0] >= 0) & (moved[-1] <= 0)


def test_an_option_of_its_own_generator_moves_no_other() -> None:
    noise = augment(torch.full((6, 3, 16, 16), 0.5), noise=0.1)
    both = augment(torch.full((6, 3, 16, 16), 0.5), noise=0.1, amplitude_mixing=0.5)
    assert torch.allclose(noise, both, atol=1e-5)  # equal pictures: mixing changes nothing


def test_randaugment_is_torchvision_s_on_the_grey_values_of_each_image() -> None:
    batch = grey_values(12)
    state = torch.get_rng_state()
    changed = augment(batch, randaugment=9)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal((255 * changed).round() / 255, changed)
    differs = [not torch.equal(one, other) for one, other in zip(changed, batch, strict=True)]
    assert any(differs)
    # Each image is one of the outcomes that torchvision draws of it.
    for one, found in zip(batch[:2], changed[:2], strict=True):
        grey, wanted = (255 * one).round().byte(), (255 * found).round().byte()
        known = RandAugment(magnitude=9)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            assert any(torch.equal(known(grey), wanted) for _ in range(6000))


def test_randaugment_is_the_same_in_any_batching_and_stronger_with_its_magnitude() -> None:
    batch = grey_values(10)
    whole, halves = (
        Augmenter(Augmentation(randaugment=9), 10, torch.Generator().manual_seed(5))
        for _ in range(2)
    )
    parts = torch.cat([halves(batch[:4], 0), halves(batch[4:], 4)])
    assert torch.equal(whole(batch, 0), parts)
    many = grey_values(64)
    weak, strong = (
        (augment(many, randaugment=magnitude) - many).abs().mean() for magnitude in (3, 27)
    )
    assert strong > weak
