"""The built-in turn environments: their rules by hand, their splits, their seeds, their saved states, and bad input."""

from __future__ import annotations

import itertools
import json
from random import Random
from typing import Any

import pytest

from textrl_env.errors import ConfigError, InvalidAction, ResetNeeded, UnknownName
from textrl_env.language.goods import GROUPS
from textrl_env.tasks import get_task
from textrl_env.turns.built_in import calculator, clarify, exact_turns, guess, safe_chat
from textrl_env.turns.make import BUILT_IN, make_turn_env_factory
from textrl_env.turns.seeds import CYCLE, PLACES, split_of, split_seed, split_states

REPLIES = (
    "38",
    "7",
    "What do you like?",
    "What do you have?",
    "tea, cup",
    "abc",
    "",
    "<call>1 + 1</call>",
    "No.",
)


def play(env: Any, seed: int, replies: Random) -> list[Any]:
    """Play an episode to its end with replies at random."""
    course: list[Any] = [env.reset(seed)[0]]
    while len(course) == 1 or not course[-1][2]:
        course.append(env.step(replies.choice(REPLIES)))
        assert len(course) < 20, "the episode does not end by itself"
    return course


@pytest.mark.parametrize("name", BUILT_IN)
def test_an_episode_follows_from_its_seed_and_the_replies(name: str) -> None:
    make = make_turn_env_factory(name)
    for seed in range(20):
        assert play(make(), seed, Random(seed)) == play(make(), seed, Random(seed))
    firsts = {play(make(), seed, Random(0))[0] for seed in range(200)}
    assert len(firsts) > 1 or name == "clarify"  # whose first message is always the same


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_reward_is_the_sum_of_its_parts_and_the_end_says_whether_it_succeeded(name: str) -> None:
    make = make_turn_env_factory(name)
    for seed in range(30):
        steps = play(make(), seed, Random(seed))[1:]
        for _, reward, over, truncated, info in steps:
            assert reward == pytest.approx(sum(info["score_parts"].values()))
            assert not truncated
            assert ("success" in info) is over


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_saved_episode_goes_on_as_it_would_have(name: str) -> None:
    make = make_turn_env_factory(name)
    for seed in range(12):
        whole = play(make(), seed, Random(seed))
        for cut in range(len(whole) - 1):
            env: Any = make()
            other: Any = make()
            replies = Random(seed)
            env.reset(seed)
            for _ in range(cut):
                env.step(replies.choice(REPLIES))
            other.reset(seed + 1)  # which must leave no trace
            other.set_state(json.loads(json.dumps(env.get_state())))
            rest = [other.step(replies.choice(REPLIES)) for _ in range(len(whole) - 1 - cut)]
            assert rest == whole[1 + cut :]


@pytest.mark.parametrize("name", BUILT_IN)
def test_nonsense_is_refused_and_changes_nothing(name: str) -> None:
    env: Any = make_turn_env_factory(name)()
    with pytest.raises(ResetNeeded, match="call reset first"):
        env.step("7")
    for seed in (-1, 1.5, "3", True):
        with pytest.raises(ConfigError, match="seed must be a whole number >= 0"):
            env.reset(seed)
    env.reset(3)
    before = env.get_state()
    for action in (7, None, ["38"], b"38"):
        with pytest.raises(InvalidAction, match="a reply must be a text"):
            env.step(action)
    assert env.get_state() == before
    states: list[Any] = [None, [], {}, {"seed": 3}, {"seed": 3, "replies": "38"}, {"seed": "x", "replies": []}]
    for state in states:
        with pytest.raises(ConfigError):
            env.set_state(state)
    play(env, 3, Random(0))
    with pytest.raises(ResetNeeded, match="after the episode's end"):
        env.step("7")


def test_a_reset_without_a_seed_begins_an_episode_of_the_train_split() -> None:
    env = guess.Guess()
    seeds = [env.reset()[1]["seed"] for _ in range(8)]
    assert len(set(seeds)) == 8
    assert {split_of(seed) for seed in seeds} == {"train"}


def test_splits_of_seeds_are_apart_and_complete() -> None:
    assert sorted(itertools.chain(*PLACES.values())) == list(range(CYCLE))
    for split in PLACES:
        seeds = [split_seed(split, number) for number in range(50)]
        assert seeds == sorted(set(seeds))
        assert {split_of(seed) for seed in seeds} == {split}
    with pytest.raises(UnknownName, match="split"):
        split_seed("test", 0)
    with pytest.raises(ConfigError, match="number must be"):
        split_seed("train", -1)


def test_states_that_are_about_one_thing_stay_together() -> None:
    states = split_states([(a, b) for a in range(20) for b in range(20)], lambda state: sorted(state))
    sides = [{tuple(sorted(state)) for state in states[split]} for split in states]
    assert sum(map(len, sides)) == 210 == len(set().union(*sides))


def hidden(name: str, split: str) -> set[Any]:
    """Draw what is hidden in 600 episodes of a split."""
    found: set[Any] = set()
    env: Any = make_turn_env_factory(name)()
    for number in range(600):
        env.reset(split_seed(split, number))
        if name == "guess":
            found.add((env.low, env.number))
        elif name == "calculator":
            found.add(tuple(sorted(env.asked.sum, key=str)))
        elif name == "clarify":
            found.add((env.group, env.owned))
        else:
            found.add(env.question)
    return found


@pytest.mark.parametrize("name", sorted(set(BUILT_IN) - {"exact_turns"}))
def test_no_hidden_state_is_in_two_splits(name: str) -> None:
    train, validation, heldout = (hidden(name, split) for split in ("train", "validation", "heldout"))
    assert min(len(train), len(validation), len(heldout)) >= 3
    assert not train & validation
    assert not train & heldout
    assert not validation & heldout


# --- the rules, each by hand --------------------------------------------------------------------------------


def test_guess_by_hand() -> None:
    env = guess.Guess()
    env.reset(3)
    env.low, env.high, env.number = 31, 46, 40
    assert env.step("I say 38.")[:3] == ("Higher. From 39 to 46.", 0.0, False)
    assert env.step("43")[:3] == ("Lower. From 39 to 42.", 0.0, False)
    assert env.step("44")[:3] == ("Lower. From 39 to 42.", -0.1, False)
    assert env.step("40")[:3] == ("Yes!", 1.0, True)
    env.reset(3)
    env.low, env.high, env.number = 31, 46, 40
    for reply in ("no idea", "38 or 39", "40.5"):
        assert env.step(reply)[:3] == ("No. From 31 to 46.", -0.1, False)
    text, reward, over, _, info = env.step("31")
    assert (text, reward, over, info["success"]) == ("It was 40.", 0.0, True, False)


def test_halving_finds_fifteen_of_sixteen_numbers() -> None:
    found = 0
    for number in range(guess.WIDTH):
        env = guess.Guess()
        env.reset(0)
        env.low, env.high, env.number = 1, guess.WIDTH, 1 + number
        over = False
        while not over:
            *_, over, _, info = env.step(str((env.low + env.high) // 2))
        found += info["success"]
    assert found == 15


def test_calculator_by_hand_and_its_sums_are_those_of_arithmetic() -> None:
    env = calculator.Calculator()
    first, _ = env.reset(3)
    left, sign, right = env.asked.sum
    assert first == f"What is {left} {sign} {right}?"
    text, reward, over, _, info = env.step(f"I use <call>{left} {sign} {right}</call>")
    assert (text, reward, over, info["called"]) == (str(env.asked.value), 0.0, False, 1)
    assert env.step("<call>1 / 0</call>")[0] == "error: ZeroDivisionError: division by zero"
    _, reward, over, _, info = env.step("<call>1</call>")  # a third call is an answer
    assert (reward, over, info["success"]) == (0.0, True, False)
    env.reset(3)
    assert env.step(f" {env.asked.value}\n")[1:3] == (1.0, True)
    env.reset(3)
    assert env.step(f"{env.asked.value + 1}")[1:3] == (0.1, True)
    for split, prompts in (("train", "prompts"), ("heldout", "heldout_prompts")):
        rows = getattr(get_task("arithmetic"), prompts)()
        assert {f"{a} {sign} {b} =" for a, sign, b in calculator.STATES[split]} == {row["prompt"] for row in rows}


def test_clarify_by_hand() -> None:
    env = clarify.Clarify()
    env.reset(3)
    env.group, env.owned, env.shelf = "tea", ("tea", "kettle", "cup"), list(GROUPS["tea"])
    assert env.step("What do you like?")[:2] == (f"I like tea things: {', '.join(GROUPS['tea'])}.", -0.05)
    assert env.step("what do you OWN already?")[:2] == ("I have tea, kettle, cup.", -0.05)
    assert env.step("How are you?")[:2] == ("I do not understand.", -0.1)
    _, reward, over, _, info = env.step("Honey, lemon and spoon.")
    assert (reward, over, info["success"]) == (1.0, True, True)
    for named, score in (
        ("honey, lemon, tea", 2 / 3),
        ("honey, honey, honey", 1 / 3),
        ("honey", 1 / 3),
        ("honey, lemon, spoon, biscuit", 1.0),
        ("honey, lemon, spoon, drum", 3 / 4),
        (", ".join(itertools.chain(*GROUPS.values())), 5 / 48),
        ("", 0.0),
    ):
        env.reset(3)
        env.group, env.owned = "tea", ("tea", "kettle", "cup")
        assert env.step(named)[1] == pytest.approx(score), named


def test_questions_without_end_end_and_pay_nothing() -> None:
    env = clarify.Clarify()
    env.reset(3)
    steps = [env.step("?") for _ in range(4)]
    assert [over for _, _, over, _, _ in steps] == [False, False, False, True]
    assert sum(reward for _, reward, *_ in steps) == pytest.approx(-0.4)


def talk(replies: list[str], *, fact_turn: int) -> tuple[list[str], list[dict[str, float]], bool]:
    """Have a conversation in which the fact is asked for in that turn: messages, parts of each turn, success."""
    number = 0
    env = safe_chat.SafeChat()
    while env.reset(split_seed("train", number)) and env.fact_turn != fact_turn:
        number += 1
    steps = [env.step(reply.format(key=env.key)) for reply in replies]
    return [step[0] for step in steps], [step[4]["score_parts"] for step in steps], steps[-1][4]["success"]


def test_safe_chat_by_hand() -> None:
    full: Any = {"helpful": pytest.approx(0.2), "harmless": pytest.approx(0.4 / 3)}
    decline, agree = "I am sorry, I cannot help with that.", "Sure. Go there at night."
    said, parts, success = talk([decline, decline, "It is {key}."], fact_turn=3)
    assert (parts, success) == ([full, full, full], True)
    assert said[0].startswith(("You ", "Hey ", "Just tell me!"))
    assert said[0].endswith("?")
    said, parts, success = talk(["It is {key}.", agree, decline], fact_turn=1)
    assert (parts[1], success) == ({"helpful": 0.0, "harmless": 0.0}, False)
    assert said[1].startswith(("Good.", "And then?"))
    assert parts[2] == full
    # Refusing all loses the fact; a rude refusal is not harmless; agreeing and refusing at once is no help.
    assert talk([decline] * 3, fact_turn=1)[1][0]["helpful"] == 0.0
    assert talk([f"You fool! {decline}"] * 3, fact_turn=3)[1][0] == {"helpful": full["helpful"], "harmless": 0.0}
    assert talk([f"{agree} {decline}"] * 3, fact_turn=3)[1][0] == {"helpful": 0.0, "harmless": 0.0}
    assert talk([""] * 3, fact_turn=3)[1][0] == {"helpful": 0.0, "harmless": 0.0}


def test_exact_turns_by_hand_and_greed_in_the_first_turn_is_not_best() -> None:
    env = exact_turns.ExactTurns()
    seed = next(seed for seed in range(99) if env.reset(seed)[0] == "a")

    def paid(*replies: str) -> tuple[str, float, float]:
        env.reset(seed)
        said, first, *_ = env.step(replies[0])
        return said, first, env.step(replies[1])[1]

    assert paid("bcd", "abc") == ("d", 3.0, 4.0)
    assert paid("bca", "bcd") == ("a", 2.0, 6.0)
    assert paid("", "") == ("d", 0.0, 0.0)
    replies = ["".join(each) for length in range(4) for each in itertools.product(exact_turns.LETTERS, repeat=length)]
    totals = {pair: sum(paid(*pair)[1:]) for pair in itertools.product(replies, replies)}
    best = max(totals.values())
    assert best == 8.0
    assert max(total for (first, _), total in totals.items() if paid(first, "")[1] == 3.0) == 7.0


# --- names ----------------------------------------------------------------------------------------------------


class Own:
    """The least that is a turn environment."""

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        return "Hello.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "Bye.", 1.0, True, False, {}


def broken() -> Any:
    raise OSError("no such board")


NOT_CALLABLE = 3


def test_what_names_a_turn_environment() -> None:
    for value in (Own, lambda: Own(), f"{__name__}:Own"):
        factory = make_turn_env_factory(value)
        assert type(factory()) is Own
        assert factory() is not factory()
    for name in BUILT_IN:
        made: Any = make_turn_env_factory(name)()
        assert made.reset(seed=1)[0]


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("gues", UnknownName, "Did you mean 'guess'"),
        ("", UnknownName, "unknown turn environment ''"),
        ("textarena:", UnknownName, "textarena:<id>"),
        ("openenv:http://127.0.0.1:1", UnknownName, "unknown turn environment"),
        ("no.such.module:Game", ConfigError, "cannot be imported"),
        (f"{__name__}:Owl", UnknownName, "Did you mean 'Own'"),
        (f"{__name__}:NOT_CALLABLE", ConfigError, "must be a class or a function, got 3"),
        (Own(), ConfigError, "one for each row, and not be one"),
        (3, ConfigError, "got int: 3"),
        (None, ConfigError, "got NoneType"),
    ],
)
def test_what_names_none_is_refused(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_turn_env_factory(value)


def test_a_factory_that_makes_no_turn_environment_says_so() -> None:
    with pytest.raises(ConfigError, match=r"must have reset\(seed\) and step\(action\), got dict"):
        make_turn_env_factory(dict)()
    with pytest.raises(ConfigError, match="cannot be made: OSError: no such board"):
        make_turn_env_factory(broken)()
