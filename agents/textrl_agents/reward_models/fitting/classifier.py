"""A sequence classifier as a reward model, all of its weights trained by TRL's stock RewardTrainer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from textrl_agents.reward_models.fitting.base_model import base_source
from textrl_agents.reward_models.fitting.fitted_model import FittedModel
from textrl_agents.reward_models.heldout import with_rated_pairs
from textrl_agents.reward_models.judgements import Judgements
from textrl_agents.reward_models.options import Conversation, TrainingOptions
from textrl_agents.training.extras import require
from textrl_agents.training.random_state import own_generator
from textrl_env.errors import ModelError
from textrl_env.foreign_text import shown
from textrl_env.models.storage.loading import resolve_device
from textrl_env.models.storage.pretrained import load_pretrained, quiet_loading
from textrl_env.rewards.classifier import ClassifierReward
from textrl_env.rewards.classifier_loading import load_tokenizer, longest_input, settle_padding
from textrl_env.rewards.encoding import ConversationEncoder
from textrl_env.rewards.reward_folder import CLASSIFIER, write_reward_file

TOLD = 20  # times that the progress is told


def fit_classifiers(
    parts: Sequence[Judgements],
    conversations: Sequence[Conversation],
    options: TrainingOptions,
    weights: dict[str, float],
) -> list[FittedModel]:
    """Train one classifier on each part. Ratings count as the pairs that they imply.

    The model's head is drawn anew by the seed, unless the model has a trained one with one label.
    """
    require("trl", "accelerate", "datasets")
    from textrl_agents.trl.reward_trainer import check_settings  # imports TRL

    check_settings(options.settings)
    members = []
    for number, part in enumerate(parts):
        of = "" if len(parts) == 1 else f" {number + 1} of {len(parts)}"
        members.append(_fit(part, conversations, options, weights, options.seed + number, f"training the model{of}"))
    return members


def new_classifier(source: str, *, seed: int, device: str = "auto") -> Any:
    """A classifier with one label from any model of a folder or id; the weights of a new head are drawn by the seed.

    Raises ModelError where there is no such model, or its files lack weights other than the head's.
    """
    with own_generator(seed):
        model, missing = load_pretrained(
            AutoModelForSequenceClassification,
            source,
            torch.float32,
            kind="model",
            num_labels=1,
            id2label={0: "score"},
            label2id={"score": 0},
        )
    body = f"{model.base_model_prefix}."
    if lacking := [name for name in missing if name.startswith(body) and "pooler" not in name]:
        raise ModelError(f"model {shown(source, 300)} is not whole: it has no weights for {', '.join(lacking[:3])}")
    return model.to(resolve_device(device))


def _fit(
    part: Judgements,
    conversations: Sequence[Conversation],
    options: TrainingOptions,
    weights: dict[str, float],
    seed: int,
    doing: str,
) -> FittedModel:
    from textrl_agents.trl.reward_trainer import train_reward_classifier

    pairs = with_rated_pairs(part, weights)
    source = base_source(options.model)
    options.told(doing)
    model = new_classifier(source, seed=seed, device=options.device)
    tokenizer = load_tokenizer(source)
    rows = _rows(pairs, model, tokenizer, options.margin_scale)

    def stepped(done: int, total: int) -> None:
        if done % max(1, total // TOLD) == 0:
            options.told(f"{doing}: update {done} of {total}")

    train_reward_classifier(
        model,
        tokenizer,
        rows,
        seed=seed,
        settings=options.settings,
        stepped=stepped,
    )
    reward = ClassifierReward(model, tokenizer)

    def save(folder: Path) -> None:
        with quiet_loading():
            model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_reward_file(folder, CLASSIFIER, {})

    scores = reward([prompt for prompt, _ in conversations], [text for _, text in conversations])
    return FittedModel(np.array(scores, dtype=np.float64), save)


def _rows(pairs: Judgements, model: Any, tokenizer: Any, margin_scale: float) -> list[dict[str, Any]]:
    """Rows of the trainer's data set, with exactly the ids that the reward will read.

    The stock trainer weighs all rows the same. Where there are ties every decided pair is there twice, and a tie once
    in either order: each side of it counts half, as `bradley_terry_loss` has it.
    """
    from textrl_agents.trl.reward_trainer import reward_row

    settle_padding(model.config, tokenizer)
    encode = ConversationEncoder(load_tokenizer(tokenizer), longest_input(model.config, tokenizer), "reward model")
    used = pairs.places
    texts = [pairs.responses[place] for place in used]
    ids = dict(zip(used, encode([each.prompt for each in texts], [each.text for each in texts]), strict=True))
    times = 2 if any(pair.tied for pair in pairs.pairs) else 1
    rows = []
    for pair in pairs.pairs:
        better, worse = ids[pair.better], ids[pair.worse]
        if pair.tied:
            rows += [reward_row(better, worse), reward_row(worse, better)]
        else:
            rows += [reward_row(better, worse, pair.margin * margin_scale)] * times
    return rows
