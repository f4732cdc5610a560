"""From a name, a folder or a module to a model on its device, with its tokenizer."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from textrl_env.assets import asset_folder
from textrl_env.errors import ConfigError, MissingExtra, ModelError, UnknownName
from textrl_env.foreign_text import shown, visible

EMBEDDED = "embedded"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
DEVICE_KINDS = ("auto", "cpu", "cuda", "mps", "xpu")


class LoadedModel(NamedTuple):
    """What `load_model` gives."""

    model: Any  # a transformers causal LM in eval mode, or a peft model around one
    tokenizer: Any


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """`"auto"` is the first GPU where there is one, else the CPU. A device that is not there is refused."""
    if isinstance(device, torch.device):
        return device
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = str(device).split(":")[0]
    if kind not in DEVICE_KINDS:
        raise UnknownName("device", device, DEVICE_KINDS)
    try:
        resolved = torch.device(device)
        torch.empty(1, device=resolved)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {device!r} cannot be used here: {reason}. Use device='auto' or 'cpu'.") from error
    return resolved


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype | str:
    """`"auto"` is float32 on a CPU, where half precision is slow, and the checkpoint's own type elsewhere."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    if dtype not in DTYPES:
        raise UnknownName("dtype", dtype, [*DTYPES, "auto"])
    return DTYPES[dtype]


def load_model(
    model: str | Path | Any = EMBEDDED,
    *,
    tokenizer: str | Path | Any = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    lora: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Load a causal LM and its tokenizer.

    model: "embedded", a folder, a Hugging Face id, or a module, which is used as it is (moved to `device`).
    tokenizer: the same for the tokenizer; by default the one that lies beside the model.
    device: "auto", "cpu", "cuda", "cuda:1", ... dtype: "auto", "float32", "bfloat16", "float16".
        `torch.device("meta")` gives the architecture without its weights; a module that is given stays as it is.
    lora: keyword arguments of `peft.LoraConfig`, such as `{"r": 8}`: only an adapter is trained, and the reference
        is the same weights with the adapter off.

    Code that comes with a model is never run (`trust_remote_code` stays off). Raises ModelError.
    """
    place = resolve_device(device)
    kind = resolve_dtype(dtype, place)
    outline = place.type == "meta"
    if isinstance(model, (str, Path)):
        source = _source(model)
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
        module = model if kind == "auto" else _with_parameters_in(model, kind)
    module = (module if outline else module.to(place)).eval()
    return LoadedModel(_with_lora(module, lora) if lora is not None else module, loaded_tokenizer)


def _source(model: str | Path) -> str:
    if str(model) == EMBEDDED:
        return str(asset_folder("policy"))
    # What looks like a path is one: asking the hub for it would end in a puzzling error about repository ids.
    if isinstance(model, Path) or str(model).startswith((".", "/", "~")):
        folder = str(Path(os.path.expanduser(model)))
        if not os.path.isdir(folder):  # Path.is_dir() raises where a name is too long
            raise ModelError(f"model folder {visible(folder[:300])} does not exist")
        return folder
    return str(model)


def _load_module(source: str, dtype: torch.dtype | str) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(source, dtype=dtype, trust_remote_code=False)
    except Exception as error:  # any of a dozen types: OSError, ValueError, SafetensorError, ...
        raise ModelError(f"model {shown(source, 300)} cannot be loaded: {_first_lines(error)}") from error


def _load_outline(source: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        with torch.device("meta"):
            module = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:
        raise ModelError(f"model {shown(source, 300)} cannot be loaded: {_first_lines(error)}") from error
    with contextlib.suppress(OSError):  # few models have this file; where there is one it may name more ends
        module.generation_config = GenerationConfig.from_pretrained(source)
    return module


def _with_parameters_in(module: Any, dtype: torch.dtype | str) -> Any:
    """The module, its parameters cast in place; its buffers stay as they are, as `from_pretrained(dtype=...)` has them.

    Buffers such as the rotary embedding's frequencies would lose digits that every position is computed from.
    """
    owners = list(module.modules())
    buffers = [list(owner.named_buffers(recurse=False, remove_duplicate=False)) for owner in owners]
    module = module.to(dtype)
    for owner, named in zip(owners, buffers, strict=True):
        for name, buffer in named:
            setattr(owner, name, buffer)
    return module


def _load_tokenizer(tokenizer: str | Path | Any, wanted_by: str) -> Any:
    if not isinstance(tokenizer, (str, Path)):
        if not hasattr(tokenizer, "get_vocab"):
            raise ModelError(f"tokenizer must be a name, a folder or a transformers tokenizer, got {shown(tokenizer)}")
        return tokenizer
    from transformers import AutoTokenizer

    source = _source(tokenizer)
    if os.path.isdir(source) and not any(Path(source).glob("*token*")) and not any(Path(source).glob("vocab*")):
        raise ModelError(
            f"folder {source} has no tokenizer. Save one there with tokenizer.save_pretrained({source!r}), "
            f"or name another with tokenizer=."
        )
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:
        raise ModelError(f"the tokenizer of {shown(wanted_by, 300)} cannot be loaded: {_first_lines(error)}") from error


def _with_lora(module: Any, lora: Mapping[str, Any]) -> Any:
    if importlib.util.find_spec("peft") is None:
        raise MissingExtra("peft", "peft")
    from peft import LoraConfig, get_peft_model

    settings = {"task_type": "CAUSAL_LM", "target_modules": "all-linear", **lora}
    try:
        return get_peft_model(module, LoraConfig(**settings)).eval()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"lora={dict(lora)} is refused by peft: {_first_lines(error)}") from error


def _first_lines(error: Exception, count: int = 3) -> str:
    return f"{type(error).__name__}: " + " ".join(str(error).splitlines()[:count])
