"""Documents that a pretrained model writes from nothing, and how the reward scores their pieces."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

from textrl_agents.evaluation.generation import generate
from textrl_agents.pretraining.control_tokens import document_opening
from textrl_agents.pretraining.documents.scores import score_documents
from textrl_agents.runs.logs import markdown_cell, markdown_row
from textrl_env.errors import RewardError
from textrl_env.models import CausalLMActorCritic

MOST_TOKENS = 96
SHOWN = 16
COLUMNS = ("document", "score")


class SampledDocument(NamedTuple):
    """score: the mean of its pieces' scores; None without a reward, and where it has no piece, as a blank one."""

    text: str
    score: float | None


def sample_documents(
    policy: CausalLMActorCritic, count: int, *, reward: Any, segment: str, seed: int
) -> list[SampledDocument]:
    """Sample documents from the beginning: behind BOS, and behind the good token of a conditional model.

    None of a model whose documents begin with nothing. A reward that fails on what was written leaves it without
    scores, with a warning: that is no reason to lose what was learned.
    """
    if count == 0 or not document_opening(policy.tokenizer):
        return []
    longest = min(MOST_TOKENS, policy.max_length - 4)
    texts = [each.response for each in generate(policy, [""] * count, max_new_tokens=longest, seed=seed)]
    if reward is None:
        return [SampledDocument(text, None) for text in texts]
    try:
        scored = score_documents(texts, reward, segment)
    except RewardError as error:
        warnings.warn(f"the sampled documents have no scores: {error}", stacklevel=2)
        return [SampledDocument(text, None) for text in texts]
    return [SampledDocument(text, each.mean if each.scores else None) for text, each in zip(texts, scored, strict=True)]


def samples_page(samples: Sequence[SampledDocument]) -> str:
    """Markdown; what the model wrote is shown as text."""
    lines = [
        "# Samples\n\nDocuments that the model writes from their beginning on, and the mean score of their pieces.\n"
    ]
    lines += [markdown_row(COLUMNS), markdown_row(["---"] * len(COLUMNS))]
    for text, score in samples[:SHOWN]:
        lines.append(markdown_row([markdown_cell(text), "" if score is None else f"{score:.2f}"]))
    return "\n".join(lines) + "\n"
