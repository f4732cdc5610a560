"""A leased question as the template shows it: turns, and responses under letters that say nothing of their origin."""

from __future__ import annotations

import string
from typing import Any, NamedTuple

from textrl_env.preferences.question import Lease
from textrl_env.rewards.protocol import Text

TITLES = {
    "comparison": "Which response is better?",
    "ranking": "Put the responses in order",
    "rating": "How good is the response?",
    "edit": "Make the response better",
}


class Turn(NamedTuple):
    """A message. role: "" for a prompt that is a plain text. side: user or other, by which it is coloured."""

    role: str
    text: str
    side: str


class ShownResponse(NamedTuple):
    """A response at its place from left to right. raw: as the model wrote it."""

    label: str
    raw: str


def question_view(lease: Lease) -> dict[str, Any]:
    """Return what `question.html.j2` needs of a lease."""
    asked = lease.question
    return {
        "title": TITLES[asked.kind],
        "kind": asked.kind,
        "lease": lease.token,
        "turns": _turns(asked.prompt),
        "responses": [
            ShownResponse(_label(place), asked.candidates[index].text) for place, index in enumerate(lease.order)
        ],
        "attributes": asked.attributes,
    }


def _label(place: int) -> str:
    """A to Z, then the number."""
    return string.ascii_uppercase[place] if place < len(string.ascii_uppercase) else str(place + 1)


def _turns(prompt: Text) -> list[Turn]:
    if isinstance(prompt, str):
        return [Turn("", prompt, "other")]
    return [
        Turn(str(message["role"]), str(message["content"]), "user" if message["role"] == "user" else "other")
        for message in prompt
    ]
