"""The rewards that judge a response's text without a model: what they pay for, and that no text upsets them."""

from __future__ import annotations

import json
import math
import random
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from textrl_env.errors import ConfigError, MissingExtra, UnknownName
from textrl_env.rewards import check_reward, make_reward
from textrl_env.rewards.built_in.no_personal_data import find_personal_data

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
JUDGES = (
    "vader",
    "readability",
    "readability:formula=lix",
    "readability:formula=coleman_liau",
    "language:language=fr",
    "language:language=de,log=true",
    "json_schema",
    "code_style",
    "no_personal_data",
    "no_personal_data:region=DE",
)
PACKAGES = {
    "vader": ("vaderSentiment.vaderSentiment", "vaderSentiment"),
    "readability": ("textstat", "textstat"),
    "language": ("py3langid.langid", "py3langid"),
    "json_schema": ("jsonschema", "jsonschema"),
    "code_style": ("pycodestyle", "pycodestyle"),
    "no_personal_data": ("phonenumbers", "phonenumberslite"),
}
HOSTILE = {
    "empty": "",
    "controls": "\0\x1b[2J\x07",
    "newlines": "\n" * 5000,
    "megabyte of words": "good not " * 110_000,
    "megabyte of one letter": "a" * 10**6,
    "megabyte of braces": "{" * 10**6,
    "deep lists": "[" * 19_000,
    "deep objects": '{"a":' * 3_900,
    "deep brackets": "(" * 5_000,
    "unary minus": "x = " + "-" * 19_000 + "1",
    "lambdas": "lambda:" * 2_700 + "1",
    "emoji": "\U0001f600" * 20_000,
    "half a character": "\ud800 good",
    "many digits": "9" * 6_000,
    "open fences": "```python\n" * 2_000,
    "form feeds": "x=1\f\ry=2\x0b\x1c\x85\u2028\n",
    "odd escapes": "x = '\\d'\n",
    "a letter": "u",
    "open text": 'x = """\n',
    "combining": "e\u0301" * 9_000,
    "not a number": "[NaN, Infinity]",
    "beyond floats": '{"age": 1e999}',
}


def score(reward: Any, text: str, **columns: Any) -> float:
    (value,) = make_reward(reward)(
        prompts=["x"], completions=[text], **{name: [each] for name, each in columns.items()}
    )
    return value


# --- every one of them ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", JUDGES)
def test_every_text_gets_a_finite_score_within_bounds(name: str, monkeypatch: pytest.MonkeyPatch):
    """Nothing is fetched either: textstat would download a dictionary for formulas that count syllables."""

    def refuse(*arguments: Any) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    low, high = {"vader": (-1, 1), "language:language=de,log=true": (-10, 0)}.get(name, (0, 1))
    reward, rng = make_reward(name), random.Random(0)
    marks = "{}[]\":,\\ \n\t\rabuf019.-`'()=#\x00\u00e9\U0001f600\ud800"
    texts = [*HOSTILE.values(), *("".join(rng.choices(marks, k=rng.randint(0, 60))) for _ in range(150))]
    for text, value in zip(texts, reward(prompts=[""] * len(texts), completions=texts), strict=True):
        assert math.isfinite(value), text[:80]
        assert low <= value <= high, text[:80]


@pytest.mark.parametrize("name", JUDGES)
def test_they_are_rewards_like_any_other(name: str):
    check_reward(make_reward(name))
    both = make_reward([(name, 0.5), ("repetition", 1.0)]).detailed(prompts=["a"], completions=["so so so so"])
    assert both.scores[0] == pytest.approx(0.5 * score(name, "so so so so") - 0.5)
    chat = make_reward(name)(prompts=[[]], completions=[[{"role": "assistant", "content": "That is good."}]])
    assert chat == [score(name, "That is good.")]


@pytest.mark.parametrize("name", PACKAGES)
def test_a_missing_package_names_its_extra(name: str, monkeypatch: pytest.MonkeyPatch):
    module = sys.modules[f"textrl_env.rewards.built_in.{name}"]
    for value in vars(module).values():  # what was loaded once is kept
        if hasattr(value, "cache_clear"):
            value.cache_clear()
    imported, package = PACKAGES[name]
    monkeypatch.setitem(sys.modules, imported, None)
    with pytest.raises(MissingExtra, match=rf"{package}.*textrl-env\[rewards\]"):
        make_reward(name)


# --- arguments behind a name ------------------------------------------------------------------------------


def test_arguments_behind_a_name():
    assert repr(make_reward("length:target=30")) == "LengthReward(target=30)"
    assert repr(make_reward("language: language=fr, log=true")) == "LanguageReward(language='fr', log=True)"
    assert make_reward("readability:formula=lix,hard=50.5").hard == 50.5  # type: ignore[attr-defined]
    assert make_reward("length:target=30", target=3).target == 3  # type: ignore[attr-defined]
    composite = make_reward({"short": "length:target=5", "french": {"reward": "language:language=fr", "weight": 2}})
    assert composite.weights == {"short": 1.0, "french": 2.0}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("spec", "error", "match"),
    [
        ("length:30", ConfigError, "'30' is no argument; write length:argument=value"),
        ("length:target=3,", ConfigError, "'' is no argument"),
        ("length:goal=3", ConfigError, r"'length' does not take the arguments \['goal'\]"),
        ("length:target=much", ConfigError, "target must be a whole number >= 1, got 'much'"),
        ("length:target=3,target=4", ConfigError, "gives target twice"),
        ("lenght:target=3", UnknownName, "unknown reward 'lenght'. Did you mean 'length'"),
        ("readability:formula=flesch", UnknownName, "unknown formula of readability 'flesch'"),
        ("readability:easy=9,hard=8", ConfigError, "easy must be below hard, got easy=9.0 and hard=8.0"),
        ("readability:words=0", ConfigError, "words must be a whole number >= 1"),
        ("language:language=xx", UnknownName, "unknown language 'xx'"),
        ("language:language=5", UnknownName, "unknown language 5"),
        ("language:language=fr,log=False", ConfigError, "log must be true or false, got 'False'"),
        ("code_style:max_line_length=0", ConfigError, "max_line_length must be a whole number >= 1"),
        ("no_personal_data:region=XX", UnknownName, "unknown region 'XX'"),
        ("json_schema:schema=/no/such/file.json", ConfigError, "/no/such/file.json' cannot be read"),
    ],
)
def test_arguments_that_cannot_work(spec: str, error: type[Exception], match: str):
    with pytest.raises(error, match=match):
        make_reward(spec)


# --- each by itself ---------------------------------------------------------------------------------------


def test_vader_is_its_authors_compound():
    """Two examples of its documentation."""
    assert score("vader", "VADER is smart, handsome, and funny!") == 0.8439
    assert score("vader", "Today SUX!") == -0.5461
    assert score("vader", "The table is here.") == 0.0


def test_readability_is_the_formula_between_easy_and_hard():
    text = "The cat sat on the mat. The dog ran to the old barn."  # 13 words, 39 letters and 2 full stops, 2 sentences
    grade = 4.71 * 39 / 13 + 0.5 * 13 / 2 - 21.43
    assert score("readability:easy=-20,hard=10", text) == pytest.approx((10 - grade) / 30, abs=0.05)
    assert score("readability:formula=lix,easy=0,hard=20,words=5", text) == pytest.approx((20 - 6.5) / 20, abs=0.05)
    hard = (
        "Notwithstanding considerable epistemological uncertainty, interdisciplinary characterisation necessitates " * 2
    )
    assert score("readability", text) == 1.0 > score("readability", hard) == 0.0
    assert score("readability", "Cat. Dog. Hen.") == 0.0, "too short to be called easy"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("write to Ann.Lee+x@mail.example.co.uk, or not", [("email", "Ann.Lee+x@mail.example.co.uk")]),
        ("call 650-253-0000 now", [("phone", "650-253-0000")]),  # Google's own, of its documentation
        ("call +44 20 7946 0958", [("phone", "+44 20 7946 0958")]),  # Ofcom's range for drama
        ("card 4111 1111 1111 1111.", [("card", "4111 1111 1111 1111")]),  # the test number of card schemes
        ("to DE89 3704 0044 0532 0130 00 AND more", [("iban", "DE89 3704 0044 0532 0130 00")]),  # of the registry
        ("to GB82WEST12345698765432", [("iban", "GB82WEST12345698765432")]),
        ("card 4111 1111 1111 1112", []),  # a wrong check digit
        ("to DE88 3704 0044 0532 0130 00", []),
        ("in 1999 we had 12345 apples and 3.50 @ the market; id 20231105", []),
        ("the soup was good", []),
        ("", []),
    ],
)
def test_personal_data_is_found_by_its_form_and_its_check_digits(text: str, found: list[tuple[str, str]]):
    assert list(find_personal_data(text)) == found
    assert score("no_personal_data", text) == float(not found)


def test_phone_numbers_without_a_country_are_of_the_region():
    assert score("no_personal_data:region=DE", "ruf 030 901820 an") == 0.0
    assert score("no_personal_data", "ruf 030 901820 an") == 1.0
    assert make_reward("no_personal_data", region=None)(prompts=[""], completions=["call 650-253-0000"]) == [1.0]


def test_language_is_wanted_by_argument_or_by_column():
    french, german = "Le chat est assis sur le tapis rouge.", "Die Katze sitzt auf dem roten Teppich."
    assert score("language:language=fr", french) > 0.9 > 0.1 > score("language:language=fr", german)
    assert score("language", german, language="de") > 0.9
    assert score("language:language=fr,log=true", french) == pytest.approx(
        math.log(score("language:language=fr", french))
    )
    assert score("language:language=fr", "123 ... !") == 0.0
    with pytest.raises(ConfigError, match="make it with one, as in 'language:language=fr', or give the prompts a col"):
        score("language", german)
    with pytest.raises(UnknownName, match="unknown language None"):
        score("language", german, language=None)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"name": "Ann", "age": 3}', 1.0),
        ('```json\n{"name": "Ann", "age": 3}\n```', 1.0),
        ('{"name": "Ann", "age": "3"}', 0.3 + 0.4),
        ('{"name": "Ann"}', 0.3 + 0.2),
        ("[]", 0.3),
        ('Sure! {"name": "Ann", "age": 3}', 0.1 + 0.4),
        ('Sure {here}: {"name": "Ann"} and more', 0.1 + 0.2),
        ('{"name": "Ann", "age": NaN}', 0.0),
        ('{"name": "Ann", "age": 3', 0.0),
        ("Ann is three.", 0.0),
    ],
)
def test_json_is_paid_by_parts(text: str, wanted: float, tmp_path: Path):
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA))
    assert score(make_reward("json_schema", schema=SCHEMA), text) == pytest.approx(wanted)
    assert score(f"json_schema:schema={file}", text) == pytest.approx(wanted)
    assert score("json_schema", text, schema=SCHEMA) == score("json_schema", text, schema=json.dumps(SCHEMA))
    assert score("json_schema", text, schema=SCHEMA) == pytest.approx(wanted)


def test_json_without_required_keys_or_without_a_schema():
    assert score(make_reward("json_schema", schema={"type": "array"}), "[1]") == pytest.approx(1.0)
    assert score(make_reward("json_schema", schema={"type": "array"}), "{}") == pytest.approx(0.3)
    assert score("json_schema", "{}") == pytest.approx(1.0)
    assert score("json_schema", "see {}") == pytest.approx(0.5)


def test_a_schema_that_refers_to_itself():
    tree = {
        "type": "object",
        "required": ["next"],
        "properties": {"next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}},
    }
    reward = make_reward("json_schema", schema=tree)
    assert score(reward, '{"next": {"next": null}}') == pytest.approx(1.0)
    assert score(reward, '{"next": ' * 2_000 + "null" + "}" * 2_000) < 1.0


@pytest.mark.parametrize(
    ("schema", "match"),
    [
        ({"type": "objekt"}, "is no JSON Schema: .*objekt"),
        ({"$ref": "https://example.org/schema.json"}, "refers to 'https://example.org/.* nothing is fetched"),
        ({"$ref": "#/nothing"}, "refers to '#?/nothing', which it does not hold"),
        ({"$ref": "#"}, "refers to itself without end"),
        ({"enum": [math.nan]}, "is not JSON"),
        ({"enum": {1, 2}}, "is not JSON|is no JSON Schema"),
        ({"type": "object", "required": 5}, "is no JSON Schema"),
        ({"$schema": 5}, r"its \$schema is 5, expected a text"),
        ({"properties": {"a": {"$id": "urn:a", "$ref": "#/$defs/b"}}, "$defs": {"b": {}}}, "which it does not hold"),
    ],
)
def test_schemas_that_cannot_be_used(schema: dict[str, Any], match: str):
    with pytest.raises(ConfigError, match=match):
        make_reward("json_schema", schema=schema)
    with pytest.raises(ConfigError, match=match):
        score("json_schema", "{}", schema=schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"$id": "urn:root", "type": "object", "properties": {"next": {"$ref": "urn:root"}}},
        {
            "$ref": "#/$defs/a",
            "$defs": {"a": {"$id": "urn:a", "$ref": "#/$defs/b", "$defs": {"b": {"type": "object"}}}},
        },
        {"type": "object", "properties": {"next": {"enum": [{}, {"$ref": "#/not/a/reference"}]}}},
        {"$schema": "http://json-schema.org/draft-03/schema#", "type": "object", "required": True},
    ],
)
def test_references_are_looked_up_from_where_they_stand(schema: dict[str, Any]):
    reward = make_reward("json_schema", schema=schema)
    assert score(reward, '{"next": {}}') == pytest.approx(1.0)
    assert score(reward, "5") == pytest.approx(0.3)


def test_a_reference_behind_one_to_no_part_of_json_schema():
    schema = {"$ref": "#/mine/a", "mine": {"a": {"properties": {"b": {"$ref": "#/nothing"}}}}}
    with pytest.raises(ConfigError, match=r"refers to '#?/nothing', which it does not hold"):
        score(make_reward("json_schema", schema=schema), '{"b": 1}')


def test_a_pattern_that_cannot_be_used_is_the_schemas_fault():
    with pytest.raises(ConfigError, match=r"has a bad pattern|is no JSON Schema"):
        score(make_reward("json_schema", schema={"pattern": "("}), '"x"')


CLEAN = "def add(a, b):\n    return a + b\n"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (CLEAN, 1.0),
        (f"Here it is:\n```python\n{CLEAN}```\nIt adds.", 1.0),
        (CLEAN.replace("a + b", "a+ b"), 0.5),  # E225: one error in two lines
        ("x=1;y=2\n", 0.0),  # three errors in one line
        ("# a comment", 0.0),
        ("This is no code.", 0.0),
        ("```python\nThis is no code.\n```", 0.0),
    ],
)
def test_code_style_is_errors_a_line(text: str, wanted: float):
    assert score("code_style", text) == pytest.approx(wanted)


def test_code_is_not_run_and_settings_of_the_folder_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "setup.cfg").write_text("[pycodestyle]\nignore = E,W\nmax-line-length = 10\n")
    monkeypatch.chdir(tmp_path)
    code = f"open({str(tmp_path / 'made')!r}, 'w')"
    assert score("code_style:max_line_length=300", code) == 1.0
    assert not (tmp_path / "made").exists()
    assert score("code_style", "x=1") == 0.0
    assert score("code_style:max_line_length=10", "number = 12345") == 0.0


def test_code_style_from_several_threads():
    """Parsing silences warnings, which is the process's business: no thread may find another's filters."""
    reward, found = make_reward("code_style"), []
    odd = "x = '\\d'\n"

    def judge() -> None:
        found.extend(reward(prompts=[""] * 50, completions=[odd] * 50))

    threads = [threading.Thread(target=judge) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [0.0] * 200  # W605
