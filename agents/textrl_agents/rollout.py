"""The one sampling loop outside the RL libraries: a policy answers prompts, and each response is a trajectory.

All rows decode at once over the slot cache, and a row whose response ends takes the next prompt. Every response that
is begun is returned, and which prompts are answered does not depend on the policy, so short responses are not favoured.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import gymnasium
import numpy as np
import torch

from textrl_agents.policy import Policy
from textrl_agents.training.divergence import check_log_probs
from textrl_env import TextGenVectorEnv, TokenAction
from textrl_env.accounts import charge_kl
from textrl_env.actions import parse_actions
from textrl_env.errors import ConfigError
from textrl_env.mdp import TokenMDP
from textrl_env.rules import EpisodeRules
from textrl_env.text.prompts import Prompt, PromptSet
from textrl_env.trajectory import Trajectory
from textrl_env.user_values import check_seed


def collect(
    policy: Policy,
    env: TextGenVectorEnv,
    *,
    episodes: int | None = None,
    seed: int | None = None,
    prompts: Iterable[Prompt] | None = None,
    repeats: int = 1,
    budget: int | None = None,
    deterministic: bool | None = None,
) -> list[Trajectory]:
    """Sample responses with torch's global generator, in the order of their prompts.

    env: gives the rules, the prompts and the number of rows; its own episodes are not touched.
    episodes: answer at least as many prompts: those that `env`'s rows draw after `reset(seed=seed)`,
        ceil(episodes / rows) each, round by round.
    prompts: answer these instead, `repeats` times each. `Trajectory.group` is the place of its prompt among them.
    budget: tokens to generate; None answers all prompts. Groups are whole: one begins where those begun leave room for
        it at the mean length seen so far, so the spending ends about a group below the budget. One always begins.
    deterministic: greedy decoding; None decodes as `policy.greedy` says.

    A trajectory has its log-probs and score, and its rewards are `score - kl_coef * kl` where `env` has a reference.
    What the environment defers is done here: all scores are asked for together, and then the KL. An adaptive
    coefficient stays as it is: training adapts it.

    Raises ConfigError, a RewardError, and TrainingDiverged where a log-probability is not finite.
    """
    rules = env.rules
    if (episodes is None) == (prompts is None):
        raise ConfigError("collect takes either episodes or prompts")
    if env.max_episode_steps is not None and env.max_episode_steps < rules.max_new_tokens:
        raise ConfigError(
            f"collect gives whole responses, and max_episode_steps={env.max_episode_steps} of the environment cuts "
            "them off: build it without"
        )
    if rules.vocabulary.size != policy.vocabulary.size:
        raise ConfigError(
            f"the policy emits {policy.vocabulary.size} tokens and the environment's model {rules.vocabulary.size}: "
            "pass model= the reference this policy was trained from"
        )
    if prompts is None:
        assert episodes is not None  # one of the two is given
        prompts, repeats = drawn_prompts(env, episodes, seed), env.group_size
    queue = PromptQueue(prompts, repeats=repeats, budget=budget, limit=rules.max_new_tokens)
    trajectories = respond(policy, rules, queue, rows=env.num_envs, deterministic=deterministic)
    if rules.kl_mode == "deferred" and rules.kl_penalty.reference is not None:
        charge_kl(trajectories, rules.kl_penalty, policy)
    return trajectories


def respond(
    policy: Policy, rules: EpisodeRules, queue: PromptQueue, *, rows: int, deterministic: bool | None = None
) -> list[Trajectory]:
    """The responses that `queue` wants, in its order, `rows` at a time, scored; a deferred KL is not charged yet."""
    deterministic = policy.greedy if deterministic is None else deterministic
    tasks = list(itertools.islice(queue, rows))  # of each row
    if not tasks:
        raise ConfigError("there are no prompts to sample responses to")
    mdp = TokenMDP(rules, len(tasks))
    mdp.reset_rows(range(len(tasks)), [task.prompt for task in tasks], [task.group for task in tasks])
    finished: dict[int, Trajectory] = {}
    policy.clear_cache()
    policy.look_ahead(None, queue.upcoming)
    try:
        while mdp.running.any():
            live = mdp.running.copy()
            drawn = policy.step(torch.from_numpy(mdp.ids).to(policy.device), deterministic=deterministic)
            log_probs = drawn.log_probs.float().numpy(force=True)
            check_log_probs(log_probs[live])
            actions = parse_actions(TokenAction(drawn.tokens, log_probs), len(live), rules.vocabulary.size, ~live)
            queue.generated += int(live.sum())
            transition = mdp.step(actions, live)
            for row, trajectory in [*transition.episodes, *transition.cut]:
                finished[tasks[row].number] = trajectory
                queue.finished += 1
                following = next(queue, None)
                if following is not None:
                    tasks[row] = following
                    mdp.reset_rows([row], [following.prompt], [following.group])
        mdp.settle_scores()
    finally:
        mdp.close()
        # The next caller finds a fresh decoder: sampling leaves no trace, not even in a log-probability's last bit.
        policy.clear_cache()
    return [finished[number] for number in range(len(finished))]


class Wanted(NamedTuple):
    """A response that is to be sampled."""

    number: int  # its place in the order of the results
    group: int  # the place of its prompt among the prompts
    prompt: Prompt


class PromptQueue(Iterator[Wanted]):
    """The responses that are wanted, as long as the budget has room for whole groups.

    repeats: responses to each prompt. budget: tokens, or None. limit: tokens of the longest response.
    generated, finished: what the sampling loop has done so far, in tokens and in responses; it keeps them up to date.
    """

    def __init__(self, prompts: Iterable[Prompt], *, repeats: int = 1, budget: int | None = None, limit: int):
        if repeats < 1:
            raise ConfigError(f"repeats must be a whole number >= 1, got {repeats}")
        self._prompts, self._repeats, self._budget, self._limit = iter(prompts), repeats, budget, limit
        self._begun = 0  # responses
        self._prompt: Prompt | None = None
        self._drawn: deque[Wanted] = deque()  # by `upcoming`
        self.generated = self.finished = 0

    def __next__(self) -> Wanted:
        return self._drawn.popleft() if self._drawn else self._draw()

    def upcoming(self, rows: Sequence[int]) -> list[np.ndarray]:
        """Ids of the prompts that come next, for so many rows: only those that come in any case.

        With a budget that is the rest of a group; whether another begins depends on responses to come. None where a
        turn environment is yet to write them.
        """
        while len(self._drawn) < len(rows) and (self._budget is None or self._begun % self._repeats):
            try:
                self._drawn.append(self._draw())
            except StopIteration:
                break
        drawn = (wanted.prompt.ids for wanted in itertools.islice(self._drawn, len(rows)))
        return [ids for ids in drawn if len(ids)]

    def _draw(self) -> Wanted:
        if self._begun % self._repeats == 0:
            if not self._has_room():
                raise StopIteration
            self._prompt = next(self._prompts)
        assert self._prompt is not None  # a group begins with one
        self._begun += 1
        return Wanted(self._begun - 1, (self._begun - 1) // self._repeats, self._prompt)

    def _has_room(self) -> bool:
        if self._budget is None or self._begun == 0:
            return True
        # Running responses are half done on average. The finished ones alone would be the short ones.
        done = (self.finished + self._begun) / 2
        length = self.generated / done if self.generated else self._limit
        return (self._begun + self._repeats) * length <= self._budget


def drawn_prompts(env: TextGenVectorEnv, episodes: int, seed: int | None) -> list[Prompt]:
    """The prompts that `env`'s rows draw after `reset(seed=seed)`, ceil(episodes / rows) each, round by round.

    With groups one generator draws a prompt for each `group_size` responses.
    """
    rounds, seed = math.ceil(episodes / env.num_envs), check_seed(seed)
    if env.group_size > 1:
        count = math.ceil(rounds * env.num_envs / env.group_size)
        return list(itertools.islice(prompt_stream(env.prompts, gymnasium.utils.seeding.np_random(seed)[0]), count))
    seeds = [None if seed is None else seed + row for row in range(env.num_envs)]
    streams = [prompt_stream(env.prompts, gymnasium.utils.seeding.np_random(row_seed)[0]) for row_seed in seeds]
    return [next(stream) for _ in range(rounds) for stream in streams]


def prompt_stream(prompts: PromptSet, generator: np.random.Generator) -> Iterator[Prompt]:
    """Draw prompts uniformly without end, as an environment's row does."""
    while True:
        yield prompts.sample(generator)
