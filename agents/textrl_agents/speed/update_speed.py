"""Updates: one forward per episode against one per transition, and long responses against short ones."""

from __future__ import annotations

import copy

from stable_baselines3 import PPO

from textrl_agents.sb3 import CausalLMPolicy, TextVecEnv
from textrl_agents.speed.timing import Comparison, compare
from textrl_agents.speed.workload import Stepwise, Subject


def episodes_against_prefixes(subject: Subject, *, rows: int, tokens: int, batch_size: int, repeats: int) -> Comparison:
    """Stock `PPO.train` over EpisodeRolloutBuffer against the same over SB3's own buffer, one prefix a transition."""
    endless = subject.without_eos()
    ours = endless.agent(rows, tokens, tokens, n_epochs=1, batch_size=batch_size)
    env = TextVecEnv(
        num_envs=rows,
        task=endless.task(rows, tokens),
        model=endless.model,
        tokenizer=endless.tokenizer,
        device=subject.device,
    )
    prefixes = Stepwise(
        PPO(
            CausalLMPolicy,
            env,
            n_steps=tokens,
            n_epochs=1,
            batch_size=batch_size,
            learning_rate=0.0,
            policy_kwargs={
                "model": copy.deepcopy(endless.model),
                "tokenizer": endless.tokenizer,
            },
            device=subject.device,
        )
    )
    ours.collect()
    prefixes.collect()
    return compare(ours.train, prefixes.train, repeats=repeats, device=subject.device)


def long_against_short(subject: Subject, *, long: int, short: int, batch_size: int, repeats: int) -> Comparison:
    """Updates on responses of `long` tokens against `short` ones, `batch_size` tokens in a minibatch.

    The ratio of the speeds; its inverse is the ratio of the time per response token.
    """
    endless = subject.without_eos()
    agents = []
    for tokens in (long, short):
        agent = endless.agent(batch_size // tokens, tokens, tokens, n_epochs=1, batch_size=batch_size)
        agent.collect()
        agents.append(agent)
    return compare(agents[0].train, agents[1].train, repeats=repeats, device=subject.device)
