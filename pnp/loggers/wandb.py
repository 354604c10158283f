"""The W&B logger: one W&B run per run directory, continued by a resumed run without gaps."""

import contextlib
import json
import math
import os
import secrets
import shutil
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor, triu_indices

from pnp import files
from pnp.errors import UserError, choice, whole

# Logged beside every value, and called so in W&B.
AXES = {
    "epoch": "progress/epoch",
    "images_seen": "progress/images",
    "forwards_per_image": "progress/forwards",
}


class WandbLog(Logger):
    """Scalars, histograms and alarms of training to W&B; x is the optimizer step.

    Everything sent is also kept in `<folder>/wandb/journal.jsonl`. A resumed run keeps the journal
    up to the step it goes on from: an offline run writes one new file with all of it and drops the
    file that stopped short; an online run sends what the server does not have yet. A run that
    starts at step 0 replaces whatever W&B has of this directory.

    Args:
        folder: the run directory.
        config: the resolved configuration.
        mode: `offline` or `online`.
        project: W&B project; a sweep agent's own wins.
        entity: W&B user or team; None is the account's default.
        name: shown name of the run; None is the directory's.
        group: runs that belong together, such as a sweep.
        tags: of the run.
        histograms: monitored epochs between two histograms; 0 logs none.
        artifacts: upload checkpoint, config and report when the run ends.

    Raises:
        UserError: an option out of range.
    """

    name, version = "wandb", ""  # pyright: ignore

    def __init__(
        self,
        folder: str | Path,
        config: dict[str, Any] | None = None,
        *,
        mode: str = "offline",
        project: str = "pnp-ssl",
        entity: str | None = None,
        name: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        histograms: int = 1,
        artifacts: bool = False,
    ) -> None:
        super().__init__()
        choice("wandb.mode", mode, ("offline", "online"))
        whole("wandb.histograms", histograms, 0)
        self.folder, self.config = Path(folder), config or {}
        self.mode, self.project, self.entity = mode, project, entity
        self.label, self.group, self.tags = name or self.folder.name, group, list(tags)
        if len(self.label) > 128:  # W&B takes no longer one; a directory's ends tell runs apart
            self.label = f"{self.folder.name[:115]} … {self.folder.name[-10:]}"
        self.histograms, self.artifacts = histograms, artifacts
        self.journal = self.folder / "wandb" / "journal.jsonl"
        self.run: Any = None
        self.module: Any = None
        self.last = -1  # the step of the last entry
        self.known = 0  # the server has everything before this step
        self.alarms = self.epochs = 0
        self.seconds = 0.0  # spent by the runs that this one continues
        self.mark: tuple[int, float] | None = None

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Nothing: W&B is given the resolved configuration."""

    @rank_zero_only
    def log_graph(self, model: Any, input_array: Any = None) -> None:
        """Keep the module, which knows the images per step: here Lightning hands it to a logger."""
        self.module = model

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Send one row, with speed, health and the other x axes beside it."""
        at = self.last if step is None else step
        self._start(at)
        now = perf_counter()
        values = {AXES.get(k, k): v for k, v in metrics.items()}
        values["health/finite"] = float(all(math.isfinite(v) for v in metrics.values()))
        values["health/alarms"] = float(self.alarms)
        values["progress/step"] = at
        values["progress/seconds"] = round(self.seconds + now - self.started, 3)
        batch = self.module.global_batch if self.module is not None else None
        if batch:
            values["progress/images"] = (at + 1) * batch
        if any(key.startswith("gradient/") for key in metrics):
            pass  # a look that takes a few percent of a step
        elif "loss/total" not in metrics:
            self.mark = None  # an epoch ended: monitors took time that is not training's
        else:
            if self.mark and at > self.mark[0]:
                seconds = (now - self.mark[1]) / (at - self.mark[0])
                values["speed/seconds_per_step"] = seconds
                if batch:
                    values["speed/images_per_second"] = batch / seconds
            self.mark = (at, now)
        self._record({"step": at, "values": values})

    @rank_zero_only
    def log_embeddings(self, network: str, z: Tensor, step: int) -> None:
        """Send the covariance spectrum and the pair cosines of a network's embeddings `(N, D)`."""
        if not self.histograms:
            return
        from pnp import geometry

        self.epochs += network == "student"
        if (self.epochs - 1) % self.histograms:
            return
        z = geometry.unit(z)
        shares = geometry.spectrum(z)[:512]  # the longest histogram W&B takes
        few = min(500, len(z))
        above = triu_indices(few, few, 1)
        pairs = (z[:few] @ z[:few].T)[above[0], above[1]]
        counts = pairs.float().cpu().histc(64, -1, 1)
        drawn = {
            f"geometry/{network}/spectrum": [shares.tolist(), list(range(len(shares) + 1))],
            f"geometry/{network}/cosines": [counts.tolist(), [i / 32 - 1 for i in range(65)]],
        }
        self._start(step)
        self._record({"step": step, "histograms": drawn})

    @rank_zero_only
    def alarm(self, title: str, text: str, step: int) -> None:
        """Send an alert: W&B mails it or posts it to Slack, as the user's settings say."""
        self._start(step)
        self.alarms += 1
        self._record({"step": step, "alarm": {"title": title[:63], "text": text}})

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the W&B run if something failed or was stopped; else results are still to come."""
        if status != "success":
            self.close(1)

    @rank_zero_only
    def finish(self) -> None:
        """Send what the run directory holds after the evaluation, and end the W&B run.

        Nothing is lost when W&B refuses: the same is in the run directory.
        """
        from wandb import Error

        from pnp.loggers.wandb_results import send

        self._start(None)
        spectra = {
            key.split("/")[1]: shares
            for entry in _entries(self.journal)
            for key, (shares, _) in entry.get("histograms", {}).items()
            if key.endswith("/spectrum")
        }
        step = max(self.last + 1, self.known)
        try:
            send(self.run, self.folder, self.config, spectra, step=step, artifacts=self.artifacts)
        except (Error, OSError, ValueError) as error:
            print(f"W&B did not take the results ({error}); they are in {self.folder}.")
        self.close(0)

    def close(self, exit_code: int) -> None:
        """End the W&B run; nothing where none was started."""
        if self.run is not None:
            run, self.run = self.run, None
            self.stream.close()
            run.finish(exit_code=exit_code)

    def _start(self, step: int | None) -> None:
        """Start W&B, once; `step` is where training goes on from, None its end."""
        if self.run is not None:
            return
        kept = [e for e in _entries(self.journal) if step is None or e["step"] < step]
        self.journal.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(self.journal, "".join(json.dumps(entry) + "\n" for entry in kept))
        self.run = self._init(resume=bool(kept) and self.mode == "online")
        self.stream = self.journal.open("a", buffering=1, encoding="utf-8")
        self.known = self.run.starting_step if kept else 0
        for entry in kept:
            self._send(entry)
        times = [e["values"].get("progress/seconds", 0) for e in kept if "values" in e]
        self.seconds = max(times, default=0.0)
        self.alarms = sum("alarm" in entry for entry in kept)
        self.epochs = sum("geometry/student/spectrum" in e.get("histograms", {}) for e in kept)
        self.epochs *= self.histograms
        self.started = perf_counter()
        if self.mode == "offline":
            self._drop_superseded()

    def _init(self, *, resume: bool) -> Any:
        # W&B speaks before its own `silent` setting is read; whoever sets the variable decides.
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        in_sweep = "WANDB_SWEEP_ID" in os.environ
        try:
            run = wandb.init(
                id=self._id(),
                resume="allow" if resume else None,
                mode=self.mode,  # pyright: ignore[reportArgumentType]
                # The agent of a W&B sweep has said where the run belongs.
                project=None if in_sweep else self.project,
                entity=None if in_sweep else self.entity,
                name=self.label,
                group=self.group,
                tags=self.tags,
                config=self.config,
                dir=self.folder,
                job_type="train",
                reinit="create_new",  # a run of the calling program's own stays as it is
                settings=wandb.Settings(silent=True, console="off"),
            )
        except (wandb.Error, ValueError) as error:
            raise UserError(
                f"W&B did not start: {str(error).rstrip('.')}. For wandb.mode=online run `wandb "
                "login` first, and look at wandb.project and wandb.entity; or use "
                "wandb.mode=offline or logger=csv."
            ) from error
        for axis in ("step", "images", "forwards", "seconds"):
            run.define_metric(f"progress/{axis}", hidden=True)
        run.define_metric("*", step_metric="progress/step")
        return run

    def _id(self) -> str:
        """The id that this directory's W&B run keeps for good."""
        file = self.journal.with_name("id")
        if not file.exists():
            files.write_text(file, os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4))
        return files.read_text(file).strip()

    def _record(self, entry: dict[str, Any]) -> None:
        self.stream.write(json.dumps(entry) + "\n")
        self._send(entry)

    def _send(self, entry: dict[str, Any]) -> None:
        import wandb

        self.last = entry["step"]
        if entry["step"] < self.known:
            return
        if "alarm" in entry:
            self.run.alert(**entry["alarm"], level="WARN")
        values = dict(entry.get("values", {}))
        for key, (heights, edges) in entry.get("histograms", {}).items():
            values[key] = wandb.Histogram(np_histogram=(heights, edges))
        if values:
            self.run.log(values, step=entry["step"])

    def _drop_superseded(self) -> None:
        """Remove offline files that stop short: uploading one after the other loses steps."""
        current = Path(self.run.settings.sync_dir).resolve()
        for old in self.journal.parent.glob(f"offline-run-*-{self.run.id}"):
            if old.resolve() != current:
                shutil.rmtree(old, ignore_errors=True)


def _entries(journal: Path) -> list[dict[str, Any]]:
    """The lines of a journal; one cut short by a kill is left out."""
    entries: list[dict[str, Any]] = []
    if journal.exists():
        for line in files.read_text(journal).splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                entries.append(json.loads(line))
    return entries
