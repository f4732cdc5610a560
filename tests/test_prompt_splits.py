"""Prompts to train on, to choose by and to report: disjoint by what they ask, and called what they are everywhere."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from textrl_agents.algorithms.cell import Cell
from textrl_agents.algorithms.cell_setup import judging_env, training_env
from textrl_agents.benchmark.run_cell import run_cell
from textrl_agents.cli import app
from textrl_agents.evaluation import evaluate
from textrl_agents.evaluation.heldout_env import sibling_env
from textrl_agents.evaluation.tables import comparison_table, evaluation_table, sample_table
from textrl_agents.runs.config import TrainConfig
from textrl_agents.runs.plots import plot_run
from textrl_agents.runs.train import RunResult, train
from textrl_env import Task, TextGenEnv, TextGenVectorEnv
from textrl_env.errors import ConfigError, UnknownName
from textrl_env.tasks import get_task
from textrl_env.tasks.registry import BUILT_IN
from textrl_env.tasks.splits import best_split, own_task, split_rows
from textrl_env.text.prompt_rows import load_rows
from textrl_env.text.prompt_splits import SPLITS, prompt_item, split_places

OWN = [first + second for first, second in itertools.product("abcde", repeat=2)][:24]  # prompts over exact's letters
EIGHTHS = {"heldout": 8, "validation": 8}


def texts(task: Task | str, split: str | None = None, **arguments: Any) -> list[Any]:
    return [prompt.text for prompt in TextGenEnv(task, split=split, **arguments).prompts]


# --- the cut ----------------------------------------------------------------------------------------------


def test_an_eighth_each_is_held_back_and_the_rest_trained_on():
    places = split_places([f"item {n}" for n in range(40)], EIGHTHS)
    assert {split: len(found) for split, found in places.items()} == {"train": 30, "heldout": 5, "validation": 5}
    assert sorted(itertools.chain(*places.values())) == list(range(40))
    for found in places.values():
        assert found == sorted(found)


def test_of_fewer_than_sixteen_items_none_is_held_back():
    fifteen = [f"item {n}" for n in range(15)]
    assert split_places(fifteen * 4, EIGHTHS) == {"train": list(range(60)), "heldout": [], "validation": []}
    assert len(split_places([*fifteen, "one more"], EIGHTHS)["heldout"]) == 2


def test_neither_the_order_nor_repetition_decides_what_is_held_back():
    items = [f"item {n}" for n in range(32)]
    again = [*reversed(items), *items[:20]]
    first = {split: {items[place] for place in found} for split, found in split_places(items, EIGHTHS).items()}
    assert {split: {again[place] for place in found} for split, found in split_places(again, EIGHTHS).items()} == first


def test_a_prompt_given_twice_stays_on_one_side():
    chats = [[{"role": "user", "content": f"Question {n}?"}] for n in range(20)]
    twins = [[{"role": "user", "content": f" question  {n}? "}] for n in range(20)]
    prompts = [f"Prompt {n}" for n in range(20)]
    task = Task("mine", prompts=[*prompts, *(f"  PROMPT {n}\n" for n in range(20)), *chats, *twins], reward="length")
    found = {split: split_rows(task, split) for split in SPLITS}
    items = {split: [prompt_item({"prompt": text}) for text, _ in rows] for split, rows in found.items()}
    assert sum(map(len, items.values())) == 80
    for split in SPLITS:
        assert all(items[split].count(item) == 2 for item in items[split])
    for one, other in itertools.combinations(SPLITS, 2):
        assert set(items[one]).isdisjoint(items[other])


def test_a_task_says_what_its_rows_are_about():
    """Five wordings of each question are one item."""
    rows = [{"prompt": f"wording {w} of {q}", "question": q} for w in range(5) for q in range(16)]
    task = Task("mine", prompts=rows, reward="length", item=lambda row: row["question"])
    found = {split: [columns["question"] for _, columns in split_rows(task, split)] for split in SPLITS}
    assert {split: len(set(questions)) for split, questions in found.items()} == {
        "train": 12, "validation": 2, "heldout": 2,
    }  # fmt: skip
    assert all(questions.count(question) == 5 for questions in found.values() for question in questions)


def test_what_is_named_is_not_cut_off():
    task = Task("mine", prompts=OWN, heldout_prompts=["x"], reward="length")
    assert [text for text, _ in split_rows(task, "heldout")] == ["x"]
    assert len(split_rows(task, "train")) == 21
    assert len(split_rows(task, "validation")) == 3
    whole = dataclasses.replace(task, validation_prompts=[], heldout_prompts=list)
    assert [text for text, _ in split_rows(whole, "train")] == OWN
    assert split_rows(whole, "validation") is None
    assert split_rows(whole, "heldout") is None
    with pytest.raises(UnknownName, match="unknown split 'test'"):
        split_rows(task, "test")


def test_a_data_set_is_cut_without_being_copied():
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list([{"prompt": text, "place": n} for n, text in enumerate(OWN)])
    task = Task("mine", prompts=data, reward="length")
    found = {split: split_rows(task, split) for split in SPLITS}
    listed = Task("mine", prompts=[{"prompt": text, "place": n} for n, text in enumerate(OWN)], reward="length")
    for split, rows in found.items():
        assert list(rows) == list(split_rows(listed, split))
        assert rows.column_names == {"place"}
        assert list(rows.selected([1, 0])) == [rows[1], rows[0]]
    assert sum(map(len, found.values())) == 24


# --- built-in tasks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in BUILT_IN if get_task(name).prompts is not None])  # the others: seeds
def test_no_built_in_task_asks_the_same_in_two_splits(name: str):
    task = get_task(name)
    if name in ("exact", "exact_turns"):
        assert best_split(task, "validation") == best_split(task, "heldout") == "train"
        return
    about = task.item or prompt_item
    items = {
        split: {about({"prompt": text, **columns}) for text, columns in split_rows(task, split)} for split in SPLITS
    }
    for one, other in itertools.combinations(SPLITS, 2):
        assert items[one].isdisjoint(items[other]), (one, other)
    assert min(map(len, items.values())) >= 6


def columns_of(name: str, *splits: str) -> list[dict[str, Any]]:
    task = get_task(name)
    return [{"prompt": text, **columns} for split in splits for text, columns in load_rows(split_rows(task, split))]


def test_no_sum_is_held_out_whose_twin_is_trained_on():
    def numbers(row: dict[str, Any]) -> tuple[str, frozenset[str]]:
        left, sign, right, _ = row["prompt"].split()
        return sign, frozenset((left, right))

    known = {numbers(row) for row in columns_of("arithmetic", "train", "validation")}
    held = {numbers(row) for row in columns_of("arithmetic", "heldout")}
    assert held.isdisjoint(known)
    assert any(len(pair) == 2 for _, pair in held)


def test_no_question_of_a_dialogue_is_trained_on_in_another_tone():
    def asked(row: dict[str, Any]) -> str:
        return row["prompt"][0]["content"].replace("Hello! ", "").rsplit("! ")[-1].replace("Please tell me. ", "")

    known = {asked(row) for row in columns_of("dialogue", "train", "validation")}
    held = {asked(row) for row in columns_of("dialogue", "heldout")}
    assert held.isdisjoint(known)
    assert {bool(row["key"]) for row in columns_of("dialogue", "heldout")} == {True, False}
    assert {bool(row["key"]) for row in columns_of("dialogue", "validation")} == {True, False}
    assert all(question.endswith("?") and question.count("?") == 1 for question in held | known)


def test_no_pair_of_detoxify_is_trained_on_with_another_mishap():
    known = {(row["prompt"].split()[0], row["prompt"].split()[3]) for row in columns_of("detoxify", "train")}
    held = {(row["prompt"].split()[0], row["prompt"].split()[3]) for row in columns_of("detoxify", "heldout")}
    assert held.isdisjoint(known)
    for place in (0, 1):  # as the task says: every name and every thing is known
        assert {pair[place] for pair in held} <= {pair[place] for pair in known}


def test_no_sentence_of_translate_is_trained_on_the_other_way_round():
    def words(row: dict[str, Any]) -> list[str]:
        return sorted(row["prompt"].split(".")[0].split())

    known = [words(row) for row in columns_of("translate", "train", "validation")]
    assert not [row for row in columns_of("translate", "heldout") if words(row) in known]


# --- prompts and rewards of one's own ---------------------------------------------------------------------


def test_own_prompts_in_an_environment_are_served_whole_or_by_split():
    arguments = {"prompts": OWN, "max_prompt_tokens": 2}
    env = TextGenEnv("exact", **arguments)
    assert [prompt.text for prompt in env.prompts] == OWN
    assert env.prompts.split == "given"
    parts = [texts("exact", split, **arguments) for split in SPLITS]
    assert [len(part) for part in parts] == [18, 3, 3]
    assert sorted(itertools.chain(*parts)) == OWN
    with pytest.raises(ConfigError, match="has no held-out prompts, and fewer than 16"):
        TextGenEnv("exact", prompts=OWN[:15], split="heldout", max_prompt_tokens=2)
    assert texts("exact", "heldout", heldout_prompts=["b"], **arguments) == ["b"]
    assert len(texts("exact", "train", heldout_prompts=["b"], **arguments)) == 21


def test_nothing_is_held_out_of_prompts_that_were_served_whole():
    env = TextGenVectorEnv(2, "exact", prompts=OWN, max_prompt_tokens=2)
    sibling = sibling_env(env, 2, "heldout")
    assert sibling.prompts.split == "train"
    assert len(sibling.prompts) == 24
    cut = TextGenVectorEnv(2, "exact", prompts=OWN, max_prompt_tokens=2, split="train")
    for split in ("validation", "heldout"):
        sibling = sibling_env(cut, 2, split)
        assert sibling.prompts.split == split
        assert {prompt.text for prompt in sibling.prompts}.isdisjoint(prompt.text for prompt in cut.prompts)


def my_reward(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    return [float(len(text)) for text in completions]


def test_own_parts_bring_no_title_and_no_gold_score_of_another_task():
    sentiment = get_task("sentiment")
    assert own_task("sentiment") is sentiment
    assert own_task(sentiment, reward="embedded") is sentiment
    for own, name in (
        ({"reward": my_reward}, "reward my_reward on prompts of sentiment"),
        ({"reward": ["length", my_reward]}, "reward of several parts on prompts of sentiment"),
        ({"prompts": OWN}, "reward of sentiment on own prompts"),
        ({"heldout_prompts": OWN}, "reward of sentiment on own prompts"),
        ({"prompts": "mine.txt", "reward": "rewards.py:mine"}, "reward rewards.py:mine on own prompts"),
    ):
        task = own_task("sentiment", **own)
        assert (task.name, task.gold) == (name, None)
    mine = own_task("arithmetic", prompts=OWN)
    assert (mine.validation_prompts, mine.heldout_prompts, mine.item) == (None, None, None)
    assert own_task("arithmetic", heldout_prompts=OWN).validation_prompts is not None


def test_an_evaluation_says_which_prompts_it_answered(make_policy: Any, tiny_task: Task):
    policy = make_policy()
    own = [f"room {n}" for n in range(24)]

    def said(task: Task = tiny_task, **arguments: Any) -> tuple[str, str, set[str]]:
        result = evaluate(policy, task, episodes=64, num_envs=16, **arguments)
        data = json.loads(json.dumps(result.to_json(samples=False)))
        assert (data["task"], data["split"], data["prompts"]) == (result.task, result.split, result.prompts)
        assert result.prompts in str(evaluation_table(result).title)
        return result.task, result.split, {episode.prompt for episode in result.episodes}

    assert said() == ("tiny", "heldout", set(tiny_task.heldout_prompts))
    assert said(split="validation")[:2] == ("tiny", "train")
    assert said(dataclasses.replace(tiny_task, heldout_prompts=[]))[:2] == ("tiny", "train")
    name, split, answered = said(prompts=own)
    assert (name, split) == ("reward of tiny on own prompts", "given")
    assert len(answered) > 12
    assert said(prompts=own, split="heldout")[1:] == ("heldout", set(texts(tiny_task, "heldout", prompts=own)))
    assert said(prompts=own[:3], split="heldout")[1:] == ("train", set(own[:3]))
    assert said(reward=my_reward) == ("reward my_reward on prompts of tiny", "heldout", set(tiny_task.heldout_prompts))


def run(out: Path, **changes: Any) -> RunResult:
    settings: dict[str, Any] = {
        "task": "exact", "timesteps": 320, "n_envs": 16, "algorithm": {"n_steps": 10}, "out": str(out),
        "eval_episodes": 32, "eval_every": 160, "samples": 2,
    }  # fmt: skip
    return train(TrainConfig(**{**settings, **changes}))


@pytest.fixture(scope="module")
def own_run(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A run on prompts and a reward of the user's own, under the name of a task that has a gold score."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "prompts.txt").write_text("\n".join(OWN))
    (folder / "mine.py").write_text(
        "def mine(prompts, completions, **columns):\n    return [float(len(text)) for text in completions]\n"
    )
    return run(
        folder / "run",
        task="sentiment",
        reward=f"{folder / 'mine.py'}:mine",
        env={"prompts": str(folder / "prompts.txt"), "max_new_tokens": 4},
    )


def test_a_run_on_own_prompts_and_reward_reports_no_other_task(own_run: RunResult):
    """CHECKS 58."""
    splits = {split: texts("sentiment", split, prompts=OWN) for split in SPLITS}
    name = f"reward {own_run.folder.parent / 'mine.py'}:mine on own prompts"
    for result in (own_run.before, own_run.after):
        assert (result.task, result.split) == (name, "heldout")
        assert "gold_score" not in result.statistics
        assert {episode.prompt for episode in result.episodes} <= set(splits["heldout"])
    lines = [json.loads(line) for line in (own_run.folder / "metrics.jsonl").read_text().splitlines()]
    names = {key for line in lines for key in line}
    assert not [key for key in names if "gold" in key]
    assert {key.split("/")[0] for key in names if key.startswith("eval")} == {"eval_validation", "eval_heldout"}
    at = {split: [line["time/total_timesteps"] for line in lines if f"eval_{split}/score" in line] for split in SPLITS}
    assert at == {"train": [], "validation": [0, 160, 320], "heldout": [0, 320]}
    samples = (own_run.folder / "samples.md").read_text()
    assert samples.startswith("# Samples\n\nResponses to the same validation prompts at several points of training")
    shown = {line.split(" | ")[0].removeprefix("| ") for line in samples.splitlines() if line.startswith("| ")}
    assert shown - {"prompt", "---"} <= set(splits["validation"])
    title = str(comparison_table(own_run.before, own_run.after).title)
    assert title == f"{name}: 32 responses to held-out prompts, mean ± 95%"
    assert sample_table(own_run.before, own_run.after, 2).title == "the same held-out prompts, before and after"


def test_eval_of_such_a_run_takes_the_prompts_it_held_out(own_run: RunResult):
    def said(*flags: str) -> dict[str, Any]:
        result = CliRunner().invoke(app, ["eval", str(own_run.folder), "--trust", "--episodes", "32", "--json", *flags])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    data = said()
    assert (data["task"], data["prompts"]) == (own_run.after.task, "held-out prompts")
    assert data["score"]["mean"] == own_run.after["score"].mean
    assert "gold_score" not in data
    assert said("--split", "validation")["prompts"] == "validation prompts"
    other = said("--task", "sentiment")
    assert (other["task"], other["prompts"]) == ("sentiment", "held-out prompts")
    assert "gold_score" in other


def test_a_run_on_too_few_own_prompts_says_that_they_were_trained_on(tmp_path: Path):
    result = run(tmp_path / "run", env={"prompts": ["b", "d"]})
    assert (result.after.task, result.after.split) == ("reward of exact on own prompts", "train")
    assert "to training prompts" in str(comparison_table(result.before, result.after).title)
    assert "to the same training prompts at" in (tmp_path / "run" / "samples.md").read_text()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["time/total_timesteps"] for line in lines if "eval_train/score" in line] == [0, 160, 320]


def test_a_run_without_evaluations_in_between_looks_at_held_out_prompts_alone(tmp_path: Path):
    result = run(tmp_path / "run", eval_every=0, heldout_prompts=["bb"], env={"prompts": OWN, "max_prompt_tokens": 2})
    assert (result.after.split, {episode.prompt for episode in result.after.episodes}) == ("heldout", {"bb"})
    assert "to the same held-out prompts at" in (tmp_path / "run" / "samples.md").read_text()
    assert "eval_validation" not in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_a_benchmark_run_on_own_prompts_is_judged_on_those_it_held_out():
    cell = Cell(
        "reference", "exact", 0, 1, env={"prompts": OWN, "max_prompt_tokens": 2}, eval_episodes=16, device="cpu"
    )
    line = run_cell(cell)
    assert line["status"] == "done", line["error"]
    assert (line["title"], line["split"]) == ("reward of exact on own prompts", "heldout")
    trained, judged = ({prompt.text for prompt in env.prompts} for env in (training_env(cell, 1), judging_env(cell)))
    assert (len(trained), len(judged)) == (18, 3)
    assert trained.isdisjoint(judged)
    assert {sample["prompt"] for sample in line["samples"]} <= judged
    plain = run_cell(Cell("reference", "exact", 0, 1, eval_episodes=16, device="cpu"))
    assert (plain["title"], plain["split"]) == ("exact", "train")


def test_the_curve_names_each_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    figure = pytest.importorskip("matplotlib.figure")
    shown: list[str] = []
    save = figure.Figure.savefig

    def savefig(self: Any, *args: Any, **kwargs: Any) -> None:
        shown.extend(text.get_text() for text in self.axes[0].get_legend().get_texts())
        save(self, *args, **kwargs)

    monkeypatch.setattr(figure.Figure, "savefig", savefig)
    lines = [
        {"time/total_timesteps": n, "objective/scores": 0.5, "eval_validation/score": 0.5, "eval_heldout/score": 0.4}
        for n in (0, 100)
    ]
    assert plot_run(lines, tmp_path / "curve.png", title="mine")
    assert shown == ["training rollouts", "validation prompts, 95%", "held-out prompts, 95%"]
    shown.clear()
    assert plot_run([{"time/total_timesteps": 0, "eval_train/kl": 0.5}], tmp_path / "curve.png")
    assert shown == ["training prompts, 95%"]
