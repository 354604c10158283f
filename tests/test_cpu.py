"""Freed memory is kept for the next step; threads that wait for others sleep."""

import os
import platform
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

OPENMP = ("OMP_", "GOMP_", "KMP_")
SCRIPT = """
import resource, sys
import torch
from pnp.cpu import keep_freed_memory

done = keep_freed_memory() if sys.argv[1] == "keep" else None
for turn in range(20):  # the holes of the first ones grow together before they fit
    if turn == 16:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(12 * 2**20)  # 48 MB: above any threshold that glibc comes to by itself
print(done, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(mode, **variables):
    """What the function returned; the fresh pages of 4 tensors of 48 MB after 16 such."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, mode],
        capture_output=True, text=True, check=True, env={"PATH": "", **variables},
    )  # fmt: skip
    said, faults = done.stdout.split()
    return said, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has no mallopt")
def test_a_tensor_gets_the_pages_of_the_one_before():
    assert pages("leave")[1] > 30  # even if the kernel hands out pages of 2 MB
    said, faults = pages("keep")
    assert said == "True"
    assert faults < 30


def test_settings_of_the_users_own_are_left_alone():
    assert pages("keep", MALLOC_ARENA_TEST="8")[0] == "False"


LOAD = "import ctypes, sys, pnp; assert 'torch' not in sys.modules; ctypes.CDLL(sys.argv[1])"
RUNTIME = Path(find_spec("torch").origin).with_name("lib") / "libgomp.so.1"


@pytest.mark.skipif(not RUNTIME.exists(), reason="torch has another OpenMP")
@pytest.mark.parametrize(
    ("variables", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "30000000000")],
)
def test_threads_of_torch_sleep_soon_unless_the_user_chose_otherwise(variables, spins):
    env = {name: value for name, value in os.environ.items() if not name.startswith(OPENMP)}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, RUNTIME], env=env | {"OMP_DISPLAY_ENV": "verbose"} | variables,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr
