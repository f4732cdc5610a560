"""The README.md of a saved policy: what it is, and what of it plain transformers does not have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from textrl_env.assets import asset_folder

if TYPE_CHECKING:
    from textrl_env.models.actor_critic import CausalLMActorCritic

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


def model_card(core: CausalLMActorCritic) -> str:
    """Markdown for the model in `core`."""
    base = _base_model(core.model)
    named = base is not None and base != _EMBEDDED
    mask_top_p = getattr(core, "mask_top_p", None)
    return _CARD.format(
        base_line=f"base_model: {base}\n" if named else "",
        started_from="" if base is None else f", started from {base}",
        sampling=_sampling(core),
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


def _sampling(core: CausalLMActorCritic) -> str:
    if core.greedy:
        return "It is decoded greedily: `model.generate(..., do_sample=False)`."
    settings = ", ".join(f"{name}={value}" for name, value in vars(core.sampling).items())
    text = f"It is sampled with {settings}: `model.generate(..., do_sample=True, {settings})`."
    if core.banned is not None and bool(core.banned.any()):
        text += "\nIds of its head that the tokenizer does not know are never sampled."
    return text
