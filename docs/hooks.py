"""What the site takes from the rest of the repository when it is built, so that it is never stale.

- `configuration.md` gets the reference of `conf/`;
- experiments and benchmarks become pages of their own, under Results, which lists them;
- a link below `<!-- include -->` to a section of README.md is replaced by that section.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
INCLUDE = re.compile(r"^<!-- include -->\n\[.*\]\(\.\./README\.md#([\w-]+)\)$", re.MULTILINE)
REFERENCE, MEASURED_PAGES = "<!-- reference of conf/ -->", "<!-- measured pages -->"
MEASURED = ("experiments/*/README.md", "experiments/LOG.md", "benchmarks/RESULTS.md")
# Sections whose keys are arguments of something that they do not name in _target_.
CALLED = {
    "model": "backbone",
    "model.projector": "projector",
    "evaluation.band": "Budgets",
    "wandb": "WandbLog",
}


def on_config(config: Any) -> None:
    """Add the measured pages to the navigation."""
    results = next(entry for entry in config.nav if "Results" in entry)["Results"]
    results += [{title(ROOT / path): path} for path in measured()]


def on_files(files: Any, config: Any) -> None:
    """Add the measured pages and their pictures, which lie outside docs/, to the site."""
    found = [*ROOT.glob("experiments/*/*.svg"), *ROOT.glob("benchmarks/*.svg")]
    pictures = [file.relative_to(ROOT).as_posix() for file in found]
    for path in [*measured(), *pictures]:
        files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Fill in what is generated; links that leave docs/ on disk stay inside the site."""
    markdown = INCLUDE.sub(lambda found: section(ROOT / "README.md", found[1]), markdown)
    markdown = markdown.replace(REFERENCE, reference())
    pages = "\n".join(f"- [{title(ROOT / path)}]({path})" for path in measured())
    markdown = markdown.replace(MEASURED_PAGES, pages)
    if page.file.src_uri.startswith(("experiments/", "benchmarks/")):
        return markdown
    return re.sub(r"\]\((?:\.\./|docs/)(?=[\w/.-]+\))", "](", markdown)


def measured() -> list[str]:
    """Documents with numbers, relative to the repository."""
    return [p.relative_to(ROOT).as_posix() for glob in MEASURED for p in sorted(ROOT.glob(glob))]


def title(file: Path) -> str:
    """The first heading of a document."""
    return file.read_text(encoding="utf-8").split("\n", 1)[0].lstrip("# ")


def section(file: Path, anchor: str) -> str:
    """The text below the heading of a document that has this anchor.

    Raises:
        PluginError: there is no such heading.
    """
    parts = re.split(r"^## (.*)\n", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for heading, text in zip(parts[1::2], parts[2::2], strict=True):
        if re.sub(r"[^\w]+", "-", heading.lower()).strip("-") == anchor:
            return text.strip()
    raise PluginError(f"{file.name} has no section with the anchor #{anchor}.")


# ---- the reference of conf/ ----------------------------------------------------------------------


def reference() -> str:
    """Every group, option and key of `conf/`, in markdown."""
    commands = [
        f"## pnp-{file.stem.replace('_', ' ')}\n\n{option(file)}"
        for file in sorted(CONF.glob("*.yaml"))
    ]
    groups = [
        f"## {folder.name}\n\n"
        + "\n\n".join(
            f"### {folder.name}={f.stem}\n\n{option(f)}" for f in sorted(folder.glob("*"))
        )
        for folder in sorted(CONF.iterdir())
        if folder.is_dir()
    ]
    return "\n\n".join([*groups, *commands])


def option(file: Path) -> str:
    """One yaml file: what its first comment says, what it builds on, and a table of its keys."""
    text = file.read_text(encoding="utf-8")
    head = re.match(r"(?:# @package.*\n)?((?:#.*\n)+)", text)
    said = " ".join(line.lstrip("# ") for line in head[1].splitlines()) if head else ""
    content = yaml.safe_load(text)
    parents = [d for d in content.get("defaults", []) if isinstance(d, str) and d != "_self_"]
    others = [
        f"`{key.removeprefix('override ').lstrip('/').partition('@')[0]}={value}`"
        for entry in content.get("defaults", [])
        if isinstance(entry, dict)
        for key, value in entry.items()
        if "hydra" not in key
    ]
    lines = [cell(said), ""]
    if parents:
        lines += [f"As `{file.parent.name}={parents[0]}`, except for:", ""]
    if others:
        lines += [f"Chooses {', '.join(others)}.", ""]
    rows = list(keys(file))
    if rows:
        lines += ["| key | default | meaning |", "|---|---|---|"]
        lines += [f"| `{key}` | {code(value)} | {cell(said)} |" for key, value, said in rows]
    return "\n".join(lines)


def keys(file: Path) -> Iterator[tuple[str, str, str]]:
    """(key as on the command line, default as written, meaning) of each key of a yaml file."""
    text = file.read_text(encoding="utf-8")
    inside = file.parent != CONF and "# @package _global_" not in text
    prefix = f"{file.parent.name}." if inside else "tune." if file.stem == "tune" else ""
    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    yield from walk(root, prefix, text, top=file.parent == CONF)


def walk(
    node: yaml.MappingNode, prefix: str, text: str, *, top: bool = False
) -> Iterator[tuple[str, str, str]]:
    """The keys of a mapping and of the mappings in it."""
    target = next((value.value for key, value in node.value if key.value == "_target_"), "")
    known = arguments(CALLED.get(prefix.rstrip("."), target.rpartition(".")[2]))
    for key, value in node.value:
        name = key.value
        if name in ("defaults", "_target_") or (top and name == "hydra"):
            continue
        said = comment(
            text, value.end_mark.index if value.end_mark.column else key.end_mark.index + 1
        )
        if isinstance(value, yaml.MappingNode) and value.value:
            if said:
                yield f"{prefix}{name}", "", said
            yield from walk(value, f"{prefix}{name}.", text)
            continue
        raw = text[value.start_mark.index : value.end_mark.index].strip()
        yield f"{prefix}{name}", raw, said or known.get(name, "")


def comment(text: str, end: int) -> str:
    """The comment behind a value, with the lines of nothing but comment that go on with it."""
    rest = text[end:].splitlines() or [""]
    found = re.fullmatch(r"\s*#\s?(.*)", rest[0])
    if not found:
        return ""
    words = [found[1]]
    for line in rest[1:]:
        more = re.fullmatch(r"\s+#\s?(.*)", line)
        if not more:
            break
        words.append(more[1])
    return "; ".join(words)


@cache
def arguments(name: str) -> dict[str, str]:
    """What the docstring of a class or function of the package says about its arguments."""
    for file in (ROOT / "pnp").rglob("*.py"):
        source = file.read_text(encoding="utf-8")
        if not name or not re.search(rf"^(class|def) {name}\b", source, re.MULTILINE):
            continue
        for found in ast.parse(source).body:
            if isinstance(found, ast.ClassDef | ast.FunctionDef) and found.name == name:
                part = re.search(
                    r"^Args:\n(.*?)(?=^\S|\Z)",
                    ast.get_docstring(found) or "",
                    re.MULTILINE | re.DOTALL,
                )
                entries = re.findall(
                    r"^    (\w+): (.*?)(?=^    \w+: |\Z)",
                    part[1] if part else "",
                    re.MULTILINE | re.DOTALL,
                )
                return {key: " ".join(said.split()).rstrip(".") for key, said in entries}
    return {}


def code(value: str) -> str:
    """A default as code, in a table."""
    return f"`{value}`".replace("|", "\\|") if value else ""


def cell(text: str) -> str:
    """Text in a table: no bars, no HTML, and no braces, which attr_list would take for itself."""
    entities = {"|": "&#124;", "<": "&lt;", "*": "&#42;", "{": "&#123;", "}": "&#125;"}
    return "".join(entities.get(letter, letter) for letter in text)
