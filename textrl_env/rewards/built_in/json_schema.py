"""Whether a response is JSON, and JSON of the wanted form: graded, so that a policy finds the way there."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from textrl_env.errors import ConfigError, MissingExtra
from textrl_env.foreign_text import message_of, shown
from textrl_env.text.chat_text import completion_text
from textrl_env.user_values import user_path

MOST_CHARACTERS = 20_000
"""A longer response is not read: it has no JSON."""
FOUND, ALONE, KEYS, VALID = 0.1, 0.3, 0.4, 0.3
"""What is paid for JSON somewhere in the response, or for nothing but JSON; for all required keys; and for JSON that is
alone and fits the schema.
"""
_FENCED = re.compile(r"```[ \t]*(?:json)?[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL | re.IGNORECASE)
_STARTS = 8  # places where JSON may begin that are tried


class Found(NamedTuple):
    """The JSON value in a response."""

    value: Any
    is_alone: bool  # nothing else stands beside it, a Markdown fence around it apart


class JsonSchemaReward:
    """0 without JSON; 1 for nothing but JSON that fits the schema; between these by parts.

    0.3 for a response that is JSON and nothing else (a Markdown fence around it is allowed), or 0.1 for an object or an
    array with other text around it; + 0.4 times the share of required keys that are there; + 0.3 where it is alone and
    fits the schema. Where the schema requires no keys, that share is 1 for JSON that fits and 0 for other JSON. Without
    a schema all JSON fits. NaN and Infinity are not JSON.

    schema: a JSON Schema as a dict, or the path of a JSON file with one. None takes each prompt's own, from its column
        `schema` (a dict, or JSON text), where there is such a column.

    Raises ConfigError for a file or a schema that cannot be used, at a call also for one in the column; a schema that
    refers to others is such: nothing is fetched. Raises MissingExtra without jsonschema.
    """

    __name__ = "json_schema"

    def __init__(self, schema: Mapping[str, Any] | str | os.PathLike[str] | None = None) -> None:
        _jsonschema()  # now rather than at the end of the first episode
        self.schema = None if schema is None else _text_of(schema)
        if self.schema is not None:
            _validator(self.schema)

    def __call__(
        self,
        prompts: list[Any],
        completions: list[Any],
        schema: Sequence[Mapping[str, Any] | str] | None = None,
        **columns: Any,
    ) -> list[float]:
        """n scores in [0, 1]."""
        if self.schema is not None or schema is None:
            schemas = [self.schema] * len(completions)
        else:
            schemas = [each if isinstance(each, str) else _dumped(each) for each in schema]
        return [_score(completion_text(text), each) for text, each in zip(completions, schemas, strict=True)]

    def __repr__(self) -> str:
        return f"JsonSchemaReward({'' if self.schema is None else shown(self.schema, 200)})"


def find_json(text: str) -> Found | None:
    """The JSON value that the text is, or the first object or array in it; None where there is none."""
    if len(text) > MOST_CHARACTERS:
        return None
    text = text.strip()
    fenced = _FENCED.fullmatch(text)
    decoder = json.JSONDecoder(parse_constant=_refuse)
    try:
        return Found(decoder.decode(text if fenced is None else fenced[1].strip()), True)
    except (ValueError, RecursionError):
        pass
    for _, start in zip(range(_STARTS), re.finditer(r"[{\[]", text), strict=False):
        try:
            return Found(decoder.raw_decode(text, start.start())[0], False)
        except (ValueError, RecursionError):
            continue
    return None


def fits(value: Any, schema: str) -> bool:
    """Whether a JSON value fits a schema, given as JSON text. Raises ConfigError for one that cannot be used."""
    unresolvable = _jsonschema()[1].exceptions.Unresolvable
    try:
        return bool(_validator(schema).is_valid(value))
    except unresolvable as error:  # of a part that no keyword of JSON Schema leads to, so that it was not checked
        raise _unresolved(schema, error) from None
    except (RecursionError, OverflowError, ValueError):  # too deep, or numbers beyond what can be divided
        return False
    except re.error as error:
        raise ConfigError(f"the JSON schema {shown(schema, 200)} has a bad pattern: {message_of(error)}") from None


def _score(text: str, schema: str | None) -> float:
    found = find_json(text)
    if found is None:
        return 0.0
    is_valid = schema is None or fits(found.value, schema)
    required = [] if schema is None else _required(schema)
    share = float(is_valid)
    if required:
        share = sum(isinstance(found.value, dict) and key in found.value for key in required) / len(required)
    return (ALONE if found.is_alone else FOUND) + KEYS * share + VALID * (is_valid and found.is_alone)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _text_of(schema: Mapping[str, Any] | str | os.PathLike[str]) -> str:
    if isinstance(schema, Mapping):
        return _dumped(schema)
    path = user_path(os.fspath(schema))
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the JSON schema {shown(str(path), 300)} cannot be read: {message_of(error)}") from error


def _dumped(schema: Any) -> str:
    try:
        return json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"the JSON schema {shown(schema)} is not JSON: {message_of(error)}") from error


def _required(schema: str) -> list[str]:
    """The keys that the schema requires at its top."""
    loaded = _validator(schema).schema
    required = loaded.get("required") if isinstance(loaded, dict) else None
    return required if isinstance(required, list) else []  # draft 3 has true there, and means another thing


@functools.lru_cache(maxsize=4096)
def _validator(schema: str) -> Any:
    """The validator of a schema, given as JSON text. Nothing outside the schema is looked up."""
    jsonschema, referencing = _jsonschema()
    what = f"the JSON schema {shown(schema, 200)}"
    try:
        loaded = json.loads(schema)
        if not isinstance(loaded, (dict, bool)):
            raise TypeError("expected an object, true or false")
        if isinstance(loaded, dict) and not isinstance(loaded.get("$schema", ""), str):
            raise TypeError(f"its $schema is {shown(loaded['$schema'])}, expected a text")
        kind = jsonschema.validators.validator_for(loaded, default=jsonschema.Draft202012Validator)
        kind.check_schema(loaded)
        default = referencing.jsonschema.specification_with(kind.META_SCHEMA.get("$schema", ""))
        resource = default.create_resource(loaded)
        _check_references(resource, referencing.Registry().resolver_with_root(resource))
        validator = kind(loaded, registry=referencing.Registry())  # without one, jsonschema would fetch
        validator.is_valid(None)
    except RecursionError:
        raise ConfigError(f"{what} is nested too deep, or refers to itself without end") from None
    except jsonschema.SchemaError as error:
        raise ConfigError(f"{what} is no JSON Schema: {shown(error.message, 300)}") from None
    except referencing.exceptions.Unresolvable as error:
        raise _unresolved(schema, error) from None
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{what} cannot be read: {message_of(error)}") from error
    return validator


def _check_references(resource: Any, resolver: Any) -> None:
    """Look up every reference of a schema and of the schemas in it, each from where it stands: an `$id` moves that.

    Raises referencing's Unresolvable.
    """
    contents = resource.contents
    for key in ("$ref", "$dynamicRef"):
        if isinstance(contents, dict) and isinstance(contents.get(key), str):
            resolver.lookup(contents[key])
    for part in resource.subresources():
        _check_references(part, resolver.in_subresource(part))


def _unresolved(schema: str, error: Any) -> ConfigError:
    what = f"the JSON schema {shown(schema, 200)}"
    return ConfigError(f"{what} refers to {shown(error.ref)}, which it does not hold; nothing is fetched")


@functools.cache
def _jsonschema() -> tuple[Any, Any]:
    try:
        import jsonschema
        import referencing.jsonschema
    except ImportError:
        raise MissingExtra("rewards", "jsonschema") from None
    return jsonschema, referencing


REWARD = JsonSchemaReward
