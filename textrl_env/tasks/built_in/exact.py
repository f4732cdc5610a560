"""A task small enough to be solved by enumeration: 6 tokens, 5 steps, 3906 responses to each prompt.

Letters are tokens. A response scores a point for every step forward in the alphabet, such as the "ab" and "bc" of "abc"
(the prompt's letter counts as its start), so the last letters of a good response depend on all before. The best value
any policy can reach is known exactly, see `textrl_env.tasks.enumeration`.

The task is about finding the optimum for its two prompts, so none is held out: evaluations take the training prompts
and say so.
"""

from __future__ import annotations

import itertools
from typing import Any

from textrl_env.rewards import FunctionReward
from textrl_env.tasks.task import Task

LETTERS = "abcde"
EOS = "</s>"


def steps_forward(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """Score a point for each pair of adjacent letters that follow each other in the alphabet, the prompt's included."""
    texts = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    return [float(sum(ord(b) - ord(a) == 1 for a, b in itertools.pairwise(text))) for text in texts]


def letter_tokenizer(letters: str = LETTERS) -> Any:
    """Make a Hugging Face tokenizer whose tokens are the letters and EOS."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {token: index for index, token in enumerate([*letters, EOS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=EOS))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=EOS, pad_token=EOS, clean_up_tokenization_spaces=False
    )


def letter_model(letters: str = LETTERS) -> tuple[Any, Any]:
    """Make a small random transformer over the letters, the same one every time, and its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = letter_tokenizer(letters)
    eos = tokenizer.eos_token_id
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        initializer_range=0.2,  # ten times the usual: a reference with preferences of its own
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=eos,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config), tokenizer


TASK = Task(
    name="exact",
    prompts=["a", "c"],
    validation_prompts=[],
    heldout_prompts=[],
    reward=FunctionReward(steps_forward, timeout=None),
    model=letter_model,
    kl_coef=0.5,
    max_prompt_tokens=1,
    max_new_tokens=5,
    description="six tokens and five steps: the optimum is known by enumeration",
)
