"""The checks of `textrl check`: whether what alignment rests on holds for this model and this reward.

Each check measures, on the user's own model, an error that would silently spoil a training run: a cache that does not
fit, padding that leaks, a KL that is not the one trained.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from textrl_agents.check.checked_task import ROWS, STEPS, CheckedTask, one_rollout
from textrl_agents.check.known_optimum import train_exact_with_sb3
from textrl_agents.rollout import collect
from textrl_env import TextGenEnv, TextGenVectorEnv, TokenAction
from textrl_env.foreign_text import message_of
from textrl_env.models import CausalLMActorCritic, PackedEpisodes, SlotDecoder, pack
from textrl_env.models.packing import state_hidden
from textrl_env.rewards import check_reward
from textrl_env.rewards.conformance import SAMPLE_COMPLETIONS
from textrl_env.tasks.turn_conformance import EPISODES, check_turns
from textrl_env.text.prompts import columns_of
from textrl_env.text.tokenization import decode_response, encode_prompt_text
from textrl_env.trajectory import Trajectory

SUM_TOLERANCE = 1e-5  # of summed rewards, relative to scores above 1; the same for every precision of the model
OPTIMUM = 0.98

TEXTS = (
    "The soup at the old hotel was warm; the room was not.",
    "Tabs\tand\nlines, two  spaces, 3.14 and \u00e9\u00fc\u00df.",
    "Emoji: \U0001f600 \U0001f469\u200d\U0001f680 \U0001f1ef\U0001f1f5",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002\u3053\u3093\u306b\u3061\u306f \uc548\ub155",
    "<|im_start|>a<|im_end|> </s> <|endoftext|> [PAD]",
)


class CheckResult(NamedTuple):
    """One row of the table."""

    name: str
    ok: bool
    value: float  # the measured error, or the share of the optimum that was reached; NaN where the check broke off
    limit: float  # the value may be at most this; the share must be at least this; NaN where the check broke off
    detail: str

    def as_json(self) -> dict[str, Any]:
        """Return the fields for JSON, which has no NaN and no infinity: None where a number is not finite."""
        fields = self._asdict()
        return {
            name: None if field != field or field in (math.inf, -math.inf) else field for name, field in fields.items()
        }


class Found(NamedTuple):
    """What a check measured."""

    value: float
    limit: float
    detail: str


def ratio(checked: CheckedTask) -> Found:
    """The update computes the log-probabilities that the rollout recorded."""
    policy, buffer, _ = one_rollout(checked.agent())
    policy.set_training_mode(True)  # as PPO.train does
    worst = 0.0
    with torch.no_grad():
        for batch in buffer.get(ROWS * STEPS // 2):
            _, log_probs, _ = policy.evaluate_actions(batch.observations, batch.actions)
            worst = max(worst, _largest((log_probs - batch.old_log_prob).exp() - 1))
    return Found(worst, checked.tolerance, f"pi_new / pi_old - 1 over {ROWS * STEPS} tokens")


def kl_at_start(checked: CheckedTask) -> Found:
    """Before its first update the policy is the reference. Nothing is cut here: the KL of a cut is not 0."""
    _, buffer, env = one_rollout(checked.agent(sampling=dataclasses.replace(checked.sampling, top_k=0, top_p=1.0)))
    (batch,) = buffer.get()
    assert isinstance(batch.observations, PackedEpisodes)
    kl = env.env.kl_penalty(batch.observations, batch.old_log_prob).kl
    return Found(_largest(kl), checked.tolerance, f"the largest of {len(kl)} tokens, nats")


@torch.no_grad()
def padding(checked: CheckedTask) -> Found:
    """Left padding with a mask, right padding without one, and no padding give the same log-probabilities."""
    lm, sequences = checked.lm, [checked.sequence() for _ in range(ROWS)]
    width = max(map(len, sequences))
    ids = torch.zeros((ROWS, width), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, width - len(sequence) :] = torch.from_numpy(sequence)
        mask[row, width - len(sequence) :] = 1
    ids, mask = ids.to(lm.device), mask.to(lm.device)
    left = lm.hidden(ids, attention_mask=mask, position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0))
    packed = pack([Trajectory.of_response(ids[:1], ids[1:]) for ids in sequences], lm.device)
    right = checked.log_probs(state_hidden(lm, packed), packed.actions).split([len(s) - 1 for s in sequences])
    worst = {"left": 0.0, "right": 0.0}
    for row, sequence in enumerate(sequences):
        alone = torch.from_numpy(sequence).to(lm.device)
        wanted = checked.log_probs(lm.hidden(alone[None])[0, :-1], alone[1:])
        got = checked.log_probs(left[row, width - len(sequence) : -1], alone[1:])
        worst["left"] = max(worst["left"], _error(got, wanted))
        worst["right"] = max(worst["right"], _error(right[row], wanted))
    detail = f"left {worst['left']:.1e}, right {worst['right']:.1e}, nats"
    return Found(max(worst.values()), checked.tolerance, detail)


@torch.no_grad()
def cache(checked: CheckedTask) -> Found:
    """Cached decoding gives what recomputing every prefix gives, while rows grow, end and start again."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decoders = [SlotDecoder(checked.lm, checked.rules.max_length, cache=cached) for cached in (True, False)]
    if not decoders[0].cached:
        return Found(0.0, checked.tolerance, "; ".join(str(warning.message) for warning in caught))
    rows = [checked.sequence() for _ in range(ROWS)]
    worst = 0.0
    for _ in range(STEPS):
        observations = np.full((ROWS, checked.rules.max_length), -1)
        for row, ids in enumerate(rows):
            observations[row, : len(ids)] = ids
        tokens = torch.from_numpy(checked.random.choice(checked.known, size=ROWS)).to(checked.lm.device)
        shown = torch.from_numpy(observations).to(checked.lm.device)
        cached, recomputed = (checked.log_probs(decoder.last_hidden(shown), tokens) for decoder in decoders)
        worst = max(worst, _error(cached, recomputed))
        for row, token in enumerate(tokens.tolist()):
            ends = len(rows[row]) + 1 >= checked.rules.max_length or checked.random.random() < 0.1
            rows[row] = checked.sequence() if ends else np.append(rows[row], token)
    return Found(worst, checked.tolerance, f"{ROWS} rows over {STEPS} steps, nats")


@torch.no_grad()
def stepwise_and_deferred(checked: CheckedTask) -> Found:
    """The KL that `step` charges token by token is the one that `KLPenalty` charges to whole episodes."""
    env = TextGenVectorEnv(ROWS, **{**checked.env_kwargs(), "kl_mode": "log_ratio"})
    trained, length = checked.perturbed_model(), env.rules.max_length
    policy = CausalLMActorCritic(
        trained, env.tokenizer, max_length=length, sampling=checked.sampling, precision=checked.lm.precision
    )
    sampled = collect(policy, env, episodes=ROWS, seed=0)
    stepwise = torch.from_numpy(np.concatenate([episode.kl for episode in sampled]))
    log_probs = torch.from_numpy(np.concatenate([episode.log_probs for episode in sampled]))
    deferred = env.kl_penalty(pack(sampled, policy.device), log_probs.float().to(policy.device)).kl.double().cpu()
    detail = f"{len(stepwise)} tokens of a perturbed policy, KL {float(stepwise.sum()) / ROWS:.2f} nats a response"
    return Found(_error(deferred, stepwise), checked.tolerance, detail)


def reward_identity(checked: CheckedTask) -> Found:
    """The rewards that PPO trains on sum to `score - kl_coef * kl_sum` in each episode.

    So they do in one that a turn environment's time-out cuts off: the value that SB3 adds there is a new head's, 0.
    """
    policy_kwargs = {"model": checked.perturbed_model()}
    _, buffer, _ = one_rollout(checked.agent(reward=checked.rules.reward, policy_kwargs=policy_kwargs))
    worst, seen, episodes = 0.0, 0, iter(buffer.trajectories)  # row by row, in time
    for row in range(ROWS):
        starts = [*np.flatnonzero(buffer.episode_starts[:, row]), STEPS]
        for start, end in itertools.pairwise(starts):
            episode = next(episodes)
            if math.isnan(episode.score):  # it goes on
                continue
            paid = float(buffer.rewards[start:end, row].astype(np.float64).sum())
            wanted = episode.score - episode.kl_coef * episode.kl_sum
            worst = max(worst, abs(paid - wanted) / max(1.0, abs(episode.score)))
            seen += 1
    return Found(worst if seen else math.inf, SUM_TOLERANCE, f"{seen} episodes of a perturbed policy")


def round_trip(checked: CheckedTask) -> Found:
    """Text comes back as it was, and text that spells a control token stays text."""
    tokenizer = checked.rules.tokenizer
    own = [prompt.text for prompt in checked.opened([checked.prompts[i] for i in range(min(len(checked.prompts), 16))])]
    texts = [*TEXTS, *(text for text in own if isinstance(text, str) and text)]

    def writes(character: str) -> bool:
        ids = tokenizer(character, add_special_tokens=False)["input_ids"]
        text: str = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return text.strip() == character.strip()

    def returns(text: str) -> bool:
        return decode_response(tokenizer, encode_prompt_text(tokenizer, text), after_text=False) == text

    # A small alphabet is no fault. To lose characters that the tokenizer can write one by one is a fault.
    writable = [text for text in texts if all(writes(character) for character in set(text))]
    lost = [text for text in writable if not returns(text)]
    detail = f"{len(writable)} texts" + (f"; changed: {lost[0]!r}" if lost else "")
    if skipped := len(texts) - len(writable):
        detail += f"; {skipped} have characters that this tokenizer cannot write"
    return Found(len(lost) if writable else math.inf, 0.0, detail)


def vector_and_single(checked: CheckedTask) -> Found:
    """Row i of the vector environment with seed s is the single environment with seed s + i."""
    arguments = {**checked.env_kwargs(), "kl_mode": "log_ratio"}
    vector = TextGenVectorEnv(ROWS, **arguments, autoreset_mode=AutoresetMode.SAME_STEP)
    single = TextGenEnv(**arguments)
    script = checked.random.choice(checked.known, size=(STEPS, ROWS))
    first, _ = vector.reset(seed=0)
    batched = [vector.step(TokenAction(tokens, np.full(ROWS, -1.0)))[:4] for tokens in script]
    worst = 0.0
    for row in range(ROWS):
        observation, _ = single.reset(seed=row)
        same = np.array_equal(observation, first[row])
        for tokens, (observations, rewards, terminated, truncated) in zip(script, batched, strict=True):
            observation, reward, ended, cut, _ = single.step(TokenAction(int(tokens[row]), -1.0))
            if ended or cut:
                observation, _ = single.reset()
            same &= np.array_equal(observation, observations[row])
            same &= (ended, cut) == (terminated[row], truncated[row])
            worst = max(worst, abs(float(reward) - float(rewards[row])))
        if not same:
            return Found(math.inf, checked.tolerance, f"row {row}: other observations or ends")
    return Found(worst, checked.tolerance, f"rewards of {ROWS} rows over {STEPS} steps")


def reward_behaves(checked: CheckedTask) -> Found:
    """Scores are finite, one a sample, and the same alone and in a batch; the arguments are not changed.

    The rewards of a turn environment are a score too: it is played, see `check_turns`.
    """
    prompts = [checked.prompts[i % len(checked.prompts)] for i in range(len(SAMPLE_COMPLETIONS))]
    details = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if checked.rules.turns is not None:
            check_turns(checked.task, "train", checked.parts)
            details.append(f"{EPISODES} episodes of the turn environment, each played twice")
        if checked.rules.turns is None or checked.task.reward is not None:
            texts = [prompt.text for prompt in checked.opened(prompts)]
            scores = check_reward(checked.rules.reward, texts, SAMPLE_COMPLETIONS, columns_of(prompts)).scores
            details.append(f"scores from {scores.min():.3g} to {scores.max():.3g}")
    return Found(0.0, 0.0, "; ".join([*details, *(str(warning.message) for warning in caught)]))


def optimum(checked: CheckedTask) -> Found:
    """Stock PPO reaches the optimum of the task `exact`. This check does not use the user's model."""
    result = train_exact_with_sb3(0, device=checked.lm.device)
    return Found(result.normalized, OPTIMUM, f"of the optimum of task 'exact', in {result.seconds:.0f} s")


CHECKS: dict[str, Callable[[CheckedTask], Found]] = {
    "ratio is 1 at the first minibatch": ratio,
    "KL is 0 at the start": kl_at_start,
    "padding changes nothing": padding,
    "cache = recomputed": cache,
    "stepwise KL = deferred KL": stepwise_and_deferred,
    "sum of rewards = score - kl_coef * kl_sum": reward_identity,
    "text survives the tokenizer": round_trip,
    "vector = single environment": vector_and_single,
    "reward is well-behaved": reward_behaves,
    "PPO reaches the known optimum": optimum,
}


def run_checks(
    *,
    task: Any = "sentiment",
    model: Any = None,
    tokenizer: Any = None,
    reward: Any = None,
    device: Any = "auto",
    dtype: Any = "auto",
    precision: str = "auto",
    progress: Callable[[str], None] | None = None,
) -> list[CheckResult]:
    """Run every check on `task` with the model and the reward given.

    The arguments are the environment's. progress: called with each check's name when it starts.
    Raises ConfigError where the parts cannot be loaded. An error in a check is a failed row.
    """
    checked = CheckedTask(
        task, model=model, tokenizer=tokenizer, reward=reward, device=device, dtype=dtype, precision=precision
    )
    return [run_check(name, checked, progress) for name in CHECKS]


def run_check(name: str, checked: CheckedTask, progress: Callable[[str], None] | None = None) -> CheckResult:
    """Run one check. An error inside it is a failed row with its message."""
    if progress is not None:
        progress(name)
    check = CHECKS[name]
    try:
        value, limit, detail = check(checked)
    except Exception as error:
        return CheckResult(name, False, math.nan, math.nan, f"{type(error).__name__}: {message_of(error)}")
    ok = value >= limit if check is optimum else value <= limit
    return CheckResult(name, bool(ok), float(value), limit, detail)


def _largest(differences: torch.Tensor) -> float:
    # max() would pass over NaN, so a NaN counts as infinitely wrong.
    return float(differences.abs().nan_to_num(nan=math.inf).max())


def _error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference of log-probabilities; relative to those beyond one nat."""
    return _largest((got - wanted) / wanted.abs().clamp(min=1.0))
