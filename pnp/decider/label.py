"""Images to label next: some that teach the head most, and a random share that may calibrate.

The two kinds never mix. An image belongs to one of them by the hash of its content, for good:
whatever is chosen for the head leaves the other kind a random sample of all images, which is what
the certificate needs.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from pnp.console import printable
from pnp.decider import page
from pnp.decider.decider import Decider, Thresholds
from pnp.decider.judge import judge
from pnp.decider.labels import Shares
from pnp.errors import UserError, number, whole
from pnp.files import write_csv, write_text

LISTED = 96  # pictures of each kind on the page


def choose(
    decider: Decider, images: str | Path, n: int, random: float, seed: int, out: Path
) -> list[str]:
    """Write `to_label.csv` and `to_label.html`.

    Args:
        decider: whose band is to become narrower.
        images: a folder of images without labels.
        n: images to label.
        random: share of them that is drawn at random, for calibration.
        seed: of that draw.
        out: folder to write to.

    Returns:
        The lines to print.

    Raises:
        UserError: as `judge`; settings out of range; or every image was used in fitting.
    """
    whole("n", n)
    number("random", random, 0, 1)
    judged = judge(decider, images)
    shares = Shares(**decider.facts["shares"])
    used = set(decider.used.tolist())
    first: dict[int, int] = {}  # of equal images the first is enough
    for i, h in enumerate(judged.hashes.tolist()):
        if h not in used:
            first.setdefault(h, i)
    if not first:
        raise UserError(f"images={images}: all of them were used in fitting. Give others.")
    parts = np.array([shares.part(h) for h in first])
    rows = np.array(list(first.values()))
    pools = {name: rows[parts == name] for name in ("calibration", "head")}
    count = min(round(n * random), len(pools["calibration"]))
    drawn = np.random.default_rng(seed).permutation(pools["calibration"])[:count]
    pool = pools["head"]
    scores, points = judged.answers.scores[pool], judged.features[pool, 1:].astype(np.float32)
    chosen = pool[informative(scores, points, decider.thresholds, n - round(n * random))]
    column, groups = decider.columns
    empty = [column, *([groups] if groups else [])]  # to fill in
    kinds = [
        ("head", "narrows the band", "For the head",
         "in or next to the band, and unlike each other", chosen),
        ("calibration", "drawn at random", "For calibration", "drawn at random", drawn),
    ]  # fmt: skip
    words, scores = judged.answers.words, judged.answers.scores
    lines = [
        [printable(judged.names[i]), *[""] * len(empty), part, why, words[i], f"{scores[i]:.6g}"]
        for part, why, _, _, rows in kinds
        for i in rows.tolist()
    ]
    out.mkdir(parents=True, exist_ok=True)
    header = ["file", *empty, "part", "why", "answer", "score"]
    write_csv(out / "to_label.csv", [header, *lines])
    text = page.render(
        "to_label.html",
        title=f"Label next: {decider.concept}",
        decider=decider,
        column=column,
        sheets=[
            (heading, which, len(rows), page.scored(judged, rows[:LISTED]))
            for _, _, heading, which, rows in kinds
            if len(rows)
        ],
    )
    write_text(out / "to_label.html", text)
    band = int((judged.answers.regions[chosen] == -1).sum())
    said = [
        f"{len(chosen):,} images for the head ({band:,} in the band), {len(drawn):,} drawn at "
        f"random for calibration, of {len(first):,} images that are new",
        f"Fill in the column {column} (1 or 0), leave part as it is, and fit again with "
        "labels='[OLD.csv,to_label.csv]'.",
    ]
    if len(chosen) + len(drawn) < n:
        said.append(f"fewer than n={n:,}: the folder has no more of one kind.")
    return [*said, *judged.notes]


def informative(
    scores: Float[np.ndarray, " m"],
    points: Float[np.ndarray, "m d"],
    thresholds: Thresholds,
    n: int,
) -> Int64[np.ndarray, " k"]:
    """Places of up to n images: band first, then nearest to its middle, spread over the points.

    Args:
        scores: of the images to choose from.
        points: their features along a few axes.
        thresholds: that the band lies between.
        n: images to choose.
    """
    if not len(scores) or n < 1:
        return np.empty(0, np.int64)
    finite = [t for t in (thresholds.t_lo, thresholds.t_hi) if np.isfinite(t)]
    distance = np.abs(scores - (np.mean(finite) if finite else 0.0))
    inside = thresholds.regions(scores) == -1
    order = np.lexsort((distance, ~inside))  # the band, then outwards
    # Four candidates for each place keep the choice near the band and leave room for diversity.
    candidates = order[: max(n, min(4 * n, int(inside.sum())))]
    scale = points[candidates].std(0)
    return candidates[spread(points[candidates] / np.where(scale > 0, scale, 1.0), n)]


def spread(points: Float[np.ndarray, "m d"], n: int) -> Int64[np.ndarray, " k"]:
    """Greedy k-centre: start with the first point, then always the one farthest from all chosen.

    >>> spread(np.array([[0.0], [0.1], [5.0], [2.0]]), 3).tolist()
    [0, 2, 3]
    """
    picked = [0]
    nearest = np.square(points - points[0]).sum(1)
    while len(picked) < min(n, len(points)):
        nearest[picked[-1]] = -1.0
        picked.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.square(points - points[picked[-1]]).sum(1))
        nearest[picked] = -1.0
    return np.array(picked)
