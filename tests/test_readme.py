"""What the README says holds: it is short, and its blocks run, each on its own. CONTRIBUTING's tree is the tree."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import pytest_collection_modifyitems
from documents import ROOT, blocks, command_lines

README = ROOT / "README.md"
MOST_LINES = 150
# Folders that the tree names without listing what is in them.
WHOLE = {"built_in", "commands", "libraries"}
# What a block is known by -> shorter, in the test, what it says of sizes; the rest runs as it stands.
SHORTER: dict[str, dict[str, str]] = {
    "gym.make_vec": {},
    "print(evaluate(": {"n_envs=64": "n_envs=8", "100_000": "256", '"sentiment")[': '"sentiment", episodes=8)['},
    "def exclaims": {},
}
MARKS = {"print(evaluate(": pytest.mark.slow}


def python_blocks() -> list[Any]:
    found = []
    for code in blocks(README, "python"):
        (known,) = [part for part in SHORTER if part in code]
        found.append(pytest.param(code, SHORTER[known], id=known, marks=MARKS.get(known, ())))
    return found


def test_it_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) < MOST_LINES


def test_every_python_block_is_run():
    assert sorted(block.id for block in python_blocks()) == sorted(SHORTER)


@pytest.mark.parametrize(("code", "shorter"), python_blocks())
def test_block_runs_on_its_own(code: str, shorter: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for given, less in shorter.items():
        assert given in code
        code = code.replace(given, less)
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    assert ("aligned" in code) == (tmp_path / "aligned" / "model.safetensors").is_file()


def test_there_are_commands_to_parse():
    words = [line.split()[1:3] for line in command_lines(README, "textrl")]
    named = {tuple(word for word in pair if re.fullmatch("[a-z]+", word)) for pair in words}
    assert {("train",), ("eval",), ("generate",), ("check",), ("bench", "run"), ("bench", "speed")} <= named


def test_the_extras_that_it_names_are_those_there_are():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (comment,) = re.findall(r"# extras: (.*)", README.read_text(encoding="utf-8"))
    assert set(comment.split(", ")) == set(extras) - {"dev"}
    assert command_lines(README, "pip")


def test_tree_lists_every_module_once():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tree = text.split("## The tree")[1].split("```")[1]
    listed = Counter(re.findall(r"\w+\.py", tree))
    modules = Counter(
        path.name
        for package in ("textrl_env", "agents/textrl_agents")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py" and WHOLE.isdisjoint(path.relative_to(ROOT).parts)
    )
    assert listed == modules


@pytest.mark.parametrize(
    ("document", "least"),
    [
        ("README.md", {"demo", "demo-real"}),
        ("CONTRIBUTING.md", {"test", "test-slow", "check", "docs"}),
        (".ci/run", {"test", "test-slow", "check", "docs"}),
    ],
)
def test_documents_name_the_commands_that_the_makefile_has(document: str, least: set[str]):
    text, makefile = (ROOT / document).read_text(), (ROOT / "Makefile").read_text()
    named = set(re.findall(r"^make ([\w-]+)", text, flags=re.MULTILINE))
    assert least <= named
    for command in named:
        assert re.search(rf"^{command}:", makefile, flags=re.MULTILINE), command


def test_the_selections_are_the_whole_suite():
    """`make test` and `make test-slow` leave nothing out, since what is marked `ray` is `slow` too."""
    makefile = (ROOT / "Makefile").read_text()
    commands = re.findall(r"-m pytest (-[nm] .*)", makefile)
    selections = [re.sub(r"-n \d+ --dist \w+ ", "", command) for command in commands]
    assert selections == ['-m "not slow"', '-m "slow and not ray"', "-m ray"]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert not re.search(r"-m\b|-k\b|--ignore|--deselect", settings["addopts"])
    assert settings["testpaths"] == ["tests"]


@pytest.mark.parametrize(
    ("marks", "fixtures", "expected"),
    [
        ([], [], set()),
        (["slow"], [], {"slow"}),
        (["ray"], [], {"ray", "slow"}),
        ([], ["ray_cluster"], {"ray", "slow"}),
    ],
)
def test_what_starts_ray_is_slow(
    marks: list[str], fixtures: list[str], expected: set[str], request: pytest.FixtureRequest
):
    item = pytest.Function.from_parent(request.node.parent, name="item", callobj=lambda: None)
    item.fixturenames = fixtures
    for mark in marks:
        item.add_marker(mark)
    pytest_collection_modifyitems([item])
    assert {mark.name for mark in item.iter_markers()} == expected


def test_the_diffs_of_contributing_are_files_as_they_are():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = re.findall(r"```diff\n--- /dev/null\n\+\+\+ b/(\S+)\n@@ [^\n]* @@\n(.*?)```", text, flags=re.DOTALL)
    assert len(shown) == 4
    for path, added in shown:
        lines = [line.removeprefix("+") for line in added.splitlines()]
        assert "\n".join(lines) + "\n" == (ROOT / path).read_text(encoding="utf-8"), path
