"""The language that a multilingual sequence-to-sequence model answers in, by a token that its decoder reads first.

NLLB, M2M100 and mBART-50 read their start token and then the token of the target language; mBART starts from the token
of the language itself. Which one it is, is a setting of the tokenizer, `tgt_lang`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deltacompose.errors import BadInput


@dataclass(frozen=True)
class Language:
    """The target language of a tokenizer.

    Attributes:
        name: as the tokenizer calls it, `fra_Latn`; "" where only the token is known.
        token: its id.
        starts: whether the decoder starts from it; else it reads its start token first.
    """

    name: str
    token: int
    starts: bool = False


def multilingual(tokenizer: Any) -> bool:
    """Whether a tokenizer marks the language of what is written."""
    return hasattr(tokenizer, "tgt_lang") and hasattr(tokenizer, "set_tgt_lang_special_tokens")


def target_language(tokenizer: Any, forced: int | None = None) -> Language | None:
    """The language that answers are in; None where the tokenizer has no languages, or none is set.

    Args:
        forced: `forced_bos_token_id` of the generation settings, which stands in for a language that is not set.

    Raises:
        BadInput: the tokenizer does not know the language that is set.
    """
    if not multilingual(tokenizer):
        return None
    name = tokenizer.tgt_lang
    if not name:
        return None if forced is None else Language("", int(forced))
    try:
        token = tokenizer.get_lang_id(name) if hasattr(tokenizer, "get_lang_id") else None
    except (KeyError, ValueError):
        token = tokenizer.unk_token_id
    token = tokenizer.convert_tokens_to_ids(name) if token is None else token
    if token is None or token == tokenizer.unk_token_id:
        raise BadInput(f"tgt_lang={name!r} is not a language of the tokenizer {type(tokenizer).__name__}")
    written = tokenizer(text_target="a")["input_ids"]
    return Language(str(name), int(token), starts=written[0] != token and written[-1] == token)


def described(tokenizer: Any, forced: int | None = None) -> Mapping[str, Any]:
    """Language settings that a result depends on; empty without a target language."""
    language = target_language(tokenizer, forced)
    if language is None:
        return {}
    return {"source": str(getattr(tokenizer, "src_lang", "")), "target": [language.name, language.token]}


def unset(tokenizer: Any, name: str) -> BadInput:
    """The error for a multilingual backbone whose target language is not known."""
    return BadInput(
        f"cannot read tasks with {name} because its tokenizer {type(tokenizer).__name__} marks the language of an "
        "answer and none is set; set tgt_lang, as tokenizer.tgt_lang = 'fra_Latn' or in tokenizer_config.json, or "
        "generation_config.forced_bos_token_id"
    )
