"""TextArena's single-player games as turn environments, named `textarena:<id>`, such as `textarena:GuessTheNumber-v0`.

A game is made in its raw form, without TextArena's wrappers: the first message is the game's own prompt, and a later
one is what the game said since, without an echo of the reply. The reward is the game's own outcome, paid at the end; a
success is an outcome of 1 or more.

Importing textarena takes seconds, so it is imported with the first game that is made.
"""

from __future__ import annotations

import importlib.util
import re
from typing import Any

from textrl_env.errors import ConfigError, MissingExtra, UnknownName
from textrl_env.foreign_text import message_of
from textrl_env.turns.foreign.foreign_turns import ForeignTurns
from textrl_env.turns.game import TurnStep

RAW = "-raw"
DOWNLOADS = ("Crosswords", "DontSayIt", "Hangman", "LetterAuction", "SpellingBee", "WordLadder", "WordSearch", "Wordle")
"""Games that fetch word lists when they are made."""
NEEDS_KEY = ("GuessWho", "TwentyQuestions")
"""Games that send what is written to a paid service."""


def check_textarena(game: str) -> None:
    """Raise what a game's name alone tells: ConfigError for one that is refused, MissingExtra without textarena.

    Does not import textarena.
    """
    kind = re.split(r"-v\d", game)[0]
    if kind in DOWNLOADS:
        raise ConfigError(
            f"textarena:{game} downloads word lists whenever it is made, so it is not made by name. If you want that, "
            "write a class with reset and step around it and name the class"
        )
    if kind in NEEDS_KEY:
        raise ConfigError(f"textarena:{game} sends the conversation to a paid service, so it is not made by name")
    if importlib.util.find_spec("textarena") is None:
        raise MissingExtra("games", "textarena")


class TextArenaTurns(ForeignTurns):
    """One game of TextArena.

    game: its id, with or without "-raw". Raises UnknownName where there is no such game, ConfigError for one that needs
    a download, a key or a second player, and MissingExtra where textarena is not installed.
    """

    def __init__(self, game: str):
        check_textarena(game)
        super().__init__(f"textarena:{game}")
        with self._random.swapped():  # an import, too, may draw
            import textarena

        known = textarena.envs.registration.ENV_REGISTRY
        self._id = game if game.endswith(RAW) else game + RAW
        if self._id not in known:
            raise UnknownName("game of TextArena", game, (name[: -len(RAW)] for name in known if name.endswith(RAW)))
        self._textarena = textarena
        self._game: Any = None

    def begin(self, seed: int) -> str:
        """Make the game and return its prompt."""
        self._game = self._textarena.make(self._id)
        try:
            self._game.reset(num_players=1, seed=seed)
        except AssertionError as error:
            raise ConfigError(
                f"{self.name} is not played alone ({message_of(error)}); write a class with reset and step that plays "
                "the others, and name the class"
            ) from error
        return self._said()

    def answer(self, reply: str) -> TurnStep:
        """Play a reply; the outcome is paid at the end."""
        done, info = self._game.step(reply)
        if not done:
            return self._said(), 0.0, False, False, dict(info)
        rewards, told = self._game.close()
        reward = float(rewards[0])
        return str(told[0].get("reason") or ""), reward, True, False, {**info, "success": reward >= 1}

    def close(self) -> None:
        """Let go of the game."""
        self._game = None

    def _said(self) -> str:
        """Return what the game said to the player since it was last asked, without the player's own words."""
        player, messages = self._game.get_observation()
        echo = self._textarena.ObservationType.PLAYER_ACTION
        return "\n".join(text for who, text, kind in messages if not (who == player and kind == echo))
