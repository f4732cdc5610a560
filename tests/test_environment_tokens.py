"""The environment writes tokens between two actions: every buffer and connector counts the actions alone.

The oracle is the plain model on one prefix at a time.
"""

from __future__ import annotations

import functools
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from textrl_agents.sb3 import TextVecEnv, make_agent
from textrl_agents.sb3.buffers.replay_buffer import EpisodeReplayBuffer
from textrl_env import TextGenVectorEnv
from textrl_env.accounts import charge_kl
from textrl_env.kl import KLPenalty
from textrl_env.models import CausalLMActorCritic, Reference, pack
from textrl_env.tasks.built_in.exact import letter_model
from textrl_env.trajectory import Trajectory

ASKS, REPLY = 1, np.array([3, 0])  # after the action "b", unless it ends the episode, the environment writes "da"
COEF, GAMMA, LAMBDA = 0.5, 0.97, 0.9
# Room for five actions, each with a reply.
EXACT: dict[str, Any] = {"task": "exact", "kl_coef": COEF, "max_prompt_tokens": 11, "device": "cpu"}


def answering(env: Any) -> None:
    """Make a vector environment of this package write REPLY after each ASKS."""
    mdp = env.unwrapped._mdp
    plain = mdp.step

    def step(actions: Any, live: Any = None) -> Any:
        transition = plain(actions, live)
        asked = mdp.running & (actions.tokens == ASKS) & (True if live is None else live)
        for row in np.flatnonzero(asked):
            end = mdp.lengths[row] + len(REPLY)
            mdp.ids[row, mdp.lengths[row] : end] = REPLY
            mdp.lengths[row] = end
        return transition

    mdp.step = step


def moved(core: CausalLMActorCritic) -> None:
    """Away from the reference, with a value head that says something, and a liking for ASKS."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in core.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))


def agent_of(algo: str = "ppo", *, value_trunk: str = "shared", env: dict[str, Any] | None = None, **given: Any) -> Any:
    arguments = {"n_envs": 6, "seed": 0, "learning_rate": 0.0, "progress": False, **given}
    env = {**EXACT, "kl_mode": "deferred", **(env or {})}
    vec_env = TextVecEnv(TextGenVectorEnv(6, autoreset_mode="SAME_STEP", **env))
    answering(vec_env.env)
    agent = make_agent(algo, vec_env, policy_kwargs={"value_trunk": value_trunk}, **arguments)
    moved(agent.policy.actor_critic)
    return agent


@functools.cache
def reference_model() -> Any:
    return letter_model()[0].eval()


@torch.no_grad()
def by_prefix(core: CausalLMActorCritic, trajectory: Trajectory) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-probabilities of the actions by the policy and by the reference, and the values, by plain models."""
    body = core.model.model if core.value_body is None else core.value_body
    columns: list[tuple[float, float, float]] = []
    reference = reference_model()
    for place in np.flatnonzero(trajectory.is_action):
        prefix, action = torch.from_numpy(trajectory.ids[:place])[None], trajectory.ids[place]
        own, ref = (model(input_ids=prefix).logits[0, -1].double().log_softmax(-1) for model in (core.model, reference))
        value = core.value_head(body(input_ids=prefix).last_hidden_state[0, -1])
        columns.append((float(own[action]), float(ref[action]), float(value)))
    return tuple(np.array(column) for column in zip(*columns, strict=True))  # type: ignore[return-value]


def check_places(trajectories: list[Trajectory]) -> None:
    """Of each: REPLY behind each action that asks, unless it is the last id; and actions everywhere else."""
    answered = 0
    for trajectory in trajectories:
        place = 1  # after the prompt's one letter
        while place < len(trajectory.ids):
            asks = trajectory.ids[place] == ASKS and place + 1 < len(trajectory.ids)
            if asks:
                assert trajectory.ids[place + 1 : place + 3].tolist() == REPLY.tolist()
                assert not trajectory.is_action[place + 1 : place + 3].any()
                answered += 1
            place += 1 + len(REPLY) * asks
    assert answered > 4, "hardly any reply: shows nothing"


def gae(rewards: np.ndarray, values: np.ndarray, last: float) -> np.ndarray:
    """Backwards by hand; last: the value after the last action, 0 where the episode is over."""
    gains, gain, following = [], 0.0, last
    for reward, value in zip(rewards[::-1], values[::-1], strict=True):
        gain = reward + GAMMA * following - value + GAMMA * LAMBDA * gain
        following = value
        gains.append(gain)
    return np.array(gains[::-1])


@pytest.mark.parametrize("value_trunk", ["shared", "separate"])
def test_packed_numbers_are_those_of_single_prefixes(value_trunk: str):
    """Hand-made trajectories: log-probabilities, values and the KL of the actions among other tokens."""
    core = CausalLMActorCritic(*letter_model(), max_length=16, value_trunk=value_trunk)
    moved(core)
    layouts = ["PAEEAAE", "PPAEEEAEA", "PA", "PEAEA"]
    rng = np.random.default_rng(0)
    trajectories = [
        Trajectory(
            rng.integers(0, 5, len(layout)),
            np.array([kind == "A" for kind in layout]),
            rewards=rng.normal(size=layout.count("A")),
            kl_coef=COEF,
        )
        for layout in layouts
    ]
    packed = pack(trajectories, "cpu")
    with torch.no_grad():
        evaluation, states = core.evaluate(packed), core.states(packed)
    wanted = [by_prefix(core, trajectory) for trajectory in trajectories]
    log_probs, ref, values = (np.concatenate(column) for column in zip(*wanted, strict=True))
    np.testing.assert_allclose(evaluation.log_probs, log_probs, atol=1e-5)
    np.testing.assert_allclose(evaluation.values, values, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(states.values, values, rtol=1e-5, atol=1e-5)
    paid = np.concatenate([trajectory.rewards for trajectory in trajectories]) - COEF * (log_probs - ref)
    for trajectory, (own, _, _) in zip(trajectories, wanted, strict=True):
        trajectory.log_probs = own
    reference = Reference(reference_model(), core.vocabulary, core.sampling, 16)
    charge_kl(trajectories, KLPenalty(reference, COEF))
    np.testing.assert_allclose(np.concatenate([each.rewards for each in trajectories]), paid, atol=1e-5)
    assert np.abs(log_probs - ref).max() > 0.05


@pytest.mark.parametrize("value_trunk", ["shared", "separate"])
def test_a_rollout_of_episodes(value_trunk: str):
    """Over rollouts that cut them: the ratio is 1, each action pays its own KL, and GAE crosses the gaps."""
    agent = agent_of(value_trunk=value_trunk, n_steps=7, gae_lambda=LAMBDA, gamma=GAMMA)
    agent.train = lambda: None
    agent.learn(42)
    seen: list[Trajectory] = []
    core, buffer = agent.policy.actor_critic, agent.rollout_buffer
    for _ in range(3):
        agent.learn(42, reset_num_timesteps=False)
        (batch,) = buffer.get(None)
        with torch.no_grad():
            evaluation = core.evaluate(batch.observations)
        torch.testing.assert_close(evaluation.log_probs, batch.old_log_prob, atol=1e-5, rtol=0)
        rows = iter(np.split(batch.advantages.numpy(), np.cumsum([len(each) for each in buffer.trajectories])[:-1]))
        last_values = agent.policy.predict_values(torch.from_numpy(agent._last_obs)).detach().flatten().numpy()
        after = {tuple(ids[ids >= 0]): value for ids, value in zip(agent._last_obs, last_values, strict=True)}
        for each, advantages in zip(buffer.trajectories, rows, strict=True):
            own, ref, values = by_prefix(core, each)
            np.testing.assert_allclose(each.log_probs, own, atol=1e-5)
            np.testing.assert_allclose(each.values, values, rtol=1e-5, atol=1e-5)
            score = np.zeros(len(each))
            score[-1] = np.nan_to_num(each.score)
            np.testing.assert_allclose(each.rewards, score - COEF * (own - ref), atol=1e-5)
            ids = tuple(each.ids)
            later = 0.0 if each.finish_reason else after.get(ids, after.get((*ids, *REPLY)))
            assert later is not None, "the state after a stretch is not the one that follows"
            np.testing.assert_allclose(advantages, gae(each.rewards, values, later), atol=1e-4)
        seen += buffer.trajectories
    check_places(seen)
    assert any(each.finish_reason for each in seen)


@pytest.mark.parametrize(("algo", "group"), [("reinforce", {}), ("rloo", {"group_size": 2})])
def test_whole_responses(algo: str, group: dict[str, int]):
    """Trained on once, as the environment recorded them, over rollouts shorter than a response."""
    agent = agent_of(algo, n_steps=3, env=group, **group)
    trained: list[Trajectory] = []
    ended: list[Trajectory] = []
    step_wait = agent.env.step_wait

    def noting() -> Any:
        result = step_wait()
        ended.extend(episode for _, episode in agent.env.env.transition.episodes)
        return result

    agent.env.step_wait = noting
    agent.train = lambda: trained.extend(agent.rollout_buffer.trajectories)
    agent.learn(18 * 12)
    check_places(trained)
    record = {(tuple(each.ids), tuple(each.is_action)) for each in ended}
    assert {(tuple(each.ids), tuple(each.is_action)) for each in trained} <= record
    assert len(ended) - len(trained) <= 6 + 2
    for each in trained:
        own, ref, _ = by_prefix(agent.policy.actor_critic, each)
        np.testing.assert_allclose(each.log_probs, own, atol=1e-5)
        assert each.episode_return == pytest.approx(each.score - COEF * (own - ref).sum(), abs=1e-5)


def test_what_a_prediction_is_charged():
    """Episodes of `agent.predict` pay for their own tokens, and not for the environment's."""
    agent, env = agent_of(), TextVecEnv(num_envs=3, **EXACT)
    answering(env.env)
    observations, ended = env.reset(), []
    for _ in range(30):
        tokens, _ = agent.predict(observations)
        observations, _, dones, infos = env.step(tokens)
        for row in np.flatnonzero(dones):
            (episode,) = (episode for place, episode in env.env.transition.episodes if place == row)
            own, ref, _ = by_prefix(agent.policy.actor_critic, episode)
            assert infos[row]["kl_sum"] == pytest.approx((own - ref).sum(), abs=1e-5)
            assert infos[row]["episode"]["r"] == pytest.approx(episode.score - COEF * (own - ref).sum(), abs=1e-5)
            ended.append(episode)
    check_places(ended)


def padded(*ids: int) -> np.ndarray:
    return np.array([*ids, *[-1] * (8 - len(ids))])


def test_a_replay_buffer_of_hand_made_episodes():
    """Row 0: 1 | 2 [7 7] 3, over. Row 1: 4 | 5 [7], cut off by a time limit; then 6 | 8 [7], going on."""
    space = gymnasium.spaces.Box(-1, 9, (8,), np.int64)
    buffer = EpisodeReplayBuffer(100, space, gymnasium.spaces.Discrete(10), n_envs=2)
    steps: list[Any] = [
        # (observations, actions, next observations, dones, infos)
        ([(1,), (4,)], [2, 5], [(1, 2, 7, 7), (4, 5, 7)], [False, True], [{}, {"TimeLimit.truncated": True}]),
        ([(1, 2, 7, 7), (6,)], [3, 8], [(1, 2, 7, 7, 3), (6, 8, 7)], [True, False], [{}, {}]),
    ]
    for obs, actions, following, dones, infos in steps:
        shown, after = (np.array([padded(*ids) for ids in each]) for each in (obs, following))
        buffer.add(shown, after, np.array(actions), np.array([0.5, 1.5]), np.array(dones), infos)
    wanted = {
        (1,): (2, 0, (1, 2, 7, 7)),
        (1, 2, 7, 7): (3, 1, None),
        (4,): (5, 0, (4, 5, 7)),
        (6,): (8, 0, (6, 8, 7)),
    }
    seen = set()
    assert buffer.size() == 4
    for _ in range(40):
        data: Any = buffer.sample(3)
        states, after = data.observations, data.next_observations
        for m in range(3):
            ids = states.input_ids[states.rows[m]].tolist()
            state = tuple(ids[: int(states.columns[m]) + 1])
            action, done, follows = wanted[state]
            assert (int(data.actions[m]), int(data.dones[m])) == (action, done)
            assert done or tuple(ids[: int(after.columns[m]) + 1]) == follows
            seen.add(state)
    assert seen == set(wanted)
    # What the environment wrote belongs to the same episode.
    shown, after = np.array([padded(9), padded(6, 8, 7)]), np.array([padded(9, 1), padded(6, 8, 7, 2)])
    buffer.add(shown, after, np.array([1, 2]), np.zeros(2), np.zeros(2), [{}, {}])
    going_on = [each.trajectory.is_action.tolist() for each in buffer._episodes()[2:]]
    assert going_on == [[False, True], [False, True, False, True]]


def test_a_replay_buffer_that_stock_dqn_fills():
    """The transitions it samples are those that were taken."""
    agent = agent_of("dqn", env={"kl_mode": "cross_entropy"}, learning_starts=10_000)
    taken: dict[tuple[int, ...], set[tuple[int, ...]]] = {}
    add = agent.replay_buffer.add

    def noting(obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: Any) -> None:
        for before, after, over in zip(obs, next_obs, done, strict=True):
            taken.setdefault(tuple(before[before >= 0]), set()).add((-1,) if over else tuple(after[after >= 0]))
        add(obs, next_obs, action, reward, done, infos)

    agent.replay_buffer.add = noting
    agent.learn(6 * 40)
    check_places([each.trajectory for each in agent.replay_buffer._episodes()])
    data: Any = agent.replay_buffer.sample(200)
    for m in range(200):
        ids = data.observations.input_ids[data.observations.rows[m]].tolist()
        follows = tuple(ids[: int(data.next_observations.columns[m]) + 1])
        found = taken[tuple(ids[: int(data.observations.columns[m]) + 1])]
        assert ((-1,) if data.dones[m] else follows) in found
    assert data.dones.any()


def rllib_fragments(algo: str, **settings: Any) -> tuple[Any, list[Any]]:
    """A wired algorithm of RLlib whose environment replies, and fragments that go on and end."""
    pytest.importorskip("ray.rllib")
    from test_rllib_packing import wire

    wired = wire(algo, env={"kl_coef": COEF, "max_prompt_tokens": 11}, gamma=GAMMA, **settings)
    answering(wired.runner.env)
    wired.runner.sample()
    return wired, [episode for _ in range(4) for episode in wired.runner.sample() if len(episode)]


def test_the_train_batch_of_rllibs_ppo():
    """The ratio is 1, and value targets are those of GAE by hand; a stretch that is cut is worth the state after it."""
    wired, episodes = rllib_fragments("ppo", lambda_=LAMBDA, rollout_fragment_length=4)
    from ray.rllib.core.columns import Columns
    from test_rllib_packing import ratios, states_of, value_by_plain_model

    from textrl_agents.rllib.connectors.stretches import stretch_of

    columns = wired.columns(episodes)
    ratio = ratios(wired.learner.module["default_policy"], columns)
    torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-5, rtol=0)
    trajectories = [stretch_of(episode, COEF, "deferred").trajectory for episode in episodes]
    for row, (episode, each) in enumerate(zip(episodes, trajectories, strict=True)):
        own, ref, values = by_prefix(wired.core, each)
        rewards = np.asarray(episode.get_rewards()) - COEF * (own - ref)
        last = 0.0 if episode.is_terminated else value_by_plain_model(wired.core, states_of(episode)[-1])
        targets = columns[Columns.VALUE_TARGETS][row, : len(each)]
        np.testing.assert_allclose(targets, gae(rewards, values, last) + values, atol=1e-4)
        assert columns[Columns.ACTIONS][row, : len(each)].tolist() == each.response_ids.tolist()
    check_places(trajectories)
    assert any(not each.finish_reason and not each.is_action[-1] for each in trajectories), "none is cut after a reply"


@pytest.mark.parametrize("algo", ["impala", "appo"])
def test_the_train_batch_of_rllibs_vtrace(algo: str):
    """Values of every column, the one that is bootstrapped from too, and the rewards with the KL charged."""
    wired, episodes = rllib_fragments(algo, rollout_fragment_length=4)
    from ray.rllib.core.columns import Columns
    from test_rllib_packing import ratios, states_of, value_by_plain_model

    from textrl_agents.rllib.connectors.stretches import stretch_of

    batch = wired.batch(episodes)
    columns, module = batch["default_policy"], wired.learner.module["default_policy"]
    ratio = ratios(module, columns)
    torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-5, rtol=0)
    with torch.no_grad():
        values = module.unwrapped().compute_values(columns)
    trajectories = [stretch_of(episode, COEF, "deferred").trajectory for episode in episodes]
    for row, (episode, each) in enumerate(zip(episodes, trajectories, strict=True)):
        own, ref, plain = by_prefix(wired.core, each)
        np.testing.assert_allclose(values[row, : len(each)], plain, rtol=1e-5, atol=1e-5)
        paid = np.asarray(episode.get_rewards()) - COEF * (own - ref)
        np.testing.assert_allclose(columns[Columns.REWARDS][row, : len(each)], paid, atol=1e-5)
        extra = columns[Columns.REWARDS][row, len(each)]
        last = 0.0 if episode.is_terminated else value_by_plain_model(wired.core, states_of(episode)[-1])
        assert float(extra) == pytest.approx(last, abs=1e-5)
        assert episode.is_terminated or float(values[row, len(each)]) == pytest.approx(last, abs=1e-5)
    check_places(trajectories)
