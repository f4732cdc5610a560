"""The batched transition: what is charged, how episodes end, what is paid, and that an error writes nothing."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch

from textrl_env import TextGenEnv, TokenAction
from textrl_env.actions import ParsedActions
from textrl_env.errors import MissingLogProb, PromptError, ResetNeeded, RewardRaised
from textrl_env.mdp import TokenMDP
from textrl_env.models import ScriptedModel
from textrl_env.rewards import TokenFunctionReward
from textrl_env.tasks import Task
from textrl_env.tasks.assembly import assemble
from textrl_env.tasks.built_in.exact import letter_tokenizer

NAN = np.nan
EOS = 5  # of task "exact"


def say(env: TextGenEnv, tokens: list[int], *, log_prob: float | None = None, **reset: Any) -> list[tuple]:
    """Every step's result for given tokens, each with the same log-prob, or none."""
    env.reset(**reset)
    return [env.step(token if log_prob is None else TokenAction(token, log_prob)) for token in tokens]


def batch(num_rows: int, *prompts: str, **arguments: Any) -> TokenMDP:
    """`num_rows` started rows of task "exact"."""
    _, rules, prompt_set, _ = assemble("exact", **arguments)
    mdp = TokenMDP(rules, num_rows)
    mdp.reset_rows(range(num_rows), [prompt_set.encode(prompt) for prompt in prompts])
    return mdp


def acts(tokens: list[int], log_probs: list[float] | None = None) -> ParsedActions:
    given = np.full(len(tokens), NAN) if log_probs is None else np.array(log_probs)
    return ParsedActions(np.array(tokens), given)


def play(env: TextGenEnv, policy: Any, *, seed: int | None = None, **reset: Any) -> tuple[list[float], dict[str, Any]]:
    """Rewards and last info of an episode in which every action brings its log-probability."""
    observation, _ = env.reset(seed=seed, **reset)
    rewards: list[float] = []
    terminated, info = False, {}
    while not terminated:
        action = policy.step(torch.from_numpy(observation)[None])
        observation, reward, terminated, truncated, info = env.step(
            TokenAction(int(action.tokens[0]), float(action.log_probs[0]))
        )
        assert not truncated
        rewards.append(reward)
    return rewards, info


@pytest.mark.parametrize("kl_mode", ["auto", "log_ratio"])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_rewards_add_up_with_log_probs(kl_mode: str, estimator: str, tiny_task: Task, make_policy: Any):
    """CHECKS 7: sum of rewards = score - kl_coef * kl_sum, to 1e-5, for a policy that differs from the reference."""
    env = TextGenEnv(tiny_task, kl_mode=kl_mode, kl_estimator=estimator)
    policy = make_policy()
    for seed in range(4):
        rewards, info = play(env, policy, seed=seed)
        assert abs(info["kl_sum"]) > 0.1, "the policy is the reference: the test shows nothing"
        assert sum(rewards) == pytest.approx(info["score"] - 0.1 * info["kl_sum"], abs=1e-5)
        assert info["kl_coef"] == 0.1
        assert info["episode_return"] == pytest.approx(sum(rewards), abs=1e-9)
        assert info["episode_length"] == len(rewards)


@pytest.mark.parametrize("kl_mode", ["auto", "cross_entropy"])
def test_rewards_add_up_without_log_probs(kl_mode: str, tiny_task: Task):
    """CHECKS 7 in cross-entropy mode, where kl_sum is the summed cross-entropy and each step's KL is not known."""
    env = TextGenEnv(tiny_task, kl_mode=kl_mode)
    steps = say(env, [9, 40, 77, 1], seed=0)
    infos = [step[4] for step in steps]
    assert all(math.isnan(info["kl"]) for info in infos)
    assert infos[-1]["kl_sum"] == pytest.approx(-sum(info["ref_log_prob"] for info in infos), abs=1e-5)
    total = sum(step[1] for step in steps)
    assert total == pytest.approx(infos[-1]["score"] - 0.1 * infos[-1]["kl_sum"], abs=1e-5)
    # The score itself does not depend on the charge.
    assert infos[-1]["score"] == say(TextGenEnv(tiny_task, kl_coef=0), [9, 40, 77, 1], seed=0)[-1][1]


def test_deferred_pays_the_score_alone(tiny_task: Task):
    env = TextGenEnv(tiny_task, kl_mode="deferred")
    steps = say(env, [9, 40, 77, 1], log_prob=-0.5, seed=0)
    info = steps[-1][4]
    assert [step[1] for step in steps] == [0.0, 0.0, 0.0, info["score"]]
    assert all(math.isnan(step[4]["ref_log_prob"]) and math.isnan(step[4]["kl"]) for step in steps)
    assert math.isnan(info["kl_sum"])


def test_policy_equal_to_the_reference_pays_no_kl(tiny_task: Task, make_policy: Any, make_model: Any):
    """CHECKS 6: 0 at every step, and the total is the score."""
    env = TextGenEnv(tiny_task, kl_coef=5.0)
    policy = make_policy(make_model("llama"))  # the same seed as the task's
    for seed in range(3):
        observation, _ = env.reset(seed=seed)
        total, terminated = 0.0, False
        while not terminated:
            action = policy.step(torch.from_numpy(observation)[None])
            observation, reward, terminated, _, info = env.step(TokenAction(action.tokens, action.log_probs))
            assert info["kl"] == pytest.approx(0.0, abs=1e-5)
            total += reward
        assert total == pytest.approx(info["score"], abs=1e-4)


def test_a_token_likelier_than_under_the_reference_lowers_the_reward(tiny_task: Task):
    """CHECKS 23: the sign, at one step and for the mean over actions."""
    env = TextGenEnv(tiny_task, kl_coef=1.0)

    def reward(log_prob: float) -> tuple[float, dict[str, Any]]:
        (step,) = say(env, [9], log_prob=log_prob, options={"prompt_index": 0})
        return step[1], step[4]

    reference = reward(-1.0)[1]["ref_log_prob"]
    paid, info = reward(reference + 0.5 if reference < -0.5 else reference / 2)
    assert info["kl"] > 0
    assert paid == pytest.approx(-info["kl"], abs=1e-9)
    assert paid < 0
    paid, info = reward(reference - 0.5)
    assert paid == pytest.approx(0.5, abs=1e-9), "rarer than under the reference raises it"


def test_mode_log_ratio_needs_a_log_prob():
    env = TextGenEnv("exact", kl_mode="log_ratio")
    env.reset()
    with pytest.raises(MissingLogProb, match=r"kl_mode='log_ratio'.*TokenAction"):
        env.step(0)


def test_log_probs_must_not_stop_within_an_episode():
    """`auto` never mixes: after a first action with a log-prob all must have one; after one without, none counts."""
    env = TextGenEnv("exact", kl_mode="auto")
    env.reset(options={"prompt": "a"})
    env.step(TokenAction(1, -1.0))
    with pytest.raises(MissingLogProb, match="kl_mode='auto'"):
        env.step(2)
    env.step(TokenAction(2, -1.0))
    env.reset(options={"prompt": "a"})
    *_, first = env.step(1)
    *_, last = env.step(TokenAction(EOS, -1.0))
    assert last["kl_sum"] == pytest.approx(-first["ref_log_prob"] - last["ref_log_prob"])


def test_cross_entropy_by_hand():
    """Pays +kl_coef * log pi_ref(a|s), from a bigram table whose softmax is written down."""
    table = torch.zeros(6, 6)
    table[0] = torch.tensor([0.1, 0.2, 0.3, 0.1, 0.2, 0.1]).log()
    table[1] = torch.tensor([0.05, 0.05, 0.5, 0.1, 0.1, 0.2]).log()
    model = ScriptedModel(table, eos_token_id=EOS)
    env = TextGenEnv("exact", model=model, tokenizer=letter_tokenizer(), kl_mode="cross_entropy", kl_coef=2.0)
    (_, first, *_), (_, last, _, _, info) = say(env, [1, EOS], options={"prompt": "a"})
    assert first == pytest.approx(2.0 * math.log(0.2), abs=1e-6)
    assert last == pytest.approx(2.0 * math.log(0.2) + 1.0, abs=1e-6)  # "ab": one step forward
    assert info["kl_sum"] == pytest.approx(-2 * math.log(0.2), abs=1e-6)


def test_rows_decide_their_own_charge():
    """`auto`: a row that brings a log-prob pays the log-ratio, its neighbour without pays the cross-entropy."""
    mdp = batch(2, "a", "a", kl_coef=1.0)
    first = mdp.step(acts([1, 1], [-0.5, NAN]))
    ref = first.ref_log_probs[0]
    assert first.ref_log_probs[1] == ref
    np.testing.assert_allclose(first.rewards, [0.5 + ref, ref], atol=1e-9)
    np.testing.assert_array_equal(np.isnan(first.kl), [False, True])
    with pytest.raises(MissingLogProb, match="row 0"):
        mdp.step(acts([2, 2]))
    second = mdp.step(acts([2, 2], [-0.5, -0.5]))
    np.testing.assert_allclose(second.rewards, [0.5 + second.ref_log_probs[0], second.ref_log_probs[1]], atol=1e-9)


def test_only_live_rows_take_part():
    mdp = batch(3, "a", "c", "e")
    mdp.step(acts([1, 1, 1]))
    before = mdp.ids.copy()
    transition = mdp.step(acts([2, 2, 2], [NAN, -1.0, NAN]), np.array([True, False, True]))
    np.testing.assert_array_equal(mdp.ids[1], before[1])
    assert mdp.ids[:, :3].tolist() == [[0, 1, 2], [2, 1, -1], [4, 1, 2]]
    assert transition.rewards[1] == 0.0
    assert np.isnan(transition.ref_log_probs[1])
    assert mdp.counts.tolist() == [2, 1, 2]
    np.testing.assert_allclose(mdp.rewards[[0, 2], :2], -0.5 * mdp.kl[[0, 2], :2])


def test_ended_and_unstarted_rows_need_a_reset():
    """CHECKS 12, row by row."""
    mdp = batch(2, "a", "a")
    mdp.step(acts([EOS, 1]))
    with pytest.raises(ResetNeeded, match="row 0 has ended"):
        mdp.step(acts([1, 1]))
    mdp.step(acts([1, 1]), np.array([False, True]))
    fresh = TokenMDP(mdp.rules, 1)
    with pytest.raises(ResetNeeded, match="row 0 was never started"):
        fresh.step(acts([1]))


def test_all_rows_that_end_in_a_step_are_scored_in_one_call():
    calls: list[list[str]] = []

    def reward(prompts: list[str], completions: list[str]) -> list[float]:
        calls.append(completions)
        return [float(len(text)) for text in completions]

    mdp = batch(3, "a", "c", "e", reward=reward, kl_coef=0.0)
    mdp.step(acts([1, EOS, 2]))
    transition = mdp.step(acts([EOS, 0, EOS]), np.array([True, False, True]))
    assert calls == [[""], ["b", "c"]]
    np.testing.assert_array_equal(transition.rewards, [1.0, 0.0, 1.0])
    assert [(row, episode.response) for row, episode in transition.episodes] == [(0, "b"), (2, "c")]


def test_an_error_leaves_every_row_as_it_was():
    """CHECKS 18: a reward that raises for one row costs the others nothing, and the step can be taken again."""
    broken = [True]

    def reward(prompts: list[str], completions: list[str]) -> list[float]:
        if broken[0] and "d" in completions:
            raise RuntimeError("no such letter")
        return [1.0] * len(prompts)

    mdp = batch(3, "a", "c", "e", reward=reward)
    mdp.step(acts([1, 3, 2], [-0.5, -0.5, NAN]))
    names = ("ids", "is_action", "lengths", "counts", "running", "rewards", "kl", "token_scores", "kl_coefs", "charges")
    before = {name: copy.deepcopy(getattr(mdp, name)) for name in names}
    finish = acts([EOS, EOS, 1], [-0.5, -0.5, NAN])
    with pytest.raises(RewardRaised, match="no such letter") as caught:
        mdp.step(finish)
    assert isinstance(caught.value.__cause__, RuntimeError)
    np.testing.assert_equal({name: getattr(mdp, name) for name in names}, before)
    broken[0] = False
    assert mdp.step(finish).terminated.tolist() == [True, True, False]


def test_token_scores_are_paid_as_they_come_and_the_rest_at_the_end():
    """CHECKS 7 with a per-token reward beside a score of the whole response."""

    class Both(TokenFunctionReward):
        def __call__(self, prompts: list, completions: list, **columns: Any) -> list[float]:
            return [10.0] * len(prompts)

    newest = Both(lambda prompts, completion_ids: [float(ids[-1]) for ids in completion_ids])
    env = TextGenEnv("exact", reward=newest, kl_coef=0.5)
    steps = say(env, [3, 1, EOS], log_prob=-1.0, options={"prompt": "a"})
    kl = [step[4]["kl"] for step in steps]
    assert [step[1] for step in steps] == pytest.approx(
        [3 - 0.5 * kl[0], 1 - 0.5 * kl[1], EOS + 10 - 0.5 * kl[2]], abs=1e-9
    )
    info = steps[-1][4]
    assert info["score"] == pytest.approx(19.0)
    assert sum(step[1] for step in steps) == pytest.approx(19.0 - 0.5 * info["kl_sum"], abs=1e-5)
    # And the next episode starts from nothing.
    assert say(env, [EOS], log_prob=-1.0)[-1][4]["score"] == pytest.approx(15.0)


def test_an_episode_keeps_the_coefficient_it_started_with():
    """CHECKS 7 while an adaptive coefficient moves: the running row's return stays a sum of like terms."""
    mdp = batch(2, "a", "a", kl_coef={"value": 0.5, "target": 1.0, "horizon": 10})
    total = mdp.step(acts([1, EOS], [-0.1, -0.1])).rewards[0]
    moved = mdp.rules.kl_penalty.coef
    assert moved != 0.5
    last = mdp.step(acts([EOS, 0], [-0.1, -0.1]), np.array([True, False]))
    ((_, episode),) = last.episodes
    assert episode.kl_coef == 0.5
    assert total + last.rewards[0] == pytest.approx(episode.score - 0.5 * episode.kl_sum, abs=1e-5)
    assert mdp.rules.kl_penalty.coef != moved
    mdp.reset_rows([0], [mdp.prompts[0]])
    assert mdp.kl_coefs[0] == mdp.rules.kl_penalty.coef


def test_the_coefficient_adapts_to_the_mean_kl_of_finished_responses():
    """Two responses end together: one update with their mean, weighted by their number. None in cross-entropy mode."""
    mdp = batch(2, "a", "c", kl_coef={"value": 0.5, "target": 100.0, "horizon": 10})
    mdp.step(acts([EOS, EOS], [-0.1, -0.1]))
    assert mdp.rules.kl_penalty.coef == pytest.approx(0.5 * (1 - 0.2 * 2 / 10))
    mdp = batch(2, "a", "c", kl_coef={"value": 0.5, "target": 100.0, "horizon": 10}, kl_mode="cross_entropy")
    mdp.step(acts([EOS, EOS]))
    assert mdp.rules.kl_penalty.coef == 0.5


def test_a_prompt_without_the_sets_columns_is_refused_at_reset():
    """Rows of one batch go to the reward together, so each must bring the same columns."""
    rows = [{"prompt": "a", "answer": "b"}, {"prompt": "c", "answer": "d"}]
    env = TextGenEnv("exact", prompts=rows, reward="length")
    with pytest.raises(PromptError, match="answer"):
        env.reset(options={"prompt": "e"})
    with pytest.raises(PromptError, match="answer"):
        env.reset(options={"prompt": "e", "columns": {"anser": "b"}})
    env.reset(options={"prompt": "e", "columns": {"answer": "b"}})
