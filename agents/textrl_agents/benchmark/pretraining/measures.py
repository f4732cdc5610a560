"""What a trained model is judged by: score and gold on prompts, insults where nothing, something or much invites them,
the KL from the model of plain pretraining, and what clean text costs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from textrl_agents.benchmark.pretraining.plan import PretrainingPlan
from textrl_agents.benchmark.pretraining.task import judged_tasks
from textrl_agents.evaluation.generation import generate
from textrl_agents.evaluation.heldout_env import heldout_env
from textrl_agents.pretraining.documents.grammar_corpus import clean_documents, grammar_documents
from textrl_agents.pretraining.documents.scores import score_documents
from textrl_agents.pretraining.rows import DocumentEncoder
from textrl_agents.pretraining.samples import MOST_TOKENS
from textrl_agents.pretraining.validation import validation_loss
from textrl_agents.rollout import collect
from textrl_agents.runs.run_folder import load_policy
from textrl_agents.training.random_state import own_generator
from textrl_env.language.insults import find_insults
from textrl_env.models import CausalLMActorCritic, pack
from textrl_env.text.tokenization import encode_prompt_text
from textrl_env.trajectory import Trajectory

SHOWN = 4  # samples of each kind that are kept
BATCH = 64
MEASURES = MappingProxyType(
    {
        "score": "score",
        "gold": "gold",
        "kl": "KL from mle",
        "loss": "loss, clean text",
        "loss_all": "loss, all text",
        "insults_unprompted": "insults, unprompted",
        "insults_prompted": "insults, prompted",
        "insults_provoked": "insults, provoked",
    }
)
"""Name of a measure -> its heading.

Scores are means on held-out prompts; KL in nats a response; losses in nats a token, see `losses`; insults are shares of
responses, or of documents, that hold one.
"""


def measure(folder: Path, mle: Path, plan: PretrainingPlan, *, seed: int) -> dict[str, Any]:
    """Judge the policy in `folder`: all `MEASURES`, and samples. mle: the policy that the KL is measured from."""
    policy, reference = (load_policy(place, device="cpu") for place in (folder, mle))
    found: dict[str, Any] = {"samples": {}}
    for kind, task in judged_tasks().items():
        env = heldout_env({"task": task, "model": str(folder), "device": "cpu"}, episodes=BATCH)
        prompts = list(env.prompts)[: plan.prompts]
        with own_generator(seed):
            episodes = collect(policy, env, prompts=prompts, repeats=plan.responses)
        found[f"insults_{kind}"] = insulting([each.response for each in episodes])
        found["samples"][kind] = [
            f"{each.prompt}|{each.response}" for each in episodes[: SHOWN * plan.responses : plan.responses]
        ]
        if kind == "prompted":
            found["score"] = float(np.mean([each.score for each in episodes]))
            found["gold"] = float(np.mean([each.gold_score for each in episodes]))
            found["kl"] = float(np.mean(kl_from(reference, episodes)))
    written = [each.response for each in generate(policy, [""] * plan.sampled, max_new_tokens=MOST_TOKENS, seed=seed)]
    found["insults_unprompted"] = insulting(written)
    found["samples"]["unprompted"] = written[:SHOWN]
    return {**found, **losses(policy, plan)}


def insulting(texts: Sequence[str]) -> float:
    """The share of texts with an insult."""
    return float(np.mean([bool(find_insults(text)) for text in texts]))


@torch.no_grad()
def kl_from(reference: CausalLMActorCritic, episodes: Sequence[Trajectory]) -> np.ndarray:
    """log p of each response minus what the reference has it at, float64 [episodes]; its mean estimates the KL.

    The reference reads the prompts as its own tokenizer writes them: a conditional model has a token more in front.
    """
    found = []
    for start in range(0, len(episodes), BATCH):
        part = episodes[start : start + BATCH]
        prompts = [np.array(encode_prompt_text(reference.tokenizer, each.prompt)) for each in part]
        retold = [Trajectory.of_response(prompt, each.response_ids) for prompt, each in zip(prompts, part, strict=True)]
        log_probs = reference.log_probs(pack(retold, reference.device)).double().numpy()
        ends = np.cumsum([len(each) for each in part])[:-1]
        found += [-each.surprisal - theirs.sum() for each, theirs in zip(part, np.split(log_probs, ends), strict=True)]
    return np.array(found)


def losses(policy: CausalLMActorCritic, plan: PretrainingPlan) -> dict[str, float]:
    """Nats a token of documents that nothing was trained on: clean ones on all topics, and such as were trained on."""
    known = set(grammar_documents(plan.documents))
    kinds = {
        "loss": clean_documents(plan.heldout),
        "loss_all": grammar_documents(plan.documents + plan.heldout)[plan.documents :],
    }
    encoder = DocumentEncoder(policy.tokenizer, max_length=policy.max_length)
    found = {}
    for name, texts in kinds.items():
        documents = score_documents([text for text in texts if text not in known], None, "sentence")
        rows = encoder.encode(documents, threshold=None).rows
        found[name] = validation_loss(policy, rows, batch_size=BATCH).loss
    return found
