"""The rollout buffer of episodes: what it charges, reports and hands out, against oracles of its own."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from conftest import quick
from stable_baselines3.common.logger import KVWriter, Logger

from textrl_agents.sb3 import EpisodeRolloutBuffer, TextVecEnv, make_agent
from textrl_env import Task
from textrl_env.errors import ConfigError
from textrl_env.models import PackedEpisodes
from textrl_env.tasks import get_task

RECORDED = ("actions", "rewards", "episode_starts", "values", "log_probs", "advantages", "returns", "episodes")


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

    original = agent.train

    def train() -> None:
        seen.append({name: getattr(agent.rollout_buffer, name).copy() for name in RECORDED})
        original()

    agent.train = train
    agent.learn(rollouts * agent.n_steps * agent.n_envs)
    agent.train = original
    return seen


def finished_episodes(agent: Any, records: list[dict[str, Any]], starts: list[list[np.ndarray]]) -> list[Any]:
    """The oracle: the rows' token streams over all rollouts, cut into episodes, and their KL by the plain reference.

    starts: each row's prompts, in the order they were drawn. Gives (row, steps, kl of each step) for every episode that
    ended, in order of the rollout in which it ended, then row, then time: the order of the buffer's reports.
    """
    model = get_task("exact").model()[0]
    actions, log_probs, opening = (
        np.concatenate([record[name] for record in records]) for name in ("actions", "log_probs", "episode_starts")
    )
    opening = np.concatenate([opening, agent._last_episode_starts[None]]).astype(bool)
    episodes = []
    for row in range(actions.shape[1]):
        for prompt, (first, end) in zip(starts[row], itertools.pairwise(np.flatnonzero(opening[:, row])), strict=False):
            ids = np.concatenate([prompt, actions[first:end, row]])
            with torch.no_grad():
                logits = model(input_ids=torch.from_numpy(ids)[None]).logits[0].double()
            ref = logits.log_softmax(-1)[torch.arange(len(ids) - 1), ids[1:]].numpy()[first - end :]
            episodes.append((row, np.arange(first, end), log_probs[first:end, row] - ref))
    return sorted(episodes, key=lambda each: each[1][-1] // agent.n_steps)


def prompts_drawn(agent: Any) -> list[list[np.ndarray]]:
    """Notes the prompt of every episode of every row from here on."""
    mdp = agent.env.env._mdp
    drawn: list[list[np.ndarray]] = [[] for _ in range(mdp.num_rows)]
    reset_rows = mdp.reset_rows

    def noting(rows: Any, prompts: Any) -> None:
        for row, prompt in zip(rows, prompts, strict=True):
            drawn[row].append(prompt.ids)
        reset_rows(rows, prompts)

    mdp.reset_rows = noting
    return drawn


@pytest.mark.parametrize("n_steps", quick([3], [3, 8, 20]))
@pytest.mark.parametrize("adaptive", quick([True], [False, True]))
def test_the_deferred_charge_of_episodes_that_rollouts_cut_anywhere(n_steps: int, adaptive: bool):
    """CHECKS 4 and 7: each transition pays its own KL at its episode's coefficient, and the record of an episode that
    spans several rollouts gets the whole sum, whatever the rollouts' length. Expected values by the plain model."""
    coef: Any = {"value": 0.5, "target": 0.05, "horizon": 40} if adaptive else 0.5
    agent = agent_of("exact", n_steps=n_steps, learning_rate=0.0, env_kwargs={"kl_coef": coef})
    starts = prompts_drawn(agent)
    records = collect(agent, 60 // n_steps)
    expected = finished_episodes(agent, records, starts)
    reported = [episode for record in records for episode in record["episodes"]]
    assert len(expected) == len(reported) > 40
    spanning = sum(steps[0] // n_steps != steps[-1] // n_steps for _, steps, _ in expected)
    assert spanning > 0
    coefs = [0.5]  # in force during each rollout
    for record in records:
        mean = np.mean([episode.kl_sum for episode in record["episodes"]] or [0.05])
        factor = 1 + np.clip(mean / 0.05 - 1, -0.2, 0.2) * len(record["episodes"]) / 40
        coefs.append(coefs[-1] * (factor if adaptive else 1.0))
    rewards, log_probs = (np.concatenate([record[name] for record in records]) for name in ("rewards", "log_probs"))
    for (row, steps, kl), episode in zip(expected, reported, strict=True):
        coef = coefs[max(steps[0] - 1, 0) // n_steps]  # a row is reset in the step that ends its last episode
        assert episode.kl_coef == pytest.approx(coef, rel=1e-6)
        assert episode.kl_sum == pytest.approx(kl.sum(), abs=1e-5)
        assert episode.episode_return == pytest.approx(episode.score - coef * kl.sum(), abs=1e-5)
        assert len(episode) == len(steps)
        assert episode.surprisal == pytest.approx(-log_probs[steps, row].sum(), abs=1e-4)
        paid = -coef * kl
        paid[-1] += episode.score
        np.testing.assert_allclose(rewards[steps, row], paid, atol=1e-5)
    assert np.abs(np.concatenate([kl for *_, kl in expected])).max() > 0.05, "policy = reference: shows nothing"
    assert len(set(coefs)) > 2 or not adaptive


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.7}])
@pytest.mark.parametrize("estimator", quick(["k3"], ["k1", "k3"]))
def test_deferred_equals_log_ratio(estimator: str, sampling: dict[str, float], tiny_task: Task):
    """CHECKS 4 through SB3: the same rewards, advantages, returns and records, to 1e-5, over rollouts that cut."""
    records = []
    for kl_mode in ("deferred", "log_ratio"):
        env_kwargs = {"kl_mode": kl_mode, "kl_estimator": estimator, "sampling": sampling, "kl_coef": 0.2}
        records.append(collect(agent_of(tiny_task, n_steps=5, learning_rate=0.0, env_kwargs=env_kwargs), 4))
    for deferred, stepwise in zip(*records, strict=True):
        np.testing.assert_array_equal(deferred["actions"], stepwise["actions"])
        for name in ("rewards", "advantages", "returns"):
            np.testing.assert_allclose(deferred[name], stepwise[name], atol=1e-5, rtol=1e-5, err_msg=name)
        assert len(deferred["episodes"]) == len(stepwise["episodes"])
        for one, other in zip(deferred["episodes"], stepwise["episodes"], strict=True):
            assert one.response == other.response
            assert one.kl_sum == pytest.approx(other.kl_sum, abs=1e-4)
            assert one.episode_return == pytest.approx(other.episode_return, abs=1e-4)
    assert np.abs(records[0][0]["rewards"]).max() > 0.01


def test_the_full_estimator_through_sb3():
    """CHECKS 24: each transition pays the exact KL of its two distributions, by the plain models."""
    env_kwargs = {"kl_estimator": "full", "kl_coef": 0.5, "reward": lambda prompts, completions: [0.0] * len(prompts)}
    agent = agent_of("exact", n_steps=6, learning_rate=0.0, env_kwargs=env_kwargs)
    (record,) = collect(agent)
    model, reference = agent.policy.actor_critic.model, get_task("exact").model()[0]
    packed, _, _, _, _, _ = next(iter(agent.rollout_buffer.get(None)))
    with torch.no_grad():
        rows = [(each(input_ids=packed.input_ids).logits.double().log_softmax(-1)) for each in (model, reference)]
    exact = (rows[0].exp() * (rows[0] - rows[1])).sum(-1)[packed.rows, packed.columns]
    np.testing.assert_allclose(record["rewards"].T.flatten(), -0.5 * exact.numpy(), atol=1e-5)
    assert exact.max() > 0.01


class Notes(KVWriter):
    """Keeps what SB3 logs."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        self.rows.append(dict(key_values))


def test_what_is_trained_is_what_is_logged(tiny_task: Task):
    """CHECKS 7: SB3's own rollout/ep_rew_mean is the mean penalised return, in deferred mode as in any."""
    agent = agent_of(tiny_task, n_steps=16, learning_rate=0.0, env_kwargs={"kl_coef": 0.2})
    notes = Notes()
    agent.set_logger(Logger(None, [notes]))
    (record,) = collect(agent)
    returns = [episode.score - 0.2 * episode.kl_sum for episode in record["episodes"]]
    assert notes.rows[0]["rollout/ep_rew_mean"] == pytest.approx(np.mean(returns), abs=1e-5)
    assert notes.rows[0]["rollout/ep_len_mean"] == np.mean([len(e.response_ids) for e in record["episodes"]])
    assert np.mean(returns) != pytest.approx(np.mean([episode.score for episode in record["episodes"]]), abs=1e-3)


def test_advantages_recomputed_independently(tiny_task: Task):
    """GAE from the buffer's rewards and values, backwards by hand; nothing is bootstrapped past an end."""
    agent = agent_of(tiny_task, n_steps=20, gae_lambda=0.9, gamma=0.97, learning_rate=0.0)
    (record,) = collect(agent)
    last_values = agent.policy.predict_values(torch.from_numpy(agent._last_obs)).flatten().numpy()
    for row in range(4):
        gain = 0.0
        for step in reversed(range(20)):
            ended = record["episode_starts"][step + 1, row] if step < 19 else agent._last_episode_starts[row]
            following = record["values"][step + 1, row] if step < 19 else last_values[row]
            delta = record["rewards"][step, row] + (0.0 if ended else 0.97 * following) - record["values"][step, row]
            gain = delta + (0.0 if ended else 0.97 * 0.9 * gain)
            assert record["advantages"][step, row] == pytest.approx(gain, abs=1e-4)
            assert record["returns"][step, row] == pytest.approx(gain + record["values"][step, row], abs=1e-4)
    assert np.abs(record["values"]).min() > 0


def test_the_first_advantages_are_the_scores(tiny_task: Task):
    """The policy is the reference and the value head is zero, so nothing but its score can tell a response's tokens
    from another's: its first is worth what its last is."""
    agent = make_agent("ppo", env_kwargs={"task": tiny_task}, n_envs=4, n_steps=24, learning_rate=0.0, seed=0)
    (record,) = collect(agent)
    ends = np.concatenate([record["episode_starts"][1:], agent._last_episode_starts[None]]).astype(bool)
    places = [(row, int(end) + 1) for row in range(4) for end in np.flatnonzero(ends[:, row])]
    assert len(places) == len(record["episodes"]) > 4
    for (row, end), episode in zip(places, record["episodes"], strict=True):
        own = record["advantages"][max(0, end - len(episode.response_ids)) : end, row]
        assert own == pytest.approx(episode.score, abs=1e-4)
    assert any(len(episode.response_ids) > 1 for episode in record["episodes"])


@pytest.mark.parametrize("batch_size", [None, 1, 7, 16, 1000])
def test_minibatches_hold_every_transition_once(batch_size: int | None, tiny_task: Task):
    """CHECKS 26 and 29: real tokens alone, whole sequences, sizes near the one asked for, and in each the old
    log-probs and values are those of the policy that acted: ratio 1 to 1e-5."""
    agent = agent_of(tiny_task, n_steps=20, learning_rate=0.0)
    agent.learn(80)
    buffer = agent.rollout_buffer
    batches = list(buffer.get(batch_size))
    for batch in batches:
        packed = batch.observations
        assert isinstance(packed, PackedEpisodes)
        assert len({len(column) for column in (*batch[1:], packed.rows)}) == 1
        values, log_probs, _ = agent.policy.evaluate_actions(packed, batch.actions)
        torch.testing.assert_close((log_probs - batch.old_log_prob).exp(), torch.ones(len(packed)), atol=1e-5, rtol=0)
        torch.testing.assert_close(values.flatten(), batch.old_values, atol=1e-4, rtol=0)
    together = [torch.stack([b.actions, b.old_log_prob, b.advantages, b.returns]) for b in batches]
    wanted = [each.T.flatten() for each in (buffer.actions, buffer.log_probs, buffer.advantages, buffer.returns)]
    assert sorted(torch.cat(together, 1).T.tolist()) == sorted(np.stack(wanted).astype(np.float32).T.tolist())
    longest = max(map(len, buffer.trajectories))
    assert all(len(b.actions) <= (batch_size or 80) + longest for b in batches)


def test_a_second_learn_starts_new_episodes():
    """`learn` resets the environment, which drops the episodes in flight: their KL must not be charged to new ones."""
    agent = agent_of("exact", n_steps=3, learning_rate=0.0)
    collect(agent)
    assert not agent._last_episode_starts.all(), "no episode was cut: the test shows nothing"
    starts = prompts_drawn(agent)
    records = collect(agent, 8)
    reported = [episode for record in records for episode in record["episodes"]]
    for (_, _, kl), episode in zip(finished_episodes(agent, records, starts), reported, strict=True):
        assert episode.kl_sum == pytest.approx(kl.sum(), abs=1e-5)


def test_a_rollout_that_a_callback_broke_off_leaves_no_episode_behind():
    """Records stay with their own rows and tokens when training goes on after a stop in the middle of a rollout."""
    agent = agent_of("exact", n_steps=12, learning_rate=0.0)
    agent.learn(48, callback=lambda *_: agent.num_timesteps < 4 * 8)
    assert agent.num_timesteps == 32
    records: list[dict[str, Any]] = []
    agent.train = lambda: records.append({name: getattr(agent.rollout_buffer, name) for name in RECORDED})
    agent.learn(48, reset_num_timesteps=False)
    (record,) = records
    ends = np.concatenate([record["episode_starts"][1:], agent._last_episode_starts[None]]).astype(bool)
    places = [(row, step + 1) for row in range(4) for step in np.flatnonzero(ends[:, row])]
    assert len(places) == len(record["episodes"]) > 4
    for (row, end), episode in zip(places, record["episodes"], strict=True):
        seen = min(end, len(episode.response_ids))
        assert episode.response_ids[-seen:].tolist() == record["actions"][end - seen : end, row].tolist()


def test_what_a_buffer_cannot_follow():
    """Tokens of another policy bring no episodes: the KL would never be charged."""
    env = TextVecEnv(num_envs=2, task="exact")
    buffer = EpisodeRolloutBuffer(4, env.observation_space, env.action_space, n_envs=2)
    observations, nothing = env.reset(), torch.zeros(2)
    with pytest.raises(ConfigError, match="follows tokens that a CausalLMPolicy samples in a TextVecEnv"):
        buffer.add(observations, np.array([0, 1]), np.zeros(2), np.ones(2), nothing, nothing)
    with pytest.raises(ConfigError, match="collect a whole rollout before"):
        next(buffer.get(4))


@pytest.mark.parametrize("algo", ["ppo", "rloo"])
def test_minibatches_are_dealt_anew_in_every_epoch(algo: str):
    agent = agent_of("exact", algo, n_envs=8, n_steps=20, learning_rate=0.0)
    deals: list[list[set[float]]] = []

    def train() -> None:
        for _ in range(3):
            deals.append([set(data.old_log_prob.tolist()) for data in agent.rollout_buffer.get(40)])

    agent.train = train
    agent.learn(160)
    assert len(deals) == 3
    assert all(len(deal) > 1 and set.union(*deal) == set.union(*deals[0]) for deal in deals)
    first, second, third = ({frozenset(minibatch) for minibatch in deal} for deal in deals)
    assert first != second != third != first


@pytest.mark.parametrize("stop", [1, 2, 5])
def test_ratios_are_1_after_a_rollout_that_was_broken_off(stop: int):
    """SB3 goes on from an observation that is one step old. What it draws from it stands by itself, so that no token is
    put into a state that the policy did not see."""
    agent = agent_of("exact", n_steps=6, learning_rate=0.0)
    agent.learn(24)
    agent.learn(1000, reset_num_timesteps=False, callback=lambda *_: agent.num_timesteps < 24 + 4 * stop)
    agent.train = lambda: None
    for _ in range(2):
        agent.learn(24, reset_num_timesteps=False)
        (batch,) = agent.rollout_buffer.get(None)
        assert len(batch.actions) == 24
        _, log_probs, _ = agent.policy.evaluate_actions(batch.observations, batch.actions)
        torch.testing.assert_close((log_probs - batch.old_log_prob).exp(), torch.ones(24), atol=1e-5, rtol=0)


def test_a_second_environment_is_followed_from_its_own_beginning():
    """Its first rollout may be broken off after as many steps as the first environment had taken."""
    agent = agent_of("exact", n_steps=3, learning_rate=0.0)
    agent.learn(12)
    agent.set_env(TextVecEnv(num_envs=4, task="exact", device="cpu"))
    agent.learn(1000, callback=lambda *_: agent.num_timesteps < 12)
    agent.train = lambda: None
    agent.learn(12, reset_num_timesteps=False)
    (batch,) = agent.rollout_buffer.get(None)
    _, log_probs, _ = agent.policy.evaluate_actions(batch.observations, batch.actions)
    torch.testing.assert_close((log_probs - batch.old_log_prob).exp(), torch.ones(12), atol=1e-5, rtol=0)
