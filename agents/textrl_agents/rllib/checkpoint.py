"""Checkpoints of an RLlib algorithm without pickle, between two calls of `train()`.

RLlib's own `save_to_path` works too. It writes pickles, which run code when they are read, and leaves out the episodes
in flight. These hold RLlib's state as JSON and safetensors, the policy in Hugging Face format, and where each env
runner stood, so that in one process PPO goes on bit by bit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME

from textrl_agents.rllib.results import packer_of, policy_of
from textrl_agents.runs.checkpoint_files import (
    load_policy_files,
    load_state,
    saved_checkpoint,
    with_number_keys,
    write_checkpoint,
)
from textrl_agents.training.random_state import random_state, set_random_state
from textrl_env.errors import ModelError

# What must be the same for a run to go on.
_SIZES = ("num_envs_per_env_runner", "num_env_runners", "num_learners", "rollout_fragment_length")


def capture(algorithm: Any) -> dict[str, Any]:
    """All state but the learners', as a tree for `save_checkpoint`; small, and right between two calls of `train()`."""
    group = algorithm.env_runner_group
    remote = group.num_remote_workers() > 0
    rollouts = group.foreach_env_runner(lambda runner: runner.rollout_state(), local_env_runner=not remote)
    states = algorithm.learner_group.foreach_learner(lambda learner: packer_of(learner).get_state())
    return {
        "made_with": _made_with(algorithm),
        "timesteps": int(algorithm.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), default=0)),
        "algorithm": algorithm.get_state(not_components="learner_group"),
        "rollouts": rollouts,
        "accounts": next(iter(states)).get(),  # every learner has those of all
        "random": random_state(),
    }


def save_checkpoint(
    algorithm: Any, folder: str | Path, state: dict[str, Any] | None = None, *, settings: str | None = None
) -> None:
    """Write a checkpoint, whole or not at all.

    state: what `capture` gave where the learners had the weights that they have now; None captures now.
    settings: of the run, in YAML, kept with it.
    """
    state = capture(algorithm) if state is None else state
    learner = algorithm.learner_group.get_state(not_components="learner/rl_module")["learner"]
    optimizer = learner.pop("optimizer")
    state = {**state, "learner": learner}
    write_checkpoint(folder, policy_of(algorithm), optimizer=optimizer, state=state, settings=settings)


def load_checkpoint(algorithm: Any, folder: str | Path) -> int:
    """Put a freshly built algorithm where the saved one stood; returns the tokens it had sampled.

    It must be built from the configuration of the saved one. Raises ModelError naming the file that is broken, and
    ConfigError where the configuration is another one; the algorithm must then not be trained.
    """
    with saved_checkpoint(folder, "algorithm", _made_with(algorithm)) as (saved, state):
        module = algorithm.env_runner.module
        load_policy_files(module.actor_critic, saved)
        optimizers = load_state(saved, "optimizer")
        learner = {
            **state["learner"],
            "rl_module": {DEFAULT_MODULE_ID: module.get_state()},
            "optimizer": {name: {**own, "state": with_number_keys(own["state"])} for name, own in optimizers.items()},
        }
        algorithm.set_state({**state["algorithm"], "learner_group": {"learner": learner}})
        accounts = state["accounts"]
        algorithm.learner_group.foreach_learner(lambda learner: packer_of(learner).set_state(accounts))
        _load_rollouts(algorithm.env_runner_group, state["rollouts"])
        set_random_state(state["random"])
        return int(state["timesteps"])


def _load_rollouts(group: Any, rollouts: list[dict[str, Any]]) -> None:
    if group.num_remote_workers() == 0:
        group.local_env_runner.load_rollout_state(rollouts[0])
        return
    by_runner = {state["runner"]: state for state in rollouts}

    def load(runner: Any) -> bool:
        # A runner that was down when the checkpoint was written is not in it, and begins anew.
        if (state := by_runner.get(runner.worker_index)) is not None:
            runner.load_rollout_state(state)
        return True

    loaded = group.foreach_env_runner(load, local_env_runner=False)
    if len(loaded) < group.num_remote_workers():
        raise ModelError(
            f"only {len(loaded)} of {group.num_remote_workers()} env runners could go on from the checkpoint; "
            "their logs say why"
        )


def _made_with(algorithm: Any) -> dict[str, Any]:
    config, core = algorithm.config, algorithm.env_runner.module.actor_critic
    return {
        "algorithm": type(algorithm).__name__,
        **{name: getattr(config, name) for name in _SIZES},
        "kl_mode": config.env_config["kl_mode"],
        "max_length": core.max_length,
        "vocabulary": core.vocabulary.size,
        "trained_tensors": sum(1 for parameter in core.parameters() if parameter.requires_grad),
    }
