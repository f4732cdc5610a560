"""A row on the fine-tuning environment: what a step costs beside the optimizer steps that it is made of."""

from __future__ import annotations

import math

import torch
from torch import nn

from textrl_agents.speed.measurement import Bench, Measured, Target, compare, measurement
from textrl_env.finetune import FineTuneEnv
from textrl_env.finetune.examples import IGNORED, Batch, Examples, collate, places_in_order
from textrl_env.finetune.optimizers import CLIP_NORM, make_optimizer, set_learning_rate
from textrl_env.finetune.supervised_run import SupervisedRun
from textrl_env.models import load_model

TINY_RATE = 1e-9  # every round does the same work
SMALL = 0.05  # share of the optimizer steps


@measurement(Target("<=", 1.05), quick={"rounds": 2})
def step_against_optimizer_steps(bench: Bench, *, steps: int = 4, rounds: int = 10) -> Measured:
    """Compare the time of `steps` calls of `env.step` with a loop by hand of the same optimizer steps.

    The loop judges the validation rows after each segment too, once: no reward can do without. What that pass costs is
    in the detail, which has the time of a step against its optimizer steps alone. rounds: for each repeat of the
    benchmark; they are short and many, since the differences are small.
    """
    run = SupervisedRun(device=bench.device, learning_rate=TINY_RATE)
    env = FineTuneEnv(run=run, segments=2**40, multipliers=(1.0,))
    env.reset()
    loop = _ByHand(run.examples, bench.device)
    size, segment = run.settings.batch_size, run.steps

    def played() -> int:
        for _ in range(steps):
            env.step(0)
        return steps

    def by_hand(*, judged: bool) -> int:
        for _ in range(steps):
            for _ in range(segment):
                loop.update(size)
            if judged:
                loop.judge()
        return steps

    repeats = rounds * bench.repeats
    whole = compare(played, lambda: by_hand(judged=True), repeats=repeats, device=bench.device)
    alone = compare(played, lambda: by_hand(judged=False), repeats=repeats, device=bench.device)
    more = 1 / alone.ratio - 1
    enough = max(1, math.ceil(more * segment / SMALL))  # the pass costs the same after a longer segment
    return Measured(
        1 / whole.ratio,
        f"{1000 / whole.ours:.1f} ms a step, by hand {1000 / whole.theirs:.1f} ms with its validation pass; "
        f"{1 + more:.3f}x of its {segment} optimizer steps alone, at most {1 + SMALL:g}x from {enough} a segment on",
    )


class _ByHand:
    """The loop that anybody would write."""

    def __init__(self, examples: Examples, device: torch.device):
        self.examples, self.device = examples, device
        self.model, tokenizer = load_model("embedded", device=device)
        self.pad, self.drawn = tokenizer.pad_token_id, 0
        self.optimizer = make_optimizer("adamw", self.model.parameters())
        set_learning_rate(self.optimizer, "adamw", TINY_RATE)
        rows = sorted(examples.validation, key=lambda example: len(example.ids))
        self.validation = collate(rows, self.pad, device)

    def update(self, size: int) -> None:
        train = self.examples.train
        places = places_in_order(0, self.drawn, size, len(train))
        self.drawn += size
        batch = collate([train[place] for place in places], self.pad, self.device)
        self.loss(batch).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def judge(self) -> float:
        return self.loss(self.validation).item()

    def loss(self, batch: Batch) -> torch.Tensor:
        logits = self.model(input_ids=batch.input_ids, use_cache=False).logits[:, :-1]
        return nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=IGNORED)
