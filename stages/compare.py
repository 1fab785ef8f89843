"""Test whether two revisions, branches or experiments differ by more than chance, and list what changed.

Reads   data/predictions.csv, data/split.csv, data/prepared/index.csv, metrics/detail/evaluate.json, params.yaml of
        both, through DVC
Writes  nothing; prints text, or Markdown with --md
Alone   python stages/compare.py REV [REV] [--md] [--shared]      one REV: compare it with the workspace
"""

from core.commands import comparison, revisions
from core.pipeline import entrypoint
from core.pipeline.schemas import params_yaml


def main() -> None:
    parser = entrypoint.argument_parser()
    parser.add_argument("first", metavar="REV", help="a commit, branch, tag, experiment, or folds: NAME-K")
    parser.add_argument("second", metavar="REV", nargs="?", default=revisions.WORKSPACE, help="default: the workspace")
    parser.add_argument("--md", action="store_true", help="Markdown, for a pull request")
    help_shared = "if the test sets differ, compare the images that are in both"
    parser.add_argument("--shared", action="store_true", help=help_shared)
    args = parser.parse_args()

    runs = comparison.load(args.first), comparison.load(args.second)
    images = comparison.test_images(runs, args.shared)
    primary = params_yaml.load().evaluate.primary
    measured = None if images.empty else comparison.measure(runs, images, primary=primary)
    print(comparison.explain(runs, images, measured, args.md), end="")


if __name__ == "__main__":
    entrypoint.script(main)
