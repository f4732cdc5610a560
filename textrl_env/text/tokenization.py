"""Text to token ids and back, with the three traps closed that plain calls of a tokenizer leave open.

- Text that spells a control token (`<|im_end|>`) is encoded as that text. A plain call would turn it into the
  control token itself, so that a prompt could end its own turn.
- A prompt ends where its text ends: the EOS that some tokenizers append is left out.
- A response is decoded once from all of its ids, because a character can be split over several tokens.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from textrl_env.errors import EmptyPrompt, PromptError
from textrl_env.foreign_text import names_shown, shown
from textrl_env.text.control_tokens import any_of, blind_copy, control_tokens, map_strings, strings_of

Ids = list[int]

_LETTER = "a"  # stands for any text
_ANCHOR = "\n"  # in front of a text, so that its first word is not taken for the beginning of a document
_SPACE_MARK = "\u2581"  # how SentencePiece vocabularies write a space


def encode_prompt_text(tokenizer: Any, text: str) -> Ids:
    """The ids of a text prompt: what the tokenizer puts in front (BOS), then the text, and nothing behind it.

    Control tokens that `text` spells are encoded as text. An empty text is what the tokenizer puts in front, or its BOS
    token. Raises PromptError where the text holds half of a surrogate pair, and EmptyPrompt where it is empty and there
    is no such token.
    """
    plain = encode_text(tokenizer, text)
    if not plain:
        return opening_ids(tokenizer)
    full = encode_text(tokenizer, text, add_special_tokens=True)
    start = _place_of(plain, full)
    return full if start is None else full[: start + len(plain)]


def opening_ids(tokenizer: Any) -> Ids:
    """The ids that a text without a token begins with: what the tokenizer puts in front of every text, else its BOS.

    Raises EmptyPrompt where it has neither.
    """
    plain, full = encode_text(tokenizer, _LETTER), encode_text(tokenizer, _LETTER, add_special_tokens=True)
    if start := _place_of(plain, full):
        return full[:start]
    if tokenizer.bos_token_id is None:
        raise EmptyPrompt(
            f"the prompt '' has no tokens, and {type(tokenizer).__name__} has no BOS token "
            "to start from; give a prompt with text, or set tokenizer.bos_token"
        )
    return [tokenizer.bos_token_id]


def _place_of(plain: Ids, full: Ids) -> int | None:
    """Where `plain` stands in `full`; None for a tokenizer that puts special tokens into the text itself."""
    starts = range(len(full) - len(plain) + 1)
    return next((start for start in starts if full[start : start + len(plain)] == plain), None)


def check_text(text: str, where: str) -> None:
    """Raise `PromptError` that begins with `where` for a text with half of a surrogate pair, which is not Unicode."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = text[error.start].encode("unicode_escape").decode("ascii")
        raise PromptError(
            f"{where} holds {half} at character {error.start}, half of a surrogate pair, which is no text; remove it"
        ) from None


def check_messages(messages: Any) -> None:
    """Raise `PromptError` unless `messages` is a chat: a list of dicts with texts as `role` and `content`."""
    if not isinstance(messages, (list, tuple)):
        raise PromptError(f"a chat must be a list of messages, got {type(messages).__name__}: {shown(messages)}")
    if not messages:
        raise PromptError("a chat needs at least one message, got an empty list")
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise PromptError(
                f"message {number} of a chat must be a dict with 'role' and 'content', "
                f"got {type(message).__name__}: {shown(message)}"
            )
        for key in ("role", "content"):
            if key not in message:
                raise PromptError(f"message {number} of a chat has no {key!r}; its keys are {names_shown(message)}")
            if not isinstance(message[key], str):
                raise PromptError(
                    f"{key!r} of message {number} of a chat must be a string, got {type(message[key]).__name__}"
                )


def encode_chat(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    *,
    answer: str | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> Ids:
    """The ids of a chat in the tokenizer's own template.

    messages: `[{"role": ..., "content": ...}, ...]`. The template's control tokens become control tokens; control
        tokens spelled inside a message become text. Where none is, the ids are exactly those of `apply_chat_template`.
    answer: None ends with the template's generation prompt, which is what a policy continues. A string is added as the
        assistant's message, which is what a reward model reads.
    tools: JSON schemas of the functions that may be called, for the template to describe.

    Raises PromptError where the tokenizer has no chat template, the messages are malformed, or the template refuses
    them.
    """
    check_messages(messages)
    if getattr(tokenizer, "chat_template", None) is None:
        raise PromptError(
            f"{type(tokenizer).__name__} has no chat template, so chat messages cannot be encoded; "
            "set tokenizer.chat_template, or give prompts as text"
        )
    chat = [dict(message) for message in messages]
    if answer is not None:
        chat.append({"role": "assistant", "content": answer})
    return encode_rendered(tokenizer, chat, lambda messages: render_chat(tokenizer, messages, answer is None, tools))


def encode_rendered(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], render: Callable[[list[dict[str, Any]]], str]
) -> Ids:
    """The ids of the text that `render` makes of chat messages by a template.

    The template's control tokens become control tokens; control tokens spelled inside a message become text.
    """
    chat = [dict(message) for message in messages]
    control = control_tokens(tokenizer)
    if not any(token in text for text in strings_of(chat) for token in control):
        return encode_text(tokenizer, render(chat), split_special_tokens=False)
    return _encode_with_hidden(tokenizer, chat, control, render)


def end_of_turn(tokenizer: Any) -> int | None:
    """The id by which the tokenizer's chat template ends an answer, such as that of `<|im_end|>`.

    None where there is no template, or no control token stands behind an answer that it renders.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        return None
    said = f"said{secrets.token_hex(8)}"
    chat = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": said}]
    try:
        rendered = render_chat(tokenizer, chat, add_generation_prompt=False)
    except PromptError:
        return None  # it is told where a chat is encoded
    _, answered, behind = rendered.rpartition(said)
    if not answered:
        return None  # a template that shows no answer; what it begins with would be taken for an end
    found = any_of(control_tokens(tokenizer)).match(behind.lstrip())
    return None if found is None else int(tokenizer.convert_tokens_to_ids(found[0]))


def check_end_of_turn(tokenizer: Any) -> None:
    """Raise PromptError where the tokenizer's chat template writes no control token behind an answer."""
    if end_of_turn(tokenizer) is None:
        raise PromptError(
            f"the chat template of {type(tokenizer).__name__} has no end of turn: no control token stands behind an "
            "answer, so no response to a chat would end before the limit. Set a template that has one, declare its "
            "mark a special token, or give stop= the text that ends a turn"
        )


def _encode_with_hidden(
    tokenizer: Any,
    chat: list[dict[str, Any]],
    control: dict[str, Any],
    render: Callable[[list[dict[str, Any]]], str],
) -> Ids:
    """The ids of a chat whose messages spell control tokens.

    What the messages spell is hidden while the template is rendered. So all control tokens in the rendered
    text are the template's own. They become stand-ins, which a copy of the tokenizer knows that is otherwise
    blind to control tokens. Then the hidden words come back, and the copy reads them as text, with the same
    boundaries and spaces as ever.
    """
    spelled = any_of(control)
    hidden: dict[str, str] = {}
    nonce = secrets.token_hex(8)

    def hide(match: re.Match[str]) -> str:
        return hidden.setdefault(match[0], f"hidden{nonce}n{len(hidden)}n")

    masked = map_strings(lambda text: spelled.sub(hide, text), chat)
    rendered = render(masked)
    blind, stand_ins, real_ids = blind_copy(tokenizer, control)
    rendered = spelled.sub(lambda match: stand_ins[match[0]], rendered)
    for text, mark in hidden.items():
        rendered = rendered.replace(mark, text)
    if tokenizer.is_fast:
        return [real_ids.get(i, i) for i in encode_text(blind, rendered)]
    # A tokenizer written in Python knows no added tokens at all while it splits special ones.
    by_stand_in = {stand_in: tokenizer.convert_tokens_to_ids(text) for text, stand_in in stand_ins.items()}
    ids: Ids = []
    for piece in re.split(f"({any_of(by_stand_in).pattern})", rendered):
        ids += [by_stand_in[piece]] if piece in by_stand_in else encode_text(tokenizer, piece)
    return ids


def decode_response(tokenizer: Any, ids: Iterable[int], *, after_text: bool = True) -> str:
    """The text of a response, decoded once from all of its ids.

    ids: special tokens, and ids that the tokenizer does not know, are skipped. Any ids are taken: a character whose
        bytes are incomplete at the end becomes U+FFFD.
    after_text: whether the response continues a text, so that prompt + response must be the whole text. Then the
        leading space is kept that SentencePiece decoders strip. False for chats, where a turn's first space is not part
        of it.
    """
    return decode_responses(tokenizer, [ids], after_text=after_text)[0]


def decode_responses(
    tokenizer: Any, responses: Sequence[Iterable[int]], *, after_text: bool | Sequence[bool] = True
) -> list[str]:
    """`decode_response` for n responses; `after_text` is one value for all, or n values."""
    flags = [after_text] * len(responses) if isinstance(after_text, bool) else after_text
    known, marks_spaces = _vocabulary_of(tokenizer)
    texts = []
    for ids, keeps_space in zip(responses, flags, strict=True):
        listed = ids.tolist() if hasattr(ids, "tolist") else ids  # Python ints: twice as fast as NumPy's
        kept = [int(i) for i in listed if i in known]
        text = tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if marks_spaces and keeps_space and kept:
            text = _with_leading_space(tokenizer, kept, text)
        texts.append(text)
    return texts


def _with_leading_space(tokenizer: Any, ids: Ids, text: str) -> str:
    tokens = tokenizer.convert_ids_to_tokens(ids[:8], skip_special_tokens=True)
    if not tokens or not tokens[0].startswith(_SPACE_MARK):
        return text
    written = "".join(tokens)
    missing = (len(written) - len(written.lstrip(_SPACE_MARK))) - (len(text) - len(text.lstrip(" ")))
    return " " + text if missing == 1 else text


class _Vocabulary(NamedTuple):
    known: frozenset[int]  # all ids; there may be holes between them
    marks_spaces: bool  # whether any token begins with SentencePiece's mark


_vocabularies: WeakKeyDictionary[Any, tuple[int, _Vocabulary]] = WeakKeyDictionary()


def _vocabulary_of(tokenizer: Any) -> _Vocabulary:
    """What its tokens are. Read again when tokens were added."""
    size = len(tokenizer)
    cached = _vocabularies.get(tokenizer)
    if cached is None or cached[0] != size:
        tokens = tokenizer.get_vocab()
        read = _Vocabulary(frozenset(tokens.values()), any(token.startswith(_SPACE_MARK) for token in tokens))
        cached = _vocabularies[tokenizer] = (size, read)
    return cached[1]


def encode_text(
    tokenizer: Any, text: str, *, add_special_tokens: bool = False, split_special_tokens: bool = True
) -> Ids:
    """The ids of a text by itself; with `split_special_tokens`, control tokens that it spells are encoded as text."""
    check_text(text, "the text")
    ids: Ids = tokenizer(
        text,
        add_special_tokens=add_special_tokens,
        split_special_tokens=split_special_tokens,
        return_attention_mask=False,
        verbose=False,  # a long prompt is our own business: it is truncated or refused later
    )["input_ids"]
    return ids


def encode_continuation(tokenizer: Any, text: str) -> Ids:
    """The ids of a text that stands behind another. Control tokens that it spells are encoded as text.

    Some tokenizers write a space in front of a text that stands by itself.
    """
    anchor, anchored = encode_text(tokenizer, _ANCHOR), encode_text(tokenizer, _ANCHOR + text)
    return anchored[len(anchor) :] if anchored[: len(anchor)] == anchor else encode_text(tokenizer, text)


def render_chat(
    tokenizer: Any,
    chat: list[dict[str, Any]],
    add_generation_prompt: bool,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """The text of a chat in the tokenizer's own template. Raises PromptError where the template refuses it."""
    given = {} if tools is None else {"tools": [dict(tool) for tool in tools]}
    try:
        return str(
            tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=add_generation_prompt, **given)
        )
    except Exception as error:  # jinja's errors: which ones depends on the template
        roles = [message["role"] for message in chat]
        raise PromptError(f"the chat template refused a chat with the roles {roles}: {error}") from error
