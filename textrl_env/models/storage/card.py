"""The README.md of a saved policy: what it is, and what of it plain transformers does not have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textrl_env.models.storage.embedded import asset_folder

CARD_FILE = "README.md"
_CARD = """\
---
library_name: transformers
{base_line}tags:
- textrl-env
- reinforcement-learning
---

# A policy of textrl-env

A causal language model{started_from} that reinforcement learning has trained. `AutoModelForCausalLM.from_pretrained`
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


def model_card(model: Any, settings: Mapping[str, Any], *, bans_ids: bool) -> str:
    """Markdown for a policy's model.

    settings: those saved beside it. bans_ids: whether some ids of its head are never sampled.
    """
    base = _base_model(model)
    named = base is not None and base != _EMBEDDED
    mask_top_p = settings.get("mask_top_p")
    return _CARD.format(
        base_line=f"base_model: {base}\n" if named else "",
        started_from="" if base is None else f", started from {base}",
        sampling=_sampling(settings, bans_ids),
        mask="" if mask_top_p is None else _MASK.format(top_p=mask_top_p),
    )


_EMBEDDED = "textrl-env's embedded model"


def _base_model(model: Any) -> str | None:
    """The name that the model was loaded by; None of a folder, whose path says nothing elsewhere."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    name = getattr(base, "name_or_path", "")
    if not name:
        return None
    if Path(name) == asset_folder("policy"):
        return _EMBEDDED
    return None if Path(name).exists() or Path(name).is_absolute() else name


def _sampling(settings: Mapping[str, Any], bans_ids: bool) -> str:
    if settings["greedy"]:
        return "It is decoded greedily: `model.generate(..., do_sample=False)`."
    drawn = ", ".join(f"{name}={value}" for name, value in settings["sampling"].items())
    text = f"It is sampled with {drawn}: `model.generate(..., do_sample=True, {drawn})`."
    if bans_ids:
        text += "\nIds of its head that the tokenizer does not know are never sampled."
    return text
