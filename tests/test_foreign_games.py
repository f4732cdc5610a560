"""Games of other packages: their random state is their own, their courses repeat and can be saved."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys
import types
from random import Random
from typing import Any

import numpy as np
import pytest

from textrl_env import TextGenEnv
from textrl_env.errors import ConfigError, MissingExtra, ResetNeeded, UnknownName
from textrl_env.turns.foreign.foreign_turns import ForeignTurns
from textrl_env.turns.foreign.global_random import GlobalRandom
from textrl_env.turns.make import make_turn_env_factory

# --- random state --------------------------------------------------------------------------------------------------


def draws() -> tuple[float, float]:
    return random.random(), float(np.random.random())


def test_neither_side_disturbs_the_others_draws() -> None:
    random.seed(1)
    np.random.seed(1)
    undisturbed = [draws() for _ in range(4)]
    own = Random(7)
    expected = [own.random() for _ in range(4)]

    random.seed(1)
    np.random.seed(1)
    state, seen = GlobalRandom(), []
    outside = [draws()]
    with state.swapped(7):
        seen += [random.random() for _ in range(2)]
    outside += [draws(), draws()]
    with state.swapped():
        seen += [random.random() for _ in range(2)]
    with pytest.raises(IndexError), state.swapped():  # what raises within gives the state back too
        random.choice([])
    outside += [draws()]
    assert seen == expected
    assert outside == undisturbed


class Dice(ForeignTurns):
    """A foreign game that draws from the global state; with `leaky`, from elsewhere too."""

    def __init__(self, *, leaky: bool = False):
        super().__init__("dice")
        self.leaky = leaky

    def begin(self, seed: int) -> str:
        return f"{random.randint(1, 10**6)} {np.random.randint(10**6)}"

    def answer(self, reply: str) -> Any:
        elsewhere = Random().random() if self.leaky else 0
        return f"{random.randint(1, 10**6)} {elsewhere}", 0.0, reply == "stop", False, {}


def test_a_foreign_course_follows_from_its_seed_and_is_saved_as_its_replies() -> None:
    one, two = Dice(), Dice()
    assert one.reset(5) == two.reset(5)
    one.step("a")
    random.random()
    two.reset(6)
    two.set_state(json.loads(json.dumps(one.get_state())))
    assert [one.step(reply) for reply in ("b", "stop")] == [two.step(reply) for reply in ("b", "stop")]
    with pytest.raises(ResetNeeded, match="after the episode's end"):
        one.step("c")
    over = Dice()
    over.set_state(one.get_state())
    with pytest.raises(ResetNeeded, match="after the episode's end"):
        over.step("c")


def test_a_game_that_draws_from_elsewhere_is_not_resumed_in_silence() -> None:
    game = Dice(leaky=True)
    game.reset(5)
    game.step("a")
    with pytest.raises(ConfigError, match=r"dice cannot be resumed: .* draws from something that the seed does not"):
        Dice(leaky=True).set_state(game.get_state())
    for state in ({"seed": 5, "replies": ["stop", "a"], "last": ""}, {"seed": 5, "replies": []}):
        with pytest.raises(ConfigError, match="cannot be resumed"):
            Dice().set_state(state)
    fresh = Dice()
    fresh.set_state(Dice().get_state())  # one that had not begun
    with pytest.raises(ResetNeeded, match="before reset"):
        fresh.step("a")


# --- TextArena -----------------------------------------------------------------------------------------------------

ALONE = (
    "2048-v0",
    "Bandit-v0",
    "Blackjack-v0",
    "FifteenPuzzle-v0",
    "FrozenLake-v0",
    "GuessTheNumber-v0",
    "LightsOut-v0",
    "LogicPuzzle-v0",
    "Mastermind-v0",
    "Minesweeper-v0",
    "PegJump-v0",
    "Secretary-v0",
    "Set-v0",
    "Sokoban-v0",
    "Sudoku-v0",
    "TowerOfHanoi-v0",
)
"""Games that one player plays, and that need neither a key nor a download."""
MOVES = ("[7]", "[up]", "[right]", "[1 2]", "[A C]", "[stand]", "[hit]", "[continue]", "[1 1]", "[0 1]", "[red]", "hm")


def test_what_is_no_game_to_be_made_by_name_is_refused_before_textarena_is_imported() -> None:
    program = (
        "import sys\nfrom textrl_env.turns.make import make_turn_env_factory\n"
        "make_turn_env_factory('textarena:GuessTheNumber-v0')\nassert 'textarena' not in sys.modules"
    )
    if importlib.util.find_spec("textarena") is None:
        pytest.skip("textarena is not installed")
    for game, message in (
        ("Wordle-v0-hardcore", "downloads word lists"),
        ("TwentyQuestions-v0", "paid service"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_turn_env_factory(f"textarena:{game}")
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_without_textarena_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'textrl-env\[games\]'"):
        make_turn_env_factory("textarena:GuessTheNumber-v0")


def play(game: Any, seed: int) -> list[Any]:
    moves = Random(seed)
    course: list[Any] = [game.reset(seed)[0]]
    while len(course) < 25 and (len(course) == 1 or not course[-1][2]):
        course.append(game.step(moves.choice(MOVES))[:4])
    return course


@pytest.mark.slow  # importing textarena takes seconds
@pytest.mark.parametrize("game", ALONE)
def test_games_of_textarena_play_offline_and_leave_the_random_state_alone(
    game: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("textarena")

    def no_network(*args: Any, **others: Any) -> Any:
        raise AssertionError("the game opened a connection")

    monkeypatch.setattr("socket.socket.connect", no_network)
    make: Any = make_turn_env_factory(f"textarena:{game}")
    random.seed(3)
    np.random.seed(3)
    expected = draws()
    random.seed(3)
    np.random.seed(3)
    one, two = make(), make()
    course = play(one, 5)
    for seed in (6, 7):
        play(two, seed)
    assert play(two, 5) == course
    assert draws() == expected
    assert isinstance(course[0], str)
    assert len(course[0]) > 40
    assert len(course) == 25 or course[-1][2], "no end"
    state = json.loads(json.dumps(one.get_state()))
    two.set_state(state)
    assert two.get_state() == state


@pytest.mark.slow
def test_a_game_of_textarena_is_won_by_hand() -> None:
    pytest.importorskip("textarena")
    game: Any = make_turn_env_factory("textarena:GuessTheNumber-v0")()
    first, _ = game.reset(4)
    assert "between 1 and 20" in first
    low, high, over = 1, 20, False
    while not over:
        guess = (low + high) // 2
        text, reward, over, truncated, info = game.step(f"I think of [{guess}]")
        assert "I think of" not in text  # no echo
        low, high = (guess + 1, high) if "higher" in text else (low, guess - 1)
    assert (reward, truncated, info["success"]) == (1.0, False, True)


@pytest.mark.slow
def test_a_game_of_textarena_is_a_task() -> None:
    pytest.importorskip("textarena")
    env = TextGenEnv("textarena:GuessTheNumber-v0", max_turns=2, max_turn_tokens=8)
    observations = [env.reset(seed=seed)[0] for seed in (4, 4)]
    assert np.array_equal(observations[0], observations[1])
    over, steps = False, 0
    while not over:
        *_, over, _, info = env.step(steps % 7 + 40)
        steps += 1
    assert steps == 16
    assert "invalid move" in info["turns"][0]["reply"]
    assert info["finish_reason"] == "env"  # two invalid moves in a row end the game
    for name, message in (("textarena:Wordle-v0", "downloads word lists"), ("gem:game:Nope", "pip install gem-llm")):
        with pytest.raises(ConfigError, match=message):
            TextGenEnv(name)


@pytest.mark.slow
def test_what_textarena_does_not_have_or_one_does_not_play_alone_is_refused() -> None:
    pytest.importorskip("textarena")
    with pytest.raises(UnknownName, match="Did you mean 'GuessTheNumber-v0'"):
        make_turn_env_factory("textarena:GuessTheNumbr-v0")()
    duel: Any = make_turn_env_factory("textarena:TicTacToe-v0")()
    with pytest.raises(ConfigError, match="is not played alone"):
        duel.reset(1)
    with pytest.raises(ResetNeeded):
        duel.step("[1]")


# --- GEM, which is not installed with us: its signature, played by a stand-in of it ---------------------------------


class Count:
    """What an environment of GEM looks like: it seeds and draws from the global state."""

    def __init__(self, most: int):
        self.most = most

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        random.seed(seed)
        np.random.seed(seed)
        self.number = random.randint(1, self.most)
        return "Which number?", {"suffix": "Guess."}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return f"It is {self.number}, and {random.random()}.", float(action == str(self.number)), True, False, {}


@pytest.fixture
def gem(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(name: str) -> Count:
        return Count(*registration.ENV_REGISTRY[name])  # type: ignore[attr-defined]

    registration = types.ModuleType("gem.envs.registration")
    registration.ENV_REGISTRY = {"game:Count-v0": (9,), "game:Broken-v0": ()}  # type: ignore[attr-defined]
    registration.make = make  # type: ignore[attr-defined]
    package, envs = types.ModuleType("gem"), types.ModuleType("gem.envs")
    envs.registration = registration  # type: ignore[attr-defined]
    for name, module in (("gem", package), ("gem.envs", envs), ("gem.envs.registration", registration)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())


@pytest.mark.usefixtures("gem")
def test_an_environment_of_gem_is_played_by_its_signature() -> None:
    make: Any = make_turn_env_factory("gem:game:Count-v0")
    random.seed(3)
    expected = draws()[0]
    random.seed(3)
    one, two = make(), make()
    assert one.reset(8) == two.reset(8) == ("Which number?", {"seed": 8})
    number = Random(8).randint(1, 9)
    step = one.step(str(number))
    assert step == two.step(str(number))
    assert step[1:4] == (1.0, True, False)
    assert step[0].startswith(f"It is {number}")
    assert random.random() == expected
    with pytest.raises(UnknownName, match="Did you mean 'game:Count-v0'"):
        make_turn_env_factory("gem:game:Conut-v0")()
    with pytest.raises(ConfigError, match=r"gem:game:Broken-v0 cannot be made: TypeError"):
        make_turn_env_factory("gem:game:Broken-v0")().reset(1)


def test_without_gem_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install gem-llm"):
        make_turn_env_factory("gem:game:GuessTheNumber-v0")
