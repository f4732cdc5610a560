"""The scripted model that ships for users' tests: a real `transformers` model whose every number is written down."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from suffixes import pack_suffixes

from textrl_env import TextGenEnv, TokenAction
from textrl_env.errors import ConfigError
from textrl_env.models import CausalLMActorCritic, ScriptedModel
from textrl_env.tasks.built_in.exact import letter_tokenizer

EOS = 5


def test_logits_are_the_tables_rows():
    table = torch.arange(36.0).reshape(6, 6)
    model = ScriptedModel(table, eos_token_id=EOS)
    assert model(input_ids=torch.tensor([[2, 0, 5]])).logits.tolist() == [table[[2, 0, 5]].tolist()]
    assert ScriptedModel(table.tolist()).lm_head.weight.T.equal(table)


def test_an_environment_and_a_policy_take_it():
    """Log-probs by hand, through the environment, the cached steps and the update."""
    table = torch.zeros(6, 6)
    table[0] = torch.tensor([0.05, 0.5, 0.2, 0.1, 0.1, 0.05]).log()
    model = ScriptedModel(table, eos_token_id=EOS)
    env = TextGenEnv("exact", model=model, tokenizer=letter_tokenizer())
    env.reset(options={"prompt": "a"})
    assert env.step(TokenAction(1, -0.5))[4]["ref_log_prob"] == pytest.approx(math.log(0.5), abs=1e-6)
    policy = CausalLMActorCritic(model, letter_tokenizer(), max_length=6)
    evaluated = policy.evaluate(pack_suffixes([torch.tensor([0, 2, 4]).numpy()], [1], "cpu"))
    torch.testing.assert_close(evaluated.log_probs.exp(), torch.tensor([0.2, 1 / 6]))


def test_it_trains():
    model = ScriptedModel(torch.zeros(6, 6), eos_token_id=EOS)
    policy = CausalLMActorCritic(model, letter_tokenizer(), max_length=6)
    packed = pack_suffixes([torch.tensor([0, 2]).numpy()], [1], "cpu")
    optimizer = torch.optim.SGD([weight for weight in policy.parameters() if weight.requires_grad], lr=5.0)
    (-policy.evaluate(packed).log_probs.sum()).backward()
    optimizer.step()
    assert float(policy.evaluate(packed).log_probs.detach().exp()) > 0.5
    assert model.model.one_hot.weight.equal(torch.eye(6)), "its states are fixed"


@pytest.mark.parametrize("text", ["dab", " good"])
def test_saying_a_text(text: str, tiny_tokenizer: Any):
    """Answers every prompt with the text and EOS, with probability 1."""
    tokenizer = letter_tokenizer() if text == "dab" else tiny_tokenizer
    env = TextGenEnv(
        "exact",
        model=ScriptedModel.saying(tokenizer, text, vocab_size=None if text == "dab" else 320),
        tokenizer=tokenizer,
        prompts=["c", "e"],
        max_new_tokens=12,
        max_prompt_tokens=2,
    )
    policy = CausalLMActorCritic(ScriptedModel.saying(tokenizer, text), tokenizer, max_length=14)
    for seed in range(3):
        observation, _ = env.reset(seed=seed)
        terminated = False
        while not terminated:
            action = policy.step(torch.from_numpy(observation)[None])
            assert float(action.log_probs) == pytest.approx(0.0, abs=1e-5)
            observation, _, terminated, _, info = env.step(int(action.tokens))
        assert info["response"] == text
        assert info["finish_reason"] == "eos"


def test_what_it_refuses(tiny_tokenizer: Any):
    with pytest.raises(ConfigError, match=r"table must be \[V, V\].*got \[2, 3\]"):
        ScriptedModel(torch.zeros(2, 3))
    for text in ("aba", ""):
        with pytest.raises(ConfigError, match="a text of distinct tokens"):
            ScriptedModel.saying(letter_tokenizer(), text)


def test_it_can_be_saved(tmp_path: Path):
    """So that checkpoints of users' own tests work; its weights are read back as safetensors."""
    from safetensors.torch import load_file

    table = torch.randn(6, 6)
    ScriptedModel(table, eos_token_id=EOS).save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors")["lm_head.weight"].T.equal(table)
