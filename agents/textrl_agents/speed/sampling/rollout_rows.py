"""Rows on rollouts: the environment alone, and whole rollouts against `transformers` without our code."""

from __future__ import annotations

import copy
import dataclasses
import statistics

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from textrl_agents.speed.measurement import Bench, Measured, Target, compare, compared, measurement, speed
from textrl_agents.speed.workload import Workload, zero_reward
from textrl_env import TextGenVectorEnv

MEAN_RESPONSE = 32  # tokens until EOS, on average; the environment's work grows with the number of episodes
SCRIPT_STEPS = 256


@measurement(Target(">=", 1.0), quick={"tokens": 32})
def rollout_of_equal_lengths(bench: Bench, *, rows: int = 64, tokens: int = 64) -> Measured:
    """Compare stock PPO's rollout (policy, environment, scores, buffer, deferred KL) with plain `transformers`, no EOS.

    tokens: of each response.
    """
    workload = bench.workload().without_eos()
    ours = workload.agent(rows, tokens, tokens).collect
    theirs = TransformersRollout(workload, rows, tokens).rollout
    return compared(compare(ours, theirs, repeats=bench.repeats, device=bench.device), "rollout", "by hand")


@measurement(Target(">=", 2.5), quick={"n_steps": 32})
def rollout_to_eos(bench: Bench, *, rows: int = 64, longest: int = 128, n_steps: int = 64) -> Measured:
    """Compare the same rollouts where responses end by the model's own EOS. Only real tokens are counted.

    longest: tokens of a response at most. n_steps: of a rollout.
    """
    workload = bench.workload()
    ours = workload.agent(rows, n_steps, longest).collect
    theirs = TransformersRollout(workload, rows, longest).rollout
    return compared(compare(ours, theirs, repeats=bench.repeats, device=bench.device), "rollout", "by hand")


@measurement(Target("<=", 5.0), unit="us/token")
def environment_alone(bench: Bench, *, rows: int = 64, longest: int = 128, steps: int = 500) -> Measured:
    """Time a token in the environment: append, end, decode, score, reset, infos. The median over the repeats.

    longest: tokens of a response at most; EOS ends most of them before. steps: of all rows, in a repeat.
    """
    workload = bench.workload()
    env = TextGenVectorEnv(
        rows,
        dataclasses.replace(workload.task(rows, longest), reward=zero_reward),
        autoreset_mode=AutoresetMode.SAME_STEP,
        kl_mode="deferred",
        model=workload.model,
        tokenizer=workload.tokenizer,
        device=bench.device,
    )
    env.reset(seed=0)
    script = scripted_actions(env, rows)

    def run() -> int:
        for step in range(steps):
            env.step(script[step % len(script)])
        return rows * steps

    run()
    per_second = statistics.median(speed(run, torch.device("cpu")) for _ in range(bench.repeats))
    detail = f"{rows} rows, no model called, responses of {MEAN_RESPONSE} tokens on average"
    return Measured(1e6 / per_second, detail)


def scripted_actions(env: TextGenVectorEnv, rows: int) -> np.ndarray:
    """Return int64 [steps, rows]: ordinary tokens, and EOS with probability 1 / MEAN_RESPONSE."""
    generator = np.random.default_rng(0)
    vocabulary = env.rules.vocabulary
    ordinary = np.setdiff1d(np.flatnonzero(vocabulary.known), vocabulary.eos_ids)
    script = generator.choice(ordinary, size=(SCRIPT_STEPS, rows))
    if len(vocabulary.eos_ids):
        script[generator.random(script.shape) < 1 / MEAN_RESPONSE] = vocabulary.eos_ids[0]
    return script


class TransformersRollout:
    """What our rollout is compared with: the same work with `transformers` alone, as an expert would write it.

    It makes one batched `generate` with left padding, one batched pass of the reward model over the decoded texts, and
    one batched pass of the reference for the log-probabilities of what was generated.

    rows: prompts in the batch. max_new_tokens: the longest response.
    """

    def __init__(self, workload: Workload, rows: int, max_new_tokens: int):
        self.workload, self.max_new_tokens = workload, max_new_tokens
        self._prompts = workload.batch(rows)
        encoded = copy.deepcopy(workload.tokenizer).pad(
            {"input_ids": workload.prompt_ids(rows)}, padding_side="left", return_tensors="pt"
        )
        self._inputs: dict[str, torch.Tensor] = {
            name: encoded[name].to(workload.device) for name in ("input_ids", "attention_mask")
        }
        eos = workload.generator.generation_config.eos_token_id
        eos = [] if eos is None else eos if isinstance(eos, list) else [eos]
        self._eos = torch.tensor(eos, device=workload.device)

    @torch.inference_mode()
    def generate(self) -> torch.Tensor:
        """Sample from the full distribution; return prompts and responses, int64 [rows, P + T]."""
        sequences: torch.Tensor = self.workload.generator.generate(
            **self._inputs,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=self.max_new_tokens,
            pad_token_id=self.workload.tokenizer.pad_token_id,
        )
        return sequences

    def generated_tokens(self) -> int:
        """Generate; return the number of response tokens, up to and with each row's EOS."""
        return int(self._response_mask(self.generate()).sum())

    @torch.inference_mode()
    def rollout(self) -> int:
        """Generate, score and run the reference; return the number of real response tokens."""
        sequences = self.generate()
        mask = self._response_mask(sequences)
        scores = self.scores(sequences, mask)
        log_probs = self.reference_log_probs(sequences, mask)
        if not bool(torch.isfinite(scores).all() and torch.isfinite(log_probs).all()):
            raise FloatingPointError("the models gave scores or log-probabilities that are not finite")
        return int(mask.sum())

    def scores(self, sequences: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the reward model's logit of prompt + response, float32 [rows]."""
        start = self._prompt_width
        ids = [row[kept].tolist() for row, kept in zip(sequences[:, start:].cpu(), mask.bool().cpu(), strict=True)]
        responses = self.workload.tokenizer.batch_decode(ids, skip_special_tokens=True)
        texts = [prompt + response for prompt, response in zip(self._prompts, responses, strict=True)]
        encoded = self.workload.classifier_tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
        inputs = {name: encoded[name].to(self.workload.device) for name in ("input_ids", "attention_mask")}
        logits: torch.Tensor = self.workload.classifier(**inputs, use_cache=False).logits
        return logits[:, 0].float()

    def reference_log_probs(self, sequences: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return log pi_ref of each response token, 0 beyond a response's end, float32 [rows, T]."""
        attention = torch.cat([self._inputs["attention_mask"], mask], dim=1)
        positions = (attention.cumsum(dim=1) - 1).clamp(min=0)
        length = mask.shape[1]
        logits: torch.Tensor = self.workload.model(
            input_ids=sequences,
            attention_mask=attention,
            position_ids=positions,
            use_cache=False,
            logits_to_keep=length + 1,
        ).logits[:, :-1]
        actions = sequences[:, -length:, None]
        return logits.float().log_softmax(dim=-1).gather(-1, actions).squeeze(-1) * mask

    @property
    def _prompt_width(self) -> int:
        return self._inputs["input_ids"].shape[1]

    def _response_mask(self, sequences: torch.Tensor) -> torch.Tensor:
        """Return 1 for response tokens up to and with the first EOS, else 0, int64 [rows, T]."""
        ended = torch.isin(sequences[:, self._prompt_width :], self._eos).long()
        return (ended.cumsum(dim=1) - ended == 0).long()
