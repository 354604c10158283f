"""The house: rooms stand on the floors that CONTRIBUTING.md lists, and imports go downward only."""

import ast
import re
from pathlib import Path

TOP = Path(__file__).parent.parent
PACKAGE = TOP / "pnp"


def floors() -> list[list[str]]:
    """Rooms by floor, the lowest first, as CONTRIBUTING.md lists them (highest first)."""
    text = (TOP / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = re.search(r"```text\n(.*?)```", text, re.DOTALL)
    assert listed is not None, "CONTRIBUTING.md lists no floors"
    return [line.split("#")[0].split() for line in reversed(listed[1].splitlines())]


def imported_rooms(file: Path) -> set[str]:
    """Rooms of the package that a file imports, at its top or inside a function."""
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module == "pnp":
            names = [f"pnp.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        rooms |= {name.split(".")[1] for name in names if name.startswith("pnp.")}
    return rooms - {"__version__"}


def test_every_room_stands_on_one_floor_and_every_floor_has_rooms_that_exist():
    there = {p.stem for p in PACKAGE.glob("*.py")} | {p.parent.name for p in PACKAGE.glob("*/*.py")}
    listed = [room for floor in floors() for room in floor]
    assert len(listed) == len(set(listed))
    assert set(listed) == there - {"__init__", "pnp"}


def test_imports_only_go_downward():
    level = {room: number for number, rooms in enumerate(floors()) for room in rooms}
    wrong = [
        f"{file.relative_to(TOP)} imports pnp.{other}"
        for file in sorted(PACKAGE.rglob("*.py"))
        if (room := file.relative_to(PACKAGE).with_suffix("").parts[0]) != "__init__"
        for other in imported_rooms(file) - {room}
        if level[other] >= level[room]
    ]
    assert not wrong, "imports that go up or sideways:\n" + "\n".join(wrong)
