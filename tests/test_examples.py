"""Every example runs as its docstring says, from the folder a reader would be in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hang_guard import HANG

ROOT = Path(__file__).parents[1]
SMALL = {
    "quickstart.py": [],
    "custom_reward.py": ["--timesteps", "2048"],
    "sb3_ppo.py": ["--timesteps", "4096", "--episodes", "16"],
    "sb3_by_hand.py": ["--timesteps", "2560"],
    "plain_reinforce.py": ["--updates", "2", "--rows", "8"],
    "rllib_ppo.py": ["--timesteps", "2048", "--episodes", "16"],
    "own_turn_environment.py": ["--timesteps", "2048", "--episodes", "16"],
    "steer_fine_tuning.py": ["--segments", "500"],
    "two_player_game.py": ["--timesteps", "640", "--episodes", "8"],
    "benchmark_my_algorithm.py": ["4096"],
    "feedback_loop.py": ["--comparisons", "30", "--timesteps", "1024"],
    "pretrain_with_preferences.py": ["--documents", "200", "--tokens", "4000"],
    "rllib_cluster.py": ["--timesteps", "1024", "--rows", "16", "--runners", "1", "--cpus", "0.25"],
}
SHOWS = {
    "quickstart.py": "kl_sum",
    "custom_reward.py": "short_and_exclaiming",
    "sb3_ppo.py": "after",
    "sb3_by_hand.py": "score",
    "plain_reinforce.py": "update   1",
    "rllib_ppo.py": "after",
    "own_turn_environment.py": "after: score",
    "steer_fine_tuning.py": "DQN has trained 8 segments",
    "two_player_game.py": "after: games won",
    "benchmark_my_algorithm.py": "rank_reinforce",
    "feedback_loop.py": "round 2: gold score",
    "pretrain_with_preferences.py": "conditional: ",
    "rllib_cluster.py": "env runners 1",
}


def test_every_example_is_run():
    assert set(SMALL) == {path.name for path in (ROOT / "examples").glob("*.py")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.ray] if name.startswith("rllib") else []) for name in sorted(SMALL)]
)
def test_example_runs(name: str, tmp_path: Path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'agents'}"}
    command = [sys.executable, str(ROOT / "examples" / name), *SMALL[name]]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0, done.stderr
    assert SHOWS[name] in done.stdout
