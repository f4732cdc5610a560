"""The columns that the losses of IMPALA and APPO read."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns

from textrl_agents.rllib.connectors.batch import ENDS, IDS, STATES, column_mask, spread
from textrl_agents.rllib.connectors.packing import PackEpisodes
from textrl_env.models import CausalLMActorCritic, PackedEpisodes, pack
from textrl_env.trajectory import Trajectory


class PackForVTrace(PackEpisodes):
    """For IMPALA and APPO, whose losses compute their targets from the rewards: one column more, to bootstrap from.

    Their V-trace replaces a value by its target before it hands it to the step before, and the extra column's target is
    its reward alone. So that is where the value of a stretch that was cut goes. (The column has a state too, for
    clipping thresholds under which the value itself does not cancel.)
    """

    @torch.no_grad()
    def _columns(
        self,
        trajectories: list[Trajectory],
        counts: np.ndarray,
        packed: PackedEpisodes,
        core: CausalLMActorCritic,
        metrics: Any,
    ) -> dict[str, Any]:
        longer = column_mask(counts + 1)
        mask = column_mask(counts, width=longer.shape[1])
        cut = np.array([not trajectory.finish_reason for trajectory in trajectories])
        with_last = pack([trajectory.with_last_state() for trajectory in trajectories], core.device)
        rewards = spread(np.concatenate([trajectory.rewards for trajectory in trajectories]).astype(np.float32), mask)
        if cut.any():
            # Of each sequence the last state alone, which an arbitrary action follows.
            ends_of = [
                Trajectory.of_response(trajectories[row].ids, np.zeros(1, np.int64)) for row in np.flatnonzero(cut)
            ]
            rewards[cut, counts[cut]] = core.states(pack(ends_of, core.device)).values.cpu().numpy()
        terminated = np.zeros(mask.shape, dtype=bool)
        terminated[np.arange(len(counts)), counts - 1] = ~cut
        ends = spread(with_last.columns.cpu().numpy(), longer)
        return {
            Columns.OBS: {IDS: with_last.input_ids, ENDS: ends, STATES: counts + cut},
            Columns.ACTIONS: spread(packed.actions.cpu().numpy(), mask),
            Columns.ACTION_LOGP: spread(np.concatenate([trajectory.log_probs for trajectory in trajectories]), mask),
            Columns.LOSS_MASK: mask,
            Columns.REWARDS: rewards,
            Columns.TERMINATEDS: terminated,
        }
