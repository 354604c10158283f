"""What a GPU asks for and a CPU can prove: checkpoints, plain evaluation, precision, memory."""

from types import SimpleNamespace

import lightning as L
import pytest
import torch

from pnp.backbones import backbone
from pnp.callbacks import checkpoints
from pnp.callbacks.checkpoints import Checkpoints
from pnp.errors import UserError
from pnp.networks import EMATeacher, Network, projector
from pnp.runs import parts
from pnp.runs.launch import _message


class Trainer(L.Trainer):
    """As much of a trainer as the end of an epoch looks at."""

    max_epochs, max_steps, global_step, current_epoch = 8, -1, 0, 0
    should_stop, is_global_zero, callback_metrics = False, True, None

    def __init__(self, save):
        self.save_checkpoint, self.callback_metrics = save, {}


@pytest.mark.parametrize(
    ("cost", "every", "written"),
    [(0.01, 1.0, [1, 2, 3, 4, 5, 6, 7, 8]), (0.08, 1.0, [1, 3, 5, 7, 8]), (1.0, 1.0, [1, 8])],
)
def test_epochs_that_last_no_longer_than_their_checkpoint_share_one(
    cost, every, written, tmp_path, monkeypatch
):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(checkpoints, "monotonic", lambda: clock.now)
    epochs = []

    def save(part):
        epochs.append(trainer.current_epoch + 1)
        part.write_text("weights")
        clock.now += cost

    trainer, callback = Trainer(save), Checkpoints(tmp_path)
    for trainer.current_epoch in range(8):
        clock.now += every
        callback.on_train_epoch_end(trainer, L.LightningModule())
    assert epochs == written


def test_the_best_epoch_is_always_written_and_is_the_last_one_under_another_name(tmp_path):
    trainer = Trainer(lambda part: part.write_text(f"epoch {trainer.current_epoch}"))
    callback = Checkpoints(tmp_path, monitor="knn", max_share=1e-12)
    for trainer.current_epoch, value in enumerate((0.2, 0.5, 0.4)):
        trainer.callback_metrics["knn"] = value
        callback.on_train_epoch_end(trainer, L.LightningModule())
    assert (tmp_path / "best.ckpt").read_text() == "epoch 1"


def network():
    net = backbone("small_cnn", in_channels=3, width=2, depth=2, pool=1)
    return Network(net, projector(net.dim, hidden=4, out=4, layers=2))


def test_a_compiled_network_is_evaluated_as_it_is_written():
    net = network()
    compilations = []

    def compiler(graph, _):
        compilations.append(graph)
        return graph.forward

    net.backbone.compile(backend=compiler)
    net.compiled = True
    images = torch.rand(4, 3, 8, 8)
    net(images)
    net.eval()(images[:3])
    assert compilations == []
    net.train().encode(images)
    assert compilations


def test_the_teacher_follows_buffers_that_moving_has_renewed():
    student = network()
    teacher = EMATeacher(student, 0.5)
    teacher.update(student, 0, 10)
    norm = next(m for m in student.modules() if isinstance(m, torch.nn.BatchNorm2d))
    norm.running_mean.fill_(3.0)
    teacher.update(student, 1, 10)
    copy = next(m for m in teacher.network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert torch.equal(copy.running_mean, norm.running_mean)
    other = network()
    teacher.update(other, 2, 10)  # another student: nothing of the first is remembered
    assert all(
        torch.equal(a, b) for a, b in zip(teacher.network.buffers(), other.buffers(), strict=True)
    )


@pytest.mark.parametrize(
    ("precision", "kind"),
    [("32-true", None), ("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16)],
)
def test_evaluation_computes_in_the_precision_that_it_names(precision, kind):
    _, name, autocast = parts.placement("cpu", precision, "")
    assert name == precision
    with autocast():
        assert torch.is_autocast_enabled("cpu") == (kind is not None)
        assert kind is None or torch.get_autocast_dtype("cpu") == kind


def test_a_precision_that_evaluation_does_not_know_is_refused_and_not_ignored():
    with pytest.raises(UserError, match=r"^precision=64-true: .* Use bf16-mixed or 32-true"):
        parts.placement("cpu", "64-true", "")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSee docs"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_memory_that_is_full_says_what_to_change(error):
    message = _message(error)
    assert message is not None
    assert "data.batch_size" in message
    assert "method.global_batch" in message
    assert "\n" not in message
