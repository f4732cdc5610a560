"""Imports point one way, and the package's root costs nothing: torch and transformers come when they are used."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hang_guard import HANG

ROOT = Path(__file__).parents[1]
PACKAGES = {"textrl_env": ROOT / "textrl_env", "textrl_agents": ROOT / "agents" / "textrl_agents"}
# The layers, lowest first. A module may import from its own layer and from those before it; a longer pattern decides.
LAYERS = [
    ["textrl_env.foreign_text"],
    ["textrl_env.errors"],
    [
        "textrl_env.actions",
        "textrl_env.arguments",
        "textrl_env.plugins",
        "textrl_env.text",
        "textrl_env.trajectory",
        "textrl_env.user_values",
    ],
    ["textrl_env.catalogue", "textrl_env.language"],
    ["textrl_env.models"],
    ["textrl_env.accounts", "textrl_env.kl", "textrl_env.rewards"],
    ["textrl_env.preferences"],
    ["textrl_env.turns"],
    ["textrl_env.rules"],
    ["textrl_env.charges", "textrl_env.scores"],
    ["textrl_env.episode_rows"],
    ["textrl_env.mdp"],
    ["textrl_env.tasks"],
    ["textrl_env.assembled"],
    ["textrl_env.env"],
    ["textrl_env.vector_env"],
    ["textrl_env.wrappers", "textrl_env.finetune"],
    ["textrl_env"],
    ["textrl_env.embedded"],  # makes the files that the models load; nothing imports it
    ["textrl_agents", "textrl_agents.training"],
    ["textrl_agents.policy"],
    ["textrl_agents.rollout"],
    ["textrl_agents.evaluation"],
    ["textrl_agents.reports"],
    ["textrl_agents.algorithms"],
    ["textrl_agents.runs"],
    ["textrl_agents.pretrained"],
    ["textrl_agents.sb3", "textrl_agents.rllib", "textrl_agents.trl"],
    ["textrl_agents.finetune", "textrl_agents.pretraining"],
    ["textrl_agents.reward_models"],
    ["textrl_agents.feedback"],
    ["textrl_agents.check", "textrl_agents.benchmark", "textrl_agents.speed"],
    ["textrl_agents.commands"],
    ["textrl_agents.cli", "textrl_agents.__main__"],
]
# Of one layer, and yet none may import another.
APART = ("textrl_agents.sb3", "textrl_agents.rllib", "textrl_agents.trl")
# How the embedded models are made: nothing uses it at run time.
MAKERS = "textrl_env.embedded"
# May import neither torch nor transformers when they are imported.
LIGHT = (
    "textrl_env",
    "textrl_env.arguments",
    "textrl_env.catalogue.cache",
    "textrl_env.language.gold",
    "textrl_env.language.grammar",
    "textrl_env.errors",
    "textrl_env.foreign_text",
    "textrl_env.text.prompts",
    "textrl_env.preferences",
    "textrl_env.rewards",
    "textrl_env.tasks.registry",
    "textrl_agents",
    "textrl_agents.training.extras",
    "textrl_agents.algorithms.registry",
    "textrl_agents.runs.config",
)


def modules() -> dict[str, Path]:
    """Every module's name and file."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, *, for_types: bool = False) -> Iterator[str]:
    """Names of our modules (or of something in one) that a file imports anywhere; where for type checking, if asked."""

    def walk(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not for_types:
            return
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from walk(child)

    names = walk(ast.parse(path.read_text(encoding="utf-8")))
    return (name for name in names if name.split(".")[0] in PACKAGES)


def home(name: str) -> str:
    """The module that an imported name is, or is in."""
    while name not in MODULES:
        name = name.rpartition(".")[0]
    return name


MODULES = modules()


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def layer(module: str) -> int:
    patterns = {pattern: height for height, patterns in enumerate(LAYERS) for pattern in patterns}
    roots = [pattern for pattern in patterns if within(module, pattern) and pattern not in PACKAGES]
    if not roots and module not in patterns:
        raise AssertionError(f"{module} has no layer: give it its place in LAYERS")
    return patterns[max(roots, key=len, default=module)]


def test_every_module_has_a_layer():
    assert {layer(module) for module in MODULES} <= set(range(len(LAYERS)))


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_arrow_runs_back(module: str):
    for name in imported(MODULES[module]):
        target = home(name)
        assert layer(target) <= layer(module), f"{module} imports {name}, which stands above it"
        assert within(module, MAKERS) or not within(target, MAKERS), f"{module} imports {name}, which makes the assets"
        own = [package for package in APART if within(module, package)]
        other = [package for package in APART if within(target, package)]
        assert not own or not other or own == other, f"{module} imports {name}, of another library"


def test_no_modules_import_each_other():
    """A circle cannot be read from its beginning, for it has none: not even one of types."""
    arrows = {
        (module, target)
        for module, path in MODULES.items()
        for target in {home(name) for name in imported(path, for_types=True)} - {module}
    }
    while True:  # take away what imports nothing that is left, and what nothing that is left imports
        sources, targets = {source for source, _ in arrows}, {target for _, target in arrows}
        circular = {(source, target) for source, target in arrows if source in targets and target in sources}
        if circular == arrows:
            break
        arrows = circular
    assert sorted(arrows) == []


def test_the_core_knows_no_rl_library():
    """`textrl_env` never imports `textrl_agents`, nor any library that an adapter is for, wherever in a file."""
    others = {"textrl_agents", "stable_baselines3", "sb3_contrib", "ray", "trl"}
    for module, path in MODULES.items():
        if module.split(".")[0] != "textrl_env":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                tops = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                tops = {(node.module or "").split(".")[0]}
            else:
                continue
            assert not tops & others, f"{module} imports {tops & others}"


def test_a_folder_that_is_no_package_stays_none():
    """`agents/__init__.py` would shadow the import name of another distribution."""
    assert not (ROOT / "agents" / "__init__.py").exists()


def fresh(code: str) -> str:
    environment = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'agents')!r}]; "
    done = subprocess.run([sys.executable, "-c", environment + code], capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_light_modules_import_neither_torch_nor_transformers():
    """In a fresh process; each module is checked as it is added, so that the message names the heavy one."""
    code = (
        f"import importlib, json; seen = {{}}\nfor name in {LIGHT!r}:\n"
        "    importlib.import_module(name)\n"
        "    seen[name] = [heavy for heavy in ('torch', 'transformers') if heavy in sys.modules]\n"
        "print(json.dumps(seen))"
    )
    assert json.loads(fresh(code)) == {name: [] for name in LIGHT}


def test_importing_the_package_is_quick():
    """Under 0.3 s of CPU, and what takes longest is gymnasium; best of several, for a busy machine's sake."""
    code = "import time; start = time.process_time(); import textrl_env; print(time.process_time() - start)"
    assert min(float(fresh(code)) for _ in range(5)) < 0.3


def test_the_package_registers_its_environment():
    code = "import gymnasium, textrl_env; print(gymnasium.spec('TextRLHF-v0').entry_point, 'torch' in sys.modules)"
    assert fresh(code).split() == ["textrl_env.env:TextGenEnv", "False"]
