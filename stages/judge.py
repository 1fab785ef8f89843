"""Judge the scores of a model that was trained elsewhere: figures, intervals, calibration, verdict and a report.

Reads   a table of scores (.csv or .parquet): label, probability, and if known file, patient, group_NAME, split
Writes  with --out, evaluate.json, detail.json, likely_wrong_labels.csv, verdict.md and report.html in a folder; prints
        the verdict
Alone   python stages/judge.py SCORES.csv [--out FOLDER] [--other OTHER.csv] [--primary roc_auc] [--threshold 0.5]
"""

import sys
from pathlib import Path

from core.commands import comparison, judging
from core.evidence import messages, metrics, utility, verdict
from core.pipeline import entrypoint, files, tables


def main() -> None:
    parser = entrypoint.argument_parser()
    parser.add_argument("scores", type=Path, metavar="SCORES", help="a .csv or .parquet file: docs/judge.md")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write the figures and the report here")
    parser.add_argument("--other", type=Path, help="scores of another model on the same images, to compare with")
    parser.add_argument("--shared", action="store_true", help="with --other: compare the images that are in both")
    help_primary = "with --other: the measure that is tested by itself (default: %(default)s)"
    parser.add_argument("--primary", default=comparison.PRIMARY, choices=metrics.MEASURES, help=help_primary)
    parser.add_argument("--threshold", default="0.5", help="positive from this probability on, or: validation")
    parser.add_argument("--seed", type=int, default=1, help="of what is drawn at random")
    args = parser.parse_args()

    table = judging.read(args.scores)
    runs = judging.runs(table, args) if args.other else None
    images = comparison.test_images(runs, args.shared) if runs else None
    details = judging.evaluate(table, judging.threshold(args.threshold), args.seed)
    text = verdict.render_verdict(details)
    print(f"{messages.summary(details)}\n\n{text}", end="")
    if args.out:
        files.write_json(args.out / "evaluate.json", metrics.headline(details))
        files.write_json(args.out / "detail.json", details)
        files.write_text(args.out / "verdict.md", text)
        wrong = utility.likely_wrong(
            metrics.non_leaking(table[table["split"] == "test"]), details["test_unseen"]["roc_auc"]
        )
        tables.write(wrong, args.out / "likely_wrong_labels.csv", utility.WRONG_LABELS)
        files.write_text(args.out / "report.html", judging.html_report(table, details, wrong, text, args.scores))
        if files.seen_by_git(args.out):
            print(f"{args.out} names patients, and git does not ignore it: do not commit it", file=sys.stderr)
    if runs and images is not None:
        measured = None if images.empty else comparison.measure(runs, images, args.seed, args.primary)
        print(f"\n{comparison.explain(runs, images, measured, markdown=False)}", end="")


if __name__ == "__main__":
    entrypoint.script(main)
