"""One training run with Stable-Baselines3: of a `TrainConfig` with its callbacks, or of a cell of the benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common import logger as sb3_logger
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import set_random_seed

from textrl_agents.algorithms.cell import Cell, Record, Trained
from textrl_agents.evaluation.heldout_env import EVAL_ROWS, sibling_env
from textrl_agents.runs.config import N_ENVS, TrainConfig
from textrl_agents.runs.logs import MetricsFile
from textrl_agents.runs.run_evaluations import RunEvaluations
from textrl_agents.runs.run_folder import RunFolder
from textrl_agents.sb3.agent import make_agent, sb3_algorithm
from textrl_agents.sb3.buffers.rollout_buffer import EpisodeRolloutBuffer
from textrl_agents.sb3.callbacks import Checkpoints, Evaluations, RLHFMetrics, StopOnRequest
from textrl_agents.sb3.checkpoint import load_checkpoint
from textrl_agents.sb3.policy import CausalLMPolicy
from textrl_agents.sb3.progress import ProgressBar
from textrl_agents.sb3.validation import check_names
from textrl_agents.sb3.vec_env import TextVecEnv
from textrl_agents.training.terminal import TrainingProgress
from textrl_env.models import CausalLMActorCritic
from textrl_env.user_values import DECODERS

POINTS = 100  # of a learning curve, at most


class SB3Run:
    """An agent, built and ready to learn. Building it writes nothing."""

    memory_settings: tuple[str, ...] = ("algorithm.batch_size", "n_envs", "algorithm.n_steps", "env.max_new_tokens")

    def __init__(self, config: TrainConfig):
        self.config = config
        check_names(sb3_algorithm(config.algo), config.algorithm, others=())
        set_random_seed(config.seed)  # before the model is loaded: a LoRA adapter starts at random
        settings = dict(config.algorithm)
        named = {"decoder": config.decoder} if config.decoder != DECODERS[0] else {}
        if config.optimizer is not None:
            named |= _optimizer(config.optimizer)
        if named:
            settings["policy_kwargs"] = {**settings.get("policy_kwargs", {}), **named}
        self.agent: OnPolicyAlgorithm = make_agent(
            config.algo,
            n_envs=config.n_envs or N_ENVS,
            env_kwargs=config.env_arguments(),
            seed=config.seed,
            **settings,
        )
        env = self.agent.env
        assert isinstance(env, TextVecEnv)
        self._eval_env = None
        if config.eval_episodes:
            self._eval_env = sibling_env(env.env, min(EVAL_ROWS, config.eval_episodes))
        self.evaluations: RunEvaluations | None = None
        self.checkpoints: Checkpoints | None = None

    @property
    def actor_critic(self) -> CausalLMActorCritic:
        assert isinstance(self.agent.policy, CausalLMPolicy)
        return self.agent.policy.actor_critic

    @property
    def timesteps(self) -> int:
        """Tokens that the weights have been trained on: those of the newest checkpoint."""
        return self.checkpoints.saved_at if self.checkpoints is not None else self.agent.num_timesteps

    @property
    def rollout_tokens(self) -> int | None:
        return self.agent.n_steps * self.agent.n_envs

    def start(self, run: RunFolder, checkpoint: Path | None = None) -> None:
        """Log into `run`, and go where `checkpoint` was saved. Raises ModelError where it is broken."""
        self.run, self.resumed = run, checkpoint is not None
        outputs: list[sb3_logger.KVWriter] = [_JSONLines(MetricsFile(run.metrics))]
        self.agent.set_logger(sb3_logger.Logger(str(run.path), outputs))
        if checkpoint is not None:
            load_checkpoint(self.agent, checkpoint)
        # SB3 has None here where TensorBoard is not installed.
        if sb3_logger.SummaryWriter is not None:  # type: ignore[attr-defined]  # it does not list the name
            outputs.append(_board(run, self.agent.num_timesteps + 1 if self.resumed else 0))

    def learn(
        self, *, progress: TrainingProgress | None = None, stop_requested: Callable[[], bool] = lambda: False
    ) -> bool:
        """Train to `config.timesteps`; False where `stop_requested` ended it early. Call `start` first."""
        config, agent, run = self.config, self.agent, self.run
        callbacks: list[BaseCallback] = [StopOnRequest(stop_requested), RLHFMetrics()]
        if progress is not None:
            callbacks.append(ProgressBar(progress))
        if self._eval_env is not None:
            evaluated_at = agent.num_timesteps if self.resumed else None
            self.evaluations = RunEvaluations(config, self._eval_env, run, progress=progress, evaluated_at=evaluated_at)
            callbacks.append(Evaluations(self.evaluations))
        self.checkpoints = Checkpoints(
            run, every=config.save_every or 0, keep=config.keep_checkpoints, settings=config.settings_copy()
        )
        callbacks.append(self.checkpoints)
        try:
            # SB3 adds the tokens so far to this where it is told not to reset its count.
            remaining = config.timesteps - agent.num_timesteps
            agent.learn(remaining, callback=callbacks, reset_num_timesteps=not self.resumed)
            return not self.checkpoints.in_rollout
        finally:
            agent.logger.close()

    def close(self) -> None:
        """Nothing stays open."""

    def save_after_error(self, error: BaseException) -> Path | None:
        """Save a checkpoint of the last boundary where the error came from sampling; None where from an update."""
        if self.checkpoints is None or not self.checkpoints.in_rollout:
            return None
        return self.checkpoints.save()


def _optimizer(given: Any) -> dict[str, Any]:
    """Arguments of the policy for the setting `optimizer`: a name, or a mapping of it and the optimizer's arguments."""
    arguments = dict(given) if isinstance(given, Mapping) else {"name": given}
    return {"optimizer_class": arguments.pop("name"), "optimizer_kwargs": arguments}


class _JSONLines(sb3_logger.KVWriter):
    """SB3's own JSON writer empties the file when it opens it; this one appends."""

    def __init__(self, file: MetricsFile):
        self.file = file

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        hidden = {key for key, formats in key_excluded.items() if "json" in (formats or ())}
        self.file.add(step, {key: value for key, value in key_values.items() if key not in hidden})

    def close(self) -> None:
        """Nothing stays open between two writes."""


def _board(run: RunFolder, step: int) -> sb3_logger.TensorBoardOutputFormat:
    """Make SB3's writer of events. What it logs from `step` on replaces what an earlier sitting logged there.

    This is the `purge_step` of torch's writer, which SB3 does not pass on.
    """
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    output = sb3_logger.TensorBoardOutputFormat(str(run.path))
    events: Any = output.writer.file_writer
    events.add_event(Event(step=step, file_version="brain.Event:2"))
    events.add_event(Event(step=step, session_log=SessionLog(status=SessionLog.START)))
    return output


class _Curve(BaseCallback):
    """Means over the episodes that ended since the last point, at a rollout's end."""

    def __init__(self, record: Record, every: int):
        super().__init__()
        self.record, self.every = record, every
        self._ended: list[tuple[float, float, float]] = []  # score, KL, tokens
        self._recorded_at = 0

    def _on_step(self) -> bool:
        if not isinstance(getattr(self.model, "rollout_buffer", None), EpisodeRolloutBuffer):
            ended = [info for info in self.locals["infos"] if "score" in info]
            # These environments charge a cross-entropy, not a KL.
            self._ended += [(info["score"], np.nan, info["episode_length"]) for info in ended]
        return True

    def _on_rollout_end(self) -> None:
        buffer = getattr(self.model, "rollout_buffer", None)
        if isinstance(buffer, EpisodeRolloutBuffer):  # the KL is known only now that it has been charged
            self._ended += [(each.score, each.kl_sum, len(each.response_ids)) for each in buffer.episodes]
        if self._ended and self.num_timesteps - self._recorded_at >= self.every:
            score, kl, length = np.mean(self._ended, axis=0).tolist()
            self.record(self.num_timesteps, score=score, kl=None if np.isnan(kl) else kl, length=length)
            self._ended, self._recorded_at = [], self.num_timesteps


def train_cell(cell: Cell, record: Record) -> Trained:
    """Train `make_agent(cell.algorithm)` with `cell.settings`; whole rollouts, within the budget but for a first."""
    algorithm = sb3_algorithm(cell.algorithm)
    settings: dict[str, Any] = dict(cell.settings)
    agent = make_agent(cell.algorithm, env_kwargs=cell.env_arguments, seed=cell.seed, **settings)
    agent.set_logger(sb3_logger.Logger(folder=None, output_formats=[]))
    step = agent.n_envs * (getattr(agent, "n_steps", None) or 1)
    if algorithm.kind == "value":  # its n_steps are those of a return
        step = agent.n_envs * agent.train_freq.frequency
    agent.learn(max(1, cell.budget // step) * step, callback=_Curve(record, cell.budget // POINTS))
    return Trained(
        agent.policy.actor_critic, tokens=agent.num_timesteps, deterministic=algorithm.greedy, close=agent.env.close
    )
