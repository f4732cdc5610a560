"""A supervised run as it stood at a segment's end, in memory or as a file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from textrl_env.errors import ModelError, TextRLError
from textrl_env.finetune.training_run import Settings
from textrl_env.user_values import user_path

FORMAT = "textrl-env fine-tuning snapshot 1"


@dataclass(frozen=True)
class Snapshot:
    """Everything that the next segments of a run depend on.

    weights: name -> tensor. moments: the optimizer's state, weight's place -> name -> tensor; empty before its first
    step. drawn: rows of data so far. order_seed: of their order.
    model, data: hashes of the model's start and of the examples: what the snapshot may be restored to.
    settings: of the last segment.
    """

    model: str
    data: str
    weights: Mapping[str, torch.Tensor]
    moments: Mapping[int, Mapping[str, torch.Tensor]]
    settings: Settings
    order_seed: int
    drawn: int

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all. Raises TextRLError where it cannot be written."""
        path = user_path(path)
        tensors = {f"weights/{name}": tensor for name, tensor in self.weights.items()}
        for place, state in self.moments.items():
            tensors |= {f"moments/{place}/{name}": tensor for name, tensor in state.items()}
        said = {
            "format": FORMAT,
            "model": self.model,
            "data": self.data,
            "settings": json.dumps(asdict(self.settings)),
            "progress": json.dumps([self.order_seed, self.drawn]),
        }
        said["digest"] = _digest(said, tensors)
        fresh = path.with_name(f".{path.name}.{os.getpid()}.writing")
        try:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, fresh, metadata=said)
            os.replace(fresh, path)
        except (OSError, SafetensorError) as error:
            raise TextRLError(f"{path} cannot be written: {error}. What was there before is unchanged.") from error
        finally:
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> Snapshot:
        """Read what `save` wrote. Raises ModelError where the file is missing, broken or something else."""
        path = user_path(path)
        weights: dict[str, torch.Tensor] = {}
        moments: dict[int, dict[str, torch.Tensor]] = {}
        try:
            with safe_open(path, framework="pt") as file:
                said = file.metadata() or {}
                if said.get("format") != FORMAT:
                    raise ModelError(f"{path} is no snapshot of a fine-tuning run: save one with Snapshot.save")
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no mapping
            if said.pop("digest") != _digest(said, tensors):
                raise ModelError(f"the snapshot {path} was changed or damaged after it was written")
            for key, tensor in tensors.items():
                kind, _, name = key.partition("/")
                if kind == "weights":
                    weights[name] = tensor
                else:
                    place, _, moment = name.partition("/")
                    moments.setdefault(int(place), {})[moment] = tensor
            return cls(
                said["model"],
                said["data"],
                weights,
                moments,
                Settings(**json.loads(said["settings"])),
                *map(int, json.loads(said["progress"])),
            )
        except ModelError:
            raise
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"the snapshot {path} cannot be read: {error}") from error


def hash_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """A hash of names, shapes, types and every byte, in their order."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _digest(said: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> str:
    """Of all that a file holds: safetensors has no checksum, and a damaged number is a number."""
    whole = [sorted(said.items()), hash_of(dict(sorted(tensors.items())))]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()


def copied(tree: Any) -> Any:
    """Copy a mapping of mappings of tensors: neither side changes with the other."""
    if isinstance(tree, torch.Tensor):
        return tree.detach().clone()
    return {name: copied(value) for name, value in tree.items()}
