"""Write the verdict: how much evidence supports the figures, and what they mean, in words."""

import re
from typing import Any

from core.evidence.metrics import SHAREFREE
from core.evidence.subgroups import FEW
from core.pipeline.tables import FEW_PATIENTS, LEAST
from core.pipeline.text import format_metric, format_p, pluralise, shorten

CHANCE = 0.05  # a difference between groups, or of the classes between them, with a p of this or more is called chance


def word(figures: dict[str, Any], other: dict[str, Any] | None = None) -> str:
    """The content of metrics/verdict.md; ``figures`` is the content of metrics/evaluate.json, ``other`` that of another
    set, if the verdict is to speak of both."""
    test, fresh = figures["test"], figures["test_unseen"]
    leaked = test["images"] - fresh["images"]
    elsewhere = f" In the other set: {_headline(other | {'test': other['test_unseen']})}" if other else ""
    lines = ["# Verdict", "", f"**{_headline(figures)}{elsewhere}**", ""]
    if figures["synthetic"]:
        lines += ["- The images are SYNTHETIC: nothing here says anything about patients."]
    lines.append(f"- The test set: {_basis(test)}.")
    if leaked:
        left = f"Left to believe: {_basis(fresh)}." if fresh["images"] else "Nothing is left to believe."
        lines.append(
            f"- **It leaks.** Training has seen {leaked:,} of its {test['images']:,} images, as copies or other images "
            f"of their patients. What it measures there is memory. {left}"
        )
        shown = [
            f"{name.replace('_', ' ')} {test[name]['value']:.3f} on all, {fresh[name]['value']:.3f} on the rest"
            for name, difference in figures["leak"].items()
            if difference is not None
        ]
        if shown:
            lines.append(f"- What the leak is worth: {'; '.join(shown)}.")
    elif test["patients"] is None:
        lines.append("- No test image has a copy in training; whether patients are on both sides is not known.")
    else:
        lines.append("- Nothing leaked: no test image has a copy, exact or near, or a patient in training.")
    if figures.get("test_in_val"):
        lines.append(
            f"- {figures['test_in_val']:,} test images have a copy or their patient in validation, which can "
            "choose the epoch and the threshold, so the figures may flatter."
        )
    lines += [f"- {line}" for line in [*_worth(fresh), *_luck(fresh), *_groups(figures), *_elsewhere(other)]]
    over = "images and their copies, as patients are not known" if test["patients"] is None else "patients"
    lines += ["", f"Intervals are 95 %, over {over}. Research only: no medical device.", ""]
    return "\n".join(lines)


def _basis(block: dict[str, Any]) -> str:
    if block["patients"] is None:
        return f"{block['images']:,} images, {block['positives']:,} positive, patients not known"
    return (
        f"{pluralise(block['images'], 'image')} of {pluralise(block['patients'], 'patient')}; "
        f"{pluralise(block['positives'], 'positive image')} of {pluralise(block['positive_patients'], 'patient')}"
    )


def _headline(figures: dict[str, Any]) -> str:
    """The verdict in one sentence, on the test images that training has not seen."""
    block = figures["test_unseen"]
    leaks = block["images"] < figures["test"]["images"]
    but = "The test set leaks. " if leaks else ""
    if short := shortcuts(figures):
        but += f"A shortcut is at hand: {' and '.join(map(_escaped, short))}. "
    where = "without the leak, " if leaks else ""
    if not block["images"]:
        return "Not evidence of anything: training has seen every test image, or others of its patients."
    area = block["roc_auc"]
    if area["value"] is None:
        return f"{but}Not evidence of anything: {area['reason']}{' but leaked ones' if leaks else ''} in the test set."
    if block["positive_components"] == 1:
        who = "one image and its copies" if block["patients"] is None else "one patient"
        return f"{but}Not evidence of anything: {where}all positives come from {who}."
    if area["ci_low"] is None:
        return f"{but}Not evidence of anything: {area['reason']}."
    found = f"ROC AUC {area['value']:.3f} ({area['ci_low']:.3f} to {area['ci_high']:.3f})"
    few = min(block["positive_components"], block["negative_components"])
    who = "images" if block["patients"] is None else "patients"
    rests = f", on {few:,} independent {who} of the rarer class" if few < FEW_PATIENTS else ""
    if block["patients"] is None:
        rests += ", if every image is of another patient: whose they are is not known"
    if area["ci_low"] > 0.5 and few < LEAST:
        return f"{but}Above chance on these patients, who are too few to say it of new ones: {where}{found}{rests}."
    if area["ci_low"] > 0.5:
        return f"{but}Better than chance: {where}{found}{rests}."
    if area["ci_high"] < 0.5:
        return f"{but}Worse than chance: {where}{found}{rests}."
    return f"{but}Cannot be told from chance: {where}{found}{rests}."


def _elsewhere(other: dict[str, Any] | None) -> list[str]:
    """What another set shows: what it has in common with the first, how far the figures fall, calibration, novelty."""
    if not other:
        return []
    common, fresh = other["common"], other["test_unseen"]
    lines = [f"**The other set**: {_basis(other['test'])}{', SYNTHETIC' if other['synthetic'] else ''}."]
    if common["images"] > fresh["images"]:
        whose = f", {common['of_known_patients']:,} others of patients in it" if common["of_known_patients"] else ""
        lines.append(
            f"{common['images'] - fresh['images']:,} of its images are left out, as the first set has them: "
            f"{common['exact_copies']:,} exact copies, {common['near_copies']:,} near copies{whose}. Left to judge: "
            f"{_basis(fresh)}."
        )
    if common["patients"] == "not known":
        lines.append("Whether its other patients are in the first set is not known.")
    worse = [name for name, entry in other["drop"].items() if entry.get("worse")]
    shown = [f"{_words(name)} {format_metric(other['drop'][name])}" for name in SHAREFREE]
    sure = f"Worse by more than chance: {', '.join(map(_words, worse))}."
    if not worse:
        sure = "None is worse by more than chance, which does not prove that they are equal."
    lines.append(f"How far it falls there: {'; '.join(shown)}. {sure}")
    lines.append(
        f"Calibration there: mean probability {other['mean_probability']:.2f}, share of positives "
        f"{fresh['positives'] / fresh['images']:.2f}. Out-of-distribution images: a share of "
        f"{format_metric(other['ood_share'])}, where 0.05 is usual."
    )
    return lines + [f"In the other set: {line}" for line in _groups(other)]


def _escaped(name: str) -> str:
    """A name from the data, without a meaning in Markdown."""
    return re.sub(r"([\\*<`])", r"\\\1", name)


def _words(measure: str) -> str:
    return measure.replace("_", " ").replace("roc auc", "ROC AUC").replace("pr auc", "PR AUC")


def shortcuts(figures: dict[str, Any]) -> list[str]:
    """The names of the groups that predict the class by themselves."""
    found = {name: group["shortcut"] for name, group in figures.get("groups", {}).items() if "shortcut" in group}
    return [name for name, one in found.items() if one["p"] < CHANCE and (one["group_only_auc"]["value"] or 0) > 0.5]


def _groups(figures: dict[str, Any]) -> list[str]:
    """What the groups of images show: which one predicts the class by itself, and which one the network fails."""
    if "groups" not in figures:
        return []
    lines, area = [], figures["test_unseen"]["roc_auc"]
    for name in shortcuts(figures):
        found = figures["groups"][name]["shortcut"]
        inside = (
            format_metric(found["within_group_auc"])
            if found["within_group_auc"]["value"] is not None
            else found["within_group_auc"]["reason"]
        )
        lines.append(
            f"**{_escaped(name)} predicts the class without any image**: ROC AUC "
            f"{format_metric(found['group_only_auc'])} on the test "
            f"images. If the images show it, the network can have learned it. The network's ROC AUC among images of "
            f"the same {_escaped(name)}: {inside}; over all: {format_metric(area)}."
        )
    worst = figures["worst"]
    names = ", ".join(map(_escaped, figures["groups"]))
    if worst is None:
        lines.append(f"Groups ({names}): too few patients to say anything.")
    else:
        part = figures["groups"][worst["group"]]["levels"][worst["level"]]
        what = f"{_escaped(worst['group'])} {_escaped(worst['level'])}: {_words(worst['measure'])}"
        is_ = f"{what} {format_metric(part[worst['measure']])}, {-worst['difference']:.3f} below the others"
        sure = f"{format_p(worst['p'])}, corrected for all that were looked at"
        if worst["p"] < CHANCE:
            lines.append(f"**It fails some**: {is_} ({sure}).")
        else:
            lines.append(
                f"No group ({names}) differs from the others by more than chance, which does not prove that they are "
                f"equal. Worst: {is_} ({sure})."
            )
    few = [
        _escaped(f"{group} {part}")
        for group, content in figures["groups"].items()
        for part, entry in content["levels"].items()
        if all(difference.get("reason") == FEW for difference in entry["difference"].values())
    ]
    if few and worst is not None:
        lines.append(f"Too few patients to say: {shorten(few, 8)}.")
    return lines


def _luck(block: dict[str, Any]) -> list[str]:
    """How much of the doubt is the patients' and how much the training's, and what would lower it."""
    area = block["roc_auc"]
    if area["ci_low"] is None:
        return []
    recipe = area["recipe"]
    if recipe["ci_low"] is None:
        return [f"A new training could give another figure; how far off is not known: {recipe['reason']}."]
    share = round(100 * recipe["seed_variance_share"])
    remedy = "more members (train.ensemble_size)" if share > 50 else "more test patients"
    return [
        f"On new patients and after a new training: ROC AUC {recipe['ci_low']:.3f} to {recipe['ci_high']:.3f}. "
        f"{share} % of this doubt is the luck of the training, the rest is which patients are tested: {remedy} would lower it most."
    ]


def _worth(block: dict[str, Any]) -> list[str]:
    """What the figures mean for 100 images, and compared with always predicting the more frequent class."""
    lines = []
    for name, kind in (("sensitivity", "positive"), ("specificity", "negative")):
        entry = block[name]
        if entry["value"] is not None:
            bounds = (
                f"({100 * entry['ci_low']:.0f} to {100 * entry['ci_high']:.0f})"
                if entry["ci_low"] is not None
                else f"({entry['reason']})"
            )
            lines.append(f"Of 100 {kind} images it calls {100 * entry['value']:.0f} {kind} {bounds}.")
    if block["images"] and block["accuracy"]["value"] is not None:
        commoner = max(block["positives"], block["images"] - block["positives"]) / block["images"]
        accuracy = block["accuracy"]["value"]
        lines.append(f"Accuracy {accuracy:.3f}; to call every image by the commoner class gives {commoner:.3f}.")
    return lines
