"""Configurations of earlier versions: the same job, in today's form."""

import gzip
import json
from pathlib import Path

import pytest

from pnp import keys
from pnp.errors import UserError
from pnp.runs.directory import differences
from pnp.runs.jobs import identity

FIXTURE = Path(__file__).parent / "fixtures" / "v0.1" / "identities.json.gz"
CASES = json.loads(gzip.decompress(FIXTURE.read_bytes()))


@pytest.mark.parametrize("case", CASES)
def test_a_job_keeps_the_identity_that_version_0_1_gave_it(case):
    config, name = CASES[case]["config"], CASES[case]["identity"]
    assert identity(config) == name
    assert identity(keys.upgrade(config)) == name


@pytest.mark.parametrize("case", CASES)
def test_an_old_checkpoint_resumes_under_the_upgraded_configuration(case):
    config = CASES[case]["config"]
    assert differences(config, keys.upgrade(config)) == []


def test_upgrading_leaves_todays_form_as_it_is():
    once = keys.upgrade(CASES[""]["config"])
    assert keys.upgrade(once) == once
    assert keys.upgrade({"seed": 1}) == {"seed": 1}


def test_a_value_that_is_gone_is_refused():
    with pytest.raises(UserError, match=r"objective\.queue=100 is gone"):
        keys.upgrade({"objective": {"queue": 100}})
