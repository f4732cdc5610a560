"""Which extra of this package brings which optional package; a missing one is told before any work is done."""

from __future__ import annotations

import importlib.util

from textrl_env.errors import MissingExtra

EXTRAS = {
    "typer": "cli",
    "rich": "cli",
    "yaml": "cli",
    "jinja2": "cli",
    "filelock": "cli",
    "matplotlib": "plots",
    "stable_baselines3": "sb3",
    "sb3_contrib": "sb3",
    "tensorboard": "sb3",
    "ray": "rllib",
    "trl": "trl",
    "accelerate": "trl",
    "datasets": "datasets",
    "peft": "peft",
    "gguf": "models",
    "sacrebleu": "tasks",
    "sklearn": "rewards",
    "krippendorff": "feedback",
    "crowdkit": "feedback",
    "reasoning_gym": "reasoning-gym",
    "textarena": "games",
    "fastapi": "feedback",
    "uvicorn": "feedback",
    "python_multipart": "feedback",
    "urllib3": "rewards",
}
"""Import name -> the extra that brings it."""
COMMAND_LINE = tuple(package for package, extra in EXTRAS.items() if extra == "cli")


def require(*packages: str) -> None:
    """Raise MissingExtra for the first of `packages` that is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(EXTRAS[package], package)


def missing_extra(error: BaseException) -> MissingExtra | None:
    """Return a MissingExtra for an import that failed because an extra is not installed; None for any other error."""
    if isinstance(error, MissingExtra):
        return error
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    return MissingExtra(EXTRAS[package], package) if package in EXTRAS else None
