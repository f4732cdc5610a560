"""RLlib's adapter: sampling against SB3's, updates against RLlib's own pipeline, and whether the ratio starts at 1."""

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
from textrl_agents.rllib.policy import packer_of
from textrl_agents.sb3 import make_agent
from textrl_agents.speed.env_speed import zero
from textrl_agents.speed.timing import Comparison, compare
from textrl_agents.speed.workload import Stepwise, without_eos
from textrl_env.language.grammar import review_prompts
from textrl_env.models import load_model
from textrl_env.models.packing import pack_observations
from textrl_env.tasks import Task


class InProcess:
    """An env runner and a learner of one configuration, taken apart so that each can be timed alone; no Ray needed."""

    def __init__(self, config: AlgorithmConfig):
        self.config = config
        self.runner = config.env_runner_cls(config=config, worker_index=0)
        self.learner = config.build_learner(env=self.runner.env)
        self.episodes: list[Any] = []
        self.tokens = 0

    def sync(self) -> None:
        """The learner's weights to the runner, as after every update."""
        self.runner.module.set_state(self.learner.module[DEFAULT_MODULE_ID].get_state(inference_only=True))

    def sample(self) -> int:
        """One fragment of every row; returns its tokens."""
        self.episodes = self.runner.sample()
        self.runner.get_metrics()
        self.tokens = sum(map(len, self.episodes))
        return self.tokens

    def pack(self) -> dict[str, Any]:
        """The fragments as a train batch, KL charged and advantages computed."""
        batch = packer_of(self.learner)(
            rl_module=self.learner.module, batch={}, episodes=self.episodes, shared_data={}, metrics=None
        )
        return batch[DEFAULT_MODULE_ID]

    def sample_and_charge(self) -> int:
        """What SB3's rollout does: sample, and score the reference."""
        tokens = self.sample()
        packer_of(self.learner).charge(self.episodes, self.learner.module[DEFAULT_MODULE_ID].actor_critic)
        return tokens

    def update(self, episodes: list[Any] | None = None) -> int:
        """RLlib's own update on the last fragments, or on a copy of them; returns their tokens."""
        self.learner.update(
            episodes=self.episodes if episodes is None else episodes,
            timesteps={},
            num_epochs=self.config.num_epochs,  # type: ignore[attr-defined]
            minibatch_size=self.config.minibatch_size,  # type: ignore[attr-defined]
            shuffle_batch_per_epoch=True,
        )
        return self.tokens


def sampling_against_sb3(*, rows: int, tokens: int, longest: int, repeats: int, device: torch.device) -> Comparison:
    """Rollouts of the embedded model to EOS, with the KL charged: RLlib's env runner against SB3's loop."""
    ours = InProcess(
        make_config(
            "ppo",
            {"task": "sentiment", "max_new_tokens": longest, "device": str(device)},
            num_envs_per_env_runner=rows,
            rollout_fragment_length=tokens,
            seed=0,
        )
    )
    theirs = Stepwise(
        make_agent(
            "ppo",
            n_envs=rows,
            n_steps=tokens,
            env_kwargs={"task": "sentiment", "max_new_tokens": longest, "device": device},
            seed=0,
        )
    )
    return compare(ours.sample_and_charge, theirs.collect, repeats=repeats, device=device)


class PrefixModule(CausalLMModule):
    """The same policy as RLlib's default pipeline needs it: one observation, a whole prefix, for every transition."""

    def _forward_exploration(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        out = super()._forward_exploration(batch, **kwargs)
        log_probs = out[Columns.ACTION_LOGP]
        out[Columns.ACTION_DIST_INPUTS] = torch.stack([log_probs, torch.zeros_like(log_probs)], dim=-1)
        return out

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        values, log_probs, entropy = self.actor_critic.evaluate(
            pack_observations(batch[Columns.OBS], batch[Columns.ACTIONS])
        )
        return {
            Columns.ACTION_DIST_INPUTS: torch.stack([log_probs, entropy], dim=-1),
            Columns.EMBEDDINGS: values,
        }

    def compute_values(self, batch: dict[str, Any], embeddings: torch.Tensor | None = None) -> torch.Tensor:
        if embeddings is not None:
            return embeddings
        with torch.no_grad():
            return self.actor_critic.states(pack_observations(batch[Columns.OBS], batch[Columns.ACTIONS])).values


def update_against_default_pipeline(
    *, rows: int, tokens: int, minibatch_size: int, repeats: int, device: torch.device
) -> Comparison:
    """Stock `PPOTorchLearner` on packed episodes against the same on RLlib's default pipeline, one prefix a token."""
    shared: dict[str, Any] = {
        "num_envs_per_env_runner": rows,
        "rollout_fragment_length": tokens,
        "minibatch_size": minibatch_size,
        "num_epochs": 1,
        "lr": 0.0,
        "seed": 0,
    }
    task = Task(
        name="endless", prompts=review_prompts("train")[:rows], reward=zero, model=endless_model, max_new_tokens=tokens
    )
    env = {"task": task, "device": str(device)}
    ours = InProcess(make_config("ppo", env, **shared))
    theirs = InProcess(_default_pipeline(ours.config, shared))
    works = []
    for side in (ours, theirs):
        side.sample()
        # RLlib's default connectors lengthen the episodes that they are given: each round gets copies of its own.
        rounds = [copy.deepcopy(side.episodes) for _ in range(repeats + 1)]
        works.append(lambda side=side, rounds=rounds: side.update(rounds.pop()))
    return compare(*works, repeats=repeats, device=device)


def _default_pipeline(wired: AlgorithmConfig, shared: dict[str, Any]) -> AlgorithmConfig:
    """RLlib's own connectors around the same environment and model."""
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
    """The embedded model, whose responses all run to the limit."""
    return without_eos(*load_model("embedded"))


def largest_ratio_error(*, rows: int, fragment: int, updates: int, device: torch.device) -> float:
    """max |pi_new / pi_old - 1| over all tokens before each of `updates` updates, which cut responses in the middle."""
    side = InProcess(
        make_config(
            "ppo",
            {"task": "sentiment", "device": str(device)},
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
        side.sync()
        side.sample()
        batch = side.pack()
        with torch.no_grad():
            out = side.learner.module[DEFAULT_MODULE_ID].forward_train(batch)
        log_ratio = out[Columns.ACTION_DIST_INPUTS][..., 0] - batch[Columns.ACTION_LOGP]
        largest = max(largest, float(log_ratio[batch[Columns.LOSS_MASK]].expm1().abs().max()))
        side.update()
    return largest
