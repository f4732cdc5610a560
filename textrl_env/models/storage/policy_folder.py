"""The folder of a saved policy: what lies in it beside the model, and whether it is what was saved."""

from __future__ import annotations

import contextlib
from pathlib import Path

from textrl_env.models.storage.manifest import MANIFEST, verify

VALUE_HEAD_FILE = "value_head.safetensors"
SETTINGS_FILE = "actor_critic.json"


def verify_policy(folder: Path) -> None:
    """Raise ModelError where a run has listed the files of this policy and one of them is not the one listed.

    The list is the folder's own `manifest.json`, or that of the checkpoint that it lies in. Any other model has none;
    a file of this name that is not about a saved policy is somebody else's.
    """
    if _lists(folder / MANIFEST, SETTINGS_FILE, folder):
        # A run keeps the value head beside the folder, and generation can do without.
        verify(folder, elsewhere={VALUE_HEAD_FILE: None})
    elif _lists(folder.parent / MANIFEST, f"{folder.name}/{SETTINGS_FILE}", folder):
        verify(folder.parent, only=folder.name)


def _lists(manifest: Path, name: str, folder: Path) -> bool:
    """Whether `manifest` is there and about a policy; either it or the policy may have been damaged."""
    if not manifest.is_file():
        return False
    with contextlib.suppress(OSError, ValueError):
        if f'"{name}"' in manifest.read_text(encoding="utf-8"):
            return True
    return (folder / SETTINGS_FILE).is_file()
