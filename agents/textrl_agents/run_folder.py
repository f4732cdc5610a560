"""The folder of a training run: what lies where, and how its policy is loaded again.

policy/                  the trained model in Hugging Face format
value_head.safetensors   its value head
config.yaml              every setting of the run
metrics.jsonl            metrics over training, and TensorBoard's events beside it
curve.png, samples.md    the run at a glance
checkpoint-<tokens>/     what `--resume` goes on from
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from textrl_agents.atomic_folder import atomic_folder, existing
from textrl_env.errors import ConfigError, ModelError
from textrl_env.models import CausalLMActorCritic, load_model
from textrl_env.models.actor_critic import SETTINGS_FILE, VALUE_HEAD_FILE

_CHECKPOINT = re.compile(r"\.?checkpoint-(\d+)(\.previous)?")


class RunFolder:
    """Paths of one run."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.policy = self.path / "policy"
        self.value_head = self.path / VALUE_HEAD_FILE
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.curve = self.path / "curve.png"
        self.samples = self.path / "samples.md"

    @property
    def holds_run(self) -> bool:
        return self.config.exists() or self.policy.exists() or bool(self.checkpoints())

    def require_free(self) -> None:
        """Raise ConfigError where a run is here already, or a file has this name."""
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"out {str(self.path)!r} is a file; a run needs a folder")
        if self.holds_run:
            raise ConfigError(
                f"out {str(self.path)!r} already holds a run: continue it with --resume {self.path}, "
                "or choose another --out"
            )

    def checkpoint(self, tokens: int) -> Path:
        return self.path / f"checkpoint-{tokens}"

    def checkpoints(self) -> list[tuple[int, Path]]:
        """(tokens, folder) of every checkpoint, oldest first."""
        found: dict[int, Path] = {}
        for path in self.path.glob("*checkpoint-*") if self.path.is_dir() else []:
            if (match := _CHECKPOINT.fullmatch(path.name)) and path.is_dir():
                found[int(match[1])] = existing(self.checkpoint(int(match[1])))
        return sorted(found.items())

    def prune(self, keep: int) -> None:
        """Remove all checkpoints but the newest `keep`."""
        for _, old in self.checkpoints()[:-keep]:
            shutil.rmtree(old, ignore_errors=True)

    def save_policy(self, actor_critic: CausalLMActorCritic) -> None:
        """Write `policy/` and the value head; plain transformers loads the former."""
        with atomic_folder(self.policy) as fresh:
            actor_critic.save_pretrained(fresh)
        # One copy, beside the model: whoever takes the policy for generation alone need not carry it.
        (self.policy / VALUE_HEAD_FILE).replace(self.value_head)


def load_policy(folder: str | Path, *, device: str = "auto", dtype: str = "auto") -> CausalLMActorCritic:
    """The policy of a run folder, of one of its checkpoints, or of any folder with a causal LM.

    The newest checkpoint of a run that has no `policy/` yet. Raises ModelError.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelError(f"{str(folder)!r} is not a folder; give a run folder, a checkpoint or a saved model")
    run = RunFolder(folder)
    source = folder
    if run.policy.is_dir():
        source = run.policy
    elif checkpoints := run.checkpoints():
        source = checkpoints[-1][1] / "policy"
    elif run.config.is_file():
        raise ModelError(f"run {str(folder)!r} has neither policy/ nor a checkpoint: it stopped before its first one")
    if not (source / SETTINGS_FILE).is_file():
        loaded = load_model(source, device=device, dtype=dtype)
        limit = getattr(loaded.model.config, "max_position_embeddings", None) or 2048
        return CausalLMActorCritic(loaded.model, loaded.tokenizer, max_length=min(limit, 2048))
    heads = [path for path in (source / VALUE_HEAD_FILE, source.parent / VALUE_HEAD_FILE) if path.is_file()]
    value_head = heads[0].absolute() if heads else None
    return CausalLMActorCritic.from_pretrained(source, device=device, dtype=dtype, value_head=value_head)
