"""Libraries of deltas: cards, features, several writers, URLs, and what is refused."""

import json
import os
import re
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
import yaml
from fsspec.implementations.local import LocalFileSystem
from safetensors.torch import save_file

import deltacompose as dc
from deltacompose.backbone.pico import pico_backbone
from deltacompose.delta.delta import Delta
from deltacompose.errors import BadInput
from deltacompose.formats.urls import check_url, names_in, publish
from deltacompose.library.card import Card, Result, check_name
from deltacompose.library.library import Library


@pytest.fixture(scope="module")
def backbone():
    return pico_backbone("bert")


def delta_of(backbone, task="mood", seed=0, text="lora(rank=2)"):
    """A delta as training leaves it, with weights drawn by the seed."""
    expression = dc.parse(text)
    weights = dc.init_weights(backbone, expression, seed)
    weights = {
        n: x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)) for n, x in weights.items()
    }
    made = {"name": backbone.name, "family": backbone.family, "fingerprint": backbone.fingerprint}
    record = {"task": task, "seed": seed, "recipe": {"steps": 4}, "metric": "accuracy", "dev": 0.75, "parameters": 256}
    return Delta(expression, weights, {}, made, {"lora": "deltacompose 0"}, record)


def place_of(kind, tmp_path):
    if kind == "memory":
        return f"memory://{uuid.uuid4().hex}/library"
    return f"file://{tmp_path}/library" if kind == "file" else str(tmp_path / "library")


@pytest.fixture(params=["folder", "file", "memory"])
def place(request, tmp_path):
    return place_of(request.param, tmp_path)


def test_a_delta_is_the_same_after_saving_to_any_place(backbone, place):
    delta = delta_of(backbone)
    delta.save(place)
    again = dc.load_delta(place)
    assert str(again.expression) == str(delta.expression)
    assert again.record == delta.record
    assert all(torch.equal(x, again.weights[n]) for n, x in delta.weights.items())


def test_a_delta_at_a_url_has_a_model_card_that_the_hub_reads(backbone):
    place = place_of("memory", None)
    delta_of(backbone).save(place)
    text = fsspec.filesystem("memory").cat_file(f"{place}/README.md").decode()
    metadata = yaml.safe_load(text.split("---")[1])
    assert metadata["library_name"] == "deltacompose"
    assert metadata["base_model"] == backbone.name


def test_what_is_added_is_listed_found_and_read_again(backbone, place):
    library = Library.create(place, delta_of(backbone).backbone)
    result = Result("tone", "test", "accuracy", 0.5, chance=0.4, untouched=0.3)
    features = {"embedding": np.arange(4.0)}
    first = library.add(delta_of(backbone), None, features, category="feeling", licence="MIT", results=(result,))
    second = library.add(delta_of(backbone, "tone", 1, "bitfit"))
    assert set(library.names()) == {first, second}
    card = library.card(first)
    assert (card.task, card.category, card.licence, card.results) == ("mood", "feeling", "MIT", (result,))
    assert list(library.search("feel")) == [first]
    assert list(library.search(composition="bitfit")) == [second]
    assert list(library.search(task="tone", seed=1)) == [second]
    assert library.search(task="tone", seed=0) == {}
    assert library.features(first)["embedding"].tolist() == [0, 1, 2, 3]
    assert library.features(second) == {}
    assert torch.equal(
        library.delta(first).weights[name := next(iter(delta_of(backbone).weights))], delta_of(backbone).weights[name]
    )


def test_adding_again_changes_nothing_but_the_results(backbone, place):
    library = Library.create(place, delta_of(backbone).backbone)
    library.add(
        delta_of(backbone), results=(Result("tone", "test", "accuracy", 0.5), Result("mood", "test", "accuracy", 0.9))
    )
    name = library.add(delta_of(backbone), results=(Result("tone", "test", "accuracy", 0.6),))
    assert library.names() == (name,)
    assert {r.target: r.score for r in library.card(name).results} == {"tone": 0.6, "mood": 0.9}


def test_the_card_of_a_delta_is_a_model_card_with_results(backbone, tmp_path):
    library = Library.create(tmp_path, delta_of(backbone).backbone)
    name = library.add(delta_of(backbone), category="feeling", results=(Result("tone", "test", "accuracy", 0.5),))
    text = (tmp_path / "deltas" / name / "README.md").read_text()
    metadata = yaml.safe_load(text.split("---")[1])
    assert metadata["base_model"] == backbone.name
    assert "task:mood" in metadata["tags"]
    [entry] = metadata["model-index"][0]["results"]
    assert entry["dataset"]["name"] == "tone"
    assert entry["metrics"] == [{"type": "accuracy", "value": 0.5}]


def test_a_file_at_a_file_url_is_whole_while_it_is_written_anew(tmp_path, monkeypatch):
    for name in ("new", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "library.json").write_text(name)
    seen, write = [], LocalFileSystem.pipe_file

    def watched(system, path, value, **how):
        write(system, path, value[:1], **how)
        seen.append((tmp_path / "there" / "library.json").read_text())
        write(system, path, value, **how)

    monkeypatch.setattr(LocalFileSystem, "pipe_file", watched)
    publish(tmp_path / "new", f"file://{tmp_path / 'there'}", "library.json")
    assert seen == ["there"]
    assert [(path.name, path.read_text()) for path in (tmp_path / "there").iterdir()] == [("library.json", "new")]


def test_writers_at_the_same_time_lose_nothing(backbone, place, tmp_path):
    deltas = [delta_of(backbone, f"task {k % 6}", k % 6) for k in range(18)]
    with ThreadPoolExecutor(6) as pool:
        names = list(pool.map(lambda delta: Library.create(place, delta.backbone).add(delta), deltas))
    library = Library(place)
    assert len(set(names)) == 6
    assert set(library.names()) == set(names)
    for name in library.names():
        library.delta(name)
    assert not any(tmp_path.glob("library/tmp/*"))


def test_a_library_in_a_folder_and_at_its_url_is_one_library(backbone, tmp_path):
    name = Library.create(str(tmp_path), delta_of(backbone).backbone).add(delta_of(backbone))
    assert Library(f"file://{tmp_path}").names() == (name,)
    again = Library(f"file://{tmp_path}").add(delta_of(backbone, "tone", 1))
    assert set(Library(str(tmp_path)).names()) == {name, again}


def test_the_matrix_of_a_library_has_the_scores_of_its_cards(backbone, tmp_path):
    library = Library.create(tmp_path, delta_of(backbone).backbone)
    scores = {("a", "a"): 0.9, ("a", "b"): 0.4, ("b", "a"): 0.5, ("b", "b"): 0.8}
    for source in "ab":
        rows = tuple(Result(t, "test", "accuracy", x, 0.25, 0.3) for (s, t), x in scores.items() if s == source)
        library.add(delta_of(backbone, source), results=rows)
    matrix = library.matrix()
    assert matrix.sources == matrix.targets == ("a", "b")
    assert matrix.values[0].tolist() == [[0.9, 0.4], [0.5, 0.8]]
    assert matrix.untouched.tolist() == [0.3, 0.3]


# Misuse


def test_a_delta_of_another_backbone_is_refused(backbone, tmp_path):
    library = Library.create(tmp_path, delta_of(backbone).backbone)
    other = pico_backbone("bert", seed=1)
    with pytest.raises(BadInput, match=r"is of .* not of"):
        library.add(delta_of(other))
    with pytest.raises(BadInput, match=r"is of .* not of"):
        Library.create(tmp_path, delta_of(other).backbone)


def test_a_delta_without_a_task_is_refused(backbone, tmp_path):
    library = Library.create(tmp_path, delta_of(backbone).backbone)
    with pytest.raises(BadInput, match="names no task"):
        library.add(replace(delta_of(backbone), record={}))


@pytest.mark.parametrize("name", ["../secret", "a/b", "", "..", "a..b", "A", "x" * 300, "a\0b", ".hidden", "C:\\x"])
def test_names_that_are_paths_are_refused_before_they_become_paths(name, tmp_path, backbone):
    with pytest.raises(BadInput, match="not a valid name"):
        check_name(name)
    library = Library.create(tmp_path, delta_of(backbone).backbone)
    with pytest.raises(BadInput, match="not a valid name"):
        library.delta(name)
    with pytest.raises(BadInput, match="not a valid name"):
        library.features(name)


def test_a_task_whose_name_is_a_path_stays_a_name(backbone, tmp_path):
    library = Library.create(tmp_path / "library", delta_of(backbone).backbone)
    name = library.add(delta_of(backbone, "../../etc/passwd"))
    assert (tmp_path / "library" / "deltas" / name / "card.json").is_file()
    assert os.listdir(tmp_path) == ["library"]
    assert library.card(name).task == "../../etc/passwd"


def test_scripts_in_a_card_are_text_in_its_readme(backbone, tmp_path):
    library = Library.create(tmp_path, delta_of(backbone).backbone)
    name = library.add(delta_of(backbone, "<script>alert(1)</script>"), licence="x\n---\n<img src=x onerror=y>")
    library.write_readme()
    for path in (tmp_path / "README.md", tmp_path / "deltas" / name / "README.md"):
        body = path.read_text().split("---\n", 2)[2]
        assert "<script" not in body
        assert "<img" not in body


def edited(change):
    """Makes a function that edits the card of the only delta."""

    def edit(folder):
        path = folder / "card.json"
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))

    return edit


def wrong_tensors(folder):
    save_file({"weights/0.0.x": torch.zeros(2)}, folder / "delta.safetensors")


HOSTILE = {
    "a newer format": (edited(lambda d: d.update(format=2)), "format 2.*reads format 1.*later version"),
    "a format that is not a number": (edited(lambda d: d.update(format="1")), "format '1'"),
    "an unknown field": (edited(lambda d: d.update(run="rm -rf /")), "no field 'run'"),
    "a score that is text": (edited(lambda d: d.update(dev="high")), "dev"),
    "another task": (edited(lambda d: d.update(task="other")), "has the card of"),
    "another backbone": (edited(lambda d: d.update(fingerprint="0" * 64)), "another backbone"),
    "a digest that is none": (edited(lambda d: d.update(sha256="xyz")), "sha256"),
    "no card": (lambda folder: (folder / "card.json").unlink(), "incomplete"),
    "no tensors": (lambda folder: (folder / "delta.safetensors").unlink(), "incomplete"),
    "half a card": (lambda folder: (folder / "card.json").write_text('{"format": 1, "ta'), "not valid JSON"),
    "a card that is a list": (lambda folder: (folder / "card.json").write_text("[]"), "dict"),
}


@pytest.mark.parametrize(("spoil", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_damaged_or_hostile_delta_is_left_out_with_one_sentence(spoil, message, backbone, tmp_path):
    library = Library.create(tmp_path, delta_of(backbone).backbone)
    whole = library.add(delta_of(backbone, "whole", 1))
    name = library.add(delta_of(backbone))
    spoil(tmp_path / "deltas" / name)
    problems = []
    assert list(library.cards(problems)) == [whole]
    [problem] = problems
    assert "\n" not in problem
    assert re.search(message, problem)


def test_tensors_that_are_not_those_of_the_card_are_refused(backbone, tmp_path):
    library = Library.create(tmp_path, delta_of(backbone).backbone)
    name = library.add(delta_of(backbone))
    wrong_tensors(tmp_path / "deltas" / name)
    with pytest.raises(BadInput, match="is not the file"):
        library.delta(name)
    other = delta_of(backbone, seed=3)
    other.save(tmp_path / "deltas" / name)
    with pytest.raises(BadInput, match="its card"):
        library.delta(name)


def test_tensors_that_do_not_fit_their_expression_are_refused_before_they_are_attached(backbone, tmp_path):
    library = Library.create(tmp_path, delta_of(backbone).backbone)
    delta = delta_of(backbone)
    name = library.add(replace(delta, weights={n: x[:1] for n, x in delta.weights.items()}))
    with pytest.raises(BadInput, match="shape"), library.delta(name).attached(backbone):
        pass


def test_a_folder_that_is_no_library_and_one_of_a_newer_format_are_told_apart(backbone, tmp_path):
    with pytest.raises(BadInput, match=r"not a library of deltas: there is no library\.json"):
        Library(str(tmp_path)).names()
    Library.create(tmp_path, delta_of(backbone).backbone)
    (tmp_path / "library.json").write_text('{"format": 9}')
    with pytest.raises(BadInput, match="format 9"):
        Library(str(tmp_path)).names()


def test_a_half_uploaded_delta_is_not_there(backbone):
    place = place_of("memory", None)
    library = Library.create(place, delta_of(backbone).backbone)
    name = library.add(delta_of(backbone))
    fsspec.filesystem("memory").rm_file(f"{place}/deltas/{name}/card.json")
    problems = []
    assert library.cards(problems) == {}
    assert "incomplete" in problems[0]
    library.add(delta_of(backbone))
    assert library.names() == (name,)


def test_a_url_whose_package_is_missing_names_the_package(monkeypatch):
    def lacking(url):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "url_to_fs", lacking)
    for act in (Library("s3://bucket/library").names, lambda: dc.load_delta("s3://bucket/delta")):
        with pytest.raises(BadInput, match=r"cannot open 's3://bucket/.* because a package is missing \(Install s3fs"):
            act()


@pytest.mark.parametrize("url", ["nonsense://x", "simplecache::memory://x", "zip://a::memory://b"])
def test_a_url_that_cannot_be_opened_is_refused_in_one_sentence(url):
    with pytest.raises(BadInput, match=r"protocol|chain"):
        check_url(url)
    with pytest.raises(BadInput, match=r"protocol|chain"):
        names_in(url)


def test_a_url_without_a_delta_names_the_url_and_not_a_copy():
    with pytest.raises(BadInput, match="memory://nothing holds no delta"):
        dc.load_delta("memory://nothing")


def test_a_card_is_the_same_after_writing_and_reading(backbone, tmp_path):
    library = Library.create(tmp_path, delta_of(backbone).backbone)
    name = library.add(delta_of(backbone))
    card = library.card(name)
    assert isinstance(card, Card)
    assert card.name == name
    shutil.copytree(tmp_path, Path(f"{tmp_path}-copy"))
    assert Library(f"{tmp_path}-copy").card(name) == card
    assert Library(f"{tmp_path}-copy").digest() == library.digest()
