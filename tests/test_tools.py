"""Tools: what a call looks like, what a policy is told, limits, and that whatever goes wrong becomes a text."""

from __future__ import annotations

import json
import threading
from typing import Any, Literal

import pytest
from transformers import AutoTokenizer

from textrl_env import TextGenEnv
from textrl_env.errors import ConfigError, InvalidAction, PromptError, ResetNeeded
from textrl_env.models.storage.embedded import asset_folder
from textrl_env.tasks import Task
from textrl_env.turns import PlainBridge
from textrl_env.turns.tools import Tool, ToolTurns, describe_tools, read_calls

GATE = threading.Event()


def weather(city: str, days: int = 1) -> str:
    """Tell the weather of a city.

    Args:
        city: its name
        days: how far ahead
    """
    return f"sunny in {city} for {days}"


def mix(kind: Literal["add", "max"], values: list[float]) -> Any:
    """Reduce numbers.

    Args:
        kind: how
        values: of what
    """
    return sum(values) if kind == "add" else {"max": max(values)}


def fail(text: str) -> str:
    """Fail.

    Args:
        text: why
    """
    if text == "exit":
        raise SystemExit(3)
    raise ValueError(f"\x1b[31m{text}")


def hang() -> str:
    """Hang."""
    GATE.wait(20)
    return "late"


def double(number: int) -> int:
    """Double a number.

    Args:
        number: which
    """
    return 2 * number


TOOLS = [Tool(weather, timeout=None), Tool(mix, timeout=None), Tool(fail, timeout=None)]


@pytest.mark.parametrize(
    ("reply", "results"),
    [
        ("It is sunny.", []),
        ("", []),
        ("{}", []),
        ('{"answer": 3}', []),
        ("I call nobody </call>", []),
        ('<call>weather {"city": "Oslo"}</call>', ["sunny in Oslo for 1"]),
        ('Well.\n<call> weather\n{"city": "Oslo", "days": 2} </call> now', ["sunny in Oslo for 2"]),
        ("<call>weather Oslo by night</call>", ["sunny in Oslo by night for 1"]),
        ('<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>', ["sunny in Oslo for 1"]),
        ('{"name": "weather", "parameters": {"city": "Oslo"}}', ["sunny in Oslo for 1"]),
        ('<|python_tag|>{"name": "weather", "parameters": {"city": "Oslo"}}', ["sunny in Oslo for 1"]),
        ('[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Oslo"}}]', ["sunny in Oslo for 1"]),
        ('{"name": "weather", "arguments": "{\\"city\\": \\"Oslo\\"}"}', ["sunny in Oslo for 1"]),
        ('<call>mix {"kind": "add", "values": [1, 2.5]}</call><call>weather B</call>', ["3.5", "sunny in B for 1"]),
        ('<call>mix {"kind": "max", "values": [1, 2]}</call>', ['{"max": 2}']),
    ],
)
def test_calls_of_each_form(reply: str, results: list[str]) -> None:
    assert [call.run() for call in read_calls(reply, TOOLS)] == results


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        ("<call>weather Oslo", "a call has no </call> behind it"),
        ("<call>rain Oslo</call>", "there is no function 'rain'; there is weather, mix, fail"),
        ("<call></call>", "there is no function ''"),
        ("<call>weather</call>", "city is missing; weather takes city, days"),
        ('<call>weather {"town": "Oslo"}</call>', "city is missing"),
        ('<call>weather {"city": "Oslo", "hour": 3}</call>', "'hour' is not an argument"),
        ('<call>weather {"city": "Oslo", "days": "two"}</call>', "days must be integer, got 'two'"),
        ('<call>weather {"city": "Oslo", "days": true}</call>', "days must be integer, got True"),
        ('<call>weather {"city": null}</call>', "city must be string, got None"),
        ('<call>weather {"city": "Oslo"</call>', "the arguments of weather are no JSON object"),
        ("<call>mix 1 2</call>", "must be a JSON object with kind, values"),
        ('<call>mix {"kind": "mean", "values": []}</call>', "kind must be ['add', 'max'], got 'mean'"),
        ('<call>mix {"kind": "add", "values": [1, "2"]}</call>', "values must be array"),
        ("<tool_call>weather</tool_call>", "a call must be JSON with a name and arguments"),
        ('<tool_call>{"arguments": {}}</tool_call>', "a call must be a JSON object such as"),
        ('<tool_call>{"name": "weather", "arguments": [1]}</tool_call>', "must be a JSON object"),
        ('<tool_call>{"name": "weather", "arguments": "x"}</tool_call>', "are no JSON object"),
        ("<tool_call>" + "[" * 100_000 + "</tool_call>", "a call must be JSON"),
        ("<call>weather A</call>" * 5, "a reply may call 4 times, this one does 5 times"),
        ('<call>mix {"kind": "max", "values": []}</call>', "ValueError: max()"),
        ("<call>fail boo</call>", "ValueError: \\x1b[31mboo"),  # what a terminal would obey is shown
        ("<call>fail exit</call>", "SystemExit: 3"),
    ],
)
def test_what_is_wrong_with_a_call_is_told_to_the_policy(reply: str, fault: str) -> None:
    (call,) = read_calls(reply, TOOLS)
    told = call.run()
    assert told.startswith("error: ")
    assert fault in told


def test_the_only_tool_needs_no_name_and_its_one_argument_may_be_a_number() -> None:
    (call,) = read_calls("<call>21</call>", [Tool(double, timeout=None)])
    assert call.run() == "42"
    (call,) = read_calls("<call>double 21</call>", [Tool(double, timeout=None)])
    assert call.run() == "42"
    (call,) = read_calls("<call>many</call>", [Tool(double, timeout=None)])
    assert call.run() == "error: number of double cannot be read: 'many'"


def test_a_tool_that_hangs_or_talks_too_much_is_cut_short() -> None:
    slow = Tool(hang, timeout=0.05)
    assert slow({}) == "error: hang did not answer within 0.05 s"
    GATE.set()
    long = Tool(weather, timeout=None, max_characters=10)
    assert long({"city": "x" * 50}) == "sunny in x... (cut, 65 characters)"


def test_a_function_that_cannot_be_described_is_refused() -> None:
    def silent(x: int) -> int:
        return x

    for function, message in ((silent, "docstring"), (3, "must be a function, got int"), (len, "cannot be described")):
        with pytest.raises(ConfigError, match=message):
            Tool(function)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="timeout"):
        Tool(weather, timeout=0)
    with pytest.raises(ConfigError, match="max_characters"):
        Tool(weather, max_characters=0)


def test_the_description_tells_how_to_call() -> None:
    text = describe_tools(TOOLS)
    assert "- weather(city: string - its name, days: integer, optional - how far ahead): Tell the weather" in text
    assert "mix(kind: add or max" in text
    example = text.splitlines()[-1].removeprefix("To call one, write: ")
    (call,) = read_calls(example, TOOLS)
    assert call.tool is TOOLS[0]
    assert set(call.arguments) == {"city", "days"}


# --- tools in an episode --------------------------------------------------------------------------------------


class Echo:
    """Ends with the second reply that reaches it."""

    system_prompt = "Be brief."

    def __init__(self) -> None:
        self.heard: list[str] = []

    def reset(self, seed: int | None = None, city: str = "Rome") -> tuple[str, dict[str, Any]]:
        self.heard = []
        return f"{city}?", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.heard.append(action)
        return "Go on.", 0.5, len(self.heard) == 2, False, {"score_parts": {"said": 0.5}}


class SavedEcho(Echo):
    """An `Echo` that can be saved."""

    def get_state(self) -> list[str]:
        return list(self.heard)

    def set_state(self, state: list[str]) -> None:
        self.heard = list(state)


def test_calls_are_answered_and_the_rest_goes_to_the_turn_environment() -> None:
    inner = Echo()
    env = ToolTurns(inner, [weather, double], most_calls=2, call_cost=0.25)
    assert env.system_prompt is not None
    assert env.system_prompt.startswith("Be brief.\n\nYou can call")
    assert env.tools is None
    inner.system_prompt = "Be kind."  # as an episode's own may be
    assert env.system_prompt.startswith("Be kind.\n\nYou can call")
    with pytest.raises(ResetNeeded):
        env.step("hello")
    assert env.reset(seed=1, city="Oslo")[0] == "Oslo?"
    with pytest.raises(InvalidAction):
        env.step(3)  # type: ignore[arg-type]
    text, reward, over, _, info = env.step("<call>weather Oslo</call> <call>double 4</call>")
    assert (text, reward, over) == ("sunny in Oslo for 1\n8", -0.25, False)
    assert info == {"role": "user", "called": 2, "score_parts": {"call": -0.25}}
    assert env.step("Sunny.") == ("Go on.", 0.5, False, False, {"score_parts": {"said": 0.5}, "called": 0})
    assert env.step("<call>nothing")[0].startswith("error: ")
    assert env.step("<call>double 4</call>")[2]  # calls are used up: it is a reply like any other
    assert inner.heard == ["Sunny.", "<call>double 4</call>"]
    with pytest.raises(ResetNeeded):
        env.step("hello")


def test_with_a_template_schemas_are_handed_over_and_results_are_a_tools() -> None:
    env = ToolTurns(Echo(), [weather], form="template")
    assert env.system_prompt == "Be brief."
    assert env.tools is not None
    assert json.loads(json.dumps(env.tools))[0]["function"]["name"] == "weather"
    env.reset()
    assert env.step("<call>weather Oslo</call>")[4]["role"] == "tool"


def test_it_can_be_saved_where_the_turn_environment_can() -> None:
    assert not hasattr(ToolTurns(Echo(), [weather]), "get_state")
    assert not hasattr(ToolTurns(Echo(), [weather]), "set_state")
    env, other = ToolTurns(SavedEcho(), [weather], most_calls=1), ToolTurns(SavedEcho(), [weather], most_calls=1)
    env.reset()
    env.step("<call>weather Oslo</call>")
    env.step("one")
    other.set_state(json.loads(json.dumps(env.get_state())))
    assert other.step("<call>weather Oslo</call>") == env.step("<call>weather Oslo</call>")  # both are used up and over
    for state in (None, {}, {"turns": [], "calls": -1, "running": True}):
        with pytest.raises(ConfigError):
            other.set_state(state)  # type: ignore[arg-type]


def test_bad_settings_are_refused() -> None:
    for settings in ({"most_calls": 0}, {"call_cost": -1.0}, {"form": "xml"}):
        with pytest.raises(ConfigError):
            ToolTurns(Echo(), [weather], **settings)  # type: ignore[arg-type]
    for tools in ([], [weather, weather]):
        with pytest.raises(ConfigError, match="at least one, each with a name of its own"):
            ToolTurns(Echo(), tools)


# --- tools in a chat template ---------------------------------------------------------------------------------

WITH_TOOLS = (  # ChatML that shows tools and their results as Qwen's does
    "{{ bos_token }}{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "Write <tool_call>{...}</tool_call><|im_end|>\n{% endif %}{% for message in messages %}{{ '<|im_start|>' }}"
    "{% if message.role == 'tool' %}user\n<tool_response>{{ message.content }}</tool_response>"
    "{% else %}{{ message.role + '\n' + message.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(asset_folder("policy"))


def with_tools(tokenizer: Any, bridge: Any = None) -> TextGenEnv:
    task = Task(
        name="doubling",
        turns=lambda: ToolTurns(SavedEcho(), [double], form="template"),
        bridge=bridge,
        tokenizer=tokenizer,
        max_prompt_tokens=256,
        max_turn_tokens=80,
        max_new_tokens=200,
    )
    return TextGenEnv(task)


def say(env: TextGenEnv, tokenizer: Any, text: str) -> tuple[str, dict[str, Any]]:
    """Write a turn token by token; what the environment wrote behind it, and the last info."""
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    before = 0
    for token in [*tokenizer(text, add_special_tokens=False).input_ids, end]:
        observation, _, _, _, info = env.step(token)
        before = before or int((observation >= 0).sum()) - 1
    ids = observation[observation >= 0][before:]
    return tokenizer.decode(ids), info


def test_a_model_with_a_tool_template_is_shown_tools_and_results_in_it(tokenizer: Any) -> None:
    tokenizer.chat_template = WITH_TOOLS
    env = with_tools(tokenizer)
    observation, _ = env.reset(seed=0)
    prompt = tokenizer.decode(observation[observation >= 0])
    assert '"name": "double"' in prompt
    assert prompt.endswith("<|im_start|>user\nRome?<|im_end|>\n<|im_start|>assistant\n")
    call = '<tool_call>{"name": "double", "arguments": {"number": 21}}</tool_call>'
    written, info = say(env, tokenizer, call)
    answer = "<|im_start|>user\n<tool_response>42</tool_response><|im_end|>\n<|im_start|>assistant\n"
    assert written == f"{call}<|im_end|>\n{answer}"
    assert (info["turn"]["action"], info["turn"]["reply"], info["turn"]["role"]) == (call, "42", "tool")


def test_a_template_that_shows_no_tools_is_refused(tokenizer: Any) -> None:
    with pytest.raises(PromptError, match="does not show tools, such as 'double'"):
        with_tools(tokenizer).reset(seed=0)
    with pytest.raises(ConfigError, match="PlainBridge shows none"):
        with_tools(tokenizer, PlainBridge).reset(seed=0)
