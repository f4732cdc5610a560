"""Observations as a Hugging Face dict and as text: in their spaces, equal to the ids, and refused without ids."""

from __future__ import annotations

import re
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import TimeLimit, TransformObservation

from textrl_env import Task, TextGenEnv, TextGenVectorEnv
from textrl_env.errors import ConfigError
from textrl_env.wrappers import HFObservation, TextObservation, UnicodeText, VectorHFObservation

EOS = 5  # of task "exact"
SINGLE = [HFObservation, TextObservation]


def make(**arguments: Any) -> gymnasium.Env:
    return gymnasium.make("TextRLHF-v0", **{"task": "exact", **arguments})


def of_space(low: int = -1, shape: tuple[int, ...] = (6,)) -> gymnasium.Env:
    """Integers, and yet no ids: without padding, or of several rows."""
    return TransformObservation(make(), lambda ids: ids, gymnasium.spaces.Box(low, 5, shape, np.int64))


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version:UserWarning")
@pytest.mark.parametrize("wrapper", SINGLE)
def test_gymnasium_check_env(wrapper: Any):
    """CHECKS 1, with the one warning off that says there is a wrapper. It also makes the environment again by spec."""
    check_env(wrapper(make()))


@pytest.mark.parametrize("wrapper", SINGLE)
def test_observations_are_in_the_space(wrapper: Any, tiny_task: Task):
    env = wrapper(TextGenEnv(tiny_task))
    rng = np.random.default_rng(0)
    for seed in range(3):
        observation, _ = env.reset(seed=seed)
        ended = False
        while not ended:
            assert observation in env.observation_space
            observation, _, ended, _, _ = env.step(int(rng.integers(2, 300)))
        assert observation in env.observation_space


@pytest.mark.parametrize("wrapper", SINGLE)
def test_a_spec_makes_the_wrapped_environment_again(wrapper: Any):
    env = gymnasium.make(wrapper(make(prompts=["b"])).spec)
    assert isinstance(env, wrapper)
    assert env.unwrapped.prompts[0].text == "b"


def test_the_dict_is_what_a_model_takes(tiny_task: Task, make_model: Any):
    """Ids where the mask is 1 and 0 elsewhere: the model's next-token logits are those of the unpadded ids."""
    plain, env = TextGenEnv(tiny_task), HFObservation(TextGenEnv(tiny_task))
    model = make_model("llama")
    for ids, observation in [(plain.reset(seed=1)[0], env.reset(seed=1)[0]), (plain.step(9)[0], env.step(9)[0])]:
        length = int((ids >= 0).sum())
        assert 0 < length < 32
        assert observation["attention_mask"].tolist() == [1] * length + [0] * (32 - length)
        assert observation["input_ids"].tolist() == [*ids[:length].tolist(), *[0] * (32 - length)]
        assert {array.dtype for array in observation.values()} == {np.dtype(np.int64)}
        batch = {name: torch.from_numpy(array)[None] for name, array in observation.items()}
        with torch.no_grad():
            got = model(**batch).logits[0, length - 1]
            wanted = model(input_ids=torch.from_numpy(ids[:length])[None]).logits[0, -1]
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)


def test_the_text_is_prompt_and_response(tiny_task: Task, tiny_tokenizer: Any):
    """A character that is split over tokens is U+FFFD until its last byte is there; control tokens are left out."""
    env = TextObservation(TextGenEnv(tiny_task))
    prompt = "grün 🙂 日"
    ids = tiny_tokenizer("🍲!", add_special_tokens=False)["input_ids"]
    assert len(ids) == 5, "the emoji's four bytes and one more"
    texts = [env.reset(options={"prompt": prompt})[0]]
    texts += [env.step(token)[0] for token in ids]
    assert texts[0] == prompt
    assert texts[1] == prompt + "\ufffd"
    assert texts[4:] == [prompt + "🍲", prompt + "🍲!"]
    last, _, terminated, _, info = env.step(tiny_tokenizer.eos_token_id)
    assert terminated
    assert last == texts[-1] == info["prompt"] + info["response"]


def test_a_space_of_any_characters():
    space = UnicodeText(max_length=3, min_length=1)
    assert all(text in space for text in ("a", "🙂日\n", "\ufffd"))
    assert all(other not in space for other in ("", "four", 5, None, b"a"))
    assert space.sample() in space


@pytest.mark.parametrize("wrapper", SINGLE)
def test_wrappers_that_keep_the_ids_may_stand_between(wrapper: Any):
    env = wrapper(TimeLimit(make(), max_episode_steps=1))
    env.reset(seed=0)
    observation, _, _, truncated, _ = env.step(1)
    assert truncated
    assert observation in env.observation_space


@pytest.mark.parametrize(
    ("wrapper", "inner", "match"),
    [
        (HFObservation, lambda: gymnasium.make("CartPole-v1"), r"HFObservation reads ids.* of CartPoleEnv are Box\("),
        (HFObservation, lambda: gymnasium.make("FrozenLake-v1"), r"of FrozenLakeEnv are Discrete\(16\)"),
        (HFObservation, lambda: of_space(low=0), r"of TextGenEnv are Box\(0, 5, \(6,\), int64\)"),
        (HFObservation, lambda: of_space(shape=(2, 3)), r"of TextGenEnv are Box\(-1, 5, \(2, 3\), int64\)"),
        (HFObservation, lambda: TextObservation(make()), "of TextGenEnv are .*directly around TextRLHF-v0"),
        (HFObservation, lambda: TextGenVectorEnv(2, "exact"), "vector environment TextGenVectorEnv: use VectorHFObs"),
        (HFObservation, lambda: 5, "wraps a Gymnasium environment, got int: 5"),
        (TextObservation, lambda: gymnasium.make("CartPole-v1"), "got CartPoleEnv: put it around gymnasium.make"),
        (TextObservation, lambda: HFObservation(make()), r"TextObservation reads ids.* of TextGenEnv are Dict\("),
        (TextObservation, lambda: TextGenVectorEnv(2, "exact"), "TextGenVectorEnv: wrap the single environments"),
        (TextObservation, lambda: None, "wraps a Gymnasium environment, got NoneType"),
        (VectorHFObservation, make, "wraps a vector environment, got TextGenEnv: use HFObservation"),
        (VectorHFObservation, lambda: gymnasium.make_vec("CartPole-v1", num_envs=2), r"ids.*CartPole\w+ are Box\("),
        (
            VectorHFObservation,
            lambda: VectorHFObservation(TextGenVectorEnv(2, "exact")),
            r"of TextGenVectorEnv are Dict\(",
        ),
    ],
)
def test_what_cannot_be_wrapped(wrapper: Any, inner: Any, match: str):
    """Also under `python -O`: Gymnasium itself only asserts."""
    with pytest.raises(ConfigError, match=re.compile(match, re.DOTALL)):
        wrapper(inner())


@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP"])
def test_the_vector_dict_equals_the_ids(mode: str):
    plain, env = (TextGenVectorEnv(3, "exact", autoreset_mode=mode) for _ in range(2))
    env = VectorHFObservation(env)
    ended = 0
    results = [(plain.reset(seed=4), env.reset(seed=4))]
    results += [(plain.step(actions), env.step(actions)) for actions in ([1, EOS, 2], [EOS, 3, 0], [1, 1, 1])]
    for (ids, *others, infos), (observations, *same, hf_infos) in results:
        assert observations in env.observation_space
        assert np.where(observations["attention_mask"], observations["input_ids"], -1).tolist() == ids.tolist()
        assert [each.tolist() for each in same] == [each.tolist() for each in others]
        assert hf_infos.keys() == infos.keys()
        for row in np.flatnonzero(infos.get("_final_obs", [])):
            last = hf_infos["final_obs"][row]
            assert last in env.single_observation_space
            assert last["input_ids"][last["attention_mask"] == 1].tolist() == [
                i for i in infos["final_obs"][row] if i >= 0
            ]
            ended += 1
    assert ended == (2 if mode == "SAME_STEP" else 0)


def test_sync_vector_environments_can_be_wrapped():
    """Around the whole for dicts, around each for text."""
    make_vec = {"id": "TextRLHF-v0", "num_envs": 2, "task": "exact", "vectorization_mode": "sync"}
    env = VectorHFObservation(gymnasium.make_vec(**make_vec))
    observations, _ = env.reset(seed=0)
    assert observations in env.observation_space
    assert observations["attention_mask"].tolist() == [[1, 0, 0, 0, 0, 0]] * 2
    texts = gymnasium.make_vec(**make_vec, wrappers=[TextObservation])
    texts.reset(options={"prompt": "a"})
    assert texts.step(np.array([1, 2]))[0] == ("ab", "ac")
