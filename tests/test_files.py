"""Files are replaced whole or not at all, and unreadable ones are named."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from pnp import files
from pnp.errors import UserError


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path):
    file = tmp_path / "a.json"
    files.write_json(file, {"π": [1]})
    with pytest.raises(TypeError), files.replacing(file) as part:
        part.write_text(None)
    assert files.read_json(file) == {"π": [1]}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_two_writers_never_share_a_temporary_file(tmp_path):
    with (
        files.replacing(tmp_path / "metrics.csv") as one,
        files.replacing(tmp_path / "metrics.json") as two,
        files.replacing(tmp_path / "metrics.json") as three,
    ):
        assert len({one, two, three}) == 3
        for part in (one, two, three):
            assert part.suffix == ".part"
            assert part.parent == tmp_path
            part.touch()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not valid JSON"),
        (b"[]", "should hold a JSON dict"),
        (b'"\xff"', "not UTF-8"),
        (None, "cannot read"),
    ],
)
def test_a_broken_json_file_is_named(tmp_path, content, message):
    file = tmp_path / "some.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=f"some.json.*{message}|{message}.*some.json"):
        files.read_json(file)


def test_the_home_of_nobody_is_a_file_that_cannot_be_read():
    with pytest.raises(UserError, match=r"cannot read labels=~nobody-here/a\.csv"):
        files.read_text(Path("~nobody-here/a.csv"), "labels=~nobody-here/a.csv")


def test_a_missing_file_is_its_default(tmp_path):
    assert files.read_json(tmp_path / "no.json", list, []) == []
    assert files.read_csv(tmp_path / "no.csv") == []


def test_a_csv_row_without_its_end_is_no_row_and_one_too_long_is_an_error(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("step,x\n1,2\n3\n4,5")
    assert files.read_csv(file) == [{"step": "1", "x": "2"}, {"step": "3", "x": ""}]
    file.write_text("step,x\n1,2\n3,4,5\n")
    with pytest.raises(UserError, match=r"a\.csv, line 3: more cells"):
        files.read_csv(file)


def test_what_is_written_is_utf8_whatever_the_locale(tmp_path):
    files.write_json(tmp_path / "a.json", {"method": "P¬P"})
    assert json.loads((tmp_path / "a.json").read_bytes().decode("utf-8")) == {"method": "P¬P"}


def test_a_number_with_an_exponent_is_a_number_as_omegaconf_reads_it(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("a: 1e-4\nb: 2.5E+3\nc: '1e-4'\nd: 1e\ne: 3\nf: -1.e5\n")
    expected = {"a": 1e-4, "b": 2.5e3, "c": "1e-4", "d": "1e", "e": 3, "f": -1e5}
    assert files.read_yaml(file) == expected == OmegaConf.to_container(OmegaConf.load(file))
