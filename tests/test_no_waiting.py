"""A training step never waits for the device: it asks for no value of a tensor."""

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from pnp.data import Batch
from pnp.runs.config import plain
from pnp.runs.launch import compose
from pnp.runs.parts import parts

TINY = (
    "data.n_train=16", "data.validation=8", "data.calibration=8", "data.test=8",
    "data.batch_size=8", "model.width=2", "model.depth=2", "views.blur=0.5", "views.solarize=0.2",
)  # fmt: skip
METHODS = ("pnp", "byol", "simsiam", "barlow", "lejepa", "dino", "vicreg", "simclr")


def step(method, *words, read=lambda loss: None):
    """One optimizer step on tensors without values, which have no answer to a question."""
    words = [f"method={method}", *words, *TINY]
    config = {**plain(compose("train", words, as_job=True)), "choices": {}}
    config["method"]["log_every"] = 10**9
    _, module, _ = parts(config)
    module.trainer = SimpleNamespace(
        global_step=1, current_epoch=0, world_size=1, accumulate_grad_batches=1
    )
    module.steps_per_epoch = 2
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
