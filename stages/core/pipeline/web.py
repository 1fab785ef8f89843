"""Download a file over https only, with a size limit."""

import http.client
import shutil
import urllib.error
import urllib.request
from pathlib import Path

from core.pipeline import addresses, files
from core.pipeline.errors import PipelineError


def fetch(address: str, target: Path, most: int) -> None:
    """Download ``address``: at most ``most`` bytes, and at most the free disk space. Raises PipelineError."""
    name = addresses.public(address)
    try:
        with urllib.request.build_opener(_HttpsOnly).open(address, timeout=60) as response, target.open("wb") as file:
            remaining = min(most, shutil.disk_usage(target.parent).free)
            while chunk := response.read(files.CHUNK):
                remaining -= len(chunk)
                if remaining < 0:
                    raise PipelineError(f"{name} is larger than the free disk space, or than {most / 1e9:,.0f} GB")
                file.write(chunk)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ValueError) as error:
        raise PipelineError(f"{name} can't be downloaded: {error}") from None


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, file, code, message, headers, url):  # type: ignore[no-untyped-def]
        if not url.startswith("https://"):
            source, target = addresses.public(request.full_url), addresses.public(url)
            raise PipelineError(f"{source} redirects to {target}, which is not https")
        return super().redirect_request(request, file, code, message, headers, url)
