"""Several responses to each prompt, sampled in the environment until a budget of tokens is spent.

All rows decode at once over the slot cache, and a row whose response ends takes the next one that is wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from textrl_agents.evaluation.fresh_samples import response_kls
from textrl_env import TextGenVectorEnv
from textrl_env.actions import parse_actions
from textrl_env.errors import ConfigError
from textrl_env.mdp import TokenMDP
from textrl_env.models import CausalLMActorCritic, PackedEpisodes, pack
from textrl_env.text.prompts import Prompt, PromptSet
from textrl_env.trajectory import Trajectory


class Response(NamedTuple):
    """One response to a prompt."""

    prompt: Prompt
    episode: Trajectory  # its response_ids, text, score and why it ended
    log_probs: np.ndarray  # float32 [T], the policy's when it sampled them
    kl: float  # nats, of the whole response, by the environment's estimator

    @property
    def score(self) -> float:
        return self.episode.score

    @property
    def length(self) -> int:
        """Tokens, with EOS."""
        return len(self.episode.response_ids)


@dataclass(frozen=True)
class Samples:
    """Groups of responses, each to one prompt, in the order of the prompts."""

    groups: list[list[Response]]

    @property
    def responses(self) -> list[Response]:
        return [response for group in self.groups for response in group]

    @property
    def tokens(self) -> int:
        """All that were generated."""
        return sum(response.length for response in self.responses)

    def means(self) -> dict[str, float]:
        """`score`, `kl` and `length` over all responses, as a point of the learning curve takes them."""
        responses = self.responses
        return {
            name: float(np.mean([getattr(response, name) for response in responses]))
            for name in ("score", "kl", "length")
        }


def prompt_stream(prompts: PromptSet, generator: np.random.Generator) -> Iterator[Prompt]:
    """Uniformly drawn prompts without end, as an environment's row draws them."""
    while True:
        yield prompts.sample(generator)


def sample_groups(
    policy: CausalLMActorCritic, env: TextGenVectorEnv, prompts: Iterable[Prompt], n: int, *, budget: int | None = None
) -> Samples:
    """`n` responses to each prompt by the present policy, with torch's global generator.

    env: gives the rules and the number of rows; its own episodes are not touched.
    budget: tokens to generate; None answers all prompts. Groups are whole: one begins where those begun leave room for
        it at the mean length seen so far, so the spending ends about a group below the budget. One always begins.
    """
    if n < 1:
        raise ConfigError(f"n must be a whole number >= 1, got {n}")
    queue = _Queue(iter(prompts), n, budget, env.rules.max_new_tokens)
    first = [work for _, work in zip(range(env.num_envs), queue, strict=False)]
    if not first:
        raise ConfigError("there are no prompts to sample responses to")
    mdp = TokenMDP(env.rules, len(first))
    mdp.reset_rows(range(len(first)), [prompt for _, prompt in first])
    tasks = dict(enumerate(first))
    drawn: dict[int, list[torch.Tensor]] = {row: [] for row in tasks}
    finished: dict[int, tuple[Prompt, Trajectory, torch.Tensor]] = {}
    policy.clear_cache()
    while mdp.running.any():
        live = mdp.running.copy()
        queue.generated += int(live.sum())
        sample = policy.step(torch.from_numpy(mdp.ids).to(policy.device))
        log_probs = sample.log_probs.cpu()
        for row in np.flatnonzero(live).tolist():
            drawn[row].append(log_probs[row])
        for row, episode in mdp.step(parse_actions(sample.tokens, len(live), env.rules.vocabulary.size), live).episodes:
            number, prompt = tasks[row]
            finished[number] = prompt, episode, torch.stack(drawn[row])
            queue.finished += 1
            following = next(queue, None)
            if following is not None:
                tasks[row], drawn[row] = following, []
                mdp.reset_rows([row], [following[1]])
    policy.clear_cache()
    return Samples(_groups(policy, env, [finished[number] for number in range(len(finished))], n))


def pack_responses(responses: list[Response], device: torch.device) -> PackedEpisodes:
    """Responses as whole sequences whose actions are their tokens."""
    return pack([response.episode for response in responses], device)


class _Queue:
    """(number, prompt) of the responses that are wanted, as long as the budget has room for whole groups."""

    def __init__(self, prompts: Iterator[Prompt], n: int, budget: int | None, limit: int):
        self.prompts, self.n, self.budget, self.limit = prompts, n, budget, limit
        self.begun = self.finished = self.generated = 0  # responses, responses, tokens
        self.prompt: Prompt | None = None

    def __iter__(self) -> _Queue:
        return self

    def __next__(self) -> tuple[int, Prompt]:
        if self.begun % self.n == 0:
            if not self._has_room():
                raise StopIteration
            self.prompt = next(self.prompts)
        assert self.prompt is not None  # a group begins with one
        self.begun += 1
        return self.begun - 1, self.prompt

    def _has_room(self) -> bool:
        if self.budget is None or self.begun == 0:
            return True
        # Those running are half done on average; the finished ones alone would be the short ones.
        done = (self.finished + self.begun) / 2
        length = self.generated / done if self.generated else self.limit
        return (self.begun + self.n) * length <= self.budget


def _groups(
    policy: CausalLMActorCritic,
    env: TextGenVectorEnv,
    finished: list[tuple[Prompt, Trajectory, torch.Tensor]],
    n: int,
) -> list[list[Response]]:
    prompt_ids = [prompt.ids for prompt, *_ in finished]
    response_ids = [episode.response_ids for _, episode, _ in finished]
    log_probs = torch.cat([log_probs for *_, log_probs in finished])
    kls = response_kls(policy, env, prompt_ids, response_ids, log_probs)
    responses = [
        Response(prompt, episode, log_probs.numpy(), float(kl))
        for (prompt, episode, log_probs), kl in zip(finished, kls, strict=True)
    ]
    return [responses[start : start + n] for start in range(0, len(responses), n)]
