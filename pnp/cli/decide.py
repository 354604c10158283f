"""`pnp-decide`: fit, apply, label, check and plan deciders: P, ¬P or uncertain for any images."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pnp.errors import UserError

if TYPE_CHECKING:
    from pnp.decider.decider import Decider
    from pnp.decider.fit import Part
    from pnp.export.encoder import Encoder

USAGE = """\
pnp-decide: P, notP or uncertain for images nobody has seen, within error budgets.

  pnp-decide fit    run=RUN concept='{NAME: [classes]}'             from a run's own classes
  pnp-decide fit    run=RUN labels=labels.csv images=FOLDER         from images of one's own
  pnp-decide apply  decider=DECIDER images=FOLDER                   answers.csv and answers.html
  pnp-decide label  decider=DECIDER images=POOL n=100               what to label next
  pnp-decide check  decider=DECIDER images=FOLDER labels=later.csv  do the budgets still hold?
  pnp-decide plan   max_fp=.01 max_fn=.01                           how many labels are needed?

pnp-decide SUBCOMMAND --help lists every key.
"""


def fit(cfg: Any) -> Path:
    """Fit and certify a decider and write its folder.

    Args:
        cfg: a composed `conf/decide_fit.yaml`.

    Returns:
        The folder.

    Raises:
        UserError: keys that do not go together, or data that cannot make a decider.
    """
    from pnp import __version__
    from pnp.decider import card, folder
    from pnp.decider.fit import Budgets
    from pnp.decider.fit import fit as fit_decider
    from pnp.runs.config import plain

    config = plain(cfg)
    keys = ("max_fp", "max_fn", "delta", "method", "budget")
    budgets = Budgets(**{key: config[key] for key in keys})
    out = Path(config["out"] or (Path(config["run"]) / "decider" if config["run"] else "decider"))
    folder.refuse_foreign(out)
    encoder, options, source, data = _encoder(config)
    with _bar("features") as advance:
        if config["labels"] is not None:
            parts, concept, notes = _own_images(config, encoder, advance)
        else:
            parts, concept, notes = _own_classes(config, encoder, source, data, advance)
    shares = {key: config[key] for key in ("calibration", "validation", "test")}
    facts = {"concept": concept, **source, "shares": shares, "version": __version__}
    decider = fit_decider(encoder, parts, budgets, facts, notes)
    folder.write(decider, out, options, {"network": source["network"]}, card.write(decider))
    _say_fitted(decider, out)
    return out


def apply(cfg: Any) -> int:
    """Write answers.csv and answers.html; return the number of files without an answer.

    Args:
        cfg: a composed `conf/decide_apply.yaml`.
    """
    from pnp.decider.apply import apply as apply_decider
    from pnp.runs.config import plain

    config = plain(cfg)
    decider, images, out = _decider(config), _given(config, "images"), Path(config["out"])
    with _bar("answers") as advance:
        judged, text = apply_decider(decider, images, out, _done(advance))
    for name, reason in judged.failed[:5]:
        print(f"unreadable: {name}: {reason}", file=sys.stderr)
    for warning in decider.facts["warnings"]:
        print(f"WARNING of this decider: {warning}")
    print(f"{text}\n{decider.guarantee}\nwrote {out / 'answers.csv'} and {out / 'answers.html'}")
    return len(judged.failed)


def check(cfg: Any) -> dict[str, str]:
    """Write check.csv; return the state of each budget: holds, violated or not decided.

    Args:
        cfg: a composed `conf/decide_check.yaml`.
    """
    from pnp.decider.check import check as check_decider
    from pnp.runs.config import plain

    config = plain(cfg)
    decider, images, labels = _decider(config), _given(config, "images"), config["labels"]
    if labels is None:
        raise UserError("labels= is not set: give a csv with file and label of the later images.")
    out = Path(config["out"])
    with _bar("answers") as advance:
        states, lines = check_decider(decider, images, labels, config["alpha"], out, _done(advance))
    print("\n".join([*lines, f"wrote {out / 'check.csv'}"]))
    return states


def label(cfg: Any) -> Path:
    """Write to_label.csv and to_label.html; return the csv.

    Args:
        cfg: a composed `conf/decide_label.yaml`.
    """
    from pnp.decider.label import choose
    from pnp.runs.config import plain

    config = plain(cfg)
    decider, images, out = _decider(config), _given(config, "images"), Path(config["out"])
    with _bar("answers") as advance:
        lines = choose(
            decider, images, config["n"], config["random"], config["seed"], out, _done(advance)
        )
    print("\n".join([*lines, f"wrote {out / 'to_label.csv'} and {out / 'to_label.html'}"]))
    return out / "to_label.csv"


def plan(cfg: Any) -> list[Any]:
    """Print the table of band widths against numbers of calibration labels; return its rows.

    Args:
        cfg: a composed `conf/decide_plan.yaml`.
    """
    import csv

    from pnp.band.plan import Planned
    from pnp.band.plan import plan as planned
    from pnp.band.thresholds import min_calibration_size
    from pnp.runs.config import plain

    config = plain(cfg)
    decider = _decider(config) if config["decider"] else None
    levels, delta, method = (config["max_fp"], config["max_fn"]), config["delta"], config["method"]
    least = [min_calibration_size(level, delta, method) for level in levels]
    sizes = config["sizes"] or [max(least) * 2**i for i in range(7)]
    known = {} if decider is None else {
        "scores": decider.reference["calibration_scores"].numpy(),
        "y": decider.reference["calibration_y"].numpy(),
    }  # fmt: skip
    rows = planned(sizes, *levels, delta, method, config["budget"], config["positives"], **known)
    of = "labels" if config["budget"] == "joint" else "labels of the class"
    print(f"at least {least[0]:,} {of} for max_fp={levels[0]:g}, {least[1]:,} for "
          f"max_fn={levels[1]:g}")  # fmt: skip
    print(f"{'labels':>8} {'errors allowed':>15} {'of the budgets used':>20} {'band':>7}")
    for row in rows:
        used = " ".join(f"{100 * r / a:.0f} %" for r, a in zip(row[3:5], levels, strict=True))
        print(f"{row.n:>8,} {f'{max(row.k_fp, 0)} + {max(row.k_fn, 0)}':>15} {used:>20} "
              f"{row.width:>7.1%}")  # fmt: skip
    source = "the embedded data's model" if decider is None else "this decider's calibration images"
    print(f"band: share of uncertain images to expect, estimated from {source}; not a promise.")
    if config["out"]:
        from pnp.files import replacing

        with replacing(Path(config["out"])) as part, part.open("w", newline="") as stream:
            csv.writer(stream).writerows([Planned._fields, *rows])
    return rows


def _encoder(config: dict[str, Any]) -> tuple["Encoder", dict[str, Any], dict[str, Any], Any]:
    """The encoder, what it is built from, where it comes from, and the run's data."""
    given = [key for key in ("run", "ckpt", "encoder") if config[key]]
    if len(given) != 1:
        raise UserError(
            "give exactly one of run=DIR, ckpt=FILE, encoder=FOLDER or timm:NAME; got "
            f"{' and '.join(given) or 'none'}."
        )
    if config["encoder"]:
        return *_from_elsewhere(config), None
    if config["weights"] is not None:
        raise UserError("weights= goes with encoder=timm:NAME; a run has its own.")
    return _from_run(config)


def _from_run(config: dict[str, Any]) -> tuple["Encoder", dict[str, Any], dict[str, Any], Any]:
    from pnp.files import read_json
    from pnp.runs import directory, reopen

    key = "run" if config["run"] else "ckpt"
    file = directory.find_checkpoint(config[key], key)
    run = Path(config["run"]) if config["run"] else None
    opened = reopen.open_run(file)
    checkpoint, data = opened.checkpoint, opened.data
    encoder, options, name = reopen.encoder(opened, file, config["network"])
    identity = read_json(run / "job.json", default={}).get("identity") if run else None
    dataset = checkpoint["config"]["data"]["dataset"]
    said = f"the {name}'s {options['name']} of a run on {dataset}"
    return encoder, options, {
        "network": name,
        "encoder": said,
        "run": identity or (run.resolve().name if run else file.name),
        "seed": checkpoint["config"]["seed"],
        "steps": int(checkpoint["global_step"]),
    }, data  # fmt: skip


def _from_elsewhere(config: dict[str, Any]) -> tuple["Encoder", dict[str, Any], dict[str, Any]]:
    """An export's or a timm model's encoder."""
    from pnp.export import encoder as exported

    name, weights = str(config["encoder"]), config["weights"]
    if Path(name).is_dir() or name.startswith("hub:"):
        if weights is not None:
            raise UserError("weights= goes with encoder=timm:NAME; an export has its own.")
        net = exported.load(name)
        facts = exported.read_config(Path(name)) if Path(name).is_dir() else {}
        options = facts.get("backbone", {})
        said = f"{options.get('name')} of an export ({facts.get('network', 'network')})"
    else:
        from pnp.decider.timm import encoder_of

        net, options = encoder_of(name.removeprefix("timm:"), weights)
        said = f"{options['name']}, " + ("weights of a file" if weights else "published weights")
    return net, options, {"network": "encoder", "encoder": said, "run": None}


def _own_images(
    config: dict[str, Any], encoder: "Encoder", advance: Callable[[int], object]
) -> tuple[dict[str, "Part"], dict[str, Any], list[str]]:
    """Parts from a csv of labels."""
    from pnp.decider.fit import parts_of_folder
    from pnp.decider.labels import Shares

    labels, images = config["labels"], _given(config, "images")
    first = Path(labels if isinstance(labels, str) else labels[0])
    name = first.stem if config["concept"] is None else config["concept"]
    if not isinstance(name, str):
        raise UserError(
            f"concept={name}: with labels= the concept is just a name, concept=cracks; the labels "
            "say what is P."
        )
    shares = Shares(*(config[key] for key in ("calibration", "validation", "test")))
    parts, notes = parts_of_folder(encoder, labels, images, shares, advance)
    return parts, {"name": name, "meaning": f"label 1 or P in {first.name}"}, notes


def _own_classes(
    config: dict[str, Any],
    encoder: "Encoder",
    source: dict[str, Any],
    data: Any,
    advance: Callable[[int], object],
) -> tuple[dict[str, "Part"], dict[str, Any], list[str]]:
    """Parts from the splits of the run's data."""
    from pnp.decider.fit import part_of_set
    from pnp.evaluation.concept_bands import concept_targets

    if data is None:
        raise UserError("labels= is not set: an encoder without a run has no classes of its own.")
    if config["images"] is not None:
        raise UserError("images= is given without labels=FILE.csv: what is P among them?")
    name, asked = _concept(config["concept"], data)
    targets = concept_targets(data, asked, seed=source["seed"])
    parts = {}
    for split, part in {
        "train": "head", "validation": "validation", "calibration": "calibration", "test": "test",
    }.items():  # fmt: skip
        y, keep = targets.y[split][:, 0] > 0.5, targets.keep[split][:, 0]
        parts[part] = part_of_set(encoder, data.splits[split], y, keep, advance)
    notes = []
    seen = {h for p in ("head", "validation") for h in parts[p].hashes.tolist()}
    again = sum(h in seen for h in parts["calibration"].hashes.tolist())
    if again:
        notes.append(
            f"repeated: {again:,} of {len(parts['calibration']):,} calibration images are also "
            "among the head's."
        )
    return parts, {"name": targets.names[0], "meaning": _meaning(asked, data, name)}, notes


def _concept(given: Any, data: Any) -> tuple[str, Any]:
    """Name and section `concepts` of the one concept that is asked of a run's classes."""
    classes = list(data.classes)
    if given is None and data.splits["train"].concept is not None:
        return "", None
    if given is None and len(classes) == 2:
        given = classes[1]
    if given is None:
        listed = ", ".join(f"{i} {name}" for i, name in enumerate(classes[:20]))
        raise UserError(
            "concept= is not set: name the classes that are P, for instance "
            "concept='{footwear: [5, 7, 9]}'. "
            + (f"Classes: {listed}." if classes else "These images have no classes: give labels=.")
        )
    if isinstance(given, Mapping):
        parts = {"positive", "negative", "ambiguous", "ignore"}
        named = {"concept": dict(given)} if set(given) <= parts else dict(given)
        if len(named) != 1:
            raise UserError(
                f"concept={given}: a decider answers one concept, got {len(named)}. Fit one each."
            )
        return next(iter(named)), named
    chosen = given if isinstance(given, list) else [given]
    names = [classes[c] if isinstance(c, int) and 0 <= c < len(classes) else str(c) for c in chosen]
    return "+".join(names), {"+".join(names): chosen}


def _meaning(asked: Any, data: Any, name: str) -> str:
    """The classes that are P, in words."""
    from pnp.band.concepts import parse_concepts

    if asked is None:
        return "the concept that comes with the data"
    concept = parse_concepts(asked, data.classes)[name]
    words = [str(data.classes[i]) for i in sorted(concept.positive)]
    flips = [f"{data.classes[i]} with probability {p:g}" for i, p in concept.ambiguous.items()]
    ignored = [str(data.classes[i]) for i in sorted(concept.ignore)]
    left = f" (left out: {', '.join(ignored)})" if ignored else ""
    return ", ".join([*words, *flips]) + left


def _say_fitted(decider: "Decider", out: Path) -> None:
    from pnp.decider.card import table

    facts = decider.facts
    print(f"decider {decider.concept!r}: P means {facts['concept']['meaning']}")
    print(table(facts["measured"], facts["budgets"]))
    print(decider.guarantee)
    for warning in facts["warnings"]:
        print(f"WARNING: {warning}")
    for note in facts["notes"]:
        print(f"note: {note}")
    print(f"wrote {out}; apply it with:\n  pnp-decide apply decider={out} images=FOLDER")


def _given(config: dict[str, Any], key: str) -> str:
    if config[key] is None:
        raise UserError(f"{key}= is not set; see pnp-decide --help.")
    return str(config[key])


def _decider(config: dict[str, Any]) -> "Decider":
    from pnp.decider.folder import read

    return read(_given(config, "decider"))


@contextmanager
def _bar(title: str) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr, on a terminal: `advance(done)`, `advance(done, total=…)`."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    quiet = not console.is_terminal
    with Progress(
        *columns, TimeElapsedColumn(), console=console, transient=True, disable=quiet
    ) as bar:
        task = bar.add_task(title, total=None)

        def advance(done: int, **more: Any) -> None:
            bar.update(task, advance=done, **more)

        yield advance


def _done(advance: Callable[..., None]) -> Callable[[int, int], None]:
    """A counter of totals for a bar that advances by steps."""
    before = 0

    def told(done: int, total: int) -> None:
        nonlocal before
        advance(done - before, total=total)
        before = done

    return told


def _run_apply(cfg: Any) -> None:
    if apply(cfg):
        sys.exit(3)


def _run_check(cfg: Any) -> None:
    if "violated" in check(cfg).values():
        sys.exit(1)


SUBCOMMANDS: dict[str, Callable[[Any], Any]] = {
    "fit": fit, "apply": _run_apply, "label": label, "check": _run_check, "plan": plan,
}  # fmt: skip


def main() -> None:
    """Console script `pnp-decide`."""
    from pnp.errors import near
    from pnp.runs.launch import complain, launch

    word = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if word in ("--help", "-h", "help"):
        print(USAGE, end="")
        return
    if word not in SUBCOMMANDS:
        complain(
            f"pnp-decide {word}: unknown; choose from {', '.join(SUBCOMMANDS)}."
            f"{near(word, SUBCOMMANDS)}"
        )
        sys.exit(2)
    del sys.argv[1]
    launch(f"decide_{word}", SUBCOMMANDS[word])


if __name__ == "__main__":
    main()
