"""Trees of numbers, text, arrays and tensors as JSON and safetensors: nothing that is read can run code."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from textrl_env.errors import ModelError, TextRLError

ARRAY, TENSOR = "$array", "$tensor"


def save_state(tree: Any, folder: Path, name: str) -> None:
    """Write `name.json` and, where the tree holds arrays or tensors, `name.safetensors`.

    tree: dicts with text keys, lists and tuples (which come back as lists), numbers, text, None, NumPy arrays, tensors.
    Raises ModelError for a tensor without values or with a sparse layout.
    """
    tensors: dict[str, torch.Tensor] = {}
    structure = _split(tree, "", tensors)
    (folder / f"{name}.json").write_text(json.dumps(structure) + "\n")
    if tensors:
        save_file(tensors, folder / f"{name}.safetensors")


def load_state(folder: Path, name: str) -> Any:
    """Read what `save_state` wrote; tensors come back on the CPU. Raises ModelError that names the file."""
    structure_file, tensor_file = folder / f"{name}.json", folder / f"{name}.safetensors"
    try:
        structure = json.loads(structure_file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{structure_file} cannot be read: {error}") from error
    try:
        return _join(structure, load_file(tensor_file) if tensor_file.is_file() else {})
    except Exception as error:  # safetensors has an exception type of its own, outside any tree
        raise ModelError(f"{tensor_file} cannot be read: {error}") from error


@contextlib.contextmanager
def expected_state(folder: Path) -> Iterator[None]:
    """Turn what a state of another shape raises where it is used into a ModelError that names its folder."""
    try:
        yield
    except (TextRLError, torch.OutOfMemoryError):
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ModelError(
            f"{folder} does not hold the state of this kind of run: {type(error).__name__}: {error}. It may be of "
            "another version; use another checkpoint"
        ) from error


def _split(value: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        if value.is_meta or value.layout != torch.strided:
            kind = "no values (it is on the meta device)" if value.is_meta else f"the layout {value.layout}"
            raise ModelError(f"the state {path!r} cannot be saved: its tensor has {kind}; a dense one is needed")
        # A copy: safetensors refuses tensors that share memory.
        tensors[path] = value.detach().cpu().clone().contiguous()
        return {TENSOR: path}
    if isinstance(value, np.ndarray):
        tensors[path] = torch.from_numpy(value.copy())
        return {ARRAY: path}
    if isinstance(value, dict):
        return {key: _split(item, f"{path}.{key}" if path else str(key), tensors) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_split(item, f"{path}.{index}" if path else str(index), tensors) for index, item in enumerate(value)]
    return value.item() if isinstance(value, np.generic) else value


def _join(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {TENSOR}:
            return tensors[value[TENSOR]]
        if value.keys() == {ARRAY}:
            return tensors[value[ARRAY]].numpy()
        return {key: _join(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [_join(item, tensors) for item in value]
    return value
