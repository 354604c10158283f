"""Launch Hydra commands: find the configuration, show mistakes as messages, end sweeps."""

import logging
import multiprocessing
import os
import secrets
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import OmegaConf

from pnp import console
from pnp.errors import UserError
from pnp.files import is_disk_full, read_json, write_json
from pnp.runs import arguments
from pnp.runs.config import compose as compose_config
from pnp.runs.config import conf_dir
from pnp.runs.directory import hydra_job, is_multirun
from pnp.runs.hints import hints
from pnp.runs.jobs import Busy, run_name
from pnp.signals import STOPPING, Interrupted, Listener, requeue

# Here, since a launcher's processes import this module before they name their jobs.
OmegaConf.register_new_resolver("run_name", run_name, replace=True)


def compose(name: str, overrides: Sequence[str], *, as_job: bool = False) -> Any:
    """A composed config: plain dicts, or with `as_job` what Hydra would give a job.

    Raises:
        hydra.errors.HydraException: an unknown key or option.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    cfg = compose_config(name, arguments.understood(overrides), with_hydra=as_job)
    if not as_job:
        return OmegaConf.to_container(cfg)
    HydraConfig.instance().set_config(cfg)  # it knows the groups that were chosen
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


def launch(config_name: str, run: Callable[[Any], Any]) -> None:
    """Run `run(cfg)` as a Hydra program and turn mistakes into messages.

    A bad value ends in one message and exit status 2; a key that Hydra does not know gets its near
    match; a signal ends in 128 + its number. In a multirun a failed job does not stop the others:
    all failures are listed at the end, whatever launcher ran the jobs, and the status is 1.
    """
    import hydra

    # On a new machine it would announce its font list as if Hydra had something to say.
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    console.fall_back()
    task = Task(run)
    try:
        sys.argv[1:] = arguments.prepared(config_name, sys.argv[1:])
    except UserError as error:
        complain(str(error))
        sys.exit(2)
    status: Any = 0
    try:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(task)()
    except SystemExit as stop:
        status = stop.code
    except KeyboardInterrupt:
        status = 130
    except Exception:
        if not Sweep.stopped:
            raise  # else it is joblib's complaint about processes that were told to stop
    failed = _conclude(task.token)
    if status == 1 and not (failed or Sweep.stopped or Task.called):
        status = 2
        for line in hints(config_name, sys.argv[1:]):
            complain(line)
    if Sweep.stopped:
        signum, Sweep.stopped = Sweep.stopped, 0
        print("Run the same command again to go on.", file=sys.stderr)
        requeue(signum)
        status = 128 + signum
    if status or failed:
        sys.exit(status or failed)


class Sweep(Callback):
    """State of a multirun in the process that launches its jobs: folder, overrides, signal."""

    folder: ClassVar[Path | None] = None
    given: ClassVar[list[str]] = []
    stopped: ClassVar[int] = 0

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        """Called by Hydra before the first job."""
        Sweep.folder = Path(config.hydra.sweep.dir)
        Sweep.given = list(config.hydra.overrides.task)
        if _by_joblib(config.hydra):
            for number in STOPPING:
                signal.signal(number, Sweep.stop)

    @staticmethod
    def stop(signum: int, *_: object) -> None:
        """Have joblib's processes save, and wait for them; the second time do not wait."""
        if Sweep.stopped:
            sys.exit(128 + signum)
        Sweep.stopped = signum
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises to us instead of printing a traceback
        print("stopping: running jobs save first", file=sys.stderr)
        for child in multiprocessing.active_children():
            if child.pid is not None:
                os.kill(child.pid, signal.SIGTERM)


# In a process that joblib gives one job after another: no signal gets lost between them.
between = Listener()


def _by_joblib(config: Any) -> bool:
    return "joblib" in str(config.launcher.get("_target_", ""))


class Task:
    """The task that Hydra calls for each job, maybe in another process: mistakes become messages.

    Each job of a multirun leaves a note in the sweep's folder while it runs, and for good when it
    fails: the launching process learns of failures from these, even of a job that was killed.
    """

    called: ClassVar[bool] = False  # the configuration was composed: a failure is no wrong key

    def __init__(self, run: Callable[[Any], Any]) -> None:
        self.run, self.token = run, secrets.token_hex(4)

    def __call__(self, cfg: Any) -> Any:
        """Run one job; in a multirun a mistake ends in a note and None."""
        console.fall_back()  # joblib's processes did not come through `launch`
        Task.called = True
        many = is_multirun()
        shared = many and _by_joblib(hydra_job())
        if shared and not between.before:
            between.__enter__()
        if between.seen:
            return None
        if many:
            self.note("ended without a message; killed, or out of memory?")
        between.deferred = False
        try:
            result = self.run(cfg)
        except Interrupted as stop:
            self.note(None)
            print(f"{stop}; the state is saved.", file=sys.stderr)
            if shared:
                between.seen = stop.signum
                return None
            again = "Run the same command again" if many else "Add resume=auto to the command"
            print(f"{again} to go on.", file=sys.stderr)
            requeue(stop.signum)
            sys.exit(stop.status)
        except KeyboardInterrupt:
            self.note(None)
            sys.exit(130)
        except Busy as error:
            if not many:
                complain(str(error))
                sys.exit(2)
            print(f"left alone: {error}", file=sys.stderr)
            self.note(None)
        except Exception as error:
            message = _message(error)
            if message is None and not many:
                raise
            if message is None:
                traceback.print_exc()
                message = f"{type(error).__name__}: {error}"
            complain(message)
            if not many:
                sys.exit(2)
            self.note(message)
        else:
            self.note(None)
            return result
        finally:
            between.deferred = True
        return None

    def note(self, text: str | None) -> None:
        """Leave a note about this job of a multirun; None removes it."""
        if not is_multirun():
            return
        job = hydra_job()
        # The basic launcher needs no callback; hydra.job.chdir does not move the sweep's folder.
        Sweep.folder = Path(job.runtime.cwd, job.sweep.dir)
        file = Sweep.folder / ".jobs" / f"{self.token}-{job.job.num}"
        if text is None:
            file.unlink(missing_ok=True)
            return
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, [list(job.overrides.task), text])
        except OSError as error:  # the next job could not write either
            complain(f"{text}\n{_message(error)}")
            sys.exit(2)


def _message(error: Exception) -> str | None:
    """Message for a user's mistake; None for a fault of the program."""
    if isinstance(error, UserError):
        return str(error)
    if is_disk_full(error):
        place = getattr(error, "filename", None) or "more"
        return (
            f"cannot write {place}: the disk is full. What was there before is whole. Make space "
            "and give the same command again; pnp-train goes on with resume=auto."
        )
    if isinstance(error, RuntimeError) and " by peer" in str(error):  # gloo's words
        return (
            "the connection to another process of this run broke: it was killed (out of memory?) "
            "or failed with a message of its own. resume=auto goes on from the last checkpoint."
        )
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        return (
            "a process that decodes images died: out of memory, or /dev/shm is full. "
            "data.num_workers=0 decodes without; resume=auto goes on from the last checkpoint."
        )
    if "out of memory" in str(error).lower() or "can't allocate memory" in str(error):
        return (
            f"memory is full ({str(error).splitlines()[0]}). Use a smaller data.batch_size; with "
            "method.global_batch=N the objective still sees N images, in batches of that size."
        )
    if isinstance(error, RuntimeError) and "PytorchStreamWriter" in str(error):
        return "cannot write a checkpoint: is the disk full? resume=auto goes on from the last one."
    if isinstance(error, BrokenPipeError):
        return "nobody reads the output any more; resume=auto goes on from the last checkpoint."
    if isinstance(error, OSError) and error.filename:
        return f"cannot read or write {error.filename}: {error.strerror}."
    if isinstance(error, OSError):  # of no file: a library's own words, of a network maybe
        return error.strerror or str(error) or type(error).__name__
    return None


def _conclude(token: str) -> int:
    """List the failed jobs of the multirun that just ended; 1 if there are any."""
    if Sweep.folder is None:
        return 0
    notes = sorted(Sweep.folder.glob(f".jobs/{token}-*"), key=lambda p: int(p.name.split("-")[1]))
    failures = []
    for note in notes:
        overrides, text = read_json(note, list)
        own = " ".join(word for word in overrides if word not in Sweep.given)
        failures.append(f"{own or ' '.join(overrides)}: {text}")
        note.unlink()
    with suppress(OSError):  # not empty: another process works on the sweep too
        (Sweep.folder / ".jobs").rmdir()
    Sweep.folder = None
    if failures:
        complain(f"{len(failures)} of the jobs failed:\n  " + "\n  ".join(failures))
    return int(bool(failures))


def complain(message: str) -> None:
    """An error message on stderr."""
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True).print(Text.assemble(("error: ", "bold red"), message))
