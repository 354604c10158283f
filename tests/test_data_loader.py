"""Batches: the order is a pure function, shards partition it, and a resumed run continues it."""

import lightning as L
import pytest
import torch
from PIL import Image
from torch import nn

import pnp.data.loader as loader_module
from pnp.data import Batch, FolderImages, ImageSet, Loader
from pnp.data.loader import batches_per_epoch
from pnp.data.names import Names
from pnp.errors import UserError


def numbered(count: int) -> ImageSet:
    images = torch.arange(count).to(torch.uint8).view(count, 1, 1, 1).expand(count, 1, 2, 2)
    return ImageSet(name="numbered", images=images.contiguous(), labels=torch.arange(count) * 2)


def numbers(batch: Batch) -> list[int]:
    """Numbers of the images of a batch, which are their pixels."""
    return batch.images[:, 0, 0, 0].tolist()


def order(loader: Loader) -> list[list[int]]:
    return [numbers(batch) for batch in loader]


def pretend(monkeypatch, rank: int, world: int) -> None:
    monkeypatch.setattr(loader_module, "rank", lambda: rank)
    monkeypatch.setattr(loader_module, "world_size", lambda: world)


@pytest.fixture
def files(tmp_path) -> ImageSet:
    for i in range(21):
        Image.new("RGB", (4, 4), (i, i, i)).save(tmp_path / f"{i:02}.png")
    names = tuple(f"{i:02}.png" for i in range(21))
    return ImageSet(name="files", images=FolderImages(tmp_path, Names(names), 4))


def test_a_batch_brings_the_labels_of_its_images():
    for batch in Loader(numbered(20), 4):
        assert batch.labels.tolist() == [2 * number for number in numbers(batch)]


def test_an_epoch_is_a_permutation_without_the_incomplete_batch():
    epoch = order(Loader(numbered(23), 5))
    assert [len(batch) for batch in epoch] == [5, 5, 5, 5]
    assert len({i for batch in epoch for i in batch}) == 20


def test_the_order_depends_on_seed_and_epoch_and_nothing_else():
    loader = Loader(numbered(64), 8, seed=1)
    first, second = order(loader), order(loader)
    torch.manual_seed(5)
    again = Loader(numbered(64), 8, seed=1)
    assert (order(again), order(again)) == (first, second)
    assert first != second
    assert order(Loader(numbered(64), 8, seed=2)) != first
    again.set_epoch(1)
    assert order(again) == second


def test_two_ranks_partition_each_global_batch(monkeypatch):
    whole = order(Loader(numbered(50), 8))
    halves = []
    for rank in range(2):
        pretend(monkeypatch, rank, 2)
        halves.append(order(Loader(numbered(50), 4)))
    assert [a + b for a, b in zip(*halves, strict=True)] == whole


@pytest.mark.parametrize("k", [0, 1, 3, 4])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_restored_loader_continues_with_the_very_next_batch(files, k, streaming):
    data = files if streaming else numbered(21)
    unbroken = Loader(data, 5, seed=3)
    unbroken.set_epoch(2)
    expected = order(unbroken) + order(unbroken)

    broken = Loader(data, 5, seed=3)
    broken.set_epoch(2)
    iterator = iter(broken)
    got = [numbers(next(iterator)) for _ in range(k)]
    resumed = Loader(data, 5, seed=3)
    resumed.load_state_dict(broken.state_dict())
    resumed.set_epoch(2)
    assert got + order(resumed) + order(resumed) == expected


def test_a_new_epoch_starts_at_its_first_batch_after_a_short_one():
    loader = Loader(numbered(40), 4)
    next(iter(loader))
    loader.set_epoch(1)
    assert len(order(loader)) == 10


def test_streams_give_the_same_batches_as_memory_with_and_without_workers(files):
    expected = Loader(files, 4, seed=1)
    workers = Loader(files, 4, seed=1, num_workers=1)
    for _ in range(2):
        for a, b in zip(expected, workers, strict=True):
            assert torch.equal(a.images, b.images)


def test_a_worker_that_decodes_ahead_does_not_move_the_position(files):
    loader = Loader(files, 4, num_workers=1)
    iterator = iter(loader)
    next(iterator), next(iterator)
    assert loader.state_dict()["batch"] == 2


def test_a_worker_reports_a_corrupt_file_by_name_and_without_traceback(files):
    (files.images.root / "05.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"05\.png.*on_corrupt=skip") as caught:
        order(Loader(files, 21, num_workers=1))
    assert "Traceback" not in str(caught.value)


def test_a_step_that_was_not_finished_is_repeated():
    done = 1
    loader = Loader(numbered(20), 5, consumed=lambda: done)
    iterator = iter(loader)
    next(iterator), next(iterator)
    assert loader.state_dict()["batch"] == 1


def test_resuming_into_another_order_names_what_changed():
    loader = Loader(numbered(20), 5)
    next(iter(loader))
    with pytest.raises(UserError, match="batch_size: 5 then, 4 now"):
        Loader(numbered(20), 4).load_state_dict(loader.state_dict())


def test_impossible_batches_are_refused_with_numbers(monkeypatch):
    with pytest.raises(UserError, match="batch_size=1"):
        Loader(numbered(20), 1)
    with pytest.raises(UserError, match="batch_size=21 is larger than the set of 20"):
        Loader(numbered(20), 21)
    pretend(monkeypatch, 0, 4)
    assert batches_per_epoch(20, 5) == 1
    with pytest.raises(UserError, match=r"batch_size=6 × 4 processes.*batch_size=5 or less"):
        batches_per_epoch(20, 6)


class Recorder(L.LightningModule):
    """Notes what it is given."""

    def __init__(self):
        super().__init__()
        self.layer, self.seen = nn.Linear(1, 1), []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch_idx, *numbers(batch)))
        return self.layer(batch.images.float().mean((1, 2, 3))[:, None]).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Saver(L.Callback):
    """Saves at a chosen hook, after a chosen number of steps."""

    def __init__(self, hook: str, step: int, path):
        self.hook, self.step, self.path = hook, step, path

    def save(self, trainer, hook):
        if hook == self.hook and trainer.global_step == self.step and not self.path.exists():
            trainer.save_checkpoint(self.path)

    def on_train_batch_end(self, trainer, *_):
        self.save(trainer, "batch_end")

    def on_train_epoch_end(self, trainer, *_):
        self.save(trainer, "epoch_end")

    def on_train_batch_start(self, trainer, *_):
        self.save(trainer, "batch_start")


@pytest.mark.parametrize(
    ("hook", "step"),
    [("batch_end", 2), ("batch_end", 4), ("batch_end", 6), ("batch_start", 5), ("epoch_end", 8)],
)
def test_lightning_resumes_at_the_exact_batch(tmp_path, hook, step):
    path = tmp_path / "saved.ckpt"

    def fit(callbacks, resume=None):
        from pnp.data import DataModule

        module = Recorder()
        data = DataModule("ambiguous", n_train=17, validation=2, calibration=2, test=2)
        data.batch_size = 4
        trainer = L.Trainer(
            max_epochs=3,
            accelerator="cpu",
            logger=False,
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=False)
        return module.seen

    unbroken = fit([Saver(hook, step, path)])
    assert len(unbroken) == 12
    assert len({seen[2:] for seen in unbroken}) == 12
    assert fit([], resume=path) == unbroken[step:]
