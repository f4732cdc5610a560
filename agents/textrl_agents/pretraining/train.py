"""Pretrain a causal LM on a corpus, by one of the objectives, into a policy folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, TextColumn

from textrl_agents.pretraining.data import divide
from textrl_agents.pretraining.documents.corpus import read_corpus
from textrl_agents.pretraining.documents.scores import score_documents
from textrl_agents.pretraining.folder import PretrainingFolder
from textrl_agents.pretraining.objectives import OBJECTIVES
from textrl_agents.pretraining.run import REFUSED, PretrainingRun, PretrainResult
from textrl_agents.pretraining.settings import PretrainSettings
from textrl_agents.pretraining.trainer import PRETRAIN
from textrl_agents.runs.atomic import foreign_names, locked_folder
from textrl_agents.runs.run_folder import PRETRAINING_FILE, RunFolder
from textrl_agents.training.extras import require
from textrl_agents.training.terminal import progress_bar
from textrl_agents.trl.trainer import check_settings
from textrl_env.errors import ConfigError
from textrl_env.rewards import make_reward


def pretrain(
    corpus: Any,
    *,
    out: str | Path,
    reward: Any = None,
    model: Any = "embedded",
    tokenizer: Any = None,
    settings: PretrainSettings | None = None,
    progress: bool = True,
    resume: bool = False,
) -> PretrainResult:
    """Train a causal LM to write like a corpus, as far as a reward likes what it says.

    corpus: what `read_corpus` takes. reward: what `make_reward` takes; it scores pieces of documents, see `scores`.
        Only the objective mle does without.
    model, tokenizer: what `load_model` takes; the weights are drawn anew where `settings.from_scratch`.
    out: a new folder. It gets `policy/`, which plain transformers loads, `pretraining.json`, `metrics.jsonl`,
        `curve.png` and `samples.md`.
    resume: go on where the newest checkpoint in `out` was written, with the same corpus, reward, model and settings, to
        the same weights; from the start where there is none.

    Ctrl-C or SIGTERM saves what is trained so far, and a checkpoint. Raises ConfigError before anything is written,
    RewardError where the reward cannot score a piece, TrainingDiverged where a gradient is not finite.
    """
    settings = settings or PretrainSettings()
    require("matplotlib", "trl")
    if reward is None and OBJECTIVES[settings.objective].by_score:
        raise ConfigError(f"the objective {settings.objective} needs a reward that says what is good; give one")
    check_settings(PRETRAIN, settings.arguments, refused=REFUSED)
    run = RunFolder(out)
    check_folder = _require_begun if resume else _require_free
    check_folder(run)
    judge = None if reward is None else make_reward(reward)
    texts = read_corpus(corpus)
    with locked_folder(run.path):  # before scoring, which may take hours
        check_folder(run)  # another run may have begun and ended in between
        with _scoring_shown(progress) as shown:
            documents = score_documents(texts, judge, settings.segment, progress=shown)
        training = PretrainingRun(divide(documents, settings), PretrainingFolder(run), settings, judge, _name(reward))
        return training.train(model, tokenizer, progress=progress)


@contextmanager
def _scoring_shown(enabled: bool) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that takes the pieces scored so far and all of them, and shows them in a terminal."""
    console = Console(stderr=True)
    columns = (MofNCompleteColumn(), TextColumn("pieces"))
    with progress_bar(console, *columns, shown=enabled and console.is_interactive) as bar:
        task = bar.add_task("scoring", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _require_free(run: RunFolder) -> None:
    if run.path.exists() and not run.path.is_dir():
        raise ConfigError(f"out {str(run.path)!r} is a file; give a folder")
    if names := foreign_names(run.path, PRETRAINING_FILE):
        raise ConfigError(f"out {str(run.path)!r} is not empty: it holds {names}. Choose another --out, or --resume")


def _require_begun(run: RunFolder) -> None:
    """Raise ConfigError where there is something else, or nothing to go on with. An empty folder will do."""
    names = foreign_names(run.path, PRETRAINING_FILE)
    if run.path.is_file() or (names and not (run.path / PRETRAINING_FILE).is_file()):
        found = "is a file" if run.path.is_file() else f"holds no pretraining to go on with, but {names}"
        raise ConfigError(f"out {str(run.path)!r} {found}; choose another --out")
    if run.policy.is_dir() and not PretrainingFolder(run).checkpoints.is_dir():
        raise ConfigError(f"the run in {str(run.path)!r} is complete, or has no checkpoints; choose another --out")


def _name(reward: Any) -> str | None:
    """What the run's files call it."""
    return None if reward is None else str(reward) if isinstance(reward, (str, Path)) else type(reward).__name__
