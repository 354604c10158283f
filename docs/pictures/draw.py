"""Draw the pictures of docs/concepts.md and docs/method.md: `python docs/pictures/draw.py`.

Each carries its own background and follows the reader's light or dark setting, so it is legible on
any page.
"""

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

STYLE = """
.bg{fill:#fff;stroke:#d0d7de} .ink{stroke:#1f2328;fill:none} .faint{stroke:#8c959f;fill:none}
text{font:13px system-ui,sans-serif;fill:#1f2328} .small{font-size:11.5px;fill:#57606a}
.b{font-weight:600} .m{text-anchor:middle} .e{text-anchor:end}
.a{fill:#0969da;stroke:#0969da} .c{fill:#bc4c00;stroke:#bc4c00} .d{fill:#1a7f37;stroke:#1a7f37}
.g{fill:#8c959f;stroke:#8c959f} .line{fill:none;stroke-width:2} .soft{opacity:.22;stroke:none}
.box{fill:#f6f8fa;stroke:#8c959f}
@media (prefers-color-scheme:dark){
.bg{fill:#161b22;stroke:#30363d} .ink{stroke:#e6edf3} .faint{stroke:#6e7681}
text{fill:#e6edf3} .small{fill:#9da7b3} .a{fill:#58a6ff;stroke:#58a6ff}
.c{fill:#f0883e;stroke:#f0883e} .d{fill:#3fb950;stroke:#3fb950} .g{fill:#6e7681;stroke:#6e7681}
.line{fill:none} .box{fill:#21262d;stroke:#6e7681}}
"""
COLOURS = "acd"


def picture(width: int, height: int, title: str, shapes: Sequence[str]) -> str:
    """One SVG file with a title for those who cannot see it."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img">\n<title>{title}</title>\n<style>{STYLE}</style>\n'
        f'<rect class="bg" x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="8"/>\n'
        + "\n".join(shapes)
        + "\n</svg>\n"
    )


def text(x: float, y: float, said: str, style: str = "m") -> str:
    """Words; `m` centres them, `b` is bold, `small` is small."""
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{said}</text>'


def dot(x: float, y: float, style: str, r: float = 4.5) -> str:
    """A point."""
    return f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="{r:g}"/>'


def line(points: Sequence[tuple[float, float]], style: str) -> str:
    """A line through points."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="{style}" points="{path}"/>'


def arrow(x: float, y: float, to_x: float, to_y: float, style: str) -> str:
    """A line with a head."""
    length = math.hypot(to_x - x, to_y - y)
    u, v = (to_x - x) / length, (to_y - y) / length
    head = " ".join(
        f"{to_x + a * u - b * v:.1f},{to_y + a * v + b * u:.1f}"
        for a, b in ((0, 0), (-8, 3.6), (-8, -3.6))
    )
    body = line([(x, y), (to_x - 6 * u, to_y - 6 * v)], f"{style} line")
    return f'{body}<polygon class="{style}" points="{head}" stroke="none"/>'


def circle(x: float, y: float, r: float) -> str:
    """The unit sphere, seen as a circle."""
    return f'<circle class="faint" cx="{x:g}" cy="{y:g}" r="{r:g}"/>'


def on(x: float, y: float, r: float, degrees: float) -> tuple[float, float]:
    """The point at an angle on a circle."""
    turn = math.radians(degrees)
    return x + r * math.cos(turn), y - r * math.sin(turn)


def grid(title: str, panels: Sequence[Sequence[str]], width: int, height: int) -> str:
    """Panels two by two: as wide as a phone."""
    placed = [
        f'<g transform="translate({width * (i % 2)} {height * (i // 2)})">' + "".join(p) + "</g>"
        for i, p in enumerate(panels)
    ]
    return picture(2 * width, height * ((len(panels) + 1) // 2) + 8, title, placed)


def forces() -> str:
    """Alignment acts between two views of an image, dispersion between all images."""
    x, y, r = 100, 128, 72
    local = [
        text(x, 28, "alignment is local", "m b"),
        circle(x, y, r),
        text(x, 226, "two views of one image attract", "m small"),
    ]
    for colour, middle in zip(COLOURS, (100, 215, 335), strict=True):
        for angle, inward in ((middle - 26, 17), (middle + 26, -17)):
            local.append(arrow(*on(x, y, r, angle), *on(x, y, r, angle + inward), colour))
            local.append(dot(*on(x, y, r, angle), colour))
    spread = [
        text(x, 28, "dispersion is global", "m b"),
        circle(x, y, r),
        text(x, 226, "all images of the batch repel", "m small"),
        text(x, 178, "room", "m small"),
    ]
    for colour, middle, away in zip(COLOURS, (54, 90, 126), (-46, 0, 46), strict=True):
        spread += [dot(*on(x, y, r, middle + side), colour) for side in (-6, 6)]
        if away:
            start = middle + math.copysign(12, away)
            spread.append(arrow(*on(x, y, r, start), *on(x, y, r, middle + away), colour))
    title = "Alignment pulls two views of one image together; dispersion pushes all images apart"
    return grid(title, [local, spread], 200, 238)


def terms() -> str:
    """What each of the four terms measures."""
    x, y, r = 95, 112, 62
    z, t = on(x, y, r, 115), on(x, y, r, 65)
    alignment = [circle(x, y, r), line([z, t], "a line"), dot(*z, "a"), dot(*t, "a")]
    alignment += [text(z[0] - 12, z[1] - 4, "z"), text(t[0] + 12, t[1] - 4, "t")]
    variance = [
        f'<rect class="{"c" if high < 50 else "a"}" x="{46 + 20 * k}" y="{165 - high}" width="12" '
        f'height="{high}"/>'
        for k, high in enumerate((58, 71, 30, 64, 52))
    ]
    variance += [line([(38, 115), (150, 115)], "ink"), text(160, 119, "γ", "small")]
    covariance = [
        f'<rect class="{"a" if row == column else "c" if abs(row - column) == 1 else "g"}" '
        f'x="{41 + 22 * column}" y="{58 + 22 * row}" width="18" height="18" '
        f'opacity="{1 if row == column else 0.4}"/>'
        for row in range(5)
        for column in range(5)
    ]
    cone = [on(x, y, r, angle) for angle in range(60, 121, 6)]
    wedge = " ".join(f"{u:.1f},{v:.1f}" for u, v in [(x, y), *cone])
    repulsion = [
        circle(x, y, r),
        f'<polygon class="c soft" points="{wedge}"/>',
        dot(*on(x, y, r, 90), "a"),
        dot(*on(x, y, r, 66), "c"),
        arrow(*on(x, y, r, 60), *on(x, y, r, 33), "c"),
        *(dot(*on(x, y, r, angle), "a") for angle in (150, 215, 280, 345)),
    ]
    panels = (
        ("alignment", "views of an image agree", "distance of z and t → 0", alignment),
        ("variance", "every axis is used", "σ of each axis ≥ γ = 1/√D", variance),
        ("covariance", "no two axes alike", "off the diagonal → 0", covariance),
        ("repulsion", "nobody too close", "the nearest are pushed most", repulsion),
    )
    drawn = [
        [text(x, 28, name, "m b"), *shapes, text(x, 200, aim), text(x, 219, how, "m small")]
        for name, aim, how, shapes in panels
    ]
    title = "The four terms: alignment, variance floor, covariance, repulsion"
    return grid(title, drawn, 190, 232)


def bell(centre: float, width: float, high: float) -> Callable[[float], float]:
    """A bell curve."""
    return lambda x: high * math.exp(-(((x - centre) / width) ** 2))


def band() -> str:
    """Two score distributions, two thresholds, three answers."""
    left, right, base = 16, 414, 190
    shapes = [line([(left, base), (right, base)], "ink"), text(right, 226, "score s(x)", "e small")]
    negative, positive = bell(150, 72, 110), bell(280, 72, 110)
    low, high = 166, 264
    shapes.append(
        f'<rect class="g soft" x="{low}" y="44" width="{high - low}" height="{base - 44}"/>'
    )
    for curve, start, end, colour in ((positive, left, low, "a"), (negative, high, right, "c")):
        edge = [(x, base - curve(x)) for x in range(start, end + 1, 4)]
        area = " ".join(f"{x:.1f},{y:.1f}" for x, y in [(start, base), *edge, (end, base)])
        shapes.append(f'<polygon class="{colour}" opacity=".5" stroke="none" points="{area}"/>')
    for curve, colour in ((negative, "c"), (positive, "a")):
        ends = [(x, base - curve(x)) for x in range(left, right + 1, 6)]
        shapes.append(line(ends, f"{colour} line"))
    for x, name in ((low, "t_lo"), (high, "t_hi")):
        shapes += [line([(x, 44), (x, base + 5)], "ink"), text(x, base + 19, name, "m small")]
    shapes += [
        text(90, 30, "says ¬P", "m b"),
        text(215, 30, "uncertain", "m b"),
        text(340, 30, "says P", "m b"),
        text(84, base + 19, "wrong ¬P ≤ b", "m small"),
        text(340, base + 19, "wrong P ≤ a", "m small"),
        text(84, 92, "¬P images", "e small"),
        text(346, 92, "P images", "small"),
    ]
    title = "Scores of P and ¬P images overlap; between two thresholds the answer is: uncertain"
    return picture(430, 236, title, shapes)


def collapse() -> str:
    """Spread, and the three kinds of collapse that the alarm names."""
    rng = random.Random(3)
    x, y, r = 95, 112, 62
    panels = (
        ("spread", "as it should be", "no alarm", [rng.uniform(0, 360) for _ in range(26)]),
        ("complete", "one point", "mean cosine &gt; 0.95", [rng.gauss(90, 2) for _ in range(26)]),
        ("cone", "one direction", "‖mean z‖ &gt; 0.7", [rng.gauss(90, 20) for _ in range(26)]),
        (
            "dimensional",
            "few axes",
            "effective rank &lt; 5 %",
            [rng.choice((35, 215)) + rng.gauss(0, 4) for _ in range(26)],
        ),
    )
    drawn = [
        [
            text(x, 28, name, "m b"),
            circle(x, y, r),
            *(dot(*on(x, y, r, angle), "a" if name == "spread" else "c", 3.5) for angle in angles),
            text(x, 200, said),
            text(x, 219, measure, "m small"),
        ]
        for name, said, measure, angles in panels
    ]
    title = "Embeddings on the sphere: spread, complete collapse, cone, dimensional collapse"
    return grid(title, drawn, 190, 232)


def skeleton() -> str:
    """The one skeleton that every method runs on."""

    def box(x: int, y: int, wide: int, said: str, under: str = "") -> list[str]:
        rect = f'<rect class="box" x="{x}" y="{y}" width="{wide}" height="44" rx="6"/>'
        lift = 20 if under else 27
        words = [text(x + wide / 2, y + lift, said)]
        return [rect, *words, *([text(x + wide / 2, y + 36, under, "m small")] if under else [])]

    shapes = [
        *box(16, 58, 78, "images"),
        *box(118, 58, 78, "views", "augmented"),
        *box(236, 16, 132, "student", "backbone, projector"),
        *box(236, 104, 132, "teacher", "EMA of the student"),
        *box(236, 200, 132, "objective", "four terms"),
        *box(98, 200, 90, "loss"),
        arrow(94, 80, 116, 80, "g"),
        arrow(196, 74, 234, 42, "g"),
        arrow(196, 86, 234, 122, "g"),
        arrow(286, 60, 286, 102, "g"),
        text(296, 86, "m·t + (1 − m)·s", "small"),
        line([(368, 38), (398, 38), (398, 222)], "a line"),
        arrow(398, 222, 370, 222, "a"),
        text(408, 130, "z", "m b"),
        arrow(302, 148, 302, 198, "c"),
        text(292, 178, "t, no gradient", "e small"),
        arrow(236, 222, 190, 222, "g"),
        *box(16, 282, 132, "frozen backbone", "after training"),
        *box(206, 282, 194, "P · uncertain · ¬P", "within error budgets"),
        arrow(148, 304, 204, 304, "g"),
        text(174, 297, "score", "m small"),
    ]
    title = "Images, views, student and EMA teacher, objective; then the frozen backbone answers"
    return picture(420, 344, title, shapes)


def balance() -> str:
    """Pull and push on one embedding, and which pairs each kernel pushes."""
    left, base, unit = 24, 196, 15

    def bars(x: int, name: str, pull: float, push: float, how: str) -> list[str]:
        tall = [(x, "a", pull), (x + 24, "c", push)]
        return [
            *(
                f'<rect class="{colour}" x="{at}" y="{base - unit * force:g}" width="20" '
                f'height="{unit * force:g}"/>'
                for at, colour, force in tall
            ),
            *(
                text(at + 10, base - unit * force - 5, f"{force:g}", "m small")
                for at, _, force in tall
            ),
            text(x + 22, base + 18, name, "m small"),
            text(x + 22, base + 32, how, "m small"),
        ]

    forces = [
        text(200, 24, "pull and push on one embedding", "m b"),
        line([(left, base), (380, base)], "ink"),
        *bars(44, "default", 2, 4, "teacher"),
        *bars(134, "NT-Xent", 4, 4, "no teacher"),
        *bars(224, "gaussian, t = 2", 2, 8, "teacher"),
        *bars(314, "hinge", 2, 0, "all apart"),
        *(
            shape
            for x, colour, word in ((120, "a", "alignment"), (216, "c", "repulsion"))
            for shape in (dot(x, 40, colour), text(x + 10, 44, word, "small"))
        ),
    ]

    x, y, wide, high, start = 40, 416, 330, 128, -0.4
    steps = [start + (1 - start) * i / 60 for i in range(61)]
    kernels: tuple[tuple[str, str, Callable[[float], float]], ...] = (
        ("a", "logsumexp, τ = .2", lambda s: math.exp((s - 1) / 0.2)),
        ("d", "gaussian, t = 2", lambda s: math.exp(4 * (s - 1))),
        ("c", "hinge, margin .2", lambda s: max(0.0, s - 0.2) / 0.8),
    )
    curves = [
        text(200, 260, "push between two images, by their cosine (at 1: 1)", "m b"),
        line([(x, y), (x + wide, y)], "ink"),
        *(
            text(x + wide * (c - start) / (1 - start), y + 18, f"{c:g}", "m small")
            for c in (0, 0.2, 0.5, 1)
        ),
    ]
    for i, (colour, name, weight) in enumerate(kernels):
        points = [(x + wide * (s - start) / (1 - start), y - high * weight(s)) for s in steps]
        curves += [line(points, f"{colour} line"), dot(58, 290 + 20 * i, colour)]
        curves.append(text(70, 294 + 20 * i, name, "small"))
    title = (
        "Pull and push of alignment and repulsion on an embedding for four objectives; the push "
        "of three kernels against the cosine of two images"
    )
    return picture(400, 446, title, [*forces, *curves])


PICTURES = {f.__name__: f for f in (forces, terms, band, collapse, skeleton, balance)}


if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (Path(__file__).parent / f"{name}.svg").write_text(draw(), encoding="utf-8")
