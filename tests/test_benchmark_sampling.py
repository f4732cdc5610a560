"""Sampling within a budget: the right responses to the right prompts, their log-probabilities, and what they cost."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from textrl_agents.algorithms.cell import Cell
from textrl_agents.algorithms.cell_envs import training_env
from textrl_agents.algorithms.initial_policy import initial_policy
from textrl_agents.algorithms.preference_pairs import collect_pairs, pair_of
from textrl_agents.algorithms.response_groups import Response, Samples, pack_responses, prompt_stream, sample_groups
from textrl_env import TextGenVectorEnv
from textrl_env.errors import ConfigError
from textrl_env.models import ScriptedModel, SlotDecoder
from textrl_env.tasks import Task
from textrl_env.text.prompts import Prompt
from textrl_env.trajectory import Trajectory


def env_of(task: Any, rows: int = 4, **arguments: Any) -> TextGenVectorEnv:
    return TextGenVectorEnv(rows, task, autoreset_mode="SAME_STEP", kl_mode="deferred", **arguments)


def response(score: float, name: str = "") -> Response:
    ids = np.array([1])
    episode = Trajectory.of_response(ids, ids, prompt="a", response=name, finish_reason="eos", score=score, kl_coef=0.1)
    return Response(Prompt("a", ids, {}, 0), episode, np.zeros(1, dtype=np.float32), 0.0)


def test_groups_answer_the_prompts_in_their_order_whichever_row_was_free(tiny_task: Task, make_policy: Any) -> None:
    env = env_of(tiny_task, rows=3)
    prompts = [env.prompts[index] for index in (2, 0, 3, 0, 1)]
    samples = sample_groups(make_policy(), env, prompts, 4)
    assert [len(group) for group in samples.groups] == [4] * 5
    for prompt, group in zip(prompts, samples.groups, strict=True):
        assert all(one.prompt is prompt and one.episode.prompt == prompt.text for one in group)
    assert len({one.episode.response for one in samples.responses}) > 10
    assert samples.tokens == sum(len(one.episode.response_ids) for one in samples.responses)


def test_log_probs_and_kl_are_those_of_whole_episodes(tiny_task: Task, make_policy: Any) -> None:
    """What was cached and refilled gives the numbers that one pass over each response gives."""
    env, policy = env_of(tiny_task, rows=3), make_policy()
    responses = sample_groups(policy, env, list(env.prompts), 5).responses
    packed = pack_responses(responses, policy.device)
    with torch.no_grad():
        log_probs = policy.evaluate(packed).log_probs.numpy()
    assert np.concatenate([one.log_probs for one in responses]) == pytest.approx(log_probs, abs=1e-5)
    reference = env.kl_penalty.reference
    assert reference is not None
    ratios = log_probs - reference.episode_log_probs(packed).numpy()
    ends = np.cumsum([one.length for one in responses])
    sums = np.diff(np.concatenate([[0.0], np.cumsum(ratios)[ends - 1]]))
    assert [one.kl for one in responses] == pytest.approx(sums, abs=1e-4)
    assert np.mean(sums) > 0.1  # the policy is another model than the reference


def test_scores_and_ends_are_the_environments(tiny_tokenizer: Any) -> None:
    """A model that says one thing: three tokens and EOS, scored with the prompt's column."""
    text = "and"

    def add(prompts: list[str], completions: list[str], bonus: list[float], **columns: Any) -> list[float]:
        return [len(answer) + more for answer, more in zip(completions, bonus, strict=True)]

    model = ScriptedModel.saying(tiny_tokenizer, text, vocab_size=320)
    task = Task(
        name="said",
        prompts=[{"prompt": "x", "bonus": 0.5}, {"prompt": "y", "bonus": 2.0}],
        reward=add,
        model=lambda: (model, tiny_tokenizer),
        max_prompt_tokens=4,
        max_new_tokens=8,
    )
    env = env_of(task, rows=2)
    samples = sample_groups(initial_policy(env), env, list(env.prompts), 3)
    length = len(tiny_tokenizer(text, add_special_tokens=False)["input_ids"]) + 1
    assert [one.score for one in samples.responses] == [3.5] * 3 + [5.0] * 3
    assert {one.episode.finish_reason for one in samples.responses} == {"eos"}
    assert samples.tokens == 6 * length
    assert samples.means() == pytest.approx({"score": 4.25, "kl": 0.0, "length": length})


@pytest.mark.parametrize("budget", [300, 1000])
def test_the_budget_is_spent_and_groups_are_whole(tiny_task: Task, make_policy: Any, budget: int) -> None:
    env = env_of(tiny_task, rows=8)
    stream = prompt_stream(env.prompts, np.random.default_rng(0))
    samples = sample_groups(make_policy(), env, stream, 4, budget=budget)
    group = 4 * tiny_task.max_new_tokens
    assert budget - group < samples.tokens < budget + group
    assert {len(one) for one in samples.groups} == {4}


def test_the_smallest_budget_buys_one_group(tiny_task: Task, make_policy: Any) -> None:
    env = env_of(tiny_task)
    assert len(sample_groups(make_policy(), env, list(env.prompts), 2, budget=1).groups) == 1


def test_decoding_is_cached_while_rows_are_refilled(tiny_task: Task, make_policy: Any, monkeypatch: Any) -> None:
    """A row is prefilled at most once for each response (not where the next one is to the same prompt)."""
    filled: list[int] = []
    prefill = SlotDecoder._prefill

    def counting(self: Any, slots: Any, observations: Any, rows: Any, last: Any) -> None:
        filled.append(len(rows))
        prefill(self, slots, observations, rows, last)

    env, policy = env_of(tiny_task, rows=4), make_policy()
    sample_groups(policy, env, [env.prompts[0]], 1)  # the decoder's probe of the model prefills too
    monkeypatch.setattr(SlotDecoder, "_prefill", counting)
    samples = sample_groups(policy, env, list(env.prompts), 4)
    assert samples.tokens > 2 * len(samples.responses)
    assert 4 <= sum(filled) <= len(samples.responses)


def test_the_environments_own_episodes_go_on(tiny_task: Task, make_policy: Any) -> None:
    env = env_of(tiny_task, rows=2)
    before, _ = env.reset(seed=0)
    sample_groups(make_policy(), env, list(env.prompts), 2)
    after, *_ = env.step(np.array([5, 6]))
    lengths = (before >= 0).sum(axis=1)
    assert after[[0, 1], lengths].tolist() == [5, 6]
    assert (after[:, : lengths.min()] == before[:, : lengths.min()]).all()


def test_refusals(tiny_task: Task, make_policy: Any) -> None:
    env = env_of(tiny_task)
    with pytest.raises(ConfigError, match="n must be a whole number >= 1, got 0"):
        sample_groups(make_policy(), env, list(env.prompts), 0)
    with pytest.raises(ConfigError, match="no prompts to sample"):
        sample_groups(make_policy(), env, [], 2)


def test_a_policy_starts_as_the_reference_in_weights_of_its_own(tiny_task: Task) -> None:
    env = training_env(Cell("x", "exact", 0, 1, device="cpu"), rows=2)
    policy, reference = initial_policy(env), env.kl_penalty.reference
    assert reference is not None
    pairs = list(zip(policy.model.parameters(), reference.lm.model.parameters(), strict=True))
    assert all(torch.equal(ours, theirs) and ours is not theirs and ours.requires_grad for ours, theirs in pairs)
    assert policy.max_length == env.rules.max_length


class TestPairs:
    def test_best_and_worst_and_the_first_of_equal_ones(self) -> None:
        group = [response(1, "a"), response(3, "b"), response(3, "c"), response(0, "d"), response(0, "e")]
        pair = pair_of(group)
        assert pair is not None
        assert (pair.chosen.episode.response, pair.rejected.episode.response) == ("b", "d")

    def test_equal_scores_are_no_pair(self) -> None:
        assert pair_of([response(1), response(1)]) is None

    def test_collected_within_the_budget(self, make_policy: Any) -> None:
        env = training_env(Cell("x", "exact", 0, 1, device="cpu"))
        points: list[tuple[int, Samples]] = []
        collected = collect_pairs(
            initial_policy(env),
            env,
            np.random.default_rng(0),
            n=4,
            budget=3000,
            report=lambda tokens, samples: points.append((tokens, samples)),
        )
        assert abs(collected.tokens - 3000) < 60
        assert [tokens for tokens, _ in points] == list(itertools.accumulate(samples.tokens for _, samples in points))
        groups = [group for _, samples in points for group in samples.groups]
        told_apart = [group for group in groups if len({one.score for one in group}) > 1]
        assert 0 < len(told_apart) < len(groups)
        assert len(collected.pairs) == len(told_apart)
        for pair, group in zip(collected.pairs, told_apart, strict=True):
            assert pair.chosen.prompt is pair.rejected.prompt
            scores = [one.score for one in group]
            assert (pair.chosen.score, pair.rejected.score) == (max(scores), min(scores))

    def test_a_reward_that_tells_nothing_apart(self, tiny_task: Task, make_policy: Any) -> None:
        def same(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
            return [1.0] * len(prompts)

        env = env_of(tiny_task, reward=same)
        with pytest.raises(ConfigError, match=r"no pairs in \d+ tokens: the 2 responses to each prompt have equal"):
            collect_pairs(make_policy(), env, np.random.default_rng(0), n=2, budget=100)
