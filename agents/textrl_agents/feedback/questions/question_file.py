"""Questions from a JSON Lines file, each checked before any of them is asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textrl_env.errors import ConfigError, TextRLError
from textrl_env.foreign_text import shown
from textrl_env.preferences.question import Question
from textrl_env.preferences.record_json import encoded, question_to_dict
from textrl_env.preferences.records import Candidate
from textrl_env.user_values import user_path

_FIELDS = ("kind", "prompt", "responses", "attributes")
_OF_A_RESPONSE = {"text", "model", "sampling"}


def read_questions(path: str | Path, *, kind: str = "comparison", attributes: tuple[str, ...] = ()) -> list[Question]:
    """Read one question a line: `{"prompt": text or chat, "responses": [...]}`.

    A response is a text, or `{"text", "model", "sampling"}`. A line may have a `kind` and `attributes` of its own, in
    place of those given here. Other values are the prompt's columns, such as its group.

    Raises ConfigError that names the line.
    """
    file = user_path(path)
    try:
        lines = file.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"questions {str(file)!r} is not UTF-8: {error}") from error
    except OSError as error:
        raise ConfigError(f"questions {str(file)!r} cannot be read: {error.strerror}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                found.append(_question(_parsed(line), kind, attributes))
            except TextRLError as error:
                raise ConfigError(f"{file}, line {number}: {error}") from error
    if not found:
        raise ConfigError(f"questions {str(file)!r} is empty; it needs one question a line")
    return found


def _parsed(line: str) -> Mapping[str, Any]:
    try:
        found = json.loads(line)
    except RecursionError:
        raise ConfigError("nested too deep to be read") from None
    except ValueError as error:
        raise ConfigError(f"not JSON: {error}") from error
    if not isinstance(found, Mapping):
        raise ConfigError(f'a question is an object such as {{"prompt": ..., "responses": [...]}}, got {shown(found)}')
    return found


def _question(line: Mapping[str, Any], kind: str, attributes: tuple[str, ...]) -> Question:
    for name in ("prompt", "responses"):
        if name not in line:
            raise ConfigError(f"a question has no {name!r}; its keys are {shown(sorted(line))}")
    responses, own = line["responses"], line.get("attributes")
    for value in (responses, [] if own is None else own):
        if not isinstance(value, list):
            raise ConfigError(f"responses and attributes are lists, got {shown(value)}")
    asked = line.get("kind", kind)
    if own is None:
        own = attributes if asked == "rating" else ()
    columns = {name: value for name, value in line.items() if name not in _FIELDS}
    question = Question(asked, line["prompt"], tuple(map(_candidate, responses)), columns, tuple(own))
    encoded(question_to_dict(question))  # what no store can hold, such as NaN in a column, is told with its line
    return question


def _candidate(response: Any) -> Candidate:
    if isinstance(response, str):
        return Candidate(response)
    if not isinstance(response, Mapping) or "text" not in response or not response.keys() <= _OF_A_RESPONSE:
        raise ConfigError(f'a response is a text or {{"text", "model", "sampling"}}, got {shown(response)}')
    return Candidate(**response)
