"""The row on a value trunk of its own: what it costs beside a shared one, where responses end by EOS."""

from __future__ import annotations

from collections.abc import Callable

from textrl_agents.speed.measurement import Bench, Measured, Target, compared, measurement
from textrl_agents.speed.timing import compare


@measurement(Target(">=", 0.4), quick={"n_steps": 32})
def separate_trunk_against_shared(bench: Bench, *, rows: int = 32, longest: int = 64, n_steps: int = 64) -> Measured:
    """Compare stock PPO's rollout and update with a separate value trunk and with a shared one.

    The update runs two decoders in place of one, and sampling only one: the values come after the rollout. longest:
    tokens of a response at most. n_steps: of a rollout.
    """

    def learning(trunk: str) -> Callable[[], int]:
        phases = bench.workload().agent(rows, n_steps, longest, policy_kwargs={"value_trunk": trunk})

        def rollout_and_update() -> int:
            tokens = phases.collect()
            phases.train()
            return tokens

        return rollout_and_update

    result = compare(learning("separate"), learning("shared"), repeats=bench.repeats, device=bench.device)
    return compared(result, "separate", "shared")
