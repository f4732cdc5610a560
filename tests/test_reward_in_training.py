"""Training with a reward that remembers, and with one on a server that dies."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from reward_server import Handler, fixed, lengths, reward_servers
from tiny_runs import ROLLOUT, assert_same_run, config, metrics

from textrl_agents.runs.run_folder import RunFolder
from textrl_agents.runs.train import resume, train
from textrl_env.errors import ConfigError, RewardError


@pytest.mark.slow
def test_training_stops_with_a_checkpoint_when_the_server_dies_and_goes_on_when_it_is_back(tmp_path: Path) -> None:
    """CHECKS 21. The run that was cut off ends as the one whose server never died."""
    dies_at = 10**9

    def mortal(handler: Handler, asked: Any) -> None:
        alive = len(handler.server.requests) < dies_at
        (lengths if alive else fixed(500, b"dead"))(handler, asked)

    with reward_servers() as serve:
        server = serve(mortal)
        spec = {"reward": server.url, "arguments": {"retries": 1}}
        whole = train(config(tmp_path / "whole", reward=spec, timesteps=3 * ROLLOUT, save_every=ROLLOUT)).folder
        dies_at = len(server.requests) * 2 // 3
        server.requests.clear()
        run = RunFolder(tmp_path / "cut")
        with pytest.raises(RewardError, match=r"failed in 2 attempts: it answered 500: 'dead'") as caught:
            train(config(run.path, reward=spec, timesteps=3 * ROLLOUT, save_every=ROLLOUT))
        assert any("--resume" in note and "--trust" in note for note in caught.value.__notes__)
        assert run.checkpoints()
        dies_at = 10**9
        with pytest.raises(ConfigError, match="servers that would get every response"):
            resume(run.path)
        resume(run.path, trust=True)
    assert_same_run(whole, run.path)


@pytest.mark.slow
def test_a_run_with_a_running_normalisation_resumes_exactly(tmp_path: Path) -> None:
    """CHECKS 32, for what a reward remembers; and evaluations are of the score as it is."""
    spec = [{"reward": "length", "arguments": {"target": 3}, "normalize": {"clip": 2.0}}, "missing_eos"]
    whole = train(config(tmp_path / "whole", reward=spec, timesteps=4 * ROLLOUT)).folder
    again = Path(shutil.copytree(whole, tmp_path / "again"))
    tokens, checkpoint = RunFolder(again).checkpoints()[0]
    assert tokens < 4 * ROLLOUT
    resume(checkpoint)
    assert_same_run(whole, again)
    lines = metrics(whole)
    before = [line for line in lines if "objective/score_parts/normalized_length/length" in line]
    assert all(line["objective/score_parts/normalized_length/length"] <= 0 for line in before)
    # A length's own score is never above 0, nor is the charge; the normalised one has mean 0.
    assert max(line["objective/score_parts/normalized_length"] for line in before) > 0
    assert max(line["eval_train/score"] for line in lines if "eval_train/score" in line) < -0.3
