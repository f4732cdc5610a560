"""Annotators' links and the page's address: nothing secret lies on the disk, and nothing foreign passes as our own."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from textrl_agents.feedback.page.address import Address
from textrl_agents.feedback.page.sign_in import SignInFile, annotator_names
from textrl_env.errors import ConfigError


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "votes.sqlite"


class TestSignInFile:
    def test_nothing_on_the_disk_signs_in(self, store: Path):
        file = SignInFile(store)
        (who,) = people = [file.pseudonym("Ann Smith")]
        token = file.issue(people)[who]
        sign_in = file.sign_in(people)
        cookie = sign_in.cookie(token)
        text = file.path.read_text()
        for secret in (token, cookie, sign_in.session(cookie).csrf, "ann", "Ann", "Smith"):
            assert secret not in text.replace("annotator", "")
        for value in [*json.loads(text)["annotators"].values(), json.loads(text)["salt"]]:
            assert sign_in.cookie(value) is None
            assert sign_in.session(value) is None
        assert stat.S_IMODE(file.path.stat().st_mode) == 0o600

    def test_links_and_sessions_outlive_the_server(self, store: Path):
        first = SignInFile(store)
        tokens = first.issue(["annotator-1"])
        cookie = first.sign_in(["annotator-1"]).cookie(tokens["annotator-1"])
        later = SignInFile(store)
        assert later.issue(["annotator-1", "annotator-2"]).keys() == {"annotator-2"}
        after = later.sign_in(["annotator-1", "annotator-2"])
        assert after.session(cookie).annotator == "annotator-1"
        assert after.cookie(tokens["annotator-1"]) == cookie

    def test_new_links_end_the_old_ones(self, store: Path):
        file = SignInFile(store)
        old = file.issue(["annotator-1"])["annotator-1"]
        cookie = file.sign_in(["annotator-1"]).cookie(old)
        new = file.issue(["annotator-1"], anew=True)["annotator-1"]
        after = file.sign_in(["annotator-1"])
        assert (after.cookie(old), after.session(cookie)) == (None, None)
        assert after.session(after.cookie(new)).annotator == "annotator-1"

    def test_only_those_who_are_asked_may_come_in(self, store: Path):
        file = SignInFile(store)
        tokens = file.issue(["annotator-1", "annotator-2"])
        only = file.sign_in(["annotator-2"])
        assert only.cookie(tokens["annotator-1"]) is None
        assert only.cookie(tokens["annotator-2"])

    def test_tokens_differ_and_cannot_be_guessed(self, store: Path):
        tokens = set(SignInFile(store).issue([f"annotator-{n}" for n in range(50)]).values())
        assert len(tokens) == 50
        assert min(map(len, tokens)) >= 43  # 256 bits in base64

    def test_pseudonyms(self, store: Path, tmp_path: Path):
        file = SignInFile(store)
        file.issue(["annotator-1"])
        assert file.pseudonym("Ann") == SignInFile(store).pseudonym("ann") != file.pseudonym("Anna")
        assert file.pseudonym("annotator-3") == "annotator-3"
        assert SignInFile(tmp_path / "other.sqlite").pseudonym("Ann") != file.pseudonym("Ann")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "damaged or no sign-in file"),
            ("[" * 100_000, "damaged or no sign-in file"),
            ('{"version": 1, "salt": "a", "annotators": {"x": "short"}}', "damaged or no sign-in file"),
            ('{"version": 1, "salt": "", "annotators": {}}', "damaged or no sign-in file"),
            ('{"version": 2}', "newer version of textrl-env"),
        ],
    )
    def test_a_foreign_file_is_refused_and_kept(self, store: Path, text: str, message: str):
        path = store.with_name("votes.sqlite.sign-in.json")
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            SignInFile(store)
        assert path.read_text() == text


class TestAnnotatorNames:
    def test_numbers_and_names(self):
        assert annotator_names("3") == ["annotator-1", "annotator-2", "annotator-3"]
        assert annotator_names(" ann, bob ,") == ["ann", "bob"]

    @pytest.mark.parametrize(("text", "message"), [("0", ">= 1"), (" , ", ">= 1"), ("Ann,ann", "somebody twice")])
    def test_nobody_and_twins(self, text: str, message: str):
        with pytest.raises(ConfigError, match=message):
            annotator_names(text)


class TestAddress:
    def test_of_this_machine(self):
        address = Address.of("127.0.0.1", 8765)
        assert address.url == "http://127.0.0.1:8765"
        assert address.hosts == {"127.0.0.1:8765", "localhost:8765", "[::1]:8765"}
        assert address.origins == {f"http://{host}" for host in address.hosts}
        assert address.is_private
        assert Address.of("::1", 80).url == "http://[::1]"

    def test_on_a_network(self):
        address = Address.of("192.168.1.5", 8765)
        assert (address.hosts, address.is_private) == ({"192.168.1.5:8765"}, False)

    def test_behind_a_proxy(self):
        address = Address.of("127.0.0.1", 8765, "https://Feedback.example.org/")
        assert address.hosts == {"feedback.example.org"}
        assert address.origins == {"https://feedback.example.org"}
        assert address.is_encrypted
        assert address.is_private
        assert Address.of("0.0.0.0", 1, "http://10.0.0.1:8765").hosts == {"10.0.0.1:8765"}

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "feedback.example.org",
            "ftp://x",
            "http://",
            "http://a:b@c",
            "http://x/y",
            "http://x?y",
            "http://x:99999",
        ],
    )
    def test_no_address(self, url: str):
        with pytest.raises(ConfigError, match="url must be the page's address"):
            Address.of("127.0.0.1", 8765, url)

    def test_others_reach_the_page_only_where_that_is_said(self):
        Address.check_listening("localhost", network=False, url=None)
        with pytest.raises(ConfigError, match="add --network"):
            Address.check_listening("192.168.1.5", network=False, url="http://192.168.1.5:8765")
        with pytest.raises(ConfigError, match="stands for all"):
            Address.check_listening("0.0.0.0", network=True, url=None)
        Address.check_listening("0.0.0.0", network=True, url="http://192.168.1.5:8765")
