"""Compile parts of a method; check that CUDA graphs are allowed."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from pnp.errors import UserError
from pnp.networks import Network
from pnp.views import Views

COMPILED = ("encoder", "views", "objective")


def compile_parts(
    parts: bool | Sequence[str],
    networks: Mapping[str, Network],
    views: Views,
    objective: nn.Module,
    *,
    cuda_graphs: bool = False,
) -> None:
    """Compile parts in place: names in the state dict stay as they are.

    Args:
        parts: some of `COMPILED`; True for the encoder, where it pays most.
        networks: student and teacher.
        views: of the training images.
        objective: as the method's.
        cuda_graphs: record the encoder's kernels and replay them with one launch per forward. Views
            draw from a generator and the objective is small: they stay out.

    Raises:
        UserError: an unknown part, or CUDA graphs of an encoder that is not compiled.
    """
    chosen = ("encoder",) if parts is True else parts or ()
    if isinstance(chosen, str) or not set(chosen) <= set(COMPILED):
        raise UserError(
            f"method.compile={chosen!r}: give true, false or some of [{', '.join(COMPILED)}]."
        )
    if cuda_graphs and "encoder" not in chosen:
        raise UserError("method.cuda_graphs replays a compiled encoder: set method.compile=true.")
    if "encoder" in chosen:
        mode = "reduce-overhead" if cuda_graphs else None
        for network in networks.values():
            network.backbone.compile(mode=mode)
            network.projector.compile(mode=mode)
            network.compiled = True
    if "views" in chosen:
        views.compile()
    if "objective" in chosen:
        objective.compile()


def check_cuda_graphs(device: torch.device, processes: int, *, whole: bool) -> None:
    """Refuse CUDA graphs where a replay would overwrite what is still needed, or without a GPU.

    Args:
        device: that trains.
        processes: that train together.
        whole: an optimizer step sees its batch in one piece.

    Raises:
        UserError: says what was found and what is needed.
    """
    if device.type != "cuda" or processes > 1 or not whole:
        pieces = "whole batches" if whole else "batches in pieces"
        raise UserError(
            f"method.cuda_graphs=true on {device.type} with {processes} process(es) and {pieces}: "
            "it needs one GPU, one process, and whole batches (no method.global_batch, "
            "trainer.accumulate_grad_batches=1)."
        )
