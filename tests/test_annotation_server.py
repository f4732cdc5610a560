"""The annotation page as a server: eight annotators at once, fifty kills, and how it starts and stops."""

from __future__ import annotations

import contextlib
import http.client
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import urllib.parse
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from annotation_pages import comparison
from hang_guard import attempts
from page_servers import PageServers
from typer.testing import CliRunner

from textrl_agents.cli import app
from textrl_agents.feedback.page.sign_in import SignInFile
from textrl_agents.speed.feedback.feedback_page_rows import AnnotatorSession, ServedPage
from textrl_env.preferences import FeedbackStore, Question

KILLS = 50
PAIR = '{"prompt": "p", "responses": ["a", "b"]}'


def textrl(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text(PAIR)
    return path


class TestEightAtOnce:
    @pytest.mark.slow
    def test_no_vote_is_lost_or_doubled_and_each_pair_is_leased_once(self, tmp_path: Path):
        with ServedPage(tmp_path, questions=200) as page:
            sessions = page.sign_in()

            def answer_all(session: AnnotatorSession) -> int:
                votes = 0
                while session.has_question:
                    session.vote()  # raises where the page does not take it
                    votes += 1
                return votes

            with ThreadPoolExecutor(len(sessions)) as pool:
                given = list(pool.map(answer_all, sessions))
        assert len(given) == 8
        assert sum(given) == 200
        with FeedbackStore(page.store, read_only=True) as store:
            found = list(store.records())
            assert store.progress().votes == 200
        assert Counter(record.prompt for record in found) == {f"prompt {n}": 1 for n in range(200)}
        assert sorted(Counter(record.annotator for record in found).values()) == sorted(filter(None, given))
        with contextlib.closing(sqlite3.connect(page.store)) as connection:
            leases = "SELECT count(*), count(DISTINCT question_id) FROM leases"
            assert connection.execute(leases).fetchone() == (200, 200)


class Voter(threading.Thread):
    """An annotator who votes until told to stop, over a server that is killed again and again.

    An answer to a vote that never came leaves it open whether it was stored. Every second such vote is sent again, as
    a browser's reload does; the others are left as they are.
    """

    def __init__(self, servers: PageServers, token: str, stop: threading.Event):
        super().__init__()
        self.servers, self.token, self.stop = servers, token, stop
        self.stored: dict[str, str] = {}  # prompt -> choice, of those that the page said are stored
        self.open: dict[str, str] = {}  # the same, of those left as they are
        self.cut = 0  # votes that no answer came to
        self.cookie = ""
        self.abandoned = False  # no server will come any more
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            _, headers, _ = self.asked("GET", f"/sign-in?token={self.token}")
            self.cookie = str(headers["set-cookie"]).partition(";")[0]
            while not self.stop.is_set():
                self.vote()
        except BaseException as error:
            self.error = error

    def vote(self) -> None:
        status, _, page = self.asked("GET", "/")
        assert status == 200, page
        prompt, choice = re.findall(r"question \d+", page)[0], random.choice(["left", "right", "tie", "skip"])
        fields = dict(re.findall(r'name="(csrf|lease)" value="([^"]+)"', page))
        body = urllib.parse.urlencode({**fields, "choice": choice})
        try:
            status, headers, page = self.once("POST", "/answer", body)
        except (OSError, http.client.HTTPException):
            self.cut += 1
            if self.cut % 2 == 0:
                self.open[prompt] = choice
                return
            status, headers, page = self.asked("POST", "/answer", body)
        assert status == 303, page
        again = headers["location"] == "/?note=again"
        assert headers["location"] == "/" or (again and prompt not in self.stored), headers["location"]
        self.stored[prompt] = choice

    def asked(self, method: str, path: str, body: str | None = None) -> tuple[int, Any, str]:
        """As `once`, until a server answers."""
        for _ in attempts("a server answered", pause=0.005):
            try:
                return self.once(method, path, body)
            except (OSError, http.client.HTTPException):
                if self.abandoned:
                    raise
        raise AssertionError

    def once(self, method: str, path: str, body: str | None = None) -> tuple[int, Any, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.servers.port)
        try:
            headers = {"Cookie": self.cookie, "Content-Type": "application/x-www-form-urlencoded"}
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.headers, response.read().decode()
        finally:
            connection.close()


class TestKilled:
    @pytest.mark.slow
    def test_in_fifty_kills_no_vote_is_lost_or_doubled(self, tmp_path: Path):
        """The server is killed while four annotators vote, each time after some votes more."""
        path = tmp_path / "votes.sqlite"
        people = tuple(f"annotator-{number}" for number in range(4))
        with FeedbackStore(path) as store:
            store.ask(comparison("first", "second", prompt=f"question {number}") for number in range(20_000))
        tokens = SignInFile(path).issue(people)
        stop = threading.Event()
        with PageServers(path, people) as servers:
            voters = [Voter(servers, tokens[who], stop) for who in people]
            for voter in voters:
                voter.start()
            try:
                for _ in range(KILLS):
                    before, more = stored(voters), random.randrange(1, 12)
                    for _ in attempts("votes were stored", pause=random.uniform(0.0005, 0.005)):
                        if stored(voters) >= before + more or any(voter.error for voter in voters):
                            break
                    servers.kill()
                    servers.start()
            except BaseException:
                for voter in voters:
                    voter.abandoned = True
                raise
            finally:
                stop.set()
                for voter in voters:
                    voter.join()
        assert [voter.error for voter in voters] == [None] * 4
        self.check(path, voters)

    def check(self, path: Path, voters: list[Voter]) -> None:
        with FeedbackStore(path) as store:
            found = {record.prompt: record for record in store.records()}
            assert store.progress().votes == store.progress().answered == len(found) == sum(store.count().values())
        said = {prompt: choice for voter in voters for prompt, choice in voter.stored.items()}
        assert len(said) >= KILLS
        maybe = {prompt: choice for voter in voters for prompt, choice in voter.open.items()}
        assert sum(voter.cut for voter in voters), "no kill came while a vote was on its way"
        assert said.keys() <= found.keys() <= said.keys() | maybe.keys()
        for prompt, record in found.items():
            choice = said.get(prompt, maybe.get(prompt))
            expected = {"left": record.order[0], "right": record.order[1]}.get(str(choice))
            assert (record.preferred, record.skipped) == (expected, choice == "skip"), prompt


def stored(voters: list[Voter]) -> int:
    return sum(len(voter.stored) for voter in voters)


class TestCommand:
    @pytest.mark.slow
    @pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_ends_it_and_the_same_command_goes_on(self, tmp_path: Path, kind: signal.Signals):
        with ServedPage(tmp_path, questions=3, annotators=1) as page:
            page.sign_in()[0].vote()
            page.stop(kind)
        said = page.said
        assert page.process.returncode == 0
        assert f"{kind.name}: the page is closed" in said
        assert f"1 of 3 answers are in {page.store}" in said
        assert "Traceback" not in said
        with page:
            assert page.links == []  # no token is kept, so no link can be printed again
            said = page.said
        assert "2 open questions, which come first; no new ones were made" in said
        assert "annotator-1: the link that was printed before" in said
        with FeedbackStore(page.store) as store:
            assert store.progress().questions == 3

    def test_a_port_in_use(self, tmp_path: Path, pairs: Path):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            result = textrl("feedback", "serve", tmp_path / "s.sqlite", "--questions", pairs, "--port", port)
        assert result.exit_code == 2
        assert f"port {port} of 127.0.0.1 is in use" in result.stderr
        assert not (tmp_path / "s.sqlite").exists()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "has no open question; give --policy with --task or --prompts, or --questions FILE"),
            (["--policy", "embedded"], "questions about a policy need prompts"),
            (["--policy", "embedded", "--task", "sentimnet"], "Did you mean 'sentiment'"),
            (["--policy", "none/such", "--task", "sentiment"], "none/such"),
            (["--questions", "none.jsonl"], "cannot be read: No such file"),
            (["--kind", "quiz"], "unknown kind of question 'quiz'"),
            (["--overlap", "2"], "--overlap 2 needs as many annotators, and there are 1"),
            (["--annotators", "0"], "annotators must be a number >= 1"),
            (["--against", "embedded", "--task", "sentiment"], "give the first as --policy"),
            (["--host", "0.0.0.0"], "add --network"),
            (["--host", "a" * 100, "--network"], "is no "),
            (["--host", "0.0.0.0", "--network"], "stands for all of this machine's addresses"),
            (["--host", "203.0.113.7", "--network"], "is no address of this machine"),
            (["--url", "feedback.example.org"], "url must be the page's address"),
            (["--instructions", "none.txt"], "none.txt"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_what_cannot_work_is_told_at_once(
        self, tmp_path: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        result = textrl("feedback", "serve", "s.sqlite", "--port", 0, *arguments)
        assert result.exit_code in (1, 2)
        assert message in result.stderr
        assert "Traceback" not in result.output
        assert "token=" not in result.output

    def test_a_store_that_cannot_be_used(self, tmp_path: Path, pairs: Path):
        ask = ["--questions", pairs, "--port", 0]
        newer, foreign = tmp_path / "newer.sqlite", tmp_path / "foreign.sqlite"
        FeedbackStore(newer).close()
        with contextlib.closing(sqlite3.connect(newer)) as connection:
            connection.execute("PRAGMA user_version = 99")
        foreign.write_text("a text, and no database\n" * 100)
        for path, message in (
            (newer, "is a store of version 99"),
            (foreign, "is not a feedback store"),
            (tmp_path / "no" / "folder.sqlite", "has no folder to be made in"),
            (tmp_path, "is a folder"),
        ):
            result = textrl("feedback", "serve", path, *ask)
            assert result.exit_code == 2, result.output
            assert message in result.stderr
            assert "token=" not in result.output

    def test_a_locked_store_is_told_before_anybody_is_asked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        path = tmp_path / "s.sqlite"
        with FeedbackStore(path) as store:
            store.ask([comparison()])
        monkeypatch.setitem(FeedbackStore.__init__.__kwdefaults__, "busy_seconds", 0.05)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            result = textrl("feedback", "serve", path, "--port", 0)
        assert result.exit_code == 1
        assert "s.sqlite is locked by another program" in result.stderr
        assert "token=" not in result.output

    def test_a_malformed_line_imports_nothing(self, tmp_path: Path, pairs: Path):
        pairs.write_text(f"{PAIR}\n{{}}\n")
        result = textrl("feedback", "serve", tmp_path / "s.sqlite", "--questions", pairs, "--port", 0)
        assert result.exit_code == 2
        assert "pairs.jsonl, line 2: a question has no 'prompt'" in result.stderr
        with FeedbackStore(tmp_path / "s.sqlite") as store:
            assert store.progress().questions == 0

    def test_names_are_not_stored(self, tmp_path: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch):
        from textrl_agents.feedback.page import serving

        asked: list[Question] = []

        def serve(application: Any, listening: socket.socket) -> None:
            with FeedbackStore(path) as store:
                lease = store.next_question(SignInFile(path).pseudonym("Ann"))
                store.answer(lease.token, lease.record(preferred=0))
                asked.append(lease.question)

        path = tmp_path / "s.sqlite"
        monkeypatch.setattr(serving, "serve", serve)
        result = textrl("feedback", "serve", path, "--questions", pairs, "--port", 0, "--annotators", "Ann,Bob")
        assert result.exit_code == 0, result.output
        assert re.search(r"Ann \(annotator-\w{10}\): http://127\.0\.0\.1:\d+/sign-in\?token=", result.stdout)
        assert len(asked) == 1
        for file in tmp_path.iterdir():
            assert not re.search(rb"\b(Ann|Bob)\b", file.read_bytes(), re.IGNORECASE), file

    @pytest.mark.slow
    def test_questions_about_the_embedded_model(self, tmp_path: Path):
        """What the tutorial runs; and importing no torch where questions are ready."""
        path = tmp_path / "s.sqlite"
        script = (
            "import sys; from textrl_agents.feedback.page import serving; serving.serve = lambda *_: None\n"
            "from textrl_agents.cli import app\n"
            "try:\n    app(sys.argv[1:])\nfinally:\n    print('torch' in sys.modules)"
        )
        command = [sys.executable, "-c", script, "feedback", "serve", str(path), "--port", "0"]
        sampled = ["--policy", "embedded", "--task", "sentiment", "--n", "4", "--threads", "1"]
        first = subprocess.run([*command, *sampled], capture_output=True, text=True, check=True)
        assert "4 new questions are in" in first.stdout
        assert first.stdout.rstrip().endswith("True")
        second = subprocess.run(command, capture_output=True, text=True, check=True)
        assert second.stdout.rstrip().endswith("False")
        with FeedbackStore(path) as store:
            lease = store.next_question("annotator-1")
            assert [each.model for each in lease.question.candidates] == ["embedded", "embedded"]
