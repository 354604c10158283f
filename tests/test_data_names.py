"""File names in arrays: the same strings, in little memory."""

import pickle

import numpy as np
import pytest
import torch

from pnp.data.names import Names

WORDS = ["a.jpg", "", "Größe/ü.png", "two words/b.jpg", "odd \udcff.jpg", "a.jpg"]


def test_names_are_the_strings_they_were_made_of():
    names = Names(WORDS)
    assert list(names) == WORDS
    assert [names[i] for i in range(-len(WORDS), len(WORDS))] == WORDS * 2
    assert [list(names[cut]) for cut in (slice(1, 4), slice(4, 99))] == [WORDS[1:4], WORDS[4:99]]
    with pytest.raises(IndexError):
        names[len(WORDS)]


def test_no_names_are_no_names():
    assert list(Names([])) == []
    assert list(Names.join([Names([]), Names(["x"]), Names([])])) == ["x"]
    assert list(Names([""])) == [""]


def test_taking_and_joining_are_those_of_lists():
    names, other = Names(WORDS), Names(["z.jpg", "y.jpg"])
    some = names.take(torch.tensor([4, 0, 2]))
    expected = [WORDS[i] for i in (4, 0, 2)]
    assert list(some) == expected
    assert list(some.take(np.array([2, 2]))) == [WORDS[2]] * 2
    assert list(Names.join([some, other, names])) == [*expected, "z.jpg", "y.jpg", *WORDS]


def test_a_name_costs_its_letters_and_16_bytes_however_often_it_is_taken_and_joined():
    words = [f"class{i % 10}/{i:08}.jpg" for i in range(10_000)]
    names = Names(words)
    pieces = [names.take(torch.arange(i, 10_000, 4)) for i in range(4)]
    for whole in (names, Names.join(pieces), Names.join(pieces).take(torch.randperm(10_000))):
        assert len(pickle.dumps(whole)) < sum(len(word) + 17 for word in words) + 1000
