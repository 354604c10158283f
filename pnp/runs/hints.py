"""Hints after Hydra's own message about an unknown key or option: what was probably meant."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from omegaconf import OmegaConf

from pnp.runs.config import compose, conf_dir, option_names

# Keys of pnp-evaluate that describe the data and the network: a run brings its own.
OF_THE_RUN = ("data", "views", "model", "pretrained", "partial", "state_dict")
LISTED = 12  # keys of a section that are listed


def hints(config_name: str, arguments: Sequence[str]) -> list[str]:
    """Sentences about words of a command line that its configuration does not take.

    Nothing is guessed: a key is suggested where its last word was meant (the same word in another
    section, or a slip of a letter or two); else the options that have it, or the section's keys.
    """
    groups = {path.name: option_names(path.name) for path in conf_dir().iterdir() if path.is_dir()}
    pairs = [argument.lstrip("+~").partition("=") for argument in arguments]
    chosen = [f"{key}={value}" for key, _, value in pairs if value in groups.get(key, ())]
    config: Any = OmegaConf.to_container(compose(config_name, chosen), resolve=False)
    keys = list(_keys(config))
    idle = without_effect(arguments) if config_name == "evaluate" else {}
    lines = []
    for (key, separator, value), argument in zip(pairs, arguments, strict=True):
        if not separator or key.startswith(("hydra.", "hydra/")):
            continue
        if parsed(argument) is None:
            lines.append(f"quote the value, for Hydra and for the shell: '{key}=\"{value}\"'")
        elif key in idle:
            lines.append(idle[key])
        elif key in groups:
            near = get_close_matches(value, groups[key], 1)
            if value not in groups[key] and near:
                lines.append(f"{key}={value}: did you mean {key}={near[0]}?")
        elif key not in keys:
            lines.append(f"{key} is unknown{_instead(key, value, keys, config, groups)}")
    return lines


def odd_option(arguments: Sequence[str]) -> str | None:
    """Sentence about the first word that Hydra would answer with a traceback; None without one."""
    for argument in arguments:
        key, separator, _ = argument.lstrip("+").partition("=")
        if separator and not key:
            return f"{argument}: expected KEY=VALUE."
        options = option_names(key) if separator and key.isidentifier() else []
        word = parsed(argument) if options else None
        if word is None or word.is_sweep_override():
            continue
        value = word.value()
        several = value if isinstance(value, list) else [value]
        if not all(isinstance(one, str | dict | None) for one in several):
            return f"{argument}: expected the name of an option: {', '.join(options)}."
    return None


def parsed(word: str) -> Any:
    """An override as Hydra understands it; None where Hydra refuses it with its own message."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None


def without_effect(words: Sequence[str]) -> dict[str, str]:
    """Keys that change nothing beside `run=` or `ckpt=` of pnp-evaluate, each with a sentence."""
    pairs = {key.lstrip("+~"): value for key, _, value in (w.partition("=") for w in words)}
    source = next((key for key in ("run", "ckpt") if pairs.get(key) not in (None, "", "null")), "")
    if not source:
        return {}
    return {
        key: f"{key}={value} has no effect beside {source}=…, which brings its own data, views and "
        "network. Other images are judged by datasets='{image_folder: {root: FOLDER}}' or another "
        "option of data."
        for key, value in pairs.items()
        if key.partition(".")[0] in OF_THE_RUN
    }


def _instead(
    key: str,
    value: str,
    keys: Sequence[str],
    config: Mapping[str, Any],
    groups: Mapping[str, Sequence[str]],
) -> str:
    """End of the sentence about an unknown key."""
    section, _, last = key.rpartition(".")
    leaves = {known: known.rpartition(".")[2] for known in keys}
    target = f"{section}._target_"
    siblings = [leaf for known, leaf in leaves.items() if known == f"{section}.{leaf}" != target]
    if close := get_close_matches(last, siblings, 1, cutoff=0.75):
        return f": did you mean {section}.{close[0]}?"
    of_group = section in groups and isinstance(config.get(section), dict)
    # Options of the group whose file has the key.
    files = [conf_dir() / section / f"{name}.yaml" for name in groups[section]] if of_group else []
    if owners := [file.stem for file in files if last in OmegaConf.load(file)]:
        words = " or ".join(f"{section}={option}" for option in owners)
        return f" here, it goes with {words}."
    same = [known for known, leaf in leaves.items() if leaf == last]
    ends = [known for known, leaf in leaves.items() if leaf.endswith(f"_{last}")]
    if elsewhere := same or ends:
        return f": did you mean {' or '.join(elsewhere[:3])}?"
    if close := get_close_matches(key, [*keys, *groups], 1, cutoff=0.85):
        return f": did you mean {close[0]}?"
    if section == "model" and "backbone" in config:  # of pnp-evaluate, where it is null
        return f": give backbone=random model='{{{last}: {value}}}', or backbone=NAME."
    if siblings:
        return f"; {section} has {', '.join(siblings[:LISTED])}{' …' * (len(siblings) > LISTED)}."
    return "; --help lists the keys."


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from _keys(value, f"{prefix}{key}.")
