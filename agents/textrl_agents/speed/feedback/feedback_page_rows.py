"""Row on the annotation page: how long a vote takes while eight annotators answer as fast as they can."""

from __future__ import annotations

import http.client
import json
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from textrl_agents.speed.measurement import Bench, Measured, Target, measurement
from textrl_env.errors import TextRLError
from textrl_env.preferences.store import FeedbackStore

ANNOTATORS = 8
_LINK = re.compile(r"(http://127\.0\.0\.1:\d+)/sign-in\?token=(\S+)")
_FIELD = re.compile(r'name="(csrf|lease)" value="([^"]+)"')


class Seconds(NamedTuple):
    """What an annotator waited for a vote to be stored, and for the next question."""

    vote: float
    question: float


@measurement(Target("<=", 50.0), unit="ms", quick={"votes": 20})
def vote_of_eight(bench: Bench, *, votes: int = 100) -> Measured:
    """Time a vote, from the click until the answer that it is stored; the median over all votes of all repeats.

    Eight annotators vote without a pause for thought, which is the worst case. The page is a process of its own, and
    the annotators are another. votes: of each annotator, in a repeat.
    """
    waited: list[Seconds] = []
    shown = (votes + 1) * ANNOTATORS  # each annotator is shown one more than they answer
    for _ in range(bench.repeats):
        with tempfile.TemporaryDirectory() as folder, ServedPage(Path(folder), questions=shown) as page:
            with ThreadPoolExecutor(ANNOTATORS) as pool:
                for found in pool.map(lambda session: [session.vote() for _ in range(votes)], page.sign_in()):
                    waited += found
            with FeedbackStore(page.store, read_only=True) as store:
                stored = store.progress().votes
            if stored != votes * ANNOTATORS:
                raise TextRLError(f"{votes * ANNOTATORS} votes were sent, and {stored} are stored")
    milliseconds = 1000 * np.array(waited)  # [votes, 2]
    slow = np.quantile(milliseconds[:, 0], 0.95)
    question = statistics.median(milliseconds[:, 1])
    detail = f"{ANNOTATORS} annotators without a pause, 95% below {slow:.1f} ms, next question {question:.1f} ms"
    return Measured(statistics.median(milliseconds[:, 0]), detail)


class ServedPage:
    """`textrl feedback serve` in a process of its own, on a free port of this machine, with comparisons to answer.

    folder: where its store and the file of its questions go. links: one for each annotator. said: what it printed.
    """

    def __init__(self, folder: Path, *, questions: int, annotators: int = ANNOTATORS):
        self.store = folder / "votes.sqlite"
        pairs = folder / "pairs.jsonl"
        lines = [{"prompt": f"prompt {n}", "responses": [f"one answer {n}", f"another {n}"]} for n in range(questions)]
        pairs.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
        command = [sys.executable, "-m", "textrl_agents", "feedback", "serve", str(self.store), "--port", "0"]
        self._command = [*command, "--questions", str(pairs), "--annotators", str(annotators)]

    def __enter__(self) -> ServedPage:
        self.links: list[str] = []
        self.said = ""
        self._sessions: list[AnnotatorSession] = []
        self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            self.links += [found[0] for found in _LINK.finditer(line)]
            if line.startswith("The page is at"):
                return self
        raise TextRLError(f"the annotation page did not start: {self.said}")

    def __exit__(self, *raised: object) -> None:
        if self.process.poll() is None:
            self.stop()

    def stop(self, kind: signal.Signals = signal.SIGTERM) -> None:
        """Close all sessions, and end the server by a signal."""
        for session in self._sessions:
            session.close()
        self.process.send_signal(kind)
        self.said += self.process.communicate()[0]

    def sign_in(self) -> list[AnnotatorSession]:
        """Open a session of each annotator; they are closed with the page."""
        self._sessions = [AnnotatorSession(link) for link in self.links]
        return self._sessions


class AnnotatorSession:
    """An annotator's browser: signs in, and answers one question after the other over one connection."""

    def __init__(self, link: str):
        address, token = _LINK.fullmatch(link).groups()  # type: ignore[union-attr]
        self._connection = http.client.HTTPConnection(address.removeprefix("http://"))
        self._headers = {"Origin": address, "Content-Type": "application/x-www-form-urlencoded"}
        answered = self._ask("GET", f"/sign-in?token={token}")
        self._headers["Cookie"] = str(answered.getheader("set-cookie")).partition(";")[0]
        self._page = self._read_page()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @property
    def has_question(self) -> bool:
        """Whether a question is shown, and not that none is left."""
        return 'name="lease"' in self._page

    def vote(self) -> Seconds:
        """Prefer the left response of the question that is shown, and go on to the next."""
        fields = {**dict(_FIELD.findall(self._page)), "choice": "left"}
        start = time.perf_counter()
        answered = self._ask("POST", "/answer", urllib.parse.urlencode(fields))
        stored = time.perf_counter()
        if (answered.status, answered.getheader("location")) != (303, "/"):
            raise TextRLError(f"the page answered {answered.status} to a vote")
        self._page = self._read_page()
        return Seconds(stored - start, time.perf_counter() - stored)

    def _read_page(self) -> str:
        self._ask("GET", "/")
        return self._body.decode()

    def _ask(self, method: str, path: str, body: str | None = None) -> http.client.HTTPResponse:
        self._connection.request(method, path, body, self._headers)
        response = self._connection.getresponse()
        self._body = response.read()
        return response
