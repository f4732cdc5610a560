"""The `Task`: what is asked, how the answer is judged, and within which limits. And the `Format` of prompts drawn.

A task whose prompts are drawn defines its `FORMAT`: prompts, right and wrong answers to them, and a check of an
answer's form. The embedded model's training text is written by these too, so the model knows the prompts of every
built-in task and answers them rightly or wrongly in a known share.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

from textrl_env.text.prompt_splits import SPLITS, Item, split_places
from textrl_env.user_values import check_names


@dataclass(frozen=True)
class Task:
    """Prompts, reward, model and limits of one problem; every argument of the environment overrides its part.

    prompts: a source that `PromptSet` takes (a list of texts, chats or rows, a path, a dataset), or
        a function that returns one. They are trained on.
    validation_prompts, heldout_prompts: the same. Evaluations while training, and every choice of settings, take the
        validation prompts; reports take the held-out ones. None takes an eighth of `prompts` away for each, where there
        are at least 16 different ones; an empty list holds none back.
    item: what a row `{"prompt": ..., **columns}` is about. Rows with equal items never stand on two sides of a split.
        None compares the prompts' texts, whatever their case and white space.
    reward: anything that `textrl_env.rewards.make_reward` takes.
    gold: the same; reported beside the score as `gold_score` and never trained on.
    model: what `textrl_env.models.load_model` takes, or a function that returns a `LoadedModel`.
    requires: package that the rewards import -> the extra of textrl-env that installs it, checked before anything is
        built.
    sampling: keyword arguments of `SamplingParams`. stop: strings that end a response.
    as_chat: prompts that are texts are asked as a user's message where the tokenizer has a chat template, and continued
        elsewhere, as by a base model. None does so for turns alone.
    system_prompt: the system message of every chat that has none.
    prompt_overflow: "truncate" cuts a prompt longer than `max_prompt_tokens` from the left, "error" refuses it. None
        cuts prompts, and refuses what a turn environment begins with: that says what the rules are.
    turns: what answers the policy, for episodes of several turns: a callable that makes a `TurnEnv`, or what else
        `textrl_env.turns.make.make_turn_env_factory` takes. Its `reset` gives the first message, so `prompts` may be
        None: an episode is then a seed, and no split has another's. Rows of `prompts` are given to `reset` by keyword.
        Its rewards are the score, so `reward` may be None; one that is given is added.
    max_turns: the policy's turns in an episode. max_turn_tokens: tokens of a turn; None for `max_new_tokens`, which
        counts all tokens behind the prompt, those of the turn environment too.
    bridge: a function from the tokenizer to a `Bridge`; None takes its chat template, or plain text where it has none.
    """

    name: str
    prompts: Any = None
    reward: Any = None
    validation_prompts: Any = None
    heldout_prompts: Any = None
    item: Item | None = None
    gold: Any = None
    model: Any = "embedded"
    tokenizer: Any = None
    kl_coef: Any = 0.05
    kl_estimator: str = "k1"
    max_prompt_tokens: int = 32
    max_new_tokens: int = 48
    as_chat: bool | None = None
    system_prompt: str | None = None
    prompt_overflow: Literal["truncate", "error"] | None = None
    sampling: Mapping[str, float] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    turns: Any = None
    max_turns: int = 8
    max_turn_tokens: int | None = None
    bridge: Any = None
    description: str = ""
    requires: Mapping[str, str] = field(default_factory=dict)


# --- tasks whose prompts are drawn ------------------------------------------------------------------------

Row = Mapping[str, Any]
"""A prompt (`row["prompt"]`, a text or chat messages) and the columns that a reward needs to judge its answer."""

SHARES = {"heldout": 4, "validation": 8}  # split -> n, for one nth of the different items
MOST = {"train": 2048, "validation": 64, "heldout": 64}  # prompts
DRAWS = 5_000


@dataclass(frozen=True)
class Format:
    """One kind of prompt and how the training text answers it.

    draw: a row from the space of all rows; what it draws depends on the generator alone.
    item: what a row is about. Prompts are split by it: another wording or order of the same thing is the same item.
    right, wrong: an answer to a row as the training text writes it (a text, with the space in front that it has in a
        document); `wrong` gives a plausible mistake.
    well_formed: whether an answer has the format's form, right or wrong.
    right_share: the share of right answers in the training text. Below 1 on purpose: a model that learned it scores in
        the middle, and reinforcement learning can be seen to raise or to ruin it.
    share: the format's share of the documents in the embedded model's training text. 0 leaves it out, as for a task of
        your own: the model that ships has never seen it. A share above 0 changes the text, and needs the model made
        again.
    """

    name: str
    draw: Callable[[Random], dict[str, Any]]
    item: Callable[[Row], str]
    right: Callable[[Random, Row], str]
    wrong: Callable[[Random, Row], str]
    well_formed: Callable[[Row, str], bool]
    right_share: float = 0.6
    share: float = 0.0

    def prompt_arguments(self) -> dict[str, Any]:
        """Return the arguments of a `Task` that its prompts decide: the prompts of each split, and `item`."""
        return {
            "prompts": functools.partial(self.rows, "train"),
            "validation_prompts": functools.partial(self.rows, "validation"),
            "heldout_prompts": functools.partial(self.rows, "heldout"),
            "item": self.item,
        }

    def answer(self, rng: Random, row: Row) -> str:
        """Write what the training text answers to `row`."""
        return (self.right if rng.random() < self.right_share else self.wrong)(rng, row)

    def rows(self, split: str) -> list[dict[str, Any]]:
        """Return prompts with their columns: at most 2,048 to train on, 64 for validation and 64 held out.

        No item is in two splits. The rows and their order are always the same. Raises `UnknownName` for another split.
        """
        check_names(f"split of the {self.name} prompts", [split], SPLITS)
        return copy.deepcopy(list(_drawn_rows(self)[split]))


@functools.cache
def _drawn_rows(form: Format) -> dict[str, list[dict[str, Any]]]:
    """The rows of all splits: draw `DRAWS` prompts and keep the different ones."""
    rng = Random(f"prompts of {form.name}")
    drawn = {repr(row["prompt"]): row for row in (form.draw(rng) for _ in range(DRAWS))}
    rows = list(drawn.values())
    places = split_places([form.item(row) for row in rows], SHARES)
    return {split: [rows[place] for place in places[split][: MOST[split]]] for split in SPLITS}
