"""A conditional model's folder: whoever samples from it samples behind the good token, and never a control token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_tokenizer import tiny_tokenizer as make_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from textrl_agents.evaluation.generation import generate
from textrl_agents.pretraining.control_tokens import BAD, GOOD, ControlTokens, add_control_tokens, sample_as_good
from textrl_agents.runs.run_folder import load_policy
from textrl_env.errors import EmptyPrompt, ModelError
from textrl_env.models import CausalLMActorCritic
from textrl_env.text.tokenization import encode_chat, encode_prompt_text, encode_text, opening_ids

TOKENIZERS = {
    "adds BOS": {},
    "has a BOS that it does not add": {"adds_bos": False},
    "has none": {"adds_bos": False, "has_bos": False},
    "adds EOS": {"adds_eos": True},
}


def conditional(make_model: Callable[..., Any], **kind: bool) -> tuple[Any, Any, ControlTokens]:
    tokenizer = make_tokenizer(**kind)
    model = make_model("llama", vocab_size=len(tokenizer))
    own, ids = add_control_tokens(model, tokenizer)
    assert GOOD not in tokenizer.get_vocab(), "the caller's is as it was"
    sample_as_good(model, own, ids)
    return model, own, ids


@pytest.mark.parametrize("kind", TOKENIZERS.values(), ids=TOKENIZERS)
def test_every_prompt_begins_with_the_good_token(make_model: Callable[..., Any], kind: dict[str, bool]) -> None:
    _, tokenizer, ids = conditional(make_model, **kind)
    front = [*([0] if kind.get("has_bos", True) else []), ids.good]
    text = encode_text(tokenizer, "the room")
    assert encode_prompt_text(tokenizer, "the room") == [*front, *text]
    assert encode_prompt_text(tokenizer, "") == opening_ids(tokenizer) == front
    assert encode_chat(tokenizer, [{"role": "user", "content": "hello"}]).count(ids.good) == 1
    spelled = encode_prompt_text(tokenizer, f"the {GOOD}{BAD}")
    assert spelled.count(ids.good) == 1
    assert ids.bad not in spelled


def test_the_folder_tells_it_to_all_who_load_it(make_model: Callable[..., Any], tmp_path: Path) -> None:
    model, tokenizer, ids = conditional(make_model)
    with torch.no_grad():  # a model that wants nothing but control tokens
        model.get_output_embeddings().weight[list(ids)] *= 50
    CausalLMActorCritic(model, tokenizer, max_length=64).save_pretrained(tmp_path / "policy")

    policy = load_policy(tmp_path / "policy", device="cpu")
    sampled = generate(policy, ["the soup", ""], n=20, max_new_tokens=12, seed=0)
    assert all(episode.ids[:2].tolist() == [0, ids.good] for episode in sampled)
    assert not {*ids} & {token for episode in sampled for token in episode.response_ids.tolist()}

    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "policy")
    prompt = theirs("the soup", return_tensors="pt")
    assert prompt.input_ids[0].tolist() == sampled[0].prompt_ids.tolist()
    torch.manual_seed(0)
    written = plain.generate(**prompt, max_new_tokens=30, do_sample=True, num_return_sequences=8)
    assert not {*ids} & set(written[:, prompt.input_ids.shape[1] :].flatten().tolist())


def test_what_has_control_tokens_already_is_taken_as_it_is(make_model: Callable[..., Any]) -> None:
    model, tokenizer, ids = conditional(make_model)
    size, template = model.get_output_embeddings().weight.shape[0], tokenizer.chat_template
    again, same = add_control_tokens(model, tokenizer)
    sample_as_good(model, again, same)
    assert same == ids
    assert model.get_output_embeddings().weight.shape[0] == size
    assert encode_prompt_text(again, "the").count(ids.good) == 1
    assert again.chat_template == template


def test_a_padded_head_is_not_made_larger(make_model: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer()
    model = make_model("llama", vocab_size=len(tokenizer) + 10)
    _, ids = add_control_tokens(model, tokenizer)
    assert ids == (len(tokenizer), len(tokenizer) + 1)
    assert model.get_output_embeddings().weight.shape[0] == len(tokenizer) + 10


def test_a_tokenizer_without_a_backend_is_refused(make_model: Callable[..., Any]) -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match="Slow is written in Python"):
        add_control_tokens(make_model("llama"), Slow())


def test_an_empty_text_begins_with_what_the_tokenizer_puts_in_front() -> None:
    assert opening_ids(make_tokenizer()) == [0]
    assert opening_ids(make_tokenizer(adds_eos=True)) == [0], "and not with what it puts behind"
    assert opening_ids(make_tokenizer(adds_bos=False)) == [0]
    with pytest.raises(EmptyPrompt, match="no BOS"):
        opening_ids(make_tokenizer(adds_bos=False, has_bos=False))
