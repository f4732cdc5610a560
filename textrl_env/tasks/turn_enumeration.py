"""Every course that an episode of several turns can take, where the turn environment answers by rules.

A course is what the policy wrote in each turn. The turn environment adds no chance of its own, so a policy's
probability of a course is the product over its tokens, and what is known of responses (`textrl_env.tasks.enumeration`)
holds of courses.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from textrl_env.errors import ConfigError
from textrl_env.rules import EpisodeRules
from textrl_env.text.prompts import PromptSet
from textrl_env.trajectory import Trajectory
from textrl_env.turns.rules import TurnRules


def turn_courses(
    rules: EpisodeRules, prompts: PromptSet, replies: list[np.ndarray]
) -> Iterator[list[tuple[Trajectory, float]]]:
    """List every course with its score, prompt by prompt.

    replies: int64 [m] each, all that can be written in a turn. The turn environment must follow from the prompt's
    `seed` and from the replies, and must be able to be saved.

    Raises ConfigError where it cannot be saved, or where a course would be cut by `max_new_tokens`.
    """
    turns = rules.turns
    assert turns is not None
    for index in range(len(prompts)):
        env: Any = turns.make()
        if not callable(getattr(env, "get_state", None)) or not callable(getattr(env, "set_state", None)):
            raise ConfigError("exact values need a turn environment with get_state and set_state")
        first, _ = env.reset(seed=prompts[index].columns.get("seed", index))
        opening = turns.bridge.prompt([{"role": "user", "content": first}])
        courses = list(_courses(turns, env, env.get_state(), opening, [False] * len(opening), replies))
        longest = max(len(trajectory.ids) for trajectory, _ in courses) - len(opening)
        if longest > rules.max_new_tokens:
            raise ConfigError(
                f"a course of {longest} tokens is cut by max_new_tokens={rules.max_new_tokens}; exact values need "
                "every course to end by its turns"
            )
        yield courses


def _courses(
    turns: TurnRules,
    env: Any,
    state: Any,
    ids: list[int],
    is_action: list[bool],
    replies: list[np.ndarray],
    depth: int = 1,
) -> Iterator[tuple[Trajectory, float]]:
    """Play every reply from a state on; the score is what is paid from there."""
    for reply in replies:
        sampled = reply.tolist()
        env.set_state(state)
        said, reward, terminated, truncated, info = env.step(turns.bridge.parse(sampled))
        taken, acted = [*ids, *sampled], [*is_action, *[True] * len(sampled)]
        if terminated or truncated or depth == turns.max_turns:
            yield Trajectory(np.array(taken), np.array(acted)), reward
            continue
        answer = turns.bridge.extend(taken, [{"role": info.get("role", "user"), "content": said}])
        later = [*taken, *answer], [*acted, *[False] * len(answer)]
        for trajectory, rest in _courses(turns, env, env.get_state(), *later, replies, depth + 1):
            yield trajectory, reward + rest
