"""A policy of one's own: what follows from its states alone, and mistakes that are named before training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from textrl_agents.check.conformance import check_policy
from textrl_agents.evaluation import evaluate
from textrl_agents.policy import LogitStates, Policy
from textrl_agents.rollout import collect
from textrl_env import TextGenVectorEnv
from textrl_env.errors import ConfigError
from textrl_env.models import CausalLMActorCritic, PackedEpisodes, Vocabulary, pack
from textrl_env.tasks.built_in.exact import letter_model


class Plain(Policy):
    """A language model that recomputes every prefix. late: looks at the state after the one that is asked for."""

    def __init__(self, model: Any, tokenizer: Any, *, late: int = 0, temperature: float = 1.0):
        self.model, self.vocabulary = model, Vocabulary.of(model, tokenizer)
        self.late, self.temperature = late, temperature

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def states(self, shown: torch.Tensor | PackedEpisodes) -> LogitStates:
        if isinstance(shown, PackedEpisodes):
            place, temperature = (shown.rows, (shown.columns + self.late).clamp(max=shown.input_ids.shape[1] - 1)), 1.0
            ids = shown.input_ids
        else:
            place, temperature = (torch.arange(len(shown)), (shown >= 0).sum(dim=1) - 1), self.temperature
            ids = shown.clamp(min=0)
        logits = self.model(input_ids=ids).logits[place] / temperature
        return LogitStates(logits, torch.zeros(len(logits)))


@pytest.fixture
def env() -> TextGenVectorEnv:
    return TextGenVectorEnv(8, "exact", kl_mode="deferred", autoreset_mode="SAME_STEP", device="cpu")


def test_its_states_are_enough(env: TextGenVectorEnv) -> None:
    """The same numbers as the package's own policy over the same weights."""
    model, tokenizer = letter_model()
    plain, core = Plain(model, tokenizer), CausalLMActorCritic(model, tokenizer, max_length=6)
    check_policy(plain, env)
    check_policy(core, env)
    sampled = collect(plain, env, episodes=16, seed=0)
    ours, theirs = (policy.evaluate(pack(sampled, "cpu")) for policy in (plain, core))
    assert torch.allclose(ours.log_probs, theirs.log_probs, atol=1e-5)
    assert torch.allclose(ours.entropy, theirs.entropy, atol=1e-5)
    assert ours.log_probs.requires_grad
    assert np.concatenate([one.log_probs for one in sampled]) == pytest.approx(ours.log_probs.detach(), abs=1e-5)
    assert abs(evaluate(plain, env=env, episodes=16)["kl"].mean) < 1e-5
    assert evaluate(plain, env=env, episodes=16, deterministic=True)["entropy"].mean == 0


def test_the_exact_kl_takes_its_distributions() -> None:
    full = TextGenVectorEnv(4, "exact", kl_mode="deferred", kl_estimator="full", device="cpu")
    model, tokenizer = letter_model()
    with torch.no_grad():
        model.lm_head.weight *= 1.5
    assert all(one.kl.min() > 0 for one in collect(Plain(model, tokenizer), full, episodes=4, seed=0))


def test_mistakes_are_named(env: TextGenVectorEnv) -> None:
    model, tokenizer = letter_model()
    with pytest.raises(ConfigError, match=r"evaluate differs from step by \d.* the same state"):
        check_policy(Plain(model, tokenizer, late=1), env)
    with pytest.raises(ConfigError, match="after temperature and cuts"):
        check_policy(Plain(model, tokenizer, temperature=0.5), env)

    class Unmasked(Plain):
        def states(self, shown: torch.Tensor | PackedEpisodes) -> LogitStates:
            states = super().states(shown)
            return LogitStates(states.logits.index_fill(1, torch.tensor([2]), 50.0), states.values)

    env.rules.vocabulary.known[2] = False
    with pytest.raises(ConfigError, match="step drew 2, an id that the tokenizer does not know"):
        check_policy(Unmasked(model, tokenizer), env)


def test_what_is_not_given_is_asked_for() -> None:
    with pytest.raises(TypeError, match="states"):
        type("Silent", (Policy,), {"device": torch.device("cpu")})()
