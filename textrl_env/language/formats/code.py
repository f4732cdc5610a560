"""`Make 10 from 4 6:` -> ` 4 + 6`: an expression that uses the given numbers and has the given value."""

from __future__ import annotations

from random import Random
from typing import Any

from textrl_env.language.expression import read_expression
from textrl_env.language.format import Format, Row

MAX_TARGET = 40


def _draw(rng: Random) -> dict[str, Any]:
    while True:
        numbers = sorted(rng.randint(1, 9) for _ in range(rng.choice((2, 2, 2, 3))))
        answer = _expression(rng, numbers)
        read = read_expression(answer)
        assert read is not None
        assert read.value is not None
        if 0 <= read.value <= MAX_TARGET:
            shown = " ".join(map(str, numbers))
            target = int(read.value)  # whole: there is no division in it
            return {"prompt": f"Make {target} from {shown}:", "numbers": numbers, "target": target, "answer": answer}


def _expression(rng: Random, numbers: list[int]) -> str:
    """All the numbers, the first of them first or second, joined by + - *."""
    order = numbers if rng.random() < 0.7 else [numbers[1], numbers[0], *numbers[2:]]
    text = str(order[0])
    for number in order[1:]:
        text += f" {rng.choice('++-*')} {number}"
    return text


def _item(row: Row) -> str:
    """The given numbers, whatever is to be made of them."""
    return " ".join(map(str, row["numbers"]))


def _right(rng: Random, row: Row) -> str:
    return f" {row['answer']}"


def _wrong(rng: Random, row: Row) -> str:
    """Other signs, a number that was not given, or one left out."""
    numbers = list(row["numbers"])
    fault = rng.choice(("signs", "signs", "number", "short"))
    if fault == "number":
        numbers[rng.randrange(len(numbers))] = rng.randint(1, 9)
    elif fault == "short":
        return f" {rng.choice(numbers)}"
    return f" {_expression(rng, numbers)}"


def _well_formed(row: Row, answer: str) -> bool:
    return read_expression(answer) is not None


CODE = Format("code", _draw, _item, _right, _wrong, _well_formed, right_share=0.75)
