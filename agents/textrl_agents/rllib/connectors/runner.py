"""Between environment and module on an env runner: one stacked array in, one array out, for all rows at once.

RLlib's default pieces handle recurrent states, agents and nested spaces row by row in Python, which costs more than a
small model's forward. Text generation has none of these.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core.columns import Columns


class StackObservations(ConnectorV2):
    """Env-to-module: the rows' newest observations as one tensor int64 [N, L]; row i is environment i."""

    def __call__(self, *, batch: dict[str, Any], obs: list[np.ndarray], **kwargs: Any) -> dict[str, Any]:
        batch[Columns.OBS] = torch.from_numpy(np.stack(obs))
        return batch


class SendTokens(ConnectorV2):
    """Module-to-env: tokens int64 [N] and log-probabilities float32 [N] to the host in one transfer.

    with_log_probs: the environment gets float64 rows `[token, log_prob]` and charges the KL itself, step by step. The
        episode records the token alone.
    """

    def __init__(self, *arguments: Any, with_log_probs: bool = False, **kwargs: Any):
        super().__init__(*arguments, **kwargs)
        self.with_log_probs = with_log_probs

    def __call__(self, *, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        # Exact in float64: no vocabulary has 2**53 tokens.
        rows = torch.stack([batch[Columns.ACTIONS].double(), batch[Columns.ACTION_LOGP].double()], dim=1).cpu().numpy()
        to_env: dict[str, Any] = {
            Columns.ACTIONS: rows[:, 0].astype(np.int64),
            Columns.ACTION_LOGP: rows[:, 1].astype(np.float32),
        }
        if self.with_log_probs:
            to_env[Columns.ACTIONS_FOR_ENV] = rows
        return to_env
