"""Arguments of any kind and size are refused by an error of this package, in a message that a screen can hold."""

from __future__ import annotations

from typing import Any

import pytest

from textrl_agents.algorithms.registry import get_algorithm
from textrl_agents.benchmark.plan import Plan
from textrl_agents.evaluation.generation import generate
from textrl_agents.runs.config import TrainConfig
from textrl_agents.runs.run_folder import load_policy
from textrl_agents.sb3 import make_agent
from textrl_env import TextGenEnv, TextGenVectorEnv
from textrl_env.errors import ConfigError, PromptError
from textrl_env.foreign_text import CONTROLS
from textrl_env.plugins import load_plugin_files
from textrl_env.text.tokenization import encode_prompt_text

LONGEST = 3000
HUGE = 10**5000  # Python refuses to write it out


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


ODD: dict[str, Any] = {
    "a surrogate": "\ud800",
    "a name of 100,000 letters": "x" * 100_000,
    "a path of 5,000 letters": "/tmp/" + "y" * 5000,
    "a NUL in a name": "a\0b",
    "an escape sequence": "\x1b[2J",
    "5,001 digits": HUGE,
    "minus 5,001 digits": -HUGE,
    "a list": [None],
    "5,000 lists in one another": nested(5000),
}
BUILDS: dict[str, Any] = {
    **{
        name: lambda value, name=name: TextGenEnv(**{"task": "exact", name: value})
        for name in ("task", "reward", "kl_coef", "kl_estimator", "kl_mode", "max_new_tokens", "max_prompt_tokens")
    },
    **{
        name: lambda value, name=name: TextGenEnv(**{"task": "exact", name: value})
        for name in ("sampling", "split", "render_mode", "stop", "device", "dtype", "lora")
    },
    **{
        f"sampling.{name}": lambda value, name=name: TextGenEnv("exact", sampling={name: value})
        for name in ("temperature", "top_p")
    },
    "num_envs": lambda value: TextGenVectorEnv(value, task="exact"),
    "algo": lambda value: make_agent(value, env_kwargs={"task": "exact"}),
    "algorithm of a benchmark": get_algorithm,
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("build", BUILDS)
def test_odd_arguments(build: str, odd: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BUILDS[build](ODD[odd])
    assert len(str(caught.value)) < LONGEST


@pytest.mark.parametrize("name", ["model", "tokenizer"])
@pytest.mark.parametrize("odd", ["a path of 5,000 letters", "5,001 digits", "a list", "5,000 lists in one another"])
def test_odd_models(name: str, odd: str) -> None:
    """Names alone are looked up on the hub, which a test does not do."""
    with pytest.raises(ConfigError) as caught:
        TextGenEnv("exact", **{name: ODD[odd]})
    assert len(str(caught.value)) < LONGEST
    assert not CONTROLS.search(str(caught.value))


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("n", HUGE * -1, "n must be a whole number >= 1, got a number of [0-9]+ bits"),
        ("max_new_tokens", HUGE, "max_new_tokens=a number of [0-9]+ bits leaves no room"),
        ("seed", 2**80, "seed must be a whole number in"),
        ("seed", HUGE, "seed must be a whole number in"),
        ("temperature", HUGE, "temperature must be > 0"),
    ],
    ids=lambda value: "odd" if isinstance(value, int) else None,  # it would write the number out
)
def test_odd_arguments_of_generate(make_policy: Any, argument: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        generate(make_policy(), ["hello"], **{"max_new_tokens": 1, argument: value})


@pytest.mark.parametrize(
    "prompts",
    [
        [HUGE],
        [{HUGE: 1}],
        [{"x" * 100_000: 1}],
        [{"prompt": "a", "x" * 100_000: 1}, {"prompt": "b"}],
        [["x" * 100_000]],
        [[{"x" * 100_000: 1}]],
        [{"prompt": "a", HUGE: 1}],
        "\x1b[2J" + "x" * 100_000 + ".txt",
    ],
    ids=range(8),
)
def test_odd_prompts(prompts: Any) -> None:
    with pytest.raises(PromptError) as caught:
        TextGenEnv("exact", prompts=prompts)
    assert len(str(caught.value)) < LONGEST
    assert not CONTROLS.search(str(caught.value))


def test_a_text_that_no_tokenizer_takes(tiny_tokenizer: Any) -> None:
    for text in ("a\ud800", "\udfff" * 100_000):
        with pytest.raises(PromptError, match=r"the text holds \\ud[8f][0f]{2} at character [01], half of a surrogate"):
            encode_prompt_text(tiny_tokenizer, text)


@pytest.mark.parametrize("path", ["x" * 5000 + ".py", "\ud800.py", "a\0b.py", "~nobody_/plugin.py", "no.py", "no.txt"])
def test_plug_ins_that_no_file_can_be(path: str) -> None:
    with pytest.raises(ConfigError, match=r"plug-in '.* is not a Python file|cannot be used as a path: "):
        Plan.of(algos=["reference"], tasks=["exact"], plugins=[path])
    with pytest.raises(ConfigError, match=r"plug-in '.* is not a Python file|cannot be used as a path: "):
        load_plugin_files([path])


@pytest.mark.parametrize("stop", ["\ud800", "end\udc80"])
def test_a_stop_string_that_no_model_can_write(stop: str) -> None:
    with pytest.raises(ConfigError, match=r"the stop string '.*\\ud[8c][08]0' holds half a character"):
        TextGenEnv("exact", stop=[stop])


@pytest.mark.parametrize("path", [5, None, b"x", ["a"], HUGE], ids=range(5))
def test_what_is_no_path(path: Any) -> None:
    with pytest.raises(ConfigError, match="cannot be used as a path: "):
        load_policy(path)


@pytest.mark.parametrize("name", ["lib", "algo", "task", "seed", "timesteps", "algorithm", "env", "lora", "device"])
def test_odd_settings(name: str) -> None:
    for value in (HUGE, [None], nested(5000), -HUGE):
        with pytest.raises(ConfigError) as caught:
            TrainConfig(**{name: -HUGE if name == "timesteps" else value})
        assert len(str(caught.value)) < LONGEST


def test_more_top_tokens_than_there_are() -> None:
    env = TextGenEnv("exact", sampling={"top_k": HUGE})
    env.reset(seed=0)
    env.step(1)
