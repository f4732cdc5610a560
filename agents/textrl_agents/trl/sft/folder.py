"""The folder that SFT writes; its `policy/` comes last, so that where it is, all is."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textrl_agents.runs.atomic import atomic_folder, write_atomically
from textrl_agents.runs.logs import STEP, MetricsFile, markdown_cell, markdown_row
from textrl_agents.runs.run_folder import RunFolder
from textrl_agents.trl.sft.log import HELDOUT_LOSS, TRAIN_LOSS, SFTLog
from textrl_agents.trl.sft.samples import Sample
from textrl_env.errors import TextRLError
from textrl_env.models import CausalLMActorCritic

if TYPE_CHECKING:
    from textrl_agents.trl.sft.settings import SFTSettings

SETTINGS = "sft.json"
COLUMNS = ("prompt", "demonstrated", "before", "after")


class SFTFolder:
    """`sft.json`, the settings, which are there first; `checkpoints/` while it is trained; then all else."""

    def __init__(self, run: RunFolder):
        self.run, self.path = run, run.path
        self.checkpoints = run.path / "checkpoints"

    def begin(self, settings: SFTSettings) -> None:
        """Write the settings. Raises TextRLError where nothing can be written."""
        try:
            write_atomically(self.path / SETTINGS, json.dumps(dataclasses.asdict(settings), indent=1) + "\n")
        except OSError as error:
            raise _not_written(self.path, error) from error

    def save(self, policy: CausalLMActorCritic, log: SFTLog, samples: Sequence[Sample], *, label: str) -> None:
        """Write the rest. label: which prompts the samples answer. Raises TextRLError where it cannot be written."""
        try:
            write_atomically(self.run.samples, samples_page(samples, label))
            self.run.metrics.unlink(missing_ok=True)
            metrics = MetricsFile(self.run.metrics)
            for tokens, line in log.lines:
                metrics.add(tokens, line)
            plot_losses(metrics.read(), self.run.curve)
        except OSError as error:
            raise _not_written(self.path, error) from error
        with atomic_folder(self.run.policy, manifest=True) as fresh:
            policy.save_pretrained(fresh, method="supervised fine-tuning")


def _not_written(path: Path, error: OSError) -> TextRLError:
    return TextRLError(f"the run could not be written to {str(path)!r}: {error}")


def samples_page(samples: Sequence[Sample], label: str) -> str:
    """Markdown; what models and people wrote is shown as text."""
    lines = [f"# Samples\n\nResponses to the same {label} prompts, before and after supervised fine-tuning.\n"]
    lines += [markdown_row(COLUMNS), markdown_row(["---"] * len(COLUMNS))]
    lines += [markdown_row([markdown_cell(text) for text in sample]) for sample in samples]
    return "\n".join(lines) + "\n"


def plot_losses(
    lines: Sequence[dict[str, Any]],
    path: Path,
    *,
    labels: tuple[str, str] = ("training batches", "held-out prompts"),
    unit: str = "nats per token of a response",
    title: str = "",
) -> None:
    """Draw the loss against the tokens trained on; `lines` as metrics.jsonl has them. labels: of training, held-out."""
    # Without pyplot: no global state, and no display is looked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, label, color, marker in (
        (TRAIN_LOSS, labels[0], "#9db8d2", ""),
        (HELDOUT_LOSS, labels[1], "#c44e00", "D"),
    ):
        found = [line for line in lines if isinstance(line.get(name), (int, float))]
        if found:
            tokens, losses = [line[STEP] for line in found], [line[name] for line in found]
            axes.plot(tokens, losses, label=label, color=color, marker=marker, markersize=4, linewidth=1.2)
    axes.set_xlabel("tokens trained on")
    axes.set_ylabel(f"loss ({unit})")
    axes.set_title(title, fontsize=10)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=120)
