"""Deltas on disk: saved and loaded they are the same, and what is not a delta of this backbone is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch
import transformers
from deltacompose_plugins import Adapter, BitFit, LoRA, Prefix, Prompt
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

import deltacompose as dc
from deltacompose.backbone.pico import SPECIAL, pico_backbone, pico_tokenizer
from deltacompose.composition import Composition
from deltacompose.delta import Delta
from deltacompose.errors import BadInput
from deltacompose.scoring import reader
from deltacompose.study.recipe import Recipe
from deltacompose.task import Example, Task
from deltacompose.training import train
from deltacompose.training.learner import Job

METHODS = [Prompt(length=2), Prefix(length=2), Prefix(length=2, mlp=3), LoRA(rank=2), BitFit(), Adapter(bottleneck=2)]
stages = st.lists(st.sampled_from(METHODS), min_size=1, max_size=3)
expressions = st.lists(stages, min_size=1, max_size=3).map(lambda found: Composition(tuple(map(tuple, found))))
IDS = torch.tensor([[5, 80, 90, 100], [70, 71, 72, 73]])


def rows(split):
    return tuple(Example(f"{split}{k}", f"{split} {k}", ("yes", "no")[k % 2]) for k in range(6))


TASK = Task("tiny", "made", "choice", "accuracy", rows, "{input}", {"yes": "yes", "no": "no"})


def trained(backbone, expression, steps=2):
    """A delta of all stages, each trained for two steps."""
    read, delta = reader(backbone, TASK, 16), None
    recipe = Recipe(steps=steps, batch=2, evaluate_every=steps)
    for stage in range(1, len(expression.stages) + 1):
        [delta] = train(backbone, [Job(expression.until(stage), read, 0, recipe, delta)])
    return delta


def logits(backbone, delta):
    with torch.no_grad(), delta.attached(backbone) as model:
        return model(input_ids=IDS).logits


CHILD = """
import json, sys, torch
import deltacompose as dc
from deltacompose.pico import pico_backbone
backbone = pico_backbone("gpt2")
for folder in sys.argv[1:]:
    with torch.no_grad(), dc.load_delta(folder).attached(backbone) as model:
        torch.set_printoptions(precision=10)
        print(json.dumps(model(input_ids=torch.tensor({ids})).logits.tolist()))
"""


def test_random_expressions_train_and_give_equal_logits_in_a_fresh_process(tmp_path):
    backbone, expected = pico_backbone("gpt2"), []

    @settings(max_examples=12, deadline=None, database=None)
    @given(expressions)
    def train_and_save(expression):
        delta = trained(backbone, expression)
        delta.save(tmp_path / f"{len(expected):03}")
        expected.append(logits(backbone, delta))

    train_and_save()
    folders = [str(tmp_path / f"{k:03}") for k in range(len(expected))]
    code = CHILD.replace("{ids}", str(IDS.tolist()))
    done = subprocess.run([sys.executable, "-c", code, *folders], capture_output=True, text=True, check=True)
    found = [torch.tensor(json.loads(line)) for line in done.stdout.splitlines()]
    assert len(found) == len(expected) > 5
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    backbone = pico_backbone("gpt2")
    folder = tmp_path_factory.mktemp("delta")
    delta = trained(backbone, Composition(((LoRA(rank=2), BitFit()), (Prefix(length=2, mlp=3),))))
    delta.save(folder)
    return folder


def test_what_is_saved_says_where_it_came_from(saved):
    delta = dc.load_delta(saved)
    assert str(delta.expression) == "lora(rank=2) + bitfit >> prefix(length=2, mlp=3)"
    assert delta.backbone["fingerprint"] == pico_backbone("gpt2").fingerprint
    assert delta.record["task"] == "tiny"
    assert delta.record["history"][0]["step"] == 0


def test_a_delta_names_the_distribution_and_the_version_of_each_of_its_methods(tmp_path):
    recipe = {"steps": 1, "batch": 2, "evaluate_every": 1, "limit": 16}
    delta = dc.train(pico_backbone("gpt2"), "lora(rank=2) + red >> bitfit", TASK, **recipe)
    delta.save(tmp_path)
    ours, others = (f"{name} {version(name)}" for name in ("deltacompose", "deltacompose-example"))
    expected = {"bitfit": ours, "lora": ours, "red": others}
    assert json.loads((tmp_path / "delta.json").read_text())["plugins"] == expected
    assert dc.load_delta(tmp_path).plugins == expected


def test_what_is_only_for_training_is_not_saved(saved):
    names = dc.load_delta(saved).weights
    assert any(name.startswith("1.0.") for name in names)
    assert not any("outer" in name or "shared" in name for name in names)


def test_a_sequence_keeps_its_first_stage_as_it_was():
    backbone = pico_backbone("gpt2")
    first = trained(backbone, Composition(((BitFit(),),)))
    both = trained(backbone, Composition(((BitFit(),), (LoRA(rank=2),))))
    for name, tensor in first.weights.items():
        assert torch.equal(both.weights[name], tensor)


def altered(saved, tmp_path, name, content):
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("delta.safetensors", lambda raw: raw[: len(raw) // 2], "is truncated or not a safetensors file"),
        ("delta.safetensors", lambda raw: b"\x80\x04N.", "is truncated or not a safetensors file"),
        ("delta.safetensors", lambda raw: None, "there is no delta.safetensors"),
        ("delta.json", lambda raw: None, "there is no delta.json"),
        ("delta.json", lambda raw: b"{", "is not valid JSON"),
        ("delta.json", lambda raw: b"[]", r"\[\]: input should be|input should be a valid dictionary"),
        ("delta.json", lambda raw: raw.replace(b'"format": 1', b'"format": 9'), "has format 9; this version"),
        ("delta.json", lambda raw: raw.replace(b"lora(rank=2)", b"lroa(rank=2)"), "did you mean 'lora'"),
        ("delta.json", lambda raw: raw.replace(b'"alpha": 16.0', b'"alpha": 8.0'), "has other default settings"),
    ],
)
def test_a_folder_that_holds_no_whole_delta_is_refused(saved, tmp_path, name, change, said):
    folder = altered(saved, tmp_path, name, change((saved / name).read_bytes()))
    with pytest.raises(BadInput, match=said):
        dc.load_delta(folder)


def test_another_backbone_is_refused_by_name_before_any_tensor_is_touched(saved):
    with pytest.raises(BadInput, match=r"was trained on GPT2LMHeadModel .* not on LlamaForCausalLM"):
        logits(pico_backbone("llama"), dc.load_delta(saved))


def test_a_delta_of_unknown_origin_attaches_where_its_tensors_fit():
    backbone = pico_backbone("gpt2")
    weights = dc.init_weights(backbone, "bitfit")
    assert torch.equal(logits(backbone, Delta(dc.parse("bitfit"), weights)), backbone.model(input_ids=IDS).logits)


def test_a_delta_on_the_same_weights_with_another_tokenizer_is_refused(tmp_path):
    backbone = pico_backbone("bert")
    delta = dc.train(backbone, "bitfit", TASK, steps=1, batch=2, evaluate_every=1)
    delta.save(tmp_path)
    other = pico_tokenizer("bert")
    backend = json.loads(other.backend_tokenizer.to_str())
    backend["normalizer"] = {"type": "Lowercase"}
    lower = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(backend)), **SPECIAL)
    again = dc.load_backbone(backbone.model, lower)
    with pytest.raises(BadInput, match="because its tokenizer reads texts as other ids than the one that the delta"):
        dc.load_delta(tmp_path).check(again)
    dc.load_delta(tmp_path).check(dc.load_backbone(backbone.model, pico_tokenizer("bert")))
    dc.load_delta(tmp_path).check(dc.load_backbone(backbone.model))
