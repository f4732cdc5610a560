"""What a step is charged for leaving the reference, in every `kl_mode`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from textrl_env.actions import ParsedActions
from textrl_env.errors import ConfigError, MissingLogProb
from textrl_env.kl import KL_MODES, estimate_kl
from textrl_env.rules import EpisodeRules

# What an episode's KL is charged by; "auto" is undecided until the first action.
UNDECIDED, LOG_RATIO, CROSS_ENTROPY, DEFERRED = range(4)
INITIAL_CHARGE = dict(zip(KL_MODES, (UNDECIDED, LOG_RATIO, CROSS_ENTROPY, DEFERRED), strict=True))


class Charge(NamedTuple):
    """The charge of one step of N rows."""

    ref_log_probs: np.ndarray  # float64 [N], nats; NaN for rows that did not take part, and in deferred mode
    kl: np.ndarray  # float64 [N], what is shown
    charged: np.ndarray | None  # float64 [N], what is paid, before `kl_coef`; None in deferred mode
    charges: np.ndarray  # int8 [N], what the rows are charged by from now on


def charge_of(
    rules: EpisodeRules, ids: np.ndarray, charges: np.ndarray, actions: ParsedActions, live: np.ndarray
) -> Charge:
    """Charge the actions of the rows where `live`, bool [N].

    ids: int64 [N, L], their states, right-padded with -1. charges: int8 [N], what each row is charged by.

    Raises MissingLogProb where an action comes without the log-probability that its row needs.
    """
    if INITIAL_CHARGE[rules.kl_mode] == DEFERRED:
        unknown = np.full(len(live), np.nan)
        return Charge(unknown, unknown, None, charges)
    known = ~np.isnan(actions.log_probs)
    decided = np.where(known, LOG_RATIO, CROSS_ENTROPY)
    charges = np.where(live & (charges == UNDECIDED), decided, charges).astype(np.int8)
    if (missing := live & (charges == LOG_RATIO) & ~known).any():
        row = int(np.flatnonzero(missing)[0])
        raise MissingLogProb(
            f"kl_mode={rules.kl_mode!r} needs the policy's log-probability at every step, and row {row} "
            "came without. Pass TokenAction(token, log_prob) or a float64 row [token, log_prob], or use "
            "kl_mode='cross_entropy' for agents that cannot report one."
        )
    reference = rules.kl_penalty.reference
    if reference is None:
        raise ConfigError(f"kl_mode={rules.kl_mode!r} needs a reference model")
    ref_log_probs = reference.step_log_probs(ids, np.where(live, actions.tokens, 0))
    ref_log_probs[~live] = np.nan
    log_ratio = torch.from_numpy(actions.log_probs - ref_log_probs)
    kl = estimate_kl(rules.kl_penalty.estimator, log_ratio).numpy()
    charged = np.where(charges == LOG_RATIO, kl, -ref_log_probs)
    charged[~live] = 0.0
    return Charge(ref_log_probs, kl, charged, charges)
