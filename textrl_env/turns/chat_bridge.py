"""Turns as a chat, in the tokenizer's own template, which writes each of them once and never changes what it wrote."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from textrl_env.errors import PromptError
from textrl_env.foreign_text import shown
from textrl_env.text.tokenization import Ids, decode_response, encode_chat, encode_rendered, end_of_turn, render_chat

_SHOWN = 40  # characters of a difference
# What a template is tried with: letters alone, which none of them trims or splits.
_SYSTEM = {"role": "system", "content": "Rules"}
_TALK = [
    {"role": "user" if place % 2 == 0 else "assistant", "content": content}
    for place, content in enumerate(("Hello", "Welcome", "Question", "Answer", "Thanks"))
]


class ChatBridge:
    """A dialogue in the tokenizer's chat template.

    A turn is closed by the template's own mark: it is appended where the policy wrote none, and not doubled where it
    did. What a template would hide of earlier answers, such as their reasoning, stays where it was sampled. A role that
    the template refuses or does not show is told as the user's.

    Raises PromptError where the template changes, as a conversation goes on, what it has written of it.
    """

    chat = True

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        check_keeps_prefix(tokenizer, _TALK)
        self._end = end_of_turn(tokenizer)
        self._system_tried = self._tools_tried = False
        self._roles: dict[str, str] = {}

    def prompt(self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] | None = None) -> Ids:
        """The chat up to where the first answer begins.

        tools: JSON schemas of the functions that the policy may call. Raises PromptError where the template shows none.
        """
        if messages[0]["role"] == "system" and not self._system_tried:
            check_keeps_prefix(self.tokenizer, [_SYSTEM, *_TALK])
            self._system_tried = True
        if tools is not None and not self._tools_tried:
            self._check_shows(tools)
            self._tools_tried = True
        return encode_chat(self.tokenizer, messages, tools=tools)

    def extend(self, ids: Ids, messages: Sequence[dict[str, Any]]) -> Ids:
        """The end of the answer, where it is not there yet, the messages, and the beginning of the next answer."""
        tail = encode_rendered(
            self.tokenizer, [{**message, "role": self._role(message["role"])} for message in messages], self._behind
        )
        if ids[-1] == self._end and self._end in tail:
            return tail[tail.index(self._end) + 1 :]
        return tail

    def parse(self, ids: Ids) -> str:
        return decode_response(self.tokenizer, ids, after_text=False)

    def _behind(self, messages: list[dict[str, Any]]) -> str:
        """What the template writes behind an answer that these messages follow."""
        said = f"said{secrets.token_hex(8)}"
        chat = [_TALK[0], {"role": "assistant", "content": said}, *messages]
        return render_chat(self.tokenizer, chat, True).rpartition(said)[2]

    def _check_shows(self, tools: Sequence[dict[str, Any]]) -> None:
        """Raise PromptError where the template does not show the tools' names."""
        shows = render_chat(self.tokenizer, _TALK[:1], True, tools)
        if missing := [tool["function"]["name"] for tool in tools if tool["function"]["name"] not in shows]:
            raise PromptError(
                f"the chat template of {_name(self.tokenizer)} does not show tools, such as {missing[0]!r}, to the "
                "model. Give ToolTurns form='plain', which describes them in the system prompt"
            )

    def _role(self, role: str) -> str:
        """The role under which the template shows a message of this one."""
        if role not in self._roles:
            said = f"said{secrets.token_hex(8)}"
            try:
                is_shown = said in self._behind([{"role": role, "content": said}])
            except PromptError:
                is_shown = False
            self._roles[role] = role if is_shown else "user"
        return self._roles[role]


def check_keeps_prefix(tokenizer: Any, chat: list[dict[str, Any]]) -> None:
    """Raise PromptError where the template does not only append to `chat`, whose messages end with a user's."""
    before = ""
    for place, message in enumerate(chat):
        if message["role"] != "user":
            continue
        rendered = render_chat(tokenizer, chat[: place + 1], True)
        if not rendered.startswith(before):
            at = next(at for at in range(len(before)) if rendered[at : at + 1] != before[at])
            raise PromptError(
                f"the chat template of {_name(tokenizer)} does not keep the prefix of a conversation: behind "
                f"{shown(before[max(0, at - _SHOWN) : at])} it first wrote {shown(before[at : at + _SHOWN])}, and "
                f"{shown(rendered[at : at + _SHOWN])} once another turn followed. What was sampled would be trained "
                "behind other tokens. Set tokenizer.chat_template to one that only appends, or give the task a bridge="
            )
        if place + 1 < len(chat):
            before = rendered + chat[place + 1]["content"]


def _name(tokenizer: Any) -> str:
    return str(getattr(tokenizer, "name_or_path", "")) or type(tokenizer).__name__
