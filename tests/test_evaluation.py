"""Evaluation: the right episodes, the right numbers, and no trace left behind."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from textrl_agents.evaluation import Evaluation, evaluate, paired_difference
from textrl_agents.evaluation.evaluation import Statistic
from textrl_agents.evaluation.heldout_env import sibling_env
from textrl_env import TextGenVectorEnv
from textrl_env.errors import ConfigError
from textrl_env.models import CausalLMActorCritic, SamplingParams, ScriptedModel, load_model
from textrl_env.tasks import Task, get_task
from textrl_env.tasks.built_in.exact import letter_model
from textrl_env.tasks.enumeration import ExactValue


def length_gold(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    return [float(len(text)) for text in completions]


@pytest.fixture(scope="module")
def moved_policy() -> CausalLMActorCritic:
    """A policy of the `exact` task that is not its reference."""
    model, tokenizer = letter_model()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return CausalLMActorCritic(model, tokenizer, max_length=6)


def samples_of(evaluation: Evaluation) -> list[dict[str, Any]]:
    """All that is known of each response."""
    return evaluation.to_json()["samples"]


def test_statistic_by_hand() -> None:
    statistic = Statistic.of([1.0, 2.0, 3.0, 6.0])
    assert statistic.mean == 3.0
    assert statistic.std == pytest.approx((14 / 3) ** 0.5)
    assert statistic.half_width == pytest.approx(1.959964 * (14 / 3) ** 0.5 / 2)
    assert statistic.interval == pytest.approx((3 - statistic.half_width, 3 + statistic.half_width))


def test_same_seed_same_records_and_the_callers_generator_is_untouched(moved_policy: CausalLMActorCritic) -> None:
    before = torch.get_rng_state()
    first = evaluate(moved_policy, "exact", episodes=32, num_envs=8, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)  # where the caller's generator stands must not matter
    second = evaluate(moved_policy, "exact", episodes=32, num_envs=8, seed=5)
    other = evaluate(moved_policy, "exact", episodes=32, num_envs=8, seed=6)
    assert first == second
    assert samples_of(first) != samples_of(other)


def test_every_row_gives_the_same_number_of_episodes(moved_policy: CausalLMActorCritic) -> None:
    env = TextGenVectorEnv(4, "exact", autoreset_mode="SAME_STEP", kl_mode="deferred")
    result = evaluate(moved_policy, env=env, episodes=10, seed=1)
    assert len(result.episodes) == 12  # ceil(10 / 4) from each of 4 rows
    # Episode k of row r answers the k-th prompt that the row's own generator draws.
    generators = [np.random.Generator(np.random.PCG64(np.random.SeedSequence(1 + row))) for row in range(4)]
    texts = ["a", "c"]
    assert [episode.prompt for episode in result.episodes] == [
        texts[int(generators[row].integers(2))] for _ in range(3) for row in range(4)
    ]


@pytest.mark.slow
def test_means_agree_with_enumeration(moved_policy: CausalLMActorCritic) -> None:
    """Taking the first episodes that finish would bias every one of these towards short responses."""
    env = TextGenVectorEnv(16, "exact", autoreset_mode="SAME_STEP", kl_mode="deferred")
    result = evaluate(moved_policy, env=env, episodes=4096, seed=0)
    exact = ExactValue(env.rules, env.prompts)
    with torch.no_grad():
        log_probs = exact._sum(exact._packed, moved_policy.evaluate(exact._packed).log_probs)
    probs = np.exp(log_probs)
    lengths = np.bincount(exact._packed.rows.numpy()).reshape(probs.shape)
    # The prompts were drawn, so each is weighted as often as it came.
    shares = Counter(episode.prompt for episode in result.episodes)
    weights = np.array([shares["a"], shares["c"]]) / len(result.episodes)
    expected = {
        "score": weights @ (probs * exact.scores).sum(axis=1),
        "kl": weights @ (probs * (log_probs - exact.ref_log_probs)).sum(axis=1),
        "length": weights @ (probs * lengths).sum(axis=1),
        "entropy": weights @ (probs * -log_probs).sum(axis=1),
    }
    expected["penalized_return"] = expected["score"] - 0.5 * expected["kl"]
    for name, value in expected.items():
        standard_error = result[name].half_width / 1.96
        assert abs(result[name].mean - value) < 4 * standard_error, name
        assert standard_error < 0.05, name  # or the line above could not fail


def test_kl_of_each_record_by_plain_forwards(moved_policy: CausalLMActorCritic) -> None:
    result = evaluate(moved_policy, "exact", episodes=48, num_envs=16)
    reference, tokenizer = letter_model()
    for episode in result.episodes:
        prompt = tokenizer(episode.prompt)["input_ids"]
        response = tokenizer(episode.response)["input_ids"] if episode.response else []
        response += [tokenizer.eos_token_id] * (episode.finish_reason == "eos")
        assert len(episode) == len(response)
        ids = torch.tensor([prompt + response])
        total = {}
        for name, model in (("policy", moved_policy.model), ("reference", reference)):
            with torch.no_grad():
                log_probs = model(input_ids=ids[:, :-1]).logits.log_softmax(-1)
            chosen = log_probs[0, len(prompt) - 1 :].gather(-1, ids[0, len(prompt) :, None])
            total[name] = float(chosen.sum())
        assert episode.kl_sum == pytest.approx(total["policy"] - total["reference"], abs=1e-5)
        assert episode.surprisal == pytest.approx(-total["policy"], abs=1e-5)
        assert episode.episode_return == pytest.approx(episode.score - 0.5 * episode.kl_sum, abs=1e-9)


def test_reference_has_no_kl() -> None:
    """CHECKS 6: policy = reference, so the KL is 0 and the return is the score."""
    model, tokenizer = letter_model()
    result = evaluate(CausalLMActorCritic(model, tokenizer, max_length=6), "exact", episodes=64)
    assert max(abs(episode.kl_sum) for episode in result.episodes) < 1e-5
    assert result["penalized_return"].mean == pytest.approx(result["score"].mean, abs=1e-5)


def test_two_policies_answer_the_same_prompts(moved_policy: CausalLMActorCritic) -> None:
    model, tokenizer = letter_model()
    before = evaluate(CausalLMActorCritic(model, tokenizer, max_length=6), "exact", episodes=64, num_envs=8)
    after = evaluate(moved_policy, "exact", episodes=64, num_envs=8)
    difference = paired_difference(before, after)
    by_hand = [second.score - first.score for first, second in zip(before.episodes, after.episodes, strict=True)]
    assert difference["score"] == Statistic.of(by_hand)
    assert difference["kl"].mean == pytest.approx(after["kl"].mean - before["kl"].mean)
    with pytest.raises(ConfigError, match="answer different prompts"):
        paired_difference(before, evaluate(moved_policy, "exact", episodes=64, num_envs=8, seed=1))


def test_gold_score_is_reported_beside_the_score(make_policy: Any, tiny_task: Task) -> None:
    policy = make_policy()
    assert "gold_score" not in evaluate(policy, tiny_task, episodes=8).statistics
    task = dataclasses.replace(tiny_task, gold=length_gold)
    result = evaluate(policy, task, episodes=8)
    assert [episode.gold_score for episode in result.episodes] == [len(episode.response) for episode in result.episodes]
    assert result["gold_score"].mean == pytest.approx(np.mean([episode.gold_score for episode in result.episodes]))
    assert {episode.prompt for episode in result.episodes} <= set(tiny_task.heldout_prompts)


def test_sibling_shares_everything_and_measures_the_same(make_policy: Any, tiny_task: Task) -> None:
    policy = make_policy()
    train_env = TextGenVectorEnv(3, tiny_task, kl_coef={"value": 0.3, "target": 2.0})
    sibling = sibling_env(train_env, 4)
    shared, own = sibling.kl_penalty, train_env.kl_penalty
    assert shared.reference is not None
    assert own.reference is not None
    assert shared.reference.lm.model is own.reference.lm.model
    assert sibling.rules.reward is train_env.rules.reward
    direct = evaluate(policy, tiny_task, kl_coef=0.3, episodes=8, num_envs=4)
    assert samples_of(evaluate(policy, env=sibling, episodes=8)) == samples_of(direct)
    own.controller.value = 1.5  # what adapts in training is what the evaluation weighs with
    assert evaluate(policy, env=sibling, episodes=8).kl_coef == 1.5


def test_a_sibling_draws_as_its_environment_does(make_policy: Any, tiny_task: Task) -> None:
    """The task's own sampling is another: it must not come back, nor the reference's, which is not cut."""
    sampling = {"temperature": 0.5, "top_k": 3}
    sibling = sibling_env(TextGenVectorEnv(2, tiny_task, sampling=sampling), 4)
    assert sibling.rules.sampling == SamplingParams(**sampling)
    policy = make_policy(sampling=SamplingParams(**sampling))
    direct = evaluate(policy, tiny_task, episodes=8, num_envs=4)
    assert samples_of(evaluate(policy, env=sibling, episodes=8)) == samples_of(direct)
    other = evaluate(policy, env=sibling_env(TextGenVectorEnv(2, tiny_task), 4), episodes=8)
    assert other["kl"].mean != pytest.approx(direct["kl"].mean, rel=1e-3), "the temperature does not reach the KL"


def test_greedy_is_a_point_mass(moved_policy: CausalLMActorCritic) -> None:
    result = evaluate(moved_policy, "exact", episodes=16, deterministic=True)
    assert result["entropy"].mean == 0
    assert len({(episode.prompt, episode.response) for episode in result.episodes}) <= 2
    assert result["kl"].mean > 0


def test_distinct_and_finish_reasons_by_hand() -> None:
    """Every response is "ab" and EOS: 2 different tokens of 2n, one pair of n."""
    _, tokenizer = letter_model()
    loaded = load_model(ScriptedModel.saying(tokenizer, "ab"), tokenizer=tokenizer)
    policy = CausalLMActorCritic(loaded.model, tokenizer, max_length=6)
    # After the prompt "a" the script would go on with "b", so only "c" starts it.
    task = dataclasses.replace(get_task("exact"), heldout_prompts=["c"])
    result = evaluate(policy, task, episodes=8)
    assert {episode.response for episode in result.episodes} == {"ab"}
    assert (result.distinct_1, result.distinct_2) == (2 / 16, 1 / 8)
    assert result.finish_reasons == {"eos": 1.0, "stop": 0.0, "length": 0.0}
    assert result["length"].mean == 3


def test_json_is_plain(moved_policy: CausalLMActorCritic) -> None:
    result: Evaluation = evaluate(moved_policy, "exact", episodes=4)
    data = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert data["episodes"] == len(data["samples"]) == 4
    assert data["score"]["ci95"] == pytest.approx(result["score"].interval)
    assert list(data["samples"][0]) == [
        *("prompt", "response", "finish_reason", "score", "score_parts", "gold_score"),
        *("kl", "penalized_return", "length", "entropy"),
    ]
    assert "samples" not in result.to_json(samples=False)


def test_mistakes_are_named(moved_policy: CausalLMActorCritic, make_policy: Any) -> None:
    with pytest.raises(ConfigError, match=r"episodes must be a whole number >= 2.*got 1"):
        evaluate(moved_policy, "exact", episodes=1)
    with pytest.raises(ConfigError, match=r"autoreset_mode='SAME_STEP' and kl_mode='deferred'"):
        evaluate(moved_policy, env=TextGenVectorEnv(2, "exact"), episodes=4)
    env = TextGenVectorEnv(2, "exact", autoreset_mode="SAME_STEP", kl_mode="deferred")
    with pytest.raises(ConfigError, match="give it these arguments itself: kl_coef"):
        evaluate(moved_policy, env=env, episodes=4, kl_coef=1.0)
    with pytest.raises(ConfigError, match="emits 320 tokens and the environment's model 6"):
        evaluate(make_policy(), env=env, episodes=4)
    cut = TextGenVectorEnv(2, "exact", autoreset_mode="SAME_STEP", kl_mode="deferred", max_episode_steps=2)
    with pytest.raises(ConfigError, match="whole responses, and max_episode_steps=2"):
        evaluate(moved_policy, env=cut, episodes=4)
