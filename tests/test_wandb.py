"""W&B: what reaches it, once and complete, by its own files and its own `wandb sync`."""

import csv
import json
import math
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import FULL, TINY, composed

from pnp.errors import UserError
from pnp.loggers.wandb import AXES, WandbLog
from pnp.loggers.wandb_results import band_rows, term_shares
from pnp.loggers.wandb_workspace import BARS, CURVES, LINES, PINNED, workspace
from pnp.results import to_rows

GROUPS = {"loss", "gradient", "geometry", "probe", "band", "speed", "health", "optim", "progress"}
KEY = "0" * 40
LOGS: list[WandbLog] = []  # those that started W&B


@pytest.fixture(autouse=True)
def _own_wandb(monkeypatch, tmp_path):
    """W&B's own caches in the test's folder, no error reports, nothing left running."""
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "own"))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_RUN_ID", "WANDB_SWEEP_ID"):
        monkeypatch.delenv(name, raising=False)
    start = WandbLog._init
    monkeypatch.setattr(WandbLog, "_init", lambda log, **k: (LOGS.append(log), start(log, **k))[1])
    yield
    settle()


def settle():
    """End W&B's own process: until then it writes its files, and keeps the environment it read."""
    import wandb

    while LOGS:
        LOGS.pop().close(1)
    wandb.teardown()


def records(file):
    """The records of a `.wandb` file: protobuf in LevelDB's log format, after 7 bytes of header."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = file.read_bytes(), 7, []
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts.append(data[at + 7 : at + 7 + size])
        at += 7 + size
        if kind in (1, 4):  # a whole record, or its last part
            record = Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record


def offline(folder):
    """The one `.wandb` file of a run directory, as `{kind: [records]}`."""
    settle()
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    found = {}
    for record in records(file):
        kind = record.WhichOneof("record_type")
        found.setdefault(kind, []).append(getattr(record, kind))
    return found


def history(found):
    """`{step: {metric: value}}`; a step that comes twice is an error."""
    rows = {}
    for row in found["history"]:
        assert row.step.num not in rows
        rows[row.step.num] = {
            "/".join(item.nested_key): json.loads(item.value_json) for item in row.item
        }
    return rows


def summary(found):
    return {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for update in found["summary"]
        for item in update.update
    }


def config(found):
    return {item.key: json.loads(item.value_json) for item in found["run"][0].config.update}


def rows(log, *steps):
    """Training rows as the module logs them."""
    for step in steps:
        log.log_metrics({"epoch": step // 4, "loss/total": 1 / (step + 1)}, step)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A real run, interrupted in its second epoch and resumed."""
    from pnp.callbacks.checkpoints import Checkpoints, Interrupted
    from pnp.cli.train import train

    os.environ["WANDB_SILENT"] = "true"
    run = tmp_path_factory.mktemp("runs") / "run"
    own = ("logger=wandb", "wandb.tags=[a,b]", "callbacks.checkpoints.every_n_steps=5")
    cfg = composed(*TINY, *FULL, *own, f"run_dir={run}", "resume=auto")
    with pytest.MonkeyPatch.context() as patch:
        original = Checkpoints.on_train_batch_end

        def broken(self, trainer, *args):
            original(self, trainer, *args)
            if trainer.global_step == 7:  # two steps after the last checkpoint
                raise Interrupted

        patch.setattr(Checkpoints, "on_train_batch_end", broken)
        with pytest.raises(Interrupted):
            train(cfg)
    settle()
    (first,) = run.glob("wandb/offline-run-*/*.wandb")
    codes = [r.exit.exit_code for r in records(first) if r.WhichOneof("record_type") == "exit"]
    metrics = train(cfg)
    return run, metrics, codes


def test_a_resumed_offline_run_is_one_file_with_every_row_of_the_csv_once(trained):
    run, _, codes = trained
    assert codes == [1]  # the interrupted part was ended, as failed
    logged = history(offline(run))
    with (run / "metrics.csv").open() as stream:
        expected: dict[int, dict[str, float]] = {}
        for row in csv.DictReader(stream):
            values = {k: float(v) for k, v in row.items() if v and k not in ("step", "epoch")}
            expected.setdefault(int(row["step"]), {}).update(values)
    assert sorted(logged) == [*sorted(expected), max(expected) + 1]  # the last holds the results
    for step, values in expected.items():
        assert logged[step]["progress/step"] == logged[step]["_step"] == step
        assert logged[step]["progress/images"] == 16 * (step + 1)
        assert {k: logged[step][AXES.get(k, k)] for k in values} == pytest.approx(values)


def test_metrics_are_grouped_and_drawn_over_the_optimizer_step(trained):
    found = offline(trained[0])
    for values in list(history(found).values())[:-1]:
        assert {key.split("/")[0] for key in values if not key.startswith("_")} <= GROUPS
    seconds = [values["progress/seconds"] for values in list(history(found).values())[:-1]]
    assert seconds == sorted(seconds)
    axes = {metric.name or metric.glob_name: metric for metric in found["metric"]}
    assert axes["*"].step_metric == "progress/step"
    assert {"progress/images", "progress/seconds"} <= axes.keys()


def test_a_run_carries_its_name_tags_and_resolved_config(trained):
    run = trained[0]
    found = offline(run)
    (started,) = found["run"]
    assert (started.project, started.display_name) == ("pnp-ssl", "run")
    assert list(started.tags) == ["a", "b"]
    assert config(found)["objective"]["weights"]["repulsion"] == 1.0
    assert "commit" in config(found)
    assert started.run_id == (run / "wandb" / "id").read_text()


def test_results_are_tables_charts_and_pictures_but_no_artifacts_unless_asked(trained):
    run, metrics, _ = trained
    found = offline(run)
    results = list(history(found).values())[-1]
    kinds = {key.removesuffix("/_type"): v for key, v in results.items() if key.endswith("/_type")}
    tables = {"tables/metrics", "tables/band", *(table for table, _ in CURVES.values())}
    assert tables | {"band/curve/lobed_table"} <= {k for k, v in kinds.items() if v == "table-file"}
    assert {"figures/views", "figures/band_images"} <= kinds.keys()
    assert kinds["figures/band_width"] == "html-file"
    assert {artifact.type for artifact in found["artifact"]} == {"run_table"}  # W&B's own
    final = summary(found)
    assert final["probe/test/knn/teacher"] == metrics["test/knn/teacher"]
    assert final["band/mean/teacher/width"] == metrics["band/mean/teacher/width"]
    assert [record.exit_code for record in found["exit"]] == [0]


def test_spectra_and_cosines_are_histograms_once_per_epoch(trained):
    logged = history(offline(trained[0]))
    for network in ("student", "teacher"):
        spectrum = {s: v[f"geometry/{network}/spectrum/values"] for s, v in logged.items()
                    if f"geometry/{network}/spectrum/values" in v}  # fmt: skip
        assert list(spectrum) == [3, 7, 11]
        assert all(sum(shares) == pytest.approx(1) for shares in spectrum.values())
        assert sum(logged[3][f"geometry/{network}/cosines/values"]) == 40 * 39 / 2


# pydantic's notice about wandb_workspaces' own validators
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_workspace_shows_only_what_a_run_logs(trained):
    found = offline(trained[0])
    known = {key for values in history(found).values() for key in values}
    known |= summary(found).keys()
    shown = {key for panels in LINES.values() for _, keys, x in panels for key in (*keys, x)}
    shown |= {key for keys in BARS.values() for key in keys} | set(PINNED)
    assert shown <= known
    spec = workspace("me/pnp-ssl")._to_model().model_dump(by_alias=True)
    assert (spec["entity"], spec["project"]) == ("me", "pnp-ssl")
    sections = spec["spec"]["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == ["Results", *LINES]
    text = json.dumps(spec, default=str)
    assert all(json.dumps(key)[1:-1] in text for key in shown)
    scatter = sections[0]["panels"][2]["config"]
    assert scatter["xAxis"].removeprefix("summary:") in known


@pytest.mark.parametrize("text", ["pnp-ssl", "me/", "/pnp", "a/b/c"])
def test_a_workspace_address_of_another_form_is_refused(text):
    with pytest.raises(UserError, match="ENTITY/PROJECT"):
        workspace(text)


def test_speed_counts_images_over_time_and_leaves_monitors_out(tmp_path, monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 9.0, 20.0, 24.0])
    monkeypatch.setattr("pnp.loggers.wandb.perf_counter", lambda: next(clock))
    log = WandbLog(tmp_path / "run")
    log.module = type("Module", (), {"global_batch": 32})
    rows(log, 0, 2)  # 2 s for 2 steps
    log.log_metrics({"probe/student/knn": 0.5}, 3)
    rows(log, 4, 8)  # 4 s for 4 steps, after 11 s with the monitors
    log.close(0)
    logged = history(offline(tmp_path / "run"))
    assert logged[2]["speed/seconds_per_step"] == 1
    assert logged[2]["speed/images_per_second"] == 32
    assert "speed/seconds_per_step" not in logged[4]
    assert logged[8]["speed/seconds_per_step"] == 1
    assert [logged[s]["progress/seconds"] for s in (0, 2, 8)] == [1, 3, 24]
    assert logged[8]["progress/images"] == 9 * 32


def test_health_shows_what_is_not_finite_and_alarms_are_alerts(tmp_path):
    log = WandbLog(tmp_path / "run")
    rows(log, 0)
    log.alarm("cone collapse of the student", "raise variance", 0)
    log.log_metrics({"loss/total": math.nan}, 1)
    log.close(0)
    found = offline(tmp_path / "run")
    logged = history(found)
    assert [logged[s]["health/finite"] for s in (0, 1)] == [1, 0]
    assert [logged[s]["health/alarms"] for s in (0, 1)] == [0, 1]
    assert [(a.title, a.level) for a in found["alert"]] == [
        ("cone collapse of the student", "WARN")
    ]


def test_a_run_that_starts_anew_in_its_directory_replaces_the_old_one(tmp_path):
    first = WandbLog(tmp_path / "run")
    rows(first, 0, 1, 2)
    first.alarm("old", "old", 2)
    first.finalize("failed")
    second = WandbLog(tmp_path / "run")
    rows(second, 0, 1)
    second.close(0)
    found = offline(tmp_path / "run")
    assert list(history(found)) == [0, 1]
    assert "alert" not in found


def test_a_job_that_breaks_in_its_evaluation_ends_its_own_run_and_not_the_callers(
    compose, tmp_path, monkeypatch
):
    import wandb

    from pnp.cli.train import train
    from pnp.evaluation import evaluate

    def broken(*args):
        raise UserError("no room for the features")

    monkeypatch.setattr(evaluate, "evaluate_networks", broken)
    callers = wandb.init(mode="offline", dir=tmp_path, settings=wandb.Settings(silent=True))
    with pytest.raises(UserError, match="no room"):
        train(compose("logger=wandb", "trainer.max_epochs=1"))
    assert wandb.run is callers
    callers.log({"still": "open"})
    callers.finish()
    ours = offline(tmp_path / "run")
    assert [record.exit_code for record in ours["exit"]] == [1]


def test_the_jobs_of_a_sweep_make_one_group_and_are_named_by_their_overrides(tmp_path):
    from hydra.core.hydra_config import HydraConfig

    from pnp.runs.config import compose, plain
    from pnp.runs.parts import loggers

    overrides = ["seed=3", f"hydra.sweep.dir={tmp_path / 'sweep'}", "hydra.mode=MULTIRUN"]
    cfg = compose("train", overrides, with_hydra=True)
    cfg.hydra.job.override_dirname = "seed=3"
    try:
        HydraConfig.instance().set_config(cfg)
        config = {key: value for key, value in plain(cfg).items() if key != "hydra"}
        log = loggers(config, tmp_path / "sweep" / "seed=3")[1]
    finally:
        HydraConfig.instance().cfg = None
    assert (log.label, log.group) == ("seed=3", "sweep")
    assert loggers(config, tmp_path / "somewhere")[1].label == "somewhere"
    long = WandbLog(tmp_path / ("a" * 150 + "-hash"), name="b" * 129).label
    assert len(long) <= 128
    assert long.endswith("-hash")


def test_the_agent_of_a_wandb_sweep_decides_the_run_and_its_project(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "run1")
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    log = WandbLog(tmp_path / "run", project="ours")
    rows(log, 0)
    log.close(0)
    (started,) = offline(tmp_path / "run")["run"]
    assert (started.run_id, started.project) == ("run1", "theirs")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "onlin"}, "wandb.mode=onlin is unknown; choose from offline, online"),
        ({"histograms": -1}, "wandb.histograms=-1: give a whole number, at least 0"),
        ({"artifact": True}, r"Did you mean wandb\.artifacts"),
    ],
)
def test_a_bad_option_is_refused_by_name(compose, tmp_path, options, message):
    from pnp.runs.config import plain
    from pnp.runs.parts import loggers

    config = plain(compose("logger=wandb"))
    config["wandb"] |= options
    with pytest.raises(UserError, match=message):
        loggers(config, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"), [({"mode": "online"}, "wandb login"), ({"project": "a/b"}, "a/b")]
)
def test_what_wandb_refuses_ends_in_a_message(tmp_path, monkeypatch, options, message):
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(UserError, match=message):
        rows(WandbLog(tmp_path, **options), 0)


def test_term_shares_are_weighted_and_sum_to_one():
    table = [
        {"step": "0", "loss/total": "3", "loss/a": "1", "loss/b": "4", "optim/lr": "1"},
        {"step": "5", "loss/total": "1", "loss/a": "-1", "loss/b": "0", "optim/lr": "1"},
        {"step": "5", "loss/total": "", "loss/a": "", "loss/b": "", "optim/lr": ""},
    ]
    steps, shares = term_shares(table, {"b": 0.5})
    assert steps == [0, 5]
    assert shares == {"a": [1 / 3, 1.0], "b": [2 / 3, 0.0]}


def test_the_band_table_has_a_row_per_concept_and_representation():
    band = {"P": {"teacher": {"alarms": ["a", "b"]}, "pixels": {}}}
    metrics = {"band/P/teacher/width": 0.3, "band/P/teacher/err/fp_joint": 0.01}
    teacher, pixels = band_rows(to_rows(metrics), band)
    assert (teacher["certified"], teacher["fp"], teacher["alarms"]) == (0.3, 0.01, "a; b")
    assert (pixels["representation"], pixels["certified"]) == ("pixels", None)


def test_artifacts_hold_checkpoint_config_and_report_when_asked(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("checkpoints/best.ckpt", "config.yaml", "report.html"):
        (run / name).write_text("x")
    (run / "metrics.json").write_text('{"test/knn/student": 0.5}')
    log = WandbLog(run, artifacts=True)
    rows(log, 0)
    log.finish()
    names = {
        artifact.type: sorted(entry.path for entry in artifact.manifest.contents)
        for artifact in offline(run)["artifact"]
    }
    assert names["model"] == ["best.ckpt", "config.yaml"]
    assert names["report"] == ["config.yaml", "metrics.json", "report.html"]


class Server(ThreadingHTTPServer):
    """As much of W&B's server as uploads need: it keeps lines of history by their place."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.lines: dict[str, dict[int, dict]] = {}
        self.alerts: list[str] = []
        self.names: set[str] = set()

    def handle_error(self, request, client_address):
        """A client that hangs up is no error."""

    @property
    def env(self):
        url = f"http://127.0.0.1:{self.server_port}"
        return {**os.environ, "WANDB_BASE_URL": url, "WANDB_API_KEY": KEY, "NO_PROXY": "127.0.0.1"}

    def steps(self, run):
        return [self.lines[run][at]["_step"] for at in sorted(self.lines[run])]

    def answer(self, name, asked):
        run = asked.get("name")
        if name == "UpsertBucket":
            self.names.add(run)
            project = {"id": "P", "name": "pnp-ssl", "entity": {"id": "E", "name": "me"}}
            bucket = {"id": "B", "name": run, "displayName": run, "config": "{}"}
            bucket |= {"historyLineCount": len(self.lines.get(run, {})), "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if name == "RunResumeStatus":
            lines = self.lines.get(run)
            last = json.dumps(lines[max(lines)]) if lines else "{}"
            bucket = {
                "id": "B", "name": run, "historyLineCount": len(lines or {}), "eventsLineCount": 0,
                "logLineCount": 0, "historyTail": json.dumps([last]), "summaryMetrics": last,
                "config": "{}", "eventsTail": "[]", "tags": [], "wandbConfig": '{"t": 1}',
            }  # fmt: skip
            return {"model": {"id": "M", "name": "pnp-ssl", "bucket": bucket if lines else None}}
        if name == "CreateRunFiles":
            files = [
                {"name": f, "uploadUrl": self.env["WANDB_BASE_URL"] + "/up"} for f in asked["files"]
            ]
            return {"createRunFiles": {"runID": "B", "uploadHeaders": [], "files": files}}
        if name == "NotifyScriptableRunAlert":
            self.alerts.append(asked["title"])
            return {"notifyScriptableRunAlert": {"success": True}}
        if name == "CreateArtifact":
            latest = {"id": "S", "latestArtifact": {"id": "A", "versionIndex": 0}}
            artifact = {"id": "A", "state": "COMMITTED", "artifactSequence": latest}
            return {"createArtifact": {"artifact": artifact}}
        none = {"edges": []}
        viewer = {"id": "V", "entity": "me", "username": "me", "flags": "{}"}
        return {
            "project": None,
            "viewer": {**viewer, "teams": none, "apiKeys": none},
        }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = {}
        if self.path == "/graphql":
            asked = json.loads(body)
            found = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
            name = found[1] if found else ""
            answer = {"data": self.server.answer(name, asked.get("variables") or {})}
        elif self.path.endswith("/file_stream"):
            history = (json.loads(body).get("files") or {}).get("wandb-history.jsonl")
            lines = self.server.lines.setdefault(self.path.split("/")[-2], {})
            if history:
                for at, line in enumerate(history["content"], history["offset"]):
                    lines[at] = json.loads(line)
        self.reply(answer)

    def do_PUT(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.reply({})

    def do_GET(self):
        self.reply({})

    def reply(self, content):
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        """Quiet."""


@pytest.fixture
def server():
    with Server() as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        settle()  # before the server is gone: W&B would try for ever
        made.shutdown()


def sync(server, folder):
    command = [str(Path(sys.executable).with_name("wandb")), "sync", str(folder / "wandb")]
    run = {"env": server.env, "cwd": folder, "capture_output": True, "text": True}
    return subprocess.run(command, **run, timeout=100)


def test_wandb_sync_reads_a_resumed_offline_run_whole(tmp_path, server):
    run = tmp_path / "run"
    for start, end in ((0, 6), (4, 9)):  # it broke at 6, two steps after its checkpoint
        log = WandbLog(run)
        rows(log, *range(start, end))
        if start == 0:
            log.alarm("cone collapse of the student", "raise variance", 2)
            log.finalize("failed")
    log.finish()
    settle()
    done = sync(server, run)
    assert done.returncode == 0, done.stderr
    assert server.names == {log.folder.joinpath("wandb", "id").read_text()}
    assert server.steps(*server.names) == list(range(10))  # the last holds the results
    assert server.alerts == ["cone collapse of the student"]


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_run_continued_online_reaches_the_server_without_gaps_or_repeats(
    tmp_path, server, monkeypatch, mode
):
    settle()
    for key, value in server.env.items():
        monkeypatch.setenv(key, value)
    for mode_, start, end in ((mode, 0, 6), ("online", 4, 9)):  # it broke at 6, resumed from 4
        log = WandbLog(tmp_path / "run", mode=mode_)
        rows(log, *range(start, end))
        if end == 6:
            log.finalize("failed")
    log.finish()
    settle()
    assert server.names == {(tmp_path / "run" / "wandb" / "id").read_text()}
    assert server.steps(*server.names) == list(range(10))


@pytest.mark.slow
def test_a_killed_online_run_goes_on_without_gaps_or_repeats(tmp_path, server):
    script = """
import os, signal, sys
from pnp.loggers.wandb import AXES, WandbLog
log = WandbLog(sys.argv[1], mode="online")
for step in range(int(sys.argv[2]), int(sys.argv[3])):
    log.log_metrics({"epoch": 0, "loss/total": 1 / (step + 1)}, step)
if sys.argv[4] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
log.finish()
"""
    for arguments, code in (((0, 6, "kill"), -9), ((4, 9, "finish"), 0)):
        command = [sys.executable, "-c", script, str(tmp_path / "run"), *map(str, arguments)]
        done = subprocess.run(command, env=server.env, capture_output=True, text=True, timeout=200)
        assert done.returncode == code, done.stderr
    assert server.steps(*server.names) == list(range(10))
