"""Prompts served in groups: the same prompt to so many rows, in order, whatever ends when."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from textrl_env import TextGenVectorEnv
from textrl_env.errors import ConfigError
from textrl_env.tasks import Task

ROWS, SIZE = 5, 3  # no multiple: groups end in other rows than they began in


def make(task: Any, mode: AutoresetMode = AutoresetMode.SAME_STEP, size: int = SIZE) -> TextGenVectorEnv:
    return TextGenVectorEnv(ROWS, task, kl_mode="deferred", group_size=size, autoreset_mode=mode)


def play(env: TextGenVectorEnv, steps: int, seed: int = 0) -> list[Any]:
    """Episodes in the order of their ends, under random tokens."""
    rng = np.random.default_rng(seed)
    episodes = []
    for _ in range(steps):
        env.step(rng.integers(env.single_action_space.n, size=env.num_envs))
        assert env.transition is not None
        episodes += [episode for _, episode in env.transition.episodes]
    return episodes


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_every_group_is_one_prompt_and_gets_its_size(mode: AutoresetMode, tiny_task: Task):
    env = make(tiny_task, mode)
    env.reset(seed=3)
    groups = defaultdict(list)
    for episode in play(env, 120):
        groups[episode.group].append(episode.prompt)
    assert len(groups) > 20
    assert all(len(set(prompts)) == 1 for prompts in groups.values())
    newest = max(groups)
    # Only the groups that rows are still busy with may lack a response.
    short = [group for group, prompts in groups.items() if len(prompts) < SIZE]
    assert all(len(prompts) <= SIZE for prompts in groups.values())
    assert len(short) <= ROWS
    assert sorted(groups) == list(range(newest + 1))
    assert len({prompts[0] for prompts in groups.values()}) > 1


def test_the_info_names_the_group_only_where_there_are_groups(tiny_task: Task):
    grouped, plain = make(tiny_task), make(tiny_task, size=1)
    for env, expected in ((grouped, True), (plain, False)):
        env.reset(seed=0)
        assert all(("group" in episode.info()) is expected for episode in play(env, 20))
    assert (grouped.group_size, plain.group_size) == (SIZE, 1)


def test_the_same_seed_serves_the_same_prompts_and_another_others(tiny_task: Task):
    def prompts(seed: int) -> list[Any]:
        env = make(tiny_task)
        env.reset(seed=seed)
        return [(episode.prompt, episode.group) for episode in play(env, 60)]

    assert prompts(1) == prompts(1)
    assert prompts(1) != prompts(2)


def test_a_saved_environment_goes_on_with_its_groups(tiny_task: Task):
    """CHECKS 32: in the middle of a group."""
    env = make(tiny_task)
    env.reset(seed=4)
    play(env, 17)
    state = env.state_dict()
    expected = [(episode.prompt, episode.group) for episode in play(env, 60, seed=9)]
    other = make(tiny_task)
    other.reset(seed=8)
    other.load_state_dict(state)
    assert [(episode.prompt, episode.group) for episode in play(other, 60, seed=9)] == expected


def test_a_reset_begins_a_new_group(tiny_task: Task):
    env = make(tiny_task)
    env.reset(seed=0)
    first = set(env._mdp.groups.tolist())
    env.reset()
    assert first.isdisjoint(env._mdp.groups.tolist())


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "3"])
def test_bad_sizes(size: Any, tiny_task: Task):
    with pytest.raises(ConfigError, match="group_size must be a whole number >= 1"):
        TextGenVectorEnv(ROWS, tiny_task, group_size=size)


def test_prompts_cannot_be_chosen_beside_groups(tiny_task: Task):
    with pytest.raises(ConfigError, match="served in groups: give no 'prompt_index'"):
        make(tiny_task).reset(options={"prompt_index": [0] * ROWS})
