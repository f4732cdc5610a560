"""The plan of a benchmark, as it stands in the folder that the benchmark writes to."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from textrl_agents.runs.atomic import foreign_names, locked_folder, write_atomically
from textrl_env.errors import ConfigError
from textrl_env.user_values import user_path

PLAN_FILE = "plan.json"


@dataclass(frozen=True, kw_only=True)
class StoredPlan:
    """All that a benchmark runs, as fields that JSON can hold.

    INCIDENTAL: fields that may differ between two plans of the same experiment.
    """

    INCIDENTAL: ClassVar[frozenset[str]] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        found: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return found

    @classmethod
    def read(cls, path: Path) -> Self:
        """The plan in a file that holds `to_json`. Raises ConfigError where it is none."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(f"{path} holds no plan of this benchmark: {error}") from error

    @contextmanager
    def holding(self, out: str | Path) -> Iterator[Path]:
        """Hold the folder `out` for this plan, which it then holds too; another process cannot begin there meanwhile.

        Raises ConfigError where `out` holds another plan or something else, and writes nothing then.
        """
        folder = user_path(out)
        self._check(folder)
        with locked_folder(folder):
            self._check(folder)  # another run may have begun in between
            if not (folder / PLAN_FILE).is_file():
                write_atomically(folder / PLAN_FILE, json.dumps(self.to_json(), indent=1) + "\n")
            yield folder

    def _check(self, folder: Path) -> None:
        path = folder / PLAN_FILE
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"out {str(folder)!r} is a file; a benchmark needs a folder")
        if path.is_file():
            before, now = self.read(path).to_json(), self.to_json()
            if differ := [
                f"{name} is {before[name]!r} there and {now[name]!r} here"
                for name in now
                if before[name] != now[name] and name not in self.INCIDENTAL
            ]:
                raise ConfigError(f"{str(folder)!r} holds another plan: {'; '.join(differ)}. Choose another --out")
        elif others := foreign_names(folder, PLAN_FILE):
            raise ConfigError(f"out {str(folder)!r} is not empty, and what it holds is no benchmark: {others}")
