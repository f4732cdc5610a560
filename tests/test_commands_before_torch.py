"""What a command can refuse at once it refuses at once: wrong names and missing extras, before torch is imported."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from textrl_agents.training.extras import EXTRAS, missing_extra, require
from textrl_env.errors import MissingExtra, UnknownName
from textrl_env.user_values import DEVICE_KINDS, DTYPE_NAMES

ROOT = Path(__file__).parents[1]
# Runs commands one after the other as if some packages were not installed: every finder of modules denies them.
CHILD = """
import json, sys

hidden, runs = set(), json.loads(sys.argv[1])

class Finder:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in hidden else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Finder(finder) for finder in sys.meta_path]
import textrl_agents.__main__ as command
import contextlib, io, traceback
found = []
for now_hidden, arguments in runs:
    hidden.clear()
    hidden.update(now_hidden)
    sys.argv, shown, code = ["textrl", *arguments], io.StringIO(), 0
    with contextlib.redirect_stderr(shown), contextlib.redirect_stdout(shown):
        try:
            command.main()
        except SystemExit as end:
            code = end.code
            if isinstance(code, str):  # what the interpreter does with it
                print(code, file=sys.stderr)
                code = 1
        except BaseException:
            traceback.print_exc()
    found.append([code, shown.getvalue(), "torch" in sys.modules])
print(json.dumps(found))
"""


def test_names_that_are_known_without_torch_are_those_that_are_there() -> None:
    from textrl_agents.speed.measurement import Measurement
    from textrl_agents.speed.names import SPEED_ROWS

    assert all(isinstance(pkgutil.resolve_name(found), Measurement) for found in SPEED_ROWS.values())


def run_without(runs: list[tuple[list[str], str]], folder: Path) -> list[tuple[int, str, bool]]:
    """(exit code, what was shown, whether torch is imported by then) of each (hidden packages, command).

    In one process: what has been imported for one command is not hidden from the next.
    """
    path = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'agents')!r}]\n"
    child = [sys.executable, "-c", path + CHILD, json.dumps([(hidden, command.split()) for hidden, command in runs])]
    done = subprocess.run(child, cwd=folder, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return [tuple(entry) for entry in json.loads(done.stdout.splitlines()[-1])]


WRONG_NAMES = [
    ("train --algo pppo", "unknown algorithm 'pppo'. Did you mean 'ppo'?"),
    ("train --lib rllib --algo trpo", "unknown algorithm 'trpo'"),
    ("train --lib sb4", "unknown lib 'sb4'. Did you mean 'sb3'?"),
    ("train --algo dqn --save-every 9", "save_every must be 0 or left out: dqn has no checkpoints"),
    ("train --algo sarsa", "sarsa runs on exact alone, not on 'sentiment'"),
    ("train --task exakt", "unknown task 'exakt'. Did you mean 'exact'?"),
    ("train --device gpu", "unknown device 'gpu'"),
    ("train --dtype half", "unknown dtype 'half'"),
    ("train --reward embeded", "unknown reward 'embeded'. Did you mean 'embedded'?"),
    ("train --reward absent.py:score", "there is no file 'absent.py'"),
    ("train --set sead=1", "unknown setting 'sead'. Did you mean 'seed'?"),
    ("eval run --task exakt", "unknown task 'exakt'"),
    ("reward train records.jsonl --out rm --kind linaer", "unknown kind of reward model 'linaer'"),
    ("eval run --device gpu", "unknown device 'gpu'"),
    ("eval run --reward embeded", "unknown reward 'embeded'"),
    ("generate --model embedded --prompt x --dtype half", "unknown dtype 'half'"),
    ("generate --model embedded --prompt x --device gpu", "unknown device 'gpu'"),
    ("check --task exakt", "unknown task 'exakt'"),
    ("check --reward embeded", "unknown reward 'embeded'"),
    ("check --device gpu", "unknown device 'gpu'"),
    ("bench speed --device gpu", "unknown device 'gpu'"),
    ("bench run --algos pppo --tasks exact --out b", "unknown algorithm 'pppo'. Did you mean 'ppo'?"),
    ("bench run --algos ppo --tasks exakt --out b", "unknown task 'exakt'"),
    ("bench run --algos ppo --tasks exact --device gpu --out b", "unknown device 'gpu'"),
    ("bench run --algos ppo --tasks exact --env reward=embeded --out b", "unknown reward 'embeded'"),
    ("bench run --preset slow --out b", "unknown preset 'slow'"),
    ("train --set env.kl_coeff=1", "unknown argument of env 'kl_coeff'"),
    ("train --set env.device=cpu", "env.device is decided by the run"),
    ("bench run --algos ppo --tasks exact --env kl_coeff=1 --out b", "unknown argument of the environment 'kl_coeff'"),
    ("models get smolm2", "unknown model of the catalogue 'smolm2'. Did you mean 'smollm2'?"),
    ("pretrain grammar --reward embeded --out b", "unknown reward 'embeded'. Did you mean 'embedded'?"),
    ("pretrain grammar --objective conditionl --out b", "unknown objective 'conditionl'. Did you mean 'conditional'?"),
    ("bench speed --only nosuch", "unknown measurement 'nosuch'"),
]


def test_wrong_names_are_told_before_torch_is_imported(tmp_path: Path) -> None:
    """Torch, transformers and an RL library take seconds to import; a typo is answered in less than one."""
    found = run_without([([], command) for command, _ in WRONG_NAMES], tmp_path)
    for (command, message), (code, shown, torch) in zip(WRONG_NAMES, found, strict=True):
        assert code == 2, (command, shown)
        assert shown.startswith(f"error: {message}"[:7]), command
        assert message in shown, command
        assert not torch, command
    assert not list(tmp_path.iterdir())


# Hidden package -> commands that need it, before torch is imported.
AT_ONCE = {
    "typer": ["train --algo ppo", "--help"],
    "rich": ["train --algo ppo", "bench list"],
    "yaml": ["train --algo ppo", "check"],
    "filelock": ["bench run --algos ppo --tasks exact --out b"],
    "stable_baselines3": ["train --task exact", "bench run --algos dqn --tasks exact --out b"],
    "sb3_contrib": ["bench run --algos trpo --tasks exact --out b"],
    "ray": [
        "train --lib rllib",
        "bench run --algos rllib_ppo --tasks exact --out b",
        "bench run --algos ppo --tasks exact --ray --out b",
    ],
    "trl": ["bench run --algos trl_grpo --tasks exact --out b"],
    "gguf": ["models get smollm2"],
    "matplotlib": [
        "train",
        "train --lib rllib",
        "bench run --algos ppo --tasks exact --seeds 1 --out b",
        "bench report b",
    ],
}


@pytest.mark.parametrize("package", AT_ONCE)
def test_a_missing_extra_is_told_at_once(package: str, tmp_path: Path) -> None:
    for code, shown, torch in run_without([([package], line) for line in AT_ONCE[package]], tmp_path):
        assert (code, shown.count("\n")) == (1, 1), shown
        assert f"{package} is not installed. Add it with: pip install 'textrl-env[{EXTRAS[package]}]'" in shown
        assert not torch
    assert not list(tmp_path.glob("b/results.jsonl"))


# The same of commands that find out when they import torch: (command, the package that is missing, what else is).
OPTIONAL = ("matplotlib", "stable_baselines3", "sb3_contrib", "ray", "peft", "sacrebleu", "reasoning_gym")
BEFORE_WORK = [
    ("check --task exact", "stable_baselines3", OPTIONAL[1:]),
    ("bench speed --only exact", "stable_baselines3", OPTIONAL[1:]),
    ("demo", "stable_baselines3", OPTIONAL),
    ("demo", "matplotlib", ("matplotlib", *OPTIONAL[2:])),
    ("train --task exact --algo trpo", "sb3_contrib", OPTIONAL[2:]),
    ("train --task exact --set lora={r:4}", "peft", OPTIONAL[4:]),
    ("train --task translate", "sacrebleu", OPTIONAL[5:]),
    ("check --task translate", "sacrebleu", OPTIONAL[5:]),
    ("train --task reasoning_gym:chain_sum", "reasoning_gym", OPTIONAL[6:]),
    ("check --task reasoning_gym:chain_sum", "reasoning_gym", OPTIONAL[6:]),
]


@pytest.mark.slow
def test_a_missing_extra_is_told_before_any_work(tmp_path: Path) -> None:
    found = run_without([(list(hidden), command) for command, _, hidden in BEFORE_WORK], tmp_path)
    for (command, package, _), (code, shown, _) in zip(BEFORE_WORK, found, strict=True):
        assert code == 1, (command, shown)
        assert "Traceback" not in shown, command
        error = next(line for line in shown.splitlines() if line.startswith("error: "))
        assert f"pip install 'textrl-env[{EXTRAS[package]}]'" in error, command
    assert not list(tmp_path.rglob("checkpoint-*"))


def test_every_optional_package_is_one_that_an_extra_brings() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = {"yaml": "pyyaml", "sb3_contrib": "sb3-contrib", "stable_baselines3": "stable-baselines3"}
    names |= {"reasoning_gym": "reasoning-gym", "sklearn": "scikit-learn", "crowdkit": "crowd-kit"}
    names["python_multipart"] = "python-multipart"
    for package, extra in EXTRAS.items():
        listed = [requirement.partition(">")[0].partition("[")[0] for requirement in extras[extra]]
        assert names.get(package, package) in listed, package


def test_other_missing_modules_keep_their_traceback() -> None:
    assert missing_extra(ModuleNotFoundError("No module named 'mine'", name="mine")) is None
    assert missing_extra(ValueError("ray")) is None
    hint = missing_extra(ModuleNotFoundError("No module named 'ray.rllib'", name="ray.rllib"))
    assert isinstance(hint, MissingExtra)
    assert hint.extra == "rllib"


def test_require_names_the_first_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    require("matplotlib", "ray")
    find: Any = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else find(name))
    with pytest.raises(MissingExtra, match=r"ray is not installed.*textrl-env\[rllib\]"):
        require("matplotlib", "ray", "trl")


def test_names_of_devices_and_types_are_torchs() -> None:
    import torch

    from textrl_env.models.storage.loading import resolve_device, resolve_dtype

    for kind in DEVICE_KINDS[1:]:
        assert torch.device(kind).type == kind
    for name in DTYPE_NAMES[1:]:
        assert resolve_dtype(name, torch.device("cpu")) is getattr(torch, name)
    with pytest.raises(UnknownName, match="unknown device 'gpu'"):
        resolve_device("gpu")
    with pytest.raises(UnknownName, match="unknown dtype 'half'"):
        resolve_dtype("half", torch.device("cpu"))
