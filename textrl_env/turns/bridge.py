"""From text to ids between turns, and back. What was sampled is never tokenised again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from textrl_env.errors import ConfigError
from textrl_env.foreign_text import shown
from textrl_env.text.tokenization import Ids, decode_response, encode_continuation, encode_prompt_text
from textrl_env.turns.chat_bridge import ChatBridge

Messages = Sequence[dict[str, Any]]
_METHODS = ("prompt", "extend", "parse")


class Bridge(Protocol):
    """What stands between the texts of a turn environment and the ids of an episode."""

    def prompt(self, messages: Messages) -> Ids:
        """The ids that an episode begins with. messages: perhaps a system's, and the turn environment's first."""
        ...

    def extend(self, ids: Ids, messages: Messages) -> Ids:
        """The ids that stand behind a turn that is over, up to where the next one begins: the appended ids alone.

        ids: of the episode so far, which ends with a sampled one: the end of a turn, where the policy wrote it, or else
            what it wrote last before a stop string or a limit. messages: what answers the turn.
        """
        ...

    def parse(self, ids: Ids) -> str:
        """The text of one turn. ids: those that were sampled in it."""
        ...


class PlainBridge:
    """Turns as one running text, for a tokenizer without a chat template.

    before, after: what is written around each reply.
    """

    chat = False

    def __init__(self, tokenizer: Any, before: str = "\n", after: str = "\n"):
        self.tokenizer, self.before, self.after = tokenizer, before, after

    def prompt(self, messages: Messages) -> Ids:
        return encode_prompt_text(self.tokenizer, "\n".join(message["content"] for message in messages))

    def extend(self, ids: Ids, messages: Messages) -> Ids:
        said = "\n".join(message["content"] for message in messages)
        return encode_continuation(self.tokenizer, self.before + said + self.after)

    def parse(self, ids: Ids) -> str:
        return decode_response(self.tokenizer, ids)


def make_bridge(tokenizer: Any, given: Any = None, *, as_chat: bool = True) -> Bridge:
    """The bridge of a tokenizer: a ChatBridge where it has a chat template, else a PlainBridge.

    given: a function that makes another of the tokenizer. as_chat: False takes no chat template.

    Raises ConfigError where `given` gives none, and PromptError for a template that no dialogue can be held in.
    """
    if given is None:
        has_template = getattr(tokenizer, "chat_template", None) is not None
        return ChatBridge(tokenizer) if has_template and as_chat else PlainBridge(tokenizer)
    bridge = given(tokenizer) if callable(given) else given
    if not all(callable(getattr(bridge, name, None)) for name in _METHODS):
        raise ConfigError(
            f"bridge must be a function that makes a Bridge of a tokenizer; got {shown(given)}, and what it gives has "
            f"not all of the methods {', '.join(_METHODS)}"
        )
    made: Bridge = bridge
    return made
