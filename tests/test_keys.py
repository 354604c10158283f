"""Configurations of earlier versions: the same job, in today's form."""

import gzip
import json
from copy import deepcopy
from pathlib import Path

import pytest

from pnp import keys
from pnp.errors import UserError
from pnp.runs.directory import differences
from pnp.runs.jobs import identity
from pnp.runs.launch import compose, conf_dir

FIXTURE = Path(__file__).parent / "fixtures" / "v0.1" / "identities.json.gz"
CASES = json.loads(gzip.decompress(FIXTURE.read_bytes()))


@pytest.mark.parametrize("case", CASES)
def test_a_job_keeps_the_identity_that_version_0_1_gave_it(case):
    config, name = CASES[case]["config"], CASES[case]["identity"]
    assert identity(config) == name
    assert identity(keys.upgrade(config)) == name


def test_a_later_key_with_the_value_of_the_earlier_constant_is_the_same_job():
    config = CASES[""]["config"]
    today = deepcopy(config)
    for key, value in keys.ADDED.items():
        section, node = key.split("."), today
        for word in section[:-1]:
            node = node[word]
        node[section[-1]] = value
    assert identity(today) == CASES[""]["identity"]
    assert differences(config, today) == []
    today["objective"]["temperature"] = 0.1
    assert identity(today) != CASES[""]["identity"]


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


def test_an_old_key_on_the_command_line_is_an_alias_that_says_so_in_one_line(capsys):
    new = compose("train", ["objective.global_batch=512", "seed=1"])
    assert capsys.readouterr().out.count("\n") == 1
    assert new == compose("train", ["method.global_batch=512", "seed=1"])
    assert not capsys.readouterr().out
    assert keys.renamed(["+objective.global_batch=1,2"]) == ["+method.global_batch=1,2"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=dino", "scale=absolute"], "scale=absolute has no effect: pnp.rivals.DINO has no"),
        (["views.local_size=16"], "views.local_size=16 has no effect: views.local is 0"),
        (["+optim.momentum=0.8"], "optim.momentum has no effect on optim=adamw"),
        (["optim=sgd", "+optim.betas=[0.9,0.9]"], "optim.betas has no effect on optim=sgd"),
    ],
)
def test_a_key_that_changes_nothing_is_an_error(words, message):
    with pytest.raises(UserError, match=message):
        keys.check_effects(compose("train", words))


def test_a_size_of_the_projector_that_the_method_sets_itself_is_asked_of_the_method():
    words = ["method=vicreg", "model.projector.layers=4"]
    with pytest.raises(UserError, match=r"this method sets method\.projector\.layers=3"):
        keys.check_effects(compose("train", words), words)
    for fine in (["model.projector.layers=4"], ["method=vicreg", "model.projector.hidden=8"]):
        keys.check_effects(compose("train", fine), fine)


def test_every_recipe_has_an_effect():
    recipes = [file.stem for file in (conf_dir() / "experiment").glob("*.yaml")]
    for words in [[], *([f"experiment={name}"] for name in recipes), ["scale=absolute"]]:
        keys.check_effects(compose("train", words))
