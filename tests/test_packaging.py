"""What a package index and an editor learn of the package: its version from one place, and that it is typed."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import yaml

import textrl_env

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_version_stands_in_one_place():
    assert "version" in PROJECT["project"]["dynamic"]
    assert "version" not in PROJECT["project"]
    source = ROOT / PROJECT["tool"]["hatch"]["version"]["path"]
    assert re.findall(r'^__version__ = "(.+)"$', source.read_text(encoding="utf-8"), re.M) == [textrl_env.__version__]
    assert importlib.metadata.version("textrl-env") == textrl_env.__version__, "install it anew: pip install -e ."


def test_both_packages_say_that_they_are_typed():
    """Without the file a type checker takes every name of an installed package for Any."""
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert [ROOT / name for name in packages if not (ROOT / name / "py.typed").is_file()] == []


def test_the_hooks_run_the_pinned_tools():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"], "another repository's hook would bring a version of its own"
    tools = {hook["entry"].split()[0] for hook in hooks[0]["hooks"]}
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert tools == {".venv/bin/ruff", ".venv/bin/mypy"}
    assert all(re.search(rf"^{Path(tool).name}==", pinned, re.M) for tool in tools)


def test_what_the_site_is_built_with_is_pinned():
    """Another version of a theme or a parser may warn, and a warning is an error there."""
    required = [name for name in PROJECT["project"]["optional-dependencies"]["docs"] if "textrl-env" not in name]
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower()
    names = [re.split(r"[>=<]", requirement)[0] for requirement in required]
    assert len(names) >= 3
    assert [name for name in names if not re.search(rf"^{re.escape(name)}==", pinned, re.M)] == []
