"""What this package says to people."""

from typing import TYPE_CHECKING, Any

from core.pipeline.text import pluralise, shorten

if TYPE_CHECKING:
    from core.pipeline.schemas.split import Split
    from core.split.leakage import Leak

UNKNOWN_PATIENTS = (
    "split.strategy is {strategy}, but the patients are not known: set data.patient, or split.strategy: image if "
    "each image is of a different patient"
)
NO_LISTS = "split.strategy predefined needs the lists data.lists.train and .test"
EMPTY_LIST = (
    "the split {split} would get no image: of those that data.lists gives it, none is left. Without data.lists.val, "
    "train needs two patients or more, because validation patients are drawn from it"
)
REFUSED = (
    "The split is refused, because the test result would be too good.\n{leaks}\n"
    "To separate them: split.strategy: patient and split.duplicates: together. "
    "To measure the effect of the leak: split.on_leak: report"
)
REPORTED = "LEAK (split.on_leak: report):\n{leaks}"
NO_LEAK = "No test image has an exact copy, a near copy or its patient in training."
NO_COPIES = (
    "No test image has an exact or near copy in training. Patients are not known (data.patient), so the same "
    "patient can be in training and test."
)


def empty_split(split: str, components: int, cfg: "Split", patients: int, copies: list[str]) -> str:
    """``patients``: how many the largest component has; ``copies``: images that join them."""
    fractions = f"split.train {cfg.train:g}, val {cfg.val:g}, test {cfg.test:g}"
    text = (
        f"the split {split} would get no image: {pluralise(components, 'component')} of images (joined by patients and "
        f"copies) can't be divided by {fractions if cfg.folds is None else f'split.folds {cfg.folds}'}"
    )
    if patients < 2:
        return text
    return (
        f"{text}.\nCopies join {patients:,} patients into one component, for example {shorten(copies, 3)}. "
        "If these images are blank, remove them from the source. If they are not copies, set split.duplicates: keep"
    )


def lists_share_copies(files: list[str]) -> str:
    return (
        f"data.lists put copies of one image into different splits ({len(files):,} images: {shorten(files)}), and "
        "split.duplicates is together. Fix the lists, or set split.duplicates: keep to measure the effect"
    )


def summary(figures: dict[str, Any], splits: tuple[str, ...]) -> str:
    """One line per split with its deviation from the requested shares, and warnings."""
    lines = []
    for split in splits:
        counts = {name.replace("_", " "): count for name, count in figures[split].items() if isinstance(count, int)}
        line = f"{split:8}" + ", ".join(f"{count:,} {name}" for name, count in counts.items())
        shares = {name: share for name, share in figures[split]["deviation"].items() if share is not None}
        if shares:
            line += "; off by " + ", ".join(f"{100 * share:+.1f} % of all {name}" for name, share in shares.items())
        lines.append(line)
        if figures[split]["positives"] in (0, figures[split]["images"]):
            lines.append(f"{split} has one class only, so most measures are not defined on it.")
    if figures["positive_components"] < len(splits):
        count = pluralise(figures["positive_components"], "component")
        lines.append(
            f"{count} with a positive image, but {len(splits)} splits: at least one split has none. Only images of "
            "more patients help. With split.folds, each component is tested in turn."
        )
    if figures["dropped"]:
        lines.append(f"dropped {figures['dropped']:,} images")
    return "\n".join(lines)


def leaks(leaks: "list[Leak]", test_images: int) -> str:
    """One line per kind of leak."""
    meaning = {
        "copies": "are copies of a training image",
        "near copies": "are near copies of a training image",
        "validation": "have a copy or their patient in validation, which can choose the epoch and the threshold",
    }
    lines = []
    for leak in leaks:
        what = meaning.get(leak.kind, f"are of {leak.patients:,} patients who are also in training")
        names = shorten(leak.names, total=None if leak.kind == "patients" else leak.images)
        lines.append(f"{leak.images:,} of {test_images:,} test images {what}: {names}")
    return "\n".join(lines)


def left_out(patients: list[str], images: int) -> str:
    return (
        f"Left out: {pluralise(len(patients), 'patient')} with {pluralise(images, 'image')}, as copies join them to a "
        "patient in an earlier split (train, val, test), and a stable split moves no patient: "
        f"{shorten(patients)}"
    )
