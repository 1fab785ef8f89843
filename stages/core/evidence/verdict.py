"""Write the verdict: how much evidence supports the figures, and what they mean, in words."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from core.evidence.intervals import ALPHA, above_chance
from core.evidence.metrics import PREVALENCE_FREE
from core.pipeline.tables import FEW_PATIENTS, GROUP, MIN_PATIENTS, TOO_FEW
from core.pipeline.text import format_metric, format_p, format_property, pluralise, shorten

FEW_LARGE = 0.5  # if the effective number of patients is a smaller share of their number, a few have most images
NOTHING = "Not evidence of anything"
ALL_LEAK = "every test image is a copy of a training image or shows a patient from training"
OF_PICTURE = ("mean_brightness", "uniform_border", "file_size")  # properties of files that the disease can change
MOST_SHORTCUTS = 4  # that have a line each


def render_verdict(
    figures: dict[str, Any],
    external: dict[str, Any] | None = None,
    properties: dict[str, Any] | None = None,
    left_out: Mapping[str, int] | None = None,
    conflicts: int = 0,
) -> str:
    """The content of metrics/verdict.md.

    Parameters
    ----------
    figures : dict
        The details of evaluate.
    external : dict, optional
        Those of another set, if the verdict is to speak of both.
    properties : dict, optional
        What the audit found of properties of the files, from core.audit.shortcuts.
    left_out : dict, optional
        The number of files of the source that are not used, by reason.
    conflicts : int
        The number of clusters of copies of different classes.
    """
    test, non_leaking = figures["test"], figures["test_unseen"]
    headline = _headline(figures, _of_files(figures, properties))
    if external:
        headline += f" External validation: {_headline(external | {'test': external['test_unseen']})}"
    lines = ["# Verdict", "", f"**{headline}**", ""]
    if figures["synthetic"]:
        lines += ["- The images are SYNTHETIC: the figures say nothing about patients."]
    if left_out:
        kinds: Counter[str] = Counter()
        for reason, count in left_out.items():  # brackets can have the name of a folder, and this is in git
            kinds[reason.partition(" (")[0]] += count
        reasons = ", ".join(f"{kind}: {count:,}" for kind, count in kinds.items())
        lines.append(f"- Left out: {pluralise(sum(left_out.values()), 'file')} of the source ({reasons}).")
    if conflicts:
        lines.append(f"- **Contradicting labels**: {pluralise(conflicts, 'cluster')} of copies with several classes.")
    lines.append(f"- Test set: {_counts(test)}.")
    lines += [f"- {line}" for line in _leak(figures)]
    if figures.get("test_in_val"):
        lines.append(
            f"- Validation contains a copy or the patient of {pluralise(figures['test_in_val'], 'test image')}. If "
            "epoch or threshold were chosen on validation, the figures can be too high."
        )
    sentences = [*_in_practice(non_leaking), *_few_large_patients(figures)]
    sentences += [*_seed_variance(non_leaking, figures.get("training")), *_groups(figures)]
    sentences += [*_properties(figures, properties), *_external(external)]
    lines += [f"- {line}" for line in sentences]
    over = "images and their copies, because patients are unknown" if test["patients"] is None else "patients"
    lines += ["", f"Ranges are 95 % intervals over {over}. Research only: no medical device.", ""]
    return "\n".join(lines)


def _counts(block: dict[str, Any]) -> str:
    if block["patients"] is None:
        return f"{block['images']:,} images, {block['positives']:,} positive, patients unknown"
    return (
        f"{pluralise(block['images'], 'image')} of {pluralise(block['patients'], 'patient')}; "
        f"{pluralise(block['positives'], 'positive image')} of {pluralise(block['positive_patients'], 'patient')}"
    )


def _leak(figures: dict[str, Any]) -> list[str]:
    """How much of the test set leaks, and how much that changes the figures."""
    test, non_leaking = figures["test"], figures["test_unseen"]
    leaking = test["images"] - non_leaking["images"]
    if figures.get("training") == "unknown":
        return ["Training images are unknown: test images can be among them, so the figures can be too high."]
    if not leaking and test["patients"] is None:
        return ["No test image has a copy in training. Patients are unknown, so some can be in both training and test."]
    if not leaking:
        return ["No leak was found: training contains no copy of a test image and no patient of the test set."]
    copies, of_all, kinds = figures["leaking"]["copies"], f"of its {test['images']:,} images", []
    if copies:
        kinds.append(f"{copies:,} {of_all} are copies of training images, so their score does not show generalisation")
    if leaking > copies:
        others = f"{leaking - copies:,} {'others' if copies else of_all}"
        kinds.append(f"{others} are of patients who are also in training, so their score can be too high")
    areas = {"copies": "copies", "of_training_patients": "other images of training patients"}
    measured = {words: figures["leaking"]["roc_auc"][name] for name, words in areas.items()}
    measured["images of new patients" if test["patients"] is not None else "images without copies"] = non_leaking[
        "roc_auc"
    ]
    rest = (
        f"Non-leaking test images: {_counts(non_leaking)}"
        if non_leaking["images"]
        else "No test image is free of leaks"
    )
    lines = [f"**The test set leaks.** {'; '.join(kinds)}. {rest}."]
    effects = [
        f"{_words(name)} {test[name]['value']:.3f} on all test images, {non_leaking[name]['value']:.3f} without leaks"
        for name, difference in figures["leak"].items()
        if difference is not None
    ]
    lines += [f"Effect of the leak: {'; '.join(effects)}."] if effects else []
    defined = [f"{format_metric(entry)} on {words}" for words, entry in measured.items() if entry["value"] is not None]
    return lines + ([f"ROC AUC {', '.join(defined)}."] if defined else [])


def _headline(figures: dict[str, Any], of_files: list[str] | None = None) -> str:
    """The verdict in one sentence, on the non-leaking test images. ``of_files``: properties of the files that predict
    the class; those that the disease can change are not in the headline."""
    block = figures["test_unseen"]
    if not block["images"]:
        of_patients = figures["leaking"]["roc_auc"]["of_training_patients"]
        if of_patients["ci_low"] is None:
            return f"{NOTHING}: {ALL_LEAK}."
        result = f"without the copies, ROC AUC {format_metric(of_patients)}, which can be too high"
        return f"Not evidence for new patients: {ALL_LEAK}; {result}."
    leaks, area, unknown = block["images"] < figures["test"]["images"], block["roc_auc"], block["patients"] is None
    on = " on the non-leaking test images" if leaks else ""
    finding = NOTHING
    if area["value"] is None:
        result = f"{area['reason']} {'among the non-leaking test images' if leaks else 'in the test set'}"
    elif block["positive_components"] == 1:
        among = " among the non-leaking test images" if leaks else ""
        result = f"all positive images{among} come from {'one image and its copies' if unknown else 'one patient'}"
    elif area["ci_low"] is None:
        result = f"{area['reason']}{on}"
    else:
        few = min(block["positive_components"], block["negative_components"])
        unit = "image" if unknown else "patient"
        result = f"ROC AUC {format_metric(area)}{on}"
        if few < FEW_PATIENTS:
            result += f", with {pluralise(few, f'independent {unit}')} in the smaller class"
        if unknown:
            result += "; patients are unknown, so images are treated as independent"
        finding = "Worse than chance" if area["ci_high"] < 0.5 else "Not distinguishable from chance"
        if area["ci_low"] > 0.5:
            too_few = f", but too few {unit}s to generalise" if few < MIN_PATIENTS else ""
            finding = f"Better than chance{too_few}"
    warning = "The test set leaks. " if leaks else ""
    names = shortcuts(figures)
    names += [format_property(name) for name in of_files or [] if name not in OF_PICTURE]
    if names:
        warning += f"Possible shortcut: {' and '.join(map(_escaped, names))}. "
    return f"{warning}{finding}: {result}."


def _external(external: dict[str, Any] | None) -> list[str]:
    """What another set shows: its overlap with the first set, the drop of the figures, calibration, shift of domain."""
    if not external:
        return []
    common, block = external["common"], external["test_unseen"]
    lines = [f"**External validation**: {_counts(external['test'])}{', SYNTHETIC' if external['synthetic'] else ''}."]
    if common["images"] > block["images"]:
        of_patients = common["of_known_patients"]
        others = f", {of_patients:,} other images of patients in both sets" if of_patients else ""
        lines.append(
            f"{common['images'] - block['images']:,} of its images are excluded, because they are also in the first "
            f"set: {common['exact_copies']:,} exact copies, {common['near_copies']:,} near copies{others}. Evaluated: "
            f"{_counts(block)}."
        )
    if common["patients"] == "not known":
        lines.append("Patients are unknown, so some of them can be in both sets.")
    worse = [name for name, entry in external["drop"].items() if entry.get("worse")]
    drops = [f"{_words(name)} {format_metric(external['drop'][name])}" for name in PREVALENCE_FREE]
    significant = f"Significant drop: {', '.join(map(_words, worse))}"
    none = "No drop is significant, which does not prove that the sets are equal"
    lines.append(f"Drop from the first set: {'; '.join(drops)}. {significant if worse else none}.")
    lines.append(
        f"Calibration on the external set: mean probability {external['mean_probability']:.2f}, share of positives "
        f"{block['positives'] / block['images']:.2f}. Share of out-of-distribution images: "
        f"{format_metric(external['ood_share'])}; 0.05 is expected if the sets are alike."
    )
    return lines + [f"External set: {line}" for line in _groups(external)]


def _escaped(name: str) -> str:
    """A name from the data, without a meaning in Markdown."""
    return re.sub(r"([\\*<`])", r"\\\1", name)


def _words(measure: str) -> str:
    return measure.replace("_", " ").replace("roc auc", "ROC AUC").replace("pr auc", "PR AUC")


def shortcuts(figures: dict[str, Any]) -> list[str]:
    """The names of the groups that predict the class by themselves, by more than chance on the test images."""
    groups = {name: group["shortcut"] for name, group in figures.get("groups", {}).items() if "shortcut" in group}
    return [name for name, entry in groups.items() if entry["p"] < ALPHA and above_chance(entry["group_only_auc"])]


def _of_files(figures: dict[str, Any], properties: dict[str, Any] | None) -> list[str]:
    """The properties of the files that predict the class, without groups that are named as shortcuts already."""
    named = {f"{GROUP}{name}" for name in shortcuts(figures)}
    return [name for name in (properties or {}).get("shortcuts", []) if name not in named]


def _properties(figures: dict[str, Any], properties: dict[str, Any] | None) -> list[str]:
    """Which properties of the files predict the class, and whether there are enough patients to tell."""
    if properties is None:
        return []
    if properties["reason"] == TOO_FEW:
        return [
            "Whether properties of the files (size, format, brightness, ...) predict the class is not testable with "
            f"{pluralise(properties['units'], properties['unit'])}, {properties['positive_units']:,} of them positive."
        ]
    names, lines = _of_files(figures, properties), []
    for name in names[:MOST_SHORTCUTS]:
        entry = properties["properties"][name]
        caution = "The network may have learned this property instead of the disease."
        if name in OF_PICTURE:
            caution += " The disease itself may also change this property."
        lines.append(
            f"**Possible shortcut**: the {_escaped(format_property(name))} alone predicts the class with ROC AUC "
            f"{entry['auc']:.3f} in all images (permutation {format_p(entry['p'])}, corrected for "
            f"{properties['compared']} propert{'y' if properties['compared'] == 1 else 'ies'}). {caution}"
        )
    if len(names) > MOST_SHORTCUTS:
        rest = ", ".join(_escaped(format_property(name)) for name in names[MOST_SHORTCUTS:])
        lines.append(f"Other possible shortcuts: {rest}.")
    return lines


def _groups(figures: dict[str, Any]) -> list[str]:
    """What the groups show: which one predicts the class by itself, and in which subgroup the network is worse."""
    if "groups" not in figures:
        return []
    lines, area = [], figures["test_unseen"]["roc_auc"]
    for name in shortcuts(figures):
        shortcut = figures["groups"][name]["shortcut"]
        inside = shortcut["within_group_auc"]
        lines.append(
            f"**Possible shortcut**: {_escaped(name)} alone, without any image, predicts the class with ROC AUC "
            f"{format_metric(shortcut['group_only_auc'])} on the test images. If it is visible in the images, the "
            f"network can use it instead of the disease. ROC AUC of the network among images of the same "
            f"{_escaped(name)}: {inside['reason'] if inside['value'] is None else format_metric(inside)}; overall: "
            f"{format_metric(area)}."
        )
    for name, group in figures["groups"].items():
        shortcut = group.get("shortcut", {"p": 1.0})
        if shortcut["p"] < ALPHA and name not in shortcuts(figures):
            area_alone = format_metric(shortcut["group_only_auc"])
            lines.append(
                f"{_escaped(name)} is associated with the class ({format_p(shortcut['p'])}), but alone it does not "
                f"predict the class by more than chance on the test images: ROC AUC {area_alone}."
            )
    worst = figures["worst"]
    names = ", ".join(map(_escaped, figures["groups"]))
    if worst is None:
        return [*lines, f"Groups ({names}): too few patients for a comparison."]
    level = figures["groups"][worst["group"]]["levels"][worst["level"]]
    subgroup = f"{_escaped(worst['group'])} {_escaped(worst['level'])}: {_words(worst['measure'])}"
    difference = (
        f"{subgroup} {format_metric(level[worst['measure']])}, {-worst['difference']:.3f} below the others "
        f"({format_p(worst['p'])}, corrected for all comparisons)"
    )
    equal = f"No subgroup of {names} differs significantly from the others, which does not prove that they are equal. "
    title = "**Lower performance in a subgroup**" if worst["p"] < ALPHA else f"{equal}Subgroup with the smallest p"
    lines.append(f"{title}: {difference}.")
    few = [
        _escaped(f"{group} {name}")
        for group, content in figures["groups"].items()
        for name, entry in content["levels"].items()
        if all(difference.get("reason") == TOO_FEW for difference in entry["difference"].values())
    ]
    return [*lines, f"Too few patients for a comparison: {shorten(few, 8)}."] if few else lines


def _seed_variance(block: dict[str, Any], training: str | None = None) -> list[str]:
    """How much of the uncertainty comes from the test patients and how much from the seed, and what would reduce it."""
    area = block["roc_auc"]
    if area["ci_low"] is None:
        return []
    recipe = area["recipe"]
    if recipe["ci_low"] is None:
        none = f"There is no interval for new patients and a new training ({recipe['reason']})."
        return [none] if training != "unknown" else []
    share = round(100 * recipe["seed_variance_share"])
    units = "images" if block["patients"] is None else "patients"
    remedy = "a larger ensemble (train.ensemble_size)" if share > 50 else f"more test {units}"
    return [
        f"If the training is also repeated with another random seed, the 95 % interval of the ROC AUC is "
        f"{recipe['ci_low']:.3f} to {recipe['ci_high']:.3f}. {share} % of this variance comes from the random seed and "
        f"{100 - share} % from the choice of test {units}, so {remedy} would narrow the interval most."
    ]


def _few_large_patients(figures: dict[str, Any]) -> list[str]:
    """The figures in which each patient weighs the same, if a few of enough patients have most of the images."""
    block, equal = figures["test_unseen"], figures.get("test_equal_patients") or {}
    patients, effective = block["patients"] or 0, equal.get("effective_patients")  # not in the details of earlier runs
    if patients < FEW_PATIENTS or effective is None or effective >= FEW_LARGE * patients:
        return []
    share = f"{equal['largest_patient']:,} of {block['images']:,} images"
    return [
        f"**Few patients have most images**: {patients:,} patients count as {effective:.0f} of equal size, and one has "
        f"{share} ({100 * equal['largest_patient'] / block['images']:.0f} %). If each patient weighs the same: "
        f"{'; '.join(f'{_words(name)} {format_metric(equal[name])}' for name in PREVALENCE_FREE)}."
    ]


def _in_practice(block: dict[str, Any]) -> list[str]:
    """What the figures mean for 100 images, and compared with always predicting the majority class."""
    lines = []
    for name, kind in (("sensitivity", "positive"), ("specificity", "negative")):
        entry = block[name]
        if entry["value"] is not None:
            bounds = entry.get("reason")
            if entry["ci_low"] is not None:
                bounds = f"{100 * entry['ci_low']:.0f} to {100 * entry['ci_high']:.0f}"
            predicted = f"of 100 {kind} images, {100 * entry['value']:.0f} are predicted {kind} ({bounds})"
            lines.append(f"{name.capitalize()}: {predicted}.")
    if (accuracy := block["accuracy"]["value"]) is not None:
        majority = max(block["positives"], block["images"] - block["positives"]) / block["images"]
        lines.append(f"Accuracy {accuracy:.3f}; always predicting the majority class gives {majority:.3f}.")
    return lines
