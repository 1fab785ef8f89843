"""Download a file over https only, with a size limit, and keep credentials out of messages and outputs."""

import http.client
import re
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from core.pipeline import files
from core.pipeline.errors import PipelineError

SECRET = re.compile("token|key|secret|sig|pass|pwd|auth|cred|session|jwt", re.IGNORECASE)


def fetch(address: str, target: Path, most: int) -> None:
    """Download ``address`` to ``target``: at most ``most`` bytes, and at most the free disk space.

    Raises PipelineError if the download fails or is redirected away from https.
    """
    try:
        with urllib.request.build_opener(_HttpsOnly).open(address, timeout=60) as response, target.open("wb") as file:
            remaining = min(most, shutil.disk_usage(target.parent).free)
            while chunk := response.read(files.CHUNK):
                remaining -= len(chunk)
                if remaining < 0:
                    raise PipelineError(
                        f"{public(address)} is larger than the free disk space, or than {most / 1e9:,.0f} GB"
                    )
                file.write(chunk)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ValueError) as error:
        raise PipelineError(f"{public(address)} can't be downloaded: {error}") from None


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
            raise PipelineError(f"{public(request.full_url)} redirects to {public(url)}, which is not https")
        return super().redirect_request(request, file, code, message, headers, url)
