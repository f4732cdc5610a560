"""Callbacks: the numbers are those of the episodes trained on, and watching does not change what is watched."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.logger import KVWriter, Logger

from textrl_agents.evaluation.heldout_env import sibling_env
from textrl_agents.runs.config import TrainConfig
from textrl_agents.runs.logs import SampleFile
from textrl_agents.runs.run_evaluations import RunEvaluations
from textrl_agents.runs.run_folder import RunFolder
from textrl_agents.sb3 import make_agent
from textrl_agents.sb3.callbacks import Evaluations, RLHFMetrics, StopOnRequest
from textrl_env.rewards import CompositeReward
from textrl_env.tasks import Task
from textrl_env.trajectory import Trajectory

N_ENVS, N_STEPS = 8, 9
ROLLOUT = N_ENVS * N_STEPS


class Lines(KVWriter):
    """Everything that was logged, a dict for each dump, with its step."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, dict[str, Any]]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        self.lines.append((step, dict(key_values)))

    def close(self) -> None:
        """Nothing is open."""


def new_agent(task: Any = "exact", **env_kwargs: Any) -> tuple[Any, Lines]:
    agent = make_agent("ppo", n_envs=N_ENVS, n_steps=N_STEPS, seed=0, env_kwargs={"task": task, **env_kwargs})
    lines = Lines()
    agent.set_logger(Logger(None, [lines]))
    return agent, lines


def length_gold(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    return [float(len(text)) for text in completions]


def test_metrics_are_those_of_the_episodes(tiny_task: Task, vowels: Any) -> None:
    reward = CompositeReward({"vowels": vowels, "length": (length_gold, 0.5)})
    agent, lines = new_agent(dataclasses.replace(tiny_task, reward=reward, gold=length_gold))
    agent.learn(ROLLOUT, callback=RLHFMetrics())
    _, logged = lines.lines[0]
    episodes = agent.rollout_buffer.episodes
    assert len(episodes) >= 4
    assert logged["rollout/episodes"] == len(episodes)

    def mean(value: Any) -> float:
        return float(np.mean([value(episode) for episode in episodes]))

    expected = {
        "objective/scores": mean(lambda e: e.score),
        "objective/kl": mean(lambda e: e.kl_sum),
        "objective/non_score_reward": mean(lambda e: -0.1 * e.kl_sum),
        "objective/rlhf_reward": mean(lambda e: e.score - 0.1 * e.kl_sum),
        "objective/entropy": mean(lambda e: e.surprisal),
        "objective/gold_scores": mean(lambda e: len(e.response)),
        "objective/score_parts/vowels": mean(lambda e: e.score_parts["vowels"]),
        "objective/score_parts/length": mean(lambda e: len(e.response)),
        "objective/kl_coef": 0.1,
        "rollout/eos_share": mean(lambda e: e.finish_reason == "eos"),
        "rollout/length_share": mean(lambda e: e.finish_reason == "length"),
        "rollout/stop_share": 0.0,
    }
    for name, value in expected.items():
        assert logged[name] == pytest.approx(value, abs=1e-6), name
    # The return that is logged is the return that is trained.
    assert logged["objective/rlhf_reward"] == pytest.approx(mean(lambda e: e.episode_return), abs=1e-6)


def test_cross_entropy_charge_is_shown_as_kl() -> None:
    """In that mode `kl_sum` holds the policy's entropy too; of policy = reference the KL is 0 all the same."""
    agent, lines = new_agent(kl_mode="cross_entropy")
    agent.learn(ROLLOUT, callback=RLHFMetrics())
    logged = lines.lines[0][1]
    assert logged["objective/kl"] == pytest.approx(0, abs=1e-5)
    assert logged["objective/non_score_reward"] == pytest.approx(-0.5 * logged["objective/entropy"], abs=1e-5)


def test_a_rollout_without_an_end_logs_no_means(tiny_task: Task) -> None:
    agent = make_agent("ppo", n_envs=2, n_steps=2, batch_size=4, env_kwargs={"task": tiny_task}, seed=1)
    lines = Lines()
    agent.set_logger(Logger(None, [lines]))
    agent.learn(4, callback=RLHFMetrics())
    assert lines.lines[0][1]["rollout/episodes"] == 0
    assert not any(name.startswith("objective/scores") for name in lines.lines[0][1])


def test_evaluations_do_not_disturb_training(tmp_path: Path) -> None:
    plain, _ = new_agent()
    plain.learn(4 * ROLLOUT)
    watched, lines = new_agent()
    # As many rows as training and the same prompts: the decoder could mistake one's cached rows for the other's.
    env = sibling_env(watched.env.env, N_ENVS)
    evaluations = RunEvaluations(TrainConfig(eval_every=ROLLOUT, eval_episodes=16, samples=2), env, RunFolder(tmp_path))
    watched.learn(4 * ROLLOUT, callback=[RLHFMetrics(), Evaluations(evaluations)])
    for name, tensor in plain.policy.state_dict().items():
        assert torch.equal(tensor, watched.policy.state_dict()[name]), name
    evaluated = [(step, line) for step, line in lines.lines if "eval_train/score" in line]
    assert [step for step, _ in evaluated] == [0, ROLLOUT, 2 * ROLLOUT, 3 * ROLLOUT, 4 * ROLLOUT]
    assert evaluations.before is not None
    assert evaluations.after is not None
    assert evaluated[0][1]["eval_train/score"] == evaluations.before["score"].mean
    assert evaluated[-1][1]["eval_train/kl"] == evaluations.after["kl"].mean
    assert evaluated[-1][1]["eval_train/kl_ci95"] == evaluations.after["kl"].half_width
    text = (tmp_path / "samples.md").read_text()
    assert text.count("## After") == 5
    assert f"## After {4 * ROLLOUT:,} tokens" in text
    assert [episode.prompt for episode in evaluations.before.episodes] == [
        episode.prompt for episode in evaluations.after.episodes
    ]


def evaluations_of(agent: Any, folder: Path, **settings: Any) -> RunEvaluations:
    return RunEvaluations(TrainConfig(eval_episodes=4, **settings), sibling_env(agent.env.env, 4), RunFolder(folder))


def test_evaluations_come_when_due(tmp_path: Path) -> None:
    agent, lines = new_agent()
    callback = Evaluations(evaluations_of(agent, tmp_path, eval_every=int(1.5 * ROLLOUT)))
    agent.learn(5 * ROLLOUT, callback=callback)
    steps = [step for step, line in lines.lines if "eval_train/score" in line]
    assert steps == [0, 2 * ROLLOUT, 3 * ROLLOUT, 5 * ROLLOUT]


def test_stopped_within_a_rollout_is_not_evaluated_as_final(tmp_path: Path) -> None:
    agent, lines = new_agent()
    callback = Evaluations(evaluations_of(agent, tmp_path))
    stop = StopOnRequest(lambda: agent.num_timesteps >= ROLLOUT + 2 * N_ENVS)
    agent.learn(3 * ROLLOUT, callback=[stop, callback])
    assert agent.num_timesteps == ROLLOUT + 2 * N_ENVS
    assert [step for step, line in lines.lines if "eval_train/score" in line] == [0]


def episode(prompt: Any = "a prompt", response: str = "text", gold: float | None = None) -> Trajectory:
    ids = np.array([1])
    known = {"finish_reason": "eos", "score": 1.25, "gold_score": gold, "kl": np.array([-0.0001])}
    return Trajectory.of_response(ids, ids, prompt=prompt, response=response, **known)


def test_sample_file_shows_text_as_text(tmp_path: Path) -> None:
    """A response cannot break the table, nor become markup."""
    file = SampleFile(tmp_path / "samples.md")
    chat = [{"role": "user", "content": "hi"}]
    responses = [episode(response="a|b\n<script>alert(1)</script> *x* [y](z)"), episode(chat, gold=None)]
    file.add(1000, responses, prompts="validation prompts")
    file.add(2000, [episode(gold=0.5)], prompts="validation prompts")
    text = file.path.read_text()
    assert text.startswith("# Samples\n\nResponses to the same validation prompts at several points")
    assert r"| a\|b<br>&lt;script&gt;alert(1)&lt;/script&gt; \*x\* \[y\](z) | 1.25 | 0.00 | eos |" in text
    assert "| user: hi |" in text
    assert "| prompt | response | score | gold | KL | end |" in text
    file.rewind(1500)
    assert "## After 1,000 tokens" in file.path.read_text()
    assert "2,000" not in file.path.read_text()
