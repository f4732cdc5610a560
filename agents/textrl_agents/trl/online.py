"""TRL's online trainers, stock, on an environment's prompts, reward and KL coefficient, until a budget is spent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback

from textrl_agents.algorithms.cell import Record
from textrl_agents.algorithms.cell_setup import trained_weights
from textrl_agents.training.learning_rate import WarmupSchedule, learning_schedule
from textrl_agents.trl.reward import EnvironmentReward
from textrl_agents.trl.rows import prompt_dataset, prompt_processor
from textrl_agents.trl.trainer import (
    StopOnDivergence,
    build_trainer,
    refuse_turns,
    train_in_place,
    trl_algorithm,
    trl_arguments,
    trl_session,
)
from textrl_env import TextGenVectorEnv
from textrl_env.errors import ConfigError
from textrl_env.kl import FixedKL
from textrl_env.models import CausalLMActorCritic

# What no user may set.
DECIDED = (
    # The learning rate follows the tokens that are spent, since how many steps they last is not known beforehand.
    *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio", "num_train_epochs"),
    # The environment decides these.
    *("max_completion_length", "max_new_tokens", "max_length", "temperature", "top_k", "top_p", "min_p"),
)
BATCH = 64  # responses of a step
GENERATIONS = 4  # responses to each prompt
PAIRED = 2  # responses to each prompt in online DPO, whose config does not say
DATASET_BATCHES = 8  # of the smallest data set: prompts are shuffled within it


class OnlineRun:
    """A stock trainer over `env`, ready to train `policy` in place.

    algorithm: what TRL calls it, such as "grpo". settings: fields of TRL's config. folder: for what TRL writes.
    budget: tokens to generate. It stops where another round (all steps on one batch of responses) of the last one's
        size would exceed them; one round is always done.
    schedule: the learning rate over the budget; None for one that fits the model's size. record: see Record.
    """

    def __init__(
        self,
        algorithm: str,
        env: TextGenVectorEnv,
        policy: CausalLMActorCritic,
        *,
        budget: int,
        folder: str,
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
        schedule: WarmupSchedule | None = None,
        record: Record = lambda tokens, **means: None,
    ):
        about = trl_algorithm(algorithm, is_online=True)
        refuse_turns(about, env)
        _check(about.name_in_library, env)
        schedule = schedule or learning_schedule(None, trained_weights(policy))
        decided = {**_defaults(env, policy), **about.defaults, "learning_rate": schedule.peak, "max_steps": 1}
        arguments = trl_arguments(
            about, settings or {}, folder=folder, seed=seed, policy=policy, decided=decided, refused=DECIDED
        )
        self.arguments, self.budget = arguments, budget
        generations = getattr(arguments, "num_generations", PAIRED)
        self.batch = getattr(arguments, "generation_batch_size", generations * arguments.train_batch_size)
        passes = getattr(arguments, "steps_per_generation", 1) * getattr(arguments, "num_iterations", 1)
        self.steps_per_round = math.ceil(passes / arguments.gradient_accumulation_steps)
        # A response has at least one token, so this many steps always last.
        arguments.max_steps = self.steps_per_round * math.ceil(max(budget, 1) / self.batch)
        self.reward = EnvironmentReward(env.rules, env.prompts)
        self.policy = policy
        if env.model_name is None and arguments.beta != 0 and not hasattr(policy.model, "disable_adapter"):
            _name(policy.model, Path(folder, "reference"))
        self.trainer = build_trainer(
            about,
            policy,
            arguments,
            reward_funcs=self.reward,
            train_dataset=prompt_dataset(env.prompts, at_least=DATASET_BATCHES * self.batch // generations),
            processing_class=prompt_processor(env.prompts),
            callbacks=[_Budget(self, record), StopOnDivergence(lambda: self.reward.last_range)],
        )
        self.trainer.create_optimizer()
        shape = WarmupSchedule(1.0, schedule.warmup, schedule.final)
        self.trainer.lr_scheduler = LambdaLR(self.trainer.optimizer, lambda step: shape(1 - self.share_at_next_step))

    @property
    def tokens(self) -> int:
        """Generated so far."""
        return self.reward.tokens

    @property
    def share_at_next_step(self) -> float:
        """The share of the budget that will be spent once the next step has its responses."""
        # Before the first round all that is known of its size is that no response is empty.
        following = self.reward.last_tokens or self.batch
        return min(1.0, (self.tokens + following) / max(self.budget, 1))

    def train(self) -> None:
        """Train until the budget is spent. The policy is then as it was, with other weights."""
        train_in_place(self.trainer, self.policy)


class _Budget(TrainerCallback):
    """Stops at the end of the last round that the budget has room for, and reports each batch of responses."""

    def __init__(self, run: OnlineRun, record: Record):
        self.run, self.record = run, record

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        another = self.run.tokens + self.run.reward.last_tokens
        if another > self.run.budget and state.global_step % self.run.steps_per_round == 0:
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        logs, reward = logs or {}, self.run.reward
        score = logs.get("reward", logs.get("objective/scores"))  # the latter is online DPO's
        if score is None:  # a further step on the same responses
            return
        length = logs.get("completions/mean_length", reward.last_tokens / max(1, reward.last_responses))
        # TRL's KL is the mean over all tokens (k1 in RLOO, k3 in GRPO); without a reference it has none, and online
        # DPO's counts padding.
        kl = logs.get("kl")
        self.record(self.run.tokens, score=score, kl=None if kl is None else kl * length, length=length)


def train_online(algorithm: str, env: TextGenVectorEnv, policy: CausalLMActorCritic, **arguments: Any) -> int:
    """Train `policy` by TRL's trainer `algorithm` until a budget of tokens was generated; returns how many were.

    env: gives prompts, reward, limits, sampling and KL coefficient; its own model is the reference.
    arguments: OnlineRun's (`budget`, `seed`, `settings`, `schedule`, `record`), but for the folder.
    Raises UnknownName and ConfigError for what cannot be set, and for an environment that TRL cannot do justice to.
    """
    with trl_session() as folder:
        run = OnlineRun(algorithm, env, policy, folder=folder, **arguments)
        run.train()
        return run.tokens


def _defaults(env: TextGenVectorEnv, policy: CausalLMActorCritic) -> dict[str, Any]:
    sampling = policy.sampling
    banned = [] if policy.banned is None else policy.banned.nonzero().flatten().tolist()
    return {
        "num_generations": GENERATIONS,
        "per_device_train_batch_size": BATCH,
        "beta": env.kl_penalty.coef,
        "max_completion_length": env.rules.max_new_tokens,
        "max_new_tokens": env.rules.max_new_tokens,  # online DPO's name of the same
        "max_length": env.rules.max_length,  # online DPO's, of prompt and response together
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        **({"generation_kwargs": {"suppress_tokens": banned}} if banned else {}),
    }


def _check(algorithm: str, env: TextGenVectorEnv) -> None:
    if env.rules.stop.strings:
        raise ConfigError(
            f"TRL's {algorithm.upper()} cannot end a response at a stop string, and the task has "
            f"{list(env.rules.stop.strings)}; use another algorithm, or pass stop=[]"
        )
    if not isinstance(env.kl_penalty.controller, FixedKL):
        raise ConfigError(f"TRL's {algorithm.upper()} takes a fixed kl_coef, and the task's is adaptive; pass a number")


def _name(model: Any, folder: Path) -> None:
    """Save a model that was made in this process: TRL loads the reference from the folder that the policy names."""
    model.save_pretrained(folder)
    model.config.name_or_path = str(folder)
