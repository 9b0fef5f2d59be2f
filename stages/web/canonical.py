"""Write each URL in one way, and name each row after where it came from."""

import re
from hashlib import blake2b
from urllib.parse import unquote

import idna

from stages.web.addresses import literal_ip

DEFAULT_PORT = {"http": 80, "https": 443}

_EDGES = "".join(map(chr, range(0x21)))  # spaces and control characters
_INNER = str.maketrans("", "", "\t\n\r")  # line breaks inside a URL mean nothing
_PARTS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):([^#]*)", re.DOTALL)
_WEB = re.compile(r"//([^/\\?]*)([^?]*)(\?.*)?", re.DOTALL)
_HOST = re.compile(r"(?!.{254})[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_PORT = re.compile(r"0{0,5}[1-9][0-9]{0,4}")
_UNRESERVED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")
_TO_ENCODE = re.compile(r"%[0-9A-Fa-f]{2}|[^A-Za-z0-9._~!$&'()*+,;=:@/?\[\]-]")


def canonical_url(url: str) -> str:
    """Write ``url`` the one way that stands for all its spellings.

    For http and https: scheme and host in lower case, names as IDNA and numbers as dotted IPv4,
    no default port, no fragment, no dot segments, at least "/" as the path, and percent-encoding
    only where it is needed and in capitals. The query keeps its order. Of any other scheme only
    the fragment is dropped: it is for the caller to refuse it.

    Args:
        url: A URL as it was found.

    Raises:
        ValueError: It cannot be a URL, or it carries a user name or password.

    References:
        RFC 3986, section 6.2; WHATWG URL Standard; UTS #46 for names.
    """
    match = _PARTS.match(url.strip(_EDGES).translate(_INNER))
    if match is None:
        raise ValueError("The URL has no scheme such as https.")
    scheme, rest = match[1].lower(), match[2]
    if scheme not in DEFAULT_PORT:
        return f"{scheme}:{rest}"
    match = _WEB.fullmatch(rest)
    if match is None or not match[1]:
        raise ValueError("The URL has no host.")
    authority, path, query = match[1], match[2].replace("\\", "/"), match[3] or ""
    if "@" in authority:
        raise ValueError("The URL carries a user name or password.")
    path = _without_dots(_percent(path)) or "/"
    return f"{scheme}://{_host(authority, scheme)}{path}{_percent(query)}"


def row_id(*parts: str) -> str:
    """Name a row after its origin: BLAKE2b-128 of ``parts`` joined by newlines, 32 hex digits."""
    origin = "\n".join(parts).encode("utf-8", "surrogateescape")  # a file's name may be any bytes
    return blake2b(origin, digest_size=16).hexdigest()


def _host(authority: str, scheme: str) -> str:
    """Write host and port; the default port is left out."""
    name, colon, port = authority.rpartition(":")
    if not colon or port.endswith("]"):
        name, port = authority, ""
    if port and not (_PORT.fullmatch(port) and int(port) < 65536):
        raise ValueError(f"The URL has the port {port!r}; ports are numbers from 1 to 65535.")
    suffix = "" if not port or int(port) == DEFAULT_PORT[scheme] else f":{int(port)}"
    if name.startswith("["):
        try:
            return f"[{literal_ip(name)}]{suffix}"
        except ValueError:
            raise ValueError(f"The URL has the host {name!r}, which is no IPv6 address.") from None
    return _name(name) + suffix


def _name(host: str) -> str:
    """Write a host's name in ASCII, or its number as four parts."""
    host = unquote(host)
    try:
        name = host.lower() if host.isascii() else idna.encode(host, uts46=True).decode()
        name = name.removesuffix(".")
        ip = literal_ip(name) if _HOST.fullmatch(name) else None
    except ValueError as problem:  # idna's errors are ValueErrors too
        raise ValueError(f"The URL has the host {host!r}, which cannot be: {problem}.") from None
    if not _HOST.fullmatch(name):
        raise ValueError(f"The URL has the host {host!r}, which can be no name.")
    return name if ip is None else str(ip)


def _percent(text: str) -> str:
    """Decode what needs no percent-encoding, and encode what does, in capitals."""
    return _TO_ENCODE.sub(_percent_one, text)


def _percent_one(match: re.Match[str]) -> str:
    found = match[0]
    if len(found) == 3:
        plain = chr(int(found[1:], 16))
        return plain if plain in _UNRESERVED else found.upper()
    try:
        # A header may hold bytes that are no UTF-8; Python keeps them as surrogates.
        return "".join(f"%{byte:02X}" for byte in found.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        raise ValueError(f"The URL holds {found!r}, which is half a character.") from None


def _without_dots(path: str) -> str:
    """Walk "." and ".." away, as RFC 3986 section 5.2.4 does."""
    if "/." not in path:
        return path
    kept: list[str] = []
    segments = path.split("/")
    for segment in segments[1:]:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)
