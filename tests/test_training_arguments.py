"""Arguments of training that cannot work are refused before a model is loaded, by both libraries."""

from __future__ import annotations

import math
from typing import Any

import pytest

from textrl_agents.runs.config import TrainConfig
from textrl_agents.sb3 import make_agent
from textrl_agents.training.learning_rate import WarmupSchedule
from textrl_env.errors import ConfigError

NUMBERS = [
    ("learning_rate", -1, r"must be a finite number >= 0, got -1"),
    ("learning_rate", math.nan, "must be a finite number >= 0, got nan"),
    ("learning_rate", math.inf, "must be a finite number >= 0, got inf"),
    ("learning_rate", "fast", "must be a finite number >= 0, got 'fast'"),
    ("learning_rate", True, "must be a finite number >= 0, got True"),
    ("gamma", 1.5, r"must be a number between 0 and 1, got 1\.5"),
    ("gamma", -0.1, r"must be a number between 0 and 1, got -0\.1"),
    ("gamma", math.nan, "must be a number between 0 and 1, got nan"),
    ("gamma", "1", "must be a number between 0 and 1, got '1'"),
    ("seed", 2**80, "must be a whole number >= 0 and <= 4294967295, got 1208925819614629174706176"),
    # Of more digits than Python prints.
    pytest.param("seed", 10**5000, "must be a whole number .* got a number of 16610 bits", id="seed-5000-digits"),
    ("seed", -1, "must be a whole number >= 0 and <= 4294967295, got -1"),
    ("vf_coef", -0.5, r"must be a finite number >= 0, got -0\.5"),
    ("clip_range", 0, "must be a finite number > 0, got 0"),
    ("max_grad_norm", 0, "must be a finite number > 0, got 0"),
    ("max_grad_norm", 10**400, "must be a finite number > 0, got a number of 1329 bits"),
]
# RLlib's names for the same.
RLLIB = {
    "learning_rate": "lr",
    "vf_coef": "vf_loss_coeff",
    "clip_range": "clip_param",
    "max_grad_norm": "grad_clip",
}
WHOLE = [
    ("ppo", "n_steps", 0),
    ("ppo", "batch_size", 0),
    ("ppo", "batch_size", "64"),
    ("ppo", "n_epochs", -1),
    ("ppo", "n_epochs", 1.5),
    ("ppo", "n_envs", 0),
    ("ppo", "n_envs", -4),
    ("trpo", "cg_max_steps", 0),
    ("dqn", "buffer_size", -1),
    ("dqn", "learning_starts", -1),
    ("dqn", "target_update_interval", 0),
    ("dqn", "train_freq", 0),
    ("dqn", "train_freq", (0, "step")),
    ("dqn", "train_freq", ()),
    ("dqn", "gradient_steps", 0),
    ("q_learning", "n_steps", 0),
]


@pytest.fixture(autouse=True)
def _loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is loaded after all fails the test by another error."""

    def load(*arguments: Any, **keywords: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("textrl_env.tasks.assembly.load_model", load)


@pytest.mark.parametrize(("name", "value", "message"), NUMBERS)
def test_numbers_of_sb3(name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} {message}"):
        make_agent("ppo", env_kwargs={"task": "exact"}, **{name: value})


@pytest.mark.parametrize(("name", "value", "message"), NUMBERS)
def test_numbers_of_rllib(name: str, value: Any, message: str) -> None:
    pytest.importorskip("ray.rllib")
    from textrl_agents.rllib import make_config

    name = RLLIB.get(name, name)
    with pytest.raises(ConfigError, match=f"{name} {message}"):
        make_config("ppo", {"task": "exact"}, **{name: value})


@pytest.mark.parametrize(("algo", "name", "value"), WHOLE)
def test_counts_of_sb3(algo: str, name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{name} must be a whole number >= \d, got"):
        make_agent(algo, env_kwargs={"task": "exact"}, **{name: value})


@pytest.mark.parametrize("name", ["minibatch_size", "rollout_fragment_length", "num_epochs", "total_timesteps"])
@pytest.mark.parametrize("value", [0, -8, "many"])
def test_counts_of_rllib(name: str, value: Any) -> None:
    pytest.importorskip("ray.rllib")
    from textrl_agents.rllib import make_config

    with pytest.raises(ConfigError, match=rf"{name} must be a whole number >= 1, got {value!r}"):
        make_config("ppo", {"task": "exact"}, **{name: value})


def test_returns_of_several_steps_are_not_ignored() -> None:
    """SB3 warns that they are, with a replay buffer that is not its own, and goes on."""
    with pytest.raises(ConfigError, match="n_steps must be 1: the replay buffer of episodes gives returns of one step"):
        make_agent("dqn", env_kwargs={"task": "exact"}, n_steps=3)


def test_a_learning_rates_mapping() -> None:
    with pytest.raises(ConfigError, match="need peak >= 0"):
        WarmupSchedule.of({"peak": math.inf}, 1000)
    with pytest.raises(ConfigError, match="need peak >= 0"):
        WarmupSchedule.of({"peak": math.nan}, 1000)


def test_the_seed_of_a_run() -> None:
    with pytest.raises(ConfigError, match="seed must be a whole number >= 0 and <= 4294967295"):
        TrainConfig(seed=2**80)
