"""Every error this package raises on purpose.

TextRLError
|-- ConfigError                (ValueError)    an argument cannot work; raised before anything is built
|   |-- UnknownName            (LookupError)   task, reward, algorithm, device ...: suggests the near name
|   |   `-- UnknownArgument    (TypeError)     a keyword that an environment does not take
|   |-- ModelError                             a model folder that cannot be used
|   |   |-- TokenizerMismatch                  tokenizer and head cannot go together
|   |   `-- AssetError                         an embedded file is missing or was changed
|   `-- PromptError                            a prompt that cannot be encoded
|       |-- PromptTooLong                      names both lengths
|       `-- EmptyPrompt                        no token, and the tokenizer has no BOS
|-- StepError                                  a call of `step` that cannot be carried out; no state has changed
|   |-- InvalidAction          (ValueError)    not a token id in [0, V)
|   |-- MissingLogProb         (ValueError)    `kl_mode` needs the policy's log-probability
|   `-- ResetNeeded            (RuntimeError)  step before reset, or after the end
|-- RewardError                                a reward function failed; names the function and the sample
|   |-- RewardRaised                           it raised; the original error is the cause
|   |-- InvalidScore           (ValueError)    NaN, inf, None or text in place of a score
|   |   `-- WrongScoreCount                    not one score per sample
|   |-- RewardTimeout          (TimeoutError)  it did not answer within its limit
|   `-- TurnError                              a turn environment failed; names it and the row
|       |-- TurnRaised                         it raised; the original error is the cause
|       |-- InvalidReply       (ValueError)    what it gave is no reply
|       `-- TurnTimeout        (TimeoutError)  it did not answer within its limit
|-- StoreError                                 a feedback store that cannot be opened, read or written; names its file
|   `-- LeaseLost                              an answer whose question is no longer the annotator's
|-- TrainingDiverged           (ArithmeticError)  an update would be of numbers that are not finite
`-- MissingExtra               (ImportError)   an optional dependency; names the `pip install` that adds it
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from textrl_env.foreign_text import shown


class TextRLError(Exception):
    """Base of every error raised on purpose by textrl-env."""


class ConfigError(TextRLError, ValueError):
    """An argument cannot work. Raised before anything is built or changed."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question that names the known name nearest to `name`, with a space before it; "" where none is near."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


class UnknownName(ConfigError, LookupError):
    """A name that is not registered. The message suggests the nearest, and lists the known ones.

    Where more than `LISTED` are known, it lists the similar ones.
    """

    LISTED = 40
    LONGEST = 200

    def __init__(self, kind: str, name: object, known: Iterable[str]):
        self.kind, self.name, self.known = kind, name, sorted(known)
        given = shown(name, self.LONGEST)
        sought = name if isinstance(name, str) and len(name) < self.LONGEST else given
        listed = f"Known: {', '.join(self.known)}"
        if len(self.known) > self.LISTED:
            similar = difflib.get_close_matches(sought, self.known, n=8, cutoff=0.3)
            listed = f"{len(self.known)} are known, such as {', '.join(similar or self.known[:8])}"
        super().__init__(f"unknown {kind} {given}.{did_you_mean(sought, self.known)} {listed}")

    def __reduce__(self) -> tuple[type, tuple[str, object, list[str]]]:
        return type(self), (self.kind, self.name, self.known)


class UnknownArgument(UnknownName, TypeError):
    """A keyword argument that is not taken; a TypeError too, as for any Python function."""

    def __init__(self, kind: str, name: object = None, known: Iterable[str] = ()):
        super().__init__(kind, name, known)
        if name is None:  # `gymnasium.make` raises a TypeError anew, of its class and a text alone
            self.args = (kind,)


class ModelError(ConfigError):
    """A model, or a folder of one, that cannot be used."""


class TokenizerMismatch(ModelError):
    """The tokenizer and the model's head cannot go together."""


class AssetError(ModelError):
    """An embedded file is missing, or is not the one that was shipped."""


class PromptError(ConfigError):
    """A prompt that cannot be encoded."""


class PromptTooLong(PromptError):
    """A prompt longer than `max_prompt_tokens`; the message names both lengths."""


class EmptyPrompt(PromptError):
    """A prompt without a token, where the tokenizer has no BOS to stand in for it."""


class StepError(TextRLError):
    """A call of `step` that cannot be carried out. The environment's state has not changed."""


class InvalidAction(StepError, ValueError):
    """An action that is not a token id in [0, V), or has the wrong shape or type."""


class MissingLogProb(StepError, ValueError):
    """`kl_mode` needs the policy's log-probability and the action did not bring it."""


class ResetNeeded(StepError, RuntimeError):
    """`step` was called before `reset`, or after the episode's end."""


class RewardError(TextRLError):
    """A reward function failed. The message names the function and the sample."""


class RewardRaised(RewardError):
    """The reward function raised; the original error is this one's cause."""


class InvalidScore(RewardError, ValueError):
    """The reward function returned something that is not one finite number per sample."""


class WrongScoreCount(InvalidScore):
    """The reward function returned another number of scores than there were samples, or no list of scores at all."""


class RewardTimeout(RewardError, TimeoutError):
    """The reward function did not answer within its limit."""


class TurnError(RewardError):
    """A turn environment failed, which pays rewards too. The message names it, the row, and what it was told."""


class TurnRaised(TurnError):
    """The turn environment raised; the original error is this one's cause."""


class InvalidReply(TurnError, ValueError):
    """The turn environment returned something that is no opening, or no reply."""


class TurnTimeout(TurnError, TimeoutError):
    """The turn environment did not answer within its limit."""


class StoreError(TextRLError):
    """A feedback store that cannot be opened, read or written. What it holds is as it was."""


class LeaseLost(StoreError):
    """An answer to a question that is no longer the annotator's: others have given it all the answers it needs."""


class TrainingDiverged(TextRLError, ArithmeticError):
    """Rewards, log-probabilities or gradients that no update can use: not finite, or too large for float32."""


class MissingExtra(TextRLError, ImportError):
    """An optional dependency is not installed; the message is the command that adds it."""

    def __init__(self, extra: str, package: str):
        self.extra, self.package = extra, package
        super().__init__(f"{package} is not installed. Add it with: pip install 'textrl-env[{extra}]'")

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.extra, self.package)
