"""A training step never waits for the device: it asks for no value of a tensor."""

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from pnp.data import Batch
from pnp.data.loader import Loader
from pnp.runs.config import plain
from pnp.runs.launch import compose
from pnp.runs.parts import parts

TINY = (
    "data.n_train=16", "data.validation=8", "data.calibration=8", "data.test=8",
    "data.batch_size=8", "model.width=2", "model.depth=2", "views.blur=0.5", "views.solarize=0.2",
)  # fmt: skip
METHODS = ("pnp", "byol", "simsiam", "barlow", "lejepa", "dino", "vicreg", "simclr")


def built(*words):
    """Data and module of a tiny configuration."""
    config = {**plain(compose("train", [*TINY, *words], as_job=True)), "choices": {}}
    config["method"]["log_every"] = 10**9
    data, module, _ = parts(config)
    module.trainer = SimpleNamespace(
        global_step=1, current_epoch=0, world_size=1, accumulate_grad_batches=1
    )
    module.steps_per_epoch = 2
    return data, module


def step(method, *words, read=lambda loss: None):
    """One optimizer step on tensors without values, which have no answer to a question."""
    _, module = built(f"method={method}", *words)
    with FakeTensorMode(allow_non_fake_inputs=True):
        images = torch.zeros(8, 3, 32, 32, dtype=torch.uint8)
        loss = module.training_step(Batch(images), 0)["loss"]
        module.backward(loss)
        if module.teacher is not None:
            module.teacher.update(module.student, 1, 10)
        read(loss)


@pytest.mark.parametrize("method", METHODS)
def test_views_networks_objective_and_teacher_ask_for_no_value(method):
    step(method)


def test_the_kernel_per_anchor_asks_for_no_value():
    step("pnp", "objective.kernel=logsumexp", "objective.target=mean", "method.teacher=none")


def test_a_question_would_be_found():
    with pytest.raises(DataDependentOutputException):
        step("pnp", read=float)


# --- on a GPU that is not there -------------------------------------------------------------------


class Watch(TorchDispatchMode):
    """Operations that compute something, and copies from one device to another."""

    def __init__(self):
        super().__init__()
        self.count, self.copies = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.count += not func.is_view
        moved = [a for a in args if isinstance(a, torch.Tensor) and a.ndim and a.device != GPU]
        if "copy" in func.name() and moved:
            self.copies.append(f"{func.name()} of {tuple(moved[0].shape)}")
        return out


# Views with blur and solarisation, and the forward passes; benchmarks/arms.py counts the rest.
OPERATIONS = {
    "pnp": 836, "byol": 736, "simsiam": 729, "simclr": 717,
    "vicreg": 702, "barlow": 685, "dino": 801,
}  # fmt: skip
GPU = torch.device("cuda:0")


class GPUGenerator(torch.Generator):
    device = GPU


@pytest.fixture
def no_generator(monkeypatch):
    """Draws of a generator on a device that is not there."""
    rand = torch.rand

    def drawn(*shape, generator=None, device=None, **options):
        return rand(*shape, device=device or generator.device, **options)

    monkeypatch.setattr(torch, "rand", drawn)


@pytest.mark.parametrize("method", OPERATIONS)
def test_from_the_second_batch_on_nothing_is_copied_to_a_gpu(method, no_generator):
    watch, loss = second_step(f"method={method}")
    assert loss.device == GPU
    assert watch.copies == []
    # Each is a launch on a GPU; an operation more here is one more per step.
    older = method == "simclr" and tuple(map(int, torch.__version__.split(".")[:2])) < (2, 15)
    assert watch.count <= OPERATIONS[method] + older


def test_a_copy_would_be_found(no_generator):
    watch, _ = second_step("method=pnp", resident=False)
    assert any("(8, 3, 32, 32)" in copy for copy in watch.copies)


def second_step(*words, resident=True):
    """What the second training step and its loader do, and its loss."""
    data, module = built("data.n_train=32", *words)
    with FakeTensorMode(allow_non_fake_inputs=True):
        module.to(GPU)
        module._device = GPU  # Lightning would ask the driver for the current one
        module.draws = lambda _: GPUGenerator()
        batches = iter(Loader(data.pretrain, 8, device=GPU, resident=resident))
        module.training_step(next(batches), 0)
        with Watch() as watch:  # the loader's work is inside
            loss = module.training_step(next(batches), 1)["loss"]
    return watch, loss
