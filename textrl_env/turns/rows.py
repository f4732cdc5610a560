"""The turn environments of N rows: begun, asked and saved together.

A turn environment remembers, so a step that fails after it was asked cannot be undone. Its answer is kept then, and
is used when the step is repeated with the same text. One that fails itself is thrown away: its row needs a reset, which
makes another, and the other rows go on.
"""

from __future__ import annotations

import copy
import inspect
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from textrl_env.errors import ConfigError, EmptyPrompt, PromptTooLong, ResetNeeded, TurnRaised, TurnTimeout
from textrl_env.foreign_text import message_of, names_shown, shown
from textrl_env.text.prompts import Prompt, newest_tokens
from textrl_env.turns.calls import Called, ConcurrentCalls
from textrl_env.turns.rules import TurnRules
from textrl_env.turns.turn_env import Reply, checked_opening, checked_reply, turn_env_name

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class TurnRows:
    """What answers in each of `num_rows` rows, and what was said in their episodes.

    records: of the turns so far, one dict a turn (`TurnEnd.record`).
    """

    def __init__(self, rules: TurnRules, num_rows: int):
        self.rules = rules
        self.records: list[list[dict[str, Any]]] = [[] for _ in range(num_rows)]
        self._envs: list[Any] = [None] * num_rows
        self._lost = np.ones(num_rows, dtype=bool)  # rows whose turn environment is not where their episode is
        self._answered: dict[int, tuple[str, Reply]] = {}  # row -> text and answer of a step that was not carried out
        self._calls = ConcurrentCalls(rules.workers, rules.timeout, "turn environment")

    def begin(self, rows: Sequence[int], prompts: Sequence[Prompt], max_tokens: int) -> list[Prompt]:
        """Reset the turn environments of `rows` with the seed or the row of each prompt; returns what they say first.

        Raises a TurnError, and PromptTooLong. All of `rows` then need another reset.
        """
        self._lost[rows] = True
        for row in rows:
            self._answered.pop(row, None)
            if self._envs[row] is None:
                self._envs[row] = self.rules.make()
        functions = [_resetting(self._envs[row], prompt) for row, prompt in zip(rows, prompts, strict=True)]
        found = self._called(rows, functions, checked_opening, [f"row {row}" for row in rows])
        opened = [
            self._opened(row, prompt, message, max_tokens)
            for row, prompt, message in zip(rows, prompts, found, strict=True)
        ]
        for row in rows:
            self.records[row] = []
        self._lost[rows] = False
        return opened

    def check(self, live: np.ndarray) -> None:
        """Raise ResetNeeded where a row of `live`, bool [N], has lost its turn environment."""
        lost = live & self._lost
        if lost.any():
            row = int(np.flatnonzero(lost)[0])
            raise ResetNeeded(
                f"the turn environment of row {row} failed, or has answered another text in a step that failed: its "
                "episode cannot go on. Call reset(); reset(options={'reset_mask': mask}) leaves the other rows"
            )

    def ask(self, rows: Sequence[int], texts: Sequence[str]) -> list[Reply]:
        """Have the turn environments of `rows` answer a turn each, several at a time.

        Raises a TurnError, the first row's, once all have answered; what the others said is kept.
        """
        asked = []
        for row, text in zip(rows, texts, strict=True):
            if row not in self._answered:
                asked.append((row, text))
            elif self._answered[row][0] != text:
                self._lose(row)
        self.check(np.isin(np.arange(len(self._envs)), rows))
        if asked:
            at = [row for row, _ in asked]
            self._lost[at] = True  # until it has answered: Ctrl-C may come in between
            functions = [_stepping(self._envs[row], text) for row, text in asked]
            where = [f"row {row}, which was told {shown(text)}" for row, text in asked]
            self._called(at, functions, checked_reply, where, keep=[text for _, text in asked])
        return [self._answered[row][1] for row in rows]

    def commit(self, row: int, record: dict[str, Any]) -> None:
        """Go on: the step that this answer belongs to is carried out."""
        del self._answered[row]
        self.records[row].append(record)

    def state_dict(self, running: np.ndarray) -> list[dict[str, Any]]:
        """What was said in each row, and the state of its turn environment as JSON text.

        running: bool [N], rows in the midst of an episode. The state is None where there is none to go on with, and
        where the turn environment cannot be saved.
        """
        return [
            {
                "records": copy.deepcopy(self.records[row]),
                "env": self._state(row) if running[row] and not self._lost[row] else None,
                "lost": bool(self._lost[row]),
                "answered": self._waiting(row),
            }
            for row in range(len(self._envs))
        ]

    def restored(self, state: Sequence[Mapping[str, Any]], running: np.ndarray) -> list[Any]:
        """Turn environments that stand where `state_dict` found them; None in rows that need a reset.

        Raises ConfigError where one in use was not saved. Nothing is changed.
        """
        envs: list[Any] = [None] * len(state)
        for row, entry in enumerate(state):
            if not running[row] or entry["lost"]:
                continue
            env: Any = self.rules.make()
            envs[row] = env
            if entry["env"] is None or not _is_savable(env):
                raise ConfigError(
                    f"row {row} was saved in the midst of an episode of {turn_env_name(env)!r}, which cannot be saved, "
                    "so nothing can go on where it stood. Give it get_state(), which returns what JSON can hold, and "
                    "set_state(state). The saved policy can be evaluated, and trained from anew"
                )
            try:
                env.set_state(json.loads(entry["env"]))
            except Exception as error:
                raise ConfigError(
                    f"{turn_env_name(env)!r} did not take its saved state back: {type(error).__name__}: "
                    f"{message_of(error)}"
                ) from error
        return envs

    def load_state_dict(self, state: Sequence[Mapping[str, Any]], envs: Sequence[Any]) -> None:
        """Go on where `state_dict` was taken. envs: what `restored` made of it."""
        self.close()
        self._envs, self._answered = list(envs), {}
        for row, entry in enumerate(state):
            self.records[row] = copy.deepcopy(list(entry["records"]))
            self._lost[row] = envs[row] is None
            if envs[row] is not None and entry.get("answered") is not None:  # an older state has none
                text, answer = entry["answered"]
                self._answered[row] = text, Reply(**copy.deepcopy(answer))

    def close(self) -> None:
        """Close all turn environments; rows need a reset before they can be asked again."""
        for row in range(len(self._envs)):
            self._drop(row)
        self._calls.close()

    def _opened(self, row: int, prompt: Prompt, message: str, max_tokens: int) -> Prompt:
        """The prompt of an episode that begins with this message."""
        rules = self.rules
        said = [{"role": "user", "content": message}]
        system = rules.system_prompt
        if system is None:
            system = getattr(self._envs[row], "system_prompt", None)
        if system:
            said.insert(0, {"role": "system", "content": system})
        tools = getattr(self._envs[row], "tools", None)
        if tools and "tools" not in inspect.signature(rules.bridge.prompt).parameters:
            raise ConfigError(
                f"{turn_env_name(self._envs[row])!r} has tools for a chat template, and {type(rules.bridge).__name__} "
                "shows none. Give ToolTurns form='plain', which describes them in the system prompt"
            )
        ids = rules.bridge.prompt(said, tools=tools) if tools else rules.bridge.prompt(said)  # type: ignore[call-arg]
        if not ids:
            raise EmptyPrompt(f"{turn_env_name(self._envs[row])!r} began an episode with {shown(message)}, no token")
        if len(ids) > max_tokens and not rules.truncates:
            raise PromptTooLong(
                f"{turn_env_name(self._envs[row])!r} began an episode with {len(ids)} tokens, more than "
                f"max_prompt_tokens={max_tokens}; raise max_prompt_tokens, or give the task "
                "prompt_overflow='truncate' to keep its newest tokens"
            )
        bos = getattr(getattr(rules.bridge, "tokenizer", None), "bos_token_id", None)
        array = np.asarray(newest_tokens(ids, max_tokens, bos), dtype=np.int64)
        array.setflags(write=False)
        text: Any = said if rules.is_chat else "\n".join(each["content"] for each in said)
        return replace(prompt, text=text, ids=array)

    def _called(
        self,
        rows: Sequence[int],
        functions: Sequence[Callable[[], Any]],
        checked: Callable[[Any, str], Any],
        where: Sequence[str],
        keep: Sequence[str] | None = None,
    ) -> list[Any]:
        """What the functions gave, checked. keep: the texts whose answers wait for `commit`. Raises the first error."""
        first: Exception | None = None
        values = []
        for place, called in enumerate(self._calls.run(functions)):
            row = rows[place]
            try:
                value = checked(*self._value(called, row, where[place]))
            except Exception as error:
                self._lose(row, hangs=called.timed_out)
                first = first or error
                continue
            values.append(value)
            if keep is not None:
                self._answered[row] = keep[place], value
                self._lost[row] = False
        if first is not None:
            raise first
        return values

    def _value(self, called: Called, row: int, where: str) -> tuple[Any, str]:
        name = f"turn environment {turn_env_name(self._envs[row])!r}, {where},"
        if called.timed_out:
            raise TurnTimeout(
                f"{name} did not answer within {self.rules.timeout:g} s; make it faster, or raise turn_timeout"
            )
        if called.error is not None:
            error = called.error
            raise TurnRaised(f"{name} raised {type(error).__name__}: {message_of(error)}") from error
        return called.value, name

    def _lose(self, row: int, *, hangs: bool = False) -> None:
        """Throw a row's turn environment away. hangs: a thread is still in it, so it is not even closed."""
        self._lost[row] = True
        self._answered.pop(row, None)
        if hangs:
            self._envs[row] = None
        self._drop(row)

    def _drop(self, row: int) -> None:
        env, self._envs[row] = self._envs[row], None
        self._lost[row] = True
        if env is not None and callable(getattr(env, "close", None)):
            try:
                env.close()
            except Exception as error:
                logging.getLogger(__name__).warning("%s.close() raised: %s", turn_env_name(env), message_of(error))

    def _waiting(self, row: int) -> list[Any] | None:
        """The text and the answer of a step that was not carried out, as JSON has them."""
        if row not in self._answered:
            return None
        text, answer = self._answered[row]
        return [text, copy.deepcopy(answer._asdict())]

    def _state(self, row: int) -> str | None:
        env = self._envs[row]
        if not _is_savable(env):
            return None
        try:
            return json.dumps(env.get_state())
        except Exception as error:
            raise ConfigError(
                f"get_state() of {turn_env_name(env)!r} gave nothing that JSON can hold: {message_of(error)}"
            ) from error

    def __deepcopy__(self, memo: dict[int, Any]) -> TurnRows:
        # Threads are not copied: the copy has its own.
        twin = TurnRows(self.rules, len(self._envs))
        twin.records = copy.deepcopy(self.records, memo)
        for row, env in enumerate(self._envs):
            if env is None or self._lost[row]:
                continue
            if _is_savable(env):
                twin._envs[row] = self.rules.make()
                twin._envs[row].set_state(json.loads(str(self._state(row))))
            else:
                try:
                    twin._envs[row] = copy.deepcopy(env, memo)
                except Exception as error:
                    name = turn_env_name(env)
                    raise ConfigError(f"{name!r} has no get_state() and cannot be copied: {error}") from error
            twin._lost[row] = False
        twin._answered = copy.deepcopy(self._answered, memo)
        return twin


def _is_savable(env: Any) -> bool:
    return callable(getattr(env, "get_state", None)) and callable(getattr(env, "set_state", None))


def _resetting(env: Any, prompt: Prompt) -> Callable[[], Any]:
    """A call of `reset` with the seed of the prompt and what else of its row it takes.

    Raises ConfigError where it needs a column that the prompts do not have, or would ignore all that they say.
    """
    row = {"seed": max(prompt.index, 0), **prompt.columns}
    if prompt.text:
        row["prompt"] = prompt.text
    parameters = inspect.signature(env.reset).parameters
    takes_all = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    needed = [name for name, each in parameters.items() if each.default is each.empty and each.kind in _NAMED]
    taken = {name: value for name, value in row.items() if takes_all or name in parameters}
    wanted = next((name for name in needed if name not in row), None)
    if wanted is not None or (len(row) > 1 and len(taken) < 2):
        what = "takes nothing of the prompts" if wanted is None else f"needs the column {wanted!r}"
        raise ConfigError(
            f"reset() of {turn_env_name(env)!r} {what}; the prompts bring {names_shown(row.keys() - {'seed'})}. Its "
            "parameters are to be names of columns, and prompt; without prompts it gets a seed alone"
        )
    return lambda: env.reset(**taken)


def _stepping(env: Any, text: str) -> Callable[[], Any]:
    return lambda: env.step(text)
