"""Train a cell by an algorithm of TRL: on its own samples, or on pairs of the reference's samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from textrl_agents.algorithms.cell import Cell, Record, Trained
from textrl_agents.algorithms.cell_setup import initial_policy, trained_weights, training_env
from textrl_agents.algorithms.libraries.trl import TRLAlgorithm
from textrl_agents.algorithms.response_groups import collect_pairs, means
from textrl_agents.training.learning_rate import learning_schedule
from textrl_agents.trl import train_offline, train_online
from textrl_agents.trl.offline import REFUSED
from textrl_agents.trl.online import DECIDED
from textrl_agents.trl.trainer import check_names, refuse_turns, trl_algorithm
from textrl_env.trajectory import Trajectory
from textrl_env.user_values import check_whole

CANDIDATES = 4  # responses to each prompt, of which the best and the worst are a pair


def train(cell: Cell, record: Record) -> Trained:
    """Train by the algorithm that `cell.algorithm` names.

    settings: fields of TRL's config. `learning_rate` of an online algorithm is what `learning_schedule` takes.
        An offline one also has `n`, the responses to each prompt of which two become a pair.
    """
    algorithm = trl_algorithm(cell.algorithm)
    return (_online if algorithm.is_online else _offline)(algorithm, cell, record)


def check_settings(algorithm: TRLAlgorithm, settings: Mapping[str, Any]) -> None:
    """Raise UnknownName for a setting that `train` does not take."""
    if algorithm.is_online:
        check_names(algorithm, settings, refused=DECIDED, ours=["learning_rate"])
    else:
        check_names(algorithm, settings, refused=REFUSED, ours=["n"])


def _online(algorithm: TRLAlgorithm, cell: Cell, record: Record) -> Trained:
    env = training_env(cell, rows=1)
    policy = initial_policy(env)
    settings = dict(cell.settings)
    schedule = learning_schedule(settings.pop("learning_rate", None), trained_weights(policy))
    how = {"budget": cell.budget, "seed": cell.seed, "settings": settings, "schedule": schedule, "record": record}
    tokens = train_online(algorithm.name, env, policy, **how)
    return Trained(policy, tokens=tokens)


def _offline(algorithm: TRLAlgorithm, cell: Cell, record: Record) -> Trained:
    settings: dict[str, Any] = {"n": CANDIDATES, **cell.settings}
    n = settings.pop("n")
    check_whole("n", n, 2)
    env = training_env(cell)
    refuse_turns(algorithm, env)  # before tokens are spent on pairs
    policy = initial_policy(env)
    torch.manual_seed(cell.seed)

    def report(tokens: int, sampled: list[Trajectory]) -> None:
        record(tokens, **means(sampled))

    collected = collect_pairs(policy, env, np.random.default_rng(cell.seed), n=n, budget=cell.budget, report=report)
    train_offline(algorithm.name, env, policy, collected.pairs, seed=cell.seed, settings=settings)
    return Trained(policy, tokens=collected.tokens)
