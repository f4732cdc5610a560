"""Train a cell by an algorithm that `make_config` wires: in one process, with Ray started for the cell."""

from __future__ import annotations

from textrl_agents.algorithms.cell import Cell, Record, Trained
from textrl_agents.rllib import make_config, policy_of, ray_session, training_metrics
from textrl_agents.rllib.metrics import tokens_sampled
from textrl_agents.training.terminal import errors_only


def train(cell: Cell, record: Record) -> Trained:
    """Train `make_config(...)` with `cell.settings`; the last batch begins within the budget."""
    tokens = 0
    with errors_only("ray"), errors_only("ray.rllib"), ray_session():
        config = make_config(
            cell.algorithm,
            cell.env_arguments,
            total_timesteps=cell.budget,
            seed=cell.seed,
            log_level="ERROR",
            **cell.settings,
        )
        algorithm = config.build_algo()
        try:
            while tokens < cell.budget:
                result = algorithm.train()
                tokens, metrics = tokens_sampled(result), training_metrics(result)
                if "objective/scores" in metrics:
                    length = metrics["rollout/ep_len_mean"]
                    record(tokens, score=metrics["objective/scores"], kl=metrics["objective/kl"], length=length)
            return Trained(policy_of(algorithm), tokens=tokens)
        finally:
            algorithm.stop()
