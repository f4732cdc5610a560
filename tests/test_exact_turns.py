"""The task of several turns whose optimum is known: enumeration against brute force, and policies of known value."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from textrl_env import TextGenEnv, TextGenVectorEnv, TokenAction
from textrl_env.errors import ConfigError
from textrl_env.models import CausalLMActorCritic, ScriptedModel
from textrl_env.tasks.built_in.exact import letter_tokenizer
from textrl_env.tasks.built_in.exact_turns import model
from textrl_env.tasks.enumeration import ExactValue
from textrl_env.turns.built_in.exact_turns import LATER, LETTERS

EOS = len(LETTERS)


@pytest.fixture(scope="module")
def exact() -> tuple[TextGenEnv, ExactValue]:
    env = TextGenEnv("exact_turns", max_turn_tokens=2)  # the same in little: 441 courses where there are 7,225
    return env, ExactValue(env.rules, env.prompts)


def policy_of(seed: int = 0) -> CausalLMActorCritic:
    """The reference for seed 0, else a policy near it."""
    policy = CausalLMActorCritic(*model(), max_length=8)
    if seed:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in policy.model.parameters():
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return policy


def test_every_course_once_and_its_probabilities_sum_to_one(exact: Any) -> None:
    _, value = exact
    assert value.scores.shape == (2, 21 * 21)
    np.testing.assert_allclose(np.exp(value.ref_log_probs).sum(axis=1), [1.0, 1.0], atol=1e-5)
    assert value.scores.max() == 5.0


def test_values_by_brute_force() -> None:
    """J_ref and J* of a reference whose next token depends on the last id alone, multiplied out in plain Python."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(EOS + 1, EOS + 1, generator=generator).log_softmax(-1)
    env = TextGenEnv(
        "exact_turns",
        model=ScriptedModel(table, eos_token_id=EOS),
        tokenizer=letter_tokenizer(LETTERS),
        max_turn_tokens=2,
        kl_coef=0.4,
    )
    value = ExactValue(env.rules, env.prompts)
    probs = table.double().exp().numpy()

    def turns(said: int) -> list[tuple[float, list[int]]]:
        found: list[tuple[float, list[int]]] = []
        for one in range(EOS + 1):
            if one == EOS:
                found.append((probs[said, one], []))
                continue
            found += [
                (probs[said, one] * probs[one, two], [one] if two == EOS else [one, two]) for two in range(EOS + 1)
            ]
        return found

    def points(letters: list[int]) -> int:
        return sum(b - a == 1 for a, b in itertools.pairwise(letters))

    references, optima = [], []
    for start in (0, 1):
        courses = []
        for p, first in turns(start):
            said = first[-1] if first else EOS - 1
            courses += [(p * q, points([start, *first]) + LATER * points([said, *second])) for q, second in turns(said)]
        assert sum(p for p, _ in courses) == pytest.approx(1.0)
        references.append(sum(p * score for p, score in courses))
        optima.append(0.4 * np.log(sum(p * np.exp(score / 0.4) for p, score in courses)))
    assert value.reference_value == pytest.approx(np.mean(references), abs=1e-6)
    assert value.optimal_value == pytest.approx(np.mean(optima), abs=1e-6)


def test_the_reference_has_value_zero_and_nothing_exceeds_one(exact: Any) -> None:
    _, value = exact
    assert value.normalized(policy_of(0)) == pytest.approx(0.0, abs=1e-5)
    assert max(value.normalized(policy_of(seed)) for seed in range(1, 4)) < 1.0


@pytest.mark.slow  # thousands of tokens are sampled one by one
def test_the_environment_pays_what_the_enumeration_says() -> None:
    """A policy's exact J against the mean return of its own episodes, the log-ratio charged on its actions alone."""
    env = TextGenVectorEnv(256, "exact_turns", kl_mode="log_ratio", autoreset_mode="SAME_STEP")
    value = ExactValue(env.rules, env.prompts)
    policy = policy_of(5)
    torch.manual_seed(0)
    observations, _ = env.reset(seed=0)
    returns: list[float] = []
    for _ in range(30):
        action = policy.step(torch.from_numpy(observations))
        observations, *_ = env.step(TokenAction(action.tokens, action.log_probs))
        assert env.transition is not None
        returns += [episode.episode_return for _, episode in env.transition.episodes]
    error = 4 * np.std(returns) / len(returns) ** 0.5
    expected = value.value(policy)
    assert len(returns) > 1000
    assert np.mean(returns) == pytest.approx(expected, abs=error)
    assert abs(expected - value.reference_value) > 2 * error, "the policy is the reference: the test shows little"


def test_what_cannot_be_enumerated_is_refused() -> None:
    long = TextGenEnv("exact_turns", max_turns=4, max_new_tokens=15)
    with pytest.raises(ConfigError, match=r"about 5\*\*12 responses cannot be enumerated"):
        ExactValue(long.rules, long.prompts)
    short = TextGenEnv("exact_turns", max_turn_tokens=2, max_new_tokens=4)
    with pytest.raises(ConfigError, match="a course of 5 tokens is cut by max_new_tokens=4"):
        ExactValue(short.rules, short.prompts)
