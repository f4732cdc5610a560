"""Every dtype through every library: weights and optimizers travel and are saved without losing a bit."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import quick

from textrl_agents.runs.config import TrainConfig
from textrl_agents.runs.run_folder import RunFolder, load_policy
from textrl_agents.runs.train import resume, train

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# peft still asks transformers for an attribute under its old name.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:weights in .* are trained in place:UserWarning"),
]


def same(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert got[name].dtype == tensor.dtype, name
        assert torch.equal(got[name], tensor), name


RLLIB = [
    *itertools.product(("ppo", "appo", "impala"), ("bfloat16",), (None, {"r": 2}), ("shared", "separate")),
    *itertools.product(("ppo",), ("float32", "float16"), (None,), ("shared",)),
]


@pytest.mark.parametrize(
    ("algo", "dtype", "lora", "trunk"), quick(RLLIB[:1], RLLIB), ids=lambda value: str(value).replace(" ", "")
)
def test_rllibs_learners_hand_on_every_bit(algo: str, dtype: str, lora: Any, trunk: str):
    """To env runners, and to a learner that goes on: weights and both moments of Adam. NumPy has no bfloat16."""
    pytest.importorskip("ray.rllib")
    from ray.rllib.core import DEFAULT_MODULE_ID

    from textrl_agents.rllib import make_config
    from textrl_agents.rllib.env_runner import TextEnvRunner

    env = {"task": "exact", "device": "cpu", "dtype": dtype, "lora": lora}
    settings = {"num_envs_per_env_runner": 2, "rollout_fragment_length": 6, "actor_critic": {"value_trunk": trunk}}
    config = make_config(algo, env, lr=1e-2, **settings)
    runner = TextEnvRunner(config=config, worker_index=0)
    learners = [config.build_learner(env=runner.env) for _ in range(2)]
    for learner in learners:
        learner.shutdown()  # of IMPALA and APPO: the thread that updates; here none is needed
    learner, other = learners
    module, target = (each.module[DEFAULT_MODULE_ID].unwrapped() for each in learners)
    assert module.actor_critic.lm.dtype == DTYPES[dtype]
    generator = torch.Generator().manual_seed(0)
    for _, optimizer in learner.get_optimizers_for_module(DEFAULT_MODULE_ID):
        for weight in module.parameters():
            if weight.requires_grad:
                weight.grad = torch.randn(weight.shape, generator=generator).to(weight.dtype)
        optimizer.step()

    runner.module.set_state(module.get_state(inference_only=True))
    same(runner.module.actor_critic.state_dict(), module.actor_critic.state_dict())
    state = learner.get_state()
    assert all(isinstance(array, np.ndarray) for array in state["rl_module"][DEFAULT_MODULE_ID].values())
    other.set_state(state)
    same(target.state_dict(), module.state_dict())
    (_, old), (_, new) = (each.get_optimizers_for_module(DEFAULT_MODULE_ID)[0] for each in learners)
    moments, restored = old.state_dict()["state"], new.state_dict()["state"]
    assert len(moments) > 1
    for index, values in moments.items():
        same({name: torch.as_tensor(each) for name, each in restored[index].items()}, values)


def run_settings(out: Path, lib: str, algo: str, dtype: str, lora: Any, trunk: str) -> TrainConfig:
    policy = {"actor_critic" if lib == "rllib" else "policy_kwargs": {"value_trunk": trunk}}
    sizes = {"rollout_fragment_length": 10} if lib == "rllib" else {"n_steps": 10}
    return TrainConfig.of(
        {
            "lib": lib,
            "algo": algo,
            "task": "exact",
            "timesteps": 320,
            "n_envs": 8,
            "save_every": 80,
            "keep_checkpoints": 9,
            "eval_episodes": 0,
            "samples": 0,
            "device": "cpu",
            "dtype": dtype,
            "lora": lora,
            "out": str(out),
            "algorithm": {**policy, **sizes},
        }
    )


def saved_and_resumed(out: Path, *case: Any) -> None:
    """A run, and the same from its first checkpoint on: weights and optimizer end equal in every bit."""
    assert train(run_settings(out, *case), progress=False).finished
    checkpoints = RunFolder(out).checkpoints()
    first, last = (weights(folder) for _, folder in (checkpoints[0], checkpoints[-1]))
    assert first != last
    assert resume(checkpoints[0][1], progress=False).finished
    assert weights(checkpoints[-1][1]) == last
    assert load_policy(out, dtype="bfloat16", device="cpu").lm.dtype == torch.bfloat16


def weights(checkpoint: Path) -> dict[str, str]:
    """SHA-256 of each file of tensors."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    return {name: entry["sha256"] for name, entry in manifest.items() if name.endswith(".safetensors")}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("lora", [None, {"r": 2}], ids=["full", "lora"])
@pytest.mark.parametrize("trunk", ["shared", "separate"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_an_rllib_run_is_saved_and_resumed_bit_by_bit(dtype: str, trunk: str, lora: Any, tmp_path: Path):
    saved_and_resumed(tmp_path / "run", "rllib", "ppo", dtype, lora, trunk)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("algo", ["appo", "impala"])
def test_an_asynchronous_run_goes_on_in_bfloat16(algo: str, tmp_path: Path):
    """Its threads have no fixed order, so that only the going on can be asked for."""
    out = tmp_path / "run"
    assert train(run_settings(out, "rllib", algo, "bfloat16", None, "shared"), progress=False).finished
    assert resume(RunFolder(out).checkpoints()[0][1], progress=False).finished


SB3 = [
    *itertools.product(
        ("ppo", "a2c", "trpo", "nlpo", "reinforce", "rloo", "grpo"),
        ("bfloat16", "float32"),
        (None, {"r": 2}),
        ("shared", "separate"),
    )
]


@pytest.mark.slow
@pytest.mark.parametrize(("algo", "dtype", "lora", "trunk"), SB3, ids=lambda value: str(value).replace(" ", ""))
def test_an_sb3_run_is_saved_and_resumed_bit_by_bit(algo: str, dtype: str, lora: Any, trunk: str, tmp_path: Path):
    pytest.importorskip("stable_baselines3")
    saved_and_resumed(tmp_path / "run", "sb3", algo, dtype, lora, trunk)
