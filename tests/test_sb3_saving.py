"""SB3's own `agent.save` and `load`: every algorithm goes on where it was, in another environment too."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import quick

from textrl_agents.algorithms.registry import get_algorithm, names_in
from textrl_agents.sb3 import TextVecEnv, make_agent
from textrl_agents.sb3.saved_policy import ModelCopy
from textrl_env import Task
from textrl_env.errors import ConfigError

ROWS = 8
SETTINGS: dict[str, dict[str, Any]] = {
    "nlpo": {"policy_kwargs": {"mask_top_p": 0.7}, "mask_every": 2},
    "rloo": {"group_size": 2},
    "grpo": {"group_size": 4},
    "dqn": {"batch_size": 32, "policy_kwargs": {"q_scale": 0.5}},
    "qrdqn": {"batch_size": 32},
}
ON_POLICY = [algo for algo in names_in("sb3") if get_algorithm(algo).kind in ("critic", "responses")]
# Every state of a response to "a" up to three tokens.
STATES = [[0], [0, 1], [0, 3, 2], [0, 4, 4, 1]]


def trained(algo: str, **arguments: Any) -> Any:
    """An agent that has left the reference."""
    settings: dict[str, Any] = {"n_envs": ROWS, "env_kwargs": {"task": "exact"}, "seed": 0, "device": "cpu"}
    if get_algorithm(algo).kind in ("critic", "responses"):
        settings |= {"n_steps": 8, "learning_rate": 1e-2}
    agent = make_agent(algo, **{**settings, **SETTINGS.get(algo, {}), **arguments})
    return agent.learn(4 * 8 * ROWS)


def environment(algo: str, **arguments: Any) -> TextVecEnv:
    """Another environment for an agent of `algo`."""
    kind = get_algorithm(algo).kind
    charge = {"kl_mode": "cross_entropy"} if kind in ("value", "table") else {}
    group = {"group_size": SETTINGS.get(algo, {}).get("group_size", 1)}
    return TextVecEnv(num_envs=ROWS, **{"task": "exact", **charge, **group, **arguments})


def log_probs(agent: Any) -> torch.Tensor:
    """Of every token after STATES, [S, V], by whatever the agent samples from."""
    observations = np.full((len(STATES), 6), -1)
    for row, ids in enumerate(STATES):
        observations[row, : len(ids)] = ids
    core = agent.policy.actor_critic
    if hasattr(core, "states"):
        return core.states(torch.from_numpy(observations)).logits.log_softmax(-1)
    return torch.from_numpy(core.log_probs(core.rows(observations)))


@pytest.mark.parametrize("algo", quick(["ppo", "soft_dqn", "q_learning"], names_in("sb3")))
def test_a_saved_agent_goes_on_where_it_was(algo: str, tmp_path: Path):
    """`agent.save; load(..., env=...).learn(...)`: the same policy, trained on, and charged by the new environment."""
    agent = trained(algo)
    agent.save(tmp_path / "agent.zip")
    env = environment(algo, **({"kl_coef": 3.0} if algo in ON_POLICY else {}))
    loaded = type(agent).load(tmp_path / "agent.zip", env=env, device="cpu")
    before = log_probs(loaded)
    torch.testing.assert_close(before, log_probs(agent), atol=1e-6, rtol=0)
    assert not torch.allclose(before, log_probs(trained_not_at_all(algo)), atol=1e-3), "nothing was trained"
    assert loaded.num_timesteps == agent.num_timesteps
    loaded.learn(4 * 8 * ROWS, reset_num_timesteps=False)
    assert loaded.num_timesteps == 2 * agent.num_timesteps
    assert not torch.allclose(log_probs(loaded), before, atol=1e-4)
    if algo in ON_POLICY:
        assert_charged(loaded.rollout_buffer.episodes, kl_coef=3.0)


def trained_not_at_all(algo: str) -> Any:
    arguments = {"n_envs": ROWS, "env_kwargs": {"task": "exact"}, **SETTINGS.get(algo, {})}
    return make_agent(algo, **arguments)


def assert_charged(episodes: list[Any], *, kl_coef: float) -> None:
    assert len(episodes) > 4
    assert {episode.kl_coef for episode in episodes} == {kl_coef}
    assert max(abs(episode.kl_sum) for episode in episodes) > 1e-3
    for episode in episodes:
        assert episode.episode_return == pytest.approx(episode.score - kl_coef * episode.kl_sum, abs=1e-4)


@pytest.mark.parametrize("kl_mode", ["deferred", "log_ratio"])
@pytest.mark.parametrize("algo", ["ppo", "grpo"])
def test_another_environment_charges_its_own_kl(algo: str, kl_mode: str):
    """`set_env`: nothing of the old environment is asked again, whichever mode the new one is in."""
    agent = trained(algo)
    old, new = agent.env, environment(algo, kl_mode=kl_mode, kl_coef=5.0)
    agent.set_env(new)
    old.step_wait = None
    agent.learn(4 * 8 * ROWS)
    assert_charged(agent.rollout_buffer.episodes, kl_coef=5.0)


def test_an_agent_loaded_without_an_environment_predicts_and_is_given_one(tmp_path: Path):
    for algo in ("ppo", "q_learning"):
        agent = trained(algo)
        agent.save(tmp_path / "agent.zip")
        loaded = type(agent).load(tmp_path / "agent.zip", device="cpu")
        observation = agent.env.reset()
        np.testing.assert_array_equal(
            loaded.predict(observation, deterministic=True)[0], agent.predict(observation, deterministic=True)[0]
        )
        loaded.set_env(environment(algo))
        loaded.learn(8 * ROWS)


@pytest.mark.parametrize("algo", ["dqn", "qrdqn"])
def test_q_learning_refuses_an_environment_that_does_not_charge_each_step(algo: str, tmp_path: Path):
    """A loaded agent in the default environment would learn from the score alone."""
    agent = trained(algo)
    agent.save(tmp_path / "agent.zip")
    loaded = type(agent).load(tmp_path / "agent.zip", env=environment("ppo"), device="cpu")
    with pytest.raises(ConfigError, match=r"needs an environment with kl_mode='cross_entropy', not 'deferred'"):
        loaded.learn(64)


def test_a_table_is_told_of_a_task_it_cannot_hold(tmp_path: Path):
    agent = trained("q_learning")
    agent.save(tmp_path / "agent.zip")
    with pytest.raises(ConfigError, match="a table needs kl_coef > 0 and a task with few states"):
        type(agent).load(tmp_path / "agent.zip", env=environment("q_learning", kl_coef=0.0))
    loaded = type(agent).load(tmp_path / "agent.zip", env=environment("q_learning", kl_coef=0.25))
    with pytest.raises(ConfigError, match=r"made for kl_coef=0\.5, .* the environment charges 0\.25"):
        loaded.learn(64)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft calls it
@pytest.mark.parametrize("given", [None, "lora", "policy_kwargs"])
def test_weights_travel_as_tensors_and_not_in_the_pickle(
    given: str | None, tiny_task: Task, make_model: Any, tmp_path: Path
):
    """What SB3 pickles of a module is its architecture, so the pickles of different weights are alike."""
    lora, policy_kwargs = None, None
    if given == "lora":
        pytest.importorskip("peft")
        lora = {"r": 2}
    elif given is not None:
        policy_kwargs = {"model": make_model("llama")}
    env_kwargs = {"task": tiny_task}
    agent = make_agent(
        "ppo", env_kwargs=env_kwargs, lora=lora, policy_kwargs=policy_kwargs, n_envs=2, n_steps=4, seed=0
    )
    agent.learn(8)
    agent.save(tmp_path / "agent.zip")
    data = json.loads(zipfile.ZipFile(tmp_path / "agent.zip").read("data"))
    weights = sum(weight.numel() * weight.element_size() for weight in agent.policy.parameters())
    assert len(data["policy_kwargs"][":serialized:"]) < weights
    loaded = type(agent).load(tmp_path / "agent.zip", env=TextVecEnv(num_envs=2, task=tiny_task, lora=lora))
    for name, tensor in agent.policy.state_dict().items():
        assert torch.equal(tensor, loaded.policy.state_dict()[name]), name
    trains = {name for name, weight in loaded.policy.named_parameters() if weight.requires_grad}
    assert trains == {name for name, weight in agent.policy.named_parameters() if weight.requires_grad}
    loaded.learn(8)


def test_a_pickled_module_keeps_its_ties_types_and_buffers(make_model: Any):
    model = make_model("gpt2").bfloat16()
    again = pickle.loads(pickle.dumps(ModelCopy(model))).module
    assert again.lm_head.weight is again.transformer.wte.weight
    assert {weight.dtype for weight in again.parameters()} == {torch.bfloat16}
    assert not any(weight.any() for weight in again.parameters())
    llama = make_model("llama")
    rotary = pickle.loads(pickle.dumps(ModelCopy(llama))).module.model.rotary_emb
    torch.testing.assert_close(rotary.inv_freq, llama.model.rotary_emb.inv_freq)
    again = pickle.loads(pickle.dumps(ModelCopy(llama))).module
    again.load_state_dict(llama.state_dict())
    ids = torch.tensor([[5, 9, 20]])
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, llama(input_ids=ids).logits)


NEW_PROCESS = """
import importlib, json, sys
import torch
from pathlib import Path
sys.path.insert(0, "tests")
from test_sb3_saving import log_probs
result = {}
for line in sys.stdin.read().split():
    path, module, name = line.split(":")
    agent = getattr(importlib.import_module(module), name).load(path, device="cpu")
    result[Path(path).stem] = log_probs(agent).tolist()
print(json.dumps(result))
"""


@pytest.mark.slow
def test_every_algorithm_in_a_new_process(tmp_path: Path):
    """CHECKS 49."""
    expected, lines = {}, []
    for algo in names_in("sb3"):
        agent = trained(algo)
        expected[algo] = log_probs(agent)
        agent.save(tmp_path / f"{algo}.zip")
        lines.append(f"{tmp_path / algo}.zip:{type(agent).__module__}:{type(agent).__name__}")
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", NEW_PROCESS],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "agents")])},
    )
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout.splitlines()[-1])
    for algo, wanted in expected.items():
        torch.testing.assert_close(torch.tensor(got[algo], dtype=wanted.dtype), wanted, atol=1e-5, rtol=0, msg=algo)


def test_a_soft_policy_is_told_of_another_coefficient(tmp_path: Path):
    """Its values are soft at the kl_coef it was made for; another environment's would be learned from as if it was."""
    agent = trained("soft_dqn")
    agent.save(tmp_path / "agent.zip")
    loaded = type(agent).load(tmp_path / "agent.zip", env=environment("soft_dqn", kl_coef=3.0), device="cpu")
    with pytest.raises(ConfigError, match=r"made for kl_coef=0\.5, .* the environment charges 3\.0"):
        loaded.learn(64)


@pytest.mark.parametrize("algo", ["ppo", "nlpo", "dqn", "qrdqn", "soft_dqn"])
def test_a_policy_alone_is_a_folder_without_a_pickle(algo: str, tmp_path: Path):
    """`policy.save` and `load`: the same choices and values, and the target network that a new training starts from."""
    policy = trained(algo).policy
    if algo == "qrdqn":
        torch.nn.init.normal_(policy.quantile_net.spread.weight)
    policy.save(tmp_path / "policy")
    files = {file.suffix for file in (tmp_path / "policy").rglob("*") if file.is_file()}
    assert files <= {".json", ".safetensors", ".md", ".jinja"}
    loaded = type(policy).load(tmp_path / "policy", device="cpu")
    assert loaded.actor_critic.greedy == policy.actor_critic.greedy == (algo in ("dqn", "qrdqn"))
    observations = torch.tensor([[0, -1, -1, -1, -1, -1], [0, 3, 2, -1, -1, -1]])
    for name in ("q_net", "quantile_net", "predict_values"):
        if hasattr(policy, name):
            values = getattr(loaded, name)(observations)
            torch.testing.assert_close(values, getattr(policy, name)(observations), atol=1e-6, rtol=1e-6)
            if name.endswith("net") and algo != "soft_dqn":
                torch.testing.assert_close(getattr(loaded, name + "_target")(observations), values)
    if algo == "soft_dqn":
        values = loaded.actor_critic.states(observations).values
        torch.testing.assert_close(loaded.q_net_target(observations)[:, 0], values)
        assert loaded.temperature == policy.temperature == 0.5
    else:
        torch.testing.assert_close(
            loaded.actor_critic.states(observations).logits,
            policy.actor_critic.states(observations).logits,
            atol=1e-6,
            rtol=0,
        )
