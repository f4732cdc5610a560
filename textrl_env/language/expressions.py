"""Expressions of numbers, read and evaluated without `eval`: whole numbers, + - * / and parentheses."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

MAX_CHARACTERS = 120
MAX_DEPTH = 24
_CHARACTERS = re.compile(rf"[0-9+\-*/() ]{{1,{MAX_CHARACTERS}}}")  # not \d, which takes digits of any script
_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class Expression(NamedTuple):
    """A well-formed expression."""

    value: Fraction | None  # exact; None where it divides by zero
    numbers: list[int]  # the literals in it, in their order


def read_expression(text: str) -> Expression | None:
    """Read `text` as an expression, spaces around it apart; None where it is none.

    The work is bounded for any text: at most 120 characters and 24 levels, and no power, so that numbers stay small. A
    minus sign in front is an operation on the number behind it.
    """
    text = text.strip(" \n")
    if not _CHARACTERS.fullmatch(text) or text.count("(") > MAX_DEPTH:
        return None
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    numbers: list[int] = []
    try:
        value = _value(tree.body, numbers, 0)
    except _NotAllowed:
        return None
    return Expression(value, numbers)


class _NotAllowed(Exception):
    """A node that is no arithmetic, or too many of them in each other."""


def _value(node: ast.AST, numbers: list[int], depth: int) -> Fraction | None:
    if depth > 2 * MAX_DEPTH:
        raise _NotAllowed
    if isinstance(node, ast.Constant) and type(node.value) is int:
        numbers.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        operand = _value(node.operand, numbers, depth + 1)
        return None if operand is None else -operand
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _value(node.left, numbers, depth + 1), _value(node.right, numbers, depth + 1)
        if left is None or right is None or (isinstance(node.op, ast.Div) and right == 0):
            return None
        return _OPERATORS[type(node.op)](left, right)
    raise _NotAllowed  # Pow, FloorDiv, calls, names, tuples, ...
