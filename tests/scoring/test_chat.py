"""Chat models read inputs as a user's turn, and the loss and the ranking are of the assistant's turn alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from chats import FAMILIES, conversing, tokenizer

import deltacompose as dc
from deltacompose.backbone.loading import load_backbone
from deltacompose.backbone.pico import pico, pico_tokenizer
from deltacompose.errors import BadInput
from deltacompose.scoring import answers, reader
from deltacompose.scoring.as_trained import Reading, mismatches
from deltacompose.task import Example, Task
from deltacompose.task.instructions import check_messages

LABELS = {"a": "no", "b": "yes, it is"}


def rows(split):
    return tuple(Example(f"{split}{k}", f"{text} {split}", "ab"[k % 2]) for k, text in enumerate(("sea", "a", "rain")))


def spoken(split):
    return tuple(Example(f"{split}{k}", f"{text} {split}", f"{text}!") for k, text in enumerate(("sea", "a", "rain")))


CHOICE = Task("state", "made", "choice", "accuracy", rows, "Is {input} wet?", LABELS)
SPEECH = Task("shout", "made", "generation", "exact_match", spoken)

PROMPTS = {
    "llama3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nIs sea val wet?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "qwen": "<|im_start|>user\nIs sea val wet?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "gemma": "<bos><start_of_turn>user\nIs sea val wet?<end_of_turn>\n<start_of_turn>model\n",
    "mistral": "<s>[INST] Is sea val wet?[/INST]",
    "chatml": "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nIs sea val wet?<|im_end|>\n<|im_start|>assistant\n",
}
ENDS = {
    "llama3": "yes, it is<|eot_id|>",
    "qwen": "yes, it is<|im_end|>",
    "gemma": "yes, it is<end_of_turn>",
    "mistral": " yes, it is</s>",
    "chatml": "yes, it is<|im_end|>",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_an_input_stands_in_the_template_and_an_answer_ends_its_turn(family):
    read = reader(conversing(family), CHOICE, 256)
    first, second = read.rows("val")[:2]
    assert tokenizer(family).decode(first.input) == PROMPTS[family]
    assert tokenizer(family).decode(second.answer) == tokenizer(family).decode(second.candidates[1]) == ENDS[family]


@pytest.mark.parametrize("family", ["llama3", "gemma", "chatml"])
def test_input_and_answer_are_the_tokens_of_the_whole_conversation(family):
    tokens, read = tokenizer(family), reader(conversing(family), CHOICE, 256)
    turns = [{"role": "user", "content": "Is a val wet?"}, {"role": "assistant", "content": "yes, it is"}]
    whole = tokens.apply_chat_template(turns, return_dict=True)["input_ids"]
    row = read.rows("val")[1]
    assert [*row.input, *row.answer] == whole[: len(row.input) + len(row.answer)]
    assert tokens.decode(whole[len(row.input) + len(row.answer) :]).strip() == ""


@pytest.mark.parametrize("family", ["llama3", "chatml"])
@pytest.mark.parametrize("system", [None, "Answer in one word."])
def test_the_loss_is_of_the_tokens_that_the_template_marks_as_the_assistants(family, system):
    tokens, backbone = tokenizer(family), conversing(family, system)
    turns = [] if system is None else [{"role": "system", "content": system}]
    turns += [{"role": "user", "content": "Is a val wet?"}, {"role": "assistant", "content": "yes, it is"}]
    marked = tokens.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    ids, mask = torch.tensor([marked["input_ids"]]), torch.tensor([marked["assistant_masks"]])
    logits = backbone.model(input_ids=ids, use_cache=False).logits[:, :-1]
    of_answer = mask[:, 1:].bool()
    expected = torch.nn.functional.cross_entropy(logits[of_answer], ids[:, 1:][of_answer])
    read = reader(backbone, CHOICE, 256)
    row = read.rows("val")[1]
    loss = read.loss(read.collate([row], (len(row.input) + 7, len(row.answer) + 3)), 1)
    torch.testing.assert_close(loss[0], expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_candidates_are_ranked_after_the_generation_prompt(family):
    backbone = conversing(family)
    read, expected = reader(backbone, CHOICE, 256), []
    for row in read.rows("val"):
        sums = []
        for candidate in row.candidates:
            ids = torch.tensor([[*row.input, *candidate]])
            log_p = torch.log_softmax(backbone.model(input_ids=ids, use_cache=False).logits[0, :-1].double(), -1)
            sums.append(log_p.gather(-1, ids[0, 1:, None])[len(row.input) - 1 :].sum().item())
        expected.append(CHOICE.labels[sums.index(max(sums))])
    assert read.predict("val") == expected


def test_prompts_and_prefixes_stand_before_the_template():
    backbone = conversing("llama3")
    seen = []
    embedding = backbone.stream("decoder").module
    handle = (
        backbone.model.get_submodule(embedding)
        .layers[0]
        .register_forward_pre_hook(
            lambda module, args, kwargs: seen.append((args or (kwargs["hidden_states"],))[0]), with_kwargs=True
        )
    )
    read = reader(backbone, CHOICE, 256)
    row = read.rows("val")[0]
    weights = dc.init_weights(backbone, "prompt(length=3)")
    with dc.attached(backbone, "prompt(length=3)", weights), torch.no_grad():
        read.scores([row])
    handle.remove()
    own = backbone.embeddings("decoder")[torch.tensor(row.input)]
    assert torch.equal(seen[0][0, 3 : 3 + len(row.input)], own)
    assert torch.equal(seen[0][0, :3], next(iter(weights.values())))


def test_the_system_prompt_stands_first_where_the_template_has_it():
    system = "Answer in one word."
    texts = {
        family: tokenizer(family).decode(reader(conversing(family, system), CHOICE, 256).rows("val")[0].input)
        for family in ("llama3", "qwen", "mistral", "chatml")
    }
    assert texts["mistral"] == "<s>[INST] Answer in one word.\n\nIs sea val wet?[/INST]"
    assert texts["qwen"].startswith("<|im_start|>system\nAnswer in one word.<|im_end|>\n<|im_start|>user\n")
    assert all(text.count(system) == 1 for text in texts.values())
    assert "SmolLM" not in texts["chatml"]


def test_a_long_input_loses_its_middle_and_keeps_its_template():
    def long(split):
        return (Example(split, "start " + "word " * 100 + "finish", "a"),)

    backbone = conversing("llama3", "Be brief.")
    row = reader(backbone, replace(CHOICE, read=long, template="{input}"), 96).rows("val")[0]
    text = backbone.tokenizer.decode(row.input)
    assert len(row.input) == 96
    assert text.startswith("<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>")
    assert "\n\nstart word" in text
    assert text.endswith("finish<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n")
    with pytest.raises(
        BadInput, match=r"template of .* takes \d+ tokens without any input, and inputs are limited to 16"
    ):
        reader(backbone, CHOICE, 16).rows("val")


def test_generation_stops_at_the_end_of_the_turn():
    backbone = conversing("llama3")
    read = reader(backbone, SPEECH, 256)
    assert read.generation(5).eos_token_id[0] == backbone.tokenizer.convert_tokens_to_ids("<|eot_id|>")
    assert set(read.generation(5).eos_token_id) > {backbone.tokenizer.eos_token_id}
    assert len(answers(backbone, ["hello"], 4, 256)) == 1


def test_turns_of_an_example_are_read_as_turns():
    turns = (("system", "Be brief."), ("user", "Hi"), ("assistant", "Yes?"), ("user", "Is it wet?"))

    def talk(split):
        return (Example(split, "text", "yes", messages=turns),)

    read = reader(conversing("qwen", "Ignored."), replace(SPEECH, read=talk), 256)
    assert tokenizer("qwen").decode(read.rows("val")[0].input) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes?<|im_end|>"
        "\n<|im_start|>user\nIs it wet?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    plain = reader(conversing("qwen", None, chat=False), replace(SPEECH, read=talk), 256)
    assert tokenizer("qwen").decode(plain.rows("val")[0].input) == "text"


def test_a_delta_knows_that_it_was_trained_in_a_chat(tmp_path):
    backbone = conversing("chatml", "Be brief.")
    delta = dc.train(backbone, "bitfit", CHOICE, steps=2, batch=2, limit=128)
    assert delta.record["reading"]["chat"] == {"system": "Be brief."}
    reading = Reading.of(dc.load_delta(delta.save(tmp_path / "delta")).record)
    assert reading.options == {"head": None, "chat": True, "system": "Be brief."}
    assert not list(mismatches(reader(backbone, CHOICE, 128), reading))
    [sentence] = mismatches(reader(conversing("chatml", None, chat=False), CHOICE, 128), reading)
    assert sentence == "inputs are read without the chat template, and the delta was trained through it"
    [sentence] = mismatches(reader(conversing("chatml"), CHOICE, 128), reading)
    assert "the system prompt is another one" in sentence
    assert (
        "chat" not in dc.train(conversing("chatml", chat=False), "bitfit", CHOICE, steps=1, batch=2).record["reading"]
    )


def test_a_template_that_puts_no_end_takes_that_of_the_model():
    bare = tokenizer("qwen")
    bare.chat_template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}" + (
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    backbone = replace(conversing("qwen"), tokenizer=bare)
    answer = reader(backbone, CHOICE, 256).rows("val")[1].answer
    assert bare.decode(answer) == "yes, it is\n<|im_end|>"


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        (
            "gemma",
            {"system": "Be brief."},
            r"refuses a system prompt \(System role not supported\); leave out `system`",
        ),
        ("qwen", {"chat": False, "system": "x"}, "a system prompt is part of a chat; set `chat` too"),
    ],
)
def test_what_a_template_refuses_is_one_sentence(family, options, message):
    with pytest.raises(BadInput, match=message):
        conversing(family, **options)


def test_misuse_of_templates_is_one_sentence():
    with pytest.raises(BadInput, match=r"because the tokenizer of .* has no chat template; take an instruct model"):
        load_backbone(pico("llama"), pico_tokenizer("llama"), chat=True)
    with pytest.raises(BadInput, match="is an encoder, and a chat needs a decoder"):
        load_backbone(pico("bert"), pico_tokenizer("bert"), chat=True)
    with pytest.raises(BadInput, match="has no tokenizer, whose template a chat needs"):
        load_backbone(pico("llama"), chat=True)
    deaf = tokenizer("qwen")
    deaf.chat_template = deaf.chat_template.replace("messages[0].content", "''")
    with pytest.raises(BadInput, match="does not show the system prompt"):
        load_backbone(pico("llama"), deaf, chat=True, system="Be brief.")
    reverse = tokenizer("qwen")
    reverse.chat_template = "{% for m in messages | reverse %}{{ m.content }}{% endfor %}"
    with pytest.raises(BadInput, match="an answer does not stand behind its generation prompt"):
        load_backbone(pico("llama"), reverse, chat=True)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([("user", "Hi")], "row 1: no message is an assistant's, so there is no answer to learn"),
        ([("user", "a"), ("user", "b"), ("assistant", "c")], "row 1: two messages in a row are of the role user"),
        ([("user", "a"), ("tool", "b")], "row 1: no role 'tool'; .*roles: assistant, system, user"),
    ],
)
def test_conversations_from_which_nothing_can_be_learned_are_refused(messages, message):
    with pytest.raises(BadInput, match=message):
        check_messages(messages, "row 1")
    check_messages([("system", "x"), ("user", "a"), ("assistant", "b")], "row 1")
