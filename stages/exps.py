"""List the workspace, commits and their experiments: changed parameters, ROC AUC, sensitivity and specificity.

Reads   params.yaml and metrics/evaluate.json of all of them, through dvc exp show
Writes  nothing; prints a table of 120 columns
Alone   python stages/exps.py [REV]      the last commit and REV, and what was run from them; default: main
"""

import json
import subprocess

from core.commands import experiments
from core.pipeline import entrypoint
from core.pipeline.errors import PipelineError


def main() -> None:
    parser = entrypoint.argument_parser()
    parser.add_argument("target", metavar="REV", nargs="?", default="main", help="a second commit, branch or tag")
    args = parser.parse_args()
    rev = subprocess.run(["git", "rev-parse", f"{args.target}^{{commit}}"], capture_output=True, text=True)
    if rev.returncode:
        raise PipelineError(f"{args.target} is not a commit, branch or tag here: see git branch")
    command = ["dvc", "exp", "show", "--json", "--rev", "HEAD", "--rev", args.target]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise PipelineError(f"dvc exp show fails: {' '.join(result.stderr.split())}")
    print(experiments.table(json.loads(result.stdout), args.target, rev.stdout.strip()), end="")


if __name__ == "__main__":
    entrypoint.script(main)
