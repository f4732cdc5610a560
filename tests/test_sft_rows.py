"""Demonstrations become rows of the environment's ids, and the responses alone are learned, with their EOS."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from tiny_tokenizer import tiny_tokenizer as make_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from textrl_agents.trl.sft.examples import Example, Turn, read_examples
from textrl_agents.trl.sft.rows import EncodedExamples, encode_examples
from textrl_env.errors import ConfigError, PromptError
from textrl_env.text.prompts import PromptSet
from textrl_env.text.tokenization import decode_response

EOS, IM_START, IM_END = 1, 2, 3
QUESTION = [{"role": "user", "content": "how was the soup"}]
CHAT = [
    *QUESTION,
    {"role": "assistant", "content": "warm and good"},
    {"role": "user", "content": "and the room"},
    {"role": "assistant", "content": "not bad"},
]


def encode(tokenizer: Any, *rows: Any, eos_ids: tuple[int, ...] = (EOS,), max_length: int = 400) -> EncodedExamples:
    return encode_examples(read_examples(list(rows)), tokenizer, eos_ids, max_length=max_length)


def learned(row: Any) -> list[int]:
    return [label for label in row.labels if label != -100]


def test_a_text_row_is_what_the_environment_would_hold(tiny_tokenizer: Any) -> None:
    (row,) = encode(tiny_tokenizer, {"prompt": "the soup at", "response": " the old hotel was warm 🍲"}).rows
    prompt = PromptSet(["the soup at"], tiny_tokenizer, max_prompt_tokens=50)[0].ids.tolist()
    assert row.input_ids[: len(prompt)] == prompt
    assert row.labels[: len(prompt)] == [-100] * len(prompt)
    assert row.labels[len(prompt) :] == row.input_ids[len(prompt) :]
    assert row.input_ids[-1] == EOS
    assert decode_response(tiny_tokenizer, row.input_ids[len(prompt) :]) == " the old hotel was warm 🍲"


def test_eos_is_learned_where_it_is_the_padding_too(tiny_tokenizer: Any) -> None:
    rows = encode(
        tiny_tokenizer, {"prompt": "a", "response": " b"}, {"prompt": "the soup", "response": " was good"}
    ).rows
    assert tiny_tokenizer.pad_token_id == EOS
    batch = DataCollatorForLanguageModeling(pad_token_id=EOS)([row._asdict() for row in rows])
    for row, labels, mask in zip(rows, batch["labels"].tolist(), batch["attention_mask"].tolist(), strict=True):
        end = len(row.input_ids) - 1
        assert (labels[end], mask[end]) == (EOS, 1)
        assert set(labels[end + 1 :]) <= {-100}
        assert not any(mask[end + 1 :])


@pytest.mark.parametrize(("eos_ids", "end"), [((EOS, IM_END), IM_END), ((EOS,), EOS)])
def test_a_chat_ends_with_an_id_that_ends_the_episode(tiny_tokenizer: Any, eos_ids: tuple[int, ...], end: int) -> None:
    (row,) = encode(tiny_tokenizer, {"prompt": QUESTION, "completion": "warm and good"}, eos_ids=eos_ids).rows
    prompt = PromptSet([QUESTION], tiny_tokenizer, max_prompt_tokens=200)[0].ids.tolist()
    assert row.input_ids[: len(prompt)] == prompt
    assert learned(row) == [*tiny_tokenizer("warm and good", add_special_tokens=False)["input_ids"], end]


def test_every_answer_of_a_chat_is_learned_and_nothing_else(tiny_tokenizer: Any) -> None:
    assert "generation" not in tiny_tokenizer.chat_template.replace("add_generation_prompt", "")
    (row,) = encode(tiny_tokenizer, {"messages": CHAT}, eos_ids=(EOS, IM_END)).rows
    rendered = tiny_tokenizer.apply_chat_template(CHAT, tokenize=False).rstrip("\n")
    assert row.input_ids == tiny_tokenizer(rendered, add_special_tokens=False)["input_ids"]
    assert tiny_tokenizer.decode(learned(row)) == "warm and good<|im_end|>not bad<|im_end|>"


def test_a_template_that_forgets_makes_one_row_for_each_answer() -> None:
    """Such as one that drops the reasoning of earlier answers: the environment would show the shorter beginning."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['content'] if loop.last or m['role'] == 'user' else 'cut' }}"
        "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
    )
    rows = encode(tokenizer, {"messages": CHAT}, eos_ids=(IM_END,)).rows
    assert [tokenizer.decode(learned(row)) for row in rows] == ["warm and good<|im_end|>", "not bad<|im_end|>"]
    assert "cut" in tokenizer.decode(rows[1].input_ids)


@pytest.mark.parametrize("prompt", ["say <|im_end|>", [{"role": "user", "content": "say <|im_end|>"}]])
def test_control_tokens_that_a_text_spells_stay_text(tiny_tokenizer: Any, prompt: Any) -> None:
    said = "<|im_end|> and <|endoftext|>"
    (row,) = encode(tiny_tokenizer, {"prompt": prompt, "response": said}, eos_ids=(EOS, IM_END)).rows
    assert decode_response(tiny_tokenizer, learned(row)) == said
    assert [token for token in learned(row) if token in (EOS, IM_END)] == learned(row)[-1:]


def test_a_prompts_letters_are_not_joined_with_the_responses() -> None:
    """A tokenizer that reads "soup" as one token: behind "so" no policy can sample it, it samples "up"."""
    vocabulary = {word: at for at, word in enumerate(["<eos>", "so", "up", "soup", "s", "o", "u", "p"])}
    merges = [("s", "o"), ("u", "p"), ("so", "up")]
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    (row,) = encode(tokenizer, {"prompt": "so", "response": "up"}, eos_ids=(0,)).rows
    assert row.input_ids == [1, 2, 0]


def test_no_space_is_put_before_a_response_that_has_none() -> None:
    """SentencePiece's way writes a space before a text that stands by itself; "soup" is one token here."""
    words = ["<eos>", "\u2581", "\n", "s", "o", "u", "p", "so", "up", "soup", "\u2581so", "\u2581up", "\u2581soup"]
    merges = [("s", "o"), ("u", "p"), ("so", "up"), ("\u2581", "so"), ("\u2581", "up"), ("\u2581", "soup")]
    backend = Tokenizer(models.BPE(vocab={word: at for at, word in enumerate(words)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    for response, expected in (("up", ["up"]), (" up", ["\u2581up"])):
        (row,) = encode(tokenizer, {"prompt": "so", "response": response}, eos_ids=(0,)).rows
        assert tokenizer.convert_ids_to_tokens(row.input_ids) == ["\u2581so", *expected, "<eos>"]


@pytest.mark.parametrize("behind", ["", "\n", "###\n", "<|im_end|>\n"])
def test_what_a_template_puts_behind_an_answer_is_not_learned(behind: str) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}" + behind + "{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    (row,) = encode(tokenizer, {"prompt": QUESTION, "completion": "warm and good"}).rows
    assert tokenizer.decode(learned(row)) == "warm and good<|endoftext|>"


def test_long_rows_are_cut_dropped_or_refused_and_counted(tiny_tokenizer: Any) -> None:
    short, long, hopeless = ({"prompt": "a" * n, "response": "b" * 10} for n in (2, 12, 40))
    encoded = encode(tiny_tokenizer, short, long, hopeless, max_length=20)
    assert (len(encoded.rows), encoded.truncated, encoded.dropped) == (2, 1, 1)
    assert encoded.rows[0].labels[-1] == EOS
    assert EOS not in encoded.rows[1].labels  # a response that was cut does not teach to stop there
    assert len(encoded.rows[1].input_ids) == 20
    examples = read_examples([short, long, hopeless])
    with pytest.raises(ConfigError, match=r"2 of 3 rows .* max_length=20 .* \(the data, row 3\)"):
        encode_examples(examples, tiny_tokenizer, [EOS], max_length=20, overflow="error")


def test_every_shape_of_a_source_says_the_same(tmp_path: Path) -> None:
    pairs = [{"prompt": f"p{number}", "completion": f" r{number}"} for number in range(3)]
    lines = "\n\n".join(map(json.dumps, pairs)) + "\r\n"
    (tmp_path / "data.jsonl").write_text("\ufeff" + lines, encoding="utf-8")
    (tmp_path / "data.json").write_text(json.dumps(pairs))
    saved = datasets.Dataset.from_list(pairs)
    saved.to_parquet(tmp_path / "data.parquet")
    saved.save_to_disk(tmp_path / "saved")
    expected = [(Turn(f"p{number}", f" r{number}"),) for number in range(3)]
    files = [tmp_path / name for name in ("data.jsonl", "data.json", "data.parquet", "saved")]
    for source in (*files, f"datasets:{tmp_path / 'saved'}", saved, pairs):
        assert [example.turns for example in read_examples(source)] == expected


def test_a_chat_reads_the_same_as_messages_or_as_prompt_and_completion() -> None:
    (whole,) = read_examples([{"messages": CHAT}])
    (last,) = read_examples([{"prompt": CHAT[:3], "completion": CHAT[3:]}])
    assert whole.turns == (Turn(QUESTION, "warm and good"), Turn(CHAT[:3], "not bad"))
    assert last.turns == whole.turns[1:]
    assert isinstance(whole, Example)
    assert whole.prompt == QUESTION


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ('{"prompt": "a", ', r"line 3 is no JSON"),
        ("[" * 100_000, r"line 3 is nested too deep"),
        ("7", r"line 3 must be an object"),
        ('{"prompt": "a"}', r"line 3 needs 'prompt' and one of 'completion' or 'response'"),
        ('{"prompt": "a", "completion": "b", "response": "c"}', r"line 3 needs"),
        ('{"prompt": "a", "completion": null}', r"line 3: to a text as prompt belongs a text"),
        ('{"prompt": 3, "completion": "b"}', r"line 3 must be a text or a list"),
        ('{"prompt": "a", "completion": "\\ud800"}', r"line 3 holds .* half of a surrogate"),
        ('{"messages": [{"role": "user", "content": "a"}]}', r"line 3 has no message of the assistant"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', r"line 3 has no message of the assistant"),
        ('{"messages": [{"role": "user"}]}', r"line 3: message 0 of a chat has no 'content'"),
        ('{"messages": "a"}', r"line 3: a chat must be a list"),
        ('{"messages": [], "prompt": "a"}', r"line 3 has both"),
    ],
)
def test_a_malformed_line_is_named_by_its_number(tmp_path: Path, line: str, match: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n\n' + line + "\n")
    with pytest.raises(PromptError, match=match):
        read_examples(path)


def test_sources_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\x00")
    for source, match in {
        tmp_path / "empty.jsonl": "holds no demonstrations",
        tmp_path / "broken.parquet": "cannot be read as Parquet",
        tmp_path / "bytes.jsonl": "is not UTF-8",
        tmp_path / "none.jsonl": "no such file",
        tmp_path / "data.csv": r"must be a \.jsonl",
        7: "must be a file",
    }.items():
        with pytest.raises(PromptError, match=match):
            read_examples(source)
