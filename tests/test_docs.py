"""The documentation does what it says: every code block is run or checked, and the site builds."""

import ast
import re
import runpy
import shlex
import subprocess
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml

from pnp.errors import UserError
from pnp.runs.launch import compose as composed
from pnp.runs.launch import conf_dir

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(file.name for file in DOCS.glob("*.md"))
# A fence, its language and title, and the marker of what cannot be run.
FENCE = re.compile(
    r"^(?:<!-- not run: (?P<why>[^\n]+) -->\n\n)?"
    r'```(?P<language>\S*)(?: title="(?P<title>[^"\n]+)")?\n(?P<text>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
TRAINERS = ("pnp-train", "pnp-doctor")
SIMPLE = ("pnp-evaluate", "pnp-export", "pnp-embed")
OURS = (*TRAINERS, *SIMPLE, "pnp-decide", "pnp-tune", "pnp-report", "make")


class Block(NamedTuple):
    why: str | None
    language: str
    title: str | None
    text: str


def blocks(text: str, *languages: str) -> list[Block]:
    found = [Block(*match.group(*Block._fields)) for match in FENCE.finditer(text)]
    return [block for block in found if not languages or block.language in languages]


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def lines(text: str) -> list[list[str]]:
    """Command lines as words; comments are left out."""
    joined = text.replace("\\\n", " ").splitlines()
    return [words for line in joined if (words := shlex.split(line, comments=True))]


# ---- command lines -------------------------------------------------------------------------------


@cache
def compose_once(name: str, overrides: tuple[str, ...]):
    return composed(name, overrides)


def check_hydra(name: str, words: list[str], *, tune: bool = False) -> None:
    """Hydra's flags parse, every override composes, and so does every option of a swept group."""
    from hydra._internal.utils import get_args_parser
    from hydra.core.override_parser.overrides_parser import OverridesParser

    given = get_args_parser().parse_args(words)
    overrides = OverridesParser.create().parse_overrides(given.overrides)
    swept = {o.key_or_group: o for o in overrides if o.is_sweep_override()}
    plain = [o.input_line for o in overrides if not o.is_sweep_override()]
    assert given.multirun or not swept, f"a sweep without -m: {words}"
    choices = {key: list(o.sweep_string_iterator()) for key, o in swept.items()}
    for preset in (word.removeprefix("sweep=") for word in plain if word.startswith("sweep=")):
        text = (conf_dir() / "sweep" / f"{preset}.yaml").read_text(encoding="utf-8")
        params = yaml.safe_load(text)["hydra"]["sweeper"]["params"]
        named = {o.key_or_group for o in overrides}
        choices |= {k: str(v).split(",") for k, v in params.items() if k not in named}
    first = {key: f"{key}={values[0]}" for key, values in choices.items()}
    cfg = compose_once(name, (*plain, *first.values()))
    for key, values in choices.items():
        for value in values[1:] if (conf_dir() / key).is_dir() else ():
            compose_once(name, (*plain, *(first | {key: f"{key}={value}"}).values()))
    check_values(name, cfg)


def check_values(name: str, cfg: dict) -> None:
    """The sections whose objects are cheap accept their values."""
    from pnp.runs.config import build

    for section in {"train": ("evaluation", "optim", "data"), "evaluate": ("evaluation",)}.get(
        name, ()
    ):
        build(resolved(cfg)[section], section)


def resolved(cfg: dict) -> dict:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.create(cfg), resolve=True)


def check_tune(words: list[str]) -> None:
    from pnp.runs.search import check
    from pnp.runs.space import read_space

    own = tuple(word.removeprefix("tune.") for word in words if word.startswith("tune."))
    rest = [word for word in words if not word.startswith("tune.") and word != "--help"]
    settings = compose_once("tune", own)
    check(settings)
    check_hydra("train", rest)
    if settings["space"]:
        read_space(settings["space"], rest)


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def check_command(words: list[str]) -> None:
    """One of our own command lines is one that the program takes."""
    program, rest = words[0], words[1:]
    if program == "make":
        for word in rest:
            if word.startswith("ARGS="):
                check_hydra("train", shlex.split(word.removeprefix("ARGS=")))
            elif word.startswith("ID="):
                file = f"{word.removeprefix('ID=')}.yaml"
                assert (ROOT / "experiments" / "claims" / file).is_file(), f"{word}: no such claim"
            elif word.startswith("SCALE="):
                assert word.removeprefix("SCALE=") in ("quick", "laptop", "gpu")
            else:
                assert word in targets(), f"make {word}: no such target"
    elif program == "pnp-report":
        from pnp.cli.report import parser

        parser().parse_args(rest)
    elif program == "pnp-tune":
        check_tune(rest)
    elif program == "pnp-decide":
        check_hydra(f"decide_{rest[0]}", rest[1:])
    elif program in SIMPLE:
        check_hydra(program.removeprefix("pnp-"), rest)
    else:
        check_hydra("train", rest)


def check_block(block: Block, *more: str) -> None:
    """A block of shell: valid syntax, and ours are valid commands; others need the marker.

    `more` are overrides that go to each training command: the folder of a page's new yaml.
    """
    subprocess.run(["bash", "-n", "-c", block.text], check=True)
    for words in lines(block.text):
        where = next((i for i, w in enumerate(words) if w in (*OURS, "pnp.cli.train")), None)
        assert where == 0 or block.why, f"not a command of ours, and no marker: {' '.join(words)}"
        if where is not None:
            own = ["pnp-train" if w == "pnp.cli.train" else w for w in words[where:]]
            check_command([*own, *(more if own[0] in TRAINERS else ())])


def check_kind(text: str) -> None:
    """Every fence of a page is a block of a kind that is run or checked here."""
    found = blocks(text)
    fences = re.findall(r"^ *(?:```|~~~)", text, re.MULTILINE)
    assert len(fences) == 2 * len(found), "a fence that is indented, or not closed"
    assert not re.search(r"\n\n    \S", FENCE.sub("", text)), "a code block without a fence"
    for block in found:
        assert block.language in ("python", "bash", "yaml", "text"), block.language or "no language"
        said = [words[0] for line in block.text.splitlines() if (words := line.split())]
        assert block.language != "text" or not set(said) & set(OURS), "commands in a block of text"


@pytest.mark.parametrize("name", PAGES)
def test_every_block_of_a_page_is_of_a_kind_that_is_checked(name):
    check_kind(page(name))


@pytest.mark.parametrize(
    "text",
    [
        "```ruby\nx\n```",
        "```\npnp-train\n```",
        "```text\npnp-train\n```",
        "```bash\nls\n",
        "a\n\n    b",
    ],
)
def test_a_block_that_nobody_would_check_is_refused(text):
    with pytest.raises(AssertionError):
        check_kind(f"{text}\n")


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("curl x", AssertionError),
        ("make nonsense", AssertionError),
        ("pnp-train objective=full,dino", AssertionError),
        ("pnp-train optim.rl=1", Exception),
        ("pnp-train evaluation.references=[pixel]", UserError),
        ("pnp-train -m sweep=seeds objective=full,nonsense", Exception),
        ("pnp-report runs --nonsense", SystemExit),
        ("pnp-tune tune.space='{optim.lr: {low: 2, high: 1}}'", UserError),
        ("pnp-train 'x", subprocess.CalledProcessError),
    ],
)
def test_a_command_that_the_program_would_refuse_is_found(command, error):
    with pytest.raises(error):
        check_block(Block(None, "bash", None, f"{command}\n"))


@pytest.mark.parametrize("name", PAGES)
def test_every_command_line_of_a_page_is_valid(name, added, tmp_path):
    more = added(name, tmp_path)
    for block in blocks(page(name), "bash"):
        check_block(block, *more)


def test_every_command_line_of_the_readme_is_valid():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = [w for b in blocks(text) if b.language != "python" for w in readme_lines(b.text)]
    assert len(found) > 15
    for words in found:
        check_command([word for word in words if "…" not in word])


def readme_lines(text: str) -> list[list[str]]:
    ours = [line for line in text.splitlines() if line.startswith(OURS)]
    return lines("\n".join(ours))


# ---- what pages add to the package ---------------------------------------------------------------


@pytest.fixture
def added(monkeypatch):
    """Do what an add_a_… page says: its titled blocks become part of the package."""

    def add(name: str, folder: Path) -> list[str]:
        titled = [block for block in blocks(page(name), "python", "yaml") if block.title]
        for block in titled:
            file, _, inside = block.title.partition(": ")
            if block.language == "yaml":
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_text(block.text, encoding="utf-8")
                continue
            module = import_module(file.removesuffix(".py").replace("/", "."))
            for table in ("DATASETS", "NAMES"):
                if hasattr(module, table):
                    monkeypatch.setattr(
                        module, table, type(getattr(module, table))(getattr(module, table))
                    )
            names = dict(vars(module))
            text = into(module, inside, block.text) if inside else block.text
            exec(compile(text, str(DOCS / name), "exec"), names)  # the page is ours
            for key in names.keys() - vars(module).keys() | ({inside} if inside else set()):
                monkeypatch.setattr(module, key, names[key], raising=False)
        return [f"hydra.searchpath=[file://{folder / 'conf'}]"] if titled else []

    def into(module, function: str, branch: str) -> str:
        """The source of a function with a branch before its last line."""
        source = Path(module.__file__).read_text(encoding="utf-8")
        node = next(n for n in ast.parse(source).body if getattr(n, "name", "") == function)
        *body, last = source.splitlines()[node.lineno - 1 : node.end_lineno]
        (word,) = re.findall(r'name == "(\w+)"', branch)
        monkeypatch.setattr(module, "NAMES", (*module.NAMES, word))
        return "\n".join([f"NAMES = {module.NAMES}", *body, branch.rstrip(), last])

    return add


# ---- python --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in PAGES if blocks(page(name), "python")])
def test_the_python_of_a_page_runs_in_its_order(name, added, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    added(name, tmp_path)
    if name == "sharing.md":
        from test_export import untrained

        for folder, options in {
            "RUN": {"name": "small_cnn", "width": 4, "depth": 2, "pool": 2},
            "RESNET": {"name": "resnet18", "stem": "small"},
            "TIMM": {"name": "timm:test_vit"},
        }.items():
            untrained(tmp_path / "runs" / folder, **options)
    if name == "decider.md":
        from test_decider import write_decider

        write_decider(tmp_path, images="NEW", out="DECIDER")
    names: dict[str, object] = {}
    for block in blocks(page(name), "python"):
        if block.title:
            module = import_module(block.title.partition(".py")[0].replace("/", "."))
            names |= {k: v for k, v in vars(module).items() if f"class {k}" in block.text}
            continue
        code = compile(block.text, name, "exec")
        if not block.why:
            exec(code, names)  # the page is ours
    assert block is not None
    if name == "band.md":
        assert "With probability >= 0.9" in (printed := capsys.readouterr().out)
        assert "oracle/erased" in printed


def test_the_notebook_is_the_page_in_python():
    made = runpy.run_path(str(DOCS / "notebook.py"))["notebook"](page("python.md"))
    assert (DOCS / "python.ipynb").read_text(encoding="utf-8") == made, "run docs/notebook.py"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the machinery; the cells' own are errors in the page
def test_the_notebook_runs_from_an_empty_folder(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(DOCS / "python.ipynb", as_version=4)
    nbformat.validate(book)
    metadata = {"path": str(tmp_path)}
    ran = NotebookClient(book, timeout=200, resources={"metadata": metadata}).execute()
    said = [part.text for cell in ran.cells for part in cell.get("outputs", ()) if "text" in part]
    assert "array" in "".join(said)
    assert (tmp_path / "RUN" / "report.html").is_file()


def test_the_page_that_adds_a_method_adds_the_librarys(added, tmp_path):
    from lightly.loss import DCLLoss

    from pnp import rivals

    added("add_a_method.md", tmp_path)
    (block,) = (b for b in blocks(page("add_a_method.md"), "python") if b.title)
    assert len([line for line in block.text.splitlines() if line.strip()]) < 30
    z = torch.randn(2, 9, 6, dtype=torch.float64, requires_grad=True)
    ours, theirs = rivals.DCL(temperature=0.2)(z, z.detach())["loss"], DCLLoss(0.2)(*z)
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(loss, z)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients)
    with pytest.raises(UserError, match=r"objective\.temperature=0"):
        rivals.DCL(temperature=0)
