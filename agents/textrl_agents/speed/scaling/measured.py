"""The constants of the cost model, measured: the three steps of an iteration, each timed in several layouts.

They are the calls that RLlib's PPO makes itself, in its order: sample on all env runners, update the learners, send the
weights.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import ray
import torch
from ray.rllib.execution.rollout_ops import synchronous_parallel_sample
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME, NUM_MODULE_STEPS_TRAINED_LIFETIME

from textrl_agents.rllib import make_config
from textrl_agents.rllib.ray_session import ray_session
from textrl_agents.speed.scaling.cost_model import CostModel, Layout, Seconds
from textrl_agents.training.terminal import errors_only
from textrl_env.errors import ConfigError
from textrl_env.user_values import check_whole

# What the constants are taken from: everything in one process, env runners apart, and learners apart.
NEEDED = (Layout(0, 0), Layout(1, 0), Layout(1, 2))
TRANSFER = 64 * 2**20  # bytes, to measure the bandwidth between two processes


class LayoutTimes(NamedTuple):
    """An iteration in one layout, medians over the rounds."""

    layout: Layout
    seconds: Seconds
    tokens: int
    token_bytes: float
    weight_bytes: int
    gradient_bytes: int
    minibatches: int

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds.total


class Scaling(NamedTuple):
    """What was measured, and the model whose constants came from it."""

    measured: list[LayoutTimes]
    model: CostModel


def measure_scaling(
    env: Mapping[str, Any],
    layouts: Sequence[Layout] = NEEDED,
    *,
    rows: int = 32,
    steps: int = 32,
    repeats: int = 3,
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Scaling:
    """Run stock PPO in each of `layouts` and in those that the model needs, on this machine, a thread a process.

    env: the environment's arguments, such as `task` and `model`. rows, steps: of one env runner's rollout; with several
        the batch stays the same, and each has its share of the rows.
    repeats: rounds, after one that is not counted. settings: of the AlgorithmConfig.
    progress: called with each layout's name when it starts.

    Starts Ray on this machine, or uses one that runs. Raises ConfigError where rows or tokens cannot be shared
    out.
    """
    for name, value in (("rows", rows), ("steps", steps), ("repeats", repeats)):
        check_whole(name, value, 1)
    wanted = list(dict.fromkeys((*NEEDED, *layouts)))
    for layout in wanted:
        if rows % max(layout.runners, 1):
            raise ConfigError(f"{rows} rows cannot be shared out among {layout.runners} env runners: choose a multiple")
        if rows * steps < layout.learners:
            raise ConfigError(f"{rows} x {steps} tokens are fewer than {layout.learners} learners: raise rows or steps")
    with errors_only("ray.rllib"):
        # All of them first: settings that one layout cannot have are told before another has run for minutes.
        configs = [_config(layout, env, rows, steps, settings or {}) for layout in wanted]
    threads = torch.get_num_threads()
    processes = max(layout.runners + layout.learners for layout in wanted)
    try:
        torch.set_num_threads(1)
        # Ray counts processes, not cores: more of them than cores are slow, and still run.
        with errors_only("ray"), errors_only("ray.rllib"), ray_session(num_cpus=processes + 1):
            times = []
            for layout, config in zip(wanted, configs, strict=True):
                if progress is not None:
                    progress(f"{layout.runners} env runners, {layout.learners} learners")
                times.append(_measure_layout(layout, config, repeats))
            bandwidth = _bandwidth(repeats)
    finally:
        torch.set_num_threads(threads)
    return Scaling(times, fit(times, bandwidth))


def fit(times: Sequence[LayoutTimes], bandwidth: float) -> CostModel:
    """The constants from the layouts `NEEDED`; others stay apart, to be compared with what the model says of them."""
    by_layout = {each.layout: each for each in times}
    alone, apart, learners = (by_layout[layout] for layout in NEEDED)
    update = alone.tokens / alone.seconds.update
    send = alone.tokens * apart.token_bytes / bandwidth
    exchange = learners.seconds.update - learners.tokens / (2 * update) - send
    return CostModel(
        batch=alone.tokens,
        minibatches=alone.minibatches,
        sampling=apart.tokens / max(apart.seconds.sampling - send, 1e-9),
        update=update,
        token_bytes=apart.token_bytes,
        weight_bytes=alone.weight_bytes,
        gradient_bytes=alone.gradient_bytes,
        bandwidth=bandwidth,
        # Two learners exchange 2 (2 - 1) / 2 = 1 times the gradients, for each minibatch.
        gradient_bandwidth=learners.minibatches * learners.gradient_bytes / max(exchange, 1e-3),
    )


def _config(layout: Layout, env: Mapping[str, Any], rows: int, steps: int, settings: Mapping[str, Any]) -> Any:
    return make_config(
        "ppo",
        env,
        num_env_runners=layout.runners,
        num_learners=layout.learners,
        num_envs_per_env_runner=rows // max(layout.runners, 1),
        rollout_fragment_length=steps,
        train_batch_size_per_learner=rows * steps // max(layout.learners, 1),
        seed=0,
        log_level="ERROR",
        **settings,
    )


def _measure_layout(layout: Layout, config: Any, repeats: int) -> LayoutTimes:
    algorithm = config.build_algo()
    try:
        rounds = [_iteration(algorithm) for _ in range(repeats + 1)][1:]
        policy = algorithm.get_module()
        weights = policy.get_state(inference_only=True)
        trained = [weight for weight in policy.parameters() if weight.requires_grad]
    finally:
        algorithm.stop()
    batch, minibatch = config.total_train_batch_size, config.minibatch_size or config.total_train_batch_size
    return LayoutTimes(
        layout,
        Seconds(*(statistics.median(each) for each in zip(*(seconds for seconds, _, _ in rounds), strict=True))),
        tokens=int(statistics.median(tokens for _, tokens, _ in rounds)),
        token_bytes=statistics.median(size / tokens for _, tokens, size in rounds),
        weight_bytes=len(ray.cloudpickle.dumps(weights)),
        gradient_bytes=sum(weight.numel() * weight.element_size() for weight in trained),
        minibatches=(config.num_epochs or 1) * -(-batch // (minibatch * max(layout.learners, 1))),
    )


def _iteration(algorithm: Any) -> tuple[Seconds, int, int]:
    """The seconds of its three steps, its tokens, and the bytes of its episodes."""
    config, started = algorithm.config, time.perf_counter()
    episodes, _ = synchronous_parallel_sample(
        worker_set=algorithm.env_runner_group,
        max_env_steps=config.total_train_batch_size,
        _uses_new_env_runners=True,
        _return_metrics=True,
    )
    sampled = time.perf_counter()
    algorithm.learner_group.update(
        episodes=episodes,
        timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: 0, NUM_MODULE_STEPS_TRAINED_LIFETIME: 0},
        num_epochs=config.num_epochs,
        minibatch_size=config.minibatch_size,
        shuffle_batch_per_epoch=config.shuffle_batch_per_epoch,
    )
    updated = time.perf_counter()
    algorithm.env_runner_group.sync_weights(
        from_worker_or_learner_group=algorithm.learner_group, inference_only=True, timeout_seconds=None
    )
    done = time.perf_counter()
    tokens = sum(len(episode) for episode in episodes)
    size = len(ray.cloudpickle.dumps(episodes))
    return Seconds(sampled - started, updated - sampled, done - updated), tokens, size


def _bandwidth(repeats: int) -> float:
    """Bytes a second from this process to another and back, by Ray's object store."""

    def touched(array: np.ndarray) -> int:
        return int(array.copy()[-1])

    elsewhere = ray.remote(touched)
    block = np.zeros(TRANSFER // 8, dtype=np.int64)
    ray.get(elsewhere.remote(block[:1]))  # the process starts
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        ray.get(elsewhere.remote(block))
        seconds.append(time.perf_counter() - started)
    return TRANSFER / statistics.median(seconds)
