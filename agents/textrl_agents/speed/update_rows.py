"""Rows on updates: one forward per episode against one per transition, and long responses against short ones."""

from __future__ import annotations

import copy

from stable_baselines3 import PPO

from textrl_agents.sb3 import CausalLMPolicy, TextVecEnv
from textrl_agents.sb3.phases import SB3Phases
from textrl_agents.speed.measurement import Bench, Measured, Target, compared, measurement
from textrl_agents.speed.timing import compare


@measurement(Target(">=", 20.0), quick={"rows": 2})
def episodes_against_prefixes(bench: Bench, *, rows: int = 8, tokens: int = 64) -> Measured:
    """Compare stock `PPO.train` over EpisodeRolloutBuffer with the same over SB3's own, one prefix a transition.

    rows: episodes, each of `tokens` tokens.
    """
    workload = bench.workload().without_eos()
    batch_size = max(2, rows * tokens // 4)
    ours = workload.agent(rows, tokens, tokens, n_epochs=1, batch_size=batch_size)
    env = TextVecEnv(
        num_envs=rows,
        task=workload.task(rows, tokens),
        model=workload.model,
        tokenizer=workload.tokenizer,
        device=bench.device,
    )
    prefixes = SB3Phases(
        PPO(
            CausalLMPolicy,
            env,
            n_steps=tokens,
            n_epochs=1,
            batch_size=batch_size,
            learning_rate=0.0,
            policy_kwargs={"model": copy.deepcopy(workload.model), "tokenizer": workload.tokenizer},
            device=bench.device,
        )
    )
    ours.collect()
    prefixes.collect()
    result = compare(ours.train, prefixes.train, repeats=min(bench.repeats, 3), device=bench.device)
    return compared(result, "episodes", "prefixes")


@measurement(Target("<=", 1.5), quick={"batch_size": 1024})
def long_against_short(bench: Bench, *, long: int = 256, short: int = 32, batch_size: int = 2048) -> Measured:
    """Compare the update's time per token on responses of `long` tokens with that on responses of `short` ones.

    batch_size: tokens in a minibatch, which is the whole rollout.
    """
    workload = bench.workload().without_eos()
    agents = []
    for tokens in (long, short):
        agent = workload.agent(batch_size // tokens, tokens, tokens, n_epochs=1, batch_size=batch_size)
        agent.collect()
        agents.append(agent)
    speeds = compare(agents[0].train, agents[1].train, repeats=bench.repeats, device=bench.device)
    times = speeds._replace(ratio=1.0 / speeds.ratio)
    return compared(times, f"responses of {long}", f"of {short}")
