"""Questions about what policies answer: one policy against itself, or several against each other, unnamed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from textrl_agents.evaluation.generation import generate
from textrl_env.errors import ConfigError
from textrl_env.models import CausalLMActorCritic
from textrl_env.preferences.question import Question
from textrl_env.preferences.records import Candidate
from textrl_env.text.prompt_rows import Row

ROUNDS = 5  # of sampling, for the prompts whose responses are still alike


class Sampled(NamedTuple):
    """What was made. dropped: prompts whose responses stayed alike in every round."""

    questions: list[Question]
    dropped: int


@dataclass(frozen=True)
class NamedPolicy:
    """A policy, and the name that its responses are stored under; annotators never see it."""

    name: str
    actor_critic: CausalLMActorCritic


def sampled_questions(
    policies: Sequence[NamedPolicy],
    rows: Sequence[Row],
    *,
    kind: str = "comparison",
    responses: int,
    attributes: tuple[str, ...] = (),
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    stop: Sequence[str] = (),
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Sampled:
    """Sample `responses` different texts for each prompt, from the policies in turn, and make it a question.

    rows: prompts and their columns. temperature: None for each policy's own. seed: makes the sampling repeatable.

    Raises ConfigError where every prompt's responses stay alike, as those of a policy that is greedy.
    """
    texts: list[list[Candidate]] = [[] for _ in rows]
    sources = list(itertools.islice(itertools.cycle(policies), responses))
    for turn in range(ROUNDS):
        for place, policy in enumerate(sources):
            # From the second round on, only those of the prompts whose response at this place was like another one.
            short = [index for index, found in enumerate(texts) if len(found) == place]
            if not short:
                continue
            if progress is not None:
                progress(f"sampling {len(short)} responses of {policy.name}")
            drawn = seed + turn * responses + place
            how = {"max_new_tokens": max_new_tokens, "temperature": temperature, "stop": stop, "seed": drawn}
            for index, found in zip(short, _candidates(policy, [rows[at][0] for at in short], how), strict=True):
                if all(found.text != other.text for other in texts[index]):
                    texts[index].append(found)
    questions = [
        Question(kind, prompt, tuple(found), columns, attributes)
        for (prompt, columns), found in zip(rows, texts, strict=True)
        if len(found) == responses
    ]
    if not questions:
        raise ConfigError(
            f"no prompt has {responses} different responses after {ROUNDS} rounds of sampling: the policy is greedy or "
            "nearly so. Raise --temperature, or compare it with another policy"
        )
    return Sampled(questions, len(rows) - len(questions))


def _candidates(policy: NamedPolicy, prompts: Sequence[Any], how: Mapping[str, Any]) -> list[Candidate]:
    given = {name: value for name, value in how.items() if value is not None and value != ()}
    sampling = {**asdict(policy.actor_critic.sampling), **given}
    if policy.actor_critic.greedy:
        sampling["greedy"] = True
    return [
        Candidate(found.response, policy.name, sampling) for found in generate(policy.actor_critic, prompts, **given)
    ]
