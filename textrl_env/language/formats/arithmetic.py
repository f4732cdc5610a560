"""`12 + 7 =` -> ` 19`."""

from __future__ import annotations

import re
from random import Random
from typing import Any

from textrl_env.language.format import Format, Row

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
    """The sum, whichever number comes first: 12 + 7 and 7 + 12 are one."""
    left, sign, right, _ = row["prompt"].split()
    first, second = sorted((int(left), int(right)))
    return f"{first} {sign} {second}"


def _right(rng: Random, row: Row) -> str:
    return f" {row['answer']}"


def _wrong(rng: Random, row: Row) -> str:
    """Off by a little, off by ten, or the digits in the wrong order."""
    value = int(row["answer"])
    near = {value + step for step in (-10, -2, -1, 1, 2, 10)} | {int(row["answer"][::-1])}
    return f" {rng.choice(sorted(number for number in near if number >= 0 and number != value))}"


def _well_formed(row: Row, answer: str) -> bool:
    return NUMBER.fullmatch(answer.strip()) is not None


ARITHMETIC = Format("arithmetic", _draw, _item, _right, _wrong, _well_formed, right_share=0.75)
