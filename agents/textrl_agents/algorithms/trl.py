"""TRL's trainers as entries: DPO and ORPO on pairs of the reference's samples, RLOO and GRPO on their own samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from textrl_agents.algorithms.cell import Cell, Record, Trained
from textrl_agents.algorithms.preference_pairs import collect_pairs
from textrl_agents.algorithms.response_groups import means
from textrl_agents.algorithms.setup import initial_policy, learning_schedule, trained_weights, training_env
from textrl_agents.training.argument_checks import check_whole
from textrl_agents.trl import OFFLINE, ONLINE, train_offline, train_online
from textrl_env.errors import UnknownName
from textrl_env.trajectory import Trajectory

PREFIX = "trl_"
CANDIDATES = 4  # responses to each prompt, of which the best and the worst are a pair


def train(cell: Cell, record: Record) -> Trained:
    """Train by the algorithm that `cell.algorithm` names.

    settings: fields of TRL's config. `learning_rate` of RLOO and GRPO is what `learning_schedule` takes.
        DPO and ORPO have also `n`, the responses to each prompt that a pair is taken from.
    """
    name = cell.algorithm.removeprefix(PREFIX)
    if name in ONLINE:
        return _online(name, cell, record)
    if name in OFFLINE:
        return _offline(name, cell, record)
    raise UnknownName("algorithm", cell.algorithm, [PREFIX + known for known in (*ONLINE, *OFFLINE)])


def _online(name: str, cell: Cell, record: Record) -> Trained:
    env = training_env(cell, rows=1)
    policy = initial_policy(env)
    settings = dict(cell.settings)
    schedule = learning_schedule(settings.pop("learning_rate", None), trained_weights(policy))
    tokens = train_online(
        name, env, policy, budget=cell.budget, seed=cell.seed, settings=settings, schedule=schedule, record=record
    )
    return Trained(policy, tokens=tokens)


def _offline(name: str, cell: Cell, record: Record) -> Trained:
    settings: dict[str, Any] = {"n": CANDIDATES, **cell.settings}
    n = settings.pop("n")
    check_whole("n", n, 2)
    env = training_env(cell)
    policy = initial_policy(env)
    torch.manual_seed(cell.seed)

    def report(tokens: int, sampled: list[Trajectory]) -> None:
        record(tokens, **means(sampled))

    collected = collect_pairs(policy, env, np.random.default_rng(cell.seed), n=n, budget=cell.budget, report=report)
    train_offline(name, env, policy, collected.pairs, seed=cell.seed, settings=settings)
    return Trained(policy, tokens=collected.tokens)
