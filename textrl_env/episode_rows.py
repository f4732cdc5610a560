"""The episodes of N rows: their tokens, what was paid for each, and what a checkpoint keeps of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from textrl_env.charges import INITIAL_CHARGE
from textrl_env.errors import ConfigError
from textrl_env.rules import EpisodeRules
from textrl_env.scores import PendingScores
from textrl_env.text.prompts import Prompt, PromptSet
from textrl_env.trajectory import Trajectory
from textrl_env.turns.endings import TurnEnd
from textrl_env.turns.rows import TurnRows

# What is known of the rows besides their prompts.
_ROW_ARRAYS = (
    *("ids", "is_action", "lengths", "counts", "running", "token_scores", "kl_coefs", "charges", "groups"),
    *("log_probs", "rewards", "kl", "prompt_lengths", "turn_starts", "turn_scores"),
)


class Newest(NamedTuple):
    """What a step adds to each of N rows, before it is written."""

    tokens: np.ndarray  # int64 [N]
    log_probs: np.ndarray  # float64 [N]
    kl: np.ndarray  # float64 [N], what is charged; NaN in deferred mode
    rewards: np.ndarray  # float64 [N]


class EpisodeRows:
    """N rows under the same rules, each with its episode so far, which a step appends to."""

    def __init__(self, rules: EpisodeRules, num_rows: int):
        self.rules, self.num_rows = rules, num_rows
        self.ids = np.full((num_rows, rules.max_length), -1, dtype=np.int64)
        self.is_action = np.zeros((num_rows, rules.max_length), dtype=bool)
        self.lengths = np.zeros(num_rows, dtype=np.int64)
        # int64 [N], where the first response begins, and where the present turn's does.
        self.prompt_lengths, self.turn_starts = (np.zeros(num_rows, dtype=np.int64) for _ in range(2))
        self.counts = np.zeros(num_rows, dtype=np.int64)  # actions so far
        self.running = np.zeros(num_rows, dtype=bool)
        self.prompts: list[Prompt | None] = [None] * num_rows
        # float64 [N, max_new_tokens], one entry an action; beyond `counts` they are of older episodes.
        self.log_probs, self.rewards, self.kl = (np.zeros((num_rows, rules.max_new_tokens)) for _ in range(3))
        self._unknown = np.full(rules.max_new_tokens, np.nan)  # the values, which the environment never learns
        self._unknown.setflags(write=False)
        self.token_scores, self.turn_scores = np.zeros(num_rows), np.zeros(num_rows)  # paid so far
        self.kl_coefs = np.zeros(num_rows)
        self.charges = np.zeros(num_rows, dtype=np.int8)
        self.groups = np.full(num_rows, -1)  # int64; -1 where prompts are not served in groups
        self._initial_charge = INITIAL_CHARGE[rules.kl_mode]
        self.pending = PendingScores()
        self.turns = None if rules.turns is None else TurnRows(rules.turns, num_rows)

    def reset_rows(
        self, rows: Sequence[int] | np.ndarray, prompts: Sequence[Prompt], groups: Sequence[int] | None = None
    ) -> None:
        """Start an episode in each of `rows`, from its prompt; groups: the number of the group each belongs to.

        A turn environment makes its own prompt of it. Raises a TurnError then, and `rows` need another reset.
        """
        if self.turns is not None:
            prompts = self.turns.begin([int(row) for row in rows], prompts, self.rules.max_prompt_tokens)
        for row, prompt in zip(rows, prompts, strict=True):
            length = len(prompt.ids)
            self.ids[row, :length] = prompt.ids
            self.ids[row, length:] = -1
            self.lengths[row] = length
            self.prompts[row] = prompt
        self.running[rows] = True
        self.prompt_lengths[rows] = self.turn_starts[rows] = self.lengths[rows]
        self.groups[rows] = -1 if groups is None else groups
        self.is_action[rows] = False
        self.counts[rows] = 0
        self.token_scores[rows] = self.turn_scores[rows] = 0.0
        # The coefficient of an episode is the one in force when it starts: its return stays a sum of like terms.
        self.kl_coefs[rows] = self.rules.kl_penalty.coef
        self.charges[rows] = self._initial_charge

    def state_dict(self) -> dict[str, Any]:
        """The rows in flight: copies of the arrays [N, ...], the `source` of each row's prompt, and pending scores."""
        prompts = [None if prompt is None else prompt.source for prompt in self.prompts]
        rows = {name: getattr(self, name).copy() for name in _ROW_ARRAYS}
        state = rows | {"prompts": prompts, "pending": self.pending.state_dict()}
        if self.turns is None:
            return state
        opened = [None if prompt is None else prompt.text for prompt in self.prompts]
        return state | {"opened": opened, "turns": self.turns.state_dict(self.running)}

    def load_state_dict(self, state: Mapping[str, Any], prompts: PromptSet) -> None:
        """Go on where `state_dict` was taken.

        prompts: the set that the rows' prompts are from. Raises ConfigError where rows or prompts do not fit, and then
        has changed nothing.
        """
        restored: list[Prompt | None] = []
        if np.shape(state["ids"]) != self.ids.shape or len(state["prompts"]) != self.num_rows:
            raise ConfigError(
                f"saved rows have the shape {np.shape(state['ids'])}, this environment's {self.ids.shape}: "
                "build it with the arguments of the one that was saved"
            )
        for row, source in enumerate(state["prompts"]):
            if isinstance(source, int) and source >= len(prompts):
                raise ConfigError(f"row {row} was saved with prompt {source}, and there are now {len(prompts)}")
            prompt = None if source is None else prompts.restored(source)
            restored.append(prompt)
            if prompt is not None and not np.array_equal(prompt.ids, state["ids"][row][: len(prompt.ids)]):
                raise ConfigError(f"the prompt of row {row} is not the one it was saved with: {prompt.text!r:.80}")
        envs = None if self.turns is None else self.turns.restored(state["turns"], np.asarray(state["running"]))
        self.pending.load_state_dict(state.get("pending", []), prompts)  # an older state has none
        for name in _ROW_ARRAYS:
            getattr(self, name)[...] = state[name]
        self.prompts = restored
        if self.turns is not None and envs is not None:
            self.turns.load_state_dict(state["turns"], envs)
            self.prompts = [
                None if prompt is None else replace(prompt, text=text, ids=ids[:length].copy())
                for prompt, text, ids, length in zip(
                    restored, state["opened"], self.ids, self.prompt_lengths, strict=True
                )
            ]

    def write(self, live: np.ndarray, newest: Newest, ends: Mapping[int, TurnEnd]) -> None:
        """Append the newest token to the live rows, and behind it what turn environments answered."""
        rows = np.flatnonzero(live)
        place = rows * self.ids.shape[1] + self.lengths[rows]  # in the flat array: one index instead of two
        self.ids.reshape(-1)[place] = newest.tokens[rows]
        self.is_action.reshape(-1)[place] = True
        place = rows * self.rewards.shape[1] + self.counts[rows]
        self.rewards.reshape(-1)[place] = newest.rewards[rows]
        self.log_probs.reshape(-1)[place] = newest.log_probs[rows]
        self.kl.reshape(-1)[place] = newest.kl[rows]
        self.lengths += live
        self.counts += live
        for row, end in ends.items():
            stop = self.lengths[row] + len(end.appended)
            self.ids[row, self.lengths[row] : stop] = end.appended
            self.lengths[row] = self.turn_starts[row] = stop
            self.turn_scores[row] += end.reward
            assert self.turns is not None  # it gave the end
            self.turns.commit(row, end.record)

    def trajectory(
        self, row: int, newest: Newest | None = None, appended: Sequence[int] = (), **known: Any
    ) -> Trajectory:
        """The row's episode so far, and what a step adds to it before that is written. known: of its end."""
        length, count = self.lengths[row], self.counts[row] + (newest is not None)
        columns = {name: getattr(self, name)[row, :count].copy() for name in ("log_probs", "rewards", "kl")}
        if newest is None:
            ids, is_action = self.ids[row, :length].copy(), self.is_action[row, :length].copy()
        else:  # what it adds stands in copies alone
            ids, is_action = self.ids[row, : length + 1].copy(), self.is_action[row, : length + 1].copy()
            ids[-1], is_action[-1] = newest.tokens[row], True
            for name, column in columns.items():
                column[-1] = getattr(newest, name)[row]
        if appended:
            ids, is_action = np.append(ids, appended), np.append(is_action, np.zeros(len(appended), dtype=bool))
        return Trajectory(
            ids,
            is_action,
            **columns,
            values=self._unknown[: len(columns["rewards"])],
            kl_coef=float(self.kl_coefs[row]),
            group=None if self.groups[row] < 0 else int(self.groups[row]),
            prompt=self.prompt_of(row).text,
            **known,
        )

    def prompt_of(self, row: int) -> Prompt:
        prompt = self.prompts[row]
        assert prompt is not None  # only running rows are asked
        return prompt

    def response_ids(self, row: int, tokens: np.ndarray) -> np.ndarray:
        return np.append(self.ids[row][self.is_action[row]], tokens[row])

    def turn_ids(self, row: int, tokens: np.ndarray) -> np.ndarray:
        """What was sampled in the row's present turn, int64 [n], the newest of `tokens` last."""
        return np.append(self.ids[row, self.turn_starts[row] : self.lengths[row]], tokens[row])
