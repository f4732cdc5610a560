"""What the training of a reward model found, as data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textrl_agents.reward_models.measures.evaluation import RewardModelEvaluation
from textrl_agents.reward_models.options import EMBEDDED_REWARD

REPORT_FILE = "report.json"
_PRETRAINED = (
    "The embedded reward model's hidden states were trained on pairs that the sentiment task's gold score ranked: on "
    "that task, figures say little about what the feedback alone has taught."
)


@dataclass(frozen=True)
class RewardModelReport:
    """A reward model's folder, and how good it is.

    counts: records and pairs by kind, and prompts of either side. normalization: mean and std of the reference's scores
    in logits, which `make_reward(folder)` makes 0 and 1. train, heldout: figures on either side of the split by
    prompt. members: held-out accuracy of each member of an ensemble.
    """

    folder: Path
    settings: dict[str, Any]
    counts: dict[str, int]
    normalization: dict[str, float]
    reference: str
    train: RewardModelEvaluation
    heldout: RewardModelEvaluation
    members: tuple[float, ...] = ()

    @property
    def caveat(self) -> str | None:
        """What has to be said beside the figures, in words; None where nothing has."""
        return _PRETRAINED if self.settings["model"] == EMBEDDED_REWARD else None

    def to_dict(self) -> dict[str, Any]:
        """All of it but the folder, as plain JSON values."""
        return {
            "settings": self.settings,
            "counts": self.counts,
            "normalization": self.normalization,
            "reference": self.reference,
            "train": self.train.to_dict(),
            "heldout": self.heldout.to_dict(),
            "members": list(self.members),
            "caveat": self.caveat,
        }

    def write(self, folder: Path) -> None:
        """Write `report.json`."""
        (folder / REPORT_FILE).write_text(json.dumps(self.to_dict(), indent=1, default=str) + "\n", encoding="utf-8")


def caveat_of(folder: Path) -> str | None:
    """The caveat of a reward model that was trained here; None for one without, and for any other reward."""
    try:
        found = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))["caveat"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return found if isinstance(found, str) else None
