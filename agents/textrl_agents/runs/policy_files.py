"""What a checkpoint holds whatever its library: `policy/` in Hugging Face format with the value head, a LoRA adapter
beside it, and a copy of the run's settings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from textrl_env.errors import ModelError, TrainingDiverged
from textrl_env.models import CausalLMActorCritic, load_model
from textrl_env.models.storage.policy_folder import VALUE_HEAD_FILE

POLICY_FOLDER = "policy"
ADAPTER_FILE = "adapter.safetensors"
SETTINGS_COPY = "settings.yaml"
PROBED = 8  # tokens that a policy is run on before it is saved


def save_policy_files(core: CausalLMActorCritic, folder: Path, settings: str | None = None) -> None:
    """Write `policy/` and, for LoRA, `adapter.safetensors` into `folder`.

    settings: of the run, in YAML, as `settings.yaml`; a run that goes on compares its own with them.
    Raises TrainingDiverged for weights that are not finite, or from which nothing finite is computed: no checkpoint of
    them may take the place of a sound one.
    """
    _require_finite(core)
    if settings is not None:
        (folder / SETTINGS_COPY).write_text(settings, encoding="utf-8")
    core.save_pretrained(folder / POLICY_FOLDER)
    if _has_adapter(core):
        # What is trained of the model; the frozen rest is loaded anew from where it came.
        adapter = {
            name: parameter.detach().cpu().contiguous()
            for name, parameter in core.model.named_parameters()
            if parameter.requires_grad
        }
        save_file(adapter, folder / ADAPTER_FILE)


@torch.no_grad()
def _require_finite(core: CausalLMActorCritic) -> None:
    for name, parameter in core.named_parameters():
        if not torch.isfinite(parameter).all():
            raise TrainingDiverged(f"the weights are not finite ({name}), so they are not saved: lower learning_rate")
    # Finite weights can still be too large for what half precision computes from them.
    ids = torch.arange(min(PROBED, core.lm.vocab_size), device=core.device)
    if not torch.isfinite(core.lm.project(core.lm.hidden(ids[None]))).all():
        raise TrainingDiverged(
            "the policy's logits are not finite: its weights overflow, so they are not saved. Lower learning_rate, or "
            "use dtype float32"
        )


def load_policy_files(core: CausalLMActorCritic, folder: Path) -> None:
    """Put the saved weights into `core`, which was made with the same arguments. Raises ModelError."""
    if _has_adapter(core):
        weights, source = load_tensors(folder / ADAPTER_FILE), folder / ADAPTER_FILE
    else:
        # Through the library's own loader: it knows about shards, tied weights and names that differ on disk.
        source = folder / POLICY_FOLDER
        weights = load_model(source, device=core.device, dtype=core.lm.dtype).model.state_dict()
    values = load_tensors(folder / POLICY_FOLDER / VALUE_HEAD_FILE)
    result = core.model.load_state_dict(weights, strict=not _has_adapter(core))
    missing = set(core.value_state()) - set(values)
    if result.unexpected_keys or missing:
        raise ModelError(f"{source} does not fit this agent's model: {[*result.unexpected_keys, *missing][:5]}")
    core.load_state_dict(values, strict=False)


def load_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Of a safetensors file. Raises ModelError."""
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from error


def with_number_keys(optimizer_state: dict[str, Any]) -> dict[str, Any]:
    """A torch optimizer's `state_dict` that was written as JSON, which turns its parameters' numbers into text."""
    return {**optimizer_state, "state": {int(key): value for key, value in optimizer_state["state"].items()}}


def _has_adapter(core: CausalLMActorCritic) -> bool:
    return hasattr(core.model, "disable_adapter")
