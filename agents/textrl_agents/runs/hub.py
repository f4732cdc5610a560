"""A run's policy for the Hugging Face hub: what would be sent, and sending it. Nothing is sent but by `push`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public there, though not in its `__all__`
    validate_repo_id,
)

from textrl_agents.runs.run_card import run_card
from textrl_agents.runs.run_folder import RunFolder
from textrl_env.errors import ConfigError, TextRLError
from textrl_env.models.storage.manifest import MANIFEST
from textrl_env.models.storage.policy_folder import CARD_FILE, VALUE_HEAD_FILE, verify_policy

RECORDS = "training"  # the folder of the run's records, beside the model


@contextmanager
def staged(folder: str | Path, repo: str) -> Iterator[Path]:
    """Yield a temporary folder with all that `push` sends of a run: the policy, its value head, a card, and records.

    repo: NAME or OWNER/NAME. Raises ConfigError for another name, or where `folder` is no run with a policy, and
    ModelError where a file of the policy is not the one that the run has written.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(f"{repo!r} is no name for a repository; use NAME or OWNER/NAME: {error}") from None
    run = RunFolder(folder)
    policy = run.newest_policy
    if policy is None or not run.config.is_file():
        raise ConfigError(f"{str(run.path)!r} is no folder of a training run with a policy, as textrl train writes it")
    verify_policy(policy)
    heads = [path for path in (policy / VALUE_HEAD_FILE, policy.parent / VALUE_HEAD_FILE) if path.is_file()]
    with tempfile.TemporaryDirectory(prefix="textrl-push-") as place:
        fresh = Path(place) / "policy"
        # The card changes, so the list of the run's files would not hold.
        shutil.copytree(policy, fresh, ignore=shutil.ignore_patterns(MANIFEST))
        for head in heads[:1]:
            shutil.copyfile(head, fresh / VALUE_HEAD_FILE)
        (fresh / RECORDS).mkdir()
        for record in (run.metrics, run.curve, run.samples):
            if record.is_file():
                shutil.copyfile(record, fresh / RECORDS / record.name)
        (fresh / CARD_FILE).write_text(run_card(run, repo.rpartition("/")[2]), encoding="utf-8")
        yield fresh


def files_of(folder: Path) -> list[tuple[str, int]]:
    """The name within the folder and the bytes of each of its files."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in paths]


def push(folder: str | Path, repo: str, *, public: bool = False) -> str:
    """Send a run's policy to a model repository, which is made where there is none; return its address.

    public: whether everybody may see a repository that is made; one that is there stays as it is.
    Raises what `staged` raises before anything is sent, and TextRLError where the hub refuses or cannot be reached.
    """
    with staged(folder, repo) as fresh:
        api = HfApi()
        try:
            made = api.create_repo(repo, private=not public, exist_ok=True)
            api.upload_folder(repo_id=made.repo_id, folder_path=fresh, commit_message="A policy trained by textrl-env")
        except Exception as error:  # of the hub's client, and of the HTTP library that this version of it uses
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise TextRLError(
                f"{repo} could not be sent: {said[0]}. It needs a connection, and a token of yours that may write: "
                "`hf auth login`, or HF_TOKEN"
            ) from error
    return str(made)
