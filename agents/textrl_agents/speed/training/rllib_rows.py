"""Rows on RLlib's adapter: its speed against SB3's and RLlib's own pipeline, and the first ratio."""

from __future__ import annotations

import copy
from typing import Any

import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from textrl_agents.rllib.config import make_config
from textrl_agents.rllib.env_runner import TextEnvRunner
from textrl_agents.rllib.module import CausalLMModule
from textrl_agents.rllib.results import packer_of
from textrl_agents.sb3 import make_agent
from textrl_agents.sb3.agent import SB3Phases
from textrl_agents.speed.measurement import Bench, Measured, Target, compare, compared, measurement
from textrl_agents.speed.workload import without_eos, zero_reward
from textrl_env.language.grammar import review_prompts
from textrl_env.models import load_model
from textrl_env.models.packing import pack_observations
from textrl_env.tasks import Task


class RLlibPhases:
    """An env runner and a learner of one configuration, whose work can be timed alone; Ray is not started."""

    def __init__(self, config: AlgorithmConfig):
        self.config = config
        self.runner = config.env_runner_cls(config=config, worker_index=0)
        self.learner = config.build_learner(env=self.runner.env)
        self.episodes: list[Any] = []
        self.tokens = 0

    def sync(self) -> None:
        """Copy the learner's weights to the runner, as after every update."""
        self.runner.module.set_state(self.learner.module[DEFAULT_MODULE_ID].get_state(inference_only=True))

    def sample(self) -> int:
        """Sample one fragment of every row; return its tokens."""
        self.episodes = self.runner.sample()
        self.runner.get_metrics()
        self.tokens = sum(map(len, self.episodes))
        return self.tokens

    def pack(self) -> dict[str, Any]:
        """Make a train batch of the fragments: charge the KL and compute the advantages."""
        batch = packer_of(self.learner)(
            rl_module=self.learner.module, batch={}, episodes=self.episodes, shared_data={}, metrics=None
        )
        packed: dict[str, Any] = batch[DEFAULT_MODULE_ID]
        return packed

    def sample_and_charge(self) -> int:
        """Do what SB3's rollout does: sample, and score the reference; return the tokens."""
        tokens = self.sample()
        packer_of(self.learner).charge(self.episodes, self.learner.module[DEFAULT_MODULE_ID].actor_critic)
        return tokens

    def update(self, episodes: list[Any] | None = None) -> int:
        """Run RLlib's own update on the last fragments, or on a copy of them; return their tokens."""
        self.learner.update(
            episodes=self.episodes if episodes is None else episodes,
            timesteps={},
            num_epochs=self.config.num_epochs,
            minibatch_size=self.config.minibatch_size,
            shuffle_batch_per_epoch=True,
        )
        return self.tokens


@measurement(Target(">=", 0.7), quick={"tokens": 32})
def sampling_against_sb3(bench: Bench, *, rows: int = 64, tokens: int = 64, longest: int = 128) -> Measured:
    """Compare RLlib's env runner with SB3's loop: rollouts of the embedded model to EOS, with the KL charged.

    tokens: of each row in a rollout. longest: tokens of a response at most.
    """
    env = {"task": "sentiment", "max_new_tokens": longest, "device": str(bench.device)}
    ours = RLlibPhases(make_config("ppo", env, num_envs_per_env_runner=rows, rollout_fragment_length=tokens, seed=0))
    theirs = SB3Phases(make_agent("ppo", n_envs=rows, n_steps=tokens, env_kwargs=env, seed=0))
    result = compare(ours.sample_and_charge, theirs.collect, repeats=bench.repeats, device=bench.device)
    return compared(result, "RLlib", "SB3")


class PrefixModule(CausalLMModule):
    """The same policy for RLlib's default pipeline, where each transition is observed as a whole prefix."""

    def _forward_exploration(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        out = super()._forward_exploration(batch, **kwargs)
        log_probs = out[Columns.ACTION_LOGP]
        out[Columns.ACTION_DIST_INPUTS] = torch.stack([log_probs, torch.zeros_like(log_probs)], dim=-1)
        return out

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        values, log_probs, entropy = self.actor_critic.evaluate(
            pack_observations(batch[Columns.OBS], batch[Columns.ACTIONS])
        )
        return {Columns.ACTION_DIST_INPUTS: torch.stack([log_probs, entropy], dim=-1), Columns.EMBEDDINGS: values}

    def compute_values(self, batch: dict[str, Any], embeddings: torch.Tensor | None = None) -> torch.Tensor:
        """Return the values that `_forward_train` left as embeddings, or compute them."""
        if embeddings is not None:
            return embeddings
        with torch.no_grad():
            return self.actor_critic.states(pack_observations(batch[Columns.OBS], batch[Columns.ACTIONS])).values


@measurement(Target(">=", 20.0), quick={"rows": 4})
def update_against_default_pipeline(bench: Bench, *, rows: int = 16, tokens: int = 64) -> Measured:
    """Compare `PPOTorchLearner` on packed episodes with the same on RLlib's default pipeline, one prefix a token.

    rows: episodes, each of `tokens` tokens.
    """
    repeats = min(bench.repeats, 3)
    settings: dict[str, Any] = {
        "num_envs_per_env_runner": rows,
        "rollout_fragment_length": tokens,
        "minibatch_size": rows * tokens // 4,
        "num_epochs": 1,
        "lr": 0.0,
        "seed": 0,
    }
    prompts = review_prompts("train")[:rows]
    task = Task(name="endless", prompts=prompts, reward=zero_reward, model=endless_model, max_new_tokens=tokens)
    ours = RLlibPhases(make_config("ppo", {"task": task, "device": str(bench.device)}, **settings))
    theirs = RLlibPhases(_default_pipeline(ours.config, settings))
    works = []
    for side in (ours, theirs):
        side.sample()
        # RLlib's default connectors lengthen the episodes that they are given: each round gets copies of its own.
        rounds = [copy.deepcopy(side.episodes) for _ in range(repeats + 1)]
        works.append(lambda side=side, rounds=rounds: side.update(rounds.pop()))
    result = compare(*works, repeats=repeats, device=bench.device)
    return compared(result, "episodes", "RLlib's default pipeline")


def _default_pipeline(wired: AlgorithmConfig, shared: dict[str, Any]) -> AlgorithmConfig:
    """Configure RLlib's own connectors around the same environment and model."""
    config = PPOConfig()
    config.environment(wired.env, env_config=wired.env_config, normalize_actions=False, clip_actions=False)
    config.env_runners(env_runner_cls=TextEnvRunner, gym_env_vectorize_mode="vector_entry_point")
    spec = wired.rl_module_spec
    config.rl_module(rl_module_spec=RLModuleSpec(module_class=PrefixModule, model_config=spec.model_config))
    config.update_from_dict(
        {
            "gamma": wired.gamma,
            "lambda_": wired.lambda_,
            "use_kl_loss": False,
            "num_env_runners": 0,
            "num_learners": 0,
            "grad_clip": wired.grad_clip,
            **shared,
        }
    )
    return config


def endless_model() -> tuple[Any, Any]:
    """Load the embedded model so that all its responses run to the limit."""
    return without_eos(*load_model("embedded"))


@measurement(Target("<=", 1e-5), unit="", quick={"updates": 10})
def ratio_at_first_minibatch(bench: Bench, *, rows: int = 32, fragment: int = 8, updates: int = 50) -> Measured:
    """Measure max |pi_new / pi_old - 1| over all tokens before each update, where fragments cut responses.

    fragment: tokens of each row before an update.
    """
    phases = RLlibPhases(
        make_config(
            "ppo",
            {"task": "sentiment", "device": str(bench.device)},
            num_envs_per_env_runner=rows,
            rollout_fragment_length=fragment,
            minibatch_size=max(48, rows * fragment // 2),
            num_epochs=1,
            lr=3e-4,
            seed=0,
        )
    )
    largest = 0.0
    for _ in range(updates):
        phases.sync()
        phases.sample()
        batch = phases.pack()
        with torch.no_grad():
            out = phases.learner.module[DEFAULT_MODULE_ID].forward_train(batch)
        log_ratio = out[Columns.ACTION_DIST_INPUTS][..., 0] - batch[Columns.ACTION_LOGP]
        largest = max(largest, float(log_ratio[batch[Columns.LOSS_MASK]].expm1().abs().max()))
        phases.update()
    detail = f"largest |ratio - 1| before {updates} updates that cut responses every {fragment} tokens"
    return Measured(largest, detail)
