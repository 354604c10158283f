"""The page that adds a method does what it says."""

import re
from pathlib import Path

import pytest
import torch

from pnp import rivals
from pnp.errors import UserError

PAGE = Path(__file__).parents[1] / "docs" / "add_a_method.md"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def added(monkeypatch):
    """pnp.rivals with the page's class in it; the page's names."""
    code, evidence = blocks("python")
    names = dict(vars(rivals))
    exec(compile(code, str(PAGE), "exec"), names)  # the page is ours
    monkeypatch.setattr(rivals, "DCL", names["DCL"], raising=False)
    return names, code, evidence


def test_the_objective_is_below_thirty_lines_of_code(added):
    assert len([line for line in added[1].splitlines() if line.strip()]) < 30


def test_the_objective_equals_the_librarys_in_value_and_gradient(added):
    from lightly.loss import DCLLoss

    z = torch.randn(2, 9, 6, dtype=torch.float64, requires_grad=True)
    ours, theirs = rivals.DCL(temperature=0.2)(z, z.detach())["loss"], DCLLoss(0.2)(*z)
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(loss, z)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients)
    with pytest.raises(UserError, match=r"objective\.temperature=0"):
        rivals.DCL(temperature=0)


def test_the_evidence_runs(added, capsys):
    names, _, evidence = added
    exec(compile(evidence, str(PAGE), "exec"), names)
    assert "'repulsion'" in capsys.readouterr().out


def test_the_yaml_composes_and_trains_with_the_command_of_the_page(added, compose, tmp_path):
    from pnp.cli.train import train

    (text,) = blocks("yaml")
    (tmp_path / "objective").mkdir()
    (tmp_path / "objective" / "dcl.yaml").write_text(text)
    command = re.search(r"^pnp-train (method=.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    words = [word for word in command[1].split() if not word.startswith("data=")]
    beside = f"hydra.searchpath=[file://{tmp_path}]"
    cfg = compose(beside, *words, "trainer.fast_dev_run=true", "evaluation.test=false")
    assert cfg.objective._target_ == "pnp.rivals.DCL"
    train(cfg)
