"""The single environment: conformance, determinism, observations, ends, and errors that leave no trace."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from conftest import quick
from gymnasium.utils.env_checker import check_env
from hang_guard import HANG

import textrl_env
from textrl_env import TextGenEnv, TokenAction
from textrl_env.errors import (
    ConfigError,
    InvalidAction,
    InvalidScore,
    MissingExtra,
    MissingLogProb,
    ResetNeeded,
    RewardRaised,
    StepError,
)
from textrl_env.tasks import Task, task_names
from textrl_env.text.rendering import text_picture

ROOT = Path(__file__).parents[1]
EOS = 5  # of task "exact"


def say(env: TextGenEnv, tokens: list[int], *, log_prob: float | None = None, **reset: Any) -> list[tuple]:
    """Every step's result for given tokens, each with the same log-prob, or none."""
    env.reset(**reset)
    return [env.step(token if log_prob is None else TokenAction(token, log_prob)) for token in tokens]


@pytest.mark.parametrize("task", quick(["exact", "sentiment", "guess"], task_names()))
def test_gymnasium_check_env(task: str):
    """CHECKS 1: no error and no warning (warnings are errors here), on every registered task."""
    check_env(gymnasium.make(textrl_env.ENV_ID, task=task).unwrapped)


def test_make_gives_the_environment_without_a_time_limit():
    env = gymnasium.make("TextRLHF-v0", task="exact", kl_coef=0.25)
    assert isinstance(env.unwrapped, TextGenEnv)
    assert env.unwrapped.kl_penalty.coef == 0.25
    assert env.spec.max_episode_steps is None
    observation, info = env.reset(seed=3)
    assert env.observation_space.contains(observation)
    assert info == {}
    with pytest.raises(TypeError, match=r"unknown argument of the environment 'kl_cof'\. Did you mean 'kl_coef'"):
        gymnasium.make("TextRLHF-v0", task="exact", kl_cof=1.0)


def test_spaces():
    env = TextGenEnv("exact", max_prompt_tokens=3, max_new_tokens=4)
    assert env.action_space == gymnasium.spaces.Discrete(6)
    assert env.observation_space == gymnasium.spaces.Box(-1, 5, (7,), np.int64)


def rollout_record(seed: int) -> list[Any]:
    """Everything that two episodes of `exact` show, as JSON."""
    env = TextGenEnv("exact")
    record: list[Any] = []
    for episode_seed in (seed, None):
        observation, info = env.reset(seed=episode_seed)
        record.append([observation.tolist(), info])
        for token in (1, 2, 0, 4, 3):
            observation, reward, terminated, _, info = env.step(TokenAction(token, -1.25))
            record.append([observation.tolist(), reward, terminated, info])
    return record


def test_same_seed_same_episodes():
    """CHECKS 2: observations, rewards and infos, over the seeded episode and the one after it."""
    assert rollout_record(7) == rollout_record(7)
    first_prompts = {tuple(rollout_record(seed)[0][0]) for seed in range(12)}
    assert len(first_prompts) == 2, "the seed never changes the prompt"


@pytest.mark.slow
def test_same_seed_same_episodes_in_a_new_process():
    """CHECKS 2: in a new process, with another hash seed."""
    code = (
        "import json, sys; sys.path[:0] = ['.', 'agents', 'tests']\n"
        "import torch; torch.set_num_threads(1)\n"
        "from test_env import rollout_record; print(json.dumps(rollout_record(7)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True, timeout=HANG
    )
    assert json.loads(done.stdout) == json.loads(json.dumps(rollout_record(7)))


@pytest.mark.parametrize("seed", [-1, 1.5, "1", True, np.float64(2), [1]], ids=repr)
def test_a_seed_that_cannot_work(seed: Any):
    """A typed error that changes nothing."""
    env = TextGenEnv("exact")
    env.reset(seed=3, options={"prompt": "c"})
    env.step(1)
    with pytest.raises(ConfigError, match="seed must be a whole number >= 0, got"):
        env.reset(seed=seed)
    assert env.step(3)[0].tolist() == [2, 1, 3, -1, -1, -1]


@pytest.mark.parametrize("seed", [np.int64(7), 2**80, np.random.SeedSequence(0).entropy], ids=["numpy", "2**80", "0"])
def test_seeds_are_whole_numbers_of_any_kind_and_size(seed: Any):
    """Gymnasium draws 128 bits where it gets no seed, and gives them as `np_random_seed`."""
    first, second = (TextGenEnv("exact") for _ in range(2))
    episodes = [
        [each.reset(seed=seed)[0].tolist(), *(each.reset()[0].tolist() for _ in range(8))] for each in (first, second)
    ]
    assert episodes[0] == episodes[1]
    assert second.reset(seed=first.np_random_seed)[0].tolist() == episodes[0][0]


def test_observation_grows_by_the_action_and_is_padded_with_minus_one():
    env = TextGenEnv("exact")
    observation, _ = env.reset(options={"prompt": "c"})
    assert observation.tolist() == [2, -1, -1, -1, -1, -1]
    for step, token in enumerate((4, 0, 3), start=2):
        observation, *_ = env.step(token)
        assert (observation >= 0).sum() == step
        assert observation[step - 1] == token


def test_returned_observations_are_the_callers_own():
    env = TextGenEnv("exact")
    observation, _ = env.reset(options={"prompt": "c"})
    observation[:] = 3
    after, *_ = env.step(4)
    assert after.tolist() == [2, 4, -1, -1, -1, -1]


def test_no_stale_tokens(tiny_task: Task):
    """CHECKS 17: a short prompt after a long episode shows nothing of it."""
    env = TextGenEnv(tiny_task)
    say(env, [9] * 8, options={"prompt_index": 3})
    observation, _ = env.reset(options={"prompt": "hello"})
    length = int((observation >= 0).sum())
    assert length < 8
    assert (observation[length:] == -1).all()
    assert env.prompts.encode("hello").ids.tolist() == observation[:length].tolist()


def test_a_prompt_is_chosen_by_options_or_drawn():
    env = TextGenEnv("exact")
    assert env.reset(options={"prompt": "e"})[0][0] == 4
    assert env.reset(options={"prompt_index": 1})[0][0] == 2
    drawn = {int(env.reset(seed=seed)[0][0]) for seed in range(20)}
    assert drawn == {0, 2}
    assert say(env, [EOS], options={"prompt": "e"})[-1][4]["prompt"] == "e"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"prompt_index": 2}, r"\[0, 2\), got 2"),
        ({"prompt_index": -1}, r"\[0, 2\), got -1"),
        ({"prompt_index": "first"}, "prompt_index"),
        ({"prompt_index": 0.5}, "prompt_index"),
        ({"prompt": 5}, "must be a text or a list of chat messages"),
        ({"promt": "a"}, "unknown option of reset 'promt'. Did you mean 'prompt'"),
        ({"prompt": [{"role": "user", "content": "a"}]}, "chat template"),
    ],
)
def test_options_that_cannot_work_leave_the_running_episode_alone(options: dict[str, Any], match: str):
    env = TextGenEnv("exact")
    env.reset(options={"prompt": "c"})
    env.step(1)
    with pytest.raises(ConfigError, match=match):
        env.reset(options=options)
    assert env.step(3)[0].tolist() == [2, 1, 3, -1, -1, -1]


def test_ends_at_eos_at_the_first_token():
    """CHECKS 11: a one-step episode with a finite reward. CHECKS 14: where pad = eos, EOS is a token like any other
    and carries the score."""
    env = TextGenEnv("exact", reward=lambda prompts, completions: [2.5] * len(prompts), kl_coef=0.0)
    assert env.tokenizer.pad_token_id == env.tokenizer.eos_token_id == EOS
    ((observation, reward, terminated, truncated, info),) = say(env, [EOS], options={"prompt": "a"})
    assert (terminated, truncated) == (True, False)
    assert reward == 2.5
    assert observation.tolist() == [0, EOS, -1, -1, -1, -1]
    assert info["finish_reason"] == "eos"
    assert info["response"] == ""
    assert (info["episode_return"], info["episode_length"]) == (2.5, 1)


def test_ends_at_the_limit_and_pays_the_score_there():
    env = TextGenEnv("exact", kl_coef=0.0)
    steps = say(env, [1, 2, 3, 4, 0], options={"prompt": "a"})
    assert [step[2] for step in steps] == [False] * 4 + [True]
    assert [step[3] for step in steps] == [False] * 5, "truncated is for outer time limits"
    assert [step[1] for step in steps] == [0.0] * 4 + [4.0]
    info = steps[-1][4]
    assert info["finish_reason"] == "length"
    assert (info["prompt"], info["response"]) == ("a", "bcdea")
    assert (info["episode_return"], info["episode_length"]) == (4.0, 5)


def test_eos_at_the_limit_is_an_eos():
    assert say(TextGenEnv("exact"), [1, 2, 3, 4, EOS])[-1][4]["finish_reason"] == "eos"


def test_step_before_reset_and_after_the_end():
    """CHECKS 12."""
    env = TextGenEnv("exact")
    with pytest.raises(ResetNeeded, match="before the first step"):
        env.step(0)
    say(env, [EOS])
    for _ in range(2):
        with pytest.raises(ResetNeeded, match=r"has ended: call reset\(\)"):
            env.step(0)
    env.reset()
    env.step(0)


class Faulty:
    """A reward that fails on demand."""

    def __init__(self) -> None:
        self.fault: Any = None

    def __call__(self, prompts: list[str], completions: list[str]) -> list[Any]:
        if isinstance(self.fault, Exception):
            raise self.fault
        return [1.0 if self.fault is None else self.fault] * len(prompts)


@pytest.mark.parametrize(
    ("action", "fault", "error", "match"),
    [
        (-1, None, InvalidAction, "got -1"),
        (6, None, InvalidAction, "got 6"),
        (1.0, None, InvalidAction, "integers"),
        (TokenAction(EOS, 0.7), None, InvalidAction, "not a probability"),
        (TokenAction(EOS, np.nan), None, InvalidAction, "got nan"),
        (EOS, None, MissingLogProb, "log-prob"),
        (TokenAction(EOS, -1.0), KeyError("lost"), RewardRaised, "Faulty.*KeyError.*sample 0"),
        (TokenAction(EOS, -1.0), float("nan"), InvalidScore, "Faulty.*nan.*sample 0"),
    ],
)
def test_an_error_leaves_the_episode_as_it_was(action: Any, fault: Any, error: type[Exception], match: str):
    """CHECKS 10, 18, 19: what fails has changed nothing, and the same step works once its cause is gone."""
    reward = Faulty()
    untouched, env = (TextGenEnv("exact", reward=reward, kl_mode="log_ratio") for _ in range(2))
    for each in (untouched, env):
        say(each, [1, 2], log_prob=-0.5, options={"prompt": "a"})
    reward.fault = fault
    for _ in range(2):
        with pytest.raises(error, match=match) as caught:
            env.step(action)
    assert fault is None or not isinstance(fault, Exception) or caught.value.__cause__ is fault
    reward.fault = None
    finish = [(token, -0.25) for token in (3, EOS)]
    for token, log_prob in finish:
        np.testing.assert_equal(env.step(TokenAction(token, log_prob)), untouched.step(TokenAction(token, log_prob)))


def test_step_errors_share_a_base():
    assert all(issubclass(error, StepError) for error in (InvalidAction, MissingLogProb, ResetNeeded))


def test_rendered_text_shows_prompt_response_and_outcome():
    env = TextGenEnv("exact", render_mode="ansi", kl_coef=0.0)
    env.reset(options={"prompt": "a"})
    assert "a" in env.render()
    env.step(1)
    env.step(2)
    assert env.render().endswith("bc")
    env.step(EOS)
    assert "[eos] score 2.000" in env.render()
    assert "return 2.000  tokens 3" in env.render()
    env.reset(options={"prompt": "c"})
    assert "b" not in env.render(), "the last episode is still there"


def test_human_rendering_prints_as_it_grows(capsys: pytest.CaptureFixture[str], make_model: Any, tiny_tokenizer: Any):
    task = Task("human", prompts=["hello"], reward="length", model=lambda: (make_model("llama"), tiny_tokenizer))
    env = TextGenEnv(task, render_mode="human", max_new_tokens=5)
    env.reset()
    assert "hello" in capsys.readouterr().out
    shown = []
    ids = tiny_tokenizer("\U0001f600", add_special_tokens=False)["input_ids"]
    for token in [*ids, 1]:
        env.step(token)
        shown.append(capsys.readouterr().out)
    assert shown[: len(ids) - 1] == [""] * (len(ids) - 1), "part of a character was printed"
    assert shown[len(ids) - 1] == "\U0001f600"
    assert "[eos]" in shown[-1]
    assert env.render() is None


def test_a_picture_of_the_text():
    """`rgb_array`: what video recorders take. Grey prompt, black response, and the outcome in blue at the end."""
    pytest.importorskip("PIL")
    env = TextGenEnv("exact", render_mode="rgb_array")
    env.reset(options={"prompt": "a"})
    frames = [env.render()]
    for token in (1, EOS):
        env.step(token)
        frames.append(env.render())
    assert all(frame.shape == (480, 720, 3) and frame.dtype == np.uint8 for frame in frames)
    inked = [int((frame < 255).any(axis=2).sum()) for frame in frames]
    assert 0 < inked[0] < inked[1] < inked[2]
    blue = [bool((frame[..., 2] > frame[..., 0].astype(int) + 50).any()) for frame in frames]
    assert blue == [False, False, True]


def test_a_picture_shows_the_newest_lines():
    pytest.importorskip("PIL")
    short, long = (text_picture([("a" * count + "\n", (0, 0, 0)), ("end", (0, 0, 255))]) for count in (1, 5000))
    blue = [np.flatnonzero((frame[..., 2] > frame[..., 0].astype(int) + 50).any(axis=1)) for frame in (short, long)]
    assert 0 < blue[0].max() < 100
    assert blue[1].max() > 380, "what does not fit is cut at the top"
    np.testing.assert_array_equal(text_picture([("a\x1b\t\x07", (0, 0, 0))]), text_picture([("a", (0, 0, 0))]))


def test_a_picture_without_pillow(monkeypatch: pytest.MonkeyPatch):
    """The environment can be made, as SB3 makes it; the picture names the extra."""
    monkeypatch.setitem(sys.modules, "PIL", None)
    env = gymnasium.make("TextRLHF-Exact-v0", render_mode="rgb_array")
    env.reset()
    with pytest.raises(MissingExtra, match=r"pillow is not installed.*textrl-env\[plots\]"):
        env.unwrapped.render()


def test_render_without_a_mode_warns():
    env = TextGenEnv("exact")
    env.reset()
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None


def test_a_copied_environment_goes_on_like_the_original(tiny_task):
    """A deep copy shares the frozen reference; losing it would break the copy's first step."""
    env = TextGenEnv(tiny_task)
    env.reset(seed=3)
    env.step(40)
    twin = copy.deepcopy(env)
    assert twin.kl_penalty.reference is env.kl_penalty.reference
    for token in (41, 42):
        ours, theirs = env.step(token), twin.step(token)
        np.testing.assert_array_equal(ours[0], theirs[0])
        assert ours[1:3] == theirs[1:3]
