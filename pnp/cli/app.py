"""What every Hydra command shares: where the config lives, and errors that read like messages."""

import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pnp.errors import UserError


def conf_dir() -> Path:
    """The config folder: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def launch(config_name: str, run: Callable[[Any], Any]) -> None:
    """Run `run(cfg)` as a Hydra program and turn mistakes into messages.

    A bad value ends in one message and exit status 2; a key that Hydra does not know gets its near
    match; in a multirun a failed job is reported at the end and the others still run.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    failures: list[str] = []

    def task(cfg: Any) -> Any:
        try:
            return run(cfg)
        except UserError as error:
            _complain(str(error))
        except KeyboardInterrupt:
            sys.exit(130)
        except OSError as error:
            if error.filename is None and error.strerror is None:
                raise
            _complain(
                f"cannot read or write {error.filename or 'the run directory'}: {error.strerror}."
            )
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            failures.append(" ".join(HydraConfig.get().overrides.task))
            return None
        sys.exit(2)

    _check_run_dir(sys.argv[1:])
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(task)()
    except SystemExit as stop:
        if stop.code == 1:
            _hint(config_name, sys.argv[1:])
        raise
    if failures:
        _complain(f"{len(failures)} of the jobs failed:\n  " + "\n  ".join(failures))
        sys.exit(1)


def _complain(message: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True).print(Text.assemble(("error: ", "bold red"), message))


def _check_run_dir(arguments: list[str]) -> None:
    """Hydra makes the run directory itself and would fail with a traceback."""
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key in ("hydra.run.dir", "hydra.sweep.dir") and "${" not in value:
            try:
                Path(value).mkdir(parents=True, exist_ok=True)
                probe = Path(value) / ".writable"
                probe.touch()
                probe.unlink()
            except OSError as error:
                _complain(
                    f"cannot write to {key}={value}: {error.strerror}. Choose another folder."
                )
                sys.exit(2)


def _hint(config_name: str, arguments: list[str]) -> None:
    """After Hydra's own message about an unknown key or option: what was probably meant."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = OmegaConf.to_container(compose(config_name), resolve=False)
    keys = list(_keys(config))
    groups = {
        p.name: sorted(f.stem for f in p.glob("*.yaml")) for p in conf_dir().iterdir() if p.is_dir()
    }
    for argument in arguments:
        key, separator, value = argument.lstrip("+~").partition("=")
        if not separator or key.startswith("hydra."):
            continue
        if key in groups:
            near = get_close_matches(value, groups[key], 1)
            if value not in groups[key] and near:
                _complain(f"{key}={value}: did you mean {key}={near[0]}?")
        elif key not in keys:
            near = get_close_matches(key, [*keys, *groups], 1, cutoff=0.5)
            if near:
                _complain(f"{key} is unknown: did you mean {near[0]}?")


def _keys(node: Any, prefix: str = "") -> Any:
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from _keys(value, f"{prefix}{key}.")
