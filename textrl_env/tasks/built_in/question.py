"""Answer a question from a passage: three facts, then the question and the beginning of its answer.

In half of the passages two facts are of the same kind about different people, so that it matters who is meant. The
reward is SQuAD's F1, which pays in part for an answer that says more than was asked; the gold score is its exact match.

Held out are sets of three facts: none is trained on in another order or with another question. Single facts occur in
both, as they must, and tell nothing, since the passage decides.
"""

from __future__ import annotations

from typing import Any

from textrl_env.language.formats.question import QUESTION
from textrl_env.rewards import FunctionReward, completion_text
from textrl_env.tasks.registry import Task
from textrl_env.tasks.text_overlap import squad_exact_match, squad_f1


def answer_f1(prompts: list, completions: list, answer: list[str], **columns: Any) -> list[float]:
    """SQuAD's F1 of completion and answer, in [0, 1]."""
    return [squad_f1(wanted, completion_text(text)) for text, wanted in zip(completions, answer, strict=True)]


def answer_exact_match(prompts: list, completions: list, answer: list[str], **columns: Any) -> list[float]:
    """SQuAD's exact match of completion and answer, 0 or 1."""
    return [squad_exact_match(wanted, completion_text(text)) for text, wanted in zip(completions, answer, strict=True)]


TASK = Task(
    name="question",
    prompts=lambda: QUESTION.rows("train"),
    validation_prompts=lambda: QUESTION.rows("validation"),
    heldout_prompts=lambda: QUESTION.rows("heldout"),
    item=QUESTION.item,
    reward=FunctionReward(answer_f1, timeout=None),
    gold=FunctionReward(answer_exact_match, timeout=None),
    kl_coef=0.05,
    max_prompt_tokens=48,
    max_new_tokens=12,
    description="answer a question from a passage",
)
