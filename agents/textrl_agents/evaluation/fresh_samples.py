"""Fresh samples of a policy, scored and compared with the reference; of a task's held-out prompts where it has some.

The prompts depend on the seed alone, so two policies evaluated with one seed answer the same prompts, and their
difference can be taken prompt by prompt.
"""

from __future__ import annotations

from typing import Unpack

from gymnasium.vector import AutoresetMode

from textrl_agents.evaluation.evaluation import Evaluation, check_episodes
from textrl_agents.evaluation.heldout_env import EVAL_ROWS, heldout_env
from textrl_agents.policy import Policy
from textrl_agents.rollout import collect
from textrl_agents.training.random_state import own_generator
from textrl_env import Task, TextGenVectorEnv
from textrl_env.arguments import EnvArguments
from textrl_env.errors import ConfigError


def evaluate(
    policy: Policy,
    task: str | Task = "sentiment",
    *,
    env: TextGenVectorEnv | None = None,
    episodes: int = 256,
    seed: int = 0,
    num_envs: int = EVAL_ROWS,
    deterministic: bool | None = None,
    **env_kwargs: Unpack[EnvArguments],
) -> Evaluation:
    """Sample at least `episodes` episodes, to ceil(episodes / rows) prompts of each row.

    The prompts are the task's held-out ones, or those of `split`, where it has any; else its training prompts.
    `prompts` of the caller's own are taken whole without a `split`. `Evaluation.split` says which prompts these
    were.

    env: an environment to use instead of building one from `task` and `env_kwargs`; in SAME_STEP and deferred mode.
    deterministic: greedy decoding; None as the policy was trained to be decoded. The KL is then that of the greedy
        policy, a point mass, and the entropy is 0.

    Neither the caller's random state nor the policy changes. Raises TrainingDiverged where a log-probability is not
    finite.
    """
    check_episodes(episodes)
    if deterministic is None:
        deterministic = policy.greedy
    if env is None:
        arguments = {"task": task, "sampling": policy.sampling, "device": policy.device, **env_kwargs}
        with own_generator(seed):  # a model may draw its weights
            env = heldout_env(arguments, episodes=episodes, rows=num_envs, split=env_kwargs.get("split"))
    elif env_kwargs:
        raise ConfigError(f"env is built already; give it these arguments itself: {', '.join(env_kwargs)}")
    if env.autoreset_mode is not AutoresetMode.SAME_STEP or env.rules.kl_mode != "deferred":
        raise ConfigError("evaluate needs an environment with autoreset_mode='SAME_STEP' and kl_mode='deferred'")
    with own_generator(seed):
        sampled = collect(policy, env, episodes=episodes, seed=seed, deterministic=deterministic)
    return Evaluation.of(env, sampled, seed=seed, deterministic=deterministic)
