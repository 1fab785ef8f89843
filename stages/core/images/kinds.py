"""What a file is, by its content and never by its name."""

import re
import struct

# The first signature that matches decides. DICOM comes first, so that no other beginning hides patients' names.
_SIGNATURES = [
    (re.compile(pattern, re.DOTALL), kind)
    for pattern, kind in {
        rb".{128}DICM.{0,400}\x02\x00\x02\x00UI..1\.2\.840\.10008\.1\.3\.10\x00?\x02\x00": "dicomdir",
        rb".{128}DICM": "dicom",
        rb"DICM\x02\x00": "dicom without preamble",
        rb"\x89PNG\r\n\x1a\n": "png",
        rb"\xff\xd8\xff": "jpeg",
        rb"(?:II[*+]\0|MM\0[*+]).*(?:Aperio|Hamamatsu|<scn xmlns|<iScan|<DataObject ObjectType)": "slide",
        rb"II[*+]\0|MM\0[*+]": "tiff",
        rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0": "bmp",
        rb"RIFF.{4}WEBP": "webp",
        rb"GIF8[79]a": "gif",
        rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51": "jpeg2000",
        rb"P[456](?:\s|#[^\n]*\n)+\d|P7\s+(?:#[^\n]*\n)*(?:WIDTH|HEIGHT|DEPTH|MAXVAL|TUPLTYPE)|P[Ff]\s+\d": "netpbm",
        rb"P[123](?:\s+|#[^\n]*\n)+\d+\s(?:[\s\d]|#[^\n]*\n?)*\Z": "netpbm",  # only numbers follow
        rb"PK(?:\x03\x04|\x05\x06|\x07\x08)": "zip",
        rb".{257}ustar": "tar",
        rb"\x1f\x8b": "gzip",
        rb"BZh[1-9]": "bzip2",
        rb"\xfd7zXZ\0": "xz",
        rb"\x28\xb5\x2f\xfd": "zstd",
        rb"7z\xbc\xaf\x27\x1c": "7z",
        rb"Rar!\x1a\x07": "rar",
        rb"\x5c\x01\0\0|\0\0\x01\x5c|.{344}n[+i][12]\0|\x1c\x02\0\0n[+i]2|\0\0\x02\x1cn[+i]2": "nifti",
        rb"MATLAB [57]\.": "matlab",
        rb"(?:.{512}|.{1024}|.{2048})?\x89HDF\r\n\x1a\n": "hdf5",
        rb"\x93NUMPY": "numpy",
        rb"%PDF-": "pdf",
        rb"%!PS-|\xc5\xd0\xd3\xc6": "postscript",
        rb"ZISRAWFILE": "slide",
        rb".{4}ftyp(?:hei[cfmsx]|hev[cx]|mif1|msf1|avi[fs])": "heif",
        rb"\xff\x0a|\0\0\0\x0cJXL ": "jpeg xl",
        rb"8BPS\0[\x01\x02]": "psd",
        rb"\x76\x2f\x31\x01": "exr",
        rb"NRRD000": "nrrd",
        rb"(?:Comment = [^\n]*\n)?(?:ObjectType = Image|NDims = )": "metaimage",
        rb"SIMPLE  = ": "fits",
        rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--(?:(?!-->).)*-->\s*)*(?:<!DOCTYPE svg[^>]*>\s*)?<svg[\s>]": "svg",
        rb"/\* XPM \*/": "xpm",
        rb"#define \w+_width \d+\s+#define \w+_height": "xbm",
        rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "ole",  # old documents of Office, and ZVI slides
    }.items()
]
START = 4096  # bytes of a file that decide its kind
DICOM = ("dicom", "dicom without preamble")  # kinds with pixels and with the names of patients
_SHORT = b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split()
_LONG = b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split()
_CONTROL = bytes({*range(32), 127} - {*b"\t\n\v\f\r\x1b"})
_NOT_ASCII = bytes(range(128, 256))


def kind(content: bytes) -> str:
    """The kind of a file, by its START. "text", "empty" and "unknown" are kinds."""
    start = content[:START]
    for signature, name in _SIGNATURES:
        if signature.match(start):
            return name
    if _is_dataset(start, "<") or _is_dataset(start, ">"):
        return "dicom without preamble"
    if _is_tar(start):
        return "tar"
    return ("text" if _is_text(start) else "unknown") if start else "empty"


def _is_dataset(start: bytes, order: str) -> bool:
    """Whether these are data elements in ascending order from group 2 or 8 on (DICOM PS3.5, 7.1)."""
    tags: list[tuple[int, ...]] = []
    at = 0
    while len(tags) < 3 and at + 12 <= len(start):
        tags.append(struct.unpack_from(f"{order}HH", start, at))
        vr = start[at + 4 : at + 6]
        where, form, header = (8, "I", 12) if vr in _LONG else (6, "H", 8) if vr in _SHORT else (4, "I", 8)
        length = struct.unpack_from(order + form, start, at + where)[0]
        if length % 2 and length != 0xFFFFFFFF:
            return False
        at += header + length
    return bool(tags) and tags[0][0] in (2, 8) and at > 12 and tags == sorted(set(tags)) and tags[-1][0] <= 0x7FE0


def _is_tar(start: bytes) -> bool:
    """Whether this is a header of a tar without a signature: the sum of its bytes is in it, in octal digits."""
    digits = start[148:156].strip(b" \0")
    total = sum(start[:148]) + sum(start[156:512]) + 8 * ord(" ")
    return len(start) >= 512 and bool(re.fullmatch(b"[0-7]+", digits)) and int(digits, 8) == total


def _is_text(start: bytes) -> bool:
    """Whether this is UTF-8, UTF-16 with its mark, or another encoding with few letters beyond ASCII."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    if len(start.translate(None, _CONTROL)) < len(start):
        return False
    try:
        start[: len(start) - 3].decode()  # the last letter may be cut
    except UnicodeDecodeError:
        return len(start.translate(None, _NOT_ASCII)) > 0.7 * len(start)
    return True
