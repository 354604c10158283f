"""`pnp-decide`: fit, apply, label, check and plan deciders: P, ¬P or uncertain for any images."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pnp.errors import UserError, near, number

if TYPE_CHECKING:
    from pnp.decider.decider import Decider

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
    """Fit and certify a decider, or one for each of several concepts, and write its folder.

    Args:
        cfg: a composed `conf/decide_fit.yaml`.

    Returns:
        The folder; of several concepts the folder of their folders.

    Raises:
        UserError: keys that do not go together, or data that cannot make a decider.
    """
    from pnp.band.inputs import Budgets
    from pnp.decider import folder
    from pnp.decider.labels import Shares
    from pnp.runs import encoders
    from pnp.runs.config import plain, words

    config = plain(cfg)
    words(config, *encoders.KEYS, "groups", "images", "out")
    keys = ("max_fp", "max_fn", "delta", "method", "budget")
    for key in ("max_fp", "max_fn", "delta"):
        number(key, config[key], 0, 1, open_low=True, open_high=True)
    budgets = Budgets(**{key: config[key] for key in keys})
    config["labels"] = _labels(config)
    base = Path(config["run"] or "")
    if config["out"] and not isinstance(config["concept"], list | dict):
        folder.refuse_foreign(Path(config["out"]))  # before the features are computed
    source = encoders.source(config)
    if config["labels"] is None:
        for key in ("images", "groups"):
            if config[key] is not None:
                raise UserError(f"{key}= is given without labels=FILE.csv: what is P?")
        questions = encoders.own_classes(source, config["concept"])
    else:
        questions = encoders.own_images(source, config, _given(config, "images"))
    shares = Shares(*(config[key] for key in ("calibration", "validation", "test")))
    out = Path(config["out"] or base / ("deciders" if questions[1:] else "decider"))
    for place, decider in encoders.write(source, questions, budgets, shares, out).items():
        _say_fitted(decider, place)
    return out


def apply(cfg: Any) -> int:
    """Write answers.csv and answers.html by `conf/decide_apply.yaml`; count the unanswered."""
    from pnp.decider.apply import apply as apply_decider

    _, decider, images, out = _inputs(cfg)
    judged, text = apply_decider(decider, images, out)
    for name, reason in judged.failed[:5]:
        print(f"unreadable: {name}: {reason}", file=sys.stderr)
    for warning in decider.facts["warnings"]:
        print(f"WARNING of this decider: {warning}")
    print(f"{text}\n{decider.guarantee}\nwrote {out / 'answers.csv'} and {out / 'answers.html'}")
    return len(judged.failed)


def check(cfg: Any) -> dict[str, str]:
    """Write check.csv by `conf/decide_check.yaml`.

    Returns:
        The state of each budget: holds, violated or not decided.
    """
    from pnp.decider.check import check as check_decider

    config, decider, images, out = _inputs(cfg)
    labels = _labels(config)
    if labels is None:
        raise UserError("labels= is not set: give a csv with file and label of the later images.")
    states, lines = check_decider(decider, images, labels, config["alpha"], out)
    print("\n".join([*lines, f"wrote {out / 'check.csv'}"]))
    return states


def label(cfg: Any) -> Path:
    """Write to_label.csv and to_label.html by `conf/decide_label.yaml`; return the csv."""
    from pnp.decider.label import choose

    config, decider, images, out = _inputs(cfg)
    lines = choose(decider, images, config["n"], config["random"], config["seed"], out)
    print("\n".join([*lines, f"wrote {out / 'to_label.csv'} and {out / 'to_label.html'}"]))
    return out / "to_label.csv"


def plan(cfg: Any) -> list[Any]:
    """Print the table of band widths by calibration labels, `conf/decide_plan.yaml`; return it."""
    from pnp.band.allowed import min_calibration_size
    from pnp.band.planning import Planned
    from pnp.band.planning import plan as planned
    from pnp.decider.folder import read
    from pnp.runs.config import plain, words

    config = plain(cfg)
    words(config, "decider", "out")
    if not isinstance(config["sizes"], list | None):
        raise UserError(f"sizes={config['sizes']}: give a list of numbers, as in sizes=[300,1000].")
    decider = read(config["decider"]) if config["decider"] else None
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
        from pnp.files import write_csv

        out = Path(config["out"])
        out.parent.mkdir(parents=True, exist_ok=True)
        write_csv(out, [Planned._fields, *rows])
    return rows


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


def _labels(config: dict[str, Any]) -> str | list[str] | None:
    """One or several files of labels; None where none is given."""
    value = config["labels"]
    if isinstance(value, dict | bool) or value == []:
        raise UserError(f"labels={value}: give a csv, or several as labels=[A.csv,B.csv].")
    if isinstance(value, list):
        return [str(file) for file in value]
    return None if value is None else str(value)


def _inputs(cfg: Any) -> "tuple[dict[str, Any], Decider, str, Path]":
    """Configuration, decider, images and folder for the answers, of apply, check and label."""
    from pnp.decider.folder import read
    from pnp.runs.config import plain, words

    config = plain(cfg)
    words(config, "decider", "images", "out")
    decider, images = read(_given(config, "decider")), _given(config, "images")
    return config, decider, images, Path(config["out"])


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
    from pnp import console
    from pnp.runs.launch import complain, launch

    console.fall_back()
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
