"""Endpoints: which addresses a customer may give as a service's, and the one spelling in which each is kept."""

import re
from ipaddress import IPv6Address
from urllib.parse import urlsplit

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
IPV4 = re.compile(r"((25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(\.(?!$)|$)){4}")
_NUMERIC = re.compile(r"(0x[0-9a-f]*|\d+)")
# A few words, as in /storage/v1/s3; none of them begins with a dot.
_PATH = re.compile(r"(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}){0,8}")
_PORTS = {"https": 443, "http": 80}


class NotAnEndpoint(ValueError):
    """The address is not accepted; the message continues a sentence that begins with the parameter's name."""


def parse(value: str, *, example: str, allow_http: bool) -> str:
    """`value` as scheme://host[:port][/path], the host in its one spelling and without a slash at the end.

    Raises NotAnEndpoint, which says which part is not accepted, and shows `example` where that helps.
    """
    if re.search(r"[\s\\\x00-\x20\x7f]", value):
        raise NotAnEndpoint(f"must be an address such as {example}, without spaces or backslashes")
    try:
        parts = urlsplit(value)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise NotAnEndpoint(f"is not an address: write it like {example}") from None
    schemes = ("https", "http") if allow_http else ("https",)
    if parts.scheme not in schemes or not host:
        raise NotAnEndpoint(f"must begin with https:// and name a host, as in {example}")
    if "@" in parts.netloc:
        raise NotAnEndpoint("must not contain a user name or password")
    path = parts.path.rstrip("/")
    if "?" in value or "#" in value or not _PATH.fullmatch(path):
        raise NotAnEndpoint(
            "must be the host, and a path of letters, digits and . _ - where the service's API is under one, without a "
            "query or fragment; the bucket has its own parameter"
        )
    default = _PORTS[parts.scheme]
    if port is not None and port != default and not 1024 <= port <= 65535:
        raise NotAnEndpoint("has a port that is not accepted: use 443 or one from 1024 to 65535")
    name = _host(host, example)
    shown = f"[{name}]" if ":" in name else name
    return f"{parts.scheme}://{shown}" + (f":{port}" if port not in (None, default) else "") + path


def _host(host: str, example: str) -> str:
    """`host` in its one spelling: IDNA, lower case, no trailing dot. Raises NotAnEndpoint."""
    if ":" in host and "%" not in host:
        try:
            return str(IPv6Address(host))
        except ValueError:
            raise NotAnEndpoint(f"is not an address: write it like {example}") from None
    try:
        ascii_host = host.removesuffix(".").encode("idna").decode().lower()
    except UnicodeError:
        raise NotAnEndpoint("has a host name that cannot be written in DNS") from None
    labels = ascii_host.split(".")
    if "_" in ascii_host:
        # DNS knows such names, and botocore calls none of them.
        raise NotAnEndpoint("has an underscore in the host's name, which cannot be called: give the host another name")
    if len(ascii_host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise NotAnEndpoint("has a host name that is not valid")
    if _NUMERIC.fullmatch(labels[-1]) and not IPV4.fullmatch(ascii_host):
        raise NotAnEndpoint("has a host that is a number in an unusual spelling: write the host's name")
    return ascii_host
