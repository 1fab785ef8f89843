"""What this package says to people."""

from typing import Any

from core.pipeline.text import format_metric

NO_THRESHOLD = (
    "evaluate.threshold can't be chosen on validation, which has one class only: "
    "{positives} of {images} images are positive. Set a number, for example evaluate.threshold: 0.5"
)
NO_TEMPERATURE = (
    "evaluate.calibration: no temperature can be fitted, as validation has one class only. "
    "Set evaluate.calibration: none, or give validation images of both classes (split.val, seed)"
)
COLOUR_IMAGES = (
    "The images of this set are in colour, but the model was trained on grey images: save them as grey images, or "
    "train on colour images"
)
GREY_IMAGES = "The images of this set are grey; the model was trained on colour, and sees three equal channels"
NO_OTHER_SET = (
    "This set is not external: each of its {images:,} images is a copy of an image in the first set ({exact_copies:,} "
    "exact, {near_copies:,} near) or shows a patient of the first set. Check data.location; if the two hospitals use "
    "the same names for different patients, set external.patients: other"
)


def summary(figures: dict[str, Any]) -> str:
    """The measures as columns: the whole test set, its non-leaking images (metrics.non_leaking), all its images with
    equal weights of the patients, and patients."""
    blocks = {"test": figures["test"], "non-leaking": figures["test_unseen"]}
    if figures["test_patients"] is not None:
        blocks["patients weigh the same"] = figures["test_equal_patients"]
        for level, choice in figures["combine"].items():
            blocks[f"{level}' {choice['rule']}"] = figures[f"test_{level}"][choice["rule"]]
    lines = ["SYNTHETIC images"] if figures["synthetic"] else []
    lines.append(" " * 18 + "".join(f"{title:>25}" for title in blocks))
    for row in [name for name in figures["test"] if not name.endswith("_components")]:
        texts = [format_metric(block.get(row)) for block in blocks.values()]
        lines.append(f"{row.replace('_', ' '):18}" + "".join(f"{text:>25}" for text in texts))
    line = figures["calibration_line"]
    slope, in_the_large = format_metric(line["slope"]), format_metric(line["in_the_large"])
    lines.append(f"calibration (non-leaking): slope {slope}, in the large {in_the_large}")
    if "likely_wrong_labels" in figures:
        area = figures["test_unseen"]["roc_auc"]
        lines.append(wrong_labels(figures["likely_wrong_labels"], area, "likely_wrong_labels.csv"))
    return "\n".join(lines)


def wrong_labels(count: int, auc: dict[str, Any], path: str) -> str:
    if (auc["ci_low"] or 0) <= 0.5:  # as intervals.above_chance, which modules of messages may not import
        return "likely wrong labels: not searched, because the ROC AUC is not shown to be better than chance"
    return f"likely wrong labels: {count:,}, in {path}, to look at; no label is changed"
