"""Test every patient once: run k folds as DVC experiments, and report mean, spread and the pooled result.

Reads   the repository through DVC; data/predictions.csv, data/split.csv, metrics/detail/evaluate.json of each fold
Writes  experiments NAME-K-1 to NAME-K-K, which compare.py takes as NAME-K (default: folds-K);
        metrics/detail/folds.json; data/folds/likely_wrong_labels.csv, of all images, to look at
Alone   python stages/folds.py K [--name NAME] [--set-param KEY=VALUE ...]
"""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from core.commands import folds, revisions
from core.evidence import messages, metrics, seed_variance, utility, verdict
from core.pipeline import components, entrypoint, files, tables
from core.pipeline.errors import PipelineError
from core.pipeline.schemas import params_yaml

PREDICTIONS = "data/predictions.csv"
SPLIT = "data/split.csv"
METRICS = "metrics/detail/evaluate.json"
FOLDS = "metrics/detail/folds.json"
WRONG_LABELS = "data/folds/likely_wrong_labels.csv"


def main() -> None:
    parser = entrypoint.argument_parser()
    parser.add_argument("folds", type=int, metavar="K", help="number of folds, 2 or more")
    parser.add_argument("-S", "--set-param", action="append", default=[], metavar="KEY=VALUE", help="for all folds")
    parser.add_argument("--name", default="folds", help="of the experiments, to compare the folds of two recipes")
    args = parser.parse_args()
    if args.folds < 2:
        raise PipelineError(f"{args.folds} folds: at least 2 are needed, to train on one and test on the other")
    cfg = params_yaml.load()
    environments = folds.worker_environments(folds.with_overrides(cfg.train, args.set_param), args.folds)
    free: SimpleQueue[dict[str, str]] = SimpleQueue()
    for environment in environments:
        free.put(environment)
    names = [f"{args.name}-{args.folds}-{fold}" for fold in range(1, args.folds + 1)]
    for name in names:
        subprocess.run(["dvc", "exp", "remove", "--quiet", name], stderr=subprocess.DEVNULL)  # from an earlier run
    prefix = len(environments) > 1
    with ThreadPoolExecutor(len(environments)) as pool:
        futures = [
            pool.submit(run, [*args.set_param, f"split.folds={args.folds}", f"split.fold={fold}"], name, free, prefix)
            for fold, name in enumerate(names, start=1)
        ]
        try:
            for future in futures:
                future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    predictions, thresholds = [], []
    for name in names:
        split = revisions.table(name, SPLIT, tables.SPLIT)
        units = components.units(split).set_axis(split["file"])
        table = revisions.table(name, PREDICTIONS, tables.PREDICTIONS)
        threshold, temperature = revisions.decisions(name, METRICS)
        predictions.append(seed_variance.add_leave_one_out(table.assign(unit=table["file"].map(units)), temperature))
        thresholds.append(threshold)
    pooled = folds.pool(predictions, thresholds)
    figures = folds.summarise(pooled, cfg.seed)
    out_of_fold = metrics.non_leaking(pooled)
    wrong = utility.likely_wrong(out_of_fold, area := figures["pooled"]["test_unseen"]["roc_auc"], out_of_fold["fold"])
    tables.write(wrong, WRONG_LABELS, [*utility.WRONG_LABELS, "fold"])
    files.write_json(FOLDS, figures)
    text = verdict.render_verdict(figures | figures["pooled"] | {"leak": {}})
    print("All folds", folds.explain(figures), "", text, sep="\n", end="")
    print(messages.wrong_labels(len(wrong), area, WRONG_LABELS))
    print(f"Figures of each fold: {FOLDS}; its experiment: dvc exp show")


def run(changes: list[str], name: str, free: SimpleQueue[dict[str, str]], prefix: bool) -> None:
    """Run the experiment of a fold, NAME-K-FOLD, in one of the ``free`` environments; with ``prefix``, each line that
    it prints names the fold. Raises PipelineError if it fails."""
    count, fold = name.rsplit("-", 2)[1:]
    print(f"fold {fold} of {count}: dvc exp run --temp --name {name}", flush=True)
    options = [word for change in changes for word in ("--set-param", change)]
    command = ["dvc", "--wait-for-lock", "exp", "run", "--temp", "--allow-missing", "--name", name, *options]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} if prefix else {}
    environment = free.get()
    process = subprocess.Popen(command, env=os.environ | environment, **output)
    for line in process.stdout or ():
        print(f"fold {fold}: {line}", end="", flush=True)
    status = process.wait()
    free.put(environment)
    if status:
        raise PipelineError(f"fold {fold} failed, see above. Finished folds are cached and not computed again")


if __name__ == "__main__":
    entrypoint.script(main)
