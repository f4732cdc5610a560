"""Records, and questions to annotators, as JSON objects and back. Nothing is lost; what is not set is left out."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from textrl_env.errors import ConfigError
from textrl_env.foreign_text import message_of, names_shown, shown
from textrl_env.preferences.question import Question
from textrl_env.preferences.records import KINDS, Candidate, Record, kind_of
from textrl_env.text.tokenization import check_text

KIND = "kind"
_MADE = TypeVar("_MADE")
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def record_to_dict(record: Record) -> dict[str, Any]:
    """`{"kind": ..., "prompt": ..., "candidates": [...], ...}`; fields that hold their default are left out."""
    return {KIND: kind_of(record), **_fields(record)}


def record_from_dict(value: Any) -> Record:
    """The record that `record_to_dict` wrote. Raises ConfigError where it is none."""
    kind = value.get(KIND) if isinstance(value, Mapping) else value
    if not isinstance(kind, str) or kind not in KINDS or not isinstance(value, Mapping):
        raise ConfigError(f"expected an object whose {KIND!r} is one of {', '.join(KINDS)}, got {shown(kind)}")
    return _made(KINDS[kind], {name: part for name, part in value.items() if name != KIND})


def question_to_dict(question: Question) -> dict[str, Any]:
    """As `record_to_dict`."""
    return _fields(question)


def question_from_dict(value: Any) -> Question:
    """The question that `question_to_dict` wrote. Raises ConfigError where it is none."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"expected an object that holds a question, got {shown(value)}")
    return _made(Question, value)


def encoded(value: Mapping[str, Any]) -> str:
    """One line of JSON. Raises ConfigError for a value that JSON cannot hold, such as NaN or an object of a class."""
    try:
        text = _ENCODER.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"columns and sampling must hold what JSON can (texts, finite numbers, lists ...): {message_of(error)}"
        ) from error
    check_text(text, "a record")  # or no file could take it
    return text


@functools.cache
def _defaults(kind: type) -> dict[str, Any]:
    """Field of a dataclass -> its default; MISSING where it has none that is the same each time."""
    return {
        field.name: {} if field.default_factory is dict else field.default
        for field in dataclasses.fields(kind)  # which is slow
    }


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass that do not hold their default; those of candidates likewise."""
    found = {}
    for name, default in _defaults(type(value)).items():  # type: ignore[arg-type]
        part = getattr(value, name)
        if name == "candidates":
            part = [_fields(candidate) for candidate in part]
        if part != default:
            found[name] = part
    return found


def _made(kind: type[_MADE], values: Mapping[str, Any]) -> _MADE:
    """An object of a dataclass from its fields, all names checked."""
    given = dict(values)
    if "candidates" in given:
        given["candidates"] = _candidates(given["candidates"])
    try:
        return kind(**given)
    except TypeError as error:  # a field that is unknown, missing or of another JSON type, such as a number as order
        what = f"has a field of the wrong type ({message_of(error)})"
        fields = dataclasses.fields(kind)  # type: ignore[arg-type]
        for field in fields:
            if field.name not in values and field.default is field.default_factory is dataclasses.MISSING:
                what = f"has no {field.name!r}"
        if unknown := values.keys() - {field.name for field in fields}:
            what = f"has the unknown field {shown(min(unknown))}"
        names = names_shown(field.name for field in fields)
        raise ConfigError(f"a {kind.__name__.lower()} {what}; its fields are {names}") from error


def _candidates(values: Any) -> tuple[Candidate, ...]:
    if not isinstance(values, list) or not all(isinstance(value, Mapping) for value in values):
        raise ConfigError(f"candidates must be a list of objects with a 'text', got {shown(values)}")
    return tuple(_made(Candidate, value) for value in values)
