"""A small byte-level tokenizer for tests: trained in milliseconds, any Unicode text encodes."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|bos|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
WORDS = "the soup at the old hotel was warm and good; the room was not bad. user assistant system hello"


def tiny_tokenizer(
    *, adds_bos: bool = True, adds_eos: bool = False, has_bos: bool = True, has_pad: bool = True
) -> PreTrainedTokenizerFast:
    """At most 320 tokens: bytes, a few merges, `<|bos|>` 0, `<|endoftext|>` 1 (eos and pad), chat 2 and 3."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet)
    backend.train_from_iterator([WORDS] * 8, trainer)
    single = f"{'<|bos|> ' if adds_bos else ''}$A{' <|endoftext|>' if adds_eos else ''}"
    backend.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("<|bos|>", 0), ("<|endoftext|>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|bos|>" if has_bos else None,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>" if has_pad else None,
        extra_special_tokens=SPECIAL[2:],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
