import subprocess
import sys

from conftest import TOP

# What a machine with PyTorch for training need not have; DESIGN asks for no DVC there.
ABSENT = ["dvc", "dvclive", "kagglehub", "imagehash", "pydantic", "ruamel", "ruamel.yaml"]


def test_training_and_scoring_need_neither_dvc_nor_the_schema():
    hidden = f"import sys; sys.modules.update(dict.fromkeys({ABSENT}))"
    code = f"{hidden}; from core import training, networks, scoring, drawing"
    found = subprocess.run([sys.executable, "-c", code], cwd=TOP / "stages", capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
