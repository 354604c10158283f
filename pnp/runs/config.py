"""Config to objects: only from this package, with names and types checked before anything runs."""

import inspect
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf

from pnp import plugins
from pnp.errors import UserError, near

T = TypeVar("T")


def conf_dir() -> Path:
    """The config folder: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def option_names(group: str) -> list[str]:
    """Names of the options of a config group; empty where there is no such group."""
    return sorted(file.stem for file in (conf_dir() / group).glob("*.yaml"))


def compose(name: str, words: Iterable[str] = (), *, with_hydra: bool = False) -> Any:
    """A composed config; a Hydra program around us stays as it is.

    Args:
        name: of the file in `conf`.
        words: overrides.
        with_hydra: keep Hydra's own section.

    Raises:
        hydra.errors.HydraException: an unknown key or option.
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    around = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return hydra.compose(name, list(words), return_hydra_config=with_hydra)
    finally:
        GlobalHydra.instance().hydra = around


def quoted(text: object) -> str:
    r"""A value of a Hydra override that is exactly this text, whatever letters it has.

    Backslashes are doubled before a quote only: Hydra leaves all others as they are.

    >>> print(quoted("bob's [1]"), quoted("C:\\new"))
    'bob\'s [1]' 'C:\new'
    """
    inside = re.sub(r"(\\*)('|\Z)", lambda m: 2 * m[1] + m[2].replace("'", "\\'"), str(text))
    return f"'{inside}'"


def build(node: object, where: str, **extra: Any) -> Any:
    """Call the `_target_` of a config node with the node's other keys and `extra`.

    Args:
        node: a mapping with `_target_`, a name inside the package `pnp` or an allowed plugin.
        where: the node's place in the config, for messages.
        extra: keyword arguments that are objects, not config; they win over the node's.

    Raises:
        UserError: a target that is not allowed, an argument it does not have, or one of the wrong
            type.
    """
    values = mapping(where, node)
    target = values.pop("_target_", None)
    if not isinstance(target, str):
        raise UserError(f"{where}._target_={target!r} is missing: it names what to build.")
    if target.startswith("pnp."):
        module, _, name = target.rpartition(".")
        try:
            function = getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise UserError(f"{where}._target_={target!r} does not exist: {error}.") from error
        if not (inspect.isclass(function) and function.__module__.startswith("pnp.")):
            # Files from strangers name targets, too: a function of ours may write any file.
            raise UserError(f"{where}._target_={target!r} is not allowed: it is no class of pnp.")
    else:
        function = plugins.find(target, f"{where}._target_")
    return checked(function, where, {**values, **extra})


def checked(function: Callable[..., T], where: str, values: Mapping[str, Any]) -> T:
    """Call with keyword arguments whose names and simple types are checked: see `check_call`."""
    check_call(function, values, where)
    return function(**values)


def mapping(where: str, node: object) -> dict[str, Any]:
    """A copy of a section of keys.

    Raises:
        UserError: it is something else.
    """
    if not isinstance(node, Mapping):
        raise UserError(f"{where}={node!r}: expected a section of keys, as in {where}.KEY=VALUE.")
    return dict(node)


def words(config: dict[str, Any], *keys: str, where: str = "") -> None:
    """Turn the values of keys that name something into text: a name of digits is a number in YAML.

    Args:
        config: changed in place.
        keys: of `config`.
        where: what stands before them in a message.

    Raises:
        UserError: a list, a section or a switch.
    """
    for key in keys:
        if isinstance(config[key], list | dict | bool):
            raise UserError(f"{where}{key}={config[key]}: give one name or path.")
        if config[key] is not None:
            config[key] = str(config[key])


def only_one(config: Mapping[str, Any], **choices: str) -> str:
    """The one key of several that is set.

    Args:
        config: of a command.
        choices: key -> its value in words, for the message.

    Raises:
        UserError: none of them is set, or more than one.
    """
    given = [key for key in choices if config[key]]
    if len(given) != 1:
        known = ", ".join(f"{key}={value}" for key, value in choices.items())
        raise UserError(f"give exactly one of {known}; got {' and '.join(given) or 'none'}.")
    return given[0]


def plain(cfg: Any) -> dict[str, Any]:
    """A composed config as ordinary dicts and lists, resolved, without Hydra's own section."""
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    return {key: value for key, value in values.items() if key != "hydra"}


def check_call(function: Callable[..., Any], values: Mapping[str, Any], where: str) -> None:
    """Check names and simple types of keyword arguments against a signature.

    Raises:
        UserError: names the key, what was seen and what was expected.
    """
    given = inspect.signature(function).parameters
    parameters = {k: p for k, p in given.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in given.values())
    hints = get_type_hints(function.__init__ if inspect.isclass(function) else function)
    for key, value in values.items():
        if key not in parameters and not open_ended:
            raise UserError(
                f"{where}.{key} is unknown; choose from {', '.join(parameters)}."
                f"{near(key, parameters).replace('mean ', f'mean {where}.')}"
            )
        if key in hints and not _fits(value, hints[key]):
            expected = hints[key].__name__ if inspect.isclass(hints[key]) else hints[key]
            raise UserError(
                f"{where}.{key}={value!r} has the wrong type: expected {expected}, got "
                f"{type(value).__name__}."
            )
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in values:
            raise UserError(f"{where}.{key} is missing: it has no default.")


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether `value` has the type `hint`; hints that are not simple accept anything."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str, types.NoneType):
        return isinstance(value, hint)
    if origin in (tuple, list, Sequence):
        return isinstance(value, list | tuple) and all(
            _fits(item, args[0]) for item in value if args
        )
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(_fits(item, args[1]) for item in value.values())
    return True
