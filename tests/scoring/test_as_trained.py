"""A delta is evaluated as it was trained: with its limit, its template and its head, unless the user asks otherwise."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

import deltacompose as dc
from deltacompose.backbone.pico import pico_backbone
from deltacompose.cli import app
from deltacompose.errors import BadInput
from deltacompose.scoring import answers
from deltacompose.scoring.as_trained import Reading, as_trained, templated
from deltacompose.task.examples import Example
from deltacompose.task.task import Task

LABELS = {"no": "no", "yes": "yes"}


def middles(split: str) -> tuple[Example, ...]:
    """Inputs of 206 bytes whose middle alone tells the label."""
    draw = random.Random(split)
    ends = ["".join(draw.choice("abcdefgh ") for _ in range(100)) for _ in range(16)]
    return tuple(
        Example(f"{split}{k}", f"{end}{'!!!!!!' if k % 2 else '??????'}{end[::-1]}", "yes" if k % 2 else "no")
        for k, end in enumerate(ends)
    )


TASK = Task("middle", "made", "choice", "accuracy", middles, "{input} ok:", LABELS)
RECIPE = {"steps": 2, "batch": 4, "evaluate_every": 2, "keep": "last"}


@pytest.mark.parametrize(("family", "head"), [("bert", None), ("roberta", "mlm"), ("gpt2", None), ("t5", None)])
def test_a_delta_reads_inputs_as_long_as_those_of_its_training(family, head):
    backbone = pico_backbone(family, head=head)
    delta = dc.train(backbone, "bitfit", TASK, limit=256, **RECIPE)
    found = dc.evaluate(backbone, delta, TASK, "val")
    assert list(found.predictions) == list(delta.record["dev_predictions"])
    assert found.score.value == delta.record["dev"]
    assert delta.record["reading"] == {"limit": 256, "template": "{input} ok:", "head": head}


def test_another_limit_is_taken_where_it_is_asked_for_and_reported():
    backbone = pico_backbone("bert")
    delta = dc.train(backbone, "bitfit", TASK, limit=256, **RECIPE)
    with pytest.warns(
        UserWarning, match="inputs are truncated to 64 tokens, and the delta was trained with a limit of"
    ):
        dc.evaluate(backbone, delta, TASK, "val", limit=64)
    with pytest.warns(UserWarning, match="task 'middle' is read in the template '{input}', and the delta was trained"):
        dc.evaluate(backbone, delta, TASK.without_template(), "val")


def test_a_task_by_name_is_read_in_the_template_of_the_training():
    backbone = pico_backbone("bert")
    own = dc.tasks()["intent"]
    bare = own.without_template().limited(train=4, val=4)
    delta = dc.train(backbone, "bitfit", bare, limit=48, **RECIPE)
    reading = Reading.of(delta.record)
    assert as_trained(own, reading, own).template == "{input}"
    other = dc.tasks()["sentiment_tweet"]
    assert as_trained(other, reading, own).template == "{input}"
    assert as_trained(other, reading, None).template == other.template
    templated_delta = replace(reading, template="say {input}")
    assert as_trained(own, templated_delta, own).template == "say {input}"
    assert as_trained(other, templated_delta, own) is other


def test_a_record_of_an_earlier_version_tells_its_limit_and_no_template():
    assert Reading.of({"task": "a", "recipe": {"limit": 77}}) == Reading("a", 77)
    assert Reading.of({"combined": ["a", "b"], "how": "mean"}) == Reading()


def test_a_text_is_put_into_a_template_that_needs_nothing_else():
    assert templated("a {b}", "{{x}} {input} is") == "{x} a {b} is"
    with pytest.raises(
        BadInput, match=r"cannot put a text into the template .* because it has no context; .*--template"
    ):
        templated("a", "{context} {input}")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    backbone = pico_backbone("gpt2")
    backbone.model.save_pretrained("model")
    backbone.tokenizer.save_pretrained("model")
    return tmp_path


def test_the_commands_read_as_the_delta_was_trained_and_report_what_differs(folder):
    run = CliRunner().invoke
    given = ("--backbone", "./model", "--steps", "1", "--batch", "2", "--limit", "300")
    assert run(app, ["train", "bitfit", "past_tense", "delta", *given]).exit_code == 0
    delta = dc.load_delta("delta")
    assert Reading.of(delta.record).limit == 300
    done = run(app, ["generate", "delta", "x" * 290, "--tokens", "3", "--json"])
    backbone = dc.load_backbone("./model")
    template = dc.tasks()["past_tense"].template
    with torch.no_grad(), delta.attached(backbone):
        expected = answers(backbone, ["x" * 290], 3, 300, template)
    assert [row["output"] for row in json.loads(done.stdout)] == expected
    done = run(app, ["generate", "delta", "walk", "--tokens", "3", "--template", "{input}", "--json"])
    with torch.no_grad(), delta.attached(backbone):
        assert json.loads(done.stdout)[0]["output"] == answers(backbone, ["walk"], 3, 300)[0]


def test_the_command_evaluates_with_the_limit_of_the_training(folder, monkeypatch):
    few = dc.tasks()["past_tense"].limited(train=4, val=4, test=4)
    delta = dc.train(dc.load_backbone("./model"), "bitfit", few, limit=300, steps=1, batch=2)
    delta.save("delta")
    monkeypatch.setattr("deltacompose.registry.tasks", lambda: {"past_tense": few})
    run = CliRunner().invoke
    done = run(app, ["evaluate", "delta", "past_tense", "--json"])
    assert json.loads(done.stdout)["limit"] == 300
    assert json.loads(done.stdout)["score"] == delta.record["dev"]
    done = run(app, ["evaluate", "delta", "past_tense", "--limit", "16", "--json"])
    assert json.loads(done.stdout)["limit"] == 16
    assert "note: inputs are truncated to 16 tokens, and the delta was trained with a limit of 300" in done.stderr


def test_a_delta_that_records_no_backbone_asks_for_one(folder):
    delta = dc.train(dc.load_backbone("./model"), "bitfit", TASK, limit=256, **RECIPE)
    replace(delta, backbone={}).save("lost")
    done = CliRunner().invoke(app, ["evaluate", "lost", "intent"])
    assert isinstance(done.exception, BadInput)
    assert "does not record its backbone; name it with --backbone" in str(done.exception)
