"""The folder of a saved policy: its README.md, and whether the files beside the model are those that were saved."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textrl_env.models.storage.catalogued import catalogued_entry
from textrl_env.models.storage.embedded import MODELS, asset_folder
from textrl_env.models.storage.manifest import MANIFEST, verify

VALUE_HEAD_FILE = "value_head.safetensors"
SETTINGS_FILE = "actor_critic.json"
CARD_FILE = "README.md"
_EMBEDDED = "textrl-env's embedded model"
_CARD = """\
---
library_name: transformers
{base_line}tags:
- textrl-env
- {tag}
---

# A policy of textrl-env

A causal language model{started_from} that {method} has trained. `AutoModelForCausalLM.from_pretrained`
loads it; `value_head.safetensors` and `actor_critic.json` are textrl-env's.

{sampling}
{mask}
`textrl generate`, `textrl eval` and `textrl_env.models.CausalLMActorCritic.from_pretrained` sample the policy as it was
trained.
"""
_MASK = """
**The plain model is not the whole policy.** NLPO samples within the likeliest tokens of the model in `mask/`: the
smallest set whose probability reaches {top_p}. transformers does not apply it, so its `generate` draws from another
distribution.
"""


def model_card(
    model: Any, settings: Mapping[str, Any], *, bans_ids: bool, method: str = "reinforcement learning"
) -> str:
    """Markdown for a policy's model.

    settings: those saved beside it. bans_ids: whether some ids of its head are never sampled. method: what trained it.
    """
    base = _base_model(model)
    named = base is not None and base != _EMBEDDED
    mask_top_p = settings.get("mask_top_p")
    return _CARD.format(
        base_line=f"base_model: {base}\n" if named else "",
        started_from="" if base is None else f", started from {base}",
        method=method,
        tag=method.replace(" ", "-"),
        sampling=_sampling(settings, bans_ids),
        mask="" if mask_top_p is None else _MASK.format(top_p=mask_top_p),
    )


def _base_model(model: Any) -> str | None:
    """The name that the model was loaded by; None for a folder, whose path says nothing on another machine."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    name = getattr(base, "name_or_path", "")
    if not name:
        return None
    if Path(name) in map(asset_folder, MODELS.values()):
        return _EMBEDDED
    if (entry := catalogued_entry(name)) is not None:
        return entry.origin
    return None if Path(name).exists() or Path(name).is_absolute() else name


def _sampling(settings: Mapping[str, Any], bans_ids: bool) -> str:
    if settings["greedy"]:
        return "It is decoded greedily: `model.generate(..., do_sample=False)`."
    drawn = ", ".join(f"{name}={value}" for name, value in settings["sampling"].items())
    text = f"It is sampled with {drawn}: `model.generate(..., do_sample=True, {drawn})`."
    if bans_ids:
        text += (
            "\nIds of its head that the tokenizer does not know or the generation config suppresses are never sampled."
        )
    return text


def verify_policy(folder: Path) -> None:
    """Raise ModelError where a run has listed the files of this policy and one of them is not the one listed.

    The list is the folder's own `manifest.json`, or that of the checkpoint that it lies in. Any other model has none: a
    `manifest.json` that is not about a saved policy is somebody else's.
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
