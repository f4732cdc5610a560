"""The environment's arguments: typed once, every one of them used, and what is missing for want of one said."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from textrl_env import TextGenEnv, TextGenVectorEnv
from textrl_env.arguments import ENV_ARGUMENTS, MODEL_ARGUMENTS, model_arguments
from textrl_env.errors import ConfigError, UnknownArgument, UnknownName
from textrl_env.tasks.assembly import assemble, assemble_model

# What no environment can be made with; beside it, what lets the argument matter.
IMPOSSIBLE: dict[str, dict[str, Any]] = {
    **{name: {name: object()} for name in ENV_ARGUMENTS},
    "sampling": {"sampling": {"heat": 1.0}},
    "lora": {"lora": {"rank": 8}},
    "validation_prompts": {"validation_prompts": object(), "split": "validation"},
    "heldout_prompts": {"heldout_prompts": object(), "split": "heldout"},
    "with_reference": {"with_reference": False},
}


@pytest.mark.parametrize("name", ENV_ARGUMENTS)
def test_every_argument_is_used(name: str):
    """One that is typed and then ignored would train something else than what was asked for."""
    given = {"task": "exact", **IMPOSSIBLE[name]}
    with pytest.raises(ConfigError):
        assemble(**given)
    if name in MODEL_ARGUMENTS:
        with pytest.raises(ConfigError):
            assemble_model(**given)


def test_the_arguments_of_the_model_are_chosen_from_all():
    given = dict.fromkeys([*ENV_ARGUMENTS, "autoreset_mode"], 0)
    assert tuple(model_arguments(given)) == MODEL_ARGUMENTS
    assert set(MODEL_ARGUMENTS) < set(ENV_ARGUMENTS)
    assert model_arguments({}) == {}


@pytest.mark.parametrize("make", [TextGenEnv, TextGenVectorEnv, assemble])
def test_an_unknown_argument_is_named_with_the_nearest(make: Any):
    """Both what our own errors are, and what Python raises for an unknown keyword."""
    for kind in (UnknownArgument, UnknownName, TypeError):
        with pytest.raises(kind, match=r"unknown argument of the environment 'kl_cof'. Did you mean 'kl_coef'\?"):
            make(task="exact", kl_cof=0.1)
    with pytest.raises(UnknownArgument, match="'kl_coef'"):
        assemble_model("exact", kl_coef=0.1)  # type: ignore[call-arg]


def test_importing_the_arguments_needs_no_annotation():
    """What the types are made of is imported for type checkers alone; the keys are there without."""
    assert "with_reference" in ENV_ARGUMENTS
    assert inspect.signature(TextGenEnv).parameters["arguments"].annotation == "Unpack[EnvArguments]"


def test_what_needs_the_reference_says_that_there_is_none():
    env = TextGenVectorEnv(1, "exact", kl_mode="deferred", with_reference=False)
    with pytest.raises(ConfigError, match="build the environment without with_reference=False"):
        env.kl_penalty.require_reference()
    given = TextGenVectorEnv(1, "exact", kl_mode="deferred")
    assert given.kl_penalty.require_reference() is given.kl_penalty.reference
