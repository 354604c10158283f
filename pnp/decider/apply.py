"""Answers for a folder of any number of images: answers.csv and answers.html."""

from pathlib import Path

from pnp.console import printable
from pnp.decider import page
from pnp.decider.decider import Decider
from pnp.decider.judge import Judged, judge, shifted
from pnp.files import write_csv, write_text


def apply(decider: Decider, images: str | Path, out: Path) -> tuple[Judged, str]:
    """Write `answers.csv` and `answers.html` into `out`.

    Returns:
        What was found, and the lines to print.

    Raises:
        UserError: as `judge`.
    """
    judged = judge(decider, images)
    found = shifted(decider, judged)
    out.mkdir(parents=True, exist_ok=True)
    write_csv(out / "answers.csv", table(judged))
    lines = [found.sentence, *judged.notes]
    write_text(out / "answers.html", page.answers(decider, judged, lines))
    return judged, "\n".join([summary(judged), *lines])


def summary(judged: Judged) -> str:
    """One line: how many images of each answer, and how many could not be read."""
    n = len(judged.names)
    counts = judged.answers.counts()
    said = ", ".join(f"{word} {count:,} ({count / n:.1%})" for word, count in counts.items())
    failed = f"; unreadable {len(judged.failed):,}" if judged.failed else ""
    return f"{n:,} images answered: {said}{failed}"


def table(judged: Judged) -> list[tuple[str, ...]]:
    """Rows of answers.csv, the header first; a note says why there is no answer."""
    answers = judged.answers
    rows = [
        (printable(name), word, f"{score:.9g}", f"{margin:.6g}", "")
        for name, word, score, margin in zip(
            judged.names, answers.words, answers.scores, answers.margins, strict=True
        )
    ]
    head = ("file", "answer", "score", "margin", "note")
    return [head, *sorted([*rows, *((name, "", "", "", why) for name, why in judged.failed)])]
