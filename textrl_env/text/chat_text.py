"""The plain text of prompts and completions, which are texts or lists of chat messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Text = str | Sequence[Mapping[str, object]]


def completion_text(completion: Text) -> str:
    """The text of a completion in either form: a string, or TRL's list of messages, of which the assistant's count."""
    if isinstance(completion, str):
        return completion
    own = (message for message in completion if message.get("role", "assistant") == "assistant")
    return "\n".join(str(message["content"]) for message in own)


def prompt_text(prompt: Text) -> str:
    """What stands before a completion where there is no chat template: a string as it is, or a line a message."""
    return prompt if isinstance(prompt, str) else "".join(f"{message['content']}\n" for message in prompt)
