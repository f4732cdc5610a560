"""No drift: what is trained is what was sampled, whatever is said, in the templates of several model families.

The oracle renders the whole dialogue by the template, and tokenises nothing that was sampled.
"""

from __future__ import annotations

import re
from random import Random
from typing import Any

import numpy as np
import pytest
from tiny_tokenizer import CHAT_TEMPLATE, tiny_tokenizer

from textrl_env.errors import ConfigError, PromptError
from textrl_env.text.tokenization import decode_response
from textrl_env.turns.bridge import PlainBridge, make_bridge
from textrl_env.turns.chat_bridge import ChatBridge

# The shapes of the families' own templates, shortened: which marks stand where, what is trimmed, who is refused.
TEMPLATES = {
    "chatml": CHAT_TEMPLATE,  # Qwen, SmolLM
    "llama3": (
        "<|bos|>{% for m in messages %}<|start_header|>{{ m.role }}<|end_header|>\n\n{{ m.content | trim }}<|eot|>"
        "{% endfor %}{% if add_generation_prompt %}<|start_header|>assistant<|end_header|>\n\n{% endif %}"
    ),
    "mistral": (
        "<|bos|>{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
        "{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% else %}{{ m.content }}<|endoftext|>{% endif %}"
        "{% endfor %}"
    ),
    "gemma": (
        "<|bos|>{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
        "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    "zephyr": (
        "{% for m in messages %}{% if m.role in ('user', 'assistant', 'system') %}<|{{ m.role }}|>\n{{ m.content }}"
        "<|endoftext|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
}
MARKS = (
    *("<|start_header|>", "<|end_header|>", "<|eot|>", "[INST]", "[/INST]", "<start_of_turn>", "<end_of_turn>"),
    *("<|user|>", "<|assistant|>", "<|system|>"),
)


def tokenizer_of(template: str) -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>", *MARKS]})
    tokenizer.chat_template = template
    return tokenizer


TOKENIZERS = {name: tokenizer_of(template) for name, template in TEMPLATES.items()}
BRIDGES = {name: ChatBridge(tokenizer) for name, tokenizer in TOKENIZERS.items()}
SPELLED = ["<|im_end|>", "<|endoftext|>", "<|eot|>", "[/INST]", "<end_of_turn>", "<|bos|>", "[INST]"]
SAID = [
    *SPELLED,
    *("", " ", "\n\n", "😀", "👩‍👩‍👧 ok", "数学", "a" * 30, " soup ", "{{ x }}", "\x00", "e\u0301", "\u200f"),
]


def said(rng: Random) -> str:
    """A text of up to four pieces, some of which spell control tokens; or of any characters."""
    if rng.random() < 0.5:
        return "".join(rng.choices(SAID, k=rng.randrange(5)))
    return "".join(
        chr(rng.choice([rng.randrange(32, 127), rng.randrange(0xA0, 0xD800)])) for _ in range(rng.randrange(9))
    )


def drawn(rng: Random) -> list[int]:
    """Up to six ordinary tokens."""
    return [rng.randrange(4, 261) for _ in range(rng.randrange(7))]


def rendered(name: str, messages: list[dict[str, str]]) -> str:
    return TOKENIZERS[name].apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_was_sampled_stays_and_the_rest_is_the_template(name: str):
    """Each bridge is the template's own text, with the marks as marks and all that a message spells as text."""
    rng = Random(name)
    for _ in range(60):
        turns = [(drawn(rng), rng.choice(["end", "stop", "other"]), said(rng)) for _ in range(rng.randrange(1, 5))]
        check_dialogue(name, said(rng), turns)


def check_dialogue(name: str, first: str, turns: list[Any]) -> None:
    tokenizer, bridge = TOKENIZERS[name], BRIDGES[name]
    end = bridge._end
    assert end is not None
    ids = bridge.prompt([{"role": "user", "content": first}])
    history = [{"role": "user", "content": f"M{0}M"}]
    contents = [first]
    sampled_at: list[tuple[int, list[int]]] = []
    for place, (sampled, ending, reply) in enumerate(turns):
        sampled = [*sampled, end] if ending == "end" else [*sampled, 1] if ending == "other" else [*sampled, 5]
        before = list(ids)
        sampled_at.append((len(ids), sampled))
        ids = ids + sampled
        ids = ids + bridge.extend(list(ids), [{"role": "user", "content": reply}])
        assert ids[: len(before)] == before
        history += [
            {"role": "assistant", "content": f"A{place}A"},
            {"role": "user", "content": f"M{place + 1}M"},
        ]
        contents.append(reply)
    for at, sampled in sampled_at:
        assert ids[at : at + len(sampled)] == sampled
    # The oracle: the text of the whole dialogue, with answers and messages put in afterwards.
    text = rendered(name, history)
    trims = "trim" in TEMPLATES[name]
    for place, content in enumerate(contents):
        text = text.replace(f"M{place}M", content.strip() if trims else content)
    pieces = re.split(r"A\d+A", text)
    at = 0
    for place, piece in enumerate(pieces):
        stop = sampled_at[place][0] if place < len(sampled_at) else len(ids)
        own = ids[at:stop]
        written = tokenizer.decode(own, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if place and sampled_at[place - 1][1][-1] == end:
            piece = piece[len(tokenizer.convert_ids_to_tokens(end)) :]
        assert written == piece
        at = stop + (len(sampled_at[place][1]) if place < len(sampled_at) else 0)
    # Marks that a message spells are never marks.
    marks = set(tokenizer.all_special_ids)
    own_marks = [
        i for place, i in enumerate(ids) if i in marks and not any(a <= place < a + len(s) for a, s in sampled_at)
    ]
    plain = [i for i in tokenizer(rendered(name, history), add_special_tokens=False).input_ids if i in marks]
    closed = sum(sampled[-1] == end for _, sampled in sampled_at)
    assert len(own_marks) == len(plain) - closed
    assert bridge.parse(sampled_at[0][1]) == decode_response(tokenizer, sampled_at[0][1], after_text=False)


@pytest.mark.parametrize("seed", range(5))
def test_plain_text_is_what_was_said_around_what_was_sampled(seed: int):
    rng = Random(seed)
    turns = [(drawn(rng), said(rng)) for _ in range(4)]
    tokenizer = tiny_tokenizer()
    bridge = PlainBridge(tokenizer, before="\n> ", after="\n")
    ids = bridge.prompt([{"role": "system", "content": "rules"}, {"role": "user", "content": "go"}])
    text = "rules\ngo"
    for sampled, reply in turns:
        ids = [*ids, *sampled]
        tail = bridge.extend(ids, [{"role": "user", "content": reply}])
        assert not set(tail) & set(tokenizer.all_special_ids)
        assert tokenizer.decode(tail, clean_up_tokenization_spaces=False) == f"\n> {reply}\n"
        ids = ids + tail
        text += tokenizer.decode(sampled) + f"\n> {reply}\n"
    assert decode_response(tokenizer, ids) == text or "\ufffd" in text


BREAKING = {
    "changes what was said": CHAT_TEMPLATE.replace(
        "{{ message['content'] | trim }}",
        "{{ message['content'] if loop.last or message['role'] == 'user' else 'hidden' }}",
    ),
    "numbers its turns from the end": CHAT_TEMPLATE.replace("<|im_start|>{{", "<|im_start|>{{ loop.revindex }}{{"),
    "opens an answer otherwise than it shows one": CHAT_TEMPLATE.replace(
        "assistant\n{% endif %}", "assistant\n<think>{% endif %}"
    ),
    "tells the rules last": (
        "{% for m in messages %}{% if m.role != 'system' %}<|im_start|>{{ m.role }}\n"
        "{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}{{ m.content }}"
        "<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
}


@pytest.mark.parametrize("why", BREAKING)
def test_a_template_that_rewrites_is_refused(why: str):
    tokenizer = tokenizer_of(BREAKING[why])
    tokenizer.name_or_path = "some/model"
    user, system = {"role": "user", "content": "x"}, {"role": "system", "content": "x"}
    if why == "tells the rules last":  # which matters where there are some
        ChatBridge(tokenizer).prompt([user])
    with pytest.raises(PromptError, match=r"(?s)of some/model does not keep the prefix.*it first wrote '") as error:
        ChatBridge(tokenizer).prompt([system, user])
    if why == "opens an answer otherwise than it shows one":
        assert "it first wrote '<think>Welcome', and 'Welcome<|im_end|>" in str(error.value)


def test_a_template_that_closes_the_last_answer_alone():
    """What the policy wrote stays, and nothing is lost behind it."""
    tokenizer = tokenizer_of(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if loop.last and m.role == 'assistant' %}<|im_end|>"
        "{% endif %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    tail = ChatBridge(tokenizer).extend([9, 3], [{"role": "user", "content": "x"}])
    assert tokenizer.decode(tail) == "user: xassistant: "  # jinja drops the line's end behind a block


def test_who_answers_is_shown_or_told_as_the_user():
    """ChatML shows any role; Zephyr drops the ones it does not know, and Mistral refuses them."""
    reply = [{"role": "tool", "content": "42"}]
    for name, shown in (("chatml", "tool\n42"), ("zephyr", "<|user|>\n42"), ("mistral", "[INST]42[/INST]")):
        ids = BRIDGES[name].prompt([{"role": "user", "content": "x"}])
        assert shown in TOKENIZERS[name].decode(BRIDGES[name].extend([*ids, 9], reply))


def test_which_bridge_is_made():
    with_template, without = tiny_tokenizer(), tiny_tokenizer()
    without.chat_template = None
    assert isinstance(make_bridge(with_template), ChatBridge)
    assert isinstance(make_bridge(with_template, as_chat=False), PlainBridge)
    assert isinstance(make_bridge(without), PlainBridge)
    assert isinstance(make_bridge(with_template, PlainBridge), PlainBridge)
    with pytest.raises(ConfigError, match="not all of the methods prompt, extend, parse"):
        make_bridge(with_template, lambda tokenizer: object())


def test_sampled_ids_that_no_text_gives_back():
    """Halves of characters, and two tokens that a tokenizer would join, stay as they were drawn."""
    tokenizer, bridge = TOKENIZERS["chatml"], BRIDGES["chatml"]
    joined = tokenizer("the", add_special_tokens=False).input_ids
    apart = [i for letter in "the" for i in tokenizer(letter, add_special_tokens=False).input_ids]
    half = tokenizer("😀", add_special_tokens=False).input_ids[:2]
    assert len(joined) < len(apart)
    ids = [*bridge.prompt([{"role": "user", "content": "x"}]), *apart, *half]
    whole = ids + bridge.extend(ids, [{"role": "user", "content": "y"}])
    assert whole[: len(ids)] == ids
    assert bridge.parse([*apart, *half]) == "the\ufffd"
    assert np.array_equal(bridge.extend(ids, [{"role": "user", "content": "y"}]), whole[len(ids) :])
