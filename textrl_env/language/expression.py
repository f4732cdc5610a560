"""Arithmetic expressions from strangers, read and evaluated without `eval`: numbers, + - * / and parentheses."""

from __future__ import annotations

import ast
import operator
import re
from fractions import Fraction
from typing import NamedTuple

MAX_CHARACTERS = 120
MAX_DEPTH = 24
_ALLOWED = re.compile(rf"[0-9+\-*/() ]{{1,{MAX_CHARACTERS}}}")  # ASCII digits only; \d would take those of any script
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


class Expression(NamedTuple):
    """A well-formed expression."""

    value: Fraction | None  # exact; None where it divides by zero
    numbers: list[int]  # the literals in it, in their order


def read_expression(text: str) -> Expression | None:
    """The expression that `text` is, spaces around it apart; None where it is none.

    Bounded work on any text: at most 120 characters, 24 levels, and no power, so no number grows beyond what as many
    digits can multiply to. A minus sign in front is an operation on the number behind it.
    """
    text = text.strip(" \n")
    if not _ALLOWED.fullmatch(text) or text.count("(") > MAX_DEPTH:
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
