"""The environment's arguments, typed once, and the checks of those that are plain values; known without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

import numpy as np

from textrl_env.errors import ConfigError, UnknownArgument, UnknownName
from textrl_env.foreign_text import shown

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from textrl_env.kl import KLController
    from textrl_env.models.sampling import SamplingParams

    Prompts: TypeAlias = str | Path | Sequence[Any] | Dataset
    """What `textrl_env.text.prompts.PromptSet` takes: a list, a file, a data set, or the name of one."""
    RewardSpec: TypeAlias = str | Path | Callable[..., Any] | Sequence[Any] | Mapping[str, Any]
    """What `textrl_env.rewards.make_reward` takes: a name, a function, a file, a folder, or a list of these."""


class ModelArguments(TypedDict, total=False):
    """Overrides of a task that decide its model and how long an episode can be. None is the task's own."""

    model: str | Path | torch.nn.Module | None
    """The reference, from which a policy starts too: "embedded", a folder, a Hugging Face id or a module."""
    tokenizer: str | Path | PreTrainedTokenizerBase | None
    """The same for the tokenizer; by default the one that lies beside the model."""
    max_new_tokens: int | None
    """Tokens after which a response ends."""
    max_prompt_tokens: int | None
    """Tokens of the longest prompt."""
    sampling: SamplingParams | Mapping[str, float] | None
    """How the policy draws tokens: `temperature`, `top_k` and `top_p`."""
    lora: Mapping[str, Any] | None
    """Arguments of `peft.LoraConfig`, such as `{"r": 8}`: an adapter is trained, and the reference goes without it."""
    device: str | torch.device
    """"auto" (the first GPU where there is one), "cpu", "cuda", "cuda:1", ..."""
    dtype: str | torch.dtype
    """"auto" (float32 on a CPU, the checkpoint's own type elsewhere), "float32", "bfloat16" or "float16"."""


class EnvArguments(ModelArguments, total=False):
    """Overrides of a task that an environment, single or batched, takes beside `task`. None is the task's own."""

    prompts: Prompts | None
    """Prompts to train on. With prompts of your own, none of the task's are held out."""
    validation_prompts: Prompts | None
    """Prompts for evaluations while training, and for choosing settings; an empty list holds none back."""
    heldout_prompts: Prompts | None
    """Prompts for reports; an empty list holds none back."""
    reward: RewardSpec | None
    """What scores a finished response."""
    kl_coef: float | Mapping[str, float] | KLController | None
    """A number, or `{"value", "target", "horizon"}` for a coefficient that adapts."""
    kl_estimator: str | None
    """"k1", "k2", "k3" or "full"."""
    kl_mode: str
    """"auto", "log_ratio", "cross_entropy" or "deferred"."""
    stop: Sequence[str] | None
    """Texts that end a response."""
    split: str | None
    """"train", "validation" or "heldout". None is "train", or all of `prompts` where these are given."""
    with_reference: bool
    """False loads no weights, for an environment whose KL is charged in another process; needs kl_mode="deferred"."""


MODEL_ARGUMENTS = ("task", *ModelArguments.__annotations__)
"""Names of the arguments that decide a model."""
ENV_ARGUMENTS = ("task", *EnvArguments.__annotations__)
"""Names of all arguments of an environment that a task and its overrides are."""
DEVICE_KINDS = ("auto", "cpu", "cuda", "mps", "xpu")
DTYPE_NAMES = ("auto", "float32", "bfloat16", "float16")


def check_argument_names(given: Iterable[str], known: Sequence[str] = ENV_ARGUMENTS) -> None:
    """Raise UnknownArgument, which suggests the nearest name, where one of `given` is not `known`."""
    for name in given:
        if name not in known:
            raise UnknownArgument("argument of the environment", name, known)


def model_arguments(env: Mapping[str, Any]) -> dict[str, Any]:
    """Choose those of an environment's arguments that decide its model."""
    return {name: env[name] for name in MODEL_ARGUMENTS if name in env}


def check_device_name(device: Any) -> None:
    """Raise ConfigError for what is no text, UnknownName for one that no device of torch is called.

    Whether it is there is not asked.
    """
    if not isinstance(device, str):
        raise ConfigError(f"device must be a name, such as 'auto', 'cpu' or 'cuda:1', got {shown(device)}")
    if device.partition(":")[0] not in DEVICE_KINDS:
        raise UnknownName("device", device, DEVICE_KINDS)


def check_dtype_name(dtype: Any) -> None:
    """Raise ConfigError for what is no text, UnknownName for one that is none of `DTYPE_NAMES`."""
    if not isinstance(dtype, str):
        raise ConfigError(f"dtype must be one of {', '.join(DTYPE_NAMES)}, got {shown(dtype)}")
    if dtype not in DTYPE_NAMES:
        raise UnknownName("dtype", dtype, DTYPE_NAMES)


def check_seed(seed: Any) -> int | None:
    """A seed as Gymnasium takes it: None, or any whole number >= 0, however large. Raises ConfigError."""
    if seed is None:
        return None
    if isinstance(seed, (bool, np.bool_)) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ConfigError(f"seed must be a whole number >= 0, got {seed!r}")
    return int(seed)


def user_path(path: str | Path) -> Path:
    """`path` with `~` as a home folder; nothing need be there.

    Raises ConfigError where the system can have no such file, as with names of thousands of characters, and for what is
    no path.
    """
    try:
        expanded = Path(path).expanduser()
        expanded.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, TypeError, RuntimeError) as error:  # RuntimeError: `~name` of nobody
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"{shown(str(path) if isinstance(path, Path) else path)} cannot be used as a path: {reason}"
        ) from error
    return expanded
