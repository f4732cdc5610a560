"""textrl-env: token generation of a real language model as a proper Gymnasium environment.

`import textrl_env` registers `TextRLHF-v0`, `TextRLHF-<Name>-v0` for every built-in task, and `TextRLHF-FineTune-v0`,
whose state is a training run. It imports neither torch nor transformers; the names below are loaded when they are first
used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import gymnasium

from textrl_env.tasks.registry import BUILT_IN

if TYPE_CHECKING:
    from textrl_env import errors as errors
    from textrl_env import models as models
    from textrl_env import rewards as rewards
    from textrl_env.actions import TokenAction as TokenAction
    from textrl_env.env import TextGenEnv as TextGenEnv
    from textrl_env.kl import KLPenalty as KLPenalty
    from textrl_env.tasks import Task as Task
    from textrl_env.tasks import register_task as register_task
    from textrl_env.vector_env import TextGenVectorEnv as TextGenVectorEnv

__version__ = "0.1.0"

_HOME = {
    "KLPenalty": "textrl_env.kl",
    "Task": "textrl_env.tasks",
    "TextGenEnv": "textrl_env.env",
    "TextGenVectorEnv": "textrl_env.vector_env",
    "TokenAction": "textrl_env.actions",
    "register_task": "textrl_env.tasks",
}
_MODULES = ("errors", "models", "rewards")

__all__ = [
    "KLPenalty",
    "Task",
    "TextGenEnv",
    "TextGenVectorEnv",
    "TokenAction",
    "__version__",
    "errors",
    "models",
    "register_task",
    "rewards",
]

ENV_ID, FINETUNE_ID = "TextRLHF-v0", "TextRLHF-FineTune-v0"


def _register(env_id: str, **kwargs: Any) -> None:
    # Episodes end by themselves, so no time limit wrapper; order is enforced by the environment's own errors.
    gymnasium.register(
        id=env_id,
        entry_point="textrl_env.env:TextGenEnv",
        vector_entry_point="textrl_env.vector_env:TextGenVectorEnv",
        order_enforce=False,
        kwargs=kwargs,
    )


_register(ENV_ID)
for _name in BUILT_IN:
    _register(f"TextRLHF-{_name.capitalize()}-v0", task=_name)
gymnasium.register(id=FINETUNE_ID, entry_point="textrl_env.finetune.env:FineTuneEnv", order_enforce=False)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"textrl_env.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'textrl_env' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
