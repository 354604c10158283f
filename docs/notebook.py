"""Write `python.ipynb`, the notebook of `python.md`: the page is the source, a test compares them.

python docs/notebook.py
"""

import json
import re
from pathlib import Path
from typing import Any

PAGE, NOTEBOOK = (Path(__file__).with_name(f"python.{kind}") for kind in ("md", "ipynb"))
CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def notebook(page: str) -> str:
    """A page as a notebook: its blocks of Python are the cells of code."""
    parts = [part.strip() for part in CODE.split(page)]
    kinds = [("markdown", "code")[number % 2] for number in range(len(parts))]
    found = [(kind, part) for kind, part in zip(kinds, parts, strict=True) if part]
    content = {
        "cells": [cell(number, kind, part) for number, (kind, part) in enumerate(found)],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def cell(number: int, kind: str, text: str) -> dict[str, Any]:
    """One cell; those of code have not run."""
    code = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": text, **code}


if __name__ == "__main__":
    NOTEBOOK.write_text(notebook(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
