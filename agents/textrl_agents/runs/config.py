"""The settings of a training run: a YAML file, flags on top of it, and what both leave open.

algo: ppo
task: sentiment
timesteps: 200000        # generated tokens
kl_coef: 0.05            # or {value: 0.05, target: 6, horizon: 2000} for an adaptive one
algorithm:               # arguments of the algorithm itself; for RLlib, settings of its AlgorithmConfig
  learning_rate: 1e-3    # constant, or {peak: 1e-3, warmup: 0.05, final: 0.1}; RLlib's is called lr
  n_steps: 64
env:                     # arguments of the environment
  max_new_tokens: 48
  score_mode: deferred   # the reward is asked once a rollout; stepwise: as each response ends
  reward_workers: 0      # calls of the reward at a time while sampling goes on, in threads
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from textrl_agents.algorithms.algorithm import Algorithm
from textrl_agents.algorithms.registry import LIBRARIES, find_algorithm
from textrl_agents.training.extras import require
from textrl_agents.training.optimizers import check_optimizer
from textrl_agents.training.settings_file import read_settings
from textrl_env.arguments import ENV_ARGUMENTS, SCORE_MODES
from textrl_env.catalogue.cache import check_model_name
from textrl_env.errors import ConfigError
from textrl_env.foreign_text import shown
from textrl_env.rewards.make import check_reward_name
from textrl_env.tasks.registry import check_task_name
from textrl_env.user_values import (
    DECODERS,
    LARGEST_SEED,
    check_device_name,
    check_dtype_name,
    check_names,
    check_precision_name,
    check_seed,
    check_whole,
)

N_ENVS = 32  # of an algorithm that has checkpoints
# Settings that a resumed run may change: what it trains stays the same.
MAY_CHANGE = ("out", "timesteps", "save_every", "keep_checkpoints", "device", "threads")
# Arguments of the environment that have a setting of their own, or that the run decides.
_NOT_IN_ENV: tuple[str, ...] = ("task", "model", "tokenizer", "reward", "kl_coef", "device", "dtype", "lora")
_NOT_IN_ENV += ("precision", "split", "validation_prompts", "heldout_prompts")


@dataclass
class TrainConfig:
    """Everything a run depends on. None means: the task's own, or a default that `resolved` fills in."""

    lib: str | None = None  # sb3, rllib or trl; where the algorithm's name does not say it
    algo: str = "ppo"
    task: str = "sentiment"
    timesteps: int = 200_000  # generated tokens
    seed: int = 0
    out: str | None = None  # default: runs/<task>-<algo>-<seed>
    model: str | None = None
    tokenizer: str | None = None
    reward: Any = None  # what make_reward takes: a name, file.py:function, a folder, an address, a list ...
    kl_coef: Any = None
    n_envs: int | None = None  # responses sampled at once. Default: 32, or what the algorithm was tuned to
    algorithm: dict[str, Any] = field(default_factory=dict)
    env: dict[str, Any] = field(default_factory=dict)
    lora: dict[str, Any] | None = None  # arguments of peft.LoraConfig
    validation_prompts: Any = None  # to evaluate on while training. Default: the task's, or an eighth of env.prompts
    heldout_prompts: Any = None  # to report. Default: the same
    eval_every: int | None = None  # tokens; 0: before and after training alone. Default: an eighth of the run
    eval_episodes: int = 256  # 0: never
    samples: int = 4  # prompts in samples.md
    save_every: int | None = None  # tokens; 0: at the end alone. Default: a quarter of the run
    keep_checkpoints: int = 2
    device: str = "auto"
    dtype: str = "auto"
    precision: str = "auto"  # what matrix products are computed in
    decoder: str = "slots"  # how responses are sampled: a token a step, or "ahead": whole
    optimizer: Any = None  # "torch.optim.AdamW", or {name: torch.optim.AdamW, fused: true}. Default: Adam
    threads: int | None = None  # of torch on the CPU

    def __post_init__(self) -> None:
        if self.lib is not None:
            check_names("lib", [self.lib], LIBRARIES)
        lowest = {"timesteps": 1, "seed": 0, "n_envs": 1, "eval_every": 0, "eval_episodes": 0, "samples": 0}
        lowest |= {"save_every": 0, "keep_checkpoints": 1, "threads": 1}
        for name, bound in lowest.items():
            value = getattr(self, name)
            if value is None and name in ("n_envs", "eval_every", "save_every", "threads"):
                continue
            check_whole(name, value, bound)
        check_seed(self.seed, LARGEST_SEED)
        if self.eval_episodes == 1:
            raise ConfigError("eval_episodes must be 0 (never) or at least 2, since an interval needs two; got 1")
        for name in ("algo", "task", "device", "dtype", "precision"):
            if not isinstance(getattr(self, name), str):
                raise ConfigError(f"{name} must be a name, got {shown(getattr(self, name))}")
        if self.out is not None and not isinstance(self.out, str):
            raise ConfigError(f"out must be a folder's name, got {shown(self.out)}")
        for name in ("algorithm", "env", "lora"):
            value = getattr(self, name)
            if not isinstance(value, Mapping) and not (name == "lora" and value is None):
                raise ConfigError(f"{name} must be a mapping of argument names to values, got {shown(value)}")

    @classmethod
    def of(cls, *layers: Mapping[str, Any]) -> TrainConfig:
        """Merge mappings, later ones on top; `algorithm` and `env` are merged key by key. Raises UnknownName."""
        names = [entry.name for entry in dataclasses.fields(cls)]
        merged: dict[str, Any] = {}
        for layer in layers:
            check_names("setting", layer, names)
            for key, value in layer.items():
                if key in ("algorithm", "env") and isinstance(value, Mapping):
                    merged[key] = {**merged.get(key, {}), **value}
                else:
                    merged[key] = value
        return cls(**merged)

    @classmethod
    def of_run(cls, path: str | Path, *layers: Mapping[str, Any]) -> TrainConfig:
        """Read a run's `config.yaml`, with layers on top. Raises ConfigError where it lacks a setting.

        A run writes every setting. One that is missing was cut off, and the run may not have had its default.
        """
        settings = read_settings(path)
        missing = [entry.name for entry in dataclasses.fields(cls) if entry.name not in settings]
        if missing:
            raise ConfigError(
                f"{str(path)!r} is not the whole config.yaml of a run: it has no {', '.join(missing[:5])}"
                f"{' ...' if len(missing) > 5 else ''}. Each checkpoint holds a copy, settings.yaml, to put in its "
                "place"
            )
        return cls.of(settings, *layers)

    def changed_since(self, before: TrainConfig) -> list[str]:
        """List the settings that decide what is trained and that differ from those of `before`."""
        names = [entry.name for entry in dataclasses.fields(self) if entry.name not in MAY_CHANGE]
        return [name for name in names if getattr(self, name) != getattr(before, name)]

    @property
    def algorithm_entry(self) -> Algorithm:
        """The registry's entry of `algo`. Raises UnknownName."""
        return find_algorithm(self.algo, self.lib)

    def check(self) -> None:
        """Look up every name and every package that a run needs, without importing torch or an RL library.

        Raises UnknownName, ConfigError and MissingExtra: also for matplotlib, which is needed only at the run's end.
        """
        algorithm = self.algorithm_entry
        check_task_name(self.task)
        check_reward_name(self.reward)
        check_model_name(self.model)
        check_device_name(self.device)
        check_dtype_name(self.dtype)
        check_precision_name(self.precision)
        check_names("decoder", [self.decoder], DECODERS)
        check_optimizer(self.optimizer)
        known = [name for name in ENV_ARGUMENTS if name not in _NOT_IN_ENV]
        for name in self.env:
            if name in _NOT_IN_ENV:
                raise ConfigError(f"env.{name} is decided by the run; give it as the setting {name!r} if there is one")
            check_names("argument of env", [name], known)
        if "score_mode" in self.env:
            check_names("score_mode", [self.env["score_mode"]], SCORE_MODES)
        algorithm.require_fit(self.task)
        if not algorithm.has_checkpoints:
            self._check_without_checkpoints(algorithm)
        if (missing := algorithm.missing()) is not None:
            raise missing
        require("matplotlib")

    def _check_without_checkpoints(self, algorithm: Algorithm) -> None:
        """Raise ConfigError for settings of runs that have checkpoints."""
        if self.save_every:
            raise ConfigError(f"save_every must be 0 or left out: {algorithm.name} has no checkpoints")
        if self.eval_every:
            raise ConfigError(
                f"eval_every must be 0 or left out: {algorithm.name} is evaluated before and after training alone"
            )
        if self.optimizer is not None:
            raise ConfigError(f"optimizer must be left out: {algorithm.name} has one of its own")
        if self.decoder != DECODERS[0]:
            raise ConfigError(f"decoder must be left out: {algorithm.name} does not take it")
        if self.n_envs is not None and algorithm.library != "sb3":
            raise ConfigError(
                f"n_envs must be left out: {algorithm.name} has settings of its own; give them as algorithm.NAME"
            )

    def resolved(self) -> TrainConfig:
        """Fill in every default and look up every name. Raises UnknownName and ConfigError."""
        self.check()
        from textrl_env.tasks import get_task

        task, algorithm = get_task(self.task), self.algorithm_entry
        if self.env.get("turns") is not None or task.turns is not None:
            algorithm.check_turns(self.task)
        resumable = algorithm.has_checkpoints
        return dataclasses.replace(
            self,
            lib=algorithm.library,
            # Without checkpoints a run is a cell of the benchmark, which has the tuned settings.
            algorithm=self.algorithm if resumable else {**algorithm.settings_for(self.task), **self.algorithm},
            n_envs=N_ENVS if self.n_envs is None and resumable else self.n_envs,
            out=self.out or f"runs/{self.task}-{self.algo}-{self.seed}",
            kl_coef=task.kl_coef if self.kl_coef is None else self.kl_coef,
            eval_every=self.timesteps // 8 or 1 if self.eval_every is None and resumable else self.eval_every or 0,
            save_every=self.timesteps // 4 or 1 if self.save_every is None and resumable else self.save_every or 0,
        )

    def env_arguments(self) -> dict[str, Any]:
        """Return the arguments of the environment to train in. What is None is left out: it is the task's own."""
        named = {"model": self.model, "tokenizer": self.tokenizer, "reward": self.reward, "lora": self.lora}
        named |= {"validation_prompts": self.validation_prompts, "heldout_prompts": self.heldout_prompts}
        return {
            "task": self.task,
            "split": "train",
            "kl_coef": self.kl_coef,
            "device": self.device,
            "dtype": self.dtype,
            "precision": self.precision,
            **{name: value for name, value in named.items() if value is not None},
            **self.env,
        }

    @property
    def title(self) -> str:
        """What is trained on: the task's name, or that of own prompts and rewards."""
        from textrl_env.tasks.splits import own_task

        return own_task(**self.env_arguments()).name

    def settings_copy(self) -> str:
        """Return YAML for the run's checkpoints. Without the run's folder, it is the same bytes wherever the run is."""
        return dataclasses.replace(self, out=None).to_yaml()

    def to_yaml(self) -> str:
        """Return YAML that `read_settings` reads. Raises ConfigError where a value is not plain data."""
        try:
            return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False, allow_unicode=True)
        except yaml.YAMLError:
            raise ConfigError(
                "a run is described by its config.yaml, so its settings are numbers, text, lists and mappings; "
                "give a reward or model by name, folder or 'file.py:function'"
            ) from None
