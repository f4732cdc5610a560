"""Checkpoints while training: every so many tokens, at the end, and where a run is stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from textrl_agents.runs.run_folder import RunFolder
from textrl_agents.sb3.runs.checkpoint import capture, save_checkpoint


class Checkpoints(BaseCallback):
    """Writes `checkpoint-<tokens>/` into a run folder and keeps the newest `keep`.

    every: tokens between two checkpoints; 0 writes one at the end alone. settings: of the run, in YAML, kept with each.
    Comes last in a list of callbacks, so that what others do at the same boundary is in it.
    """

    def __init__(self, run: RunFolder, *, every: int = 0, keep: int = 2, settings: str | None = None):
        super().__init__()
        self.run, self.every, self.keep, self.settings = run, every, keep, settings
        # Whether the weights are still those of the last boundary: from a rollout's start to its end.
        self.in_rollout = False
        self._state: dict[str, Any] | None = None  # of the last boundary
        self._state_at = -1
        self.saved_at = -1  # tokens of the newest checkpoint

    def _on_training_start(self) -> None:
        self.saved_at = self.num_timesteps if self.num_timesteps > 0 else -1  # resumed from there

    def _on_rollout_start(self) -> None:
        self._capture()
        self.in_rollout = True
        tokens = self.num_timesteps
        per_rollout = self.model.n_steps * self.training_env.num_envs  # type: ignore[attr-defined]
        if self.every > 0 and tokens > 0 and tokens // self.every > (tokens - per_rollout) // self.every:
            self.save()

    def _on_rollout_end(self) -> None:
        self.in_rollout = False  # the update that follows changes the weights, and may fail half-way

    def _on_training_end(self) -> None:
        # `learn` also ends here when a callback has stopped it within a rollout: then the boundary before counts.
        if not self.in_rollout:
            if self.logger.name_to_value:
                # The last update's, which SB3 writes after the next rollout: before the checkpoint, so that a run that
                # is killed after it lacks nothing.
                self.logger.dump(self.num_timesteps)
            self._capture()
        self.save()

    def save(self) -> Path:
        """Write the last boundary, unless it was written already, and remove what is too old; returns its folder.

        Only while `in_rollout`, and between two calls of `learn`: in an update the weights are of neither boundary.
        """
        folder = self.run.checkpoint(self._state_at)
        if self.saved_at != self._state_at:
            save_checkpoint(self.model, folder, self._state, settings=self.settings)  # type: ignore[arg-type]
            self.saved_at = self._state_at
        self.run.prune(self.keep)
        return folder

    def _capture(self) -> None:
        self._state, self._state_at = capture(self.model), self.num_timesteps  # type: ignore[arg-type]

    def _on_step(self) -> bool:
        return True
