"""The model that every arm starts from, without weights that mean anything."""

from __future__ import annotations

from typing import Any

from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from textrl_agents.benchmark.pretraining.plan import PretrainingPlan


def untrained_model(plan: PretrainingPlan, tokenizer: Any) -> LlamaForCausalLM:
    """A Llama as the plan says, over the tokenizer's vocabulary."""
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    settings: dict[str, Any] = {**plan.model, **ids}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **settings))
    model.generation_config = GenerationConfig(do_sample=True, top_k=0, **ids)
    return model
