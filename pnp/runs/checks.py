"""Checks of `pnp-doctor`: exactness over ranks, micro-batches and resumption; views."""

import copy
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from pnp.data import Batch
from pnp.distributed import average_gradients, gloo_group
from pnp.geometry import unit
from pnp.runs.config import build
from pnp.runs.parts import build_trainer, parts
from pnp.views import color, resample

PROCESSES = 2
IMAGES = 24
STEPS = 4


@dataclass(frozen=True)
class Check:
    """A line of the doctor's table; `error` is relative unless the note says otherwise."""

    name: str
    error: float
    limit: float
    note: str

    @property
    def passed(self) -> bool:
        """True where the error is a number within the limit."""
        return self.error <= self.limit


def objective_of(config: Mapping[str, Any]) -> nn.Module:
    """Build the objective of a plain config; importable, for other processes."""
    return build(config["objective"], "objective")


def same_over_ranks(
    make: Callable[[], nn.Module], views: int, dims: int, normalize: bool = True
) -> Check:
    """Compare loss and gradient of 2 processes, with equal and unequal shares, with those of one.

    Args:
        make: the objective; importable, since other processes call it.
        views: number of views of every image.
        dims: dimensions of the outputs that it compares.
        normalize: compare unit vectors.
    """
    shares = ([IMAGES // 2] * 2, [IMAGES // 3, IMAGES - IMAGES // 3])
    step = partial(_step, make, views, dims, normalize)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, (folder, shares, step), nprocs=PROCESSES)  # pyright: ignore[reportPrivateImportUsage]
        results = [torch.load(f"{folder}/{i}.pt", weights_only=True) for i in range(PROCESSES)]
    loss, gradient = step(slice(None))
    errors = []
    for steps in zip(*results, strict=True):  # of all ranks, one for each way to share
        losses, gradients = zip(*steps, strict=True)
        errors.append(_off(torch.stack(losses).mean(), loss))
        errors += [_off(own, gradient) for own in gradients]
    error = max(errors)
    note = f"{PROCESSES} processes, {IMAGES} images, equal and unequal shares; without BatchNorm"
    return Check("ranks ≡ one process", error, 1e-10, note)


def _rank(index: int, folder: str, shares: Any, step: Any) -> None:
    torch.set_num_threads(1)
    cuts = [slice(sum(share[:index]), sum(share[: index + 1])) for share in shares]
    with gloo_group(f"{folder}/store", index, PROCESSES):
        torch.save([step(mine) for mine in cuts], f"{folder}/{index}.pt")


def _step(
    make: Callable[[], nn.Module], views: int, dims: int, normalize: bool, mine: slice
) -> tuple[Tensor, Tensor]:
    """Loss and averaged gradient of a linear network in float64 on these images."""
    torch.manual_seed(0)
    net, images = nn.Linear(8, dims).double(), torch.randn(views, IMAGES, 8).double()
    z = net(images[:, mine])
    z = unit(z) if normalize else z
    loss = make()(z, z.detach()[:2].roll(1, 0), epoch=0.0)["loss"]
    loss.backward()
    average_gradients(net)
    assert net.weight.grad is not None
    return loss.detach(), net.weight.grad


def same_in_pieces(module: Any, channels: int, size: int) -> Check:
    """Compare the gradient of a batch in micro-batches with that of the whole batch, in float64.

    `module` is the user's `SelfSupervised`, not yet trained; it is not changed.
    """
    module = copy.deepcopy(module).cpu().double()
    module.objective.eval()  # centres stay where they are
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()
    module.views = _Still(module.views)
    module.trainer = SimpleNamespace(
        global_step=1,
        current_epoch=0,
        world_size=1,
        accumulate_grad_batches=1,
        precision_plugin=SimpleNamespace(forward_context=nullcontext),
    )
    module.log_every = 10**9
    draws = torch.Generator().manual_seed(0)
    shape = (12, channels, size, size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=draws)
    gradients = []
    for piece in (None, 4):
        module.micro_batch = piece
        module.zero_grad()
        step = module.training_step(Batch(images), 0)
        module.backward(step["loss"])
        gradients.append(flat_gradient(module.student))
    error = _off(gradients[1], gradients[0])
    note = "3 micro-batches of 4, your networks in float64, BatchNorm held still"
    return Check("micro-batches ≡ whole batch", error, 1e-9, note)


class _Still:
    """Views that depend on nothing but the image: plain, mirrored, darkened."""

    local = 0

    def __init__(self, views: Any) -> None:
        self.plain, self.count = views.plain, views.count

    def __call__(self, images: Tensor, _: torch.Generator) -> Tensor:
        x = self.plain(images).double()
        return torch.stack([x, x.flip(-1), *(x * 0.9**i for i in range(1, self.count - 1))])


def resumes(config: dict[str, Any], folder: Path) -> Check:
    """Compare everything that a run saves with a run that was stopped half-way and resumed."""
    config = shortened(config, STEPS)
    config["trainer"]["deterministic"] = "warn"  # kernels that add in any order would differ
    batch = config["data"]["batch_size"]
    batch = 16 if batch == "auto" else max(2, min(batch, 16))
    config["data"]["batch_size"], config["method"]["global_batch"] = batch, None
    config["trainer"]["accumulate_grad_batches"] = 1
    whole = _trained(config, folder, None, None)
    _trained(config, folder, STEPS // 2, None)
    again = _trained(config, folder, None, folder / "half.ckpt")
    error, where = _differs(whole, again)
    torch.use_deterministic_algorithms(False)
    limit = 1e-5 if torch.cuda.is_available() else 0.0  # a few GPU kernels have no fixed order
    note = f"stopped after {STEPS // 2} of {STEPS} steps; weights, teacher, optimizer, positions"
    return Check("resumed ≡ unbroken", error, limit, where or note)


class _Stop(Exception):
    pass


class _Half(L.Callback):
    def __init__(self, step: int, file: Path) -> None:
        self.step, self.file = step, file

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.file)
            raise _Stop


def _trained(
    config: dict[str, Any], folder: Path, stop: int | None, start: Path | None
) -> dict[str, Any]:
    """The state that the run saves at its end; empty if it was stopped."""
    L.seed_everything(config["seed"], workers=True, verbose=False)
    data, module, _ = parts(config)
    trainer = build_trainer(config, folder, data)
    trainer.callbacks[:] = [_Half(stop, folder / "half.ckpt")] if stop else []  # pyright: ignore[reportAttributeAccessIssue]
    try:
        trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True)
    except _Stop:
        return {}
    trainer.save_checkpoint(folder / "end.ckpt")
    return torch.load(folder / "end.ckpt", map_location="cpu", weights_only=True)


def _differs(one: Any, two: Any, where: str = "") -> tuple[float, str]:
    """The largest difference of two nested states, and its place; inf where they are not alike."""
    if isinstance(one, Tensor) and isinstance(two, Tensor) and one.shape == two.shape:
        error = float((one.double() - two.double()).abs().max()) if one.numel() else 0.0
        return error, f"{where} differs" if error else ""
    if isinstance(one, dict) and isinstance(two, dict) and one.keys() == two.keys():
        differences = [_differs(one[k], two[k], f"{where}.{k}".lstrip(".")) for k in one]
        return max(differences, default=(0.0, ""))
    if isinstance(one, list | tuple) and isinstance(two, list | tuple) and len(one) == len(two):
        pairs = enumerate(zip(one, two, strict=True))
        return max((_differs(a, b, f"{where}[{i}]") for i, (a, b) in pairs), default=(0.0, ""))
    return (0.0, "") if one == two else (float("inf"), f"{where} differs: {one!r} and {two!r}")


def views_like_torchvision(channels: int, size: int) -> Check:
    """Compare crops, flips and hue with torchvision's, image by image; the error is absolute."""
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (16, channels, size, size), dtype=torch.uint8, generator=draws)
    boxes = resample.crop_boxes(16, size, size, (0.2, 1.0), (0.75, 4 / 3), draws)
    mirror = torch.rand(16, generator=draws) < 0.5
    top, left, height, width = boxes.unbind(1)
    rows = resample.resize_weights(top, height, size, size)
    columns = resample.resize_weights(left, width, size, size, mirror=mirror)
    ours = resample.resample(images, rows[:, None], columns[:, None])[:, 0]
    theirs = []
    for image, box, flip in zip(images / 255.0, boxes.int().tolist(), mirror, strict=True):
        cut = F.resized_crop(image, box[0], box[1], box[2], box[3], [size, size], antialias=True)
        theirs.append(F.hflip(cut) if flip else cut)
    error = float((ours - torch.stack(theirs)).abs().max()) / 1e-6
    if channels == 3:
        turns = torch.rand(16, generator=draws) - 0.5
        turned = color.turn_hue(ours, turns)
        pairs = zip(ours, turns, strict=True)
        hue = torch.stack([F.adjust_hue(image, float(turn)) for image, turn in pairs])
        error = max(error, float((turned - hue).abs().max()) / 1e-5)
    note = "crop and flip in units of 1e-6, hue of 1e-5"
    return Check("views ≡ torchvision", error, 1.0, note)


def shortened(config: dict[str, Any], steps: int) -> dict[str, Any]:
    """The configuration for `steps` optimizer steps of one process, without callbacks."""
    config = copy.deepcopy(config)
    config["trainer"] |= {"max_steps": steps, "max_epochs": -1, "devices": 1, "num_nodes": 1,
                          "strategy": "auto"}  # fmt: skip
    config["trainer"].pop("sync_batchnorm", None)
    config["callbacks"], config["wandb"] = {}, None
    return config


def flat_gradient(module: nn.Module) -> Tensor:
    """Concatenate all gradients of a module."""
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


def _off(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max().clamp_min(1e-300))
