"""Ranges by image: each change of a batch against the obvious one of each image."""

import colorsys
import math

import pytest
import torch
from torch.func import jacrev

from bestresponse import InputError
from bestresponse.hyper import Augmentation, augment

N = 5
IMAGES = torch.rand(N, 3, 8, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
RANGES = torch.linspace(0.0, 0.4, N, dtype=torch.float64)


def drawn(*size):
    """What the first draw of the same seed was."""
    torch.manual_seed(3)
    return torch.rand(size)


def changed(**ranges):
    torch.manual_seed(3)
    return augment(IMAGES, **ranges)


def one_by_one(change, factors):
    return torch.stack([change(x, f.item()) for x, f in zip(IMAGES, factors, strict=True)])


def amounts():
    return RANGES * (2 * drawn(N, 1, 1, 1).flatten() - 1)


def hue_turned(image, turn):
    """Pixel by pixel, by the standard library."""
    out = torch.empty_like(image)
    for i in range(image.shape[1]):
        for j in range(image.shape[2]):
            h, s, v = colorsys.rgb_to_hsv(*image[:, i, j].tolist())
            out[:, i, j] = torch.tensor(colorsys.hsv_to_rgb((h + turn) % 1.0, s, v))
    return out


def saturated(image, amount):
    return torch.stack([g + (1 + amount) * (c - g) for c in image for g in [image.mean(0)]])


BY_IMAGE = {
    "brightness": lambda x, a: x + a,
    "contrast": lambda x, a: x.mean() + (1 + a) * (x - x.mean()),
    "saturation": saturated,
    "hue": hue_turned,
}


@pytest.mark.parametrize("kind", BY_IMAGE)
def test_colours_change_by_each_images_amount(kind):
    wanted = one_by_one(BY_IMAGE[kind], amounts())
    torch.testing.assert_close(changed(**{kind: RANGES}), wanted, rtol=0, atol=1e-12)


def test_hue_is_that_of_any_pixel_values():
    """It goes with a common shift and scale of the channels, so that normalized images may come."""
    torch.manual_seed(3)
    shifted = augment(3 * IMAGES - 1, hue=RANGES)
    torch.testing.assert_close(shifted, 3 * changed(hue=RANGES) - 1, rtol=0, atol=1e-12)
    grey = IMAGES[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(augment(grey, hue=RANGES), grey, rtol=0, atol=0)


def test_gain_multiplies_between_a_factor_and_its_inverse():
    low, high = 1 / (1 + RANGES), 1 + RANGES
    factors = low + (high - low) * drawn(N, 1, 1, 1).flatten()
    wanted = one_by_one(lambda x, f: f * x, factors)
    torch.testing.assert_close(changed(gain=RANGES), wanted, rtol=0, atol=1e-12)


def test_cutout_is_squares_around_pixels():
    sides, holes = torch.tensor([0.0, 1.0, 2.0, 3.0, 20.0]), torch.tensor([3.0, 1.0, 2.0, 3.0, 0.0])
    found = changed(cutout=sides, holes=holes)
    torch.manual_seed(3)
    centres = torch.stack([torch.rand(2, N) for _ in range(3)])  # hole, axis, image
    wanted = IMAGES.clone()
    for n in range(N):
        for hole in range(int(holes[n])):
            row, column = int(centres[hole, 0, n] * 8), int(centres[hole, 1, n] * 7)
            side = int(sides[n])
            top, left = row - side // 2, column - side // 2
            for i in range(max(top, 0), min(top + side, 8)):
                for j in range(max(left, 0), min(left + side, 7)):
                    wanted[n, :, i, j] = 0
    assert torch.equal(found, wanted)
    assert torch.equal(found[[0, 4]], IMAGES[[0, 4]]) and (found[1] == 0).sum() == 3


def test_one_hole_unless_said_otherwise():
    assert (changed(cutout=1.0) == 0).flatten(1).sum(1).tolist() == [3] * N


def test_dropped_pixels_are_each_images_share():
    keep = 1 - RANGES.view(-1, 1, 1, 1)
    wanted = torch.where(drawn(*IMAGES.shape) < keep, IMAGES / keep, 0.0)
    torch.testing.assert_close(changed(drop=RANGES), wanted, rtol=0, atol=1e-12)


def test_affine_maps_are_each_images_own():
    """Image by image with one range and the draw of that image."""
    ranges = {"translate": RANGES / 2, "rotate": RANGES, "scale": RANGES, "shear": RANGES}
    found = changed(**ranges)
    torch.manual_seed(3)
    kinds = ("rotate", "scale", "shear", "translate")
    draws = {k: 2 * torch.rand(N, 2 if k == "translate" else 1) - 1 for k in kinds}
    for n in range(N):
        at = {k: (ranges[k][n] * draws[k][n]).tolist() for k in kinds}
        (turn,), (log_size,), (slant,) = at["rotate"], at["scale"], at["shear"]
        torch.testing.assert_close(
            found[n],
            moved(IMAGES[n], turn, math.exp(log_size), slant, at["translate"]),
            rtol=0,
            atol=1e-12,
        )


def moved(image, turn, size, slant, shift):
    """Pixel by pixel: where it comes from, and the four pixels around that."""
    height, width = image.shape[1:]
    out = torch.zeros_like(image)
    cosine, sine = math.cos(turn), math.sin(turn)
    for i in range(height):
        for j in range(width):
            # in pixels from the centre
            y, x = i - (height - 1) / 2, j - (width - 1) / 2
            u = size * (cosine * x + (slant * cosine - sine) * y) + shift[0] * width
            v = size * (sine * x + (slant * sine + cosine) * y) + shift[1] * height
            v, u = v + (height - 1) / 2, u + (width - 1) / 2
            for a in (math.floor(v), math.floor(v) + 1):
                for b in (math.floor(u), math.floor(u) + 1):
                    if 0 <= a < height and 0 <= b < width:
                        share = (1 - abs(v - a)) * (1 - abs(u - b))
                        out[:, i, j] += share * image[:, a, b]
    return out


def test_a_range_of_zero_changes_nothing():
    kinds = ("brightness", "contrast", "saturation", "hue", "gain", "noise", "cutout", "drop")
    torch.testing.assert_close(augment(IMAGES, **dict.fromkeys(kinds, 0.0)), IMAGES)


def test_one_range_for_all_is_a_row_for_all():
    for kind in ("rotate", "hue", "gain", "cutout", "drop"):
        one = changed(**{kind: 0.3})
        assert torch.equal(one, changed(**{kind: torch.full((N,), 0.3)}))
        assert torch.equal(one, changed(**{kind: torch.tensor([0.3])}))


def test_hue_and_gain_can_be_learned_by_their_slope():
    augmentation = Augmentation(hue=0.1, gain=0.2)
    torch.manual_seed(3)
    augmentation(IMAGES).square().sum().backward()
    for kind in ("hue", "gain"):
        at = {k: v.clone() for k, v in augmentation.ranges().items()}

        def loss(value, at=at, kind=kind):
            torch.manual_seed(3)
            return augment(IMAGES, **(at | {kind: value})).square().sum()

        step = 1e-6
        slope = (loss(at[kind] + step) - loss(at[kind] - step)) / (2 * step)
        torch.testing.assert_close(jacrev(loss)(at[kind]), slope, rtol=1e-5, atol=1e-6)
        assert augmentation.bounded.raw[kind].grad != 0


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="no 'blur' to change"):
        augment(IMAGES, blur=1.0)
    with pytest.raises(InputError, match=r"not shape \(8, 7\)"):
        augment(IMAGES[:, 0], gain=0.1)
    with pytest.raises(InputError, match="1 channels have no hue"):
        augment(IMAGES[:, :1], hue=0.1)
    with pytest.raises(InputError, match=r"shape \(3,\) for 5 images"):
        augment(IMAGES, gain=torch.zeros(3))
    with pytest.raises(InputError, match="holes without cutout"):
        augment(IMAGES, holes=2.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu():
    ranges = dict.fromkeys(("rotate", "hue", "cutout", "drop"), RANGES.cuda())
    assert augment(IMAGES.cuda(), **ranges).device.type == "cuda"
