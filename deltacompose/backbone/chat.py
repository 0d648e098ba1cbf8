"""Conversations as a chat model reads them: a tokenizer's own chat template around inputs and answers.

An input becomes the user's turn, followed by what the template puts before an answer (its generation prompt). An answer
is what the template makes of an assistant's turn, up to and with the token that ends the turn. Soft prompts and
prefixes stand before the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jinja2.exceptions import TemplateError

from deltacompose.errors import BadInput
from deltacompose.task.instructions import Message

_INPUT, _ANSWER = "\ue000", "\ue001"
"""Characters for private use, that separate the parts of a template."""


@dataclass(frozen=True)
class Chat:
    """That a backbone reads inputs through its chat template.

    Attributes:
        system: the system prompt; None leaves it to the template, which may insert one of its own.
    """

    system: str | None = None


@dataclass(frozen=True, eq=False)
class Conversation:
    """The chat template of one tokenizer with one system prompt.

    Attributes:
        name: of the backbone, for errors.

    Raises:
        BadInput: the tokenizer has no template, the template refuses or ignores the system prompt, or puts answers
            elsewhere than behind its generation prompt.
    """

    tokenizer: Any
    chat: Chat
    name: str

    def __post_init__(self) -> None:
        if not getattr(self.tokenizer, "chat_template", None):
            raise BadInput(
                f"cannot read inputs as a chat because the tokenizer of {self.name} has no chat template; take an "
                "instruct model, or leave out `chat`"
            )
        before, after, _ = self._parts
        if (self.chat.system or "").strip() not in before + after:
            raise BadInput(
                f"the chat template of {self.name} does not show the system prompt; leave out `system`, or put it into "
                "the tasks' templates"
            )

    def text(self, messages: Sequence[Message]) -> str:
        """Messages, the last one a user's, with all that stands before the answer."""
        return self._rendered(messages, generation=True) + self._parts[2]

    def ids(self, messages: Sequence[Message], limit: int) -> list[int]:
        """The tokens of messages, at most `limit`: longer texts are truncated in the middle, the template never is.

        Raises:
            BadInput: the template alone has more tokens.
        """
        ids = self._tokens(self.text(messages))
        before, after = (len(self._tokens(part)) for part in (self._parts[0], self._parts[1] + self._parts[2]))
        left = limit - before - after
        if len(ids) <= limit:
            return ids
        if left < 1:
            raise BadInput(
                f"the chat template of {self.name} takes {before + after} tokens without any input, and inputs are "
                f"limited to {limit}; set a limit of at least {before + after + 32}"
            )
        end = after + left // 2
        return [*ids[: limit - end], *ids[len(ids) - end :]]

    def reply(self, answer: str) -> list[int]:
        """The tokens of an answer after the messages, with the token that ends the turn if the template has one."""
        question = (("user", _INPUT),)
        prompt, whole = self.text(question), self._rendered((*question, ("assistant", answer)))
        if not whole.startswith(prompt):
            raise self._elsewhere()
        before, joined = self._tokens(prompt), self._tokens(whole)
        ids = joined[len(before) :] if joined[: len(before)] == before else self._tokens(whole[len(prompt) :])
        end = next((at for at, token in enumerate(ids) if token in self._special), None)
        return ids if end is None else ids[: end + 1]

    @cached_property
    def end(self) -> int | None:
        """The token that ends a turn; None where the template puts none."""
        last = self.reply(_ANSWER)[-1]
        return last if last in self._special else None

    @cached_property
    def _parts(self) -> tuple[str, str, str]:
        """The texts that a chat template puts before an input, behind it, and before an answer.

        The last is that of a reasoning model's empty reasoning: an answer is ranked and generated behind it.
        """
        question = (("user", _INPUT),)
        prompt, whole = self._rendered(question, generation=True), self._rendered((*question, ("assistant", _ANSWER)))
        before, shown, after = prompt.partition(_INPUT)
        lead, answered, _ = whole.removeprefix(prompt).partition(_ANSWER)
        if not (shown and answered and whole.startswith(prompt)):
            raise self._elsewhere()
        return before, after, lead if lead.strip() else ""

    @cached_property
    def _special(self) -> frozenset[int]:
        added = {index for index, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return frozenset({*self.tokenizer.all_special_ids, *added})

    def _rendered(self, messages: Sequence[Message], generation: bool = False) -> str:
        own = messages[0][0] == "system"
        turns = messages if own or self.chat.system is None else (("system", self.chat.system), *messages)
        shown = [{"role": role, "content": content} for role, content in turns]
        try:
            return str(self.tokenizer.apply_chat_template(shown, tokenize=False, add_generation_prompt=generation))
        except (TemplateError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())[:120]
            system = turns[0][0] == "system"
            what = (
                "a system prompt" if system and len(turns) < 4 else f"the turns {', '.join(role for role, _ in turns)}"
            )
            cure = "; leave out `system`" if system and not own else ""
            raise BadInput(f"the chat template of {self.name} refuses {what} ({reason}){cure}") from None

    def _tokens(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _elsewhere(self) -> BadInput:
        return BadInput(
            f"cannot use the chat template of {self.name} because an answer does not stand behind its generation "
            "prompt; give the tokenizer another chat_template"
        )
