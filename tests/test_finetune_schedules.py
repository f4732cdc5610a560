"""All schedules of the fine-tuning environment: a tree is what straight play gives, and those that ship are true."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from textrl_env.errors import AssetError, ConfigError, ModelError, UnknownName
from textrl_env.finetune import FineTuneEnv
from textrl_env.finetune.enumerate import DATA, described, make_tree
from textrl_env.finetune.replay import enumerated_env
from textrl_env.finetune.schedule_tree import ScheduleTree, enumerate_schedules, enumerated_names, tree_path
from textrl_env.finetune.schedules import play_rates, scheduled_rates

ROWS = [{"prompt": f"the {noun} was", "completion": f" {word}"} for noun in ("soup", "room") for word in "abcdefgh"]


@pytest.fixture
def env(make_model: Any, tiny_tokenizer: Any) -> FineTuneEnv:
    """Three segments and three multipliers; the third diverges where it comes twice."""
    return FineTuneEnv(
        ROWS,
        model=make_model(),
        tokenizer=tiny_tokenizer,
        steps=1,
        batch_size=4,
        segments=3,
        learning_rate=1e-3,
        multipliers=(0.5, 2.0, 1e4),
    )


@pytest.fixture
def tree(env: FineTuneEnv, monkeypatch: pytest.MonkeyPatch) -> ScheduleTree:
    monkeypatch.setattr("textrl_env.finetune.enumerate.DOUBLINGS", range(2))
    return make_tree(env)


def straight(env: FineTuneEnv, actions: tuple[int, ...]) -> list[Any]:
    """What each step gives, without snapshots; until the end."""
    steps = [(env.reset()[0].tobytes(), 0.0, False)]
    for action in actions:
        observation, reward, ended, _, _ = env.step(action)
        steps.append((observation.tobytes(), reward, ended))
        if ended:
            break
    return steps


def test_the_tree_is_what_straight_play_gives_bit_for_bit(env: FineTuneEnv, tree: ScheduleTree):
    replayed = enumerated_env(tree)
    gains, diverged = tree.gains(), 0
    for actions in itertools.product(range(3), repeat=3):
        steps = straight(env, actions)
        assert straight(replayed, actions) == steps
        assert tree.gain(actions) == gains[actions] == pytest.approx(sum(reward for _, reward, _ in steps), abs=1e-12)
        diverged += len(steps) < 4
    assert diverged  # that a run ended early is part of what is compared
    assert diverged < 27
    best = tree.best()
    assert best.gain == max(tree.gain(actions) for actions in itertools.product(range(3), repeat=3))
    assert tree.gain(best.actions) == best.gain


def test_each_segment_is_trained_once(env: FineTuneEnv, monkeypatch: pytest.MonkeyPatch):
    env = FineTuneEnv(run=env.run, segments=3, multipliers=(0.5, 1.0))
    trained, told, train = 0, [], env.run.train

    def counted(settings: Any) -> Any:
        nonlocal trained
        trained += 1
        return train(settings)

    monkeypatch.setattr(env.run, "train", counted)
    levels = enumerate_schedules(env, lambda done, total: told.append((done, total)))
    assert trained == 2 + 4 + 8
    assert told == [(done, 14) for done in range(1, 15)]
    assert not any(np.isnan(level).any() for level in levels)


def test_a_tree_is_saved_whole(tree: ScheduleTree, tmp_path: Path):
    path = tmp_path / "tree.safetensors"
    tree.save(path)
    read = ScheduleTree.load(path)
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(tree.levels, read.levels, strict=True))
    assert (read.multipliers, read.settings, read.made_with) == (tree.multipliers, tree.settings, tree.made_with)
    assert read.best_baseline("cosine") == tree.best_baseline("cosine")
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(AssetError, match=r"cannot be read .* Make them again: python -m textrl_env.finetune.enumerate"):
        ScheduleTree.load(path)
    with pytest.raises(AssetError, match="cannot be read"):
        ScheduleTree.load(tmp_path / "gone")
    ScheduleTree([*tree.levels[:-1], tree.levels[-1][1:]], tree.multipliers, {}, {}, {}).save(path)
    with pytest.raises(AssetError, match="are no tree"):
        ScheduleTree.load(path)


def test_what_the_replay_refuses(tree: ScheduleTree):
    env = enumerated_env(tree)
    env.reset()
    with pytest.raises(ConfigError, match="is not in the tree"):
        play_rates(env.run, [1e-3 / 3], 0)
    with pytest.raises(ConfigError, match="played with order_seed=0, got 1"):
        env.run.begin(1)
    with pytest.raises(UnknownName, match="data set with enumerated schedules"):
        enumerated_env("no such data")


def test_a_place_in_another_tree_is_refused(tree: ScheduleTree):
    env = enumerated_env(tree)
    env.reset()
    env.step(1)
    here = env.snapshot()
    other = enumerated_env("translate")
    other.reset()
    for wrong in (here._replace(run=other.run.snapshot()), here._replace(run=((1, 0), 1e-3))):
        with pytest.raises(ModelError, match="no place in the tree of own rows"):
            env.restore(wrong)
    went_on = env.step(1)[1]
    env.restore(here)
    assert env.step(1)[1] == went_on


@pytest.mark.parametrize("more", [{"stop": True}, {"optimizers": ["adamw", "sgd"]}, {"batch_factors": (1, 2)}])
def test_a_tree_has_learning_rates_alone(env: FineTuneEnv, more: dict[str, Any]):
    with pytest.raises(ConfigError, match="learning rates alone"):
        enumerate_schedules(FineTuneEnv(run=env.run, segments=1, **more))


def test_what_a_divergence_leaves_out_counts_as_done(env: FineTuneEnv):
    told: list[tuple[int, int]] = []
    enumerate_schedules(env, lambda done, total: told.append((done, total)))
    assert told[-1] == (39, 39)


def test_an_order_that_changes_has_no_tree(env: FineTuneEnv):
    with pytest.raises(ConfigError, match="give an order_seed"):
        enumerate_schedules(FineTuneEnv(run=env.run, order_seed=None))


def test_fixed_schedules_by_hand(tree: ScheduleTree, env: FineTuneEnv):
    assert scheduled_rates("constant", 3.0, 2) == [3.0, 3.0]
    assert scheduled_rates("linear", 4.0, 2) == [3.0, 1.0]
    assert scheduled_rates("cosine", 2.0, 2) == pytest.approx([1 + math.sqrt(0.5), 1 - math.sqrt(0.5)])
    peaks, gains = tree.baselines["constant"]
    assert peaks.tolist() == [1e-3, 2e-3]
    env = FineTuneEnv(run=env.run, segments=3, multipliers=(1.0, 2.0))
    assert gains[0] == pytest.approx(sum(reward for _, reward, _ in straight(env, (0, 0, 0))), abs=1e-12)
    assert gains[1] == pytest.approx(sum(reward for _, reward, _ in straight(env, (1, 0, 0))), abs=1e-12)


# --- those that ship --------------------------------------------------------------------------------------


def test_the_data_sets_that_ship():
    assert enumerated_names() == sorted(DATA)
    for data in DATA:
        tree = ScheduleTree.load(tree_path(data))
        assert tree.gains().size == 3125
        assert sum(len(level) for level in tree.levels[1:]) == 3905
        best = tree.best()
        rates = tree.rates(best.actions)
        assert len(set(best.actions)) > 1, "the best schedule is trivial"
        assert max(rates) > tree.settings["learning_rate"]
        assert tree.best_baseline("constant")[1] < best.gain


@pytest.mark.parametrize("data", DATA)
def test_what_ships_is_of_the_environment_as_it_is(data: str):
    """The model, the data, the settings; and the best schedule is as good as it says.

    On another processor or with other versions the last digits differ, and the differences grow over twenty updates.
    """
    env, tree = FineTuneEnv(data), ScheduleTree.load(tree_path(data))
    assert described(env) == tree.settings, "make the trees again: python -m textrl_env.finetune.enumerate"
    steps = straight(env, tree.best().actions)
    assert sum(reward for _, reward, _ in steps) == pytest.approx(tree.best().gain, abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("data", DATA)
def test_schedules_that_ship_are_those_that_are_played(data: str):
    env, tree = FineTuneEnv(data), ScheduleTree.load(tree_path(data))
    rng = np.random.default_rng(0)
    tried = [(2,) * 5, (4, 4, 2, 1, 0), *(tuple(rng.integers(5, size=5).tolist()) for _ in range(4))]
    for actions in tried:
        assert sum(reward for _, reward, _ in straight(env, actions)) == pytest.approx(tree.gain(actions), abs=2e-2)
    peak, gain = tree.best_baseline("cosine")
    assert play_rates(env.run, scheduled_rates("cosine", peak, 5), 0) == pytest.approx(gain, abs=2e-3)
