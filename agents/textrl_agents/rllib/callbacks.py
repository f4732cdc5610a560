"""On the driver: a configuration that cannot work is refused, and an env runner's error is raised."""

from __future__ import annotations

from typing import Any

from ray.rllib.callbacks.callbacks import RLlibCallback

from textrl_agents.rllib.validation import check_config

# For an env runner that is busy or gone; one that failed answers at once.
ANSWER_SECONDS = 5.0


class TextCallbacks(RLlibCallback):
    """Checks the configuration as it was built, and stops training where the environment fails on an env runner."""

    def on_algorithm_init(self, *, algorithm: Any, **kwargs: Any) -> None:
        check_config(algorithm.config)

    def on_train_result(self, *, algorithm: Any, result: dict[str, Any], **kwargs: Any) -> None:
        for group in (algorithm.env_runner_group, algorithm.eval_env_runner_group):
            if group is not None and group.num_healthy_remote_workers() < group.num_remote_workers():
                _raise_failure(group)

    def on_env_runners_recreated(self, *, env_runner_group: Any, env_runner_indices: list[int], **kwargs: Any) -> None:
        # An iteration of an asynchronous algorithm is many steps, each of which may take a runner back into service.
        _raise_failure(env_runner_group, list(env_runner_indices))


def _raise_failure(group: Any, runners: list[int] | None = None) -> None:
    """Raise what the environment of one of `runners` (all, by default) raised."""
    failures = group.foreach_env_runner(
        lambda runner: (runner.worker_index, runner.take_failure()),
        local_env_runner=False,
        healthy_only=False,
        remote_worker_ids=runners,
        timeout_seconds=ANSWER_SECONDS,
    )
    for index, failure in failures:
        if failure is not None:
            failure.add_note(f"raised in env runner {index}")
            raise failure
