"""Views: operations and distributions are torchvision's, and randomness has one owner."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.stats import ks_2samp
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from pnp.errors import UserError
from pnp.views import Views, color, resample


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photos(n: int = 8, c: int = 3, h: int = 32, w: int = 32) -> Tensor:
    """Random uint8 images, half noise and half smooth gradients of different contrast."""
    g = generator(1)
    noise = torch.rand(n, c, h, w, generator=g)
    smooth = torch.rand(n, c, 3, 3, generator=g)
    smooth = torch.nn.functional.interpolate(smooth, (h, w), mode="bilinear")
    mix = torch.linspace(0, 1, n).view(-1, 1, 1, 1)
    return (torch.lerp(noise, smooth, mix) * 255).round().to(torch.uint8)


def floats(n: int = 8, c: int = 3, size: int = 32) -> Tensor:
    return photos(n, c, size, size) / 255.0


def each(images: Tensor, function: Callable[[Tensor, int], Tensor]) -> Tensor:
    return torch.stack([function(image, i) for i, image in enumerate(images)])


def off(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return (a - b).abs().max().item()


def ks_pass(ours: Tensor, theirs: Tensor, alpha: float = 1e-3) -> bool:
    result: Any = ks_2samp(ours.numpy(), theirs.numpy())
    return bool(result.pvalue > alpha)


# --- crop, resize, flip -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width", "size"), [(32, 32, 32), (40, 28, 16), (20, 24, 48)])
def test_crop_and_flip_equal_torchvision_antialiased(mode, height, width, size):
    images = photos(12, 3, height, width)
    boxes = resample.crop_boxes(12, height, width, (0.05, 1.0), (0.5, 2.0), generator())
    mirror = torch.arange(12) % 2 == 0
    top, left, h, w = boxes.unbind(1)
    cubic = mode == "bicubic"
    rows = resample.resize_weights(top, h, height, size, cubic=cubic)
    columns = resample.resize_weights(left, w, width, size, cubic=cubic, mirror=mirror)
    ours = resample.resample(images, rows.unsqueeze(1), columns.unsqueeze(1)).squeeze(1)

    def theirs(image: Tensor, i: int) -> Tensor:
        j, k, a, b = (int(x) for x in boxes[i])
        kind = v2.InterpolationMode(mode)
        out = F.resized_crop(image, j, k, a, b, [size, size], kind, antialias=True)
        return F.hflip(out) if mirror[i] else out

    assert off(ours, each(images / 255.0, theirs)) <= 1e-6


def test_crop_boxes_are_distributed_as_torchvisions():
    n, height, width, scale, ratio = 4000, 30, 44, (0.1, 1.0), (0.6, 1.7)
    ours = resample.crop_boxes(n, height, width, scale, ratio, generator())
    crop = v2.RandomResizedCrop(8, scale, ratio)
    image = torch.empty(3, height, width)
    drawn = [crop.make_params([image]) for _ in range(n)]
    theirs = torch.tensor([[d[k] for k in ("top", "left", "height", "width")] for d in drawn])
    for k in range(4):
        assert ks_pass(ours[:, k], theirs[:, k])
    # Not only each number by itself: the far edges combine place and size.
    for k in range(2):
        assert ks_pass(ours[:, k] + ours[:, k + 2], theirs[:, k] + theirs[:, k + 2])


def test_crop_boxes_lie_inside_and_reach_every_border():
    top, left, h, w = resample.crop_boxes(5000, 9, 7, (0.1, 1), (0.5, 2), generator()).unbind(1)
    assert min(top.min(), left.min()) == 0
    assert (top + h).max() == 9
    assert (left + w).max() == 7
    assert min(h.min(), w.min()) >= 1
    assert torch.equal(h, h.round())


@pytest.mark.parametrize(
    ("height", "width", "ratio", "box"),
    [(40, 10, (1.0, 1.0), [15, 0, 10, 10]), (10, 40, (1.0, 2.0), [0, 10, 10, 20])],
)
def test_without_a_fitting_candidate_the_centre_is_cropped(height, width, ratio, box):
    boxes = resample.crop_boxes(3, height, width, (1.0, 1.0), ratio, generator())
    assert boxes.tolist() == [box] * 3


def test_every_row_of_resize_weights_sums_to_one_and_stays_in_the_box():
    start, length = torch.tensor([0.0, 5.0, 30.0]), torch.tensor([32.0, 9.0, 1.0])
    for cubic, out in itertools.product((False, True), (1, 7, 50)):
        weights = resample.resize_weights(start, length, 32, out, cubic=cubic)
        assert off(weights.sum(2), torch.ones(3, out)) < 1e-6
        assert weights[1, :, :5].abs().max() == 0
        assert weights[1, :, 14:].abs().max() == 0
        assert torch.equal(weights[2, :, 30], torch.ones(out))


def test_flip_probabilities_0_and_1_mirror_each_other():
    settings = {"scale": (1, 1), "ratio": (1, 1), "jitter": 0, "grayscale": 0, "count": 1}
    images = photos(4)
    never = Views(flip=0, **settings)(images, generator())
    assert off(never[0], images / 255.0) <= 1e-6
    always = Views(flip=1, **settings)(images, generator())
    assert off(always, never.flip(-1)) <= 1e-6
    some = Views(flip=0.3, **settings)(images[:1].expand(2000, -1, -1, -1), generator())
    share = ((some[0] - never[0, :1]).abs().amax((1, 2, 3)) > 1e-3).float().mean()
    assert abs(share - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 2000)


# --- colour -------------------------------------------------------------------------------------


def test_hue_equals_torchvision_at_every_shift_and_on_every_corner_of_the_cube():
    levels = torch.tensor([0.0, 1e-7, 0.2, 0.5, 0.5 + 6e-8, 0.99, 1.0])
    cube = torch.cartesian_prod(levels, levels, levels).T.reshape(3, 1, -1)
    shifts = torch.linspace(-0.5, 0.5, 61)
    for image in (cube, floats(1)[0]):
        ours = color.turn_hue(image.expand(61, -1, -1, -1), shifts)
        theirs = each(ours, lambda _, i, image=image: F.adjust_hue(image, shifts[i].item()))
        assert off(ours, theirs) <= 1e-5


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_equals_torchvision_in_all_24_orders(channels):
    names = ("brightness", "contrast", "saturation", "hue")
    adjust = [getattr(F, f"adjust_{name}") for name in names]
    orders = list(itertools.permutations(range(4)))
    images = floats(24, channels)
    factors = 0.3 + 1.4 * torch.rand(24, 3, generator=generator())
    turns = torch.rand(24, generator=generator(3)) - 0.5
    slots = torch.tensor([order.index(3) for order in orders])
    ours = color.jitter(
        images.clone(),
        names[:3],
        factors,
        torch.tensor([[k for k in order if k != 3] for order in orders]),
        *((turns, slots.argsort(stable=True)) if channels == 3 else (None, None)),
    )

    def theirs(image: Tensor, i: int) -> Tensor:
        amounts = [*factors[i].tolist(), turns[i].item()]
        for k in orders[i]:
            image = adjust[k](image, amounts[k])
        return image

    assert off(ours, each(images, theirs)) <= 1e-5


def statistics(views: Tensor) -> Tensor:
    """Mean and spread of each image, and how its channels and regions differ: (n, 6)."""
    r, g, b = views.mean((2, 3)).unbind(1)
    return torch.stack(
        (r, g, b, views.std((1, 2, 3)), (r - b).abs(), views[:, :, :8].mean((1, 2, 3))), 1
    )


def test_jitter_of_one_image_is_distributed_as_torchvisions():
    n = 1500
    image = photos(8)[5]
    strengths = {"brightness": 0.6, "contrast": 0.6, "saturation": 0.8, "hue": 0.2}
    settings = {"scale": (1, 1), "ratio": (1, 1), "flip": 0, "grayscale": 0, "count": 1}
    views = Views(jitter=1.0, **strengths, **settings)
    ours = views(image.expand(n, -1, -1, -1), generator())[0]
    reference = v2.ColorJitter(**strengths)
    theirs = torch.stack([reference(image / 255.0) for _ in range(n)])
    for a, b in zip(statistics(ours).T, statistics(theirs).T, strict=True):
        assert ks_pass(a, b)


def test_the_order_of_operations_is_not_tied_to_the_position_in_the_batch(monkeypatch):
    """At each position hue meets each place, and each operation comes first, equally often."""
    slots, firsts = [], []
    jitter = color.jitter

    def spy(images, names, factors, order, turns, places):
        slot = torch.empty_like(places)
        slot[places] = torch.arange(4).repeat_interleave(len(places) // 4)
        slots.append(slot[: len(images)])
        firsts.append(order[:, 0])
        return jitter(images, names, factors, order, turns, places)

    monkeypatch.setattr(color, "jitter", spy)
    # 10 views in a batch, no multiple of 4: no place may profit from that.
    views, g, images, calls = Views(size=4, count=2), generator(), photos(5, 3, 4, 4), 120
    for _ in range(calls):
        views(images, g)
    for seen, kinds in ((slots, 4), (firsts, 3)):
        counts = torch.stack([(torch.stack(seen) == kind).sum(0) for kind in range(kinds)])
        sigma = math.sqrt(calls * (kinds - 1)) / kinds
        assert (counts - calls / kinds).abs().max() < 4 * sigma


def test_grayscale_and_solarize_equal_torchvision_on_the_chosen_and_leave_the_rest():
    images = floats(6)
    chosen = torch.tensor([True, False, True, True, False, False])
    grey = color.to_grey(images.clone(), chosen)
    assert off(grey[chosen], F.rgb_to_grayscale(images[chosen], 3)) <= 1e-6
    assert torch.equal(grey[~chosen], images[~chosen])
    images[0, 0, 0, 0] = 0.5  # the threshold itself is inverted
    images[0, 0, 0, 1] = math.nextafter(0.5, 0) - 1e-7
    sun = color.solarize(images.clone(), chosen, 0.5)
    assert off(sun[chosen], F.solarize(images[chosen], 0.5)) <= 1e-6
    assert torch.equal(sun[~chosen], images[~chosen])


def test_blur_equals_torchvision_with_one_sigma_per_image():
    images, sigma = floats(5, size=24), torch.tensor([0.1, 0.5, 1.0, 2.0, 0.0])
    for kernel in (3, 9, 23):
        ours = resample.blur(images, sigma, kernel)
        theirs = each(
            images[:4], lambda x, i, k=kernel: F.gaussian_blur(x, [k, k], [sigma[i].item()] * 2)
        )
        assert off(ours[:4], theirs) <= 2e-6
        assert torch.equal(ours[4], images[4])


# --- the whole ----------------------------------------------------------------------------------

EVERYTHING = Views(size=20, count=3, blur=0.5, solarize=0.3, mean=(0.5,), std=(0.2, 0.3, 0.4))


def test_every_stage_at_probability_1_equals_torchvisions_pipeline():
    images = photos(4)
    settings = {"scale": (1, 1), "ratio": (1, 1), "jitter": 0, "count": 2}
    ours = Views(
        flip=1, grayscale=1, blur=1, blur_sigma=(0.7, 0.7), blur_kernel=5, solarize=1,
        solarize_threshold=0.4, mean=(0.4, 0.5, 0.6), std=(0.2,), **settings,
    )(images, generator())  # fmt: skip
    x = F.gaussian_blur(F.rgb_to_grayscale(F.hflip(images / 255.0), 3), [5, 5], [0.7, 0.7])
    theirs = F.normalize(F.solarize(x, 0.4), [0.4, 0.5, 0.6], [0.2] * 3)
    assert off(ours, theirs.expand(2, -1, -1, -1, -1)) <= 1e-5


def test_same_generator_state_same_views_and_the_next_batch_differs():
    images = photos(8)
    g = generator(7)
    first, second = EVERYTHING(images, g), EVERYTHING(images, g)
    torch.rand(3)  # the global generator has no say
    assert torch.equal(first, EVERYTHING(images, generator(7)))
    assert not torch.equal(first, second)


def test_views_of_one_image_and_copies_of_one_image_all_differ():
    views = EVERYTHING(photos(8)[3].expand(8, -1, -1, -1), generator()).flatten(0, 1)
    distance = torch.cdist(views.flatten(1), views.flatten(1))
    assert distance.fill_diagonal_(1).min() > 1e-2


@pytest.mark.parametrize("channels", [1, 3])
def test_views_are_float32_without_gradient_and_inputs_stay_as_they_were(channels):
    images = photos(40, channels, 36, 28)
    before = images.clone()
    views = Views(size=20, count=3, blur=0.5, solarize=0.3, interpolation="bicubic")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = views(images, generator())
    assert out.shape == (3, 40, channels, 20, 20)
    assert out.dtype == torch.float32
    assert not out.requires_grad
    assert out.is_contiguous()
    assert torch.equal(images, before)
    assert out.min() >= 0
    assert out.max() <= 1
    assert torch.equal(out, views(images, generator()))  # autocast changed nothing


def test_pieces_of_a_large_batch_keep_images_in_their_places():
    settings = {"scale": (1, 1), "ratio": (1, 1), "jitter": 0, "grayscale": 0, "flip": 0}
    images = photos(300)  # several pieces on a CPU
    out = Views(count=2, **settings)(images, generator())
    assert off(out, (images / 255.0).expand(2, -1, -1, -1, -1)) <= 1e-6


def test_views_do_not_depend_on_the_memory_layout_of_the_images():
    images = photos(6)
    rearranged = images.to(memory_format=torch.channels_last)
    assert torch.equal(EVERYTHING(images, generator()), EVERYTHING(rearranged, generator()))


def test_an_empty_batch_gives_empty_views():
    images = photos(1)[:0]
    assert EVERYTHING(images, generator()).shape == (3, 0, 3, 20, 20)
    assert EVERYTHING.plain(images).shape == (0, 3, 20, 20)


def test_grey_images_jitter_as_torchvisions_and_never_mind_colour_stages():
    images = photos(6, 1, 28, 28)
    settings = {"size": 28, "scale": (1, 1), "ratio": (1, 1), "flip": 0, "count": 2}
    out = Views(brightness=0, contrast=0, grayscale=1, **settings)(images, generator())
    assert off(out, (images / 255.0).expand(2, -1, -1, -1, -1)) <= 1e-6
    image = images[4]
    ours = Views(jitter=1, **settings)(image.expand(800, -1, -1, -1), generator())[0]
    reference = v2.ColorJitter(0.4, 0.4, 0.2, 0.1)
    theirs = torch.stack([reference(image / 255.0) for _ in range(800)])
    assert ks_pass(ours.mean((1, 2, 3)), theirs.mean((1, 2, 3)))
    assert ks_pass(ours.std((1, 2, 3)), theirs.std((1, 2, 3)))


@pytest.mark.parametrize(("channels", "h", "w"), [(3, 32, 32), (3, 48, 40), (1, 20, 31)])
def test_plain_equals_torchvisions_resize_and_normalise(channels, h, w):
    images = photos(4, channels, h, w)
    mean, std = [0.4, 0.5, 0.6][:channels], [0.2, 0.3, 0.4][:channels]
    ours = Views(size=32, mean=mean, std=std).plain(images)
    theirs = F.normalize(F.resize(images / 255.0, [32, 32], antialias=True), mean, std)
    assert off(ours, theirs) <= 1e-5
    assert ours.is_contiguous()


# --- multi-crop -----------------------------------------------------------------------------------


def test_local_views_are_views_of_their_own_size_count_and_scale():
    settings = {"blur": 0.5, "solarize": 0.3, "mean": (0.5,), "jitter": 0.9, "flip": 0.2}
    crops = Views(size=20, local=3, local_scale=(0.1, 0.3), local_size=12, **settings)
    alone = Views(size=12, count=3, scale=(0.1, 0.3), blur_kernel=crops.blur_kernel, **settings)
    images = photos(5)
    out = crops.local_views(images, generator())
    assert out.shape == (3, 5, 3, 12, 12)
    assert torch.equal(out, alone(images, generator()))


def test_local_views_are_drawn_after_the_views_and_leave_them_as_they_were():
    images, g = photos(6), generator(4)
    crops = Views(size=20, local=2)
    views, local = crops(images, g), crops.local_views(images, g)
    assert torch.equal(views, Views(size=20)(images, generator(4)))
    assert not torch.equal(local, crops.local_views(images, generator(4)))
    again = generator(4)
    crops(images, again)
    assert torch.equal(local, crops.local_views(images, again))


def test_local_views_are_half_as_wide_by_default_but_at_least_8():
    for size, half in ((32, 16), (28, 14), (12, 8)):
        assert Views(size=size, local=1).local_views(photos(2), generator()).shape[-1] == half
    assert Views().local == 0


def test_lists_from_a_config_are_accepted():
    from omegaconf import OmegaConf

    cfg = OmegaConf.create({"scale": [0.5, 1], "mean": [0.5], "blur_sigma": [1, 2]})
    assert Views(**{str(k): v for k, v in cfg.items()}).scale == (0.5, 1.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *itertools.product(
            ["flip", "jitter", "grayscale", "blur", "solarize", "solarize_threshold"],
            [-0.1, 1.1, math.nan],
        ),
        *itertools.product(["brightness", "contrast", "saturation"], [-0.1, math.inf, math.nan]),
        ("hue", 0.6), ("hue", -0.1), ("size", 0), ("count", 0), ("size", True),
        ("scale", (0.0, 1.0)), ("scale", (0.9, 0.2)), ("scale", (0.2, 1.5)), ("scale", (0.2,)),
        ("scale", (math.nan, 1.0)), ("ratio", (0.0, 1.0)), ("ratio", (2.0, 1.0)),
        ("ratio", (1.0, math.inf)), ("blur_sigma", (0.0, 1.0)), ("blur_sigma", (2.0, 1.0)),
        ("blur_kernel", 4), ("blur_kernel", 0), ("interpolation", "nearest"), ("mean", []),
        ("mean", (math.nan,)), ("std", (0.0,)), ("std", (1.0, -1.0, 1.0)),
        ("local", -1), ("local", True), ("local_scale", (0.0, 0.5)), ("local_scale", (0.5, 1.1)),
        ("local_size", 0),
    ],
)  # fmt: skip
def test_a_bad_parameter_is_a_user_error_that_names_it_and_what_was_seen(name, value):
    with pytest.raises(UserError, match=rf"^views\.{name}=.*(: give|; choose from) ") as error:
        Views(**{name: value})
    seen = value[0] if isinstance(value, tuple) else value
    assert str(seen) in str(error.value)


def test_a_blur_wider_than_the_view_is_a_user_error():
    with pytest.raises(UserError, match=r"views\.blur_kernel=9"):
        Views(size=4, blur=0.5, blur_kernel=9)
    with pytest.raises(
        UserError, match=r"views\.local_size=4: give more than half of views\.blur_kernel"
    ):
        Views(size=16, blur=0.5, blur_kernel=9, local=2, local_size=4)


def test_images_that_do_not_fit_are_user_errors():
    views = Views(mean=(0.1, 0.2, 0.3))
    for images in (torch.zeros(2, 3, 8, 8), photos(2)[0]):
        with pytest.raises(UserError, match=r"expected torch.uint8 of shape"):
            views._check(images)
    with pytest.raises(UserError, match="mean has 3 numbers but the images have 2"):
        views(photos(2)[:, :2], generator())
    with pytest.raises(UserError, match="mean has 3 numbers but the images have 1"):
        views(photos(2, 1), generator())
    with pytest.raises(UserError, match="mean has 3 numbers but the images have 1"):
        views.plain(photos(2, 1))
