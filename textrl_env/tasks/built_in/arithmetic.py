"""Verifiable sums: `12 + 7 =` wants ` 19`.

The reward checks the number and pays a little for any number at all, so that a policy that writes none has something
to climb. The gold score is 1 for the right number alone.

Held out are sums that are not trained on in either order, 12 + 7 and 7 + 12 being one: 42 of 171, and 21 for
validation. Their numbers and signs occur in others. The embedded model has seen all of them in its own training text:
it knows the 247 ways to write them by heart and cannot add. What it learns of some it pays for with the others, so
training lowers the score of those held out. This task shows forgetting there, and wants a model that can add for more.
"""

from __future__ import annotations

from typing import Any

from textrl_env.language.formats.arithmetic import ARITHMETIC, NUMBER
from textrl_env.rewards import FunctionReward, completion_text
from textrl_env.tasks.registry import Task

FORM = 0.1
"""What a well-formed number is worth that is not the right one."""


def checked_number(prompts: list, completions: list, answer: list[str], **columns: Any) -> list[float]:
    """1 for the right number and nothing else, 0.1 for another number, 0 for what is no number.

    A number is ASCII digits, with no zero in front; spaces around it do not count.
    """
    scores = []
    for completion, wanted in zip(completions, answer, strict=True):
        written = completion_text(completion).strip()
        scores.append(1.0 if written == wanted else FORM if NUMBER.fullmatch(written) else 0.0)
    return scores


def exact_number(prompts: list, completions: list, answer: list[str], **columns: Any) -> list[float]:
    """1 for the right number and nothing else, else 0."""
    return [float(completion_text(text).strip() == wanted) for text, wanted in zip(completions, answer, strict=True)]


TASK = Task(
    name="arithmetic",
    prompts=lambda: ARITHMETIC.rows("train"),
    validation_prompts=lambda: ARITHMETIC.rows("validation"),
    heldout_prompts=lambda: ARITHMETIC.rows("heldout"),
    item=ARITHMETIC.item,
    reward=FunctionReward(checked_number, timeout=None),
    gold=FunctionReward(exact_number, timeout=None),
    kl_coef=0.05,
    max_prompt_tokens=12,
    max_new_tokens=8,
    description="complete a sum with the right number",
)
