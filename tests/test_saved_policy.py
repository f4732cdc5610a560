"""A saved policy is the policy that was trained: mask, sampling and greediness, in a new process too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import quick
from transformers import AutoModelForCausalLM

from textrl_agents.algorithms.registry import get_algorithm, names_in
from textrl_agents.evaluation import evaluate
from textrl_agents.evaluation.generation import generate
from textrl_agents.runs.run_folder import RunFolder, load_policy
from textrl_agents.sb3 import CausalLMPolicy, make_agent
from textrl_agents.sb3.checkpoint import save_checkpoint
from textrl_agents.sb3.own.nlpo import MaskedCausalLMPolicy
from textrl_env import Task
from textrl_env.errors import ModelError
from textrl_env.models import CausalLMActorCritic
from textrl_env.models.masked_actor_critic import MaskedActorCritic
from textrl_env.tasks.enumeration import ExactValue

SAMPLING = {"temperature": 0.8, "top_k": 5}
MODELS = [algo for algo in names_in("sb3") if get_algorithm(algo).kind != "table"]
peft_warns = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


def trained(algo: str, **arguments: Any) -> Any:
    """An agent on `exact` that has left the reference; NLPO's mask lags behind its policy."""
    settings: dict[str, Any] = {"n_envs": 8, "env_kwargs": {"task": "exact", "sampling": SAMPLING}, "seed": 0}
    if get_algorithm(algo).kind in ("critic", "responses"):
        settings |= {"n_steps": 8, "learning_rate": 1e-2}
    if algo == "nlpo":
        settings |= {"policy_kwargs": {"mask_top_p": 0.5}, "mask_every": 3}
    return make_agent(algo, **{**settings, **arguments}).learn(4 * 64)


def states(length: int = 6) -> torch.Tensor:
    """Observations int64 [4, L] of the task `exact`."""
    observations = torch.full((4, length), -1)
    for row, ids in enumerate(([0], [2, 1], [0, 3, 2], [2, 4, 4, 1])):
        observations[row, : len(ids)] = torch.tensor(ids)
    return observations


def log_probs(core: Any) -> torch.Tensor:
    return core.states(states()).logits.log_softmax(-1)


def same(got: torch.Tensor, wanted: torch.Tensor) -> bool:
    return torch.allclose(got, wanted, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("algo", quick(["ppo", "nlpo", "qrdqn"], MODELS))
def test_the_policy_that_is_loaded_is_the_one_that_was_trained(algo: str, tmp_path: Path):
    """CHECKS 49: by `load_policy` of a run folder's policy, and by `CausalLMActorCritic.from_pretrained`."""
    core = trained(algo).policy.actor_critic
    RunFolder(tmp_path).save_policy(core, 0)
    loaded = load_policy(tmp_path)
    assert type(loaded) is type(core)
    assert same(log_probs(loaded), log_probs(core))
    assert (loaded.sampling, loaded.greedy) == (core.sampling, core.greedy)
    torch.testing.assert_close(loaded.states(states()).values, core.states(states()).values, atol=1e-5, rtol=1e-5)
    again = CausalLMActorCritic.from_pretrained(tmp_path / "policy", value_head=None)
    assert same(log_probs(again), log_probs(core))
    start = make_agent(algo, n_envs=8, env_kwargs={"task": "exact", "sampling": SAMPLING}).policy.actor_critic
    assert not same(log_probs(start), log_probs(core)), "nothing was trained"


def test_nlpo_is_worth_the_same_after_loading(tmp_path: Path):
    """The exact value of the policy in memory and of the one in the folder; the plain model's is another."""
    agent = trained("nlpo", env_kwargs={"task": "exact"})
    value = ExactValue(agent.env.env.rules, agent.env.env.prompts)
    core = agent.policy.actor_critic
    core.save_pretrained(tmp_path)
    in_memory = value.value(core)
    assert value.value(load_policy(tmp_path)) == pytest.approx(in_memory, abs=1e-5)
    plain = CausalLMActorCritic(core.model, core.tokenizer, max_length=6)
    assert abs(value.value(plain) - in_memory) > 0.01


def test_nlpos_checkpoints_and_sb3_policies_keep_the_mask(tmp_path: Path):
    agent = trained("nlpo")
    wanted = log_probs(agent.policy.actor_critic)
    save_checkpoint(agent, tmp_path / "checkpoint-256")
    assert same(log_probs(load_policy(tmp_path / "checkpoint-256")), wanted)
    agent.policy.save(tmp_path / "sb3")
    loaded = MaskedCausalLMPolicy.load(tmp_path / "sb3", device="cpu")
    assert same(log_probs(loaded.actor_critic), wanted)
    assert agent.policy.actor_critic.mask_top_p == loaded.actor_critic.mask_top_p
    plain = trained("ppo")
    plain.policy.save(tmp_path / "plain")
    assert same(log_probs(CausalLMPolicy.load(tmp_path / "plain").actor_critic), log_probs(plain.policy.actor_critic))


@peft_warns
def test_a_mask_over_an_adapter_is_saved_merged(tiny_task: Task, tmp_path: Path):
    pytest.importorskip("peft")
    agent = make_agent(
        "nlpo",
        env_kwargs={"task": tiny_task},
        lora={"r": 2},
        n_envs=4,
        n_steps=8,
        mask_every=2,
        learning_rate=1e-1,
        policy_kwargs={"mask_top_p": 0.5},
        seed=0,
    )
    agent.learn(3 * 32)
    core = agent.policy.actor_critic
    core.save_pretrained(tmp_path)
    loaded = load_policy(tmp_path)
    observations = torch.from_numpy(agent.env.reset())
    assert same(loaded.states(observations).logits, core.states(observations).logits)
    assert not same(
        loaded.states(observations).logits, core.mask_model(input_ids=observations.clamp(min=0)).logits[:, -1]
    )


def test_generation_and_evaluation_sample_within_the_mask(tmp_path: Path):
    """`textrl generate` and `textrl eval` take what `load_policy` gives: no token outside the mask is ever drawn."""
    core = trained("nlpo", env_kwargs={"task": "exact"}).policy.actor_critic
    core.save_pretrained(tmp_path)
    loaded = load_policy(tmp_path)
    allowed = (loaded.states(states()[:1]).logits.softmax(-1) > 1e-9)[0]
    assert 0 < int(allowed.sum()) < 6
    letters = {"abcde"[token] for token in range(5) if allowed[token]} | ({""} if allowed[5] else set())
    drawn = {completion.response[:1] for completion in generate(loaded, ["a"], n=200, max_new_tokens=1, seed=0)}
    assert drawn == letters
    episodes = evaluate(loaded, "exact", episodes=200, split="train").episodes
    assert {episode.response[:1] for episode in episodes if episode.prompt == "a"} <= letters


def test_a_greedy_policy_is_decoded_greedily(tmp_path: Path):
    """What DQN learns is greedy, in memory and after loading, unless something else is asked for."""
    core = trained("dqn").policy.actor_critic
    core.save_pretrained(tmp_path)
    loaded = load_policy(tmp_path)
    assert len({completion.response for completion in generate(loaded, ["a"], n=20)}) == 1
    assert len({completion.response for completion in generate(loaded, ["a"], n=20, deterministic=False, seed=0)}) > 1
    assert evaluate(loaded, "exact", episodes=4, split="train").deterministic
    assert "It is decoded greedily" in (tmp_path / "README.md").read_text()
    assert not load_policy_of_ppo(tmp_path / "ppo").greedy


def load_policy_of_ppo(folder: Path) -> CausalLMActorCritic:
    make_agent("ppo", env_kwargs={"task": "exact"}, n_envs=2, n_steps=2).policy.actor_critic.save_pretrained(folder)
    return load_policy(folder)


def test_the_card_says_what_plain_transformers_does_not_have(tmp_path: Path):
    trained("nlpo").policy.actor_critic.save_pretrained(tmp_path / "masked")
    masked = (tmp_path / "masked" / "README.md").read_text()
    assert "**The plain model is not the whole policy.**" in masked
    assert "whose probability reaches 0.5" in masked
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "masked" / "mask").num_parameters() > 0
    agent = make_agent("ppo", env_kwargs={"task": "sentiment", "sampling": SAMPLING}, n_envs=2, n_steps=2)
    agent.policy.actor_critic.save_pretrained(tmp_path / "plain")
    plain = (tmp_path / "plain" / "README.md").read_text()
    assert "started from textrl-env's embedded model" in plain
    assert "`model.generate(..., do_sample=True, temperature=0.8, top_k=5, top_p=1.0)`" in plain
    assert "not the whole policy" not in plain
    for card in (masked, plain):
        assert card.startswith("---\nlibrary_name: transformers\ntags:\n")
        assert str(Path.cwd()) not in card
        assert str(tmp_path) not in card


def test_a_mask_that_is_gone_is_an_error(tmp_path: Path):
    """A policy without its mask would be another one."""
    trained("nlpo").policy.actor_critic.save_pretrained(tmp_path)
    (tmp_path / "mask" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"mask' cannot be loaded"):
        load_policy(tmp_path)


def test_overrides_of_a_masked_policy(tmp_path: Path):
    core = trained("nlpo").policy.actor_critic
    core.save_pretrained(tmp_path)
    loaded = CausalLMActorCritic.from_pretrained(tmp_path, mask_top_p=0.99)
    assert isinstance(loaded, MaskedActorCritic)
    assert not same(log_probs(loaded), log_probs(core))


NEW_PROCESS = """
import json, sys
sys.path.insert(0, "tests")
from test_saved_policy import log_probs
from textrl_agents.runs.run_folder import load_policy
print(json.dumps({folder: log_probs(load_policy(folder)).exp().tolist() for folder in sys.stdin.read().split()}))
"""


@pytest.mark.slow
def test_every_algorithm_in_a_new_process(tmp_path: Path):
    """CHECKS 49."""
    expected = {}
    for algo in MODELS:
        core = trained(algo).policy.actor_critic
        core.save_pretrained(tmp_path / algo)
        expected[str(tmp_path / algo)] = log_probs(core).exp()
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", NEW_PROCESS],
        input="\n".join(expected),
        capture_output=True,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "agents")])},
    )
    assert done.returncode == 0, done.stderr
    for folder, got in json.loads(done.stdout.splitlines()[-1]).items():
        torch.testing.assert_close(torch.tensor(got), expected[folder], atol=1e-5, rtol=0, msg=folder)
