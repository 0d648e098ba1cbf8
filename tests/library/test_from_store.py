"""Libraries made from the store of a study, by the command and from Python."""

import json
import sys

import fsspec
import numpy as np
import picostudy
import pytest

import deltacompose as dc
from deltacompose import cli
from deltacompose.errors import BadInput
from deltacompose.library.layout import examples_of
from deltacompose.library.library import Library


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A study of two tasks with its store; one of the tasks is a start for the other."""
    folder = tmp_path_factory.mktemp("study")
    study = picostudy.make(folder, seeds=(0,), measures=("gradient_cosine",), start_from=("tone",), shots=4)
    study.write(folder / "study.yaml")
    dc.run(study, folder / "store")
    return folder


@pytest.fixture
def typed(monkeypatch, capsys):
    """Runs a command and gives what it printed."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["deltacompose", *map(str, words)])
        cli.main()
        return capsys.readouterr().out

    return run


@pytest.fixture
def library(made, tmp_path, typed):
    typed("library", "make", made / "study.yaml", tmp_path / "library", "--store", made / "store")
    return Library(str(tmp_path / "library"))


def test_every_trained_delta_is_in_the_library_with_its_scores(library):
    cards = library.cards()
    assert sorted(card.task for card in cards.values()) == ["mood", "tone"]
    for card in cards.values():
        assert card.kind == "choice"
        assert card.category == "mood"
        zero = {r.target for r in card.results if not r.started}
        assert zero == {"mood", "tone"}
        assert all(r.chance is not None and r.untouched is not None for r in card.results if not r.started)
    [tone] = [card for card in cards.values() if card.task == "tone"]
    assert [(r.target, r.shots) for r in tone.results if r.started] == [("mood", 4)]


def test_its_matrix_is_that_of_the_store(library, made):
    stored = dc.transfer_matrix(made / "store", "bitfit").square()
    again = library.matrix("bitfit").selected(stored.tasks, stored.tasks)
    assert np.array_equal(again.values, stored.values)
    assert np.array_equal(again.untouched, stored.untouched)


def test_features_of_tasks_and_deltas_are_kept(library):
    name = library.names()[0]
    features = library.features(name)
    assert features["embedding"].shape == (16,)
    assert features["gradients"].ndim == 2
    target = library.card(name).task
    shown = features[examples_of(target, "test")]
    [result] = [r for r in library.card(name).results if r.target == target and not r.started]
    assert shown.mean() == pytest.approx(result.score)


def test_the_same_command_twice_changes_nothing(library, made, typed):
    before = {name: library.card(name) for name in library.names()}
    words = ("library", "make", made / "study.yaml", library.place, "--store", made / "store", "--json")
    assert json.loads(typed(*words))["added"] == list(before)
    assert library.cards() == before


def test_commands_list_search_and_add(library, typed, tmp_path):
    listed = json.loads(typed("library", "list", library.place, "--json"))["deltas"]
    assert list(listed) == list(library.names())
    assert "mood" in typed("library", "list", library.place)
    [name] = json.loads(typed("library", "search", library.place, "--task", "tone", "--json"))["deltas"]
    library.delta(name).save(tmp_path / "one")
    url = "memory://added/library"
    assert json.loads(typed("library", "add", url, tmp_path / "one", "--json"))["added"] == name
    assert Library(url).card(name).task == "tone"
    assert fsspec.filesystem("memory").exists("memory://added/library/README.md")


def test_a_delta_is_trained_to_a_url_and_evaluated_there(library, typed, made):
    library.delta(library.names()[0]).save("memory://a/delta")
    facts = json.loads(typed("evaluate", "memory://a/delta", "sarcasm", "--backbone", made / "bert", "--json"))
    assert 0 <= facts["score"] <= 1


def test_a_store_without_trained_deltas_is_refused(tmp_path):
    from deltacompose.library.from_store import make
    from deltacompose.store.store import open_store

    with pytest.raises(BadInput, match="has no trained delta"):
        make(open_store(tmp_path / "store"), [], tmp_path / "library")
