"""How pictures are fetched: every bound and every courtesy, with its default."""

import re
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Literal

from infra.errors import BadValue

FileType = Literal[
    "image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "image/tiff",
    "video/mp4", "video/webm", "video/quicktime",
]  # fmt: skip
IMAGES: tuple[FileType, ...] = (
    "image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "image/tiff",
)  # fmt: skip
VIDEOS: tuple[FileType, ...] = ("video/mp4", "video/webm", "video/quicktime")

_CONTACT = re.compile(r"[^\s@<>()]+@[^\s@<>()]+\.[^\s@<>()]+|https?://[^\s<>()]+")
_AT_LEAST = {
    "concurrency": 1, "per_host": 1, "attempts": 1, "max_bytes": 1, "max_video_bytes": 1,
    "max_header_bytes": 1024, "max_redirects": 0, "rate_per_host_s": 0,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchSettings:
    """How pictures are fetched over HTTP.

    Raises:
        BadValue: A setting cannot work.
    """

    contact: str = ""
    """E-mail address or http(s) URL at which webmasters reach whoever runs this; it is sent with
    every request. While it is empty, nothing but this machine's own servers is asked."""
    concurrency: int = 64
    """Requests in flight per fetching worker."""
    per_host: int = 8
    """Requests in flight per host. Shared out among the fetching workers, one each at least."""
    rate_per_host_s: float = 0.0
    """Requests per second and host, begun evenly; 0: unlimited. Shared out among the fetching
    workers, so a host that only one of them asks sees less."""
    robots: Literal["obey", "ignore"] = "obey"
    """What robots.txt means to us, its Crawl-delay included. Ignore it on servers of your own."""
    optouts: Literal["obey", "ignore"] = "obey"
    """What X-Robots-Tag (noai, noimageai, noindex, noimageindex, none) and tdm-reservation mean to
    us. Ignored ones are noted all the same."""
    attempts: int = 3
    """How often one picture is tried, where trying again can help: 429, 5xx, timeouts, broken
    connections."""
    budget_s: float = 60.0
    """Longest time for one picture over all attempts, with the pauses between. A host that wants
    longer pauses is not asked further."""
    connect_s: float = 5.0
    """Longest wait for a connection: name, TCP and TLS."""
    first_byte_s: float = 10.0
    """Longest wait for an answer to begin: all of its headers, the connection included."""
    deadline_s: float = 20.0
    """Longest time for one attempt, redirects included. Waiting for a turn does not count."""
    max_bytes: int = 20 * 2**20
    """Larger pictures are an error; nothing of them is kept. Counted after decompression."""
    max_video_bytes: int = 512 * 2**20
    """The same for videos."""
    max_header_bytes: int = 32 * 2**10
    """Larger headers are an error."""
    max_redirects: int = 5
    """Longest chain of redirects to follow."""
    types: tuple[FileType, ...] = IMAGES
    """What a file may be, by its first bytes and whatever the server calls it."""
    allow_loopback: bool = False
    """Whether this machine's own servers may be asked."""
    allow_private: tuple[str, ...] = ()
    """Internal networks that may be asked, such as 10.1.0.0/16. Where clouds hand out credentials
    (169.254.169.254 and its like) is never asked."""

    def __post_init__(self) -> None:
        for name in ("budget_s", "connect_s", "first_byte_s", "deadline_s"):
            if getattr(self, name) <= 0:
                raise BadValue(f"fetch.{name}", getattr(self, name), "give a positive number.")
        for name, least in _AT_LEAST.items():
            if getattr(self, name) < least:
                raise BadValue(f"fetch.{name}", getattr(self, name), f"give {least} or more.")
        if self.contact and not _CONTACT.fullmatch(self.contact):
            raise BadValue("fetch.contact", self.contact, "give an e-mail address or a URL.")
        if not self.types:
            raise BadValue("fetch.types", self.types, "name at least one, such as image/jpeg.")
        for network in self.allow_private:
            try:
                ip_network(network)
            except ValueError as problem:
                raise BadValue(
                    "fetch.allow_private",
                    network,
                    f"give networks such as 10.1.0.0/16 ({problem}).",
                ) from None

    @property
    def takes_videos(self) -> bool:
        """Whether files may be videos."""
        return any(kind in VIDEOS for kind in self.types)

    def cap_bytes(self, kind: str) -> int:
        """Return how large a file of type ``kind`` may be, in bytes."""
        return self.max_video_bytes if kind in VIDEOS else self.max_bytes
