"""Push to the remote what the stages computed here, so that a colleague with the same inputs need not compute it.

Reads   DVC's run cache and cache
Writes  to the remote: the outputs in dvc.lock, and of each recorded run its outputs and the hashes of its inputs
Alone   python stages/share.py [--remote NAME]      a colleague then runs: dvc repro --pull

dvc push --run-cache pushes the record of a run, but not its outputs that are in git, such as metrics/train.json. Then
a colleague's DVC finds the run incomplete and runs the stage again.
"""

import argparse

from core.pipeline import entrypoint
from core.pipeline.errors import PipelineError

from dvc.exceptions import DvcException
from dvc.repo import Repo


def main() -> None:
    parser = argparse.ArgumentParser(description="Push what the stages computed here.")
    parser.add_argument("--remote", metavar="NAME", help="default: DVC's default remote")
    remote = parser.parse_args().remote
    try:
        with Repo() as repo, repo.lock:
            runs = repo.stage_cache.push(remote)
            used = repo.used_objs(used_run_cache=runs, push=True).values()
            objects = set().union(*used)
            pushed = len(repo.cloud.push(objects, remote=remote).transferred)
    except DvcException as error:
        raise PipelineError(f"DVC can't push: {error}") from None
    print(f"Shared {len(runs)} runs of stages: {pushed} files pushed, {len(objects) - pushed} were there")


if __name__ == "__main__":
    entrypoint.script(main)
