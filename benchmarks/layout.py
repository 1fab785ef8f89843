"""Compare one archive with one PNG file per image, under DVC.

    python benchmarks/layout.py [--images 30000] [--rounds 1]

Stores phantom images of 50 pixels in one images.zip, as this project does, and as one PNG file per image in one folder
per patient. Each layout is in a new repository with a folder as remote; the two are measured in turn. Prints the
seconds of each DVC operation with both layouts, the ratio of files to archive (median, minimum and maximum of several
rounds), and the bytes and the number of files of both.
"""

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.images import decoder, phantom

LAYOUTS = ("images.zip", "images")
# The images are removed before checkout; before pull, the cache is removed as well.
OPERATIONS = ("add", "status", "push", "checkout", "pull")


def encode(patch: phantom.Patch, file_format: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(patch.pixels).save(buffer, file_format)
    return buffer.getvalue()


def write(patches: list[phantom.Patch], target: Path) -> None:
    if target.suffix == ".zip":
        by_name = {patch.name: patch for patch in patches}
        decoder.pack(by_name, lambda name: encode(by_name[name], "BMP"), target)
        return
    for patch in patches:
        file = target / patch.patient / Path(patch.name).with_suffix(".png").name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode(patch, "PNG"))


def size(target: Path) -> tuple[int, int]:
    """Total bytes and number of files."""
    sizes = [path.stat().st_size for path in (target, *target.rglob("*")) if path.is_file()]
    return sum(sizes), len(sizes)


def measure(patches: list[phantom.Patch], layout: str) -> tuple[dict[str, float], tuple[int, int]]:
    """The seconds of each operation in a new repository, and the bytes and the number of files of the images."""
    with tempfile.TemporaryDirectory(dir=".", prefix=".benchmark-") as temporary:
        folder = Path(temporary).resolve()
        repository = folder / "repository"
        repository.mkdir()
        # Use DVC's defaults instead of this machine's settings, and keep its site cache in this folder.
        (folder / "config").write_text("[core]\n    analytics = false\n    check_update = false\n")
        variables = ("DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR", "DVC_SITE_CACHE_DIR")
        environment = os.environ | dict.fromkeys(variables, str(folder))

        def call(*command: str) -> None:
            try:
                subprocess.run(command, cwd=repository, env=environment, check=True, capture_output=True, text=True)
            except subprocess.CalledProcessError as error:
                sys.exit(f"{' '.join(command)}:\n{error.stdout}{error.stderr}")

        call("git", "init")
        call("git", "config", "user.name", "benchmark")
        call("git", "config", "user.email", "benchmark@localhost")
        call("dvc", "init")
        call("dvc", "remote", "add", "--default", "folder", str(folder / "remote"))
        call("git", "commit", "--all", "--message", "Start")
        write(patches, repository / layout)
        expected = size(repository / layout)
        seconds = {}
        for operation in OPERATIONS:
            if operation in ("checkout", "pull"):
                call("rm", "-r", layout)
            if operation == "pull":
                call("rm", "-rf", ".dvc/cache")
            os.sync()  # so that no operation waits for earlier writes
            start = time.perf_counter()
            call("dvc", operation, *([layout] if operation == "add" else []))
            seconds[operation] = time.perf_counter() - start
            if (actual := size(repository / layout)) != expected:
                sys.exit(f"dvc {operation}: {layout} has {actual} bytes and files, expected {expected}")
    return seconds, expected


def median_and_range(values: list[float]) -> str:
    spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
    return f"{statistics.median(values):.2f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=30_000)
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    patches = list(phantom.draw(args.images, max(3, args.images // 1000), 50, seed=1))
    rounds = [[measure(patches, layout) for layout in LAYOUTS] for _ in range(args.rounds)]
    print(f"{'':9} {'s, one archive':>26} {'s, files':>26} {'files / archive':>26}")
    for operation in OPERATIONS:
        archive, files = ([layouts[number][0][operation] for layouts in rounds] for number in (0, 1))
        ratios = [files_seconds / seconds for seconds, files_seconds in zip(archive, files, strict=True)]
        print(f"{operation:9}" + "".join(f" {median_and_range(values):>26}" for values in (archive, files, ratios)))
    for unit, archive, files in zip(("bytes", "files"), *(counts for _, counts in rounds[0]), strict=True):
        print(f"{unit:9} {archive:26,} {files:26,} {files / archive:26.2f}")


if __name__ == "__main__":
    main()
