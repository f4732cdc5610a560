"""The model that is pretrained: an architecture with random weights, or a model that goes on with its own."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from textrl_env.models import load_model
from textrl_env.models.storage.loading import LoadedModel, resolve_device
from textrl_env.models.storage.pretrained import quiet_loading


def model_to_pretrain(model: Any, tokenizer: Any, *, from_scratch: bool, device: str) -> LoadedModel:
    """Load a model in float32, or its architecture and tokenizer with weights drawn from torch's generator.

    model, tokenizer: what `load_model` takes. A module from scratch is left as it is, and another is made like it.
    Raises ModelError.
    """
    if not from_scratch:
        return load_model(model, tokenizer=tokenizer, device=device, dtype="float32")
    outline = load_model(model, tokenizer=tokenizer, device=torch.device("meta"))
    config = copy.deepcopy(outline.model.config)
    config.name_or_path = ""  # by which the model's card would say what it started from
    with quiet_loading():
        fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    fresh.generation_config = copy.deepcopy(outline.model.generation_config)
    return LoadedModel(fresh.to(resolve_device(device)).eval(), outline.tokenizer)
