"""Claims about the tables of many runs: what 0.1 wrote, intervals, pairs, groups and baselines."""

from pathlib import Path

from report_runs import make_sweep

from pnp.cli.report import main

SWEEP = Path(__file__).parent / "fixtures" / "v0.1" / "sweep"


def test_the_tables_of_a_sweep_are_those_of_version_0_1_byte_for_byte(tmp_path, capsys):
    make_sweep(tmp_path, runs=24, points=20, seeds=3, finished=0.9)
    main([str(tmp_path)])
    for name in ("table.csv", "table.md"):
        assert (tmp_path / name).read_bytes() == (SWEEP / name).read_bytes()
    assert capsys.readouterr().out.startswith((SWEEP / "table.md").read_text(encoding="utf-8"))
