"""A pickled or copied environment steps as the original would, and carries no weights."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
import pytest

from textrl_env import TextGenEnv, TextGenVectorEnv
from textrl_env.errors import ConfigError
from textrl_env.tasks import Task

ROOT = Path(__file__).parents[1]
EOS = 5  # of task "exact"
WAYS = {
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),
    "cloudpickle": lambda env: cloudpickle.loads(cloudpickle.dumps(env)),
    "deepcopy": copy.deepcopy,
}


def transcript(env: Any, steps: int, action: Any) -> list[Any]:
    """Everything that `steps` steps and a reset show; the action space draws too."""
    shown = [env.step(action) for _ in range(steps)]
    return [*shown, env.reset(), env.step(action), env.action_space.sample()]


def check_equal(got: list[Any], wanted: list[Any]) -> None:
    """Equal but for the rounding of a prefix that is run at once instead of token by token."""
    assert type(got) is type(wanted)
    if isinstance(wanted, dict):
        assert got.keys() == wanted.keys()
        for key in wanted:
            check_equal(got[key], wanted[key])
    elif isinstance(wanted, (list, tuple)):
        assert len(got) == len(wanted)
        for one, other in zip(got, wanted, strict=True):
            check_equal(one, other)
    elif isinstance(wanted, np.ndarray) and wanted.dtype == object:
        check_equal(got.tolist(), wanted.tolist())
    elif isinstance(wanted, (float, np.ndarray)):
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    else:
        assert got == wanted


@pytest.mark.parametrize("way", WAYS)
def test_a_single_environment_goes_on(way: str):
    """In the middle of an episode: its tokens, its penalty so far, the generators and the adaptive coefficient."""
    env = gymnasium.make("TextRLHF-Exact-v0", kl_coef={"value": 0.3, "target": 1.0, "horizon": 2})
    env.action_space.seed(7)
    env.reset(seed=3)
    for token in (1, 2, EOS):
        env.step([float(token), -0.5])
    assert env.unwrapped.kl_penalty.coef != 0.3, "the coefficient has not adapted: the test shows less"
    env.reset()
    env.step([1.0, -0.5])
    twin = WAYS[way](env)
    assert twin.unwrapped.kl_penalty.coef == env.unwrapped.kl_penalty.coef
    wanted = transcript(env, 2, [2.0, -0.25])
    check_equal(transcript(twin, 2, [2.0, -0.25]), wanted)
    assert len(WAYS[way](env).spec.kwargs) == len(env.spec.kwargs)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("arguments", [{}, {"group_size": 2}, {"max_episode_steps": 2}], ids=str)
@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP"])
def test_a_vector_environment_goes_on(mode: str, arguments: dict[str, Any], way: str):
    """With rows that have ended, groups being filled, and a time limit."""
    env = TextGenVectorEnv(3, "exact", autoreset_mode=mode, **arguments)
    env.action_space.seed(7)
    env.reset(seed=3)
    env.step(np.array([1, EOS, 2]))
    twin = WAYS[way](env)
    assert (twin.num_envs, twin.group_size, twin.max_episode_steps) == (3, env.group_size, env.max_episode_steps)
    actions = np.array([1, 2, EOS])
    check_equal(transcript(twin, 4, actions), transcript(env, 4, actions))


def test_the_default_environment_is_small():
    """Its model, its prompts and its reward travel by the task's name."""
    env = gymnasium.make("TextRLHF-v0")
    env.reset(seed=3)
    env.step(40)
    sent = pickle.dumps(env)
    assert len(sent) < 10_000
    twin = pickle.loads(sent)
    assert twin.unwrapped.kl_penalty.reference is not env.unwrapped.kl_penalty.reference
    check_equal(transcript_without_sample(twin), transcript_without_sample(env))


def transcript_without_sample(env: Any) -> list[Any]:
    return [env.step(41), env.step(42), env.reset(), env.step(43)]


def test_what_is_shown_travels_too():
    env = TextGenEnv("exact", render_mode="ansi")
    env.reset(options={"prompt": "a"})
    env.step(1)
    for way in WAYS.values():
        twin = way(env)
        assert twin.render() == env.render()
        twin.step(2)
        assert twin.render().endswith("bc")


def test_a_copy_does_not_touch_the_original():
    env = TextGenVectorEnv(2, "exact", kl_coef={"value": 0.3, "target": 1.0, "horizon": 2})
    env.reset(seed=0)
    twin = copy.deepcopy(env)
    before = env.state_dict()
    for _ in range(7):
        twin.step(np.array([[1.0, -0.5], [2.0, -0.5]]))
    np.testing.assert_equal(env.state_dict(), before)
    assert twin.kl_penalty.coef != env.kl_penalty.coef
    assert twin.kl_penalty.reference is env.kl_penalty.reference, "a copy in the same process shares the weights"


def test_a_model_that_was_given_as_a_module_has_no_name(tiny_task: Task, make_model: Any, tiny_tokenizer: Any):
    """Its weights are not sent in silence; a deep copy needs no name."""
    model = make_model("llama")
    by_argument = TextGenEnv(tiny_task, model=model, tokenizer=tiny_tokenizer)
    by_task = TextGenVectorEnv(2, Task("t", prompts=["a"], reward="length", model=model, tokenizer=tiny_tokenizer))
    for env in (by_argument, by_task):
        for dumps in (pickle.dumps, cloudpickle.dumps):
            with pytest.raises(ConfigError, match=r"without weights.*LlamaForCausalLM.*by its name or folder"):
                dumps(env)
        copy.deepcopy(env).reset()
    # The fixture's task makes its model by a function, which cloudpickle can send.
    env = TextGenEnv(tiny_task)
    env.reset(seed=0)
    twin = cloudpickle.loads(cloudpickle.dumps(env))
    check_equal([twin.step(9), twin.reset()], [env.step(9), env.reset()])


@pytest.mark.slow
def test_in_a_new_process(tmp_path: Path):
    """What joblib, Ray and SubprocVecEnv do: the package is not imported there before the pickle is read."""
    env = TextGenVectorEnv(2, "exact")
    env.reset(seed=3)
    env.step([1, 2])
    (tmp_path / "env.pickle").write_bytes(pickle.dumps(env))
    code = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')).step([3, 4])[0].tolist())"
    command = [sys.executable, "-c", code, str(tmp_path / "env.pickle")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, timeout=300)
    assert done.stdout.strip() == str(env.step([3, 4])[0].tolist())
