"""What guards the annotation page, without a server: sign-in, foreign requests, and the headers of its responses."""

from __future__ import annotations

from pathlib import Path

import pytest
from annotation_pages import DROP, URL, Page, Parsed, comparison, one, question_of, send

from textrl_agents.feedback.page.security import HEADERS, LARGEST_BODY


class TestSignIn:
    def test_a_link_sets_a_strict_cookie_and_moves_on(self, tmp_path: Path):
        page = Page(tmp_path, [comparison()])
        answered = page.client().get("/sign-in", params={"token": page.tokens["annotator-1"]})
        assert (answered.status_code, answered.headers["location"]) == (303, "/")
        cookie = {part.strip().lower() for part in answered.headers["set-cookie"].split(";")}
        assert {"httponly", "samesite=strict", "path=/"} <= cookie
        assert page.tokens["annotator-1"] not in str(answered.headers)

    def test_from_another_site_a_page_moves_on(self, tmp_path: Path):
        """A browser sends no strict cookie along a redirect that another site began: / would answer 401."""
        page = Page(tmp_path, [comparison()])
        client = page.client(headers={"Sec-Fetch-Site": "cross-site"})
        answered = client.get("/sign-in", params={"token": page.tokens["annotator-1"]})
        assert answered.status_code == 200
        (refresh,) = [found for tag, found in Parsed(answered.text).tags if found.get("http-equiv")]
        assert refresh == {"http-equiv": "refresh", "content": "0; url=/"}
        assert page.tokens["annotator-1"] not in answered.text
        assert client.get("/").status_code == 200

    def test_a_wrong_token_is_401(self, tmp_path: Path):
        client = Page(tmp_path, [comparison()]).client()
        for token in ("", "x", DROP, "\x00", "é" * 50, "annotator-1"):
            answered = client.get("/sign-in", params={"token": token})
            assert answered.status_code == 401, token
            assert "set-cookie" not in answered.headers
        assert client.get("/").status_code == 401

    def test_without_a_token_everything_is_401(self, tmp_path: Path):
        page = Page(tmp_path, [comparison()])
        fields = question_of(page.signed_in()).fields
        client = page.client()
        assert client.get("/").status_code == client.get("/sign-in").status_code == 401
        assert client.post("/answer", data={**fields, "choice": "left"}).status_code == 401
        assert client.post("/sign-out", data=fields).status_code == 401
        assert page.records() == []

    def test_a_forged_cookie_is_401(self, tmp_path: Path):
        client = Page(tmp_path, [comparison()]).client()
        for forged in ("", "0" * 64, "annotator-1", DROP):
            assert client.get("/", headers={"Cookie": f"textrl_feedback_8765={forged}"}).status_code == 401, forged

    def test_the_cookie_is_not_the_token_and_the_token_no_cookie(self, tmp_path: Path):
        page = Page(tmp_path, [comparison()])
        cookie = dict(page.signed_in().cookies)["textrl_feedback_8765"]
        assert page.client().get("/sign-in", params={"token": cookie}).status_code == 401
        headers = {"Cookie": f"textrl_feedback_8765={page.tokens['annotator-1']}"}
        assert page.client().get("/", headers=headers).status_code == 401

    def test_signed_out_is_out(self, tmp_path: Path):
        client = Page(tmp_path, [comparison()]).signed_in()
        answered = client.post("/sign-out", data=question_of(client).fields)
        assert answered.status_code == 200
        assert "You are signed out" in answered.text
        assert client.get("/").status_code == 401


class TestRefusals:
    """What is refused changes nothing."""

    def test_a_vote_from_elsewhere_is_403(self, tmp_path: Path):
        page = Page(tmp_path, [comparison()])
        client = page.signed_in()
        fields = {**question_of(client).fields, "choice": "left"}
        origins = ("http://evil.example", "null", "http://127.0.0.1:8766", "https://127.0.0.1:8765", "")
        hosts = ("evil.example", "127.0.0.1", "127.0.0.1:8766", "127.0.0.1:8765.evil.example", "")
        foreign = {"Origin": origins, "Host": hosts, "Sec-Fetch-Site": ("cross-site", "same-site")}
        for name, value in ((name, value) for name, values in foreign.items() for value in values):
            assert client.post("/answer", data=fields, headers={name: value}).status_code == 403, (name, value)
        assert page.records() == []

    def test_reading_from_elsewhere_is_403(self, tmp_path: Path):
        page = Page(tmp_path, [comparison()])
        client = page.signed_in()
        for headers in ({"Host": "evil.example:8765"}, {"Origin": "http://evil.example"}):
            assert client.get("/", headers=headers).status_code == 403
            token = {"token": page.tokens["annotator-1"]}
            assert client.get("/sign-in", params=token, headers=headers).status_code == 403
            assert client.get("/static/page.css", headers=headers).status_code == 403

    def test_every_name_of_this_machine_is_its_own(self, tmp_path: Path):
        client = Page(tmp_path, [comparison()]).signed_in()
        for host in ("localhost:8765", "[::1]:8765", "LOCALHOST:8765"):
            assert client.get("/", headers={"Host": host, "Origin": f"http://{host}"}).status_code == 200

    def test_a_vote_from_the_page_itself_is_taken(self, tmp_path: Path):
        page = Page(tmp_path, [comparison()])
        client = page.signed_in()
        client.headers.update({"Origin": URL, "Sec-Fetch-Site": "same-origin"})
        assert send(client, choice="left").status_code == 303
        assert len(page.records()) == 1

    def test_without_its_csrf_token_a_form_is_403(self, tmp_path: Path):
        page = Page(tmp_path, [comparison()])
        client = page.signed_in()
        sent = {**question_of(client).fields, "choice": "left"}
        assert client.post("/answer", json=sent).status_code == 403
        for wrong in ("", "0" * 64, DROP, "é", sent["csrf"].upper()):
            assert client.post("/answer", data={**sent, "csrf": wrong}).status_code == 403, wrong
        del sent["csrf"]
        assert client.post("/answer", data=sent).status_code == client.post("/sign-out", data=sent).status_code == 403
        assert client.post("/answer", data=sent, files={"x": b"a file"}).status_code == 400
        assert page.records() == []
        assert client.get("/").status_code == 200

    def test_nobody_answers_for_another(self, tmp_path: Path):
        page = Page(tmp_path, [comparison(), comparison(prompt="other")], ("annotator-1", "annotator-2"))
        first, second = page.signed_in("annotator-1"), page.signed_in("annotator-2")
        own, others = question_of(first).fields, question_of(second).fields
        assert own["csrf"] != others["csrf"]
        assert own["lease"] != others["lease"]
        for wrong in ({"lease": others["lease"]}, {"csrf": others["csrf"]}, {"lease": "x"}, {"lease": DROP}):
            assert first.post("/answer", data={**own, **wrong, "choice": "left"}).status_code == 403
        assert page.records() == []

    def test_a_large_form_is_refused_unread(self, tmp_path: Path):
        page = Page(tmp_path, [comparison()])
        client = page.signed_in()
        assert send(client, choice="left", comment="x" * LARGEST_BODY).status_code == 413
        chunks = (b"x" for _ in range(2))
        assert client.post("/answer", content=chunks).status_code == 411
        both = {"Content-Length": "10", "Transfer-Encoding": "chunked"}  # uvicorn would read all chunks
        assert client.post("/answer", content=b"a=12345678", headers=both).status_code == 411
        for length in ("-1", "9" * 5000, "²", "1e3"):
            headers = [(b"host", b"127.0.0.1:8765"), (b"content-length", length.encode("latin-1"))]
            assert client.request("POST", "/answer", headers=headers).status_code == 411
        assert page.records() == []

    def test_other_methods_do_nothing(self, tmp_path: Path):
        page = Page(tmp_path, [comparison()])
        client = page.signed_in()
        sent = {**question_of(client).fields, "choice": "left"}
        for method in ("GET", "PUT", "DELETE", "OPTIONS", "TRACE"):
            answered = client.request(method, "/answer", params=sent, headers={"Content-Length": "0"})
            assert answered.status_code == 405, method
        assert page.records() == []

    def test_no_page_describes_the_requests(self, tmp_path: Path):
        client = Page(tmp_path, [comparison()]).signed_in()
        for path in ("/docs", "/redoc", "/openapi.json", "/static/", "/static/../app.py", "/static/%2e%2e/app.py"):
            assert client.get(path).status_code == 404


class TestHeaders:
    def test_every_response_has_them(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        page = Page(tmp_path, [comparison()])
        client = page.signed_in()
        signing_in = client.get("/sign-in", params={"token": page.tokens["annotator-1"]})
        answers = [client.get("/"), client.get("/none"), page.client().get("/"), signing_in, client.post("/answer")]
        answers += [client.get("/", headers={"Host": "evil"}), client.get("/static/keys.js")]
        monkeypatch.setattr(page.store, "next_question", lambda *_, **__: 1 / 0)
        unforeseen = page.client(raise_server_exceptions=False, cookies=dict(client.cookies)).get("/")
        assert [each.status_code for each in [*answers, unforeseen]] == [200, 404, 401, 303, 403, 403, 200, 500]
        for answered in [*answers, unforeseen]:
            own = {name: answered.headers[name] for name in HEADERS}
            differ = {"Referrer-Policy", "Cache-Control"}
            assert {name: own[name] for name in HEADERS if name not in differ} == {
                name: value for name, value in HEADERS.items() if name not in differ
            }
            assert own["Referrer-Policy"] in ("no-referrer", "same-origin")
            assert own["Cache-Control"] == ("no-cache" if "/static/" in str(answered.url) else "no-store")
        assert signing_in.headers["Referrer-Policy"] == "no-referrer"  # its address holds the token

    def test_the_policy_allows_nothing_inline_and_nothing_from_outside(self):
        policy = dict(part.split(" ", 1) for part in HEADERS["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert set(policy.values()) == {"'none'", "'self'"}
        assert (HEADERS["X-Content-Type-Options"], HEADERS["X-Frame-Options"]) == ("nosniff", "DENY")

    def test_pages_need_nothing_inline_and_nothing_from_outside(self, tmp_path: Path):
        kinds = [comparison(), one("ranking", "a", "b", "c"), one("rating", "a"), one("edit", "a")]
        page = Page(tmp_path, kinds)
        client = page.signed_in()
        found = []
        for _ in kinds:
            shown = question_of(client)
            found.append(shown)
            assert send(client, shown, choice="skip").status_code == 303
        found.append(question_of(client))
        for tag, attributes in (each for shown in found for each in shown.tags):
            assert not [name for name in attributes if name == "style" or name.startswith("on")]
            for name in ("src", "href", "action"):
                assert (attributes.get(name) or "/").startswith(("/", "#"))
            assert tag not in ("style", "iframe", "object", "base")
            assert tag != "script" or attributes["src"] == "/static/keys.js"
