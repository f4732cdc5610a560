"""decoder="ahead" under stock SB3, under RLlib's module and in `collect`: the loops notice nothing but the speed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from counting_game import CountingGame
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback

from textrl_agents.rollout import PromptQueue, collect
from textrl_agents.sb3 import make_agent
from textrl_env import TextGenVectorEnv
from textrl_env.models import CausalLMActorCritic, pack
from textrl_env.models.decoding.engine import Request
from textrl_env.tasks import Task


def agent_of(task: Task, algo: str = "ppo", **settings: Any) -> Any:
    how = {"n_envs": 4, "n_steps": 8, "seed": 0, "progress": False, "learning_rate": 1e-3}
    return make_agent(algo, env_kwargs={"task": task}, policy_kwargs={"decoder": "ahead"}, **{**how, **settings})


class Rollouts(BaseCallback):
    """Compares each rollout's log-probabilities and values with those of the weights that it was sampled with."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[tuple[float, float]] = []
        self.actions: list[np.ndarray] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        buffer, core = self.model.rollout_buffer, self.model.policy.actor_critic  # type: ignore[attr-defined]
        packed = pack(buffer.trajectories, "cpu")
        with torch.no_grad():
            values, log_probs, _ = core.evaluate(packed)
        sampled = np.concatenate([trajectory.log_probs for trajectory in buffer.trajectories])
        judged = np.concatenate([trajectory.values for trajectory in buffer.trajectories])
        self.errors.append((np.abs(sampled - log_probs.numpy()).max(), np.abs(judged - values.numpy()).max()))
        self.actions.append(buffer.actions.copy())
        assert np.isfinite(buffer.advantages).all()


def test_stock_ppo_learns_from_what_its_present_weights_would_say(tiny_task: Task, asked: list[list[Request]]):
    """Over updates that cut responses: never a log-probability of older weights; and the ratio begins at 1."""
    runs = []
    for _ in range(2):
        agent, rollouts = agent_of(tiny_task), Rollouts()
        before = torch.cat([weight.detach().flatten() for weight in agent.policy.actor_critic.model.parameters()])
        agent.learn(3 * 32, callback=rollouts)
        after = torch.cat([weight.detach().flatten() for weight in agent.policy.actor_critic.model.parameters()])
        assert agent.policy.actor_critic.decoder == "ahead"
        assert (after - before).abs().max() > 1e-4
        assert np.max(rollouts.errors) < 1e-5
        runs.append((rollouts.actions, after))
    assert len(runs[0][0]) == 3
    for one, other in zip(runs[0][0], runs[1][0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert torch.equal(runs[0][1], runs[1][1]), "the same seed has trained other weights"


def test_a_rollout_decodes_little_that_it_does_not_use(tiny_task: Task, asked: list[list[Request]]):
    agent = agent_of(tiny_task, learning_rate=0.0, n_steps=24)
    agent.learn(96)
    asked.clear()
    agent.learn(96, reset_num_timesteps=False)
    assert len(asked) < 24 / 2, "rows that end at different steps were decoded one by one"
    assert sum(request.limit for requests in asked for request in requests) <= 1.5 * 96


@pytest.mark.parametrize("greedy", [True, False])
def test_an_evaluation_in_the_midst_of_a_rollout(greedy: bool, tiny_task: Task, monkeypatch: pytest.MonkeyPatch):
    """SB3's own, with more rows than the rollout has: what the rollout knows of its rows says nothing of these."""
    agent, rollouts = agent_of(tiny_task), Rollouts()
    asked_of, told = agent.env.env.upcoming_prompts, []
    monkeypatch.setattr(agent.env.env, "upcoming_prompts", lambda rows: (told.append(rows), asked_of(rows))[1])
    others = agent_of(tiny_task, n_envs=7).env
    evaluation = EvalCallback(others, eval_freq=5, n_eval_episodes=7, verbose=0, deterministic=greedy)
    agent.learn(2 * 32, callback=[rollouts, evaluation])
    assert np.isfinite(evaluation.last_mean_reward)
    assert np.max(rollouts.errors) < 1e-5
    assert told, "the rollout went on as if nothing were known of its rows"
    assert max(max(rows, default=0) for rows in told) < 4


@pytest.mark.parametrize("algo", ["rloo", "a2c"])
def test_other_algorithms(algo: str, tiny_task: Task):
    agent, rollouts = agent_of(tiny_task, algo, n_steps=8), Rollouts()
    agent.learn(2 * 32, callback=rollouts)
    assert np.max(rollouts.errors) < 1e-5


@pytest.mark.parametrize("group_size", [1, 2])
def test_upcoming_prompts_are_those_that_come(group_size: int, tiny_task: Task):
    env = TextGenVectorEnv(4, task=tiny_task, autoreset_mode="SAME_STEP", group_size=group_size, max_new_tokens=1)
    env.reset(seed=3)
    for _ in range(20):
        told = env.upcoming_prompts(range(4))
        observations, *_ = env.step(np.full(4, 9))
        for ids, row in zip(told, observations, strict=True):
            np.testing.assert_array_equal(ids, row[row >= 0])


def test_collect_decodes_the_prompts_that_wait_together(tiny_task: Task, asked: list[list[Request]]):
    env = TextGenVectorEnv(3, task=tiny_task, kl_mode="deferred")
    policies = [
        CausalLMActorCritic(
            tiny_task.model()[0], env.tokenizer, max_length=env.rules.max_length, decoder=decoder, response_tokens=8
        )
        for decoder in ("slots", "ahead")
    ]
    greedy = [collect(policy, env, episodes=12, seed=5, deterministic=True) for policy in policies]
    assert [trajectory.ids.tolist() for trajectory in greedy[0]] == [t.ids.tolist() for t in greedy[1]]
    asked.clear()
    sampled = collect(policies[1], env, episodes=24, seed=5)
    assert len(sampled) == 24
    np.testing.assert_allclose(
        np.concatenate([trajectory.log_probs for trajectory in sampled]),
        policies[1].log_probs(pack(sampled, "cpu")).numpy(),
        atol=1e-5,
    )
    assert len(asked) <= 12
    assert sum(map(len, asked)) == 24


@pytest.mark.parametrize("budget", [None, 200])
def test_a_queue_that_is_looked_into_gives_the_same_prompts(budget: int | None, tiny_task: Task):
    prompts = list(TextGenVectorEnv(1, task=tiny_task).prompts)
    plain, looked = (PromptQueue(iter(prompts), repeats=3, budget=budget, limit=8) for _ in range(2))
    wanted = []
    for expected in plain:
        coming = looked.upcoming(range(2))
        wanted.append(next(looked))
        assert wanted[-1].number == expected.number
        assert wanted[-1].prompt.text == expected.prompt.text
        if coming:
            np.testing.assert_array_equal(coming[0], wanted[-1].prompt.ids)
        for queue in (plain, looked):
            queue.generated += 8
            queue.finished += 1
    assert len(wanted) > 3
    assert next(looked, None) is None


@pytest.mark.slow
def test_the_module_of_rllib(tiny_task: Task):
    pytest.importorskip("ray")
    from ray.rllib.core.columns import Columns

    from textrl_agents.rllib.module import CausalLMModule

    env = TextGenVectorEnv(2, task=tiny_task)
    module = CausalLMModule(
        observation_space=env.single_observation_space,
        action_space=env.single_action_space,
        model_config={"env": {"task": tiny_task}, "actor_critic": {"decoder": "ahead"}},
    )
    observations, _ = env.reset(seed=0)
    for _ in range(6):
        shown = torch.from_numpy(observations)
        out = module._forward_exploration({Columns.OBS: shown})
        expected = module.actor_critic.states(shown).logits.log_softmax(dim=-1)
        expected = expected.gather(-1, out[Columns.ACTIONS][:, None]).squeeze(-1)
        torch.testing.assert_close(out[Columns.ACTION_LOGP], expected, atol=1e-5, rtol=0)
        observations, *_ = env.step(out[Columns.ACTIONS].numpy())
    assert module.actor_critic.decoder == "ahead"


def test_dialogues_whose_openings_nobody_knows_yet(make_model: Any, tiny_tokenizer: Any, asked: list[list[Request]]):
    """A turn environment writes prompts and replies: nothing is decoded for a prompt that is not there."""
    model = make_model("llama")
    limits = {"max_prompt_tokens": 32, "max_new_tokens": 72, "max_turn_tokens": 6}
    task = Task("count", turns=CountingGame, model=lambda: (model, tiny_tokenizer), kl_coef=0.1, **limits)
    rollouts = Rollouts()
    agent = agent_of(task, n_steps=16)
    agent.learn(2 * 64, callback=rollouts)
    assert agent.policy.actor_critic.decoder == "ahead"
    assert np.max(rollouts.errors) < 1e-5
    env = TextGenVectorEnv(3, task, kl_mode="deferred", autoreset_mode="SAME_STEP")
    episodes = collect(agent.policy.actor_critic, env, episodes=6, seed=0)
    assert all(len(each.turns or ()) == 3 for each in episodes)
    assert asked
    assert all(len(request.ids) for call in asked for request in call)
