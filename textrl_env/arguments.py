"""The environment's arguments, typed once; known without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from textrl_env.errors import UnknownArgument

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from textrl_env.kl import KLController
    from textrl_env.models.sampling import SamplingParams

    Prompts: TypeAlias = str | Path | Sequence[Any] | Dataset
    """What `textrl_env.text.prompts.PromptSet` takes: a list, a file, a data set, or the name of one."""
    RewardSpec: TypeAlias = str | Path | Callable[..., Any] | Sequence[Any] | Mapping[str, Any]
    """What `textrl_env.rewards.make_reward` takes: a name, a function, a file, a folder, an address, or a list."""


class ModelArguments(TypedDict, total=False):
    """Overrides of a task that decide its model and how long an episode can be. None is the task's own."""

    model: str | Path | torch.nn.Module | None
    """The reference, from which a policy starts too: "embedded", a name of `textrl models list`, a folder, a .gguf
    file, a Hugging Face id or a module."""
    tokenizer: str | Path | PreTrainedTokenizerBase | None
    """The same for the tokenizer; by default the one that lies beside the model."""
    max_new_tokens: int | None
    """Tokens after which a response ends; of several turns, all tokens behind the prompt."""
    max_prompt_tokens: int | None
    """Tokens of the longest prompt."""
    sampling: SamplingParams | Mapping[str, float] | None
    """How the policy draws tokens: `temperature`, `top_k` and `top_p`."""
    lora: Mapping[str, Any] | None
    """Arguments of `peft.LoraConfig`, such as `{"r": 8}`: an adapter is trained, and the reference goes without it."""
    device: str | torch.device
    """"auto" (the first GPU where there is one), "cpu", "cuda", "cuda:1", ..."""
    dtype: str | torch.dtype
    """How weights are stored: "float32", "bfloat16", "float16", or "auto": float32, but for the frozen weights of an
    adapter on a GPU, which keep the checkpoint's own type."""
    precision: str
    """What float32 weights are multiplied in: "float32", "bfloat16", or "auto": bfloat16 where the device has
    instructions for it and the model is wide enough to gain from them. Other weights are multiplied as they are."""


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
    score_mode: str
    """When the reward is asked: "stepwise", as a response ends, or "deferred", for all together in `settle_scores`."""
    reward_workers: int
    """Calls of the reward at a time while sampling goes on, in threads; 0 calls it in `settle_scores` alone."""
    reward_batch: int | None
    """The most responses in a deferred call of the reward; None for no limit."""
    as_chat: bool | None
    """Ask prompts that are texts as a user's message, where the tokenizer has a chat template."""
    system_prompt: str | None
    """The system message of every chat that has none; "" leaves it to the chat template."""
    stop: Sequence[str] | None
    """Texts that end a response."""
    turns: str | Callable[[], Any] | None
    """What answers the policy, for episodes of several turns: a callable that makes a turn environment, or its name."""
    max_turns: int | None
    """Turns of the policy after which an episode ends."""
    max_turn_tokens: int | None
    """Tokens after which a turn ends."""
    turn_timeout: float | None
    """Seconds for each answer of a turn environment; 60 by default, None for no limit."""
    turn_workers: int
    """Turn environments that are asked at the same time, in threads; 8 by default."""
    split: str | None
    """"train", "validation" or "heldout". None is "train", or all of `prompts` where these are given."""
    with_reference: bool
    """False loads no weights, for an environment whose KL is charged in another process; needs kl_mode="deferred"."""


MODEL_ARGUMENTS = ("task", *ModelArguments.__annotations__)
"""Names of the arguments that decide a model."""
ENV_ARGUMENTS = ("task", *EnvArguments.__annotations__)
"""Names of all arguments of an environment that a task and its overrides are."""
SCORE_MODES = ("stepwise", "deferred")
"""When the reward is asked."""


def check_argument_names(given: Iterable[str], known: Sequence[str] = ENV_ARGUMENTS) -> None:
    """Raise UnknownArgument, which suggests the nearest name, where one of `given` is not `known`."""
    for name in given:
        if name not in known:
            raise UnknownArgument("argument of the environment", name, known)


def model_arguments(env: Mapping[str, Any]) -> dict[str, Any]:
    """Choose those of an environment's arguments that decide its model."""
    return {name: env[name] for name in MODEL_ARGUMENTS if name in env}
