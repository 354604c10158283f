"""`make gpu` keeps its limits and its results, and the speed run its rules. Nothing is timed."""

import importlib
import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
FACTS = {"commit": "abc", "device": "cpu", "tiny": True}


@pytest.fixture
def gpu(monkeypatch):
    """`benchmarks/gpu.py` as a module, forgotten afterwards with all that it imports."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("gpu")
    for path in FOLDER.glob("*.py"):
        sys.modules.pop(path.stem, None)


def stage(gpu, name, code, limit=30.0):
    """A stage that runs some Python and tells with `tell`."""
    tell = f"import sys; sys.path.insert(0, {str(FOLDER)!r}); from timing import tell\n"
    return gpu.Stage(name, name, [sys.executable, "-c", tell + code], limit)


HANGS = """
import subprocess, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
tell({"name": "first", "ok": True, "child": child.pid})
time.sleep(600)
"""


def test_a_stage_that_hangs_is_killed_with_its_children_and_what_it_told_is_kept(gpu, tmp_path):
    day = gpu.Day(tmp_path, FACTS)
    day.run(stage(gpu, "hangs", HANGS, limit=4), left=100)
    row = json.loads((tmp_path / "results.json").read_text())["stages"]["hangs"]
    assert row["status"] == gpu.LATE
    (told,) = row["results"]
    for _ in range(50):
        state = Path(f"/proc/{told['child']}/stat")
        if not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            break
        time.sleep(0.1)
    else:
        pytest.fail("the child lives")


def test_a_second_call_skips_what_is_done_and_tries_the_rest_again(gpu, tmp_path):
    good = stage(gpu, "good", "tell({'name': 'a', 'ok': True})")
    bad = stage(gpu, "bad", "tell({'name': 'b', 'ok': False, 'why': 'x|y'}); sys.exit('no more')")
    for call in (1, 2):
        day = gpu.Day(tmp_path, FACTS)
        for each in (good, bad):
            day.run(each, left=100)
        day.run(stage(gpu, "late", "tell(1)"), left=3)
        found = json.loads((tmp_path / "results.json").read_text())
        assert found["calls"] == call
        assert found["stages"]["good"]["call"] == 1
        assert found["stages"]["bad"]["call"] == call
        assert found["stages"]["bad"]["status"] == "exit status 1"
        assert found["stages"]["bad"]["said"] == ["no more"]
        assert found["stages"]["late"]["status"] == gpu.SKIPPED
    lines = gpu.table(found)
    assert any("good | done" in line and "1 of 1 checks hold" in line for line in lines)
    assert any("bad | exit" in line and "0 of 1 checks hold; b: x/y" in line for line in lines)


def test_a_day_of_another_commit_is_not_mixed_in(gpu, tmp_path):
    gpu.Day(tmp_path, FACTS).write()
    with pytest.raises(SystemExit, match="Give another --out"):
        gpu.Day(tmp_path, {**FACTS, "commit": "def"})


def test_partial_speeds_are_in_the_table_without_the_round_that_warms_up(gpu):
    turns = [{"speed": speed, "mib": 5.0} for speed in (1.0, 2000.0, 4000.0)]
    rows = {
        "parts of a step": {"status": "done", "results": [{"flop": 1e9, "ms": {}, "ops": {}}]},
        f"speed: {gpu.FIRST}": {"status": gpu.LATE, "results": turns},
        "speed: BYOL": {"status": gpu.LATE, "results": turns[:1]},
        "levers: default": {"status": "done", "call": 2, "results": turns},
    }
    lines = gpu.table({"facts": FACTS, "calls": 2, "stages": rows})
    assert f"| {gpu.FIRST} | 3,000 (2,000 – 4,000) | 3 | 5 |" in lines
    assert "| default | 3,000 (2,000 – 4,000) | 2 |" in lines
    assert not any(line.startswith("| BYOL") for line in lines)


def test_the_day_fits_ten_minutes_and_its_arms_are_configurations(gpu):
    given = gpu.options(["--out", "/nowhere"])
    assert given.budget <= 600
    planned = gpu.stages(given)
    names = [stage.name for stage in planned]
    assert len({*names}) == len(names)
    assert {stage.group for stage in planned} == {*gpu.GROUPS}
    arms = importlib.import_module("arms")
    for spec in gpu.arms(given).values():
        assert arms.configuration(spec)["data"]["batch_size"] == spec.batch
    assert "levers: trainer.benchmark=true" in names


def test_the_plan_of_the_day_is_printed_and_nothing_is_run(gpu, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--list", "--out", str(tmp_path / "out")])
    gpu.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["machine", "sanity"]
    assert any("P¬P, batch 512: at most 45 s" in line for line in lines)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_whole_day_runs_on_a_cpu_with_tiny_sizes(tmp_path):
    command = [sys.executable, str(FOLDER / "gpu.py"), "--device", "cpu", "--tiny"]
    done = subprocess.run(
        [*command, "--budget", "1400", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    assert {row["status"] for row in found["stages"].values()} == {"done"}, done.stdout[-4000:]
    told = [result for row in found["stages"].values() for result in row["results"]]
    assert [result for result in told if result.get("ok") is False] == []
    assert "images/s" in (tmp_path / "table.md").read_text()


# --- the speed run -----------------------------------------------------------------------------


@pytest.fixture
def speedrun():
    return runpy.run_path(str(ROOT / "experiments" / "speedrun" / "run.py"))


def test_no_override_changes_the_rules_of_the_speed_run(speedrun, compose):
    words = speedrun["words"]
    tested = compose(*words("test", 3, None, ["evaluation.k=1", "seed=9"]), tiny=False)
    assert (tested.evaluation.k, tested.seed, tested.evaluation.test) == (10, 3, True)
    assert list(tested.data.pretrain_on) == ["train", "validation"]
    chosen = compose(*words("validation", 3, None, []), tiny=False)
    assert list(chosen.data.pretrain_on) == ["train"]
    assert not chosen.evaluation.test


def test_a_record_needs_five_seeds_on_test_whose_interval_begins_at_90_percent(speedrun):
    def lines(accuracies, on="test"):
        row = {"on": on, "overrides": "", "machine": "m", "source": "s", "seconds": "9"}
        return speedrun["table"]([{**row, "knn10": str(value)} for value in accuracies])[2:]

    good = [0.903, 0.902, 0.904, 0.903, 0.902]
    assert lines(good) == ["| test |  | m | s | 5 | 0.9028 ± 0.0010 | 9 ± 0 | record |"]
    for rows, on in ((good[:4], "test"), (good, "validation"), ([0.89, 0.93, *good[:3]], "test")):
        assert "record" not in lines(rows, on)[0]
