"""Two nodes under torchrun: network namespaces of this machine, joined by a cable."""

import os
import subprocess
import sys
import time

import pytest
from conftest import TINY
from test_preemption import end

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ADDRESSES = ("10.77.0.1", "10.77.0.2")


@pytest.fixture
def nodes():
    """Names of two namespaces with an address each; skips where they are not allowed."""
    names = [f"pnp{os.getpid()}{end}" for end in "ab"]
    cables = [f"p{os.getpid()}{end}" for end in "ab"]
    steps = [["netns", "add", name] for name in names]
    steps.append(["link", "add", cables[0], "type", "veth", "peer", "name", cables[1]])
    for name, cable, address in zip(names, cables, ADDRESSES, strict=True):
        steps += [["link", "set", cable, "netns", name]]
        steps += [["-n", name, "addr", "add", f"{address}/24", "dev", cable]]
        steps += [["-n", name, "link", "set", link, "up"] for link in ("lo", cable)]
    try:
        for step in steps:
            subprocess.run(["ip", *step], check=True, capture_output=True, text=True)
        yield list(zip(names, cables, strict=True))
    except FileNotFoundError:
        pytest.skip("no network namespaces: the command ip is missing (apt-get install iproute2)")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces: ip {' '.join(error.cmd[1:])}: {error.stderr.strip()}")
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def call(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def start(nodes, folder, *overrides):
    """A run of one process on each node; its two torchruns."""
    started = []
    for rank, (name, cable) in enumerate(nodes):
        command = [
            "ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run",
            "--nnodes=2", "--nproc-per-node=1", f"--node-rank={rank}",
            f"--master-addr={ADDRESSES[0]}", "--master-port=29711",
            "-m", "pnp.cli.train", *TINY, "trainer=ddp", "trainer.devices=1",
            "trainer.num_nodes=2", "~callbacks.monitor", *overrides,
        ]  # fmt: skip
        env = os.environ | {"GLOO_SOCKET_IFNAME": cable, "OMP_NUM_THREADS": "1"}
        with (folder / f"node{rank}.txt").open("a") as log:
            process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)
        started.append(process)
    return started


def test_a_run_that_loses_a_node_ends_with_a_message_and_resumes_as_unbroken(nodes, tmp_path):
    options = ("trainer.max_epochs=60", "callbacks.checkpoints.every_n_steps=1")
    first = start(nodes, tmp_path, *options, "hydra.run.dir=runs/a", "resume=auto")
    deadline = time.monotonic() + 500
    log = tmp_path / "runs/a/metrics.csv"
    while time.monotonic() < deadline and not (log.exists() and log.read_text().count("\n") > 9):
        time.sleep(0.1)
    there = call("ip", "netns", "pids", nodes[1][0]).split()
    call("kill", "-9", *there)  # the whole node, at once
    assert all(process.wait(300) != 0 for process in first)
    said = (tmp_path / "node0.txt").read_text()
    assert "the connection to another process of this run broke" in " ".join(said.split())
    assert not (tmp_path / "runs/a/metrics.json").exists()
    for process in start(nodes, tmp_path, *options, "hydra.run.dir=runs/a", "resume=auto"):
        assert process.wait(600) == 0, (tmp_path / "node0.txt").read_text()
    assert "resumed at step" in (tmp_path / "node0.txt").read_text()
    for process in start(nodes, tmp_path, *options, "hydra.run.dir=whole/a"):
        assert process.wait(600) == 0
    (state, _, metrics), (other, _, others) = end(tmp_path / "runs/a"), end(tmp_path / "whole/a")
    assert metrics == others
    assert all(state[key].equal(other[key]) for key in state)
