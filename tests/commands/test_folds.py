import runpy
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from core.commands import folds
from core.evidence import metrics, verdict
from core.pipeline.errors import PipelineError

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics

from conftest import TOP


def fold(start, count, probabilities=None, shift=0.0):
    """Predictions of ``count`` test images from ``start`` on, a patient each two."""
    number = np.arange(start, start + count)
    return pd.DataFrame(
        {
            "file": [f"f{n:03d}" for n in number],
            "label": number % 2,
            "patient": pd.array([f"p{n // 2}" for n in number], dtype="string"),
            "unit": number // 2,
            "split": "test",
            "probability": (0.3 + 0.4 * (number % 2) + shift) if probabilities is None else probabilities,
            "copy_in_train": pd.array([False] * count, dtype="boolean"),
            "patient_in_train": pd.array([False] * count, dtype="boolean"),
        }
    )


@pytest.mark.parametrize(
    ("cores", "threads", "members", "nproc", "count"),
    [
        (2, 1, 4, "auto", 1), (8, 1, 4, "auto", 2), (8, 2, 4, "auto", 1), (2, 1, 1, "auto", 2), (3, 2, 1, "auto", 1),
        (8, 1, 1, 4, 2), (8, 1, 4, 2, 4),
    ],
)  # fmt: skip
def test_as_many_folds_train_at_once_as_there_are_cores_for(
    make_params, monkeypatch, cores, threads, members, nproc, count
):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)))
    changes = {"threads": threads, "device": "cpu", "ensemble_size": members, "nproc_per_node": nproc}
    cfg = make_params({f"train.{name}": value for name, value in changes.items()}).train
    assert folds.worker_environments(cfg, 5) == [{}] * count


@pytest.mark.parametrize(
    ("gpus", "visible", "changes", "places"),
    [
        (2, None, {"ensemble_size": 1}, ["0", "1"]),
        (2, "5,7", {"ensemble_size": 1}, ["5", "7"]),
        (8, None, {"ensemble_size": 4}, ["0,1,2,3", "4,5,6,7"]),
        (8, None, {"ensemble_size": 1, "nproc_per_node": 4}, ["0,1,2,3", "4,5,6,7"]),
        (8, "GPU-a,GPU-b,GPU-c", {"ensemble_size": 1}, ["GPU-a", "GPU-b", "GPU-c"]),
        (3, None, {"ensemble_size": 1, "nproc_per_node": 2}, None),
        (2, None, {"ensemble_size": 4}, None),  # one fold after another, each on all GPUs
        (2, None, {"ensemble_size": 1, "device": "cuda:1"}, None),
    ],
)
def test_folds_that_train_at_once_share_no_gpu(make_params, monkeypatch, gpus, visible, changes, places):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(visible.split(",")) if visible else gpus)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    cfg = make_params({f"train.{name}": value for name, value in changes.items()}).train
    assert folds.worker_environments(cfg, 5) == (
        [{"CUDA_VISIBLE_DEVICES": place} for place in places] if places else [{}]
    )


def test_two_folds_on_two_gpus_use_one_each(tmp_path, monkeypatch, capsys):
    """With a made-up DVC that says which GPUs it may use, and takes a while."""
    dvc = tmp_path / "dvc"
    dvc.write_text("#!/bin/sh\nsleep 0.5\necho gpu $CUDA_VISIBLE_DEVICES\n")
    dvc.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    script = runpy.run_path(str(TOP / "stages/folds.py"))
    free = SimpleQueue()
    for gpu in ("0", "1"):
        free.put({"CUDA_VISIBLE_DEVICES": gpu})
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(script["run"], [], f"folds-3-{fold}", free, True) for fold in (1, 2, 3)]:
            future.result()
    lines = [line for line in capsys.readouterr().out.splitlines() if "gpu" in line]
    assert {line for line in lines if "fold 3" not in line} in (
        {"fold 1: gpu 0", "fold 2: gpu 1"}, {"fold 1: gpu 1", "fold 2: gpu 0"},
    )  # fmt: skip
    assert len(lines) == 3 and free.qsize() == 2


def test_changed_parameters_decide_how_many_folds_train_at_once(make_params):
    cfg = folds.with_overrides(
        make_params({}).train, ["train.ensemble_size=3", "train.device=cuda:1", "seed=4", "train.lr=1e-4"]
    )
    assert (cfg.ensemble_size, cfg.device, cfg.lr) == (3, "cuda:1", make_params({}).train.lr)
    with pytest.raises(PipelineError, match=r"--set-param: ensemble_size = 'many': .*integer"):
        folds.with_overrides(cfg, ["train.ensemble_size=many"])


def test_mean_spread_and_pooled_figure_equal_a_count_by_hand():
    # fold 1 all right, fold 2 at its threshold all called positive: half right
    pooled = folds.pool([fold(0, 20), fold(20, 20)], [0.5, 0.1])
    figures = folds.summarise(pooled, seed=1)
    assert [fold_figures["accuracy"] for fold_figures in figures["folds"]] == [1.0, 0.5]
    assert figures["spread"]["accuracy"] == {
        "mean": 0.75, "standard_deviation": pytest.approx(np.sqrt(0.125)), "folds": 2
    }  # fmt: skip
    test = figures["pooled"]["test"]
    assert test["accuracy"]["value"] == 0.75 and test["accuracy"]["ci_low"] < 0.75 < test["accuracy"]["ci_high"]
    assert test["patients"] == 20 and test["images"] == 40
    assert "accuracy            0.750  0.354      2   0.750 (" in folds.explain(figures)


def test_networks_without_skill_have_an_auc_of_one_half_whatever_the_share_of_positives_in_each_fold():
    # Each network predicts the share of positives of its training set: fewer where its test set has more.
    rows = []
    for number, share in enumerate((0.2, 0.4, 0.6)):
        table = fold(60 * number, 60, probabilities=np.full(60, 0.6 - share / 2))
        rows.append(table.assign(label=(np.arange(60) < 60 * share).astype(int)))
    pooled = folds.pool(rows, [0.5] * 3)
    block = folds.summarise(pooled, seed=1)["pooled"]["test"]
    assert block["roc_auc"]["value"] == 0.5
    assert metrics.measures(metrics.scores(pooled, 0.5))["roc_auc"] < 0.4
    assert "of the same fold only" in folds.explain(folds.summarise(pooled, seed=1))


def test_the_auc_within_folds_is_the_mean_of_the_folds_weighted_by_their_pairs():
    random = np.random.RandomState(3)
    rows = [fold(0, 20, random.random_sample(20)), fold(20, 40, random.random_sample(40))]
    block = folds.summarise(folds.pool(rows, [0.5, 0.5]), seed=1)["pooled"]["test"]
    areas = [sklearn.metrics.roc_auc_score(table["label"], table["probability"]) for table in rows]
    assert block["roc_auc"]["value"] == pytest.approx((100 * areas[0] + 400 * areas[1]) / 500)
    alone = folds.summarise(folds.pool([rows[0][rows[0]["label"] == 0], rows[1]], [0.5, 0.5]), seed=1)
    assert alone["pooled"]["test"]["roc_auc"]["value"] == pytest.approx(areas[1])
    assert alone["pooled"]["test"]["roc_auc"]["ci_low"] < areas[1] < alone["pooled"]["test"]["roc_auc"]["ci_high"]


def test_a_fold_without_positives_is_left_out_of_the_mean_and_counted():
    alone = fold(20, 20).query("label == 0")
    figures = folds.summarise(folds.pool([fold(0, 20), alone], [0.5, 0.5]), seed=1)
    assert figures["spread"]["sensitivity"] == {"mean": 1.0, "standard_deviation": None, "folds": 1}


def test_an_image_tested_twice_is_refused():
    with pytest.raises(PipelineError, match="5 images were tested in two folds"):
        folds.pool([fold(0, 20), fold(15, 20)], [0.5, 0.5])


def test_the_verdict_on_folds_that_leak_tells_copies_from_other_images_of_training_patients():
    copies = fold(0, 20).assign(copy_in_train=pd.array([True] * 4 + [False] * 16, dtype="boolean"))
    patients = fold(20, 20).assign(patient_in_train=pd.array([True] * 6 + [False] * 14, dtype="boolean"))
    figures = folds.summarise(folds.pool([copies, patients], [0.5, 0.5]), seed=1)
    text = verdict.render_verdict(figures | figures["pooled"] | {"leak": {}})
    assert "4 of its 40 images are copies of training images" in text
    assert "6 others are of patients who are also in training" in text
