"""Scores after the fact: responses that have ended wait until the reward is asked for all of them together.

In `score_mode="deferred"` the environment pays no score when an episode ends. A rollout then costs one call of the
reward, and not one at each step at which a response ends: a classifier, a judge on a server or an LLM sees hundreds of
responses at once. The score is paid on the last action afterwards, before anything is learned from it.

Scores that a reward gives to tokens are paid as the tokens come, in both modes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from textrl_env.errors import ConfigError, RewardTimeout
from textrl_env.foreign_text import shown
from textrl_env.rewards.background import BackgroundCalls
from textrl_env.rewards.protocol import reward_name
from textrl_env.rewards.scoring import score_episodes
from textrl_env.rules import EpisodeRules
from textrl_env.text.prompts import Prompt, PromptSet, columns_of
from textrl_env.trajectory import Paid, Trajectory


class Ended(NamedTuple):
    """A response that has ended."""

    episode: Trajectory
    prompt: Prompt
    paid: Paid  # as the tokens came


class Scored(NamedTuple):
    """What the reward says of a response, before what was paid as the tokens came."""

    score: float
    parts: dict[str, float]


class PendingScores:
    """The responses that wait for their scores, in the order in which they ended.

    With `reward_workers` they are handed to that many threads as they end, and scored while sampling goes on. Else the
    reward is asked for all of them in `settle`, `reward_batch` in a call.
    """

    def __init__(self) -> None:
        self._waiting: list[Ended] = []
        self._scored: list[Scored] = []  # of the first of them; more than none only after a later one has failed
        self._given = 0  # of them, to the threads
        self._background: BackgroundCalls[Ended, Scored] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, ended: Ended, rules: EpisodeRules) -> None:
        """Let a response wait; `episode.score_pending` is its place in what `settle` returns."""
        ended.episode.score_pending = len(self._waiting)
        self._waiting.append(ended)
        if rules.reward_workers:
            self._hand_over(rules)

    def settle(self, rules: EpisodeRules) -> list[Trajectory]:
        """Score all that wait and pay each score on its episode's last action; returns the episodes.

        Raises what `score_episodes` raises. Nothing was paid then, and everything still waits.
        """
        waiting = self._waiting
        if rules.reward_workers:
            self._scored += self._hand_over(rules).gather()
        size = rules.reward_batch or max(1, len(waiting))
        while len(self._scored) < len(waiting):
            self._scored += _score_waiting(rules.reward, waiting[len(self._scored) : len(self._scored) + size])
        gold: list[float | None] = [None] * len(waiting)
        if rules.gold is not None:
            parts = [waiting[start : start + size] for start in range(0, len(waiting), size)]
            gold = [each.score for part in parts for each in _score_waiting(rules.gold, part)]
        for ended, scored, gold_score in zip(waiting, self._scored, gold, strict=True):
            ended.episode.pay(scored.score, scored.parts, gold_score, ended.paid)
        self._forget()
        return [ended.episode for ended in waiting]

    def close(self) -> None:
        """Stop asking. A call that has begun ends by itself; its scores are not used."""
        if self._background is not None:
            self._background.close()
            self._background, self._given = None, len(self._scored)

    def state_dict(self) -> list[dict[str, Any]]:
        """The responses that wait: arrays, numbers and text."""
        return [
            {
                "episode": asdict(ended.episode),
                "prompt": ended.prompt.source,
                "paid": (ended.paid.total, dict(ended.paid.parts)),
            }
            for ended in self._waiting
        ]

    def load_state_dict(self, state: Sequence[Mapping[str, Any]], prompts: PromptSet) -> None:
        """Go on where `state_dict` was taken.

        prompts: the set that the responses' prompts are from. Raises ConfigError where they are not, and then has
        changed nothing.
        """
        waiting = [
            Ended(Trajectory(**entry["episode"]), _restored(entry, prompts), Paid(*entry["paid"])) for entry in state
        ]
        self.close()
        self._forget()
        self._waiting = waiting

    def _forget(self) -> None:
        self._waiting, self._scored, self._given = [], [], 0

    def _hand_over(self, rules: EpisodeRules) -> BackgroundCalls[Ended, Scored]:
        """Give the threads what they have not got."""
        if self._background is None:
            reward = rules.reward
            self._background = BackgroundCalls(
                lambda ended: _score_waiting(reward, ended),
                workers=rules.reward_workers,
                most=rules.reward_batch,
                name=f"reward {reward_name(reward)}",
            )
        for ended in self._waiting[self._given :]:
            self._background.add(ended)
        self._given = len(self._waiting)
        return self._background

    def __deepcopy__(self, memo: dict[int, Any]) -> PendingScores:
        # Threads are not copied: the copy asks for itself.
        twin = PendingScores()
        twin._waiting = [ended._replace(episode=copy.deepcopy(ended.episode, memo)) for ended in self._waiting]
        return twin


def _restored(entry: Mapping[str, Any], prompts: PromptSet) -> Prompt:
    """The prompt of a response that waits. Raises ConfigError where it is not the one that was answered."""
    source, ids = entry["prompt"], entry["episode"]["ids"]
    if isinstance(source, int) and source >= len(prompts):
        raise ConfigError(f"a response to prompt {source} waits for its score, and there are now {len(prompts)}")
    prompt = prompts.restored(source)
    if not np.array_equal(prompt.ids, ids[: len(prompt.ids)]):
        raise ConfigError(f"a response that waits for its score answers another prompt than {shown(prompt.text)}")
    return prompt


def score_together(reward: Any, ended: Sequence[Ended]) -> list[Scored]:
    """Score responses, at least one, in one call of the reward. Raises what `score_episodes` raises."""
    episodes = [each.episode for each in ended]
    columns = columns_of([each.prompt for each in ended])
    found = score_episodes(
        reward,
        [episode.prompt for episode in episodes],
        [episode.completion for episode in episodes],
        [episode.response_ids.tolist() for episode in episodes],
        {**columns, "finish_reason": [episode.finish_reason for episode in episodes]},
    )
    scores = found.scores.tolist()
    parts = [{name: float(part[place]) for name, part in found.parts.items()} for place in range(len(ended))]
    return list(map(Scored, scores, parts))


def pay_now(rules: EpisodeRules, ended: Sequence[Ended]) -> None:
    """Score responses and pay each score on its episode's last action. Raises what `score_episodes` raises."""
    scored = score_together(rules.reward, ended)
    gold = None if rules.gold is None else score_together(rules.gold, ended)
    for place, each in enumerate(ended):
        gold_score = None if gold is None else gold[place].score
        each.episode.pay(scored[place].score, scored[place].parts, gold_score, each.paid)


def _score_waiting(reward: Any, ended: Sequence[Ended]) -> list[Scored]:
    """`score_together`, whose error says that there may be too many of them."""
    try:
        return score_together(reward, ended)
    except RewardTimeout as error:
        if len(ended) == 1:
            raise
        raise RewardTimeout(
            f"{error}. score_mode='deferred' asks for all responses of a rollout in one call: reward_batch=N asks for "
            "N in a call, and reward_workers=N has N calls at a time"
        ) from error
