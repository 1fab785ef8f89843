"""What tests/test_everywhere.py runs on several processors, in one process, since an emulated process starts others
natively: scripts, in the current folder.

python tests/emulated.py [--emulated] SCRIPT ...      --emulated: refuse to run on a processor that has AVX-512
"""

import runpy
import sys

sys.path.insert(0, "stages")
from core.pipeline import pins

import torch

assert pins.CONTRACT  # importing core has set everything, before torch imports NumPy
scripts = [name for name in sys.argv[1:] if name != "--emulated"]
assert scripts == sys.argv[1:] or not torch.cpu._is_avx512_supported(), "this process is not emulated"
sys.argv[1:] = []
for sys.argv[0] in scripts:
    runpy.run_path(sys.argv[0], run_name="__main__")
