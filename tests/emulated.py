"""What tests/test_everywhere.py runs on several processors, in one process, since an emulated process starts others
natively: stages, in the current folder.

python tests/emulated.py [--emulated] STAGE ...      --emulated: refuse to run on a processor that has AVX-512
"""

import runpy
import sys

sys.path.insert(0, "stages")
from core.pipeline import pins

import torch

assert pins.CONTRACT  # importing core has set everything, before torch imports NumPy
stages = [name for name in sys.argv[1:] if name != "--emulated"]
assert stages == sys.argv[1:] or not torch.cpu._is_avx512_supported(), "this process is not emulated"
sys.argv[1:] = []
for name in stages:
    sys.argv[0] = f"stages/{name}.py"
    runpy.run_path(sys.argv[0], run_name="__main__")
