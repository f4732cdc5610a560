"""Every algorithm's update runs each episode's sequence, and no transition its own prefix."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import quick

from textrl_agents.algorithms.registry import get_algorithm, names_in
from textrl_agents.sb3 import make_agent
from textrl_agents.sb3.buffers.replay_buffer import EpisodeReplayBuffer

ROLLOUT = {"n_envs": 8, "n_steps": 48}
ONE_PASS: dict[str, dict[str, Any]] = {
    # One epoch, so that each sequence comes once; TRPO and NLPO run more passes, each over sequences.
    "ppo": {**ROLLOUT, "n_epochs": 1},
    "a2c": ROLLOUT,
    "reinforce": ROLLOUT,
    "rloo": {**ROLLOUT, "n_epochs": 1, "group_size": 2},
    "grpo": {**ROLLOUT, "n_epochs": 1, "group_size": 2},
}
SEVERAL = {
    "trpo": {**ROLLOUT, "cg_max_steps": 2, "n_critic_updates": 1},
    "nlpo": {**ROLLOUT, "n_epochs": 1},
    "dqn": {"n_envs": 8, "train_freq": 48, "batch_size": 128},
    "qrdqn": {"n_envs": 8, "train_freq": 48, "batch_size": 128},
    "soft_dqn": {"n_envs": 8, "train_freq": 48, "batch_size": 128},
}


def test_every_algorithm_with_a_model_is_here():
    assert {*ONE_PASS, *SEVERAL} == {name for name in names_in("sb3") if get_algorithm(name).kind != "table"}


def rows_of_updates(algo: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], int, int]:
    """Rows of each forward of the policy's decoder in one update; the sequences and transitions it learned from."""
    agent = make_agent(algo, env_kwargs={"task": "sentiment"}, seed=0, **settings)
    body = agent.policy.actor_critic.lm.body
    rows: list[int] = []
    sampled: list[int] = []
    sizes: list[int] = []
    plain = EpisodeReplayBuffer._samples

    def noting(buffer: Any, chosen: list[Any], start: int, count: int) -> Any:
        sampled.append(len(chosen))
        sizes.append(count)
        return plain(buffer, chosen, start, count)

    monkeypatch.setattr(EpisodeReplayBuffer, "_samples", noting)
    original = agent.train

    def train(*arguments: Any, **keywords: Any) -> None:
        if get_algorithm(algo).kind != "value":
            sampled[:] = [len(agent.rollout_buffer.trajectories)]
            sizes[:] = [len(agent.rollout_buffer._columns[0])]
        rows.clear()
        hook = body.register_forward_pre_hook(
            lambda module, given, named: rows.append(named["input_ids"].shape[0]), with_kwargs=True
        )
        original(*arguments, **keywords)
        hook.remove()

    agent.train = train
    agent.learn(8 * 48)
    return rows, sampled[0], sizes[0]


@pytest.mark.parametrize("algo", quick(["ppo", "rloo"], ONE_PASS))
def test_an_update_runs_each_sequence_once(algo: str, monkeypatch: pytest.MonkeyPatch):
    rows, sequences, transitions = rows_of_updates(algo, ONE_PASS[algo], monkeypatch)
    assert sum(rows) == sequences
    assert transitions > 4 * sequences, "too short to tell a sequence from its transitions"


@pytest.mark.parametrize("algo", quick(["dqn"], SEVERAL))
def test_each_pass_of_an_update_runs_sequences(algo: str, monkeypatch: pytest.MonkeyPatch):
    rows, sequences, transitions = rows_of_updates(algo, SEVERAL[algo], monkeypatch)
    assert rows
    assert max(rows) <= sequences
    assert transitions > 4 * sequences
