"""Stock algorithms on episodes of several turns: what they are fed is what was sampled, and GAE crosses the turns.

The oracles are the plain model on one prefix at a time, and the turn environment played again by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from letter_dialogue import LetterDialogue, letter_dialogue, replayed
from test_environment_tokens import by_prefix, gae, moved

from textrl_agents.evaluation.evaluation import evaluate, paired_difference
from textrl_agents.rollout import collect
from textrl_agents.runs.config import TrainConfig
from textrl_agents.sb3 import TextVecEnv, make_agent
from textrl_agents.sb3.checkpoint import load_checkpoint, save_checkpoint
from textrl_agents.training.rlhf_metrics import rlhf_metrics
from textrl_agents.trl import train_offline, train_online
from textrl_env import TextGenVectorEnv
from textrl_env.errors import ConfigError
from textrl_env.models import CausalLMActorCritic, pack
from textrl_env.models.packing import pack_observations
from textrl_env.tasks.built_in.exact import letter_model
from textrl_env.trajectory import Trajectory

COEF = 0.5


def agent_of(algo: str = "ppo", *, env: dict[str, Any] | None = None, **given: Any) -> Any:
    arguments = {"n_envs": 6, "seed": 0, "learning_rate": 0.0, "progress": False, **given}
    env = {"task": letter_dialogue(), "device": "cpu", **(env or {})}
    agent = make_agent(algo, env_kwargs=env, **arguments)
    moved(agent.policy.actor_critic)
    return agent


def value_of(core: Any, ids: list[int]) -> float:
    """Of a state, by the plain model."""
    hidden = core.model.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
    return float((hidden @ core.value_head.weight[0] + core.value_head.bias[0]).detach())


def check_paid(each: Trajectory, own: np.ndarray, ref: np.ndarray) -> None:
    """Each turn on its last token, and each action its own KL."""
    turns = replayed(each.ids.tolist(), each.is_action.tolist()).paid
    np.testing.assert_allclose(each.rewards, turns - COEF * (own - ref), atol=1e-5)


@pytest.mark.parametrize(
    "env",
    [
        {},
        pytest.param({"kl_mode": "log_ratio"}, marks=pytest.mark.slow),
        pytest.param({"score_mode": "stepwise"}, marks=pytest.mark.slow),
    ],
)
def test_ppo_over_rollouts_that_cut_episodes_anywhere(env: dict[str, Any]):
    """The ratio is 1, turns are paid on their last tokens, the KL on actions alone, and GAE crosses turns."""
    agent = agent_of(n_steps=7, gae_lambda=0.9, gamma=0.97, env=env)
    agent.train = lambda: None
    agent.learn(42)
    core, buffer = agent.policy.actor_critic, agent.rollout_buffer
    whole: list[Trajectory] = []
    crossed = 0
    for _ in range(3):
        agent.learn(42, reset_num_timesteps=False)
        (batch,) = buffer.get(None)
        with torch.no_grad():
            evaluation = core.evaluate(batch.observations)
        torch.testing.assert_close((evaluation.log_probs - batch.old_log_prob).exp(), torch.ones(42), atol=1e-5, rtol=0)
        rows = iter(np.split(batch.advantages.numpy(), np.cumsum([len(each) for each in buffer.trajectories])[:-1]))
        for each, advantages in zip(buffer.trajectories, rows, strict=True):
            own, ref, values = by_prefix(core, each)
            np.testing.assert_allclose(each.log_probs, own, atol=1e-5)
            following = 0.0
            if each.is_action[1]:  # a stretch from the episode's beginning on
                check_paid(each, own, ref)
                crossed += bool((np.diff(np.flatnonzero(each.is_action)) > 1).any())
            elif not each.finish_reason:
                continue
            if not each.finish_reason:
                answer = replayed(each.ids.tolist(), each.is_action.tolist()).answer
                following = value_of(core, [*each.ids, *answer])
            np.testing.assert_allclose(advantages, gae(each.rewards, values, following), atol=1e-4)
        whole += buffer.episodes
    assert len(whole) > 6
    assert crossed > 3, "hardly any turn was crossed: shows nothing"
    for each in whole:
        own, ref, _ = by_prefix(core, each)
        check_paid(each, own, ref)
        assert (each.finish_reason, len(each.turns)) == ("env", 3)
        assert each.score == pytest.approx(sum(turn["score"] for turn in each.turns))
        assert each.episode_return == pytest.approx(each.score - COEF * (own - ref).sum(), abs=1e-5)


class TwoOfTwo(LetterDialogue):
    """Pays 2 for the first turn and 1 for the second, which is the last."""

    def step(self, action: str) -> Any:
        reply, *_ = super().step(action)
        return reply, 3.0 - self.turn, self.turn == 2, False, {}


def test_gae_across_turns_by_hand():
    """gamma = lambda = 0.5, no KL and values of 0, so that an advantage is the sum of rewards times 0.25 to the power
    of the actions until then. Two turns of two tokens:

    action  reward  advantage
    1       0       0 + 0.25 * 2.0625 = 0.515625
    2       2       2 + 0.25 * 0.25   = 2.0625
    3       0       0 + 0.25 * 1      = 0.25
    4       1       1
    """
    task = letter_dialogue(TwoOfTwo, max_turn_tokens=2, kl_coef=0.0)
    agent = agent_of(n_steps=24, gae_lambda=0.5, gamma=0.5, env={"task": task})
    with torch.no_grad():
        agent.policy.actor_critic.value_head.weight.zero_()
        agent.policy.actor_critic.value_head.bias.zero_()
    agent.train = lambda: None
    agent.learn(24 * 6)
    (batch,) = agent.rollout_buffer.get(None)
    ends = np.cumsum([len(each) for each in agent.rollout_buffer.trajectories])
    seen = 0
    for each, advantages in zip(agent.rollout_buffer.trajectories, np.split(batch.advantages, ends[:-1]), strict=True):
        if each.finish_reason and len(each) == 4:
            gaps = np.diff(np.flatnonzero(each.is_action))
            seen += gaps.tolist() in ([1, 2, 1], [1, 3, 1])  # with a reply of one or two letters between the turns
            np.testing.assert_allclose(advantages, [0.515625, 2.0625, 0.25, 1.0], atol=1e-6)
    assert seen > 3


def test_gradients_of_whole_dialogues_are_those_of_single_prefixes():
    core = CausalLMActorCritic(*letter_model(), max_length=16)
    moved(core)
    env = TextGenVectorEnv(4, letter_dialogue(), kl_mode="deferred", autoreset_mode="SAME_STEP")
    torch.manual_seed(0)
    trajectories = collect(core, env, episodes=8, seed=0)
    packed = pack(trajectories, "cpu")
    rng = np.random.default_rng(0)
    weights, targets = torch.from_numpy(rng.normal(size=(2, len(packed)))).float()

    def gradients(evaluation: Any) -> list[torch.Tensor]:
        loss = (weights * evaluation.log_probs).sum() + ((evaluation.values - targets) ** 2).sum()
        parameters = [each for each in core.parameters() if each.requires_grad]
        return list(torch.autograd.grad(loss, parameters, allow_unused=True))

    states = torch.full((len(packed), 16), -1)
    for m in range(len(packed)):
        length = int(packed.columns[m]) + 1
        states[m, :length] = packed.input_ids[packed.rows[m], :length]
    stepwise = gradients(core.evaluate(pack_observations(states, packed.actions)))
    for got, wanted in zip(gradients(core.evaluate(packed)), stepwise, strict=True):
        if wanted is not None:
            torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "algo", ["ppo", "a2c", pytest.param("trpo", marks=pytest.mark.slow), "reinforce", "rloo", "grpo"]
)
def test_stock_algorithms_train_it(algo: str):
    """Each update is of numbers, and changes the policy; what is logged says how many turns there were."""
    given = {"env": {"group_size": 2}, "group_size": 2} if algo in ("rloo", "grpo") else {}
    agent = agent_of(algo, n_steps=12, learning_rate=1e-3, **given)
    before = {name: value.clone() for name, value in agent.policy.state_dict().items()}
    agent.learn(12 * 6 * 2)
    changed = [not torch.equal(value, before[name]) for name, value in agent.policy.state_dict().items()]
    assert any(changed)
    assert all(torch.isfinite(value).all() for value in agent.policy.state_dict().values())
    assert all(len(each.turns) == 3 for each in agent.rollout_buffer.episodes)


@pytest.mark.parametrize("algo", ["rloo", "grpo"])
def test_a_group_is_of_one_opening_and_compared_by_whole_episodes(algo: str):
    agent = agent_of(algo, n_steps=10, env={"group_size": 3}, group_size=3)
    seen = []
    agent.train = lambda: seen.append((list(agent.rollout_buffer.trajectories), agent.rollout_buffer.advantages.copy()))
    agent.learn(10 * 6 * 5)
    groups = 0
    for trajectories, advantages in seen:
        if not trajectories:
            continue
        of_episodes = np.split(advantages, np.cumsum([len(each) for each in trajectories])[:-1])
        for start in range(0, len(trajectories), 3):
            group = trajectories[start : start + 3]
            assert len({each.ids[0] for each in group}) == len({each.group for each in group}) == 1
            returns = np.array([each.episode_return for each in group])
            for k, each in enumerate(group):
                others = np.delete(returns, k).mean()
                wanted = returns[k] - others
                if algo == "grpo":
                    wanted = (returns[k] - returns.mean()) / (returns.std(ddof=1) + 1e-4)
                np.testing.assert_allclose(of_episodes[start + k], np.full(len(each), wanted), atol=1e-4)
            groups += 1
    assert groups > 3


def test_a_turn_costs_its_new_tokens_and_not_the_prefix(monkeypatch: pytest.MonkeyPatch):
    """Over whole dialogues each token is run once: sampled ones, and those that the environment wrote."""
    core = CausalLMActorCritic(*letter_model(), max_length=16)
    env = TextGenVectorEnv(1, letter_dialogue(), kl_mode="deferred", autoreset_mode="SAME_STEP")
    collect(core, env, episodes=1, seed=0)  # the first step tries the cache
    assert core._decoder is not None
    assert core._decoder.cached
    run, original = [], core.lm.body.forward

    def counting(*args: Any, **kwargs: Any) -> Any:
        given = kwargs.get("input_ids", args[0] if args else None)
        run.append(given.numel() if given is not None else kwargs["inputs_embeds"].shape[:-1].numel())
        return original(*args, **kwargs)

    monkeypatch.setattr(core.lm.body, "forward", counting)
    trajectories = collect(core, env, episodes=12, seed=0)
    assert sum((~each.is_action).sum() for each in trajectories) > 24
    # The last token of an episode is drawn and never run.
    assert sum(run) == sum(len(each.ids) - 1 for each in trajectories)
    # One forward a sampled token: what the environment wrote rides along.
    assert len(run) == sum(map(len, trajectories))


def test_what_evaluations_and_predictions_are_charged():
    agent = agent_of()
    env = TextVecEnv(num_envs=3, task=letter_dialogue(), device="cpu")
    observations, seen = env.reset(), 0
    for _ in range(30):
        tokens, _ = agent.predict(observations)
        observations, _, dones, infos = env.step(tokens)
        for row in np.flatnonzero(dones):
            (episode,) = (episode for place, episode in env.env.transition.episodes if place == row)
            own, ref, _ = by_prefix(agent.policy.actor_critic, episode)
            assert infos[row]["kl_sum"] == pytest.approx((own - ref).sum(), abs=1e-5)
            assert infos[row]["episode"]["r"] == pytest.approx(episode.score - COEF * (own - ref).sum(), abs=1e-5)
            assert len(infos[row]["turns"]) == 3
            seen += 1
    assert seen > 6


@pytest.mark.slow
def test_a_run_that_is_resumed_in_mid_dialogue_is_the_one_that_was_not(tmp_path: Path):
    """The resumed agent has another seed: turn environments, records and openings come from the checkpoint."""

    def fresh(seed: int) -> Any:
        return agent_of(n_steps=7, learning_rate=1e-3, seed=seed)

    agent = fresh(0)
    agent.learn(84)
    assert agent.env.env._mdp.running.any()
    save_checkpoint(agent, tmp_path / "half")
    agent.learn(84, reset_num_timesteps=False)
    other = fresh(1)
    load_checkpoint(other, tmp_path / "half")
    other.learn(84, reset_num_timesteps=False)
    for name, tensor in agent.policy.state_dict().items():
        assert torch.equal(tensor, other.policy.state_dict()[name]), name
    episodes = [each.rollout_buffer.episodes for each in (agent, other)]
    assert [each.turns for each in episodes[0]] == [each.turns for each in episodes[1]] != []


class TimesOut(LetterDialogue):
    """Cuts every episode off after its second turn."""

    def step(self, action: str) -> Any:
        reply, score, *_ = super().step(action)
        return reply, score, False, self.turn == 2, {}


def test_a_time_out_of_the_turn_environment_is_bootstrapped_from():
    agent = agent_of(n_steps=12, gae_lambda=0.9, gamma=0.97, env={"task": letter_dialogue(TimesOut)})
    agent.train = lambda: None
    agent.learn(72)
    (batch,) = agent.rollout_buffer.get(None)
    trajectories = agent.rollout_buffer.trajectories
    core, cut = agent.policy.actor_critic, 0
    rows = np.split(batch.advantages.numpy(), np.cumsum([len(each) for each in trajectories])[:-1])
    for each, advantages in zip(trajectories, rows, strict=True):
        assert each.finish_reason == ""
        if each.turns is None:
            continue
        assert len(each.turns) == 2
        cut += 1
        _, _, values = by_prefix(core, each)
        # SB3 adds the value of the state behind the answer to the last reward.
        reply = ["abcde".index(letter) for letter in each.turns[-1]["reply"]]
        with_reply = each.ids.tolist()
        if with_reply[-len(reply) :] != reply or each.is_action[-1]:
            with_reply += reply
        following = value_of(core, with_reply)
        rewards = each.rewards.copy()
        np.testing.assert_allclose(advantages, gae(rewards, values, 0.0), atol=1e-4)
        own, ref, _ = by_prefix(core, each)
        paid = each.turns[-1]["score"] - COEF * (own - ref)[-1]
        assert rewards[-1] == pytest.approx(paid + 0.97 * following, abs=1e-4)
    assert cut > 4
    env = TextGenVectorEnv(3, letter_dialogue(TimesOut), autoreset_mode="SAME_STEP", kl_mode="deferred")
    sampled = collect(core, env, episodes=6, seed=0)
    assert all(each.score == sum(turn["score"] for turn in each.turns) for each in sampled)


def test_trl_is_refused():
    env = TextGenVectorEnv(1, letter_dialogue(), autoreset_mode="SAME_STEP", kl_mode="deferred")
    core = CausalLMActorCritic(*letter_model(), max_length=16)
    with pytest.raises(ConfigError, match=r"GRPO trains single responses.*several turns.*SB3 or RLlib"):
        train_online("grpo", env, core, budget=10)
    with pytest.raises(ConfigError, match="DPO trains single responses"):
        train_offline("dpo", env, core, [])


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["ppo", "appo", "impala"])
def test_what_rllibs_losses_are_fed(algo: str):
    """Fragments that cut dialogues: the ratio is 1, and each action has its turn's reward and its own KL."""
    pytest.importorskip("ray.rllib")
    from ray.rllib.core.columns import Columns
    from test_rllib_packing import ratios, wire

    from textrl_agents.rllib.connectors.stretches import stretch_of

    wired = wire(algo, letter_dialogue(), env={"kl_coef": COEF}, rollout_fragment_length=4)
    wired.runner.sample()
    episodes = [episode for _ in range(4) for episode in wired.runner.sample() if len(episode)]
    columns = wired.columns(episodes)
    ratio = ratios(wired.learner.module["default_policy"], columns)
    torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-5, rtol=0)
    ended = crossed = 0
    for row, episode in enumerate(episodes):
        each = stretch_of(episode, COEF, "deferred").trajectory
        own, ref, _ = by_prefix(wired.core, each)
        first = int(each.is_action.argmax()) == 1
        if Columns.REWARDS in columns and first:  # V-trace has rewards, PPO has advantages of them
            turns = replayed(each.ids.tolist(), each.is_action.tolist()).paid
            paid = columns[Columns.REWARDS][row, : len(each)]
            np.testing.assert_allclose(paid, turns - COEF * (own - ref), atol=1e-5)
        assert columns[Columns.ACTIONS][row, : len(each)].tolist() == each.response_ids.tolist()
        crossed += bool((np.diff(np.flatnonzero(each.is_action)) > 1).any())
        if episode.is_terminated:
            ended += 1
            assert (each.finish_reason, len(each.turns)) == ("env", 3)
            assert each.score == sum(turn["score"] for turn in each.turns)
    assert ended > 2
    assert crossed > 2


def test_an_evaluation_says_how_many_turns_and_how_many_succeeded():
    core = CausalLMActorCritic(*letter_model(), max_length=16)
    env = TextGenVectorEnv(4, letter_dialogue(), autoreset_mode="SAME_STEP", kl_mode="deferred")
    found = evaluate(core, env=env, episodes=12, seed=0)
    replayed_paid = [sum(replayed(each.ids.tolist(), each.is_action.tolist()).paid) for each in found.episodes]
    assert [each.score for each in found.episodes] == replayed_paid
    assert found["turns"].mean == 3
    assert found["success"].mean == np.mean([each.success for each in found.episodes])
    assert {name: share for name, share in found.finish_reasons.items() if share} == {"env": 1.0}
    sample = found.to_json()["samples"][0]
    assert [turn["tokens"] for turn in sample["turns"]] == [turn["tokens"] for turn in found.episodes[0].turns]
    other = evaluate(core, env=env, episodes=12, seed=0)
    assert paired_difference(found, other)["score"].mean == 0


class SaysLate(LetterDialogue):
    """Ends well after two turns, and goes on where the last letter is an "e"."""

    def step(self, action: str) -> Any:
        reply, score, *_ = super().step(action)
        is_over = self.turn == 2 and self.last != "e"
        return reply, score, is_over, False, {"success": True} if is_over else {}


def test_an_episode_that_a_limit_ends_has_not_succeeded():
    """Were those left out that nobody judged, the share of the others would be that of all."""
    core = CausalLMActorCritic(*letter_model(), max_length=16)
    env = TextGenVectorEnv(4, letter_dialogue(SaysLate, max_turns=3), autoreset_mode="SAME_STEP", kl_mode="deferred")
    found = evaluate(core, env=env, episodes=24, seed=0)
    judged = [each for each in found.episodes if each.success is not None]
    assert 0 < len(judged) < 24
    assert all(each.success for each in judged)
    assert found["success"].mean == len(judged) / 24
    assert paired_difference(found, found)["success"].mean == 0
    assert found.to_json()["success"]["mean"] == len(judged) / 24


def test_tables_are_refused():
    """A table's states would leave out what the turn environment hides."""
    for name in ("q_learning", "sarsa"):
        with pytest.raises(ConfigError, match=f"{name} keeps a table of states.*task 'letter dialogue' has several"):
            make_agent(name, env_kwargs={"task": letter_dialogue(), "device": "cpu"}, n_envs=2)
        with pytest.raises(ConfigError, match="has several turns"):
            TrainConfig.of({"lib": "sb3", "algo": name, "task": "exact", "env": {"turns": "guess"}}).resolved()


def test_metrics_of_rollouts_with_several_turns():
    """Shares that sum to 1, and parts that only some episodes have."""
    record = {"action": "a", "reply": "b", "role": "user", "score": 1.0, "score_parts": {}, "tokens": 1}
    ids = np.zeros(2, dtype=np.int64)
    episodes = [
        Trajectory.of_response(ids[:1], ids[1:], turns=[record] * count, success=success, finish_reason=reason, **known)
        for count, success, reason, known in (
            (1, True, "env", {"score_parts": {"turns": 1.0, "bonus": 3.0}}),
            (2, False, "turns", {"score_parts": {"turns": 2.0}}),
            (3, None, "", {}),
        )
    ]
    for each in episodes:
        each.kl, each.log_probs, each.score = np.zeros(1), np.zeros(1), 1.0
    found = rlhf_metrics(episodes, "deferred")
    assert found["rollout/turns"] == 2
    assert found["rollout/success"] == pytest.approx(1 / 3), "one that was cut off has not succeeded"
    assert "rollout/success" not in rlhf_metrics(episodes[2:], "deferred")
    shares = {name: found[f"rollout/{name}_share"] for name in ("eos", "stop", "length", "env", "turns", "truncated")}
    assert shares == pytest.approx({"eos": 0, "stop": 0, "length": 0, "env": 1 / 3, "turns": 1 / 3, "truncated": 1 / 3})
    assert found["objective/score_parts/bonus"] == 1.0
