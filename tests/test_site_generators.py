"""What the site's generators make of docstrings and registries."""

from __future__ import annotations

import re
from typing import Any

import pytest

from generators.algorithms import about_algorithm, algorithm_list, measured_row, settings_and_row
from generators.api import as_rst
from generators.arguments import argument_list
from generators.commands import command_page
from generators.docstrings import as_list, first_sentence, markdown, section
from generators.rewards import reward_list, reward_sections
from generators.tasks import task_list, task_page
from generators.write import environment_page, one_episode, parts, write_pages
from textrl_agents.algorithms.registry import built_in_names
from textrl_env.arguments import ENV_ARGUMENTS
from textrl_env.finetune import FineTuneEnv
from textrl_env.rewards import registered_rewards
from textrl_env.tasks.registry import BUILT_IN

# Gymnasium's pages have these, in this order; what is ours stands between them.
ORDER = ["Description", "Action Space", "Observation Space", "Rewards", "Starting State", "Episode End"]
ORDER += ["Arguments", "Info", "Version History"]


class Documented:
    """Does a thing. And another.

    ## Description
    Words.

    ## Arguments
    one: the first,
        at length.
    two, three: others.

    ## Info
    None.
    """


def headings(text: str) -> list[str]:
    return [heading for heading in re.findall(r"^## (.+)$", text, flags=re.MULTILINE) if heading in ORDER]


def test_arguments_become_a_list():
    assert section(markdown(Documented), "Arguments") == "- `one`: the first,\n  at length.\n- `two`, `three`: others."
    assert section(markdown(Documented), "Description") == "Words."
    assert first_sentence(Documented) == "Does a thing."
    with pytest.raises(LookupError, match="'Rewards'"):
        section(markdown(Documented), "Rewards")


@pytest.mark.parametrize(
    "paragraph",
    ["Note: a sentence\nover two lines.", "| a | b |\n|---|---|", "Words alone.", "- item: one\n- item: two", ""],
)
def test_other_paragraphs_stay(paragraph: str):
    assert as_list(paragraph) == paragraph


def test_autodoc_gets_restructured_text():
    lines = ["See [the paper](https://arxiv.org/abs/1707.06347).", "", "one: the first,", "    at length.", ""]
    lines += ["Of |x|, several `Tool`s, `a_`", "", "## A page", "of its own"]
    as_rst(None, "class", "name", None, {}, lines)
    text = "\n".join(lines)
    assert "`the paper <https://arxiv.org/abs/1707.06347>`__" in text
    assert "- ``one``: the first,\n  at length." in text
    assert "Of \\|x\\|, several ``Tool``\\ s, ``a_``" in text
    assert "page" not in text


@pytest.mark.parametrize("page", [environment_page, lambda: markdown(FineTuneEnv)])
def test_environments_have_gymnasiums_sections(page: Any):
    assert headings(page()) == ORDER


def test_lists_are_those_of_the_registries():
    assert re.findall(r"^\| \[(\w+)\]", task_list(), flags=re.MULTILINE) == list(BUILT_IN)
    listed = re.findall(r"^\| \[`(\w+)`\]", algorithm_list(), flags=re.MULTILINE)
    assert sorted(listed) == sorted(built_in_names())
    assert set(re.findall(r"^\| \[`(\w+)`\]", reward_list(), flags=re.MULTILINE)) <= set(registered_rewards())
    assert re.findall(r"^### (\w+)", reward_sections(), flags=re.MULTILINE)[0] == "code_style"
    assert tuple(re.findall(r"^\| `(\w+)`", argument_list(), flags=re.MULTILINE)) == ENV_ARGUMENTS


def test_an_algorithm_tells_source_class_and_settings():
    said = about_algorithm("ppo")
    assert "https://arxiv.org/abs/1707.06347" in said
    assert "`stable_baselines3.PPO`" in said
    assert "clip_range: 0.1" in settings_and_row("ppo")
    assert "&id" not in settings_and_row("ppo")
    assert "Class" not in about_algorithm("best_of_n")


def test_an_algorithm_tells_its_row_of_the_benchmark():
    page = "| what | x |\n|---|---|\n| `ppo` | 0 |\n\n| algorithm | y |\n|---|---|\n| `ppo` | 1 |\n| `ppo_2` | 2 |\n"
    assert measured_row("ppo", page).splitlines()[2:] == ["| algorithm | y |", "|---|---|", "| `ppo` | 1 |"]
    assert "not yet" in measured_row("a2c", page)
    assert "\n| algorithm | `exact`" in settings_and_row("ppo")


def test_a_task_page_has_gymnasiums_sections_and_an_episode():
    page = task_page("exact")
    assert headings(page) == ORDER
    assert "`Discrete(6)`" in page
    assert "(6,), int64" in page
    assert re.search(r"\[[a-e]\].*\n\[(eos|length)\] score \d\.000  kl", page), page


def test_the_page_of_commands_has_every_command():
    page = command_page()
    for command in ("textrl train", "textrl bench speed", "textrl feedback serve", "textrl reward curve"):
        assert f"\n## {command}\n" in page
    assert "| `--kl-coef` |" in page


@pytest.mark.slow
def test_the_episode_of_the_environments_page_adds_up():
    """Of the reference itself, cut to top-p: each token pays for the mass that the cut leaves out."""
    text = one_episode()
    score, kl, total = map(float, re.findall(r"score (\S+)  kl (\S+)  return (\S+)", text)[0])
    assert total == pytest.approx(score - 0.05 * kl, abs=2e-3)
    rows = re.findall(r"^\| \d+ \| .* \| (\S+) \| (\S+) \|$", text, flags=re.MULTILINE)
    assert 0 < sum(float(charge) for charge, _ in rows) == pytest.approx(kl, abs=0.01)
    assert sum(float(reward) for _, reward in rows) == pytest.approx(total, abs=0.01)


def test_a_page_that_stays_the_same_is_not_written_again(tmp_path: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("generators.write.parts", lambda: iter([("parts/one.md", lambda: "text\n")]))
    write_pages(tmp_path)
    before = (tmp_path / "parts" / "one.md").stat().st_mtime_ns
    write_pages(tmp_path)
    assert (tmp_path / "parts" / "one.md").stat().st_mtime_ns == before


def test_no_two_parts_have_one_name():
    names = [name for name, _ in parts()]
    assert len(names) == len(set(names))
