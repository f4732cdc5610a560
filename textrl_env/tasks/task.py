"""The `Task`: what is asked, how the answer is judged, and within which limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from textrl_env.text.prompt_splits import Item


@dataclass(frozen=True)
class Task:
    """Prompts, reward, model and limits of one problem; every argument of the environment overrides its part.

    prompts: a source that `PromptSet` takes (a list of texts, chats or rows, a path, a dataset), or
        a function that returns one. They are trained on.
    validation_prompts, heldout_prompts: the same. Evaluations while training, and every choice of settings, take the
        validation prompts; reports take the held-out ones. None takes an eighth of `prompts` away for each, where there
        are at least 16 different ones; an empty list holds none back.
    item: what a row `{"prompt": ..., **columns}` is about. Rows with equal items never stand on two sides of a split.
        None compares the prompts' texts, whatever their case and white space.
    reward: anything that `textrl_env.rewards.make_reward` takes.
    gold: the same; reported beside the score as `gold_score` and never trained on.
    model: what `textrl_env.models.load_model` takes, or a function that returns a `LoadedModel`.
    requires: package that the rewards import -> the extra of textrl-env that installs it, checked before anything is
        built.
    sampling: keyword arguments of `SamplingParams`. stop: strings that end a response.
    prompt_overflow: "truncate" cuts a prompt longer than `max_prompt_tokens` from the left, "error" refuses it.
    """

    name: str
    prompts: Any
    reward: Any
    validation_prompts: Any = None
    heldout_prompts: Any = None
    item: Item | None = None
    gold: Any = None
    model: Any = "embedded"
    tokenizer: Any = None
    kl_coef: Any = 0.05
    kl_estimator: str = "k1"
    max_prompt_tokens: int = 32
    max_new_tokens: int = 48
    prompt_overflow: Literal["truncate", "error"] = "truncate"
    sampling: Mapping[str, float] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    description: str = ""
    requires: Mapping[str, str] = field(default_factory=dict)
