"""The band's how-to runs as printed."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "band.md"


def test_every_code_block_of_the_band_page_runs_in_order(capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 8
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)  # the page is ours
    printed = capsys.readouterr().out
    assert "With probability >= 0.9" in printed
    assert "oracle/erased" in printed
