"""The second half of a round: the votes' consensus, a reward model of it, and stock PPO against that."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from textrl_agents.evaluation.generation import generate
from textrl_agents.feedback.consensus import consensus_comparisons
from textrl_agents.feedback.loop.settings import LoopSettings
from textrl_agents.feedback.questions.prompt_source import PromptSource
from textrl_agents.feedback.votes import Votes
from textrl_agents.reward_models import train_reward_model
from textrl_agents.reward_models.options import Conversation, TrainingOptions
from textrl_agents.reward_models.reference import SAMPLES
from textrl_agents.runs.atomic import write_atomically
from textrl_agents.runs.config import TrainConfig
from textrl_agents.runs.run_folder import RunFolder
from textrl_agents.runs.train import RunResult, resume, train
from textrl_agents.training.terminal import LINE_SECONDS
from textrl_env.errors import ConfigError
from textrl_env.models import CausalLMActorCritic
from textrl_env.preferences.record_json import encoded, record_from_dict, record_to_dict
from textrl_env.preferences.records import Comparison
from textrl_env.preferences.store import FeedbackStore
from textrl_env.rewards import make_reward
from textrl_env.tasks.registry import get_task


def check_reward_options(options: Mapping[str, Any]) -> TrainingOptions:
    """Return the options of `train_reward_model`. Raises ConfigError where they cannot be."""
    try:
        return TrainingOptions(**options)
    except TypeError as error:
        raise ConfigError(f"a loop's reward takes the options of train_reward_model: {error}") from error


def find_consensus(store: Path, settings: LoopSettings, out: Path) -> None:
    """Write one comparison for each pair that has votes so far, of all rounds: what the annotators together say."""
    with FeedbackStore(store, read_only=True) as opened:
        records = sorted((each for each in opened.records() if isinstance(each, Comparison)), key=_place)
    votes = Votes.of(records)
    several = len(votes) > 0 and votes.votes_of_pair.max() > 1
    method = settings.consensus or ("dawid_skene" if several else "majority_vote")
    found = consensus_comparisons(votes, method)
    write_atomically(out, "".join(encoded(record_to_dict(record)) + "\n" for record in found))


def _place(record: Comparison) -> tuple[str, str]:
    """The order in which votes are learned from, whoever was first to answer."""
    about = json.dumps([record.prompt, [candidate.text for candidate in record.candidates]])
    return about, record.annotator or ""


def start_samples(start: CausalLMActorCritic, settings: LoopSettings) -> list[Conversation]:
    """At least `SAMPLES` responses of the policy that the loop began with, as the task samples and ends them."""
    source = PromptSource.of_task(settings.task).drawn(SAMPLES, settings.seed)
    sampled = generate(
        start,
        [prompt for prompt, _ in source.rows],
        n=-(-SAMPLES // len(source.rows)),
        max_new_tokens=source.max_new_tokens,
        stop=source.stop,
        seed=settings.seed,
    )
    return [(each.prompt, each.response) for each in sampled]


def learn_reward(
    consensus: Path,
    settings: LoopSettings,
    model: str,
    start: CausalLMActorCritic,
    out: Path,
    told: Callable[[str], None],
) -> None:
    """Train a reward model on the consensus.

    Its scores have mean 0 and standard deviation 1 on the samples of `start`, the policy that `model` is.
    """
    if out.exists():  # of a process that was killed before it noted that it was done
        shutil.rmtree(out)
    lines = consensus.read_text(encoding="utf-8").split("\n")
    gold = get_task(settings.task).gold
    arguments = {
        "model": model,
        "reference": settings.reward.get("reference") or start_samples(start, settings),
        "gold": None if gold is None else make_reward(gold),
        "seed": settings.seed,
        "device": settings.device,
        "told": _seldom(told),
        **settings.reward,
    }
    train_reward_model((record_from_dict(json.loads(line)) for line in lines if line), out=out, **arguments)


def _seldom(told: Callable[[str], None]) -> Callable[[str], None]:
    """Pass on what is told, but only a line every `LINE_SECONDS`."""
    last = -math.inf

    def passed_on(text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            told(text)

    return passed_on


def learn_policy(
    settings: LoopSettings, model: str, reward: Path, run: RunFolder, number: int, *, progress: bool
) -> RunResult | None:
    """Train `model` by PPO against the reward, in a run folder of its own; None where that is done already.

    A run that was stopped or killed goes on from its newest checkpoint.
    """
    if run.config.is_file():
        tokens = run.policy_tokens
        if tokens is not None and run.is_finished(tokens):
            return None
        return resume(run.path, progress=progress)
    config = TrainConfig(
        task=settings.task,
        algo="ppo",
        timesteps=settings.timesteps,
        seed=settings.seed + number,
        out=str(run.path),
        model=model,
        reward=str(reward),
        kl_coef=settings.kl_coef,
        n_envs=settings.n_envs,
        algorithm=dict(settings.algorithm),
        eval_every=0,
        eval_episodes=0,
        save_every=max(1, settings.timesteps // 2),
        keep_checkpoints=1,
        device=settings.device,
    )
    return train(config, progress=progress)
