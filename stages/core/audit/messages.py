"""What this package says to people."""

from typing import TYPE_CHECKING, Any

from core.pipeline.text import format_p, format_property, pluralise, shorten

if TYPE_CHECKING:
    import pandas as pd


def summary(figures: dict[str, Any], findings: "pd.DataFrame", few_patients: int, flat: float) -> str:
    """The findings, what they mean, and the parameters that handle them: one screen. Fewer than
    ``few_patients`` say little; images below a standard deviation of ``flat`` have no near copies."""
    kind = "SYNTHETIC images" if figures["synthetic"] else "images"
    lines = [
        f"{figures['images']:,} {kind}, {figures['distinct_images']:,} of them distinct; "
        f"{figures['positives']:,} positive, {figures['distinct_positives']:,} of them distinct"
    ]
    if figures["patients"] is None:
        lines.append(
            "Patients are not known, so the split can't keep the images of a patient together. Set data.patient."
        )
    else:
        images = figures["images_per_patient"]
        lines.append(
            f"{figures['patients']:,} patients, {figures['positive_patients']:,} of them with a positive image; "
            f"{images['min']:,.0f} to {images['max']:,.0f} images each, median {images['median']:,.0f}"
        )
        if images["max"] == 1:
            lines.append("Every patient has exactly one image. Check data.patient.")
    count = figures["positive_components"]
    independent = pluralise(count, f"independent positive {'image' if figures['patients'] is None else 'patient'}")
    if count < 3:
        lines.append(
            f"{independent}, but there are three splits: at least one will have no positive image. "
            "Only more positive patients help. Cross-validation (split.folds) tests on each of them in turn."
        )
    elif count < few_patients:
        lines.append(
            f"{independent}: too few to estimate the performance on new ones. "
            "Cross-validation (split.folds) tests on each of them in turn."
        )

    if figures["redundant_copies"]:
        lines.append(
            f"Exact copies: {figures['copied_images']:,} images in {pluralise(figures['exact_clusters'], 'cluster')} "
            f"({figures['redundant_copies']:,} redundant)."
        )
    if figures["near_pairs"]:
        lines.append(
            f"Near copies: {pluralise(figures['near_pairs'], 'pair')} of images (recompressed, resized, brightened, "
            "cropped, mirrored or turned)."
        )
    if figures["label_conflicts"]:
        lines.append(f"Copies of different classes: {pluralise(figures['label_conflicts'], 'cluster')}.")
    if figures["redundant_copies"] or figures["near_pairs"]:
        lines.append(
            "split.duplicates: together keeps copies in one split; split.duplicates: drop keeps one of each cluster."
        )
    else:
        lines.append("No exact or near copies.")

    meaning = {
        "conflict": "whose copies have a different class (one class is wrong; split.duplicates: drop leaves out those "
        "with another label)",
        "two-patients": "whose copies belong to another patient "
        "(one person twice, or a mix-up; the split treats both as one)",
        "unreadable": "that can't be decoded (left out by data.on_bad_image: drop)",
        "blank": "with only one grey level",
        "near-blank": f"too uniform for the near-copy search (standard deviation below {flat:g} grey levels)",
        "size": "of unusual size (all images are resized to a square of prepare.image_size)",
        "annotated": "with text in their pixels, says their DICOM tag BurnedInAnnotation: a network can read it",
        "oblong": "whose pixels are not square, say their DICOM tags: they are shown out of proportion",
        "modality": "of another modality than most (DICOM tag Modality)",
        "intent": "for processing where most are for presentation, or the other way round (DICOM tag "
        "PresentationIntentType): their grey values mean something else",
        "mode": "with an unusual colour mode",
        "no-breast": "in which no breast was found (prepare.fit: breast uses them whole; sheet: crops.png)",
        "brightness": "with an unusually low or high mean brightness",
    }
    for finding, words in meaning.items():
        names = sorted(set(findings.loc[findings["finding"] == finding, "file"]))
        if names:
            lines.append(f"{pluralise(len(names), 'image')} {words}: {shorten(names, 3)}")
    lines.append("All findings: data/audit/findings.csv. All copies: data/audit/clusters.csv. Sheets: plots/audit/")
    return "\n".join(lines)


def shortcuts(figures: dict[str, Any], number: int | None) -> str:
    """Which properties of the files predict the class; ``figures`` are from shortcuts.assess, ``number`` is that of the
    properties that do, or None if there are too few patients to test it."""
    if number is None:
        return (
            "Whether properties of the files predict the class is not testable with "
            f"{pluralise(figures['units'], figures['unit'])}, {figures['positive_units']:,} of them positive."
        )
    entries = figures["properties"]
    names = [
        f"{format_property(name)} (ROC AUC {entries[name]['auc']:.3f}, {format_p(entries[name]['p'])})"
        for name in figures["shortcuts"]
    ]
    if not names:
        return f"No property of the files predicts the class ({figures['compared']} compared)."
    return f"Possible shortcuts, which predict the class without the picture: {shorten(names, 8)}. Sheet: shortcuts.png"
