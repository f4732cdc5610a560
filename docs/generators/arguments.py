"""The environment's arguments, with the types and the texts that stand beside them in `textrl_env/arguments.py`."""

from __future__ import annotations

import ast
from pathlib import Path

import textrl_env.arguments

CLASSES = ("ModelArguments", "EnvArguments")


def argument_list() -> str:
    """Return a table of the arguments: name, type, meaning. The source is read, since a type's text is not kept."""
    rows = ["| argument | type | what it is |", "|---|---|---|"]
    rows.append('| `task` | `str \\| Task` | A name of `textrl bench list`, or a `Task`; "sentiment" by default. |')
    tree = ast.parse(Path(textrl_env.arguments.__file__).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name in CLASSES:
            for field, text in zip(node.body, node.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                    kind = ast.unparse(field.annotation).replace("|", "\\|")
                    meaning = " ".join(ast.literal_eval(text.value).split()).replace("|", "\\|")
                    rows.append(f"| `{ast.unparse(field.target)}` | `{kind}` | {meaning} |")
    return "\n".join(rows)
