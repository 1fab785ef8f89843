"""Test every patient once: run k folds as DVC experiments, and report mean, spread and the pooled result.

Reads   the repository through DVC; data/predictions.csv, data/split.csv, metrics/detail/evaluate.json of each fold
Writes  experiments NAME-K-1 to NAME-K-K, which compare.py takes as NAME-K (default: folds-K); metrics/detail/folds.json
Alone   python stages/folds.py K [--name NAME] [--set-param KEY=VALUE ...]
"""

import argparse
import subprocess
from concurrent.futures import ThreadPoolExecutor

from core.commands import folds, revisions
from core.evidence import seed_variance, verdict
from core.pipeline import components, entrypoint, files, tables
from core.pipeline.errors import PipelineError
from core.pipeline.schemas import params_yaml

PREDICTIONS = "data/predictions.csv"
SPLIT = "data/split.csv"
METRICS = "metrics/detail/evaluate.json"
FOLDS = "metrics/detail/folds.json"


def main() -> None:
    parser = argparse.ArgumentParser(description="Test every patient once, in k folds.")
    parser.add_argument("folds", type=int, metavar="K", help="number of folds, 2 or more")
    parser.add_argument(
        "-S", "--set-param", action="append", default=[], metavar="KEY=VALUE", help="a parameter for all folds"
    )
    parser.add_argument("--name", default="folds", help="of the experiments, to compare the folds of two recipes")
    asked = parser.parse_args()
    if asked.folds < 2:
        raise PipelineError(f"{asked.folds} folds: at least 2 are needed, to train on one and test on the other")
    chosen = params_yaml.load()
    known = dict(change.partition("=")[::2] for change in asked.set_param)
    given = known.get("train.ensemble_size", "")
    networks = int(given) if given.isdecimal() else chosen.train.ensemble_size  # DVC refuses what is no number
    names = [f"{asked.name}-{asked.folds}-{fold}" for fold in range(1, asked.folds + 1)]
    for name in names:
        subprocess.run(["dvc", "exp", "remove", "--quiet", name], stderr=subprocess.DEVNULL)  # from an earlier run
    together = min(asked.folds, folds.at_once(chosen.train, networks))
    with ThreadPoolExecutor(together) as pool:
        running = [pool.submit(run, asked, fold, name, together > 1) for fold, name in enumerate(names, start=1)]
        try:
            for ended in running:
                ended.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    predictions, thresholds = [], []
    for name in names:
        split = revisions.table(name, SPLIT, tables.SPLIT)
        units = components.units(split).set_axis(split["file"])
        found = revisions.table(name, PREDICTIONS, tables.PREDICTIONS)
        threshold, temperature = revisions.decisions(name, METRICS)
        predictions.append(seed_variance.add_leave_one_out(found.assign(unit=found["file"].map(units)), temperature))
        thresholds.append(threshold)
    figures = folds.summarise(folds.pool(predictions, thresholds), chosen.seed)
    files.write_json(FOLDS, figures)
    print(
        "All folds",
        folds.explain(figures),
        "",
        verdict.render_verdict(figures | figures["pooled"] | {"leak": {}}),
        sep="\n",
        end="",
    )
    print(f"Figures of each fold: {FOLDS}; its experiment: dvc exp show")


def run(asked: argparse.Namespace, fold: int, name: str, named: bool) -> None:
    """Run the experiment of one fold; with ``named``, each line that it prints names the fold. Raises PipelineError
    if it fails."""
    changes = [*asked.set_param, f"split.folds={asked.folds}", f"split.fold={fold}"]
    print(f"fold {fold} of {asked.folds}: dvc exp run --temp --name {name}", flush=True)
    options = [word for change in changes for word in ("--set-param", change)]
    command = ["dvc", "exp", "run", "--temp", "--allow-missing", "--name", name, *options]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} if named else {}
    running = subprocess.Popen(command, **output)
    for line in running.stdout or ():
        print(f"fold {fold}: {line}", end="", flush=True)
    if running.wait():
        raise PipelineError(f"fold {fold} failed, see above. Finished folds are cached and not computed again")


if __name__ == "__main__":
    entrypoint.script(main)
