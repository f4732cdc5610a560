"""Documents to pretrain on: read from files, a data set or a list, or written by the embedded grammar.

file.txt                          documents with blank lines between them
file.jsonl                        a line each: {"text": "..."}, or a JSON string
a folder                          each .txt, .md and .py file in it is a document
datasets:<hub id or folder>       the column "text"
grammar, grammar:<count>          see `grammar_corpus`
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from textrl_agents.pretraining.documents.grammar_corpus import DOCUMENTS, grammar_documents
from textrl_env.errors import ConfigError, PromptError
from textrl_env.foreign_text import names_shown, shown
from textrl_env.text.prompt_rows import PREFIX, load_prompt_dataset
from textrl_env.text.tokenization import check_text
from textrl_env.user_values import check_whole, user_path

GRAMMAR = "grammar"
SUFFIXES = (".txt", ".md", ".py")  # of the files in a folder
COLUMN = "text"


def read_corpus(source: Any) -> list[str]:
    """Read all documents that are not blank. source: see the module's docstring, or a list of texts.

    Raises PromptError that names the line, row or file of the first that is malformed, and where there are none.
    """
    documents = []
    for where, item in _items(source):
        text = item.get(COLUMN) if isinstance(item, Mapping) else item
        if not isinstance(text, str):
            keys = f"; its keys are {names_shown(item)}" if isinstance(item, Mapping) else ""
            raise PromptError(
                f"{where} must be a text, or an object with a text as {COLUMN!r}; got {shown(item)}{keys}"
            )
        check_text(text, where)
        if text.strip():
            documents.append(text)
    if not documents:
        raise PromptError(
            f"the corpus {shown(source, 200)} holds no documents; give at least one text that is not blank"
        )
    return documents


def _items(source: Any) -> Iterator[tuple[str, Any]]:
    """(where, text or row) of everything in the source."""
    if isinstance(source, str) and source.partition(":")[0] == GRAMMAR:
        yield from _numbered(grammar_documents(_count(source)), source)
    elif isinstance(source, str) and source.startswith(PREFIX):
        yield from _numbered(load_prompt_dataset(source), source)
    elif isinstance(source, (str, Path)):
        if source == "":  # which would be the folder that one is in
            raise PromptError("the corpus has no name; give a file, a folder, a data set or 'grammar'")
        path = user_path(source)
        yield from _files(path) if path.is_dir() else _file(path)
    elif isinstance(source, Mapping) or not hasattr(source, "__iter__"):
        raise PromptError(f"the corpus must be a file, a folder, a data set or a list of texts, got {shown(source)}")
    else:
        yield from _numbered(source, "the corpus")


def _count(source: str) -> int:
    """The documents that "grammar:<count>" asks for."""
    _, colon, count = source.partition(":")
    if not colon:
        return DOCUMENTS
    if not count.isdecimal():
        raise ConfigError(f"corpus {shown(source, 200)}: write {GRAMMAR}:<number of documents>, such as {GRAMMAR}:5000")
    check_whole("documents of the grammar", int(count), 1, 1_000_000)
    return int(count)


def _numbered(rows: Iterable[Any], name: str) -> Iterator[tuple[str, Any]]:
    return ((f"{name}, row {number}", row) for number, row in enumerate(rows, start=1))


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    if not paths:
        raise PromptError(f"the folder {shown(str(folder), 200)} holds no {', '.join(SUFFIXES)} file")
    yield from ((str(path), _read(path)) for path in paths)


def _file(path: Path) -> Iterator[tuple[str, Any]]:
    if path.suffix not in (".txt", ".jsonl") or not path.is_file():
        why = "no such file" if path.suffix in (".txt", ".jsonl") else "not a .txt or .jsonl file"
        raise PromptError(
            f"corpus {shown(str(path), 200)}: {why}; it may also be a folder of texts, {PREFIX}<hub id>, or {GRAMMAR}"
        )
    text = _read(path)
    if path.suffix == ".txt":
        yield from _numbered(re.split(r"\n(?:[^\S\n]*\n)+", text.replace("\r\n", "\n")), str(path))
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield f"{path}, line {number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                raise PromptError(f"{path}, line {number} is no JSON: {error}") from None


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptError(f"{path} is not UTF-8: {error}") from error
    except OSError as error:
        raise PromptError(f"{path} cannot be read: {error.strerror}") from error
