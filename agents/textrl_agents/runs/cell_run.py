"""A training run of an algorithm without checkpoints: one call of its train function, and a run folder around it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from textrl_agents.algorithms.cell import Cell, Trained
from textrl_agents.algorithms.cell_setup import initial_policy, judging_env
from textrl_agents.runs.config import TrainConfig
from textrl_agents.runs.logs import MetricsFile
from textrl_agents.runs.run_evaluations import RunEvaluations
from textrl_agents.runs.run_folder import RunFolder
from textrl_agents.training.random_state import seed_all
from textrl_agents.training.terminal import TrainingProgress
from textrl_env import TextGenVectorEnv
from textrl_env.models import CausalLMActorCritic


class StopRequested(Exception):
    """Ends a train function, from the first point of its learning curve after the request."""


class CellRun:
    """An algorithm, ready to be called. Building it loads the environment that judges it. It writes nothing.

    The model is evaluated as it is before training, and the algorithm's own way of answering afterwards. A run that is
    stopped ends at the next point of the learning curve; its metrics stay, and what it has trained is lost.
    """

    memory_settings: tuple[str, ...] = ("env.max_new_tokens",)

    def __init__(self, config: TrainConfig):
        self.config = config
        self.algorithm = config.algorithm_entry
        self.cell = cell_of(config)
        self.algorithm.check_settings(self.cell.settings)
        self._eval_env = judging_env(self.cell) if config.eval_episodes else None
        self._trained: Trained | None = None
        self.evaluations: RunEvaluations | None = None
        self.timesteps = 0

    @property
    def actor_critic(self) -> CausalLMActorCritic | None:
        """The trained policy; None before training, and where what was trained is no model that can be saved."""
        trained = self._trained
        if trained is None or not isinstance(trained.policy, CausalLMActorCritic):
            return None
        # What answers in a way of its own is more than its policy. It can be saved where the algorithm tells that way.
        return trained.policy if trained.evaluation is None or self.algorithm.answers is not None else None

    @property
    def rollout_tokens(self) -> int | None:
        return None

    def start(self, run: RunFolder, checkpoint: Path | None = None) -> None:
        """Log into `run`. There are no checkpoints."""
        assert checkpoint is None  # a run that cannot be resumed is refused before
        self.run = run
        self._log = MetricsFile(run.metrics)

    def learn(
        self, *, progress: TrainingProgress | None = None, stop_requested: Callable[[], bool] = lambda: False
    ) -> bool:
        """Train to the end; False where `stop_requested` ended it early. Call `start` first."""
        progress = progress or TrainingProgress(enabled=False)
        progress.start(0, self.config.timesteps)
        env = self._eval_env
        if env is not None:
            self.evaluations = RunEvaluations(self.config, env, self.run, progress=progress)
            self._log.add(0, self.evaluations.run(initial_policy(env), 0))
        seed_all(self.cell.seed)
        began = time.monotonic()

        def record(tokens: int, *, score: float, kl: float | None, length: float) -> None:
            self.timesteps = int(tokens)
            elapsed = time.monotonic() - began
            metrics = {"objective/scores": score, "rollout/ep_len_mean": length, "time/time_elapsed": int(elapsed)}
            metrics["time/fps"] = int(tokens / max(elapsed, 1e-9))
            self._log.add(self.timesteps, metrics if kl is None else {**metrics, "objective/kl": kl})
            progress.advance(self.timesteps)
            progress.measured(score, kl)
            if stop_requested():
                raise StopRequested

        if stop_requested():
            return False
        try:
            self._trained = self.algorithm.run(self.cell, record)
        except StopRequested:
            return False
        self.timesteps = int(self._trained.tokens)
        progress.advance(self.timesteps, show=True)
        if env is not None and self.evaluations is not None:
            self._evaluate(self._trained, env, self.evaluations, progress)
        return True

    def _evaluate(
        self, trained: Trained, env: TextGenVectorEnv, evaluations: RunEvaluations, progress: TrainingProgress
    ) -> None:
        progress.evaluating()
        result = trained.evaluate(env, self.config.eval_episodes, self.config.seed)
        self.timesteps = int(trained.tokens)  # best-of-n generates while it is evaluated
        about = f"{self.algorithm.name}, {self.algorithm.description}" if trained.evaluation is not None else ""
        metrics = evaluations.add_last(result, self.timesteps, note=about and f"The responses are those of {about}.")
        self._log.add(self.timesteps, {**metrics, **({"eval/answers": about} if about else {})})

    def save_after_error(self, error: BaseException) -> Path | None:
        """Nothing can be saved in the middle."""
        return None

    def close(self) -> None:
        """Close what the algorithm has opened."""
        if self._trained is not None:
            self._trained.close()


def cell_of(config: TrainConfig) -> Cell:
    """Describe a run as a cell. `config` is resolved, so its settings hold the algorithm's tuned ones."""
    arguments = config.env_arguments()
    own = {name: value for name, value in arguments.items() if name not in ("task", "split", "device")}
    rows = {} if config.n_envs is None else {"n_envs": config.n_envs}
    return Cell(
        config.algorithm_entry.name,
        config.task,
        config.seed,
        config.timesteps,
        settings={**config.algorithm, **rows},
        env=own,
        eval_episodes=config.eval_episodes,
        device=config.device,
    )
