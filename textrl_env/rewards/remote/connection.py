"""One request to a server within limits of time and size, tried again where that can help.

A server that cannot be reached, is too slow, answers 429 or 5xx, or breaks off in the middle is asked again, a few
times and ever more slowly; and no sooner than its Retry-After says, where it answers 429 or 503. What would be the same
again is an error at once: another status, a redirect (texts and token would go where nobody sent them), a body that is
too large, one with NaN. The proxies that the environment names are not used.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import random
import re
import time
from typing import Any

from textrl_env.errors import ConfigError, InvalidScore, MissingExtra, RewardError, RewardTimeout
from textrl_env.foreign_text import message_of, shown
from textrl_env.rewards.remote.answer import NotFiniteError, parsed
from textrl_env.rewards.time_limit import TimeLimit

_BUSY = 429  # "too many requests"
_UNAVAILABLE = 503
_LOCAL = ("localhost", "127.0.0.1", "[::1]")
_CHUNK = 2**16
_SHOWN = 300  # characters of an answer in a message
_HEADER = re.compile(r"[A-Za-z0-9-]+")
_JITTER = random.Random()  # of its own: Python's shared generator belongs to the run, which must be repeatable
# Connections that stay open between calls, at most: one for each thread that calls at once. They are opened as needed.
KEPT_CONNECTIONS = 256
FIRST_WAIT, LONGEST_WAIT = 0.5, 10.0  # seconds between two attempts, at most; each wait is twice the one before


class Connection:
    """POSTs JSON to one address and gives the JSON that it answers.

    url: http or https, without a user's name and password. token_env: the environment variable that holds a token,
    which is read at each request and kept nowhere; header: in which it is sent, as "Bearer TOKEN" in Authorization and
    as it is in another. retries: attempts after the first. connect_timeout, read_timeout: seconds to connect, and to
    wait for the next bytes. timeout: seconds of all attempts together. max_bytes: of an answer.

    Raises ConfigError where an argument cannot work, and MissingExtra where urllib3 is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        token_env: str | None,
        header: str,
        retries: int,
        connect_timeout: float,
        read_timeout: float,
        timeout: float,
        max_bytes: int,
    ):
        if importlib.util.find_spec("urllib3") is None:
            raise MissingExtra("rewards", "urllib3")
        self.url, self.shown_url, host, scheme = _checked_url(url)
        self.token_env, self.header = token_env, header
        self.retries = _whole("retries", retries, least=0)
        self.max_bytes = _whole("max_bytes", max_bytes, least=1)
        self.connect_timeout = _seconds("connect_timeout", connect_timeout)
        self.read_timeout = _seconds("read_timeout", read_timeout)
        self.timeout = _seconds("timeout", timeout)
        if not isinstance(header, str) or not _HEADER.fullmatch(header):
            raise ConfigError(f"header must be the name of an HTTP header, such as X-Api-Key, got {shown(header)}")
        if token_env is not None:
            if scheme == "http" and host not in _LOCAL:
                raise ConfigError(
                    f"the token in {token_env} would go to {self.shown_url} unencrypted; use https, or a tunnel to "
                    "127.0.0.1"
                )
            self._headers()
        self._pools: dict[int, Any] = {}
        # For what urllib3 does not limit: names that resolve slowly, and bytes that come one by one. A little more, so
        # that whatever can tell a reason comes first.
        self._limit = TimeLimit(self.timeout + 0.5, self.shown_url)

    def post(self, payload: dict[str, Any], samples: str, count: int) -> Any:
        """The answer to `payload`. samples: which ones it holds, for errors; count: how many.

        Raises RewardTimeout where there was none in time, InvalidScore where it was no JSON, and RewardError for
        everything else that went wrong.
        """
        where = f"reward server {self.shown_url} ({samples})"
        try:
            body = json.dumps(payload, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise RewardError(f"{where} cannot be sent what JSON cannot hold: {message_of(error)}") from error
        try:
            return self._limit.call(self._attempts, {"body": body, "where": where}, count)
        except RewardTimeout as error:
            if where in str(error):
                raise
            raise RewardTimeout(f"{where}: {error}") from error

    def _attempts(self, body: bytes, where: str) -> Any:
        deadline = time.monotonic() + self.timeout
        for attempt in itertools.count(1):
            try:
                return self._answer(body, deadline - time.monotonic(), where)
            except _Passing as problem:
                wait = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (attempt - 1)) * _JITTER.uniform(0.5, 1.0)
                wait = max(wait, problem.wait)
                if attempt > self.retries or time.monotonic() + wait >= deadline:
                    kind = RewardTimeout if problem.slow else RewardError
                    attempts = "1 attempt" if attempt == 1 else f"{attempt} attempts"
                    asks = f"; it asks to wait {problem.wait:g} s (timeout: {self.timeout:g} s)" if problem.wait else ""
                    raise kind(f"{where} failed in {attempts}: {problem}{asks}") from problem
            time.sleep(wait)
        raise AssertionError("unreachable")

    def _answer(self, body: bytes, seconds: float, where: str) -> Any:
        """One attempt of at most `seconds`. Raises _Passing where another may succeed."""
        from urllib3.exceptions import HTTPError, NewConnectionError
        from urllib3.exceptions import TimeoutError as Slow
        from urllib3.util import Timeout

        seconds = max(seconds, 0.001)  # a wait may have taken longer than it was to
        timeout = Timeout(connect=min(self.connect_timeout, seconds), read=min(self.read_timeout, seconds))
        try:
            response = self._pool.request(
                "POST",
                self.url,
                body=body,
                headers=self._headers(),
                timeout=timeout,
                redirect=False,
                retries=False,
                preload_content=False,
            )
            try:
                answered = self._body(response, where)
            except BaseException:
                response.close()  # what is left of it must not be read as the next answer
                raise
            response.release_conn()
        except (HTTPError, OSError) as error:
            slow = isinstance(error, (Slow, TimeoutError)) and not isinstance(error, NewConnectionError)
            raise _Passing(f"{type(error).__name__}: {self._hidden(message_of(error))}", slow=slow) from error
        return self._checked(response, answered, where)

    def _checked(self, response: Any, body: bytes, where: str) -> Any:
        """The JSON of an answer."""
        status = response.status
        said = self._said(body)
        if status == _BUSY or status >= 500:
            wait = _retry_after(response.headers.get("Retry-After")) if status in (_BUSY, _UNAVAILABLE) else 0.0
            raise _Passing(f"it answered {status}: {said}", wait=wait)
        if 300 <= status < 400:
            elsewhere = shown(self._hidden(response.headers.get("Location") or ""), 200)
            raise RewardError(
                f"{where} redirects to {elsewhere}, where nothing is sent; give that address if it is right"
            )
        if status != 200:
            raise RewardError(f"{where} answered {status}: {said}")
        try:
            return self._without_token(parsed(body))
        except NotFiniteError as error:
            raise InvalidScore(f"{where} gave no scores: {error}") from error
        except (ValueError, RecursionError) as error:
            raise _Passing(f"it answered no JSON, {said}: {message_of(error)}") from error

    def _body(self, response: Any, where: str) -> bytes:
        """The whole body, as it is sent. Raises RewardError where it is longer than the limit."""
        body = bytearray()
        while chunk := response.read(_CHUNK, decode_content=False):
            body += chunk
            if len(body) > self.max_bytes:
                raise RewardError(f"{where} answered more than {self.max_bytes} bytes (max_bytes)")
        return bytes(body)

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        if self.token_env is not None:
            token = _token(self.token_env)
            headers[self.header] = f"Bearer {token}" if self.header.lower() == "authorization" else token
        return headers

    def _hidden(self, text: str) -> str:
        """A text without the token, should the server send it back, as it is or as JSON or Python spell it."""
        if self.token_env is not None:
            token = _token(self.token_env)
            for spelled in (json.dumps(token)[1:-1], repr(token)[1:-1], token):
                text = text.replace(spelled, "***")
        return text

    def _said(self, body: bytes) -> str:
        """How a body begins, for a message. A token is taken out before the rest is cut off, or half would stay."""
        token = "" if self.token_env is None else _token(self.token_env)
        text = body[: _SHOWN + 2 * len(token)].decode("utf-8", "replace")
        return shown(self._hidden(text)[:_SHOWN], _SHOWN)

    def _without_token(self, answer: Any) -> Any:
        """An answer whose texts do not hold the token: messages about wrong scores quote it."""
        if self.token_env is None or isinstance(answer, (int, float)):
            return answer
        if isinstance(answer, str):
            return self._hidden(answer)
        if isinstance(answer, list):
            return [self._without_token(each) for each in answer]
        if isinstance(answer, dict):
            return {self._hidden(name): self._without_token(each) for name, each in answer.items()}
        return answer

    @property
    def _pool(self) -> Any:
        """This process's connections: one that was forked off must not read the answers to its parent."""
        from urllib3 import PoolManager

        if os.getpid() not in self._pools:
            self._pools = {os.getpid(): PoolManager(maxsize=KEPT_CONNECTIONS)}
        return self._pools[os.getpid()]

    def __getstate__(self) -> dict[str, Any]:
        # Open connections are neither pickled nor copied.
        return {**vars(self), "_pools": {}}


class _Passing(Exception):
    """Something that may be over at the next attempt. slow: it took too long. wait: seconds before that, at least."""

    def __init__(self, message: str, *, slow: bool = False, wait: float = 0.0):
        super().__init__(message)
        self.slow, self.wait = slow, wait


def _retry_after(header: str | None) -> float:
    """The seconds of a Retry-After header, which has a number of them or a date (RFC 9110, 10.2.3); 0 for any other."""
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    try:
        return 0.0 if header is None else float(Retry().parse_retry_after(header))
    except (InvalidHeader, ValueError, OverflowError):
        return 0.0


def _checked_url(url: Any) -> tuple[str, str, str, str]:
    """The address; the same as messages show it, without its query; its host and its scheme. Raises ConfigError."""
    from urllib3.exceptions import LocationParseError
    from urllib3.util import parse_url

    try:
        parts = parse_url(url)
    except (LocationParseError, TypeError, AttributeError, ValueError):
        parts = None
    if parts is not None and parts.auth is not None:
        raise ConfigError(
            f"the address of the reward server {shown(parts.host)} holds a user's name or password, which would be "
            "logged; put a token into an environment variable and name that: token_env="
        )
    if parts is None or parts.scheme not in ("http", "https") or not parts.host:
        # What cannot be read may hold a password all the same.
        given = re.sub("//.*@", "//***@", url) if isinstance(url, str) else url
        raise ConfigError(f"{shown(given, 200)} is no address of a reward server, such as http://127.0.0.1:5000/score")
    return parts.url, parts._replace(query=None, fragment=None).url, parts.host, parts.scheme


def _token(name: str) -> str:
    """The value of an environment variable. Raises ConfigError where there is none that a header can hold."""
    value = os.environ.get(name, "") if isinstance(name, str) else ""
    if not value:
        raise ConfigError(f"the environment variable {shown(name)} of the reward server's token is not set")
    if not (value.isascii() and value.isprintable()):
        raise ConfigError(f"the token in {name} holds characters that no header can have, such as a line's end")
    return value


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e6:
        raise ConfigError(f"{name} must be a number of seconds above 0, got {shown(value)}")
    return float(value)


def _whole(name: str, value: Any, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} must be a whole number >= {least}, got {shown(value)}")
    return value
