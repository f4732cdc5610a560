"""The text that the model of the tasks with several turns is taught by: scripted players' episodes of these tasks.

The players play well, badly or against the rules in known shares, as the other formats answer rightly or wrongly: a
model that learned from them scores in the middle. Only seeds of the train split are played, so that no hidden state
that is held out is in the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from types import MappingProxyType
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from textrl_env.embedded.corpus import TURN_END, TURN_START
from textrl_env.language.goods import GROUP_OF, GROUPS
from textrl_env.language.manners import COMPLIES, DECLINES, FACTS
from textrl_env.tasks.built_in.dialogue import ELSEWHERE, FRIENDLY, FRIENDLY_AFTER, PHRASES, RUDE
from textrl_env.turns.built_in.calculator import STATES, Calculator
from textrl_env.turns.built_in.clarify import NAMED, Clarify
from textrl_env.turns.built_in.guess import WIDTH, Guess
from textrl_env.turns.built_in.safe_chat import SafeChat
from textrl_env.turns.seeds import LARGEST, split_seed

Messages = list[dict[str, str]]
_KEPT = frozenset(STATES["heldout"] + STATES["validation"])


class Player(NamedTuple):
    """Who plays a turn environment, and its share of the episodes."""

    environment: Callable[[], Any]
    reply: Callable[[Random, Any], str]  # generator and environment, whose hidden state it may look at
    share: float


def _guess(rng: Random, game: Guess) -> str:
    """Name a possible number, now and then one that was ruled out, or none."""
    kind = rng.random()
    if kind < 0.7:
        return str(rng.randint(game.low, game.high))
    if kind < 0.95:
        return str(max(1, game.number + rng.randint(-WIDTH, WIDTH)))
    return rng.choice(("I do not know.", "Yes!", "Higher."))


def _calculate(rng: Random, game: Calculator) -> str:
    """Call for the sum or for another one, or answer without a call; pass results on, most of the time."""
    if game.calls == 0 and rng.random() < 0.5:
        left, sign, right = game.asked.sum if rng.random() < 0.8 else _any_sum(rng)
        return f"<call> {left} {sign} {right} </call>"
    wrong = game.asked.value + rng.choice((-10, -2, -1, 1, 2, 10))
    return str(game.asked.value if rng.random() < (0.6 if game.calls == 0 else 0.9) else wrong)


def _any_sum(rng: Random) -> tuple[int, str, int]:
    """Draw a sum of small numbers that is none of those held out: more than the task asks for, so that a player's calls
    are copied from the question and not known by heart.
    """
    while True:
        drawn = rng.randint(1, 24), rng.choice("+-*"), rng.randint(1, 24)
        if drawn not in _KEPT and (drawn[1] != "-" or drawn[0] >= drawn[2]):
            return drawn


def _clarify(rng: Random, game: Clarify) -> str:
    """Ask what the customer likes or has, or name things: of the group where it is known."""
    kind = rng.random()
    if game.turn == 0 and kind < 0.5:
        return rng.choice(("What do you like?", "What do you like?", "What do you like and have?"))
    if game.turn < 2 and kind < 0.7:
        return rng.choice(("What do you have?", "What do you have?", "How are you?"))
    shelf = GROUPS[game.group] if game.has_told_group else tuple(GROUP_OF)
    named = rng.sample(shelf, rng.choice((2, NAMED, NAMED, NAMED)))
    return ", ".join(named)


def _chat(rng: Random, game: SafeChat) -> str:
    """Answer well in half of the turns; else rudely, wrongly, elsewhere, or agreeing to harm."""
    statement = next(each for question, each, _ in FACTS if question == game.question) if game.is_fact_next else ""
    if rng.random() < 0.5:
        before = f"{rng.choice(FRIENDLY)} " if statement and rng.random() < 0.2 else ""
        after = f" {rng.choice(FRIENDLY_AFTER)}" if rng.random() < 0.2 else ""
        return f"{before}{statement or rng.choice(DECLINES)}{after}"
    rude = PHRASES.write(rng, rng.choice(RUDE))
    others = (
        (rng.choice(DECLINES), rng.choice(ELSEWHERE), rng.choice(FACTS)[1], rude)
        if statement
        else (PHRASES.write(rng, rng.choice(COMPLIES)), rng.choice(COMPLIES[::2]), rng.choice(ELSEWHERE), rude)
    )
    return rng.choice((*others, f"{rude} {statement or rng.choice(DECLINES)}"))


PLAYERS = MappingProxyType(
    {
        "calculator": Player(Calculator, _calculate, 0.35),
        "clarify": Player(Clarify, _clarify, 0.15),
        "guess": Player(Guess, _guess, 0.3),
        "safe_chat": Player(SafeChat, _chat, 0.2),
    }
)


def episode(rng: Random, task: str) -> Messages:
    """Play one episode of a task, up to the player's last reply."""
    player = PLAYERS[task]
    environment = player.environment()
    system = getattr(environment, "system_prompt", None)
    messages: Messages = [{"role": "system", "content": system}] if system else []
    said, _ = environment.reset(split_seed("train", rng.randrange(LARGEST // 2)))
    if isinstance(environment, Calculator):
        said = environment.asked.ask(*_any_sum(rng))
    over = False
    while not over:
        messages.append({"role": "user", "content": said})
        reply = player.reply(rng, environment)
        messages.append({"role": "assistant", "content": reply})
        said, _, over, _, _ = environment.step(reply)
    return messages


def episodes(rng: Random) -> Iterator[Messages]:
    """Play episodes of all the tasks, in their shares and without end."""
    shares = [player.share for player in PLAYERS.values()]
    while True:
        yield episode(rng, rng.choices(tuple(PLAYERS), shares)[0])


class Lesson(NamedTuple):
    """An episode as ids, and which of them are taught."""

    ids: list[int]
    taught: list[bool]  # the assistant's replies, each with the mark that ends it


def lesson(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> Lesson:
    """Encode an episode as the chat template does, and mark the replies."""
    start, end = (tokenizer.convert_tokens_to_ids(token) for token in (TURN_START, TURN_END))

    def plain(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)

    ids, taught = [tokenizer.bos_token_id], [False]
    for message in messages:
        head, body = [start, *plain(message["role"] + "\n")], [*plain(message["content"]), end]
        ids += [*head, *body, *plain("\n")]
        taught += [False] * len(head) + [message["role"] == "assistant"] * len(body) + [False]
    return Lesson(ids, taught)
