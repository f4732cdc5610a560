"""The exact value of policies, and of the best one, where every response, or course of turns, can be written down.

For the KL-regularised objective with discount 1, `J(pi) = E_pi[score - beta * log(pi / pi_ref)]`, the best achievable
value from a prompt is `J* = beta * log E_ref[exp(score / beta)]` (Korbak et al. 2022, https://arxiv.org/abs/2205.11275,
section 3). `(J - J_ref) / (J* - J_ref)` is 0 for the reference and 1 for the optimum.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from textrl_env.errors import ConfigError
from textrl_env.models.packing import PackedEpisodes, pack
from textrl_env.rewards.scoring import score_episodes
from textrl_env.rules import EpisodeRules
from textrl_env.tasks.turn_enumeration import turn_courses
from textrl_env.text.prompts import PromptSet
from textrl_env.text.tokenization import decode_responses
from textrl_env.trajectory import Trajectory

MAX_RESPONSES = 200_000


def enumerate_responses(vocab_size: int, eos_ids: np.ndarray, max_new_tokens: int) -> Iterator[np.ndarray]:
    """Write down every response: tokens up to the first EOS, or `max_new_tokens` of them without one."""
    inner = [token for token in range(vocab_size) if token not in set(eos_ids.tolist())]
    for length in range(1, max_new_tokens + 1):
        # A response shorter than the limit ends by EOS; at the limit any token may stand last.
        last = eos_ids.tolist() if length < max_new_tokens else range(vocab_size)
        for start in itertools.product(inner, repeat=length - 1):
            for token in last:
                yield np.array([*start, token], dtype=np.int64)


def _scored(
    rules: EpisodeRules, prompts: PromptSet, responses: list[np.ndarray]
) -> Iterator[list[tuple[Trajectory, float]]]:
    """List every response with its score, prompt by prompt."""
    texts = decode_responses(rules.tokenizer, responses)
    ids = [response.tolist() for response in responses]
    for index in range(len(prompts)):
        prompt = prompts[index]
        columns = {name: [value] * len(responses) for name, value in prompt.columns.items()}
        columns["finish_reason"] = rules.finish_reasons(ids)
        scores = score_episodes(rules.reward, [prompt.text] * len(responses), texts, ids, columns).scores
        trajectories = [Trajectory.of_response(prompt.ids, response) for response in responses]
        yield list(zip(trajectories, scores.tolist(), strict=True))


class ExactValue:
    """`J_ref`, `J*` and any policy's `J`, averaged over the prompts; in units of the score.

    rules, prompts: an environment's own (`env.rules`, `env.prompts`). beta is its `kl_coef`.
    """

    def __init__(self, rules: EpisodeRules, prompts: PromptSet):
        self.beta = rules.kl_penalty.coef
        if self.beta <= 0:
            raise ConfigError("the optimum is finite only with kl_coef > 0")
        size, limit = rules.vocabulary.size, rules.max_new_tokens
        turn_limit = limit if rules.turns is None else rules.turns.max_turn_tokens
        if rules.turns is not None:
            limit = turn_limit * rules.turns.max_turns
        if size**limit > MAX_RESPONSES:
            raise ConfigError(f"about {size}**{limit} responses cannot be enumerated; at most {MAX_RESPONSES} can")
        reference = rules.kl_penalty.require_reference()
        scores_tokens = getattr(rules.reward, "score_tokens", None) is not None
        if rules.stop.strings or rules.sampling.truncates or scores_tokens:
            raise ConfigError(
                "exact values need every response possible, ended by EOS or the limit and scored as a whole: "
                "no stop strings, top_k, top_p or per-token rewards"
            )
        responses = list(enumerate_responses(size, rules.vocabulary.eos_ids, turn_limit))
        of_prompts = list((_scored if rules.turns is None else turn_courses)(rules, prompts, responses))
        self._count = len(of_prompts[0])
        if any(len(courses) != self._count for courses in of_prompts):
            raise ConfigError("exact values need as many courses from one prompt as from another")
        self._packed = pack([course for courses in of_prompts for course, _ in courses], reference.lm.device)
        self.scores = np.array(
            [[score for _, score in courses] for courses in of_prompts]
        )  # float64 [prompts, courses]
        self.ref_log_probs = self._sum(self._packed, reference.episode_log_probs(self._packed))
        self.reference_value = float((np.exp(self.ref_log_probs) * self.scores).sum(axis=1).mean())
        tilted = self.ref_log_probs + self.scores / self.beta
        self.optimal_value = float(self.beta * np.logaddexp.reduce(tilted, axis=1).mean())

    @torch.no_grad()
    def value(self, actor_critic: Any, *, deterministic: bool = False) -> float:
        """Compute J of a policy from its exact probability of every response.

        actor_critic: a CausalLMActorCritic, or anything with its `evaluate`.
        deterministic: decode greedily, which gives one response to each prompt.
        """
        if deterministic:
            likeliest = actor_critic.states(self._packed).logits.argmax(dim=-1)
            missed = self._sum(self._packed, (likeliest != self._packed.actions).float())
            # The one response that takes the likeliest token throughout; its probability is 1.
            gains = self.scores + self.beta * self.ref_log_probs
            return float(gains[missed == 0].mean())
        log_probs = self._sum(self._packed, actor_critic.evaluate(self._packed).log_probs)
        gain = self.scores - self.beta * (log_probs - self.ref_log_probs)
        return float((np.exp(log_probs) * gain).sum(axis=1).mean())

    def normalized(self, actor_critic: Any, *, deterministic: bool = False) -> float:
        """0 for the reference, 1 for the optimum."""
        achieved = self.value(actor_critic, deterministic=deterministic)
        return (achieved - self.reference_value) / (self.optimal_value - self.reference_value)

    def _sum(self, packed: PackedEpisodes, log_probs: torch.Tensor) -> np.ndarray:
        totals = torch.zeros(len(packed.lengths), dtype=torch.float64, device=log_probs.device)
        totals.index_add_(0, packed.rows, log_probs.double())
        return totals.cpu().numpy().reshape(-1, self._count)
