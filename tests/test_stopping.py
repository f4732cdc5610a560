"""How episodes end: every end-of-sequence id, stop strings wherever tokens cut them, and characters left whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from textrl_env import TextGenEnv
from textrl_env.errors import ConfigError
from textrl_env.tasks import Task
from textrl_env.text.stopping import StopStrings


def say(env: TextGenEnv, tokens: list[int]) -> tuple:
    """The last step's result after given tokens."""
    env.reset()
    for token in tokens:
        step = env.step(token)
    return step


def test_every_end_of_sequence_id_of_the_model_ends(make_model: Any, tiny_tokenizer: Any):
    """Chat models list several in their generation config, such as an end of turn besides the tokenizer's EOS."""
    model = make_model("llama")
    model.generation_config.eos_token_id = [1, 3]
    arguments = {"model": model, "tokenizer": tiny_tokenizer, "prompts": ["hello"], "reward": "length"}
    for token in (1, 3):
        assert say(TextGenEnv("exact", **arguments), [token])[4]["finish_reason"] == "eos"
    assert not say(TextGenEnv("exact", **arguments), [2])[2]


@pytest.mark.parametrize(
    ("text", "stop", "ends_after"),
    [
        ("good and bad", ["and"], "good and"),
        ("good and bad", [" and ", "d a"], "good a"),
        ("say \u975e\u5e38!", ["\u5e38"], "say \u975e\u5e38"),
        ("so \U0001f600!", ["\U0001f600"], "so \U0001f600"),
        ("aab!", ["ab"], "aab"),
    ],
)
def test_ends_at_a_stop_string_wherever_tokens_cut_it(
    text: str, stop: list[str], ends_after: str, make_model: Any, tiny_tokenizer: Any
):
    """The stop string stays in the response; it may begin, end or lie inside of tokens, or be spelled by bytes."""
    env = TextGenEnv(
        Task("stops", prompts=["hello"], reward="length", model=lambda: (make_model("llama"), tiny_tokenizer)),
        stop=stop,
        max_new_tokens=60,
    )
    env.reset()
    # Letter by letter, so that every token border is inside of the string.
    ids = [token for letter in text for token in tiny_tokenizer(letter, add_special_tokens=False)["input_ids"]]
    for token in ids:
        *_, terminated, _, info = env.step(token)
        if terminated:
            break
    assert terminated
    assert info["finish_reason"] == "stop"
    assert info["response"] == ends_after


def test_a_stop_string_in_the_prompt_does_not_stop(make_model: Any, tiny_tokenizer: Any):
    env = TextGenEnv(
        Task("stops", prompts=["hello!"], reward="length", model=lambda: (make_model("llama"), tiny_tokenizer)),
        stop=["!a", "!"],
    )
    token_a = tiny_tokenizer("a", add_special_tokens=False)["input_ids"][0]
    assert not say(env, [token_a])[2]


@pytest.mark.parametrize("text", ["\U0001f600", "\u975e\u5e38\u597d", "a\U0001f469\u200d\U0001f680b"])
def test_characters_split_over_tokens_are_decoded_whole(text: str, make_model: Any, tiny_tokenizer: Any):
    """CHECKS 13: byte by byte through `step`, the response is exactly the text."""
    ids = tiny_tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) > len(text), "the tokenizer does not split these characters: the test shows nothing"
    env = TextGenEnv(
        Task("emoji", prompts=["hello"], reward="length", model=lambda: (make_model("llama"), tiny_tokenizer)),
        max_new_tokens=len(ids),
    )
    assert say(env, ids)[4]["response"] == text


def test_only_tokens_that_may_complete_a_string_are_decoded(tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch):
    """The check is paid where it can matter: a token without the string's last letter costs no decoding."""
    known = np.ones(320, dtype=bool)
    stop = StopStrings(["d."], tiny_tokenizer, known)
    ids = tiny_tokenizer("good and bad. so", add_special_tokens=False)["input_ids"]
    decoded: list[int] = []
    original = StopStrings.hit.__globals__["decode_response"]

    def counting(tokenizer: Any, tail: np.ndarray) -> str:
        decoded.append(int(tail[-1]))
        return original(tokenizer, tail)

    monkeypatch.setitem(StopStrings.hit.__globals__, "decode_response", counting)
    hits = [stop.hit(np.array([ids[at]]), [np.array(ids[: at + 1])])[0] for at in range(len(ids))]
    assert sum(hits) == 1
    spelled = tiny_tokenizer.decode(ids[: hits.index(True) + 1])
    assert spelled == "good and bad."
    assert len(decoded) < len(ids) / 2


@pytest.mark.parametrize("strings", [".", [""], ["ok", 5], [None], 5])
def test_stop_must_be_a_list_of_texts(strings: Any, tiny_tokenizer: Any):
    with pytest.raises(ConfigError, match="list of non-empty strings"):
        StopStrings(strings, tiny_tokenizer, np.ones(320, dtype=bool))
