"""The SB3 adapter: a conforming VecEnv and policy, and a rollout buffer that charges what the environment would."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_checker import check_env

import textrl_env
from textrl_agents.sb3 import TextVecEnv, make_agent
from textrl_env import Task, TextGenVectorEnv
from textrl_env.errors import ConfigError, UnknownName
from textrl_env.tasks import task_names

EOS = 5  # of task "exact"


def agent_of(task: Task | str, algo: str = "ppo", *, seed: int = 0, **arguments: Any) -> Any:
    """An agent whose policy differs from the reference, with a value head that says something."""
    env_kwargs = {"task": task, "device": "cpu", **arguments.pop("env_kwargs", {})}
    agent = make_agent(algo, n_envs=arguments.pop("n_envs", 4), env_kwargs=env_kwargs, seed=seed, **arguments)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in agent.policy.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    return agent


def collect(agent: Any, rollouts: int = 1) -> list[dict[str, Any]]:
    """What the buffer holds after each of some rollouts; the weights must not move (learning_rate 0)."""
    seen: list[dict[str, Any]] = []

    def note(locals_: dict[str, Any], globals_: dict[str, Any]) -> bool:
        return True

    original = agent.train

    def train() -> None:
        buffer = agent.rollout_buffer
        names = ("actions", "rewards", "episode_starts", "values", "log_probs", "advantages", "returns")
        record = {name: getattr(buffer, name).copy() for name in names}
        record["episodes"] = list(buffer.episodes)
        record["entropies"] = list(buffer.response_entropies)
        seen.append(record)
        original()

    agent.train = train
    agent.learn(rollouts * agent.n_steps * agent.n_envs, callback=note)
    return seen


@pytest.mark.parametrize("task", task_names())
def test_sb3_check_env(task: str):
    """CHECKS 1: no error and no warning (warnings are errors here), on every registered task."""
    check_env(gymnasium.make(textrl_env.ENV_ID, task=task).unwrapped)


def test_the_vec_env_is_the_vector_environment():
    """The same seeds give the same prompts, rewards and ends, in SB3's convention."""
    native = TextGenVectorEnv(3, "exact", autoreset_mode="SAME_STEP", kl_mode="deferred")
    vec_env = TextVecEnv(num_envs=3, task="exact")
    assert vec_env.env.rules.kl_mode == "deferred", "the shipped adapters' default"
    assert (vec_env.num_envs, vec_env.action_space.n, vec_env.observation_space.shape) == (3, 6, (6,))
    vec_env.seed(11)
    observations, (expected, _) = vec_env.reset(), native.reset(seed=11)
    np.testing.assert_array_equal(observations, expected)
    for actions in ([1, EOS, 2], [2, 0, EOS], [3, 1, 1], [0, 0, 0], [1, 2, 3]):
        observations, rewards, dones, infos = vec_env.step(np.array(actions))
        expected, expected_rewards, terminated, _, vector_infos = native.step(np.array(actions))
        np.testing.assert_array_equal(observations, expected)
        np.testing.assert_allclose(rewards, expected_rewards)
        np.testing.assert_array_equal(dones, terminated)
        assert rewards.dtype == np.float32
        for row in np.flatnonzero(dones):
            np.testing.assert_array_equal(infos[row]["terminal_observation"], vector_infos["final_obs"][row])
            assert infos[row]["response"] == vector_infos["final_info"]["response"][row]
            assert infos[row]["TimeLimit.truncated"] is False
            assert infos[row]["episode"]["l"] == vector_infos["final_info"]["episode"]["l"][row]
    assert vec_env.get_attr("num_envs") == [3, 3, 3]
    assert vec_env.env_is_wrapped(gymnasium.Wrapper) == [False] * 3
    vec_env.close()


def test_reset_options_are_per_row_as_in_sb3():
    vec_env = TextVecEnv(num_envs=2, task="exact")
    vec_env.set_options([{"prompt": "e"}, {"prompt": "b"}])
    assert vec_env.reset()[:, 0].tolist() == [4, 1]
    vec_env.set_options({"prompt_index": 1})
    assert vec_env.reset()[:, 0].tolist() == [2, 2]
    assert len({int(ids) for _ in range(12) for ids in vec_env.reset()[:, 0]}) == 2, "options hold for one reset"


def test_vec_envs_that_cannot_work():
    with pytest.raises(ConfigError, match="autoreset_mode='SAME_STEP'"):
        TextVecEnv(TextGenVectorEnv(2, "exact"))
    built = TextGenVectorEnv(2, "exact", autoreset_mode="SAME_STEP")
    with pytest.raises(ConfigError, match="built already; give it these arguments itself: kl_coef"):
        TextVecEnv(built, kl_coef=0.1)
    with pytest.raises(ConfigError, match="built already"):
        make_agent("ppo", built, env_kwargs={"kl_coef": 0.1})
    with pytest.raises(ConfigError, match="runs over a TextGenVectorEnv"):
        TextVecEnv(gymnasium.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync"))
    with pytest.raises(UnknownName, match=r"unknown algorithm 'pppo'\. Did you mean 'ppo'"):
        make_agent("pppo")
    with pytest.raises(ConfigError, match="ppo does not take these arguments.*clip_rang"):
        make_agent("ppo", env_kwargs={"task": "exact"}, clip_rang=0.1)


def test_defaults_fit_rlhf():
    """CHECKS 28: discount 1, Adam's eps 1e-5, a value head at 0."""
    for algo, kind in (("ppo", PPO), ("a2c", A2C)):
        agent = make_agent(algo, env_kwargs={"task": "exact"}, n_envs=2)
        assert type(agent) is kind, "SB3's classes stay stock"
        assert (agent.gamma, agent.gae_lambda) == (1.0, 0.95)
        assert isinstance(agent.policy.optimizer, torch.optim.Adam)
        assert agent.policy.optimizer.defaults["eps"] == 1e-5
        state = torch.from_numpy(agent.env.reset())
        assert agent.policy.predict_values(state).tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize(("n_envs", "n_steps"), [(5, 5), (1, 31), (3, 7), (1, 2)])
def test_odd_sizes_give_no_warning(n_envs: int, n_steps: int):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_agent("ppo", env_kwargs={"task": "exact"}, n_envs=n_envs, n_steps=n_steps)


def replay(records: list[dict[str, Any]], model: Any, starts: list[list[np.ndarray]]) -> list[dict[str, Any]]:
    """The oracle: the rows' token streams over all rollouts, cut into episodes, and their KL by the plain reference.

    starts: for each row, its prompts in the order they were drawn. Returns per finished episode its row, the global
    steps it took, and the KL of each.
    """
    actions = np.concatenate([record["actions"] for record in records])
    log_probs = np.concatenate([record["log_probs"] for record in records])
    opening = np.concatenate([record["episode_starts"] for record in records]).astype(bool)
    episodes = []
    for row in range(actions.shape[1]):
        firsts = [*np.flatnonzero(opening[:, row]), len(actions)]
        for index, (first, end) in enumerate(zip(firsts, firsts[1:], strict=False)):
            ids = np.concatenate([starts[row][index], actions[first:end, row]])
            with torch.no_grad():
                logits = model(input_ids=torch.from_numpy(ids)[None]).logits[0].double()
            ref = logits.log_softmax(-1)[torch.arange(len(ids) - 1), ids[1:]].numpy()[-(end - first) :]
            steps = np.arange(first, end)
            episodes.append({"row": row, "steps": steps, "kl": log_probs[first:end, row] - ref})
    return episodes


def prompts_drawn(agent: Any) -> list[list[np.ndarray]]:
    """Notes the prompt of every episode of every row from here on."""
    vec_env = agent.env
    drawn: list[list[np.ndarray]] = [[] for _ in range(vec_env.num_envs)]
    reset_rows = vec_env.env._mdp.reset_rows

    def noting(rows: Any, prompts: Any) -> None:
        for row, prompt in zip(rows, prompts, strict=True):
            drawn[row].append(prompt.ids)
        reset_rows(rows, prompts)

    vec_env.env._mdp.reset_rows = noting
    return drawn


@pytest.mark.parametrize("n_steps", [3, 8, 20])
@pytest.mark.parametrize("adaptive", [False, True])
def test_the_deferred_charge_of_episodes_that_rollouts_cut_anywhere(n_steps: int, adaptive: bool):
    """CHECKS 4 and 7: each transition pays its own KL at its episode's coefficient, and the record of an episode that
    spans several rollouts gets the whole sum, whatever the rollouts' length. Expected values by the plain model."""
    coef: Any = {"value": 0.5, "target": 0.05, "horizon": 40} if adaptive else 0.5
    agent = agent_of("exact", n_steps=n_steps, learning_rate=0.0, env_kwargs={"kl_coef": coef})
    starts = prompts_drawn(agent)
    records = collect(agent, 60 // n_steps)
    model = textrl_env.tasks.get_task("exact").model()[0]
    episodes = replay(records, model, starts)
    rewards = np.concatenate([record["rewards"] for record in records])
    reported = {row: [] for row in range(4)}
    values = [0.5]  # the coefficient in force during each rollout
    for record in records:
        ended = record["episodes"]
        if adaptive and ended:
            error = np.clip(np.mean([episode.kl_sum for episode in ended]) / 0.05 - 1, -0.2, 0.2)
            values.append(values[-1] * (1 + error * len(ended) / 40))
        else:
            values.append(values[-1])
    # In order of row, then time, as the buffer reports them rollout by rollout.
    queue = [list(record["episodes"]) for record in records]
    for rollout, ended in enumerate(queue):
        for row in range(4):
            within = [e for e in episodes if e["row"] == row and e["steps"][-1] // n_steps == rollout]
            last_step = (rollout + 1) * n_steps - 1
            for expected in within:
                final = expected["steps"][-1]
                # A stretch that reaches the end of all records may still be open: then no record says it ended.
                if final == len(rewards) - 1 or (final == last_step and not ended):
                    continue
                if final == last_step and not is_start(records, final + 1, row):
                    continue
                reported[row].append((expected, ended.pop(0)))
    matched = [pair for pairs in reported.values() for pair in pairs]
    assert len(matched) > 40
    assert sum(len({step // n_steps for step in e["steps"]}) > 1 for e, _ in matched) > (5 if n_steps < 20 else 0)
    for expected, episode in matched:
        started = values[expected["steps"][0] // n_steps]
        assert episode.kl_coef == pytest.approx(started, rel=1e-6)
        assert episode.kl_sum == pytest.approx(expected["kl"].sum(), abs=1e-4)
        assert episode.statistics["l"] == len(expected["steps"])
        assert episode.statistics["r"] == pytest.approx(episode.score - started * expected["kl"].sum(), abs=1e-4)
        score = np.zeros(len(expected["steps"]))
        score[-1] = episode.score
        np.testing.assert_allclose(
            rewards[expected["steps"], expected["row"]], score - started * expected["kl"], atol=1e-4
        )
    assert np.abs(np.concatenate([e["kl"] for e, _ in matched])).max() > 0.05, "policy = reference: shows nothing"
    if adaptive:
        assert len(set(values)) > 2


def is_start(records: list[dict[str, Any]], step: int, row: int) -> bool:
    starts = np.concatenate([record["episode_starts"] for record in records])
    return bool(starts[step, row])
