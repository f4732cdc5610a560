"""From a name, a folder or a module to a model on its device, with its tokenizer."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from textrl_env.errors import ConfigError, MissingExtra, ModelError
from textrl_env.foreign_text import shown, visible
from textrl_env.models.causal_lm import require_weights
from textrl_env.models.storage.catalogued import catalogued_folder
from textrl_env.models.storage.embedded import MODELS, asset_folder
from textrl_env.models.storage.gguf import is_gguf, load_gguf_model, load_gguf_outline, load_gguf_tokenizer
from textrl_env.models.storage.policy_folder import verify_policy
from textrl_env.models.storage.pretrained import first_lines, load_pretrained, load_tokenizer_of, local_files_only
from textrl_env.user_values import check_device_name, check_dtype_name, user_path

EMBEDDED = "embedded"


class LoadedModel(NamedTuple):
    """What `load_model` gives."""

    model: Any  # a transformers causal LM in eval mode, or a peft model around one
    tokenizer: Any


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """`"auto"` is the first GPU where there is one, else the CPU. A device that is not there is refused.

    `torch.device("meta")`, which holds no weights, is taken as it is.
    """
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not isinstance(device, torch.device):
        check_device_name(device)
    kind = str(device).split(":")[0]
    try:
        resolved = torch.device(device)
        if kind != "meta":
            torch.empty(1, device=resolved)
    except (RuntimeError, AssertionError) as error:
        # torch names each backend that it has, and where it is made, when it lacks one.
        missing = isinstance(error, NotImplementedError)
        reason = f"torch has no {kind} backend" if missing else str(error).splitlines()[0].rstrip(".")
        raise ConfigError(
            f"device {shown(str(device))} cannot be used here: {visible(reason[:200])}. Use device='auto' or 'cpu'."
        ) from error
    return resolved


def resolve_dtype(dtype: str | torch.dtype, device: torch.device, *, frozen: bool = True) -> torch.dtype | str:
    """What weights are stored in. `"auto"` is float32 for weights that may be trained: in half precision they lose what
    an update changes by less than their rounding. Frozen ones have float32 on a CPU, and elsewhere the checkpoint's own
    type, which is the answer "auto".
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return "auto" if frozen and device.type != "cpu" else torch.float32
    check_dtype_name(dtype)
    named: torch.dtype = getattr(torch, dtype)
    return named


def load_model(
    model: str | Path | Any = EMBEDDED,
    *,
    tokenizer: str | Path | Any = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    lora: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Load a causal LM and its tokenizer.

    model: "embedded", "embedded-turns" (which has learned to take turns), a name of `textrl models list`, a folder, a
        .gguf file (which is dequantised each time that it is loaded), a Hugging Face id, or a module, which is used as
        it is (moved to `device`).
    tokenizer: the same for the tokenizer; by default the one that lies beside the model.
    device: "auto", "cpu", "cuda", "cuda:1", ...
    dtype: what weights are stored in: "float32", "bfloat16", "float16", or "auto": float32, but for the frozen weights
        under an adapter on a GPU, which keep the checkpoint's own type.
        `torch.device("meta")` gives the architecture without its weights; a module that is given stays as it is.
    lora: keyword arguments of `peft.LoraConfig`, such as `{"r": 8}`: only an adapter is trained, and the reference
        is the same weights with the adapter off.

    Code that comes with a model is never run (`trust_remote_code` stays off). Raises ModelError, also for a policy of a
    run in which a file is not the one that the run has written.
    """
    place = resolve_device(device)
    kind = resolve_dtype(dtype, place, frozen=lora is not None)
    outline = place.type == "meta"
    if isinstance(model, (str, Path)):
        source = _source(model)
        if not outline and os.path.isdir(source):
            verify_policy(Path(source))
        loaded_tokenizer = _load_tokenizer(tokenizer if tokenizer is not None else source, wanted_by=source)
        module = _load_outline(source) if outline else _load_module(source, kind)
    else:
        if not hasattr(model, "get_output_embeddings"):
            raise ModelError(
                f"model must be a name, a folder or a causal LM, got {type(model).__name__}: {shown(model)}"
            )
        if tokenizer is None:
            raise ModelError(f"model is a {type(model).__name__}, which brings no tokenizer: pass tokenizer= as well")
        loaded_tokenizer = _load_tokenizer(tokenizer, wanted_by=type(model).__name__)
        if outline:
            return LoadedModel(model, loaded_tokenizer)
        require_weights(model)
        module = model if kind == "auto" else _with_parameters_in(model, kind)
    module = (module if outline else module.to(place)).eval()
    return LoadedModel(_with_lora(module, lora) if lora is not None else module, loaded_tokenizer)


def _source(model: str | Path) -> str:
    if str(model) in MODELS:
        return str(asset_folder(MODELS[str(model)]))
    if isinstance(model, str) and (folder := catalogued_folder(model)) is not None:
        return str(folder)
    if is_gguf(model):
        return str(user_path(model))
    # What looks like a path is one: asking the hub for it would end in a puzzling error about repository ids.
    if isinstance(model, Path) or str(model).startswith((".", "/", "~")):
        folder = user_path(model)
        if not folder.is_dir():
            raise ModelError(f"model folder {visible(str(folder)[:300])} does not exist")
        return str(folder)
    return str(model)


def _load_module(source: str, dtype: torch.dtype | str) -> Any:
    from transformers import AutoModelForCausalLM

    if is_gguf(source):
        return load_gguf_model(source, dtype)
    module, missing = load_pretrained(AutoModelForCausalLM, source, dtype, kind="model")
    if missing:
        raise ModelError(
            f"model {shown(source, 300)} is not a whole causal LM: its files have no weights for "
            f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}. Give one that was saved with all of them"
        )
    return module


def _load_outline(source: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    if is_gguf(source):
        return load_gguf_outline(source)
    here = local_files_only(source)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, local_files_only=here)
        with torch.device("meta"):
            module = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:
        raise ModelError(f"model {shown(source, 300)} cannot be loaded: {first_lines(error)}") from error
    with contextlib.suppress(OSError):  # few models have this file; where there is one it may name more ends
        module.generation_config = GenerationConfig.from_pretrained(source, local_files_only=here)
    return module


def _with_parameters_in(module: Any, dtype: torch.dtype | str) -> Any:
    """The module, its parameters cast in place; its buffers stay as they are, as `from_pretrained(dtype=...)` has them.

    Buffers such as the rotary embedding's frequencies would lose digits that every position is computed from. An
    adapter stays as peft has made it, in float32 on weights of half precision: small updates would be rounded away.
    """
    adapter = [
        (weight, weight.data, weight.grad)
        for name, weight in module.named_parameters()
        if hasattr(module, "peft_config") and "lora_" in name
    ]
    owners = list(module.modules())
    buffers = [list(owner.named_buffers(recurse=False, remove_duplicate=False)) for owner in owners]
    module = module.to(dtype)
    for owner, named in zip(owners, buffers, strict=True):
        for name, buffer in named:
            setattr(owner, name, buffer)
    for weight, data, grad in adapter:
        weight.grad, weight.data = None, data
        weight.grad = grad
    return module


def _load_tokenizer(tokenizer: str | Path | Any, wanted_by: str) -> Any:
    if not isinstance(tokenizer, (str, Path)):
        if not hasattr(tokenizer, "get_vocab"):
            raise ModelError(f"tokenizer must be a name, a folder or a transformers tokenizer, got {shown(tokenizer)}")
        return tokenizer
    source = _source(tokenizer)
    if is_gguf(source):
        return load_gguf_tokenizer(source)
    if os.path.isdir(source) and not any(Path(source).glob("*token*")) and not any(Path(source).glob("vocab*")):
        raise ModelError(
            f"folder {source} has no tokenizer. Save one there with tokenizer.save_pretrained({source!r}), "
            f"or name another with tokenizer=."
        )
    return load_tokenizer_of(source, wanted_by)


def _with_lora(module: Any, lora: Mapping[str, Any]) -> Any:
    if importlib.util.find_spec("peft") is None:
        raise MissingExtra("peft", "peft")
    from peft import LoraConfig, get_peft_model

    if not isinstance(lora, Mapping):
        raise ConfigError(f"lora takes arguments of peft.LoraConfig, such as {{'r': 8}}; got {shown(lora)}")
    settings = {"task_type": "CAUSAL_LM", "target_modules": "all-linear", **lora}
    try:
        with warnings.catch_warnings():  # peft warns about transformers, and a user can do nothing about it
            warnings.filterwarnings("ignore", ".is_gradient_checkpointing. is deprecated", FutureWarning)
            return get_peft_model(module, LoraConfig(**settings)).eval()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"lora={shown(dict(lora), 300)} is refused by peft: {first_lines(error)}") from error
