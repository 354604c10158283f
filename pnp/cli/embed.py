"""`pnp-embed`: features of a folder of images as a table, and a sheet of nearest neighbours."""

import sys
from pathlib import Path
from typing import Any

from pnp.errors import UserError, whole


def embed(cfg: Any) -> list[Path]:
    """Write the table, the page of neighbours and, if need be, the list of unreadable files.

    Args:
        cfg: a composed `conf/embed.yaml`.

    Returns:
        The files written.

    Raises:
        UserError: no encoder, no images, or a table of an unknown kind.
    """
    from pnp.decider import embed as embedding
    from pnp.decider.decider import embed as compute
    from pnp.files import write_text
    from pnp.runs import encoders
    from pnp.runs.config import plain, words
    from pnp.runs.parts import placement

    config = plain(cfg)
    words(config, *encoders.KEYS, "images", "out")
    out = Path(config["out"] or "").expanduser()
    embedding.kind(out)  # before anything is computed
    counts = [whole(key, config[key], least) for key, least in (("queries", 0), ("neighbours", 1))]
    if config["images"] is None:
        raise UserError("images= is not set: give a folder of images.")
    source = encoders.source(config)
    encoder = source.encoder.to(placement(config["accelerator"], "32-true", "")[0])
    embedded = compute(encoder, config["images"])
    files = embedding.write(embedded, out)
    page = embedding.sheet(embedded, str(source.facts["encoder"]), *counts)
    if page is not None:
        files.append(out.with_suffix(".html"))
        write_text(files[-1], page)
    for name, reason in embedded.failed[:5]:
        print(f"unreadable: {name}: {reason}", file=sys.stderr)
    print("\n".join([*embedding.describe(embedded, source.facts),
                     f"wrote {', '.join(map(str, files))}"]))  # fmt: skip
    return files


def _run(cfg: Any) -> None:
    if any(file.name.endswith(".unreadable.csv") for file in embed(cfg)):
        sys.exit(3)


def main() -> None:
    """Console script `pnp-embed`."""
    from pnp.runs.launch import launch

    launch("embed", _run)


if __name__ == "__main__":
    main()
