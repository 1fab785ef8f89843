"""Fetch a file from the network: https all the way, bounded in size, and no credential in what is said or kept."""

import http.client
import re
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from core.pipeline import files
from core.pipeline.errors import Mistake

SECRET = re.compile("token|key|secret|sig|pass|pwd|auth|cred|session|jwt", re.IGNORECASE)


def fetch(address: str, target: Path, most: int) -> None:
    """Write what lies at ``address`` to ``target``, of at most ``most`` bytes and what the disk has free.

    Raises Mistake where it can't be had, or leads away from https.
    """
    try:
        with urllib.request.build_opener(_HttpsOnly).open(address, timeout=60) as answer, target.open("wb") as file:
            left = min(most, shutil.disk_usage(target.parent).free)
            while chunk := answer.read(files.CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise Mistake(f"{public(address)} is larger than this disk has free, or than {most / 1e9:,.0f} GB")
                file.write(chunk)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ValueError) as error:
        raise Mistake(f"{public(address)} can't be fetched: {error}") from None


def public(address: str) -> str:
    """An address without user, password and query, which may hold a credential; a path as it is."""
    if "://" not in address:
        return address
    try:
        parts = urlsplit(address)
    except ValueError:
        return "the address in data.location"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def has_credential(address: str) -> bool:
    """Whether an address names a user, or has a query whose keys sound like a secret."""
    if "://" not in address:
        return False
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    return "@" in parts.netloc or any(SECRET.search(key) for key, _ in parse_qsl(parts.query, keep_blank_values=True))


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, file, code, message, headers, url):  # type: ignore[no-untyped-def]
        if not url.startswith("https://"):
            raise Mistake(f"{public(request.full_url)} leads on to {public(url)}, which is not https")
        return super().redirect_request(request, file, code, message, headers, url)
