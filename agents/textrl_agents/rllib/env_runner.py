"""The stock env runner, and what text generation needs of it: the model's device, prompts that differ, clear errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from textrl_env.errors import TextRLError
from textrl_env.models.loading import resolve_device


class TextEnvRunner(SingleAgentEnvRunner):
    """`SingleAgentEnvRunner` whose errors in the environment (a reward that raises, ...) stay what they are.

    Stock, such an error ends a remote runner's process, which is then restarted and fails again, for ever, while the
    message stays in the worker's log. Here the runner lives on, and `failure` is what the driver raises.
    """

    failure: TextRLError | None = None

    def __init__(self, *, config: Any, **kwargs: Any):
        super().__init__(config=config, **kwargs)
        if self.config.seed is not None and self.worker_index:
            # Stock, runner i starts at seed + i, and row j of an environment at its seed + j: neighbours in both
            # would answer the same prompts.
            sequence = np.random.SeedSequence([self.config.seed, self.worker_index])
            self._seed: int | None = int(sequence.generate_state(1)[0])

    def make_module(self) -> None:
        super().make_module()
        if self.module is not None:
            # RLlib leaves a local runner on the CPU. Where Ray gives a runner no GPU it sees none.
            self.module.to(resolve_device(self.config.env_config.get("device", "auto")))

    def sample(self, **kwargs: Any) -> Any:
        try:
            return super().sample(**kwargs)
        except Exception as error:
            cause = _ours(error)
            if cause is None:
                raise
            raise cause from cause.__cause__

    def apply(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        def guarded(runner: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return func(runner, *args, **kwargs)
            except TextRLError as error:
                # The environment is as it was before the step, so this runner is sound and need not end.
                self.failure = error
                return error

        result = super().apply(guarded, *args, **kwargs)
        if result is not None and result is self.failure:
            raise RuntimeError(f"{type(result).__name__}: {result}")
        return result


def _ours(error: BaseException | None) -> TextRLError | None:
    """The error of this package that RLlib's own stands for."""
    while error is not None and not isinstance(error, TextRLError):
        error = error.__cause__
    return error
