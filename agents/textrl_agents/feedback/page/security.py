"""What every request passes before the page sees it, and the headers that every response carries."""

from __future__ import annotations

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from textrl_agents.feedback.page.address import Address

LARGEST_BODY = 2**20  # bytes of a form
STATIC = "/static/"
_LENGTH = re.compile("[0-9]{1,12}")

POLICY = "; ".join(
    (
        "default-src 'none'",
        "style-src 'self'",
        "script-src 'self'",
        "img-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Gate:
    """Refuses what does not come from the page itself, as ASGI middleware, and adds `HEADERS` where they are not set.

    A foreign Host is refused (403), which closes DNS rebinding; so is a foreign Origin, or one that the browser hides
    or calls cross-site where something is sent. A body without a length or above `LARGEST_BODY` is refused unread.
    """

    def __init__(self, app: ASGIApp, address: Address):
        self.app, self.address = app, address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it here."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if scope["path"].startswith(STATIC):
                    headers["Cache-Control"] = "no-cache"  # kept, and asked for anew by its ETag
            await send(message)

        refusal = self._refusal(scope["method"], Headers(scope=scope))
        await (refusal or self.app)(scope, receive, send_with_headers)

    def _refusal(self, method: str, headers: Headers) -> PlainTextResponse | None:
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or hosts[0].lower() not in self.address.hosts:
            return PlainTextResponse(f"This page is at {self.address.url}.", 403)
        if any(origin.lower() not in self.address.origins for origin in origins):
            return PlainTextResponse("This came from another site and was refused.", 403)
        if method in ("GET", "HEAD"):
            return None
        if headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return PlainTextResponse("This came from another site and was refused.", 403)
        length = headers.get("content-length", "")
        # A body in chunks may be of any length, whatever length is named beside it.
        if "transfer-encoding" in headers or not _LENGTH.fullmatch(length):
            return PlainTextResponse("The length of what is sent must be known.", 411)
        if int(length) > LARGEST_BODY:
            return PlainTextResponse(f"An answer has at most {LARGEST_BODY:,} bytes.", 413)
        return None
