"""A row on episodes of several turns: what an update costs where some of the tokens are the environment's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from textrl_agents.speed.measurement import Bench, Measured, Target, compare, compared, measurement
from textrl_env.models import CausalLMActorCritic, pack
from textrl_env.trajectory import Trajectory

PROMPT_TOKENS = 16


@measurement(Target("<=", 1.3), quick={"rows": 8})
def several_turns_against_one(
    bench: Bench, *, rows: int = 32, turns: int = 4, written: int = 16, answered: int = 4
) -> Measured:
    """Compare the time of a forward and a backward pass, per action, of sequences of like length.

    In one kind the policy takes `turns` turns of `written` tokens, and the environment answers each with `answered`;
    in the other all of these tokens are one response.
    """
    workload = bench.workload()
    length = PROMPT_TOKENS + turns * (written + answered)
    core = CausalLMActorCritic(workload.model, workload.tokenizer, max_length=length)
    ids = np.random.default_rng(0).integers(core.vocabulary.size, size=(rows, length))

    def update(is_action: np.ndarray) -> Callable[[], int]:
        packed = pack([Trajectory(row, is_action) for row in ids], bench.device)

        def passes() -> int:
            evaluated = core.evaluate(packed)
            torch.stack(evaluated).sum().backward()
            core.zero_grad()
            return len(packed)

        return passes

    prompt = np.zeros(PROMPT_TOKENS, dtype=bool)
    one = update(np.concatenate([prompt, np.ones(length - PROMPT_TOKENS, dtype=bool)]))
    several = update(np.concatenate([prompt, np.tile(np.arange(written + answered) < written, turns)]))
    speeds = compare(several, one, repeats=bench.repeats, device=bench.device)
    return compared(speeds._replace(ratio=1.0 / speeds.ratio), f"{turns} turns", "one turn")
