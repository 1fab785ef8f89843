"""No name of a patient in a DICOM file gets into anything that a run writes."""

import hashlib
import io
import subprocess
from collections.abc import Iterator
from pathlib import Path

from core.images import decoder
from core.pipeline import tables

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from conftest import clone_to, put

WORD = "Zyx" + "wv"  # not as it is: this file is in the clone, too
NAMES = [f"{WORD}{number:02d}q^Müller" for number in range(40)]
SYNTAXES = [
    ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless,
    JPEG2000Lossless,
]  # fmt: skip
ENDINGS = ["", ".dcm", ".png", ".tif", ".jpg", ".bmp", ".IMA", ".gif"]
PARAMETERS = {
    "data.source": "folder", "data.labels": "dicom:ImageLaterality", "data.positive": "R", "data.frames": "split",
    "data.patient": "dicom:PatientID", "data.dicom.key": "../key", "data.on_bad_image": "drop",
    "data.dicom.key_check": hashlib.sha256(b"secret").hexdigest()[:8], "prepare.image_size": 32, "train.epochs": 1,
    "train.ensemble_size": 1, "train.batch_size": 16, "model.backbone": "shufflenet_v2_x0_5",
}  # fmt: skip


def planted(number: int) -> bytes:
    """A DICOM file with the name of a patient wherever it can stand."""
    name, random, syntax = NAMES[number], np.random.default_rng(number), SYNTAXES[number % len(SYNTAXES)]
    frames, bits = (3 if number % 7 == 3 else 1), (8 if number % 5 == 4 else 16)
    pixels = random.integers(0, 200, (frames, 40, 40)).cumsum(axis=2).astype(np.uint8 if bits == 8 else np.uint16)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = f"1.2.3.{number}"
    dataset.file_meta.SourceApplicationEntityTitle = name[:7]
    dataset.file_meta.PrivateInformationCreatorUID, dataset.file_meta.PrivateInformation = "1.2.3", name.encode()
    dataset.SpecificCharacterSet = "ISO_IR 192" if number % 2 else "ISO_IR 100"
    dataset.PatientName = dataset.PatientID = dataset.OtherPatientNames = dataset.ReferringPhysicianName = name
    dataset.PatientComments = dataset.ImageComments = dataset.StudyDescription = dataset.InstitutionName = name
    dataset.WindowCenter, dataset.WindowWidth, dataset.WindowCenterWidthExplanation = 2000, 4000, name
    dataset.ImageLaterality, dataset.Modality = "LR"[number // 6 % 2], "MG"
    item, lut = Dataset(), Dataset()
    item.PatientName = item.RequestedProcedureDescription = name
    lut.LUTDescriptor, lut.LUTData, lut.LUTExplanation = [2, 0, 16], b"\0\0\xff\xff", name
    dataset.RequestAttributesSequence = dataset.PerFrameFunctionalGroupsSequence = [item] * frames
    dataset.VOILUTSequence = [lut]
    dataset.private_block(0x0011, "MAKER", create=True).add_new(1, "LO", name)
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = 40, 40, frames
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelData = pixels.astype(
        ">u2" if syntax.is_little_endian is False and bits == 16 else pixels.dtype
    ).tobytes()
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    if syntax.is_compressed and syntax.is_encapsulated:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.compress(syntax, generate_instance_uid=False)
    else:
        dataset.PixelData += name.encode("latin-1").ljust(32)  # after the last pixel
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.add_new(0x60000022, "LO", name)  # OverlayDescription
    dataset.DataSetTrailingPadding = name.encode()
    dataset.preamble = name.encode().ljust(128, b"\0")
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    no_preamble = number % 8 == 5 and syntax != DeflatedExplicitVRLittleEndian
    return buffer.getvalue()[132:] if no_preamble else buffer.getvalue()


def written(folder: Path) -> Iterator[tuple[str, bytes]]:
    """The content of every file, and of every object of git, which compresses them."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield str(path), path.read_bytes()
    objects = ["git", "cat-file", "--batch-all-objects", "--batch"]
    yield "git's objects", subprocess.run(objects, cwd=folder, stdout=subprocess.PIPE, check=True).stdout


@pytest.mark.slow
@pytest.mark.long
def test_forty_planted_names_are_in_nothing_that_a_run_writes(tmp_path):
    content = {f"scan{n}{ENDINGS[n % len(ENDINGS)]}": planted(n) for n in range(len(NAMES))}
    assert all(WORD.encode() in file for n, file in enumerate(content.values()) if n % 6 != 3)  # but for deflated ones
    put(tmp_path / "source", content | {"damaged": planted(0)[:3000]})
    put(tmp_path, {"key": "secret"})
    clone = clone_to(tmp_path / "clone", PARAMETERS | {"data.location": str(tmp_path / "source")})
    clone.run("dvc", "remote", "add", "-d", "remote", tmp_path / "clone" / "remote")
    said = clone.run("dvc", "repro") + clone.run("dvc", "push")
    clone.run("git", "add", "-A")
    clone.run("git", "commit", "-qm", "Run")
    assert len(tables.read(clone.folder / "data/raw/labels.csv", tables.LABELS)) >= len(NAMES) + 2
    files = dict(written(clone.folder)) | {"the screen": said.encode()}
    assert sum("remote" in name for name in files) > 10 and len(files) > 300
    for path, data in files.items():
        for coding in ("utf-8", "utf-16-le", "utf-16-be"):
            assert WORD.encode(coding) not in data and WORD.lower().encode(coding) not in data, path
    for name, image in decoder.contents(clone.folder / "data/raw/images.zip"):
        assert WORD not in str(pydicom.dcmread(io.BytesIO(image))), name  # also in those that are deflated
