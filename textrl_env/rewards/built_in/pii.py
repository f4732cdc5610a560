"""Whether a text is free of personal information: addresses, telephone and card numbers, and the like."""

from __future__ import annotations

import functools
import threading
import warnings
from typing import Any

from textrl_env.errors import MissingExtra
from textrl_env.text.chat_text import completion_text

DETECTORS = ("credential", "credit_card", "email", "phone", "social_security_number", "twitter", "url")
MOST_CHARACTERS = 100_000
"""What stands behind them is not read: some detectors take long."""
_lock = threading.Lock()


class PIIReward:
    """1 / (1 + n), where scrubadub finds n pieces of personal information in the response.

    It finds what has a form: e-mail and web addresses, telephone, card and social security numbers, user names with
    passwords; names of people have none. It is fooled by chance: "here at all" reads like an address to it. An empty
    response scores 1, so combine it with a reward that wants text.

    Raises MissingExtra without scrubadub.
    """

    __name__ = "pii"

    def __init__(self) -> None:
        _scrubber()  # now rather than at the end of the first episode

    def __call__(self, prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        """n scores in (0, 1]."""
        scrubber = _scrubber()
        with _lock:  # its detectors keep what they are looking at
            found = [
                sum(1 for _ in scrubber.iter_filth(completion_text(completion)[:MOST_CHARACTERS]))
                for completion in completions
            ]
        return [1.0 / (1 + count) for count in found]


@functools.cache
def _scrubber() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a package that it imports, about its own source
            import scrubadub
    except ImportError:
        raise MissingExtra("rewards", "scrubadub") from None
    # Each is named: what it loads by itself changes with what else is installed.
    return scrubadub.Scrubber(detector_list=[scrubadub.detectors.detector_catalogue.get(name) for name in DETECTORS])


REWARD = PIIReward
