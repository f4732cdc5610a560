"""The task that `textrl check` runs on: its model and its reward may be the user's."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from textrl_agents.sb3 import CausalLMPolicy, EpisodeRolloutBuffer, TextVecEnv, make_agent
from textrl_agents.sb3.agent import SB3Phases
from textrl_env.mdp import TokenMDP
from textrl_env.tasks.assembly import assemble
from textrl_env.text.prompts import Prompt

# Of log-probabilities, in nats; relative for those beyond one nat, whose rounding errors grow with them. Two ways to
# compute a number round differently: in fp32 near the sixth digit; fp16 keeps 11 bits of each state, bf16 8.
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}
ROWS, STEPS = 4, 24
KL_COEF = 0.1  # instead of the task's own, which may be 0, where a missing charge would not show
NOISE = 0.2  # relative to each weight matrix's spread: enough for a policy that is clearly not the reference


class CheckedTask:
    """The parts of an environment, loaded once for all checks."""

    def __init__(self, task: Any, **arguments: Any):
        self.parts = parts = assemble(task, **arguments)
        self.task, self.rules, self.prompts = parts.task, parts.rules, parts.prompts
        self.lm, self.sampling = self.rules.kl_penalty.require_reference().lm, self.rules.sampling
        self.tolerance = TOLERANCES[self.lm.dtype]
        self.known = np.flatnonzero(self.rules.vocabulary.known)
        self.random = np.random.default_rng(0)

    def env_kwargs(self) -> dict[str, Any]:
        """Return the arguments of an environment over the same parts, with responses of at most STEPS tokens."""
        return {
            "task": self.task,
            "model": self.lm.model,
            "tokenizer": self.rules.tokenizer,
            "reward": text_length,
            "sampling": self.sampling,
            "max_new_tokens": min(self.rules.max_new_tokens, STEPS),
            "kl_coef": KL_COEF,
            "kl_estimator": "k1",
            "device": self.lm.device,
            "dtype": self.lm.weight_dtype,
            "precision": self.lm.precision,
        }

    def agent(self, *, policy_kwargs: dict[str, Any] | None = None, **env_kwargs: Any) -> Any:
        """Make stock PPO, before its first rollout of ROWS * STEPS tokens."""
        with warnings.catch_warnings():  # in half precision it is checked, and not trained for long
            warnings.filterwarnings("ignore", message="weights in .* are trained in place")
            return make_agent(
                "ppo",
                n_envs=ROWS,
                n_steps=STEPS,
                n_epochs=1,
                batch_size=ROWS * STEPS // 2,
                seed=0,
                policy_kwargs=policy_kwargs,
                env_kwargs={**self.env_kwargs(), **env_kwargs},
            )

    def perturbed_model(self) -> Any:
        """Copy the model and add noise to its weights, so that it is a policy after some updates."""
        model = copy.deepcopy(self.lm.model).requires_grad_(True)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:
                    noise = torch.randn(weight.shape, generator=generator).to(weight)
                    weight += NOISE * weight.std() * noise
        return model

    def sequence(self) -> np.ndarray:
        """Draw a prompt and a random response that leaves room for one more token, int64 [n]."""
        length = self.random.integers(1, max(2, min(self.rules.max_new_tokens, STEPS)))
        (prompt,) = self.opened([self.prompts.sample(self.random)])
        return np.concatenate([prompt.ids, self.random.choice(self.known, size=length)])

    def opened(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Return prompts as an episode begins with them: a turn environment writes its own."""
        mdp = TokenMDP(self.rules, len(prompts))
        try:
            mdp.reset_rows(range(len(prompts)), prompts)
        finally:
            mdp.close()
        return [mdp.prompt_of(row) for row in range(len(prompts))]

    def log_probs(self, hidden: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities [M] after states [M, H]. They are uncut: a cut would hide or double a difference."""
        return self.lm.project(hidden).log_softmax(dim=-1).gather(-1, actions[:, None]).squeeze(-1)


def one_rollout(agent: Any) -> tuple[CausalLMPolicy, EpisodeRolloutBuffer, TextVecEnv]:
    """Run one rollout by SB3's own loop; no update, no log files."""
    SB3Phases(agent).collect()
    return agent.policy, agent.rollout_buffer, agent.env


def text_length(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """Score the length, which cannot fail, for the checks that are about something else."""
    return [len(str(completion)) / 100 for completion in completions]
