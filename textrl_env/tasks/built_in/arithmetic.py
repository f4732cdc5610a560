"""Do a sum: `12 + 7 =` -> ` 19`.

The reward checks the number. It pays a little for any number at all, so that a policy that writes none has something
to climb. The gold score is 1 for the right number alone.

A held-out sum is not trained on in either order: 12 + 7 and 7 + 12 are one item. 42 of the 171 items are held out, and
21 are for validation. Their numbers and signs occur in other sums.

The embedded model has seen all sums in its own training text. It knows the 247 ways to write them by heart, and cannot
add. Training on some sums costs it others, so the score on the held-out ones falls. With this model the task shows
forgetting; a model that can add is needed for more.
"""

from __future__ import annotations

import re
from random import Random
from typing import Any

from textrl_env.rewards import FunctionReward, completion_text
from textrl_env.tasks.task import Format, Row, Task

# --- prompts and answers ----------------------------------------------------------------------------------

NUMBER = re.compile(r"0|-?[1-9][0-9]*")
"""A whole number as it is written: ASCII digits, no zero in front, nothing else."""


def _draw(rng: Random) -> dict[str, Any]:
    sign = rng.choice("+-*")
    if sign == "*":
        left, right = rng.randint(2, 6), rng.randint(2, 6)
        value = left * right
    else:
        left, right = rng.randint(1, 12), rng.randint(1, 12)
        if sign == "-":
            left, right = max(left, right), min(left, right)
        value = left + right if sign == "+" else left - right
    return {"prompt": f"{left} {sign} {right} =", "answer": str(value)}


def _item(row: Row) -> str:
    """Name the sum, whichever number comes first: 12 + 7 and 7 + 12 are one."""
    left, sign, right, _ = row["prompt"].split()
    first, second = sorted((int(left), int(right)))
    return f"{first} {sign} {second}"


def _right(rng: Random, row: Row) -> str:
    return f" {row['answer']}"


def _wrong(rng: Random, row: Row) -> str:
    """Miss by a little, miss by ten, or write the digits in the wrong order."""
    value = int(row["answer"])
    near = {value + step for step in (-10, -2, -1, 1, 2, 10)} | {int(row["answer"][::-1])}
    return f" {rng.choice(sorted(number for number in near if number >= 0 and number != value))}"


def _well_formed(row: Row, answer: str) -> bool:
    return NUMBER.fullmatch(answer.strip()) is not None


FORMAT = Format("arithmetic", _draw, _item, _right, _wrong, _well_formed, right_share=0.75, share=0.18)


# --- scores -----------------------------------------------------------------------------------------------

FORM = 0.1
"""The score of a well-formed number that is not the right one."""


def checked_number(prompts: list[Any], completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
    """Score 1 for the right number and nothing else, 0.1 for another number, 0 for anything else.

    A number is ASCII digits, with no zero in front; spaces around it do not count.
    """
    scores = []
    for completion, wanted in zip(completions, answer, strict=True):
        written = completion_text(completion).strip()
        scores.append(1.0 if written == wanted else FORM if NUMBER.fullmatch(written) else 0.0)
    return scores


def exact_number(prompts: list[Any], completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
    """Score 1 for the right number and nothing else, else 0."""
    return [float(completion_text(text).strip() == wanted) for text, wanted in zip(completions, answer, strict=True)]


TASK = Task(
    name="arithmetic",
    **FORMAT.prompt_arguments(),
    reward=FunctionReward(checked_number, timeout=None),
    gold=FunctionReward(exact_number, timeout=None),
    max_prompt_tokens=12,
    max_new_tokens=8,
    description="complete a sum with the right number",
)
