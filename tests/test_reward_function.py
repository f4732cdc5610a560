"""`FunctionReward` and its time limit, and the calling convention of TRL's trainers."""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import re
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from hang_guard import HANG

from textrl_env.errors import ConfigError, RewardTimeout
from textrl_env.rewards import (
    CompositeReward,
    FunctionReward,
    LengthReward,
    RepetitionReward,
    TokenFunctionReward,
    make_reward,
    reward_name,
    score_episodes,
)
from textrl_env.rewards.time_limit import MOST_HANGING


def word_count(prompts: list, completions: list, **columns: Any) -> list[float]:
    return [float(len(text.split())) for text in completions]


def threads_named(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


@pytest.mark.parametrize(
    "function",
    [
        word_count,
        lambda completions, **kwargs: [0.0],
        lambda *, prompts, completions: [0.0],
        lambda prompts, completions, answer, threshold=0.5: [0.0],
        functools.partial(word_count, extra=1),
    ],
)
def test_signatures_that_work(function: Any) -> None:
    FunctionReward(function)


def test_signatures_that_do_not_work() -> None:
    """Each would fail at the end of the first episode; the message shows what was got and what is expected."""

    def samples_only(samples: list) -> list[float]:
        return []

    def no_prompts(completions: list) -> list[float]:
        return []

    def by_position(prompts: list, completions: list, /) -> list[float]:
        return []

    class NotMade:
        def __call__(self, prompts: list, completions: list) -> list[float]:
            return []

    expected = r"expected f\(prompts, completions, \*\*columns\) -> list\[float\]"
    for function, why in [
        (samples_only, r"'samples_only' has the signature \(samples.*takes no keyword 'prompts'"),
        (no_prompts, r"\(completions.*takes no keyword 'prompts'"),
        (by_position, r"takes no keyword 'prompts'"),
        (7, "a reward must be callable, got int 7"),
        ("length", "a reward must be callable, got str 'length'"),
    ]:
        with pytest.raises(ConfigError, match=f"{why}.*{expected}"):
            FunctionReward(function)
    with pytest.raises(ConfigError, match=r"got the class 'NotMade'.*NotMade\(\.\.\.\)"):
        FunctionReward(NotMade)
    with pytest.raises(ConfigError, match=r"takes no keyword 'completion_ids'.*f\(prompts, completion_ids"):
        TokenFunctionReward(lambda prompts: [0.0])


@pytest.mark.parametrize(
    "timeout",
    [0, -1, float("nan"), float("inf"), 1e30, pytest.param(10**5000, id="a number of 5,001 digits"), "3", True],
)
def test_bad_limits(timeout: Any) -> None:
    with pytest.raises(ConfigError, match=r"timeout must be a number of seconds above 0.*got"):
        FunctionReward(word_count, timeout=timeout)


@pytest.mark.parametrize("kind", ["episode", "token"])
def test_a_function_that_hangs_raises_in_time_and_works_again(kind: str) -> None:
    """CHECKS 20."""
    release = threading.Event()

    returned = []

    def hang(prompts: list, completions: Any = None, completion_ids: Any = None) -> list[float]:
        if prompts[0] == "hang":
            release.wait(HANG)
            returned.append("hang")
        return [1.0] * len(prompts)

    if kind == "episode":
        call: Any = FunctionReward(hang, timeout=0.2)
        limit, arguments = call._limit, {"completions": ["", ""]}
    else:
        reward = TokenFunctionReward(hang, timeout=0.2)
        call, limit, arguments = reward.score_tokens, reward._limit, {"completion_ids": [[1], [1]]}
    with pytest.raises(RewardTimeout, match=r"reward 'hang' did not answer within 0.2 s for 2 samples.*timeout="):
        call(prompts=["hang", "x"], **arguments)
    assert returned == []  # the limit has ended the call, and not the function itself
    limit.seconds = HANG
    assert call(prompts=["fine", "x"], **arguments) == [1.0, 1.0]
    release.set()


def test_a_late_answer_is_not_taken_for_the_next_calls() -> None:
    """CHECKS 20: the score of an abandoned call must never be paid to another episode."""

    release = threading.Event()

    def slow(prompts: list, completions: list) -> list[float]:
        if prompts == ["slow"]:
            release.wait(HANG)
            return [13.0]
        return [1.0]

    reward = FunctionReward(slow, timeout=0.1)
    with pytest.raises(RewardTimeout):
        reward(["slow"], [""])
    reward._limit.seconds = HANG
    assert reward(["fast"], [""]) == [1.0]
    (late,) = [worker for worker in reward._limit._hanging if worker.is_alive()]
    release.set()
    while late.is_alive():  # until its answer is there
        time.sleep(0.001)
    for _ in range(3):
        assert reward(["fast"], [""]) == [1.0]


def test_hanging_calls_are_counted_and_end_with_the_function() -> None:
    """A reward that hangs at every call must not fill the process with threads."""
    release, calls = threading.Event(), []

    def hang(prompts: list, completions: list) -> list[float]:
        calls.append(threading.current_thread())
        release.wait(HANG)
        return [1.0]

    reward = FunctionReward(hang, timeout=0.01)
    for _ in range(MOST_HANGING):
        with pytest.raises(RewardTimeout, match=r"did not answer within 0.01 s"):
            reward([""], [""])
    for _ in range(5):
        with pytest.raises(RewardTimeout, match=r"'hang' is not called again: 8 earlier calls .* still hold a thread"):
            reward([""], [""])
    assert len(threads_named("reward hang")) == MOST_HANGING
    release.set()
    while threads_named("reward hang"):
        time.sleep(0.001)
    reward._limit.seconds = HANG
    assert reward([""], [""]) == [1.0]
    assert len(calls) <= MOST_HANGING + 1


def test_the_process_exits_while_a_reward_hangs() -> None:
    """CHECKS 20."""
    code = (
        "import time\n"
        "from textrl_env.rewards import FunctionReward\n"
        "from textrl_env.errors import RewardTimeout\n"
        f"reward = FunctionReward(lambda prompts, completions: time.sleep({HANG}), timeout=0.1)\n"
        "try:\n    reward(['a'], ['b'])\nexcept RewardTimeout:\n    print('timed out')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG, check=False)
    assert (done.returncode, done.stdout) == (0, "timed out\n")


def test_ctrl_c_interrupts_the_wait() -> None:
    """A Ctrl-C during a slow reward must not wait for its limit."""
    code = (
        "import os, signal, threading, time\n"
        "from textrl_env.rewards import FunctionReward\n"
        # A process started in the background inherits an ignored SIGINT.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"reward = FunctionReward(lambda prompts, completions: time.sleep({HANG}), timeout={HANG})\n"
        "threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "try:\n    reward(['a'], ['b'])\nexcept KeyboardInterrupt:\n    print('interrupted')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG, check=False)
    assert done.stdout == "interrupted\n"


def test_the_thread_is_kept_between_calls_and_ends_with_the_reward() -> None:
    seen = set()

    def where(prompts: list, completions: list) -> list[float]:
        seen.add(threading.get_ident())
        return [0.0]

    reward = FunctionReward(where)
    for _ in range(5):
        reward(["a"], ["b"])
    assert len(seen) == 1
    assert seen != {threading.get_ident()}
    (thread,) = threads_named("reward where")
    del reward
    gc.collect()
    thread.join(timeout=HANG)
    assert threads_named("reward where") == []


def test_calls_from_several_threads_do_not_mix() -> None:
    def echo(prompts: list, completions: list) -> list[float]:
        time.sleep(0.001)
        return [float(prompts[0])]

    reward = FunctionReward(echo)
    wrong: list[Any] = []

    def work(number: int) -> None:
        wrong.extend(got for _ in range(20) if (got := reward([str(number)], [""])) != [float(number)])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_exceptions_and_exits_come_through_as_they_are() -> None:
    class MineError(Exception):
        pass

    def fails(prompts: list, completions: list, error: type[BaseException] = MineError) -> list[float]:
        raise error

    with pytest.raises(MineError):
        FunctionReward(fails)(["a"], ["b"])
    with pytest.raises(SystemExit):
        FunctionReward(lambda prompts, completions: sys.exit(3))(["a"], ["b"])


def test_copies_and_pickles() -> None:
    """Environments are copied, and sent to other processes; a running thread cannot be."""
    reward = FunctionReward(word_count, timeout=3.0)
    reward(["a"], ["b"])
    for other in (copy.deepcopy(reward), pickle.loads(pickle.dumps(reward))):
        assert other(["a"], ["b c"]) == [2.0]
        assert (other.timeout, other.__name__) == (3.0, "word_count")


def test_works_in_a_forked_process() -> None:
    """The thread does not survive a fork: a child that waited for it would hang."""
    code = (
        "import os\n"
        "from textrl_env.rewards import FunctionReward\n"
        f"reward = FunctionReward(lambda prompts, completions: [1.0], timeout={HANG})\n"
        "reward(['a'], ['b'])\n"
        "child = os.fork()\n"
        "if child == 0:\n    os._exit(0 if reward(['a'], ['b']) == [1.0] else 1)\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=HANG, check=False).returncode == 0


def test_async_functions_are_awaited() -> None:
    async def asynchronous(prompts: list, completions: list) -> list[float]:
        import asyncio

        await asyncio.sleep(0)
        return [2.0] * len(prompts)

    for timeout in (1.0, None):
        assert score_episodes(FunctionReward(asynchronous, timeout=timeout), ["a"], ["b"]).scores.tolist() == [2.0]


def test_names() -> None:
    assert FunctionReward(word_count).__name__ == "word_count"
    assert FunctionReward(word_count, name="words").__name__ == "words"
    assert reward_name(functools.partial(word_count)) == "word_count"
    assert "word_count" in repr(FunctionReward(word_count))


REWARDS = {
    "function": FunctionReward(word_count),
    "token": TokenFunctionReward(lambda prompts, completion_ids: [0.0]),
    "composite": CompositeReward([(word_count, 2.0), LengthReward()]),
    "length": LengthReward(),
    "repetition": RepetitionReward(),
}


@pytest.mark.parametrize("name", REWARDS)
def test_rewards_work_as_trl_reward_functions(name: str) -> None:
    """TRL calls by keyword, adds keywords of its own, reads `__name__`, and makes a tensor of the result."""
    import torch

    reward = REWARDS[name]
    assert re.fullmatch(r"[\w<>]+", reward.__name__)
    result = reward(
        prompts=["the soup", "the room"],
        completions=["was good", "was bad and cold"],
        completion_ids=[[1, 2], [3, 4, 5]],
        answer=["x", "y"],
        trainer_state=object(),
        log_metric=print,
    )
    assert isinstance(result, list)
    assert torch.tensor(result, dtype=torch.float32).shape == (2,)


@pytest.mark.parametrize("name", ["length", "repetition"])
def test_rewards_work_on_trl_chats(name: str) -> None:
    prompts = [[{"role": "user", "content": "hello"}]]
    completions = [[{"role": "assistant", "content": "good good good good good"}]]
    text = REWARDS[name](prompts=["hello"], completions=["good good good good good"])
    assert REWARDS[name](prompts=prompts, completions=completions, trainer_state=None) == text


def test_trl_style_functions_are_rewards_as_they_are() -> None:
    """TRL's own examples: completions only, data set columns by name, chats."""

    def reward_func(completions: list, **kwargs: Any) -> list[float]:
        return [float(len(completion)) for completion in completions]

    def accuracy(prompts: list, completions: list, ground_truth: list, **kwargs: Any) -> list[float]:
        answers = [completion[0]["content"] for completion in completions]
        return [float(answer == truth) for answer, truth in zip(answers, ground_truth, strict=True)]

    chat = [{"role": "user", "content": "2 + 2?"}]
    assert score_episodes(make_reward(reward_func), ["a"], ["four"]).scores.tolist() == [4.0]
    columns = {"ground_truth": ["4", "5"]}
    assert score_episodes(make_reward(accuracy), [chat, chat], ["4", "4"], None, columns).scores.tolist() == [
        1,
        0,
    ]
