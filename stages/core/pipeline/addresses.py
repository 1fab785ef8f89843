"""Addresses of downloads, and the credentials that they can contain."""

import re
from urllib.parse import parse_qsl, urlsplit, urlunsplit

SECRET = re.compile("token|key|secret|sig|pass|pwd|auth|cred|session|jwt", re.IGNORECASE)


def public(address: str) -> str:
    """An address without user, password and query, which can contain credentials; a path is returned unchanged."""
    if "://" not in address:
        return address
    try:
        parts = urlsplit(address)
    except ValueError:
        return "the address in data.location"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def has_credential(address: str) -> bool:
    """Whether an address has a user, or a query key that matches SECRET."""
    try:
        parts = urlsplit(address if "://" in address else "")
    except ValueError:
        return False
    return "@" in parts.netloc or any(SECRET.search(key) for key, _ in parse_qsl(parts.query, keep_blank_values=True))
