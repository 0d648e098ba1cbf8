"""A tokenizer of whole words, trained on the tasks' own texts: lengths as of a real one, and labels of one token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from tokenizers.trainers import WordLevelTrainer
from transformers import PreTrainedTokenizerFast

import deltacompose as dc
from deltacompose.backbone.pico import SPECIAL
from deltacompose.task import Task

SINGLE = ("sentiment_movie", "sentiment_product", "sentiment_tweet", "topic_gloss")
"""Tasks whose labels are one word each, but for one of two words."""


def single_token_tasks(**rows: int) -> list[Task]:
    """The tasks of `SINGLE` with the first word of each label, which is one token of `words`."""
    known = [dc.tasks()[name] for name in SINGLE]
    return [
        replace(task, verbalizer={label: text.split()[0] for label, text in task.verbalizer.items()}).limited(**rows)
        for task in known
    ]


@cache
def words(tasks: Sequence[str] = SINGLE, most: int = 8000) -> PreTrainedTokenizerFast:
    """Tokenizer of the words of some tasks; the labels are among them, each of its words a token."""
    tokenizer = Tokenizer(models.WordLevel(unk_token=SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    known = [dc.tasks()[name] for name in tasks]
    texts = [task.text(example) for task in known for example in task.examples("train")]
    labels = [word for task in known for text in task.verbalizer.values() for word in text.split()]
    trainer = WordLevelTrainer(vocab_size=most, special_tokens=list(SPECIAL.values()), show_progress=False)
    tokenizer.train_from_iterator([*labels * 1000, *texts], trainer)
    end = SPECIAL["eos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, tokenizer.token_to_id(end))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)
