"""Where the page is reached: the one place that says which Host and Origin are its own."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from textrl_env.errors import ConfigError
from textrl_env.foreign_text import shown

_DEFAULT_PORTS = {"http": 80, "https": 443}
_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True)
class Address:
    """The address that annotators open, and the others under which the same page may be asked for.

    url: without a path, such as "http://127.0.0.1:8765". hosts: values of the Host header. origins: of Origin.
    """

    url: str
    hosts: frozenset[str]
    origins: frozenset[str]

    @property
    def is_encrypted(self) -> bool:
        """Whether a proxy in front of the page speaks TLS."""
        return self.url.startswith("https:")

    @property
    def is_private(self) -> bool:
        """Whether nobody on a network can read what is sent: it stays on this machine, or is encrypted."""
        return self.is_encrypted or is_loopback(urlsplit(self.url).hostname or "")

    @staticmethod
    def check_listening(host: str, *, network: bool, url: str | None) -> None:
        """Raise ConfigError where the page would be reached by others and nobody said so, or under no known address."""
        if not is_loopback(host) and not network:
            raise ConfigError(
                f"host {shown(host)} lets other machines reach the page; add --network if they should, or leave out "
                "--host"
            )
        if url is not None:
            Address._public(url)
        elif _is_every_interface(host):
            raise ConfigError(
                f"host {shown(host)} stands for all of this machine's addresses; name the one that annotators open, as "
                "in --url http://192.168.1.5:8765"
            )

    @classmethod
    def of(cls, host: str, port: int, url: str | None = None) -> Address:
        """Return the address of a server bound to `host` and `port`. url: the one that annotators open, if another."""
        if url is not None:
            return cls._public(url)
        literal = f"[{host}]" if ":" in host else host
        return cls._of("http", literal, port, _LOOPBACK_NAMES if is_loopback(host) else (literal,))

    @classmethod
    def _public(cls, url: str) -> Address:
        """Return the address that `url` names. Raises ConfigError for a malformed one."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        inside = parts.username is None and not parts.query and not parts.fragment and parts.path in ("", "/")
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or not inside:
            raise ConfigError(
                f"url must be the page's address without a path, such as https://feedback.example.org, got {shown(url)}"
            )
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return cls._of(parts.scheme, host, port or _DEFAULT_PORTS[parts.scheme], (host,))

    @classmethod
    def _of(cls, scheme: str, host: str, port: int, names: tuple[str, ...]) -> Address:
        # Browsers leave out the port that the scheme implies.
        suffix = "" if port == _DEFAULT_PORTS[scheme] else f":{port}"
        hosts = frozenset(f"{name.lower()}{suffix}" for name in names)
        return cls(f"{scheme}://{host}{suffix}", hosts, frozenset(f"{scheme}://{each}" for each in hosts))


def is_loopback(host: str) -> bool:
    """Whether a server bound to `host` can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_every_interface(host: str) -> bool:
    """Whether `host` stands for all of the machine's addresses, and so for none that a browser could open."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return host == ""
