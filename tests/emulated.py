"""What tests/test_everywhere.py runs on several processors, in one process, since an emulated process starts others
natively: train, evaluate and report, in the current folder.

python tests/emulated.py without AVX-512      refuse to run on a processor that has AVX-512
"""

import runpy
import sys

sys.path.insert(0, "stages")
from core.pipeline import pins

import torch

assert pins.CONTRACT  # importing core has set everything, before torch imports NumPy
asked = sys.argv[1:]
assert not asked or not torch.cpu._is_avx512_supported(), "this process is not emulated"
sys.argv[1:] = []
for name in ("train", "evaluate", "report"):
    sys.argv[0] = f"stages/{name}.py"
    runpy.run_path(sys.argv[0], run_name="__main__")
