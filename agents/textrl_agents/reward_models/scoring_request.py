"""What a client asks a reward server for: its JSON, checked, as the arguments of a reward."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from textrl_env.errors import ConfigError
from textrl_env.foreign_text import message_of, shown
from textrl_env.text.prompt_rows import check_row


class ScoringRequest(NamedTuple):
    """n prompts with their responses, and the prompts' other columns, n values each."""

    prompts: list[Any]
    completions: list[Any]
    columns: dict[str, list[Any]]

    @classmethod
    def of(cls, body: bytes, *, most: int, end: str = "") -> ScoringRequest:
        """Read a request in our own shape or in OpenRLHF's, which has a `query`.

        most: samples it may have. end: a text to take off the end of OpenRLHF's queries, such as the EOS.
        Raises ConfigError that says what is wrong with it.
        """
        try:
            content = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"the body is no JSON: {message_of(error)}") from error
        if not isinstance(content, Mapping):
            raise ConfigError(f"the body must be a JSON object, got {shown(content)}")
        request = cls._of_openrlhf(content, end) if "query" in content else cls._own(content)
        if len(request.prompts) > most:
            raise ConfigError(f"{len(request.prompts)} samples in one request, and at most {most} are taken")
        for name in ("prompts", "completions"):
            for index, text in enumerate(getattr(request, name)):
                check_row(text, {}, f"{name}[{index}]")
        return request

    @classmethod
    def _own(cls, content: Mapping[str, Any]) -> ScoringRequest:
        prompts, completions = (_list(content, name) for name in ("prompts", "completions"))
        columns = content.get("columns", {})
        if not isinstance(columns, Mapping):
            raise ConfigError(f"columns must be an object of names to lists, got {shown(columns)}")
        if taken := columns.keys() & {"prompts", "completions"}:
            raise ConfigError(f"columns holds {min(taken)!r}, which belongs beside it")
        lists = {"completions": completions, **{name: _list(columns, name) for name in columns}}
        for name, values in lists.items():
            if len(values) != len(prompts):
                raise ConfigError(f"{len(prompts)} prompts, but {len(values)} values in {shown(name)}")
        return cls(prompts, completions, {name: values for name, values in lists.items() if name != "completions"})

    @classmethod
    def _of_openrlhf(cls, content: Mapping[str, Any], end: str) -> ScoringRequest:
        queries = _list(content, "query")
        prompts = _list(content, "prompts") if content.get("prompts") is not None else [""] * len(queries)
        if len(prompts) != len(queries):
            raise ConfigError(f"{len(queries)} queries, but {len(prompts)} prompts")
        completions = []
        for index, (query, prompt) in enumerate(zip(queries, prompts, strict=True)):
            if not isinstance(query, str) or not isinstance(prompt, str):
                raise ConfigError(
                    f"query[{index}] and its prompt must be texts, got {shown(query)} and {shown(prompt)}"
                )
            if not query.startswith(prompt):
                raise ConfigError(f"query[{index}] does not begin with its prompt: {shown(query)} and {shown(prompt)}")
            completions.append(query[len(prompt) :].removesuffix(end))
        if content.get("labels") is None:
            return cls(prompts, completions, {})
        labels = _list(content, "labels")
        if len(labels) != len(queries):
            raise ConfigError(f"{len(queries)} queries, but {len(labels)} labels")
        return cls(prompts, completions, {"labels": labels})


def _list(content: Mapping[str, Any], name: str) -> list[Any]:
    values = content.get(name)
    if not isinstance(values, list):
        raise ConfigError(
            f"{shown(name)} must be a list, got {shown(values)}; expected {{prompts: [...], completions: [...]}} or "
            "OpenRLHF's {query: [...], prompts: [...], labels: [...]}"
        )
    return values
