"""The names of tasks: Gymnasium ids, entry points of installed packages, and the data sets of reasoning_gym."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from conftest import quick
from gymnasium.utils.env_checker import check_env

import textrl_env
from textrl_env import Task, TextGenEnv, plugins, register_task
from textrl_env.errors import ConfigError, MissingExtra, UnknownName
from textrl_env.rewards import make_reward, registered_rewards
from textrl_env.rewards import registry as reward_registry
from textrl_env.rewards.scoring import score_episodes
from textrl_env.tasks import get_task, registry, task_names
from textrl_env.tasks.registry import BUILT_IN

# --- Gymnasium ids ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", quick(["sentiment", "guess"], BUILT_IN))
def test_every_built_in_task_has_an_id(name: str):
    env = gymnasium.make(f"TextRLHF-{name.capitalize()}-v0")
    assert env.unwrapped.task is get_task(name)
    check_env(env.unwrapped)


def test_the_ids_are_those_of_the_tasks_and_take_arguments():
    ids = {name for name in gymnasium.registry if name.startswith("TextRLHF-")}
    assert ids == {"TextRLHF-v0", "TextRLHF-FineTune-v0", *(f"TextRLHF-{name.capitalize()}-v0" for name in BUILT_IN)}
    env = gymnasium.make("TextRLHF-Arithmetic-v0", kl_coef=0.25, split="heldout")
    assert env.unwrapped.kl_penalty.coef == 0.25
    vector_env = gymnasium.make_vec("TextRLHF-Exact-v0", num_envs=3)
    assert isinstance(vector_env.unwrapped, textrl_env.TextGenVectorEnv)
    assert vector_env.reset(seed=0)[0].shape == (3, 6)
    vector_env.close()


# --- entry points -----------------------------------------------------------------------------------------

PLUGIN = """
from textrl_env import Task

loaded = True
task = Task("theirs", prompts=["b"], heldout_prompts=["c"], reward="length", model="embedded")

def make_task():
    return task

def raises():
    raise RuntimeError("no data here")

class Longer:
    def __init__(self, factor=1.0):
        self.factor = factor
    def __call__(self, prompts, completions, **columns):
        return [self.factor * len(text) for text in completions]
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`install(group, name="module:attribute", ...)`: a package with these entry points, gone after the test."""
    (tmp_path / "textrl_plugin.py").write_text(PLUGIN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_REGISTERED", {})

    def install(group: str, package: str = "their_package", **entries: str) -> None:
        folder = tmp_path / f"{package}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8")
        lines = [f"[{group}]", *(f"{name.replace('_', '-')} = {value}" for name, value in entries.items())]
        (folder / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
        plugins.plugins.cache_clear()

    plugins.plugins.cache_clear()
    registry._plugin_task.cache_clear()
    yield install
    plugins.plugins.cache_clear()
    registry._plugin_task.cache_clear()
    sys.modules.pop("textrl_plugin", None)


@pytest.mark.parametrize("value", ["textrl_plugin:task", "textrl_plugin:make_task"])
def test_a_package_brings_a_task(install: Callable[..., None], value: str):
    install(registry.GROUP, theirs=value)
    assert "theirs" in task_names()
    assert registry.is_built_in("theirs"), "every process has the package"
    assert "textrl_plugin" not in sys.modules, "listing names loads nothing"
    task = get_task("theirs")
    assert isinstance(task, Task)
    assert task.name == "theirs"
    assert get_task("theirs") is task
    assert TextGenEnv("theirs").task is task
    with pytest.raises(ConfigError, match="'theirs' is registered already"):
        register_task(task)
    with pytest.raises(UnknownName, match="Did you mean 'theirs'"):
        get_task("their")


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ("no_such_module:task", "'broken' of group 'textrl.tasks'.*of their_package, cannot be loaded: ModuleNotFound"),
        ("textrl_plugin:nothing", "'textrl_plugin:nothing' of their_package, cannot be loaded: AttributeError"),
        ("textrl_plugin:loaded", "gives bool, expected a Task or a function"),
        ("textrl_plugin:raises", "raised RuntimeError: no data here"),
    ],
)
def test_a_broken_entry_point_names_itself(install: Callable[..., None], value: str, match: str):
    install(registry.GROUP, broken=value)
    assert "broken" in task_names()
    with pytest.raises(ConfigError, match=match):
        get_task("broken")
    assert get_task("exact").name == "exact", "the others still work"


def test_a_package_brings_a_reward(install: Callable[..., None]):
    install(reward_registry.GROUP, longer="textrl_plugin:Longer", bad="textrl_plugin:loaded", gone="nowhere:f")
    assert {"longer", "bad", "gone", "embedded"} <= set(registered_rewards())
    assert reward_registry.is_built_in("longer")
    assert "textrl_plugin" not in sys.modules
    assert make_reward("longer", factor=2.0)(prompts=["a"], completions=["abc"]) == [6.0]
    with pytest.raises(ConfigError, match=r"reward 'longer' does not take the arguments \['size'\]"):
        make_reward("longer", size=1)
    with pytest.raises(ConfigError, match=r"'bad' of group 'textrl.rewards'.*gives bool, expected a function"):
        make_reward("bad")
    with pytest.raises(ConfigError, match=r"'gone'.*cannot be loaded: ModuleNotFoundError"):
        make_reward("gone")
    with pytest.raises(UnknownName, match="Did you mean 'longer'"):
        make_reward("longr")


def test_a_reward_that_this_process_registers_goes_before_a_packages(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    install(reward_registry.GROUP, longer="textrl_plugin:Longer")
    monkeypatch.setattr(reward_registry, "_factories", dict(reward_registry._factories))
    reward_registry.register_reward("longer", lambda: lambda prompts, completions: [0.0])
    assert make_reward("longer")(prompts=["a"], completions=["abc"]) == [0.0]
    assert not reward_registry.is_built_in("longer"), "other processes have the package's"


def test_two_packages_with_one_name_are_an_error(install: Callable[..., None]):
    install(registry.GROUP, theirs="textrl_plugin:task")
    install(registry.GROUP, package="other_package", theirs="textrl_plugin:make_task")
    with pytest.raises(ConfigError, match=r"two installed packages bring the entry point 'theirs'.*_package.*uninst"):
        task_names()


def test_an_entry_point_without_a_package_can_be_named(monkeypatch: pytest.MonkeyPatch):
    entry = EntryPoint("x", "nowhere:f", "textrl.tasks")
    monkeypatch.setattr(plugins, "plugins", lambda group: {"x": entry})
    with pytest.raises(ConfigError, match=r"entry point 'x' of group 'textrl.tasks', 'nowhere:f', cannot be loaded"):
        plugins.load_plugin("textrl.tasks", "x")


# --- reasoning_gym ----------------------------------------------------------------------------------------


def test_a_data_set_of_reasoning_gym_is_a_task():
    pytest.importorskip("reasoning_gym")
    task = get_task("reasoning_gym:chain_sum")
    assert task is get_task("reasoning_gym:chain_sum")
    assert task.name == "reasoning_gym:chain_sum"
    assert registry.is_built_in(task.name), "RLlib's processes know it by name"
    assert not registry.is_built_in("reasoning_gyms")
    train, validation, heldout = task.prompts(), task.validation_prompts(), task.heldout_prompts()
    asked = [row["prompt"] for row in train + validation + heldout]
    assert len(set(asked)) == len(asked)
    assert len(train) > 200
    assert len(validation) > 50
    assert len(heldout) > 50
    assert train == task.prompts(), "the problems are seeded"
    entry = train[0]["entry"]

    def score(text: str) -> list[float]:
        columns = {"entry": [entry]}
        return [
            score_episodes(make_reward(each), [train[0]["prompt"]], [text], None, columns).scores[0]
            for each in (task.reward, task.gold)
        ]

    assert score(f" {entry['answer']}\n") == [1.0, 1.0]
    assert score(f"So <answer>{entry['answer']}</answer>.") == [1.0, 1.0]
    partly, gold = score(f"{entry['answer']} or so, I think, more or less")
    assert 0 < partly < 1
    assert gold == 0
    assert score("") == [0.0, 0.0]


def test_an_answer_that_reasoning_gym_cannot_read_scores_nothing():
    """Its prime_factorization raises ValueError there."""
    pytest.importorskip("reasoning_gym")
    task = get_task("reasoning_gym:prime_factorization")
    row = task.prompts()[0]
    answers = ["no idea", row["entry"]["answer"]]
    scored = score_episodes(make_reward(task.reward), [row["prompt"]] * 2, answers, None, {"entry": [row["entry"]] * 2})
    assert scored.scores.tolist() == [0.0, 1.0]


def test_the_embedded_model_runs_on_reasoning_gym():
    pytest.importorskip("reasoning_gym")
    env = TextGenEnv("reasoning_gym:word_sorting", max_prompt_tokens=64, max_new_tokens=3)
    assert all(len(env.prompts[index].ids) <= 64 for index in range(10))
    env.reset(seed=0)
    steps = [env.step(token) for token in (300, 301, 302)]
    assert steps[-1][2]
    assert steps[-1][4]["score"] == steps[-1][4]["gold_score"] == 0.0


def test_names_of_reasoning_gym_that_cannot_work(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("reasoning_gym")
    with pytest.raises(UnknownName, match=r"unknown reasoning_gym data set 'chain_sums'. Did you mean 'chain_sum'"):
        get_task("reasoning_gym:chain_sums")
    with pytest.raises(ConfigError, match="'composite' cannot be made with its default settings"):
        get_task("reasoning_gym:composite")
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(MissingExtra, match=r"reasoning_gym is not installed.*textrl-env\[reasoning-gym\]"):
        get_task("reasoning_gym:spell_backward")


def test_a_task_names_the_extra_that_it_needs(monkeypatch: pytest.MonkeyPatch):
    needs: dict[str, Any] = {"no_such_package": "tasks"}
    task = Task("needy", prompts=["b"], reward="length", requires=needs)
    with pytest.raises(MissingExtra, match=r"no_such_package is not installed.*pip install 'textrl-env\[tasks\]'"):
        TextGenEnv(task)
