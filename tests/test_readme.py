"""What the README says holds: its blocks run, each on its own, its commands parse, and its tree is the tree."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import typer.main
from conftest import pytest_collection_modifyitems

from textrl_agents.algorithms.registry import algorithm_names
from textrl_agents.benchmark.plan import PRESETS
from textrl_agents.cli import app
from textrl_env.tasks import task_names

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
# Folders that the tree names without listing what is in them.
WHOLE = {"built_in", "commands", "libraries"}
# What a block is known by -> shorter, in the test, what it says of sizes; the rest runs as it stands.
SHORTER: dict[str, dict[str, str]] = {
    "gym.make_vec": {},
    "print(evaluate(": {"n_envs=64": "n_envs=8", "100_000": "256", '"sentiment")[': '"sentiment", episodes=8)['},
    "with ray_session": {"num_envs_per_env_runner=64": "num_envs_per_env_runner=8", "range(20)": "range(2)"},
    "def exclaims": {},
}
MARKS = {"print(evaluate(": pytest.mark.slow, "with ray_session": pytest.mark.ray}


def python_blocks() -> list[Any]:
    found = []
    for language, code in BLOCKS:
        if language == "python":
            (known,) = [part for part in SHORTER if part in code]
            found.append(pytest.param(code, SHORTER[known], id=known, marks=MARKS.get(known, ())))
    return found


def test_every_python_block_is_run():
    assert sorted(block.id for block in python_blocks()) == sorted(SHORTER)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
@pytest.mark.parametrize(("code", "shorter"), python_blocks())
def test_block_runs_on_its_own(code: str, shorter: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for given, less in shorter.items():
        assert given in code
        code = code.replace(given, less)
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    assert ("aligned" in code) == (tmp_path / "aligned" / "model.safetensors").is_file()


def command_lines(program: str) -> list[str]:
    """The lines of the shell blocks that begin with `program`, without comments, with continued ones joined."""
    text = "\n".join(code for language, code in BLOCKS if language == "bash").replace("\\\n", " ")
    lines = [re.sub(r"\s#.*", "", line).strip() for line in text.splitlines()]
    return [line for line in lines if line.split()[:1] == [program]]


@pytest.mark.parametrize("line", command_lines("textrl"))
def test_command_parses(line: str):
    command, arguments = typer.main.get_command(app), shlex.split(line)[1:]
    while hasattr(command, "commands"):
        command = command.commands[arguments.pop(0)]
    given = command.make_context(command.name, arguments).params  # raises where an option is not known
    names = {"algo": algorithm_names(), "algos": algorithm_names(), "preset": list(PRESETS)}
    for option, known in {**names, "task": task_names(), "tasks": task_names()}.items():
        assert set((given.get(option) or known[0]).split(",")) <= set(known), option


def test_there_are_commands_to_parse():
    words = [line.split()[1:3] for line in command_lines("textrl")]
    named = {tuple(word for word in pair if re.fullmatch("[a-z]+", word)) for pair in words}
    assert {("train",), ("eval",), ("generate",), ("check",), ("bench", "run"), ("bench", "speed")} <= named


def test_install_lines_are_those_of_a_checkout():
    """The package is on no index, so `pip install textrl-env` cannot work."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lines = command_lines("pip")
    assert lines
    for line in lines:
        words = shlex.split(line)
        assert words[:4] == ["pip", "install", "-c", "constraints.txt"]
        assert all(re.fullmatch(r"\.(\[[\w,-]+\])?", word) for word in words[4:])
        assert set(re.findall(r"[\w-]+", words[4])) <= set(extras)
    (comment,) = re.findall(r"# extras: (.*)", README)
    assert set(comment.split(", ")) == set(extras) - {"dev"}


def test_tree_lists_every_module_once():
    tree = README.split("## The tree")[1].split("```")[1]
    listed = Counter(re.findall(r"\w+\.py", tree))
    modules = Counter(
        path.name
        for package in ("textrl_env", "agents/textrl_agents")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py" and WHOLE.isdisjoint(path.relative_to(ROOT).parts)
    )
    assert listed == modules


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", ".ci/run"])
def test_documents_name_the_commands_that_the_makefile_has(document: str):
    text, makefile = (ROOT / document).read_text(), (ROOT / "Makefile").read_text()
    named = set(re.findall(r"^make ([\w-]+)", text, flags=re.MULTILINE))
    assert {"test", "test-slow"} <= named
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
