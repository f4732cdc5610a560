"""Tensors as the NumPy arrays that RLlib sends and saves, without losing a bit."""

from __future__ import annotations

from typing import Any

import torch
import tree
from ray.rllib.utils.numpy import convert_to_numpy


def to_arrays(structure: Any) -> Any:
    """A nested structure, its tensors as arrays.

    NumPy has no bfloat16. Such tensors become float32, which holds each of their values, so that `load_state_dict`
    gets back what was there. (RLlib does the same to float16.)
    """
    return convert_to_numpy(tree.map_structure(_widened, structure))


def _widened(leaf: Any) -> Any:
    return leaf.float() if isinstance(leaf, torch.Tensor) and leaf.dtype == torch.bfloat16 else leaf
