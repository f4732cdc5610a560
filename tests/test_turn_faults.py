"""A turn environment that raises, hangs or talks nonsense: told like a reward, and the others go on."""

from __future__ import annotations

import copy
import itertools
import json
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from counting_game import CountingGame

from textrl_env import TextGenEnv, TextGenVectorEnv
from textrl_env.errors import (
    ConfigError,
    InvalidReply,
    ResetNeeded,
    RewardError,
    RewardRaised,
    TurnRaised,
    TurnTimeout,
)
from textrl_env.tasks import Task
from textrl_env.turns.calls import ConcurrentCalls

END = 3
FINE = ("y", 0.5, False, False, {})


@pytest.fixture(scope="module")
def make_env(make_model: Any, tiny_tokenizer: Any) -> Any:
    model = make_model("llama")

    def make(turns: Any, rows: int = 3, reward: Any = None, **given: Any) -> TextGenVectorEnv:
        task = Task(
            "faulty",
            turns=turns,
            reward=reward,
            model=lambda: (model, tiny_tokenizer),
            max_prompt_tokens=32,
            max_new_tokens=64,
        )
        return TextGenVectorEnv(rows, task, kl_mode="deferred", **given)

    return make


class Scripted:
    """Fails at its second turn where it is the second that is made, which is that of row 1."""

    def __init__(self, fault: Callable[[], Any], number: int):
        self.fault, self.row = fault, number
        self.closed = False

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        self.turn = 0
        return "go", {}

    def step(self, action: str) -> Any:
        self.turn += 1
        if self.row == 1 and self.turn == 2:
            return self.fault()
        return f"reply {self.turn}", 0.25, False, False, {}

    def close(self) -> None:
        self.closed = True


def scripted(fault: Callable[[], Any]) -> Callable[[], Scripted]:
    numbers = itertools.count()
    return lambda: Scripted(fault, next(numbers))


def raising(error: BaseException) -> Callable[[], Any]:
    def fault() -> Any:
        raise error

    return fault


NONSENSE = {
    "returned None from step": None,
    r"expected \(message: str, reward: float": ("y", 0.5, False, False),
    "the message 3; expected a text": (3, 0.5, False, False, {}),
    "half of a surrogate pair": ("\ud83d", 0.5, False, False, {}),
    "the reward nan; expected a finite number": ("y", float("nan"), False, False, {}),
    "the reward inf": ("y", np.float32(np.inf), False, False, {}),
    "the reward None": ("y", None, False, False, {}),
    "the reward '1'": ("y", "1", False, False, {}),
    "the reward a number of": ("y", 10**400, False, False, {}),
    "terminated = None; expected true or false": ("y", 0.5, None, False, {}),
    "truncated = 'no'": ("y", 0.5, False, "no", {}),
    "the info None; expected a dict": ("y", 0.5, False, False, None),
    "the role 'assistant'; expected one of user, tool": ("y", 0.5, False, False, {"role": "assistant"}),
    r"the score parts \[1\]": ("y", 0.5, False, False, {"score_parts": [1]}),
    "the score part 'a' = nan": ("y", 0.5, False, False, {"score_parts": {"a": float("nan")}}),
    "success = 'yes'": ("y", 0.5, False, False, {"success": "yes"}),
}


def fails_in_row_1(env: TextGenVectorEnv, error: type[Exception], match: str) -> None:
    """Row 1 fails at its second turn; nothing is written, the others' answers are kept, and all of it is told."""
    env.reset(seed=0)
    env.step(np.full(3, END))
    envs = list(env._mdp.turns._envs)
    before = {name: getattr(env._mdp, name).copy() for name in ("ids", "lengths", "counts", "rewards", "is_action")}
    with pytest.raises(error, match=r"(?s)turn environment 'Scripted', row 1, which was told ''," + ".*" + match):
        env.step(np.full(3, END))
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(env._mdp, name), value)
    # The row needs a reset, and the others go on with the answers that they have had.
    with pytest.raises(ResetNeeded, match="turn environment of row 1 failed"):
        env.step(np.full(3, END))
    env.reset(options={"reset_mask": np.array([False, True, False])})
    assert env._mdp.turns._envs[1] is not envs[1]
    assert envs[1].closed == (error is not TurnTimeout)
    env.step(np.full(3, END))
    assert [len(records) for records in env._mdp.turns.records] == [2, 1, 2]
    assert [each.turn for each in (envs[0], envs[2])] == [2, 2], "asked twice about one turn"
    np.testing.assert_array_equal(env._mdp.turn_scores, [0.5, 0.25, 0.5])


@pytest.mark.parametrize("match", NONSENSE)
def test_nonsense_is_refused_by_name(make_env: Any, match: str):
    env = make_env(scripted(lambda: NONSENSE[match]), autoreset_mode="DISABLED")
    fails_in_row_1(env, InvalidReply, match)


@pytest.mark.parametrize("error", [KeyError("lost"), SystemExit(3), RewardError("own"), ZeroDivisionError("\x1b[31m")])
def test_what_it_raises_is_told_with_its_cause(make_env: Any, error: BaseException):
    env = make_env(scripted(raising(error)), autoreset_mode="DISABLED")
    fails_in_row_1(env, TurnRaised, f"raised {type(error).__name__}")
    env.reset()
    env.step(np.full(3, END))
    env._mdp.turns._envs[1].row, env._mdp.turns._envs[1].turn = 1, 1
    with pytest.raises(RewardError) as caught:
        env.step(np.full(3, END))
    assert caught.value.__cause__ is error
    assert "\x1b" not in str(caught.value)


def test_one_that_hangs_is_given_up_and_the_rest_answers(make_env: Any):
    release = threading.Event()
    env = make_env(scripted(release.wait), autoreset_mode="DISABLED", turn_timeout=0.2)
    try:
        fails_in_row_1(env, TurnTimeout, r"did not answer within 0\.2 s; make it faster, or raise turn_timeout")
    finally:
        release.set()


def test_a_fault_at_the_beginning(make_env: Any):
    class Silent(CountingGame):
        openings = 0

        def reset(self, seed: int | None = None) -> Any:
            Silent.openings += 1
            return None if Silent.openings == 5 else super().reset(seed)

    env = make_env(Silent, turn_workers=1)
    env.reset(seed=0)
    with pytest.raises(InvalidReply, match=r"'Silent', row 1, returned None from reset; expected \(message: str, info"):
        env.reset(seed=1)
    with pytest.raises(ResetNeeded):
        env.step(np.full(3, END))
    env.reset(seed=1)
    env.step(np.full(3, END))

    def broken() -> Any:
        raise OSError("no network")

    with pytest.raises(ConfigError, match="cannot be made: OSError: no network"):
        make_env(broken).reset()
    with pytest.raises(ConfigError, match=r"must have reset\(seed\) and step\(action\)"):
        make_env(object).reset()


@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP"])
def test_a_fault_at_the_next_beginning_does_nothing_twice(make_env: Any, mode: str, groups: bool):
    """A step whose autoreset fails can be repeated: the tokens are appended once, and no end is lost."""

    class Fragile(CountingGame):
        fails = False

        def reset(self, seed: int | None = None) -> Any:
            if Fragile.fails:
                Fragile.fails = False
                raise OSError("down")
            return super().reset(seed)

    given = {"autoreset_mode": mode, "turn_workers": 1, **({"group_size": 3} if groups else {})}
    steps = [np.array(tokens) for tokens in ([60, 61, 62], [END, 61, 62], [63, 64, 65], [END, END, END])]
    played: dict[bool, list[Any]] = {}
    for faulty in (False, True):
        env = make_env(lambda: Fragile(turns=1), **given)
        env.reset(seed=0)
        played[faulty] = []
        for place, tokens in enumerate(steps):
            if faulty and place == (2 if mode == "NEXT_STEP" else 1):
                Fragile.fails = True
                with pytest.raises(TurnRaised, match="down"):
                    env.step(tokens)
                with pytest.raises(ResetNeeded, match="Repeat that step with the same tokens"):
                    env.step(np.array([tokens[0], 70, 71]))
            _, rewards, terminated, _, infos = env.step(tokens)
            final = infos.get("final_info", infos)
            played[faulty].append(
                [env._mdp.lengths[1:].tolist(), rewards, terminated, final.get("score"), final.get("group")]
            )
        env.close()
    for expected, found in zip(played[False], played[True], strict=True):
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_array_equal(one, other)


def test_an_answer_is_kept_while_the_reward_fails(make_env: Any):
    """The turn environment is asked once, and the repeated step is the one that would have been."""
    working = False

    def judge(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        if not working:
            raise ValueError("down")
        return [1.0] * len(prompts)

    games: list[CountingGame] = []

    def make() -> CountingGame:
        games.append(CountingGame(turns=1))
        return games[-1]

    env = make_env(make, rows=2, reward=judge)
    env.reset(seed=0)
    env.step(np.array([60, 61]))
    for _ in range(2):
        with pytest.raises(RewardRaised):
            env.step(np.array([END, END]))
    assert [len(game.told) for game in games] == [1, 1]
    working = True
    _, rewards, terminated, _, infos = env.step(np.array([END, END]))
    assert terminated.all()
    np.testing.assert_allclose(rewards, 1 + infos["score_parts"]["turns"])
    assert [len(game.told) for game in games] == [1, 1]
    # With another text it cannot be taken back: that row begins anew.
    working = False
    env.reset(seed=0)
    with pytest.raises(RewardRaised):
        env.step(np.array([END, 60]))
    env.step(np.array([60, 60]))
    with pytest.raises(ResetNeeded, match="has answered another text"):
        env.step(np.array([END, 60]))


def test_an_answer_that_is_kept_is_saved_and_copied(make_env: Any):
    """A step that failed is repeated after a restart, or in a copy: the turn environment is asked once all the same."""
    working = False

    def judge(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        if not working:
            raise ValueError("down")
        return [1.0] * len(prompts)

    env = make_env(lambda: CountingGame(turns=2), rows=2, reward=judge)
    env.reset(seed=0)
    env.step(np.array([END, END]))
    with pytest.raises(RewardRaised):
        env.step(np.array([END, END]))
    restored = make_env(lambda: CountingGame(turns=2), rows=2, reward=judge)
    restored.load_state_dict(json.loads(json.dumps(env.state_dict(), default=np.ndarray.tolist)))
    copied = copy.deepcopy(env)
    working = True
    wanted = env.step(np.array([END, END]))
    assert wanted[2].all()
    for other in (restored, copied):
        got = other.step(np.array([END, END]))
        np.testing.assert_allclose(got[1], wanted[1])
        assert [game.told for game in other._mdp.turns._envs] == [["", ""]] * 2
        assert got[4]["turns"].tolist() == wanted[4]["turns"].tolist()


def test_answers_do_not_depend_on_the_number_of_threads(make_env: Any):
    """Slow ones and quick ones in a changing order; each row hears its own."""

    class Uneven(CountingGame):
        def step(self, action: str) -> Any:
            pause.wait(0.004 * ((self.number * 7 + len(self.told)) % 3))
            return super().step(action)

    pause = threading.Event()
    seen = []
    for workers in (1, 2, 16):
        env = make_env(Uneven, rows=6, autoreset_mode="SAME_STEP", turn_workers=workers)
        rng = np.random.default_rng(0)
        course = [env.reset(seed=3)[0]]
        for _ in range(25):
            observations, rewards, *_ = env.step(np.where(rng.random(6) < 0.5, END, rng.integers(4, 300, 6)))
            course += [observations, rewards]
        seen.append(course)
        env.close()
    for other in seen[1:]:
        for got, wanted in zip(other, seen[0], strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_calls_are_bounded_and_their_threads_end():
    together, most, lock = 0, 0, threading.Lock()
    gate = threading.Event()

    def call() -> int:
        nonlocal together, most
        with lock:
            together, most = together + 1, max(most, together + 1)
        gate.wait(0.005)
        with lock:
            together -= 1
        return threading.get_ident()

    calls = ConcurrentCalls(3, 60.0, "bounded calls")
    threads = {called.value for _ in range(3) for called in calls.run([call] * 7)}
    assert most == 3
    assert len(threads) == 3, "threads are not kept"
    assert len(calls.run([])) == 0
    calls.close()
    for thread in threading.enumerate():
        if thread.name == "bounded calls":
            thread.join(10)
            assert not thread.is_alive()


def test_calls_that_hang_cost_one_limit_and_not_one_each():
    gate = threading.Event()
    calls = ConcurrentCalls(2, 0.1, "hanging calls")
    found = calls.run([gate.wait, lambda: 1, gate.wait, lambda: 2, raising(KeyError("x"))])
    gate.set()
    assert [called.timed_out for called in found] == [True, False, True, False, False]
    assert [called.value for called in found][1::2] == [1, 2]
    assert isinstance(found[4].error, KeyError)
    assert calls.run([lambda: 5])[0].value == 5


def test_it_cannot_change_what_the_environment_recorded(make_env: Any):
    parts: dict[str, float] = {"a": 1.0}

    class Sharing(CountingGame):
        def step(self, action: str) -> Any:
            parts["a"] += 1
            return "y", parts["a"], False, False, {"score_parts": parts}

    env = make_env(Sharing, rows=1)
    env.reset()
    for _ in range(2):
        env.step(np.array([END]))
    assert [record["score_parts"] for record in env._mdp.turns.records[0]] == [{"a": 2.0}, {"a": 3.0}]
    # Nor can who reads the infos.
    told = env.step(np.array([END]))[4]["turn"]["reply"]
    env.transition.turns[0][1]["score_parts"]["a"] = 9.0
    assert told.tolist() == ["y"]
    assert env._mdp.turns.records[0][-1]["score_parts"] == {"a": 4.0}


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"max_turns": 0}, "max_turns"),
        ({"max_turn_tokens": 1.5}, "max_turn_tokens"),
        ({"turn_timeout": 0}, "turn_timeout must be a number of seconds above 0"),
        ({"turn_timeout": True}, "turn_timeout"),
        ({"turn_workers": 0}, "turn_workers"),
        ({"turns": 3}, "turns"),
    ],
)
def test_arguments_that_cannot_work(given: dict[str, Any], match: str):
    with pytest.raises(ConfigError, match=match):
        TextGenEnv(**{"turns": CountingGame, **given})
    if "turns" not in given and given != {"turn_timeout": 0}:
        with pytest.raises(ConfigError, match="is for episodes of several turns"):
            TextGenEnv("exact", **{next(iter(given)): 5})


def test_threads_end_with_the_environment(make_env: Any):
    env = make_env(CountingGame)
    env.reset()
    env.step(np.full(3, END))
    names = [thread for thread in threading.enumerate() if thread.name == "turn environment"]
    assert names
    closed = env._mdp.turns
    env.close()
    assert closed._envs == [None] * 3
    assert sys.getrefcount(closed._calls) < 10
    with pytest.raises(ResetNeeded):
        env.step(np.full(3, END))
