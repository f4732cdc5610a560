"""From a task and the arguments that override it to the parts an environment runs on."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, Unpack

import torch

from textrl_env.arguments import MODEL_ARGUMENTS, EnvArguments, ModelArguments, check_argument_names, model_arguments
from textrl_env.errors import ConfigError, MissingExtra
from textrl_env.foreign_text import shown
from textrl_env.kl import KLPenalty
from textrl_env.models.reference import Reference
from textrl_env.models.sampling import SamplingParams
from textrl_env.models.storage.loading import LoadedModel, load_model
from textrl_env.models.vocabulary import Vocabulary
from textrl_env.rewards import make_reward
from textrl_env.rules import EpisodeRules
from textrl_env.tasks.registry import get_task
from textrl_env.tasks.splits import missing_split, own_task, split_rows
from textrl_env.tasks.task import Task
from textrl_env.text.prompts import PromptSet, checked_system_prompt
from textrl_env.text.stopping import StopStrings
from textrl_env.text.tokenization import check_end_of_turn
from textrl_env.turns.bridge import make_bridge
from textrl_env.turns.chat_bridge import ChatBridge
from textrl_env.turns.make import make_turn_env_factory
from textrl_env.turns.openings import Openings
from textrl_env.turns.rules import SECONDS, WORKERS, TurnRules
from textrl_env.user_values import check_precision_name, check_whole

T = TypeVar("T")
_OF_TURNS = ("max_turns", "max_turn_tokens", "turn_timeout", "turn_workers")  # arguments that need a turn environment


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
    precision: str = "auto"  # of policy and reference

    @property
    def max_length(self) -> int:
        """Tokens of the longest observation."""
        return self.max_prompt_tokens + self.max_new_tokens


def assemble(task: str | Task = "sentiment", **arguments: Unpack[EnvArguments]) -> Assembly:
    """Make every part of an environment, of a task and what overrides it; `EnvArguments` says what each argument is.

    Raises before anything is half built: UnknownArgument, ConfigError where an argument cannot work or there are no
    prompts of that split, and MissingExtra where the task requires a package that is not installed.
    """
    check_argument_names(arguments)
    kl_mode, with_reference = arguments.get("kl_mode", "auto"), arguments.get("with_reference", True)
    if not with_reference and kl_mode != "deferred":
        raise ConfigError(
            f"with_reference=False needs kl_mode='deferred'; kl_mode={shown(kl_mode)} runs it at every step"
        )
    task = _own_task(task, arguments)
    given = [name for name in _OF_TURNS if arguments.get(name) is not None]
    if given and task.turns is None:
        raise ConfigError(
            f"{given[0]} is for episodes of several turns, and task {shown(task.name)} has none: give turns="
        )
    for package, extra in task.requires.items():
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(extra, package)
    split = arguments.get("split") or "train"
    rows = split_rows(task, split)
    if rows is None:
        raise missing_split(task, split)
    reward, gold = _reward(task), None if task.gold is None else make_reward(task.gold)
    parts = assemble_model(task, weights=with_reference, **model_arguments(arguments))
    rules = EpisodeRules(
        tokenizer=parts.tokenizer,
        vocabulary=parts.vocabulary,
        reward=reward,
        kl_penalty=_kl_penalty(task, parts, arguments),
        kl_mode=kl_mode,
        sampling=parts.sampling,
        max_prompt_tokens=parts.max_prompt_tokens,
        max_new_tokens=parts.max_new_tokens,
        stop=StopStrings(_own(arguments.get("stop"), task.stop), parts.tokenizer, parts.vocabulary.known),
        gold=gold,
        score_mode=arguments.get("score_mode", "stepwise"),
        reward_workers=arguments.get("reward_workers", 0),
        reward_batch=arguments.get("reward_batch"),
        turns=None if task.turns is None else _turn_rules(task, parts, arguments),
    )
    prompts = (PromptSet if rules.turns is None else Openings)(
        rows,
        parts.tokenizer,
        max_prompt_tokens=parts.max_prompt_tokens,
        overflow=_own(task.prompt_overflow, "truncate"),
        split="given" if _serves_all(arguments) else split,
        as_chat=_own(_own(arguments.get("as_chat"), task.as_chat), False),
        system_prompt=_own(arguments.get("system_prompt"), task.system_prompt),
    )
    is_chat = (
        not isinstance(prompts[0].text, str) if rules.turns is None else isinstance(rules.turns.bridge, ChatBridge)
    )
    if not rules.stop.strings and is_chat:
        check_end_of_turn(parts.tokenizer)
    return Assembly(task, rules, prompts, _model_name(task, arguments))


def assemble_model(
    task: str | Task = "sentiment", *, weights: bool = True, **arguments: Unpack[ModelArguments]
) -> ModelParts:
    """Load the model of a task, with its limits; `ModelArguments` says what each argument is.

    weights: False gives the architecture on torch's "meta" device, which takes no memory and cannot be run.
    """
    check_argument_names(arguments, MODEL_ARGUMENTS)
    task = get_task(task)
    given: SamplingParams | Mapping[str, float] | None = arguments.get("sampling")
    sampling = _sampling(task.sampling if given is None else given)
    new_tokens = _own(arguments.get("max_new_tokens"), task.max_new_tokens)
    prompt_tokens = _own(arguments.get("max_prompt_tokens"), task.max_prompt_tokens)
    check_whole("max_new_tokens", new_tokens, 1)
    check_whole("max_prompt_tokens", prompt_tokens, 1)
    precision = arguments.get("precision", "auto")
    check_precision_name(precision)
    loaded = _load(task, arguments, weights=weights)
    limit = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and prompt_tokens + new_tokens > limit:
        raise ConfigError(
            f"max_prompt_tokens + max_new_tokens = {shown(prompt_tokens)} + {shown(new_tokens)} exceeds the {limit} "
            f"positions of {type(loaded.model).__name__}; lower one of them"
        )
    vocabulary = Vocabulary.of(loaded.model, loaded.tokenizer)
    return ModelParts(loaded.model, loaded.tokenizer, vocabulary, sampling, prompt_tokens, new_tokens, precision)


def assemble_reference(parts: ModelParts, given: Any = None) -> Reference:
    """Make a reference of the model of `parts`.

    given: what the caller gave as model. A module is copied, since the caller may train it.
    """
    model = _frozen(parts.model, given)
    return Reference(model, parts.vocabulary, parts.sampling, parts.max_length, precision=parts.precision)


def _own(given: T | None, of_task: T) -> T:
    """What the caller gave, or else the task's own."""
    return of_task if given is None else given


def _reward(task: Task) -> Any:
    """The reward of a task. With a turn environment alone, whose rewards are the score, one that adds nothing."""
    if task.reward is None and task.turns is not None:
        return turns_alone
    if task.prompts is None and task.turns is None:
        raise ConfigError(f"task {shown(task.name)} has neither prompts nor turns: give it one of them")
    return make_reward(task.reward)


def turns_alone(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """Score nothing: a turn environment has paid already."""
    return [0.0] * len(prompts)


def _turn_rules(task: Task, parts: ModelParts, arguments: EnvArguments) -> TurnRules:
    new_tokens = parts.max_new_tokens
    as_chat = _own(arguments.get("as_chat"), task.as_chat)
    turn_tokens = _own(arguments.get("max_turn_tokens"), task.max_turn_tokens)
    return TurnRules(
        make=make_turn_env_factory(task.turns),
        bridge=make_bridge(parts.tokenizer, task.bridge, as_chat=as_chat is None or as_chat),
        max_turns=_own(arguments.get("max_turns"), task.max_turns),
        max_turn_tokens=new_tokens if turn_tokens is None else turn_tokens,
        system_prompt=checked_system_prompt(_own(arguments.get("system_prompt"), task.system_prompt)),
        truncates=task.prompt_overflow == "truncate",
        timeout=arguments.get("turn_timeout", SECONDS),
        workers=arguments.get("turn_workers", WORKERS),
    )


def _serves_all(arguments: EnvArguments) -> bool:
    """Whether all prompts that the caller gave are served, so that none of them is held out."""
    return arguments.get("prompts") is not None and arguments.get("split") is None


def _own_task(task: str | Task, arguments: EnvArguments) -> Task:
    given = {
        name: arguments.get(name) for name in ("prompts", "validation_prompts", "heldout_prompts", "reward", "turns")
    }
    if _serves_all(arguments):
        for name in ("validation_prompts", "heldout_prompts"):
            given[name] = _own(given[name], [])
    return own_task(task, **given)


def _kl_penalty(task: Task, parts: ModelParts, arguments: EnvArguments) -> KLPenalty:
    reference = None
    if arguments.get("with_reference", True):
        reference = assemble_reference(parts, _own(arguments.get("model"), task.model))
    estimator = _own(arguments.get("kl_estimator"), task.kl_estimator)
    return KLPenalty(reference, _own(arguments.get("kl_coef"), task.kl_coef), estimator)


def _model_name(task: Task, arguments: EnvArguments) -> str | None:
    """The name by which another copy of the model can be loaded.

    None with an adapter: policy and reference then share one module.
    """
    given = _own(arguments.get("model"), task.model)
    return str(given) if isinstance(given, (str, Path)) and arguments.get("lora") is None else None


def _sampling(sampling: SamplingParams | Mapping[str, float]) -> SamplingParams:
    if isinstance(sampling, SamplingParams):
        return sampling
    try:
        return SamplingParams(**sampling)  # type: ignore[arg-type]  # top_k is whole, which SamplingParams checks
    except TypeError:
        raise ConfigError(f"sampling takes temperature, top_k and top_p, got {shown(sampling)}") from None


def _load(task: Task, arguments: ModelArguments, *, weights: bool) -> LoadedModel:
    model, tokenizer = arguments.get("model"), arguments.get("tokenizer")
    if model is None:
        tokenizer = task.tokenizer if tokenizer is None else tokenizer
        model = task.model
        if callable(model) and not hasattr(model, "get_output_embeddings"):
            model, own_tokenizer = model()
            tokenizer = own_tokenizer if tokenizer is None else tokenizer
    device = arguments.get("device", "auto") if weights else torch.device("meta")
    dtype, lora = arguments.get("dtype", "auto"), arguments.get("lora")
    return load_model(model, tokenizer=tokenizer, device=device, dtype=dtype, lora=lora)


def _frozen(loaded: Any, given: Any) -> Any:
    """Copy the model where the caller holds the module and may train it.

    A peft model is shared on purpose: its reference is the same weights with the adapter off.
    """
    if given is loaded and not hasattr(loaded, "disable_adapter"):
        return copy.deepcopy(loaded)
    return loaded
