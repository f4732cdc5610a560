"""The folder that pretraining writes; its `policy/` comes last, so that where it is, all is."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textrl_agents.pretraining.samples import SampledDocument, samples_page
from textrl_agents.runs.atomic import atomic_folder, write_atomically
from textrl_agents.runs.logs import MetricsFile
from textrl_agents.runs.run_folder import PRETRAINING_FILE, RunFolder
from textrl_agents.trl.sft.folder import plot_losses
from textrl_agents.trl.sft.log import SFTLog
from textrl_env.errors import TextRLError
from textrl_env.models import CausalLMActorCritic

if TYPE_CHECKING:
    from textrl_agents.pretraining.settings import PretrainSettings


class PretrainingFolder:
    """`pretraining.json`, what is trained how, which is there first; `checkpoints/` meanwhile; then all else."""

    def __init__(self, run: RunFolder):
        self.run, self.path = run, run.path
        self.checkpoints = run.path / "checkpoints"

    def begin(self, settings: PretrainSettings, about: Mapping[str, Any]) -> None:
        """Write the settings, and what is known before training. Raises TextRLError where nothing can be written."""
        content = {**about, "settings": dataclasses.asdict(settings)}
        try:
            write_atomically(self.path / PRETRAINING_FILE, json.dumps(content, indent=1) + "\n")
        except OSError as error:
            raise _not_written(self.path, error) from error

    def save(self, policy: CausalLMActorCritic, log: SFTLog, samples: Sequence[SampledDocument], *, title: str) -> None:
        """Write the rest. Raises TextRLError where it cannot be written."""
        try:
            write_atomically(self.run.samples, samples_page(samples))
            self.run.metrics.unlink(missing_ok=True)
            metrics = MetricsFile(self.run.metrics)
            for tokens, line in log.lines:
                metrics.add(tokens, line)
            labels = ("objective on training batches", "loss on held-out documents")
            plot_losses(metrics.read(), self.run.curve, labels=labels, unit="nats per token", title=title)
        except OSError as error:
            raise _not_written(self.path, error) from error
        with atomic_folder(self.run.policy, manifest=True) as fresh:
            policy.save_pretrained(fresh, method="pretraining with preferences")


def _not_written(path: Path, error: OSError) -> TextRLError:
    return TextRLError(f"the run could not be written to {str(path)!r}: {error}")
