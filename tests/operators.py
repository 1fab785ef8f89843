"""What tests/test_everywhere.py runs on several processors: operations of each library, and hashes of the results.

python tests/operators.py [SETTING]      without one of the settings in core/pipeline/pins.py
"""

import hashlib
import io
import json
import os
import sys
from pathlib import Path

from core.pipeline import pins

os.environ.pop(sys.argv[1] if len(sys.argv) > 1 else "", None)

from core.images import decoder, dicom
from core.network.optimiser import NAdam

import numpy as np
import scipy.linalg
import torch
from PIL import Image
from pydicom.data import get_testdata_file
from torch import nn

DICOM = ["JPGExtended.dcm", "693_J2KI.dcm", "SC_rgb_jpeg_dcmtk.dcm", "JPEGLSNearLossless_16.dcm"]  # lossy
assert pins.CONTRACT  # importing core has set everything


def exact(*shape):
    """Values that are exact in float32, so that every processor starts from the same ones."""
    return torch.from_numpy(random.integers(-(2**15), 2**15, shape).astype(np.float32) / 2**13)


def digest(*tensors):
    return hashlib.sha256(b"".join(np.ascontiguousarray(tensor).tobytes() for tensor in tensors)).hexdigest()[:12]


def trained(layer, values):
    """The hash of a layer's output and of all gradients."""
    for parameter in layer.parameters():
        parameter.data = exact(*parameter.shape) / 8
    values.requires_grad_(True)
    output = layer(values)
    output.backward(exact(*output.shape))
    gradients = [parameter.grad for parameter in layer.parameters()]
    return digest(output.detach(), values.grad, *gradients)


def decoded():
    """The hash of the pixels of lossy files: DICOM of several encodings, and what Pillow makes of noise."""
    pixels = [
        dicom.decode(Path(get_testdata_file(name, download=False)).read_bytes(), window=False)[0] for name in DICOM
    ]
    for kind in ("JPEG", "WEBP", "JPEG2000"):
        written = io.BytesIO()
        Image.fromarray(np.random.default_rng(1).integers(0, 255, (99, 77, 3), np.uint8)).save(written, kind)
        pixels.append(decoder.decode(written.getvalue())[0].resize((64, 64), Image.Resampling.BILINEAR))
    return digest(*map(np.asarray, pixels))


def steps(kind, **more):
    parameter = nn.Parameter(exact(5000))
    optimiser = kind([parameter], lr=1e-3, weight_decay=0.01, **more)
    for _ in range(5):
        parameter.grad = exact(5000)
        optimiser.step()
    return digest(parameter.detach())


torch.set_num_threads(2)
torch.optim.NAdam.add_param_group = NAdam.add_param_group  # which does not import the compiler
random = np.random.default_rng(1)
images, tokens, many = exact(16, 24, 16, 16), exact(16, 50, 192), np.abs(exact(200_000).double().numpy()) + 0.1
print(json.dumps({
    "convolution": trained(nn.Conv2d(24, 48, 3, bias=False), images.contiguous(memory_format=torch.channels_last)),
    "depthwise": trained(nn.Conv2d(24, 24, 3, groups=24), images.clone()),
    "batch norm": trained(nn.BatchNorm2d(24), images.clone()),
    "layer norm": trained(nn.LayerNorm(192), tokens.clone()),
    "linear": trained(nn.Linear(192, 768), tokens.clone()),
    "attention": digest(nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)),
    "gelu": trained(nn.GELU(), tokens.clone()),
    "exp": digest(tokens.exp()), "sum": digest((tokens / 3).sum(), (tokens / 3).mean(), (tokens / 3).norm()),
    "softmax": digest(tokens.softmax(-1)),
    "decoded": decoded(), "draws": digest(torch.randn(1000, generator=torch.Generator().manual_seed(1))),
    "NAdam": steps(NAdam), "torch's NAdam": steps(torch.optim.NAdam, decoupled_weight_decay=True),
    "numpy": digest(np.exp(many), np.log(many), many.sum(), many.mean(), many.std(), np.sin(many)),
    "float32 of numpy": digest(np.exp(many.astype(np.float32)), many.astype(np.float32).sum()),
    "product of numpy": digest(many.reshape(400, 500) @ many.reshape(500, 400), many @ many),
    "product of scipy": digest(scipy.linalg.inv(many[:10_000].reshape(100, 100))),
}))  # fmt: skip
