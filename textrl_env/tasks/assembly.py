"""From a task and the arguments that override it to the parts an environment runs on."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from textrl_env.errors import ConfigError, MissingExtra
from textrl_env.foreign_text import shown
from textrl_env.kl import KLPenalty
from textrl_env.mdp import EpisodeRules, check_limit
from textrl_env.models.reference import Reference
from textrl_env.models.sampling import SamplingParams
from textrl_env.models.storage.loading import LoadedModel, load_model
from textrl_env.models.vocabulary import Vocabulary
from textrl_env.rewards import make_reward
from textrl_env.tasks.registry import get_task
from textrl_env.tasks.splits import missing_split, own_task, split_rows
from textrl_env.tasks.task import Task
from textrl_env.text.prompts import PromptSet
from textrl_env.text.stopping import StopStrings


class Assembly(NamedTuple):
    """The parts of an environment."""

    task: Task
    rules: EpisodeRules
    prompts: PromptSet
    model_name: str | None  # the model's name or folder, where another copy of it can be loaded by that


class ModelParts(NamedTuple):
    """The model of a task, and what an episode of it can be."""

    model: Any
    tokenizer: Any
    vocabulary: Vocabulary
    sampling: SamplingParams
    max_prompt_tokens: int
    max_new_tokens: int

    @property
    def max_length(self) -> int:
        """Tokens of the longest observation."""
        return self.max_prompt_tokens + self.max_new_tokens


def assemble(
    task: str | Task = "sentiment",
    *,
    model: Any = None,
    tokenizer: Any = None,
    prompts: Any = None,
    validation_prompts: Any = None,
    heldout_prompts: Any = None,
    reward: Any = None,
    kl_coef: float | Mapping[str, float] | Any = None,
    kl_estimator: str | None = None,
    kl_mode: str = "auto",
    max_new_tokens: int | None = None,
    max_prompt_tokens: int | None = None,
    sampling: SamplingParams | Mapping[str, float] | None = None,
    stop: Sequence[str] | None = None,
    split: str | None = None,
    lora: Mapping[str, Any] | None = None,
    device: Any = "auto",
    dtype: Any = "auto",
    with_reference: bool = True,
) -> Assembly:
    """Resolve every part; None means the task's own. Raises a ConfigError before anything is half built.

    Raises MissingExtra where the task requires a package that is not installed.

    split: "train", "validation" or "heldout"; raises ConfigError where there are no such prompts. None is "train", but
        for `prompts` of the caller's own, of which it serves all: what was trained on them all holds none of them out.
    with_reference: False loads no weights at all, for an environment whose KL is charged in another process; only in
        `kl_mode="deferred"`, where the environment itself never runs the reference.
    """
    if prompts is not None and split is None:
        validation_prompts = [] if validation_prompts is None else validation_prompts
        heldout_prompts = [] if heldout_prompts is None else heldout_prompts
    task = own_task(
        task,
        prompts=prompts,
        validation_prompts=validation_prompts,
        heldout_prompts=heldout_prompts,
        reward=reward,
    )
    if not with_reference and kl_mode != "deferred":
        raise ConfigError(
            f"with_reference=False needs kl_mode='deferred'; kl_mode={shown(kl_mode)} runs it at every step"
        )
    for package, extra in task.requires.items():
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(extra, package)
    rows = split_rows(task, split or "train")
    if rows is None:
        raise missing_split(task, split or "train")
    rewarder = make_reward(task.reward)
    gold = None if task.gold is None else make_reward(task.gold)
    parts = assemble_model(
        task,
        model=model,
        tokenizer=tokenizer,
        max_new_tokens=max_new_tokens,
        max_prompt_tokens=max_prompt_tokens,
        sampling=sampling,
        lora=lora,
        device=device,
        dtype=dtype,
        weights=with_reference,
    )
    given = task.model if model is None else model
    rules = EpisodeRules(
        tokenizer=parts.tokenizer,
        vocabulary=parts.vocabulary,
        reward=rewarder,
        kl_penalty=KLPenalty(
            assemble_reference(parts, given) if with_reference else None,
            task.kl_coef if kl_coef is None else kl_coef,
            task.kl_estimator if kl_estimator is None else kl_estimator,
        ),
        kl_mode=kl_mode,
        sampling=parts.sampling,
        max_prompt_tokens=parts.max_prompt_tokens,
        max_new_tokens=parts.max_new_tokens,
        stop=StopStrings(task.stop if stop is None else stop, parts.tokenizer, parts.vocabulary.known),
        gold=gold,
    )
    prompt_set = PromptSet(
        rows,
        parts.tokenizer,
        max_prompt_tokens=parts.max_prompt_tokens,
        overflow=task.prompt_overflow,
        split="given" if prompts is not None and split is None else split or "train",
    )
    # With an adapter the policy is the very module that the reference runs without it, not another copy by name.
    by_name = isinstance(given, (str, Path)) and lora is None
    return Assembly(task, rules, prompt_set, str(given) if by_name else None)


def assemble_model(
    task: str | Task = "sentiment",
    *,
    model: Any = None,
    tokenizer: Any = None,
    max_new_tokens: int | None = None,
    max_prompt_tokens: int | None = None,
    sampling: SamplingParams | Mapping[str, float] | None = None,
    lora: Mapping[str, Any] | None = None,
    device: Any = "auto",
    dtype: Any = "auto",
    weights: bool = True,
) -> ModelParts:
    """The model of a task with its limits; None means the task's own.

    weights: False gives the architecture on torch's "meta" device, which takes no memory and cannot be run.
    """
    task = get_task(task)
    params = _sampling(task.sampling if sampling is None else sampling)
    new_tokens = task.max_new_tokens if max_new_tokens is None else max_new_tokens
    prompt_tokens = task.max_prompt_tokens if max_prompt_tokens is None else max_prompt_tokens
    check_limit("max_new_tokens", new_tokens)
    check_limit("max_prompt_tokens", prompt_tokens)
    loaded = _load(task, model, tokenizer, device=device if weights else torch.device("meta"), dtype=dtype, lora=lora)
    limit = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and prompt_tokens + new_tokens > limit:
        raise ConfigError(
            f"max_prompt_tokens + max_new_tokens = {shown(prompt_tokens)} + {shown(new_tokens)} exceeds the {limit} "
            f"positions of {type(loaded.model).__name__}; lower one of them"
        )
    vocabulary = Vocabulary.of(loaded.model, loaded.tokenizer)
    return ModelParts(loaded.model, loaded.tokenizer, vocabulary, params, prompt_tokens, new_tokens)


def assemble_reference(parts: ModelParts, given: Any = None) -> Reference:
    """The reference that the model of `parts` is.

    given: what the caller named as model; a module that is given is copied, since the caller may train it.
    """
    return Reference(_frozen(parts.model, given), parts.vocabulary, parts.sampling, parts.max_length)


def _sampling(sampling: SamplingParams | Mapping[str, float]) -> SamplingParams:
    if isinstance(sampling, SamplingParams):
        return sampling
    try:
        return SamplingParams(**sampling)  # type: ignore[arg-type]
    except TypeError:
        raise ConfigError(f"sampling takes temperature, top_k and top_p, got {shown(sampling)}") from None


def _load(task: Task, model: Any, tokenizer: Any, **arguments: Any) -> LoadedModel:
    if model is None:
        tokenizer = task.tokenizer if tokenizer is None else tokenizer
        model = task.model
        if callable(model) and not hasattr(model, "get_output_embeddings"):
            model, own_tokenizer = model()
            tokenizer = own_tokenizer if tokenizer is None else tokenizer
    return load_model(model, tokenizer=tokenizer, **arguments)


def _frozen(loaded: Any, given: Any) -> Any:
    """A reference of its own where the caller holds the module and may train it.

    A peft model is shared on purpose: its reference is the same weights with the adapter off.
    """
    if given is loaded and not hasattr(loaded, "disable_adapter"):
        return copy.deepcopy(loaded)
    return loaded
