"""The kind of a file, by its content: what other programs write, and what only looks like it."""

import gzip
import io
import os
import tarfile
import zipfile

from core.images import kinds

import numpy as np
import pytest
from PIL import Image


def saved(kind: str, mode: str = "L") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (40, 40)).save(buffer, kind)
    return buffer.getvalue()


def tar(form: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return buffer.getvalue()


def without_signature(content: bytes) -> bytes:
    """As before POSIX: only the sum of the header's bytes says what it is."""
    header = content[:148] + b" " * 8 + content[156:257] + bytes(8) + content[265:512]
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", "b")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        *((saved(name), kind) for name, kind in (("PNG", "png"), ("JPEG", "jpeg"), ("TIFF", "tiff"), ("BMP", "bmp"),
          ("GIF", "gif"), ("WEBP", "webp"), ("JPEG2000", "jpeg2000"), ("PPM", "netpbm"), ("PDF", "pdf"))),
        (b"P2\n# a scanner\n2 2\n9\n1 2 3 4\n", "netpbm"), (b"P7\nWIDTH 2\nHEIGHT 2\n", "netpbm"),
        (saved("TIFF").replace(b"II*\0", b"II*\0Aperio", 1), "slide"), (b"ZISRAWFILE", "slide"),
        (zipped(), "zip"), (gzip.compress(b"a", mtime=0), "gzip"),
        (b"7z\xbc\xaf\x27\x1c", "7z"), (b"Rar!\x1a\x07\0", "rar"),
        (tar(tarfile.PAX_FORMAT), "tar"), (tar(tarfile.GNU_FORMAT), "tar"),
        (without_signature(tar(tarfile.USTAR_FORMAT)), "tar"),
        ((348).to_bytes(4, "little") + bytes(340) + b"n+1\0", "nifti"), (b"\x93NUMPY\x01\0", "numpy"),
        (b"\x89HDF\r\n\x1a\n", "hdf5"), (b"MATLAB 5.0 MAT-file", "matlab"),
        (b"%!PS-Adobe-3.0", "postscript"), (b"<?xml version='1.0'?>\n<svg width='9'>", "svg"),
        (b"<?xml version='1.0'?>\n<annotation>", "text"), (b"<?xml?>" + b"<!-- a -->\n" * 300 + b"<html>", "text"),
        (b"<?xml?><!-- a --><!-- b -->\n<svg>", "svg"), (b"#define a_width 8\n#define a_height 8\n", "xbm"),
        (b"", "empty"), (bytes(4096), "unknown"), (os.urandom(4096), "unknown"),
        (np.full(4096, 200, np.uint8).tobytes(), "unknown"),  # raw pixels
        ("file,label\nä.png,1\n".encode(), "text"), ("file,label\nä.png,1\n".encode("latin-1"), "text"),
        ("file,label\n".encode("utf-16"), "text"), (("ä" * 2047).encode() + b"\xc3", "text"),
        (b"BMW,1\n2,3\n4,5\n", "text"), (b"P1 20 30\nP2 12 13\n", "text"), (b"P5 was absent\n", "text"),
    ],
)  # fmt: skip
def test_the_content_says_the_kind(content, kind):
    assert kinds.kind(content[:4096]) == kind
