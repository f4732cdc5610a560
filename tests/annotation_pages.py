"""What the tests of the annotation page share: an application without a server, its annotators, and its forms."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from textrl_agents.feedback.page.address import Address
from textrl_agents.feedback.page.app import annotation_app
from textrl_agents.feedback.page.sign_in import SignInFile
from textrl_env.preferences import Candidate, FeedbackStore, Question

URL = "http://127.0.0.1:8765"
HOSTILE = (
    "<script>window.ran = 1; document.title = 'ran'</script>",
    "<img src=x onerror=\"window.ran = 1; document.title = 'ran'\">",
    "[click](javascript:document.title='ran') <a href=\"javascript:document.title='ran'\">click</a>",
    "\"' onmouseover=document.title='ran' x='</textarea></div></section><svg onload=document.title='ran'>",
    "\x1b[31mred\x07 \x00nul \u202ereversed \x85 {{ 7*7 }} {% raw %} ${7*7} &lt;b&gt;",
)
DROP = "'; DROP TABLE records; --"


def comparison(left: str = "good", right: str = "bad", prompt: Any = "Say hello.") -> Question:
    return Question("comparison", prompt, (Candidate(left, "a"), Candidate(right, "b")))


def one(kind: str, *texts: str, **named: Any) -> Question:
    return Question(kind, "the prompt", tuple(map(Candidate, texts)), **named)


class Page:
    """An application over a store in `folder`. Each annotator has a client that is signed in."""

    def __init__(
        self, folder: Path, questions: Iterable[Question], annotators: tuple[str, ...] = ("annotator-1",), **how: Any
    ):
        self.path = folder / "votes.sqlite"
        clock: dict[str, Callable[[], float]] = {"clock": how.pop("clock")} if "clock" in how else {}
        self.store = FeedbackStore(self.path, **clock)
        self.store.ask(questions, votes=how.pop("votes", 1))
        file = SignInFile(self.path)
        self.tokens = file.issue(annotators)
        self.app = annotation_app(self.store, file.sign_in(annotators), Address.of("127.0.0.1", 8765), **how)

    def records(self) -> list[Any]:
        return list(self.store.records())

    def client(self, **how: Any) -> TestClient:
        """A browser that nobody has signed in with."""
        return TestClient(self.app, base_url=URL, follow_redirects=False, **how)

    def signed_in(self, annotator: str = "annotator-1") -> TestClient:
        client = self.client()
        assert client.get("/sign-in", params={"token": self.tokens[annotator]}).status_code == 303
        return client


class Parsed(HTMLParser):
    """A page as a browser reads it: its tags with their attributes, its text, and the fields of its answer form."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []  # of the elements of the class `text`, and of text areas
        self.open = False
        self.feed(html)
        self.fields = {
            str(attributes["name"]): str(attributes["value"])
            for tag, attributes in self.tags
            if tag == "input" and attributes.get("type") == "hidden"
        }

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag == "textarea" or str(attributes.get("class", "")).split()[:1] == ["text"]:
            self.open = True
            self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("textarea", "div"):
            self.open = False

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts[-1] += data


def question_of(client: TestClient) -> Parsed:
    """The question that is shown."""
    answered = client.get("/")
    assert answered.status_code == 200
    return Parsed(answered.text)


def send(client: TestClient, page: Parsed | None = None, **fields: str) -> Any:
    """Send the answer form of `page`, of the question that is shown where None, with these fields on top."""
    page = question_of(client) if page is None else page
    return client.post("/answer", data={**page.fields, **fields})


def shown_error(html: str) -> str:
    found = re.search(r'role="alert">(.*?)</p>', html)
    return found[1] if found else ""
