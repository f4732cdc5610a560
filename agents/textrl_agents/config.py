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
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from textrl_agents.argument_checks import check_seed
from textrl_env.errors import ConfigError, UnknownName

LIBRARIES = ("sb3", "rllib")
# Arguments of the environment that have a setting of their own, or that the run decides.
_NOT_IN_ENV = ("task", "model", "tokenizer", "reward", "kl_coef", "split", "device", "dtype", "lora")


@dataclass
class TrainConfig:
    """Everything a run depends on. None means: the task's own, or a default that `resolved` fills in."""

    lib: str = "sb3"
    algo: str = "ppo"
    task: str = "sentiment"
    timesteps: int = 200_000  # generated tokens
    seed: int = 0
    out: str | None = None  # default: runs/<task>-<algo>-<seed>
    model: str | None = None
    tokenizer: str | None = None
    reward: Any = None  # what make_reward takes: a name, file.py:function, a folder, or a list with weights
    kl_coef: Any = None
    n_envs: int = 32
    algorithm: dict[str, Any] = field(default_factory=dict)
    env: dict[str, Any] = field(default_factory=dict)
    lora: dict[str, Any] | None = None  # arguments of peft.LoraConfig
    heldout_prompts: Any = None
    eval_every: int | None = None  # tokens; 0: before and after training alone. Default: an eighth of the run
    eval_episodes: int = 256  # 0: never
    samples: int = 4  # prompts in samples.md
    save_every: int | None = None  # tokens; 0: at the end alone. Default: a quarter of the run
    keep_checkpoints: int = 2
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None  # of torch on the CPU

    def __post_init__(self) -> None:
        if self.lib not in LIBRARIES:
            raise UnknownName("lib", self.lib, LIBRARIES)
        lowest = {"timesteps": 1, "seed": 0, "n_envs": 1, "eval_every": 0, "eval_episodes": 0, "samples": 0}
        lowest |= {"save_every": 0, "keep_checkpoints": 1, "threads": 1}
        for name, bound in lowest.items():
            value = getattr(self, name)
            if value is None and name in ("eval_every", "save_every", "threads"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < bound:
                raise ConfigError(f"{name} must be a whole number >= {bound}, got {value!r}")
        check_seed(self.seed)
        if self.eval_episodes == 1:
            raise ConfigError("eval_episodes must be 0 (never) or at least 2, since an interval needs two; got 1")
        for name in ("algo", "task", "device", "dtype"):
            if not isinstance(getattr(self, name), str):
                raise ConfigError(f"{name} must be a name, got {getattr(self, name)!r}")
        for name in ("algorithm", "env", "lora"):
            value = getattr(self, name)
            if not isinstance(value, Mapping) and not (name == "lora" and value is None):
                raise ConfigError(f"{name} must be a mapping of argument names to values, got {value!r}")

    @classmethod
    def of(cls, *layers: Mapping[str, Any]) -> TrainConfig:
        """From mappings, later ones on top; `algorithm` and `env` are merged key by key. Raises UnknownName."""
        names = [entry.name for entry in dataclasses.fields(cls)]
        merged: dict[str, Any] = {}
        for layer in layers:
            for key, value in layer.items():
                if key not in names:
                    raise UnknownName("setting", key, names)
                if key in ("algorithm", "env") and isinstance(value, Mapping):
                    merged[key] = {**merged.get(key, {}), **value}
                else:
                    merged[key] = value
        return cls(**merged)

    def resolved(self) -> TrainConfig:
        """With every default filled in and every name looked up. Raises UnknownName and ConfigError."""
        import inspect

        from textrl_env.tasks import get_task
        from textrl_env.tasks.assembly import assemble

        known = [name for name in inspect.signature(assemble).parameters if name not in _NOT_IN_ENV]
        for name in self.env:
            if name in _NOT_IN_ENV:
                raise ConfigError(f"env.{name} is decided by the run; give it as the setting {name!r} if there is one")
            if name not in known:
                raise UnknownName("argument of env", name, known)
        task = get_task(self.task)
        return dataclasses.replace(
            self,
            out=self.out or f"runs/{self.task}-{self.algo}-{self.seed}",
            kl_coef=task.kl_coef if self.kl_coef is None else self.kl_coef,
            eval_every=max(1, self.timesteps // 8) if self.eval_every is None else self.eval_every,
            save_every=max(1, self.timesteps // 4) if self.save_every is None else self.save_every,
        )

    def env_arguments(self) -> dict[str, Any]:
        """The environment's arguments; None means the task's own, and is left out."""
        named = {"model": self.model, "tokenizer": self.tokenizer, "reward": self.reward, "lora": self.lora}
        return {
            "task": self.task,
            "kl_coef": self.kl_coef,
            "device": self.device,
            "dtype": self.dtype,
            **{name: value for name, value in named.items() if value is not None},
            **self.env,
        }

    def to_yaml(self) -> str:
        """YAML that `read_settings` reads. Raises ConfigError where a value is not plain data."""
        try:
            return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False, allow_unicode=True)
        except yaml.YAMLError:
            raise ConfigError(
                "a run is described by its config.yaml, so its settings are numbers, text, lists and mappings; "
                "give a reward or model by name, folder or 'file.py:function'"
            ) from None


class _Loader(yaml.SafeLoader):
    """The safe loader, with numbers such as 1e-3, which YAML 1.1 takes for text."""


_Loader.yaml_implicit_resolvers = {
    key: list(entries) for key, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+"), list("-+.0123456789")
)


def read_settings(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. No tag of it can make an object or run code. Raises ConfigError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {str(path)!r} cannot be read: {error}") from error
    settings = _parse(text, f"config file {str(path)!r}")
    if settings is None:
        return {}
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise ConfigError(f"config file {str(path)!r} must hold `setting: value` lines, got {type(settings).__name__}")
    return settings


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """`["algorithm.n_steps=32", "samples=8"]` as nested settings; values are YAML. Raises ConfigError."""
    settings: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        group, dot, key = name.strip().partition(".")
        if not equals or not group or (dot and not key):
            raise ConfigError(f"--set takes NAME=VALUE, such as algorithm.n_steps=32; got {assignment!r}")
        parsed = _parse(value, f"the value of --set {name}")
        if dot:
            settings.setdefault(group, {})[key] = parsed
        else:
            settings[group] = parsed
    return settings


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from error
