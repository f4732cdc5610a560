"""The folder of a training run: what lies where, and how its policy is loaded again.

policy/                  the trained model in Hugging Face format
value_head.safetensors   its value head
config.yaml              every setting of the run
metrics.jsonl            metrics over training, and TensorBoard's events beside it
curve.png, samples.md    the run at a glance
checkpoint-<tokens>/     what `--resume` goes on from
.lock                    held by the process that writes the run
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from textrl_agents.runs.atomic import atomic_folder, existing, foreign_names, remove_folder
from textrl_agents.runs.checkpoint_files import POLICY_FOLDER
from textrl_env.errors import ConfigError, ModelError
from textrl_env.models import CausalLMActorCritic, SamplingParams, load_model
from textrl_env.models.storage.manifest import require_manifest, verify
from textrl_env.models.storage.policy_folder import SETTINGS_FILE, VALUE_HEAD_FILE
from textrl_env.tasks.registry import get_task
from textrl_env.tasks.task import Task
from textrl_env.user_values import user_path

TRAINING_FILE = "training.json"  # in policy/: what it was trained on
PRETRAINING_FILE = "pretraining.json"  # of a run that `textrl pretrain` wrote
_CHECKPOINT = re.compile(r"\.?checkpoint-(\d+)(\.previous)?")


class RunFolder:
    """Paths of one run. Raises ConfigError for a path that no file can have."""

    def __init__(self, path: str | Path):
        self.path = user_path(path)
        self.policy = self.path / POLICY_FOLDER
        self.value_head = self.path / VALUE_HEAD_FILE
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.curve = self.path / "curve.png"
        self.samples = self.path / "samples.md"

    def require_free(self) -> None:
        """Raise ConfigError where a run or anything else is here already, or a file has this name."""
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"out {str(self.path)!r} is a file; a run needs a folder")
        if self.config.exists() or self.policy.exists() or self.checkpoints():
            raise ConfigError(
                f"out {str(self.path)!r} already holds a run: continue it with --resume {self.path}, "
                "or choose another --out"
            )
        if others := foreign_names(self.path, self.config.name):
            raise ConfigError(
                f"out {str(self.path)!r} is not empty, and what it holds is no run: {others}. Choose another --out"
            )

    def checkpoint(self, tokens: int) -> Path:
        """Return the folder of the checkpoint after `tokens` tokens."""
        return self.path / f"checkpoint-{tokens}"

    def checkpoints(self) -> list[tuple[int, Path]]:
        """List (tokens, folder) of every checkpoint, oldest first."""
        found: dict[int, Path] = {}
        for path in self.path.glob("*checkpoint-*") if self.path.is_dir() else []:
            if (match := _CHECKPOINT.fullmatch(path.name)) and path.is_dir():
                found[int(match[1])] = existing(self.checkpoint(int(match[1])))
        return sorted(found.items())

    def prune(self, keep: int) -> None:
        """Remove all checkpoints but the newest `keep`."""
        for _, old in self.checkpoints()[:-keep]:
            remove_folder(old)
        for pattern in (".checkpoint-*.writing", ".checkpoint-*.removing"):  # of a process that was killed
            for left in self.path.glob(pattern):
                shutil.rmtree(left, ignore_errors=True)

    def save_policy(self, actor_critic: CausalLMActorCritic, tokens: int) -> None:
        """Write `policy/`, trained on `tokens` tokens, and the value head; plain transformers loads the former."""
        with atomic_folder(self.policy, manifest=True) as fresh:
            actor_critic.save_pretrained(fresh)
            (fresh / TRAINING_FILE).write_text(json.dumps({"tokens": tokens}) + "\n")
        # One copy, beside the model: whoever takes the policy for generation alone need not carry it.
        (self.policy / VALUE_HEAD_FILE).replace(self.value_head)

    @property
    def policy_tokens(self) -> int | None:
        """Tokens that `policy/` was trained on; None where there is none that says so."""
        try:
            tokens = json.loads((existing(self.policy) / TRAINING_FILE).read_text())["tokens"]
        except (OSError, ValueError, TypeError, LookupError, RecursionError):
            return None
        return tokens if isinstance(tokens, int) else None

    def is_finished(self, tokens: int) -> bool:
        """Whether everything is written that a run of `tokens` tokens ends with."""
        moved = not (self.policy / VALUE_HEAD_FILE).exists()  # `save_policy` came to its end
        return self.policy.is_dir() and self.policy_tokens == tokens and moved and self.curve.is_file()

    @property
    def newest_policy(self) -> Path | None:
        """The folder of the policy that was trained longest: `policy/`, unless a checkpoint is newer."""
        checkpoints, policy = self.checkpoints(), existing(self.policy)
        if not policy.is_dir():
            return checkpoints[-1][1] / POLICY_FOLDER if checkpoints else None
        tokens = self.policy_tokens
        if checkpoints and tokens is not None and tokens < checkpoints[-1][0]:
            return checkpoints[-1][1] / POLICY_FOLDER
        return policy


def load_policy(
    folder: str | Path, *, device: str = "auto", dtype: str = "auto", precision: str | None = None
) -> CausalLMActorCritic:
    """Load the policy of a run folder, of one of its checkpoints, or of any folder with a causal LM.

    Of a run that has no `policy/` yet, or that went on after it was written, it is the newest checkpoint's. Raises
    ModelError, also where a file is not the one that the run has written.

    precision: what matrix products are computed in; None is what was saved with the policy.
    """
    run = RunFolder(folder)
    folder = run.path
    if not folder.is_dir():
        raise ModelError(f"{str(folder)!r} is not a folder; give a run folder, a checkpoint or a saved model")
    source = run.newest_policy or folder
    if source == folder and run.config.is_file():
        raise ModelError(
            f"run {str(folder)!r} has neither policy/ nor a checkpoint: it stopped before its "
            "first one, or what it trained is no model that can be saved, such as a table"
        )
    # `load_model` compares the files with their manifest, where there is one. A model from elsewhere has none.
    home = RunFolder(source.resolve().parent)
    if _CHECKPOINT.fullmatch(home.path.name):
        require_manifest(home.path)
    elif home.config.is_file():
        verify(source, only=VALUE_HEAD_FILE, elsewhere={VALUE_HEAD_FILE: home.value_head})
    if not (source / SETTINGS_FILE).is_file():
        return plain_policy(source, device=device, dtype=dtype, precision=precision or "auto")
    heads = [path for path in (source / VALUE_HEAD_FILE, source.parent / VALUE_HEAD_FILE) if path.is_file()]
    value_head = heads[0].absolute() if heads else None
    overrides = {} if precision is None else {"precision": precision}
    return CausalLMActorCritic.from_pretrained(source, device=device, dtype=dtype, value_head=value_head, **overrides)


def plain_policy(
    model: str | Path, *, device: str = "auto", dtype: str = "auto", precision: str = "auto"
) -> CausalLMActorCritic:
    """Load any causal LM, named as for `load_model`, as a policy of at most 2048 tokens. Raises ModelError."""
    loaded = load_model(model, device=device, dtype=dtype)
    limit = getattr(loaded.model.config, "max_position_embeddings", None) or 2048
    return CausalLMActorCritic(loaded.model, loaded.tokenizer, max_length=min(limit, 2048), precision=precision)


def policy_as_task_samples(model: str | Path, task: str | Task, *, device: str = "auto") -> CausalLMActorCritic:
    """Load a causal LM that samples as the task does. Raises ModelError and UnknownName."""
    policy = plain_policy(model, device=device)
    sampling: dict[str, Any] = dict(get_task(task).sampling)
    policy.sampling = SamplingParams(**sampling)
    return policy
