"""The vector environment against the single one, which Gymnasium's own SyncVectorEnv runs row by row."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit

from textrl_env import TextGenEnv, TextGenVectorEnv, TokenAction
from textrl_env.errors import ConfigError, InvalidAction, MissingLogProb, ResetNeeded, RewardRaised
from textrl_env.tasks import Task, get_task

N = 4
EOS = 5  # of task "exact"


def row_info(infos: dict[str, Any], row: int) -> dict[str, Any]:
    """What the batched infos say about one row: the keys that it has, by Gymnasium's `_key` masks."""
    return {
        key: row_info(value, row) if isinstance(value, dict) else value[row]
        for key, value in infos.items()
        if not key.startswith("_") and infos[f"_{key}"][row]
    }


def random_actions(vocab_size: int, steps: int, eos: int) -> np.ndarray:
    """float64 [steps, N, 2] of tokens and log-probs; an EOS now and then, so that rows end at different times."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(vocab_size, size=(steps, N))
    tokens[rng.random((steps, N)) < 0.15] = eos
    return np.stack([tokens, -3 * rng.random((steps, N))], axis=-1)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("kl_mode", ["log_ratio", "cross_entropy", "deferred"])
def test_equals_single_environments(mode: AutoresetMode, kl_mode: str, tiny_task: Task):
    """CHECKS 3: observations, rewards, ends and infos of 40 steps, through many resets; row i is seeded with s + i."""
    arguments = {"kl_mode": kl_mode, "kl_coef": 0.3}
    native = TextGenVectorEnv(N, tiny_task, autoreset_mode=mode, **arguments)
    single = SyncVectorEnv([lambda: TextGenEnv(tiny_task, **arguments)] * N, autoreset_mode=mode)
    assert native.metadata["autoreset_mode"] == mode
    seen, expected = native.reset(seed=5), single.reset(seed=5)
    np.testing.assert_array_equal(seen[0], expected[0])
    ends = 0
    for actions in random_actions(320, 40, eos=1):
        seen, expected = native.step(actions), single.step(actions)
        check_step(seen, expected)
        ends += int(seen[2].sum())
    assert ends > 20, "too few episodes ended to compare resets"


@pytest.mark.parametrize("mode", list(AutoresetMode)[:2])
@pytest.mark.parametrize("limit", [3, 8])
def test_a_time_limit_equals_gymnasiums_wrapper(limit: int, mode: AutoresetMode, tiny_task: Task):
    """`max_episode_steps` cuts episodes off as TimeLimit around each environment does: no score, no keys of an end.
    At 8 the task's own limit comes in the same step, and the episode is both terminated and truncated."""
    arguments = {"kl_mode": "log_ratio", "kl_coef": 0.3}
    native = TextGenVectorEnv(N, tiny_task, autoreset_mode=mode, max_episode_steps=limit, **arguments)
    single = SyncVectorEnv([lambda: TimeLimit(TextGenEnv(tiny_task, **arguments), limit)] * N, autoreset_mode=mode)
    native.reset(seed=5), single.reset(seed=5)
    cut = both = 0
    for actions in random_actions(320, 40, eos=1):
        seen, expected = native.step(actions), single.step(actions)
        check_step(seen, expected)
        cut += int((seen[3] & ~seen[2]).sum())
        both += int((seen[3] & seen[2]).sum())
    assert (cut > 10, both > 0) == ((True, True) if limit == 3 else (False, True))


def test_make_vec_takes_a_time_limit():
    env = gymnasium.make_vec("TextRLHF-v0", num_envs=2, max_episode_steps=3, task="exact", kl_coef=0.0)
    env.reset(seed=0)
    steps = [env.step([1, 2]) for _ in range(4)]
    assert [step[3].tolist() for step in steps] == [[False] * 2, [False] * 2, [True] * 2, [False] * 2]
    assert not np.any([step[2] for step in steps])
    assert np.sum([step[1] for step in steps]) == 0, "a score was paid"
    assert "score" not in steps[2][4]
    assert (steps[3][0] >= 0).sum(axis=1).tolist() == [1, 1]
    without = gymnasium.make_vec("TextRLHF-v0", num_envs=2, max_episode_steps=-1, task="exact")
    assert without.unwrapped.max_episode_steps is None


def test_a_time_limit_is_resumed():
    """How far an episode has come is in its row: the state needs no counter."""
    first, second = (TextGenVectorEnv(2, "exact", max_episode_steps=3) for _ in range(2))
    first.reset(seed=0)
    for _ in range(3):
        first.step([1, 2])
        second.load_state_dict(first.state_dict())
    for _ in range(5):
        check_step(second.step([1, 2]), first.step([1, 2]))


def test_a_disabled_autoreset_waits_for_the_caller():
    env = TextGenVectorEnv(2, "exact", autoreset_mode="DISABLED", max_episode_steps=2)
    env.reset(seed=0)
    env.step([EOS, 1])
    with pytest.raises(ResetNeeded, match="row 0 has ended"):
        env.step([1, 1])
    env.reset(options={"reset_mask": np.array([True, False])})
    assert env.step([1, 1])[3].tolist() == [False, True]
    with pytest.raises(ResetNeeded, match="row 1 has ended"):
        env.step([1, 1])


def test_a_masked_reset_leaves_the_other_rows_alone():
    """Their tokens, their generators and their penalty so far; prompts and seeds of rows that stay are not used."""
    env, untouched = (TextGenVectorEnv(3, "exact", kl_coef=0.5) for _ in range(2))
    for each in (env, untouched):
        each.reset(seed=1)
        each.step([1, EOS, 2])
    mask = np.array([False, True, False])
    options = {"reset_mask": mask, "prompt": ["e", "e", "e"]}
    observations, infos = env.reset(seed=[7, 8, 9], options=options)
    assert infos == {}
    assert observations[1].tolist() == [4, -1, -1, -1, -1, -1]
    assert options["reset_mask"] is mask, "Gymnasium's RecordEpisodeStatistics reads it afterwards"
    untouched.step([3, 0, 3])
    env.step([3, 1, 3])
    np.testing.assert_array_equal(env.step([EOS, 1, 1])[1][[0, 2]], untouched.step([EOS, 1, 1])[1][[0, 2]])
    following = [each.step([1, 1, 1])[0] for each in (env, untouched)]
    np.testing.assert_array_equal(following[0][0], following[1][0])


@pytest.mark.parametrize(
    "mask",
    [[True, False], np.array([1, 0]), np.array([True]), np.array([False, False])],
    ids=["list", "int", "1", "none"],
)
def test_a_reset_mask_that_cannot_work(mask: Any):
    env = TextGenVectorEnv(2, "exact")
    env.reset(seed=0)
    with pytest.raises(ConfigError, match=r"reset_mask must be a NumPy array, bool \[2\], with a True in it"):
        env.reset(options={"reset_mask": mask})


def test_a_reset_mask_needs_a_first_reset_and_no_groups():
    mask = np.array([True, False])
    with pytest.raises(ResetNeeded, match="of all rows before"):
        TextGenVectorEnv(2, "exact").reset(options={"reset_mask": mask})
    env = TextGenVectorEnv(2, "exact", group_size=2)
    env.reset()
    with pytest.raises(ConfigError, match="served in groups: give no 'reset_mask'"):
        env.reset(options={"reset_mask": mask})


def check_step(got: tuple, wanted: tuple) -> None:
    """Equal results of `step`, to 1e-5, in what the infos say about each row."""
    for name, seen, expected in zip(("obs", "rewards", "terminated", "truncated"), got, wanted, strict=False):
        np.testing.assert_allclose(seen, expected, atol=1e-5, err_msg=name)
        assert (seen.dtype, seen.shape) == (expected.dtype, expected.shape), name
    for row in range(len(got[1])):
        check_infos(row_info(got[4], row), row_info(wanted[4], row))


def check_infos(got: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert got.keys() == wanted.keys()
    for key, value in wanted.items():
        if isinstance(value, dict):
            check_infos(got[key], value)
        elif isinstance(value, str):
            assert got[key] == value, key
        else:
            np.testing.assert_allclose(got[key], value, atol=1e-5, err_msg=key)


def test_sync_vector_env_learns_log_probs_from_float_rows():
    """DESIGN: rows [token, log_prob] are what vector environments that know arrays alone can pass on."""
    single = SyncVectorEnv([lambda: TextGenEnv("exact", kl_mode="log_ratio")] * 2)
    single.reset(seed=0)
    infos = single.step(np.array([[1.0, -0.5], [2.0, -0.75]]))[4]
    np.testing.assert_allclose(infos["kl"] + infos["ref_log_prob"], [-0.5, -0.75], atol=1e-6)


def test_make_vec_gives_the_native_environment():
    env = gymnasium.make_vec("TextRLHF-v0", num_envs=3, task="exact")
    assert isinstance(env.unwrapped, TextGenVectorEnv)
    assert env.num_envs == 3
    assert env.single_action_space == gymnasium.spaces.Discrete(6)
    observations, infos = env.reset(seed=0)
    assert env.observation_space.contains(observations)
    assert infos == {}
    assert env.action_space.contains(env.action_space.sample())
    observations, rewards, terminated, truncated, _ = env.step(env.action_space.sample())
    assert (observations.dtype, rewards.dtype, terminated.dtype) == (np.int64, np.float64, np.bool_)
    assert not truncated.any()
    same = gymnasium.make_vec("TextRLHF-v0", num_envs=2, task="exact", autoreset_mode="SAME_STEP")
    assert same.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    env.close()


def test_next_step_ignores_the_action_of_a_row_that_resets():
    env = TextGenVectorEnv(2, "exact", kl_mode="log_ratio")
    env.reset(seed=0)
    env.step(TokenAction([EOS, 1], [-0.5, -0.5]))
    # No log-prob for row 0: there is none, its episode has ended.
    observations, rewards, terminated, _, infos = env.step(TokenAction([3, 2], [np.nan, -0.5]))
    assert rewards[0] == 0.0
    assert not terminated.any()
    assert (observations[0] >= 0).sum() == 1, "a prompt alone"
    assert (observations[1] >= 0).sum() == 3
    assert infos["_kl"].tolist() == [False, True]
    env.step(TokenAction([3, 2], [-0.5, -0.5]))


def test_same_step_returns_the_next_prompt_and_the_last_observation_beside_it():
    """CHECKS 17: nothing of the old episode is left in the new one's observation."""
    env = TextGenVectorEnv(2, "exact", autoreset_mode="SAME_STEP", kl_coef=0.0)
    env.reset(options={"prompt": ["a", "c"]})
    env.step([1, 0])
    observations, rewards, terminated, _, infos = env.step([EOS, 0])
    assert terminated.tolist() == [True, False]
    assert (observations[0] >= 0).sum() == 1
    assert infos["final_obs"][0].tolist() == [0, 1, EOS, -1, -1, -1]
    assert row_info(infos, 0)["final_info"]["response"] == "b"
    assert row_info(infos, 0)["final_info"]["score"] == rewards[0] == 1.0
    assert "final_info" not in row_info(infos, 1)
    assert "response" not in row_info(infos, 0), "outside final_info stands the new episode's reset"


def test_returned_arrays_are_the_callers_own():
    env = TextGenVectorEnv(2, "exact")
    observations, _ = env.reset(options={"prompt": ["a", "c"]})
    observations[:] = 3
    after, rewards, terminated, *_ = env.step([EOS, 1])
    assert after[1].tolist() == [2, 1, -1, -1, -1, -1]
    kept = rewards.copy()
    terminated[:] = True
    env.step([1, 1])
    np.testing.assert_array_equal(rewards, kept)
    assert env.step([1, 1])[0][1].tolist() == [2, 1, 1, 1, -1, -1]


def test_prompts_and_seeds_are_chosen_row_by_row():
    env = TextGenVectorEnv(3, "exact")
    assert env.reset(options={"prompt": ["a", "e", "b"]})[0][:, 0].tolist() == [0, 4, 1]
    assert env.reset(options={"prompt_index": [1, 1, 0]})[0][:, 0].tolist() == [2, 2, 0]
    by_list = env.reset(seed=[9, 7, 8])[0]
    singles = [TextGenEnv("exact").reset(seed=seed)[0] for seed in (9, 7, 8)]
    np.testing.assert_array_equal(by_list, singles)
    rows = [{"prompt": "a", "answer": 1}, {"prompt": "b", "answer": 2}]
    with_columns = TextGenVectorEnv(2, "exact", prompts=rows)
    options = {"prompt": ["c", "d"], "columns": [{"answer": 3}, {"answer": 4}]}
    assert with_columns.reset(options=options)[0][:, 0].tolist() == [2, 3]


def test_rows_draw_different_prompts():
    env = TextGenVectorEnv(8, "exact")
    assert len(set(env.reset(seed=0)[0][:, 0])) == 2


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"prompt": ["a"]}, "prompt must hold one entry for each of the 2 rows"),
        ({"prompt": "ab"}, "prompt must hold one entry for each of the 2 rows"),
        ({"prompt_index": 0}, "prompt_index must hold one entry for each"),
        ({"prompt_index": [0, 7]}, r"\[0, 2\), got 7"),
        ({"reset_masks": np.array([True, False])}, "unknown option of reset 'reset_masks'. Did you mean 'reset_mask'"),
    ],
)
def test_a_reset_that_cannot_work_changes_no_row(options: dict[str, Any], match: str):
    env = TextGenVectorEnv(2, "exact")
    env.reset(options={"prompt": ["a", "c"]})
    with pytest.raises(ConfigError, match=match):
        env.reset(options=options)
    assert env.step([1, 1])[0][:, :2].tolist() == [[0, 1], [2, 1]]


def test_seeds_must_fit_the_rows():
    env = TextGenVectorEnv(2, "exact")
    with pytest.raises(ConfigError, match="seed must hold one entry for each of the 2 rows"):
        env.reset(seed=[1, 2, 3])
    for seed, got in ((-1, "-1"), ([0, -1], "-1"), ([0, 1.5], "1.5"), ([0, True], "True"), ([0, "1"], "'1'")):
        with pytest.raises(ConfigError, match=f"seed must be a whole number >= 0, got {got}"):
            env.reset(seed=seed)


def test_step_before_reset():
    """CHECKS 12."""
    with pytest.raises(ResetNeeded, match="before the first step"):
        TextGenVectorEnv(2, "exact").step([1, 1])


@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP"])
def test_an_error_leaves_every_row_as_it_was(mode: str):
    """CHECKS 10, 18: a bad action or a failing reward of one row; then the same step works for all."""
    broken = [False]

    def reward(prompts: list[str], completions: list[str]) -> list[float]:
        if broken[0]:
            raise RuntimeError("down")
        return [float(len(text)) for text in completions]

    def make() -> TextGenVectorEnv:
        env = TextGenVectorEnv(3, "exact", reward=reward, kl_mode="log_ratio", autoreset_mode=mode)
        env.reset(seed=1)
        env.step(TokenAction([EOS, 1, 2], [-0.5] * 3))  # row 0 has just ended
        return env

    untouched, env = make(), make()
    good = TokenAction([2, EOS, 3], [-0.25] * 3)
    for bad, error in (
        (TokenAction([2, 6, 3], [-0.25] * 3), InvalidAction),
        (TokenAction([2, EOS, 3], [-0.25, -0.25, np.nan]), InvalidAction),
        (np.array([1, 2, 3]), MissingLogProb),
        (np.array([1.0, 2.0, 3.0]), InvalidAction),
    ):
        with pytest.raises(error):
            env.step(bad)
    broken[0] = True
    with pytest.raises(RewardRaised, match="down"):
        env.step(good)
    broken[0] = False
    for actions in (good, good, TokenAction([1, 1, 1], [-1.0] * 3)):
        check_step(env.step(actions), untouched.step(actions))


@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP"])
def test_chat_prompts(mode: str, tiny_task: Task):
    """The reward gets messages as in TRL, and the infos the chat and the plain text of its answer."""
    calls: list[tuple[list, list]] = []

    def reward(prompts: list, completions: list) -> list[float]:
        calls.append((prompts, completions))
        return [1.0] * len(prompts)

    chat = [{"role": "user", "content": "hello"}]
    env = TextGenVectorEnv(2, tiny_task, prompts=[chat], reward=reward, max_prompt_tokens=40, autoreset_mode=mode)
    env.reset(seed=0)
    (token,) = env.tokenizer("!", add_special_tokens=False)["input_ids"]
    env.step([token, token])
    infos = env.step([1, token])[4]
    ended = row_info(infos, 0) if mode == "NEXT_STEP" else row_info(infos, 0)["final_info"]
    assert (ended["prompt"], ended["response"]) == (chat, "!")
    assert calls == [([chat], [[{"role": "assistant", "content": "!"}]])]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"num_envs": 0}, "num_envs must be a whole number >= 1 and <= 2147483647, got 0"),
        ({"num_envs": 2.0}, "num_envs must be a whole number"),
        ({"num_envs": True}, "num_envs must be a whole number"),
        ({"autoreset_mode": "sometimes"}, "one of NEXT_STEP, SAME_STEP, DISABLED, got 'sometimes'"),
        ({"max_episode_steps": 0}, "max_episode_steps must be a whole number >= 1, got 0"),
        ({"max_episode_steps": 2.5}, "max_episode_steps must be a whole number >= 1, got 2.5"),
        ({"render_mode": "ansi"}, "no render_mode; render a single TextGenEnv"),
    ],
)
def test_arguments_that_cannot_work(arguments: dict[str, Any], match: str):
    with pytest.raises(ConfigError, match=match):
        TextGenVectorEnv(**{"task": "exact", **arguments})


@pytest.mark.parametrize("name", ["exact", "sentiment"])
def test_a_reset_has_the_same_prompts_as_the_single_environment(name: str):
    """CHECKS 2 and 3 on the built-in tasks: over resets, without a model call."""
    prompts = get_task(name).prompts
    source = prompts() if callable(prompts) else prompts
    native = TextGenVectorEnv(5, "exact", prompts=source, max_prompt_tokens=10)
    expected = [TextGenEnv("exact", prompts=source, max_prompt_tokens=10).reset(seed=s)[0] for s in range(11, 16)]
    np.testing.assert_array_equal(native.reset(seed=11)[0], expected)
