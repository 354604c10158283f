"""What `pnp-doctor` checks: exactness across ranks, micro-batches and resumption; views; speed."""

import copy
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from pnp.data import Batch
from pnp.distributed import average_gradients
from pnp.geometry import unit
from pnp.views import color, resample

PROCESSES = 2
IMAGES = 24
STEPS = 4


@dataclass(frozen=True)
class Check:
    """One line of the doctor's table; `error` is relative unless the note says otherwise."""

    name: str
    passed: bool
    error: float
    limit: float
    note: str


def objective_of(config: Mapping[str, Any]) -> nn.Module:
    """The objective of a plain config, without the key that belongs to the training loop."""
    from pnp.runs.config import build

    options = {key: value for key, value in config["objective"].items() if key != "global_batch"}
    return build(options, "objective")


def same_over_ranks(
    make: Callable[[], nn.Module], views: int, dims: int, normalize: bool = True
) -> Check:
    """Loss and gradient of 2 processes, with equal and with different shares, against one's.

    Args:
        make: the objective; importable, since other processes call it.
        views: of every image.
        dims: of the outputs that it compares.
        normalize: whether these are unit vectors.
    """
    shares = ([IMAGES // 2] * 2, [IMAGES // 3, IMAGES - IMAGES // 3])
    setting = (make, views, dims, normalize)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, (folder, shares, setting), nprocs=PROCESSES)  # pyright: ignore[reportPrivateImportUsage]
        found = [torch.load(f"{folder}/{i}.pt", weights_only=True) for i in range(PROCESSES)]
    loss, gradient = _step(make, views, dims, normalize, slice(None))
    error = 0.0
    for number in range(len(shares)):
        mean = torch.stack([ranks[number][0] for ranks in found]).mean()
        error = max(error, _off(mean, loss))
        error = max(error, *(_off(ranks[number][1], gradient) for ranks in found))
    note = f"{PROCESSES} processes, {IMAGES} images, equal and unequal shares; without BatchNorm"
    return Check("ranks ≡ one process", error <= 1e-10, error, 1e-10, note)


def _rank(index: int, folder: str, shares: Any, setting: Any) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=index, world_size=PROCESSES)
    cuts = [slice(sum(share[:index]), sum(share[: index + 1])) for share in shares]
    make, views, dims, normalize = setting
    steps = [_step(make, views, dims, normalize, mine) for mine in cuts]
    torch.save(steps, f"{folder}/{index}.pt")
    dist.barrier()
    dist.destroy_process_group()


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
    """The gradient of a batch in micro-batches against that of the batch whole, in float64.

    Args:
        module: the user's `SelfSupervised`, not yet trained; it is not changed.
        channels: of the images.
        size: of the images.
    """
    module = copy.deepcopy(module).cpu().double()
    module.objective.eval()  # queues and centres stay where they are
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
        gradients.append(_flat(module.student))
    error = _off(gradients[1], gradients[0])
    note = "3 micro-batches of 4, your networks in float64, BatchNorm held still"
    return Check("micro-batches ≡ whole batch", error <= 1e-9, error, 1e-9, note)


class _Still:
    """Views that depend on nothing but the image: plain, mirrored, darkened."""

    local = 0

    def __init__(self, views: Any) -> None:
        self.plain, self.count = views.plain, views.count

    def __call__(self, images: Tensor, _: torch.Generator) -> Tensor:
        x = self.plain(images).double()
        return torch.stack([x, x.flip(-1), *(x * 0.9**i for i in range(1, self.count - 1))])


def resumes(config: dict[str, Any], folder: Path) -> Check:
    """A run stopped half-way and resumed against the same run unbroken: everything it saves."""
    config = copy.deepcopy(config)
    batch = max(2, min(config["data"]["batch_size"], 16))
    config["data"] |= {"batch_size": batch}
    config["objective"] = {**config["objective"], "global_batch": None}
    config["trainer"] |= {"max_steps": STEPS, "max_epochs": -1, "accumulate_grad_batches": 1}
    config["trainer"] |= {"devices": 1, "num_nodes": 1, "strategy": "auto"}
    config["trainer"].pop("sync_batchnorm", None)
    config["callbacks"], config["wandb"] = {}, None
    whole = _trained(config, folder, None, None)
    _trained(config, folder, STEPS // 2, None)
    again = _trained(config, folder, None, folder / "half.ckpt")
    error, where = _differs(whole, again)
    gpu = torch.cuda.is_available()
    limit = 1e-5 if gpu else 0.0  # GPU kernels add up in any order
    note = f"stopped after {STEPS // 2} of {STEPS} steps; weights, teacher, optimizer, positions"
    return Check("resumed ≡ unbroken", error <= limit, error, limit, where or note)


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
    """What the run has saved at its end; empty if it was stopped."""
    from pnp.runs.parts import build_trainer, parts

    L.seed_everything(config["seed"], workers=True, verbose=False)
    data, module, _ = parts(config)
    trainer = build_trainer(config, folder)
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
        # Seconds and versions are no state.
        found = [_differs(one[k], two[k], f"{where}.{k}".lstrip(".")) for k in one]
        return max(found, default=(0.0, ""))
    if isinstance(one, list | tuple) and isinstance(two, list | tuple) and len(one) == len(two):
        pairs = enumerate(zip(one, two, strict=True))
        return max((_differs(a, b, f"{where}[{i}]") for i, (a, b) in pairs), default=(0.0, ""))
    return (0.0, "") if one == two else (float("inf"), f"{where} differs: {one!r} and {two!r}")


def views_like_torchvision(channels: int, size: int) -> Check:
    """Batched crops, flips and hue against torchvision's, image by image; the error is absolute."""
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
    return Check("views ≡ torchvision", error <= 1.0, error, 1.0, note)


def finite_and_timed(
    data: Any, module: Any, device: torch.device, autocast: Callable[[], Any], seconds: float = 15.0
) -> tuple[Check, dict[str, float]]:
    """First steps on the real data: are loss and gradients finite, and what takes the time?

    Returns:
        The check, and milliseconds per step by part, with `images per second`.
    """
    module = module.to(device)
    optimizer, _ = module.optim.build(
        module.student, global_batch=data.batch_size, total_steps=100, steps_per_epoch=100
    )
    clock: dict[str, float] = {}

    def timed(part: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        clock[part] = clock.get(part, 0.0) + time.perf_counter() - start
        return result

    worst, steps, deadline = "", 0, time.perf_counter() + seconds
    batches = iter(data.train_dataloader())
    draws = torch.Generator(device).manual_seed(0)
    while steps < 12 and (steps < 3 or time.perf_counter() < deadline):
        batch = timed("data", partial(next, batches, None))
        if batch is None:
            break
        images = batch.images.to(device)
        views = [timed("views", partial(module.views, images, draws))]
        with autocast():
            _, z = timed("student", partial(module.encode, module.student, views))
            outputs = module.student.outputs(z)
            targets = outputs.detach()[: len(views[0])]
            if module.teacher is not None:
                with torch.no_grad():
                    network = module.teacher.network
                    _, t = timed("teacher", partial(module.encode, network, views))
                    targets = network.outputs(t)
            elif module.kind == "stop_gradient":
                targets = z.detach()
            terms = timed("objective", partial(module.objective, outputs, targets, epoch=0.0))
        bad = [name for name, term in terms.items() if not bool(term.isfinite())]
        timed("backward", terms["loss"].backward)
        if not bad and not bool(_flat(module.student).isfinite().all()):
            bad = ["the gradient"]
        worst = worst or (f"step {steps}: {', '.join(bad)}" if bad else "")
        timed("optimizer", optimizer.step)
        optimizer.zero_grad()
        if module.teacher is not None:
            timed("optimizer", partial(module.teacher.update, module.student, steps, 100))
        steps += 1
        if steps == 1:
            clock.clear()  # the first step warms up
    counted = max(1, steps - 1)
    parts = {part: 1000 * spent / counted for part, spent in clock.items()}
    parts["images per second"] = 1000 * data.batch_size / max(1e-9, sum(parts.values()))
    note = worst or f"{steps} steps of {data.batch_size} images on {device}"
    return Check("first steps finite", not worst, float(bool(worst)), 0.0, note), parts


def _flat(module: nn.Module) -> Tensor:
    grads = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
    return torch.cat(grads)


def _off(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max().clamp_min(1e-300))
