"""The benchmarks say what they do, and their arithmetic is right. Nothing here is timed."""

import dataclasses
import importlib
import os
import runpy
import sys
import textwrap
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
# No commands of their own.
HELPERS = (
    "memory", "timing", "rival", "stable", "gpu_parity", "gpu_stages", "gpu_steps", "gpu_table",
)  # fmt: skip
COMMANDS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in HELPERS)


@pytest.fixture
def load(monkeypatch):
    """Modules of the folder, as the scripts see them; forgotten afterwards."""
    monkeypatch.syspath_prepend(str(FOLDER))
    names = [path.stem for path in FOLDER.glob("*.py")]
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_benchmark_explains_itself(name, load, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])  # some add to it
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert not stop.value.code
    said = capsys.readouterr().out
    assert said.startswith(f"usage: {name}.py")
    assert f"python benchmarks/{name}.py" in said


def test_every_benchmark_is_a_command_or_a_known_helper():
    assert {*COMMANDS, *HELPERS} == {path.stem for path in FOLDER.glob("*.py")}
    assert {"views", "step", "levers", "growth", "folders", "startup", "gpu"} <= {*COMMANDS}


def test_a_ratio_pairs_the_rounds(load):
    ratio = load("timing").ratio
    # Twice as fast in each round although the machine slowed down tenfold on the way.
    assert ratio([2, 20, 4], [1, 10, 2]) == "2.0× (2.0 – 2.0)"
    assert ratio([3, 1, 2], [1, 1, 1], 2) == "2.00× (1.00 – 3.00)"
    with pytest.raises(ValueError, match="shorter"):
        ratio([1, 2], [1])


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_an_exponent_is_that_of_the_power_law(load, power):
    sizes = [8, 64, 512, 4096]
    found = load("timing").exponent(sizes, [0.3 * size**power for size in sizes])
    assert found == pytest.approx(power, abs=1e-9)


def test_an_exponent_is_the_least_squares_line_of_the_logarithms(load):
    numpy = importlib.import_module("numpy")
    x, y = [1.0, 3.0, 5.0, 11.0], [2.0, 1.0, 7.0, 30.0]
    slope = numpy.polyfit(numpy.log(x), numpy.log(y), 1)[0]
    assert load("timing").exponent(x, y) == pytest.approx(slope)


@pytest.mark.parametrize(("x", "y"), [([1], [1]), ([1, 2], [0, 1]), ([-1, 2], [1, 1])])
def test_no_exponent_without_two_positive_points(load, x, y):
    with pytest.raises(ValueError, match="2 points above 0"):
        load("timing").exponent(x, y)


def test_each_round_begins_with_another_one_and_holds_everybody_once(load):
    order = load("timing").order
    rounds = [order("abc", turn) for turn in range(6)]
    assert [names[0] for names in rounds] == list("abcabc")
    assert all(sorted(names) == list("abc") for names in rounds)


def test_turns_are_interleaved_and_the_first_round_is_not_counted(load):
    log: list[str] = []
    times = load("timing").in_turns({k: lambda k=k: log.append(k) for k in "ab"}, 3)
    assert "".join(log) == "abbaabba"
    assert {name: len(spent) for name, spent in times.items()} == {"a": 3, "b": 3}


ARM = """
    import sys
    from timing import tell, wait

    name, ends_after = sys.argv[1], int(sys.argv[2])
    for turn in range(ends_after):
        wait()
        print("something else")
        tell({"name": name, "turn": turn})
    wait()
    sys.exit("no more")
"""


def test_processes_take_turns_and_one_that_ends_does_not_stop_the_others(
    load, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FOLDER), *sys.path]))
    script = tmp_path / "arm.py"
    script.write_text(textwrap.dedent(ARM))
    arms = {"good": ["a", "9"], "bad": ["b", "1"]}
    found, failed = load("timing").arms_in_turns(str(script), arms, 2)
    assert found == {"good": [{"name": "a", "turn": 1}, {"name": "a", "turn": 2}]}
    assert failed == {"bad": "no more"}


def test_a_process_of_its_own_hands_back_what_it_tells_or_fails_with_its_words(
    load, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FOLDER), *sys.path]))
    script = tmp_path / "one.py"
    script.write_text("import sys, timing\ntiming.tell(int(sys.argv[1]) if sys.argv[1:] else 1)\n")
    assert load("timing").fresh(str(script), 7) == 7
    with pytest.raises(RuntimeError, match="invalid literal"):
        load("timing").fresh(str(script), "seven")


def test_lightlys_arms_have_our_sizes_views_and_batch(load):
    pytest.importorskip("lightly")
    arms, rival = load("arms"), load("rival")
    spec = arms.Spec("lightly", batch=8, images=24, overrides=("model.width=2", "optim=sgd"))
    sizes = {}
    for method, options in (("byol", {"num_workers": 0}), ("vicreg", {"num_workers": 0})):
        config = arms.configuration(dataclasses.replace(spec, method=method))
        module, loader = rival.documented(config, method, images=24, epochs=1, **options)
        views, _ = next(iter(loader))
        assert [tuple(view.shape) for view in views] == [(8, 3, 32, 32)] * 2
        assert module.training_step((views, None), 0).isfinite()
        from pnp.runs.parts import parts

        ours = parts(config)[1]
        sizes[method] = [
            {p.shape for p in net.parameters() if p.ndim > 1 and p.requires_grad}
            for net in (module, ours.student)
        ]
    assert all(theirs == mine for theirs, mine in sizes.values())


def test_stable_pretraining_takes_part_where_an_interpreter_is_named(load):
    step, base = load("step"), load("arms").Spec("ours", batch=8)
    plain = step.line_up(base, 2, bf16=True, compiled=False)
    more = step.line_up(base, 2, bf16=True, compiled=False, stable=True)
    added = [arm for name, arm in more.items() if name not in plain]
    assert all(arm.loop != "stable" for arm in plain.values())
    # The same chances as lightly: with workers and without, in both precisions.
    lightly = [arm for arm in plain.values() if arm.loop == "lightly"]
    assert {dataclasses.replace(arm, loop="stable") for arm in lightly} == set(added)
    assert {(arm.workers, arm.precision) for arm in lightly} == {
        (workers, precision) for workers in (0, 2) for precision in ("32-true", "bf16-mixed")
    }


def test_on_a_gpu_compiled_arms_run_with_and_without_cuda_graphs(load):
    step, base = load("step"), load("arms").Spec("ours", device="cuda")
    arms = step.line_up(base, 8, bf16=True, compiled=True)
    graphs = [arm for arm in arms.values() if "method.cuda_graphs=true" in arm.overrides]
    assert [arm.precision for arm in graphs] == ["bf16-mixed"]
    assert all("method.compile=true" in arm.overrides for arm in graphs)
    assert all(arm.workers == 8 for arm in arms.values() if arm.loop == "lightly")


@pytest.mark.parametrize("python", ["no/such/python", sys.executable])
def test_an_environment_without_stable_pretraining_is_named_before_anything_is_timed(
    python, load, monkeypatch
):
    step = load("step")
    monkeypatch.setattr(step, "STABLE", "a-package-that-nobody-has")
    with pytest.raises(SystemExit, match=r"--stable-pretraining .*(No such file|nobody-has)"):
        step.versions(python)


def test_the_fastest_of_lightlys_arms_is_the_rival(load):
    found = {
        "lightly fp32, 2 workers": [{"speed": 10.0, "mib": 1.0}] * 2,
        "lightly fp32, no workers": [{"speed": 20.0, "mib": 1.0}] * 2,
        "ours fp32": [{"speed": 40.0, "mib": 3.0}, {"speed": 60.0, "mib": 2.0}],
    }
    step = load("step")
    assert step.rival_of(found, "fp32") == "lightly fp32, no workers"
    assert step.rival_of(found, "bf16") is None
    last = "| ours fp32 | 50 | 2.50× (2.00 – 3.00) | 2.50× (2.00 – 3.00) | 0.1 | 3 |"
    assert step.table(found, 2e9)[-1] == last


def test_a_series_ends_when_a_step_is_slow_or_the_next_does_not_fit(load):
    too_much = load("growth").too_much
    points = [(64, 1.0, 100.0), (128, 2.0, 200.0)]
    assert too_much([], 64, 20, 10) is None
    assert too_much(points, 256, 20, 1000) is None
    assert "took 2 s" in too_much(points, 256, 1.5, 1000)
    assert "fit into memory" in too_much(points, 256, 20, 500)


def test_a_folder_holds_as_many_readable_files_as_asked_for(load, tmp_path):
    load("folders").make_folder(tmp_path / "images", 230)
    from pnp.data import folder

    assert len(folder.parts(tmp_path / "images", 8)["train"]) == 230
    assert len(folder.parts(tmp_path / "images", 8)["train"].classes) == 10
