"""The task whose optimum is known: enumeration against brute force, and the policies whose value is known."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from textrl_env import TextGenEnv, TextGenVectorEnv, TokenAction
from textrl_env.errors import ConfigError
from textrl_env.models import CausalLMActorCritic, ScriptedModel
from textrl_env.rewards import TokenFunctionReward
from textrl_env.tasks.built_in.exact import letter_model, letter_tokenizer, steps_forward
from textrl_env.tasks.enumeration import ExactValue, enumerate_responses

EOS = 5


def exact(**arguments: Any) -> tuple[TextGenEnv, ExactValue]:
    env = TextGenEnv("exact", **arguments)
    return env, ExactValue(env.rules, env.prompts)


def test_every_response_once():
    responses = [tuple(ids) for ids in enumerate_responses(6, np.array([EOS]), 5)]
    assert len(responses) == len(set(responses)) == 3906
    # Independently: all strings of five tokens, cut after their first EOS.
    cut = {full[: full.index(EOS) + 1] if EOS in full else full for full in itertools.product(range(6), repeat=5)}
    assert set(responses) == cut
    assert [ids.tolist() for ids in enumerate_responses(3, np.array([1, 2]), 1)] == [[0], [1], [2]]
    without_eos = list(enumerate_responses(3, np.array([], dtype=np.int64), 2))
    assert len(without_eos) == 9


def test_the_reward():
    assert steps_forward(["a", "c", "a", "e"], ["bcde", "ab", "", "aa"]) == [4.0, 1.0, 0.0, 0.0]


def test_letters_are_tokens():
    tokenizer = letter_tokenizer()
    assert tokenizer("edcba", add_special_tokens=False)["input_ids"] == [4, 3, 2, 1, 0]
    assert tokenizer.decode([0, 1, EOS]) == "ab</s>"
    assert len(tokenizer) == 6


def test_the_reference_is_the_same_every_time_and_leaves_the_global_seed_alone():
    """CHECKS 2 and 31: the task's model does not depend on torch's seed, nor change it."""
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = letter_model()[0].state_dict()
    assert torch.equal(torch.rand(3), expected)
    second = letter_model()[0].state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_values_by_brute_force():
    """J_ref and J* of a scripted reference, from probabilities multiplied out in plain Python."""
    table = torch.zeros(6, 6)
    table[0] = torch.tensor([0.1, 0.3, 0.2, 0.1, 0.1, 0.2]).log()
    table[1] = torch.tensor([0.2, 0.1, 0.25, 0.1, 0.15, 0.2]).log()
    model = ScriptedModel(table, eos_token_id=EOS)
    env, value = exact(model=model, tokenizer=letter_tokenizer(), prompts=["a", "b"], max_new_tokens=2, kl_coef=0.4)
    probs = table.softmax(-1).double().numpy()
    reference, optimum = [], []
    for prompt in (0, 1):
        outcomes = []
        for first in range(6):
            for second in [None] if first == EOS else range(6):
                letters = [prompt, first] + ([] if second is None else [second])
                text = "".join("abcde"[i] for i in letters if i != EOS)
                p = probs[prompt, first] * (1.0 if second is None else probs[first, second])
                score = float(sum(ord(b) - ord(a) == 1 for a, b in itertools.pairwise(text)))
                outcomes.append((p, score))
        assert sum(p for p, _ in outcomes) == pytest.approx(1.0)
        reference.append(sum(p * score for p, score in outcomes))
        optimum.append(0.4 * np.log(sum(p * np.exp(score / 0.4) for p, score in outcomes)))
    assert value.reference_value == pytest.approx(np.mean(reference), abs=1e-6)
    assert value.optimal_value == pytest.approx(np.mean(optimum), abs=1e-6)
    policy = CausalLMActorCritic(model, letter_tokenizer(), max_length=env.rules.max_length)
    assert value.normalized(policy) == pytest.approx(0.0, abs=1e-6)


def test_probabilities_of_all_responses_sum_to_one():
    _, value = exact()
    np.testing.assert_allclose(np.exp(value.ref_log_probs).sum(axis=1), [1.0, 1.0], atol=1e-5)
    assert value.scores.shape == (2, 3906)


def test_the_reference_has_value_zero_and_nothing_exceeds_one():
    _, value = exact()
    for seed in range(4):
        policy = CausalLMActorCritic(*letter_model(), max_length=6)
        if seed == 0:
            assert value.normalized(policy) == pytest.approx(0.0, abs=1e-5)
            assert value.value(policy) == pytest.approx(value.reference_value, abs=1e-5)
            continue
        with torch.no_grad():
            for weight in policy.model.parameters():
                weight.add_(0.3 * torch.randn_like(weight))
        assert value.normalized(policy) < 1.0


def test_the_optimal_policy_has_value_one():
    """pi*(y) = pi_ref(y) exp(score / beta) / Z, built for one-token responses, where it is a table."""
    table = torch.zeros(6, 6)
    table[0] = torch.tensor([0.1, 0.3, 0.2, 0.1, 0.1, 0.2]).log()
    reference = ScriptedModel(table, eos_token_id=EOS)
    _, value = exact(model=reference, tokenizer=letter_tokenizer(), prompts=["a"], max_new_tokens=1, kl_coef=0.5)
    tilted = table.clone()
    tilted[0, 1] += 1.0 / 0.5  # "ab" scores a point
    optimal = CausalLMActorCritic(ScriptedModel(tilted), letter_tokenizer(), max_length=2)
    assert value.normalized(optimal) == pytest.approx(1.0, abs=1e-6)


def test_the_environment_pays_what_the_enumeration_says():
    """A policy's exact J against the mean return of its own episodes, with the log-ratio charged in the environment."""
    env = TextGenVectorEnv(256, "exact", kl_mode="log_ratio", autoreset_mode="SAME_STEP")
    value = ExactValue(env.rules, env.prompts)
    policy = CausalLMActorCritic(*letter_model(), max_length=6)
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    expected = value.value(policy)
    observations, _ = env.reset(seed=0)
    returns: list[float] = []
    for _ in range(40):
        action = policy.step(torch.from_numpy(observations))
        observations, *_ = env.step(TokenAction(action.tokens, action.log_probs))
        returns += [episode.episode_return for _, episode in env.transition.episodes]
    error = 4 * np.std(returns) / len(returns) ** 0.5
    assert len(returns) > 1500
    assert np.mean(returns) == pytest.approx(expected, abs=error)
    assert abs(expected - value.reference_value) > 2 * error, "the policy is the reference: the test shows little"


def test_the_value_of_a_greedy_policy():
    """By decoding it: score + beta * log pi_ref of its one response to each prompt."""
    env, value = exact()
    policy = CausalLMActorCritic(*letter_model(), max_length=6)
    gains = []
    for prompt in (0, 2):
        ids = [prompt]
        while len(ids) < 6 and ids[-1] != EOS:
            with torch.no_grad():
                ids.append(int(policy.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        with torch.no_grad():
            log_probs = policy.model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        log_prob = float(log_probs[torch.arange(len(ids) - 1), ids[1:]].sum())
        text = "".join("abcde"[token] for token in ids if token != EOS)
        gains.append(steps_forward([""], [text])[0] + 0.5 * log_prob)
    assert value.value(policy, deterministic=True) == pytest.approx(np.mean(gains), abs=1e-5)
    best = (value.scores + value.beta * value.ref_log_probs).max(axis=1).mean()  # of all greedy policies
    assert value.value(policy, deterministic=True) <= best < value.reference_value
    assert env.rules.max_new_tokens == 5


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"kl_coef": 0.0}, "finite only with kl_coef > 0"),
        ({"max_new_tokens": 8}, r"6\*\*8 responses cannot be enumerated; at most 200000"),
        # Each of these ends, cuts or pays responses in a way that the enumeration does not know.
        ({"stop": ["b"]}, "stop"),
        ({"sampling": {"top_k": 3}}, "top_k"),
        ({"sampling": {"top_p": 0.9}}, "top_p"),
        ({"reward": TokenFunctionReward(lambda prompts, completion_ids: [1.0] * len(prompts))}, "per-token"),
    ],
)
def test_what_cannot_be_enumerated(arguments: dict[str, Any], match: str):
    with pytest.raises(ConfigError, match=match):
        exact(**arguments)
