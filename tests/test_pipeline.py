"""The pipeline as its users run it: real DVC in a temporary clone, on a small set of phantoms."""

import json
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import balanced_accuracy_score

import compare
import predict
from conftest import STAGES, STAGES_OF_FIRST_RUN, Clone, call, image, put, stages

pytestmark = pytest.mark.slow


@pytest.mark.long
def test_a_second_run_gives_the_same_bytes(clone):
    assert clone.ran("dvc", "repro", "--force") == STAGES
    assert not clone.run("git", "status", "--short")


def test_repro_runs_every_stage_writes_every_output_and_then_nothing(clone):
    assert (clone.template.parent / STAGES_OF_FIRST_RUN).read_text().split() == STAGES
    assert clone.ran("dvc", "repro") == []
    assert "Data and pipelines are up to date" in clone.run("dvc", "status")
    predictions = pd.read_csv(clone.folder / "data/predictions.csv")
    assert set(predictions["split"]) == {"val", "test"} and predictions["probability"].between(0, 1).all()
    assert len(predictions) == sum(clone.metrics("split")[part]["images"] for part in ("val", "test"))
    assert predictions["file"].str.startswith("synthetic-phantom/").all()
    assert np.load(clone.folder / "data/prepared/images.npy").shape == (160, 32, 32, 3)
    assert all(clone.metrics(name)["synthetic"] for name in ("audit", "split", "train", "evaluate"))


def test_the_probabilities_belong_to_the_labels_that_validation_was_measured_with(clone):
    """What train measured of each member on validation must follow from predictions.csv and the raw labels alone."""
    rows = pd.read_csv(clone.folder / "data/predictions.csv").query("split == 'val'")
    labels = pd.read_csv(clone.folder / "data/raw/labels.csv", index_col="file").loc[rows["file"], "label"].to_numpy()
    trained = clone.metrics("train")["per_member"]
    assert list(trained) == ["member_1", "member_2"]
    for member, figures in trained.items():
        chances = rows[member].to_numpy()
        loss = -np.mean(labels * np.log(chances) + (1 - labels) * np.log(1 - chances))
        assert figures["val_loss"] == pytest.approx(loss, rel=1e-5)
        assert figures["val_accuracy"] == pytest.approx(np.mean((chances > 0.5) == labels))
    assert np.allclose(rows["probability"], rows[["member_1", "member_2"]].mean(axis=1))
    images = np.load(clone.folder / "data/prepared/images.npy", mmap_mode="r")
    with zipfile.ZipFile(clone.folder / "data/raw/images.zip") as archive:
        for row, name in zip(rows["row"][:9], rows["file"], strict=False):
            assert np.array_equal(images[row], np.asarray(Image.open(archive.open(name))))


def test_the_threshold_is_chosen_on_validation_and_the_temperature_softens_every_probability(clone, calibrated):
    before = pd.read_csv(clone.folder / "data/predictions.csv")["probability"].to_numpy()
    temperature = clone.metrics("evaluate")["calibration"]["temperature"]
    assert calibrated == ["evaluate", "report"]
    clone.run("git", "checkout", "-q", "calibrated")
    clone.run("dvc", "checkout", "-q", "-f")
    after = pd.read_csv(clone.folder / "data/predictions.csv")["probability"].to_numpy()
    assert np.allclose(np.log(after / (1 - after)), np.log(before / (1 - before)) / temperature)
    assert clone.metrics("evaluate")["calibration"]["applied"]
    rows = pd.read_csv(clone.folder / "data/predictions.csv").query("split == 'val'")
    tried = {at: balanced_accuracy_score(rows["label"], rows["probability"] >= at) for at in rows["probability"]}
    tried.setdefault(1.0, 0.5)  # none called positive
    threshold = clone.metrics("evaluate")["threshold"]
    assert threshold in tried  # a score of validation, which no test image has
    assert tried[threshold] == pytest.approx(max(tried.values()))


def test_git_holds_metrics_and_curves_and_no_image_of_a_patient(clone):
    tracked = clone.run("git", "ls-files").split()
    assert "metrics/evaluate.json" in tracked and "plots/evaluate/test_roc.csv" in tracked
    below = [name for name in tracked if name.startswith(("data/", "models/", "plots/audit/"))]
    assert [name for name in below if not name.endswith(".gitignore")] == ["data/README.md", "models/README.md"]


def test_an_import_leaves_the_pipeline_up_to_date(clone):
    """A package is a dependency as a folder, and Python writes compiled modules there, with -O new ones."""
    clone.run("python", "-O", "-c", "import core.report, core.split", inside="stages")
    assert [*(clone.folder / "stages/core/report/__pycache__").glob("*.opt-1.pyc")]
    assert "Data and pipelines are up to date" in clone.run("dvc", "status")


@pytest.mark.long
def test_experiments_set_parameters_queue_and_run_aside(clone):
    # A relative location is found from the experiment's own folder too.
    put(clone.folder, {f"mine/{label}/{n}.png": image(60 * label + 2 * n) for label in (0, 1) for n in range(20)})
    clone.run("dvc", "exp", "run", "--temp", "--name", "aside", "-S", "data.source=folder", "-S", "data.location=mine",
              "-S", "train.lr=0.000001", "audit")  # fmt: skip
    clone.run("dvc", "exp", "run", "--queue", "--name", "queued", "-S", "evaluate.threshold=0.2")
    clone.run_queue()
    shown = clone.run("dvc", "exp", "show", "--csv")
    assert {"aside", "queued"} <= set(shown.replace("\n", ",").split(","))
    assert clone.metrics("evaluate")["threshold"] == 0.5
    # What each ran with travels with it.
    commit = clone.run("git", "for-each-ref", "--format=%(objectname)", "refs/exps/*/*/queued").strip()
    record = json.loads(clone.run("git", "show", f"{commit}:metrics/provenance/evaluate.json"))
    assert record["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert (
        record["fingerprint"]
        != json.loads((clone.folder / "metrics/provenance/evaluate.json").read_text())["fingerprint"]
    )
    compared = json.loads(clone.run("dvc", "metrics", "diff", "--json", "main", "queued"))
    assert compared["metrics/evaluate.json"]["threshold"] == {"old": 0.5, "new": 0.2, "diff": -0.3}
    clone.run("dvc", "exp", "apply", "aside")
    assert clone.metrics("audit")["images"] == 40
    assert "lr: 1e-06" in (clone.folder / "params.yaml").read_text()


def test_every_figure_has_its_interval_and_the_verdict_says_what_stands_behind_it(clone):
    figures = clone.metrics("evaluate")
    for name, entry in figures["test"].items():
        if isinstance(entry, dict) and entry["value"] is not None:
            low, high = entry["ci_low"], entry["ci_high"]
            assert (low is None and entry["reason"]) or low <= entry["value"] <= high, name
    assert set(figures["operating_points"]) == {
        "specificity_90", "specificity_95", "sensitivity_90", "sensitivity_95"
    }  # fmt: skip
    assert {"brier", "ece", "temperature", "applied"} <= set(figures["calibration"])
    verdict = (clone.folder / "metrics/verdict.md").read_text()
    assert "SYNTHETIC" in verdict and "no medical device" in verdict
    assert f"{figures['test']['patients']} patients" in verdict
    of_audit = [f"audit/{sheet}" for sheet in ("copies", "conflicts", "rejected", "shortcuts")]
    for sheet in ("heatmaps", "likely_wrong_labels", *of_audit):
        assert Image.open(clone.folder / f"plots/{sheet}.png").width > 100
    assert not clone.run("git", "ls-files", "plots/audit", "plots/heatmaps.png", "plots/likely_wrong_labels.png")


def test_the_planted_near_copies_are_found_by_the_audit(clone):
    audit = clone.metrics("audit")
    # Each of the 20 patients has a brighter and a mirrored copy: three pairs, of which one is brighter and mirrored.
    assert audit["near_pairs"] == 60 and audit["near_clusters"] == 20
    rows = pd.read_csv(clone.folder / "data/audit/clusters.csv")
    assert (rows["file"].str[:23].groupby(rows["cluster"]).nunique() == 1).all()  # never of two patients


def test_two_revisions_are_compared_through_dvc_and_different_test_sets_refused(clone, calibrated, leaking):
    output = call(compare, clone.folder, "main", "calibrated")
    assert "evaluate.threshold: 0.5 -> validation" in output and "ROC AUC" in output and "SYNTHETIC" in output
    assert "main and workspace give equal figures." in call(compare, clone.folder, "main")

    refused = call(compare, clone.folder, "main", "leaking", good=False)
    assert "the test sets differ" in refused and "--shared" in refused and "Traceback" not in refused
    output = call(compare, clone.folder, "main", "leaking", "--shared", "--md")
    assert "moved from train to test" in output and "split.strategy: patient -> image" in output
    assert "| ROC AUC (primary) |" in output
    unknown = call(compare, clone.folder, "nowhere", good=False)
    assert "nowhere is not a commit, branch, tag or experiment here" in unknown and "Traceback" not in unknown


@pytest.mark.long
def test_one_command_runs_all_folds_and_tests_on_every_image_once(clone):
    output = clone.run("python", "stages/folds.py", "2", "--set-param", "train.lr=0.002")
    assert "pooled" in output and "# Verdict" in output
    figures = json.loads((clone.folder / "metrics/detail/folds.json").read_text())
    assert figures["pooled"]["test"]["images"] == 160 == sum(fold["images"] for fold in figures["folds"])
    assert figures["pooled"]["test"]["patients"] == 20 == sum(fold["patients"] for fold in figures["folds"])
    areas = [fold["roc_auc"] for fold in figures["folds"]]
    assert figures["spread"]["roc_auc"]["mean"] == pytest.approx(np.mean(areas))
    assert figures["spread"]["roc_auc"]["standard_deviation"] == pytest.approx(np.std(areas, ddof=1))
    assert {"folds-2-1", "folds-2-2"} <= set(clone.run("dvc", "exp", "list", "--name-only").split())
    assert clone.metrics("evaluate")["test"]["images"] < 160  # the workspace is as it was


def test_metrics_and_plots_are_compared_between_branches_without_a_cache(clone, calibrated, tmp_path):
    bare = Clone(tmp_path / "bare")
    clone.run("git", "clone", "-q", clone.folder, bare.folder)
    assert "threshold" in bare.run("dvc", "metrics", "diff", "main", "origin/calibrated")
    output = clone.run("dvc", "plots", "diff", "--json", "main", "calibrated")
    plots = json.JSONDecoder().raw_decode(output)[0]["data"]
    for title in ("ROC", "Precision and recall", "Confusion matrix of the test set", "Scores of the test set",
                  "Reliability of the test set", "Loss", "Accuracy", "Learning rate"):  # fmt: skip
        assert {tuple(sorted(plot["revisions"])) for plot in plots[title]} == {("calibrated", "main")}
        assert all(plot["type"] == "vega" for plot in plots[title])


@pytest.mark.long
def test_the_report_tells_the_original_classes_apart_where_there_are_more_than_two(clone):
    path = clone.folder / "data/raw/labels.csv"
    labels = pd.read_csv(path, dtype=str)
    labels["class"] = np.where(labels["label"] == "1", "tumour", np.where(labels.index % 2, "cyst", "normal"))
    path.unlink()  # a link into DVC's cache
    labels.to_csv(path, index=False)
    clone.run("python", "stages/evaluate.py")
    clone.run("python", "stages/report.py")
    classes = clone.metrics("evaluate")["test_classes"]
    assert list(classes) == ["cyst", "normal", "tumour"] and classes["cyst"]["side"] == "negative"
    assert sum(block["images"] for block in classes.values()) == clone.metrics("evaluate")["test"]["images"]
    page = (clone.folder / "reports/report.html").read_text()
    assert "By original class" in page and "one row per original class" in page
    clone.run("git", "checkout", "-q", "metrics")
    clone.run("dvc", "checkout", "--force", "data/raw/labels.csv")
    clone.run("python", "stages/evaluate.py")
    clone.run("python", "stages/report.py")
    assert "test_classes" not in clone.metrics("evaluate")
    assert "By original class" not in (clone.folder / "reports/report.html").read_text()


def test_a_split_that_leaks_is_refused_unless_it_is_to_be_reported(clone, leaking):
    assert clone.metrics("split")["leak"]["test_patients_in_train"] == 0
    report = clone.folder / "reports/report.html"
    assert "All test images and non-leaking test images" not in report.read_text()
    clone.change("split.strategy", "image")
    output = clone.run("dvc", "repro", good=False)
    assert "The split is refused" in output and "split.on_leak: report" in output and "Traceback" not in output
    assert stages(leaking) == ["split", "train", "evaluate", "report"]
    clone.reset()
    clone.run("dvc", "exp", "apply", "leaking")
    leak = clone.metrics("split")["leak"]
    assert leak["test_patients_in_train"] > 0
    figures = clone.metrics("evaluate")
    assert figures["test_unseen"]["images"] == figures["test"]["images"] - leak["test_patients_in_train"]
    # The report shows both, side by side.
    both = [figures[name] for name in ("test", "test_unseen")]
    counts = "".join(f'<td class="number">{block["images"]:,}</td>' for block in both)
    accuracy = f'accuracy</th><td class="number">{both[0]["accuracy"]["value"]:.3f}'
    table = report.read_text().partition("All test images and non-leaking test images</h2>")[2].partition("</table>")[0]
    assert f'<th scope="row">images</th>{counts}' in table and accuracy in table


def test_a_mistake_in_the_parameters_is_one_line_and_leaves_everything(clone):
    clone.change("train.lr", "fast")
    output = clone.run("python", "stages/split.py", good=False)
    assert output == "params.yaml: train.lr = 'fast': input should be a valid number\n"
    assert (clone.folder / "data/split.csv").is_file()


def test_a_mended_mistake_brings_the_model_back_without_training(clone):
    """DVC has deleted the stage's outputs before the mistake was found."""
    clone.change("train.lr", "fast")
    assert "train.lr = 'fast'" in clone.run("dvc", "repro", good=False)
    assert not (clone.folder / "models/model.safetensors").exists()
    clone.change("train.lr", 0.003)
    output = clone.run("dvc", "repro")
    assert "Stage 'train' is cached" in output and "Running stage" not in output
    assert (clone.folder / "models/model.safetensors").is_file()
    assert not clone.run("git", "status", "--short")


def test_a_watched_source_runs_download_where_it_changed_and_may_be_missing_elsewhere(clone, tmp_path):
    source = put(tmp_path, {f"{label}/{n}.png": image(60 * label + 2 * n) for label in (0, 1) for n in range(20)})
    for key, value in {"data.source": "folder", "data.location": str(source), "data.watch": str(source)}.items():
        clone.change(key, value)
    clone.run("dvc", "repro", "download")
    assert "up to date" in clone.run("dvc", "status", "download")
    put(source, {"1/new.png": image(33)})
    assert f"modified:           {source}" in clone.run("dvc", "status", "download")
    assert clone.ran("dvc", "repro", "download") == ["download"]
    assert len(pd.read_csv(clone.folder / "data/raw/labels.csv")) == 41
    source.rename(tmp_path.with_name("elsewhere"))
    assert "No such file" in clone.run("dvc", "repro", "download", good=False)
    assert not clone.ran("dvc", "repro", "--allow-missing", "download")


def test_an_image_that_cannot_be_decoded_is_named_or_dropped(clone):
    files = {f"with-bad/{label}/{n}.png": image(60 * label + 2 * n) for label in (0, 1) for n in range(20)}
    put(clone.folder, files)
    for key, value in {"data.source": "folder", "data.location": "with-bad", "split.strategy": "image"}.items():
        clone.change(key, value)
    # DVC can't see that the folder's content has changed, unless data.watch names it.
    assert "set data.watch to the same path" in clone.run("dvc", "repro", "download")
    put(clone.folder, {"with-bad/1/bad.png": image(9)[:40]})
    output = clone.run("dvc", "repro", "--force", "download") + clone.run("dvc", "repro", good=False)
    assert "1 of 41 images can't be decoded: 1/bad.png (not an image)" in output and "data.on_bad_image: drop" in output
    clone.change("data.on_bad_image", "drop")
    clone.run("dvc", "repro", "audit")
    assert clone.metrics("audit")["unreadable"] == 1 and clone.metrics("audit")["images"] == 40
    assert np.load(clone.folder / "data/prepared/images.npy", mmap_mode="r").shape == (40, 32, 32, 1)


def test_predict_needs_only_the_models_and_gives_the_probabilities_of_the_evaluation(clone, tmp_path, monkeypatch):
    predictions = pd.read_csv(clone.folder / "data/predictions.csv", index_col="file")["probability"]
    alone = Clone(tmp_path / "alone")
    shutil.copytree(clone.folder / "models", alone.folder / "models")
    shutil.copytree(clone.folder / "stages", alone.folder / "stages")
    with zipfile.ZipFile(clone.folder / "data/raw/images.zip") as archive:
        archive.extractall(alone.folder / "new", predictions.index)
    put(alone.folder, {"new/broken.png": b"no image", "grey.png": image(99)})
    output = alone.run("python", "stages/predict.py", "new", "grey.png", "--out", "out.csv", good=False)
    assert (
        f"1 of {len(predictions) + 2} images have no probability" in output
        and "SYNTHETIC" in output
        and "Traceback" not in output
    )
    predicted = pd.read_csv(alone.folder / "out.csv", index_col="file")
    assert predicted.loc["new/broken.png", "error"] == "not an image"
    assert 0 < predicted.loc["grey.png", "probability"] < 1
    both = predictions.index
    assert np.allclose(predicted.loc[["new/" + name for name in both], "probability"], predictions, atol=1e-6)
    monkeypatch.setattr(predict, "BATCH_BYTES", 2**16)  # 21 images, not all
    paths = (alone.folder / "new", "../alone/grey.png")
    call(predict, alone.folder, *paths, "--heatmap", "maps/all", "--out", "out.json", good=False)
    rows = json.loads((alone.folder / "out.json").read_text())
    chances = np.array([row["probability"] for row in rows], dtype=float)  # None becomes NaN
    assert np.allclose(chances, predicted["probability"], rtol=0, atol=1e-6, equal_nan=True)
    assert rows[-1]["error"] == "" and {"file", "probability", "ood_score", "error"} == set(rows[0])
    maps = [path for path in alone.folder.rglob("*.png") if "maps" in path.parts]
    assert len(maps) == len(predictions) + 1 and all(path.is_relative_to(alone.folder / "maps/all") for path in maps)
    assert all(Image.open(path).size == (256, 256) for path in maps)
    assert "must end in .csv or .json" in call(predict, alone.folder, "new", "--out", "o.txt", good=False)
    assert "no image or folder nowhere" in call(predict, alone.folder, "nowhere", good=False)
