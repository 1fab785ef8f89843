"""Find what makes a result on a set of images misleading: copies, contradicting labels, unusual images."""

from typing import Any

from core.audit import copies, hashes
from core.images import contact_sheets, dicom
from core.images.decoder import Grey
from core.pipeline import components, files, queries, tables
from core.pipeline.queries import Database
from core.pipeline.text import shorten

import numpy as np
import pandas as pd

SIZE_RATIO = 2.0  # a width or height more than 2 times the median, or less than half of it, is an outlier
RARE_MODE = 0.05  # a colour mode of a smaller share of the images is an outlier
MAX_Z_SCORE = 5.0  # limit for the modified z-score of the mean brightness (Iglewicz and Hoaglin 1993 suggest 3.5)
ENDS = ["first", "second"]  # columns of a pair
COPIED = ["row", "file", "label", "patient", "pixels_sha256"]  # columns of the images that look like others
SHOWN = 8  # images of each cluster on a sheet
LARGEST = 12  # clusters of each kind on the sheet of copies


def find_copies(
    database: Database, grey: Grey, std: np.ndarray, folder: str | None = None, crops: np.ndarray | None = None
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Find the images of a set that look like others.

    Parameters
    ----------
    database : Database with the view ``images``, which has the columns of tables.INDEX
    grey : Grey, (N, 64, 64) uint8, in the order of ``images``
    std : (N,) float64, from copies.levels
    folder : for temporary files; by default the system's
    crops : (N, 64, 64, C) uint8, of the images; black where there is none; by default, or if empty, none has one
        They are compared with the images and each other, so that the crop of an image is found to be its copy.

    Returns
    -------
    images : those that look like others, with the columns of COPIED
    near, rejected : pairs of near copies, and the closest pairs that are not copies
        With the columns of copies.PAIRS; first and second are files. Of images with equal pixels, only the first is
        compared.
    """
    select = f"select {', '.join(COPIED)} from images"
    # A 64-bit hash of the SHA-256 needs less memory; few images have an equal one by chance. Without coalesce, DuckDB
    # can join from the other side, with all images in memory.
    repeated = "select hash(pixels_sha256) from images group by 1 having count(*) > 1"
    equal = database.frame(f"{select} where coalesce(hash(pixels_sha256) in ({repeated}), false) order by row")
    compared = std >= copies.MIN_STD
    compared[equal.loc[equal["pixels_sha256"].duplicated(), "row"]] = False
    count, views = len(grey), grey
    if crops is not None and len(crops):
        views = Grey(*grey.stacks, crops)
        compared = np.append(compared, compared & (copies.levels(Grey(crops), folder)[1] >= copies.MIN_STD))
    phash = files.temp_memmap((len(views), 8), np.uint8, folder)
    for chunk in database.chunks("select row, phash from images"):
        phash[chunk["row"]] = hashes.read(list(chunk["phash"]))
    for start in range(count, len(views), hashes.CHUNK):
        part = slice(start, start + hashes.CHUNK)
        phash[part] = hashes.bits(hashes.coefficients(views[part]))
    members = files.select_rows(range(len(views)), compared, folder)
    near, rejected = (_of_images(pairs, count) for pairs in copies.near_pairs(views, phash, members, folder=folder))
    rejected = rejected[~rejected.set_index(ENDS).index.isin(near.set_index(ENDS).index)]

    rows = pd.concat([equal["row"], *(pairs[end] for pairs in (near, rejected) for end in ENDS)])
    database.add("alike", rows.drop_duplicates().to_frame("row"))
    images = database.frame(f"{select} where coalesce(row in (from alike), false) order by row")
    name = images.set_index("row")["file"]
    near, rejected = (
        pairs.assign(first=pairs["first"].map(name), second=pairs["second"].map(name)) for pairs in (near, rejected)
    )
    return images, near, rejected


def _of_images(pairs: pd.DataFrame, count: int) -> pd.DataFrame:
    """The pairs of ``count`` images and their crops as pairs of images, each once."""
    ends = np.sort(pairs[ENDS].to_numpy() % count, axis=1)
    pairs = pairs.assign(first=ends[:, 0], second=ends[:, 1])[ends[:, 0] != ends[:, 1]]
    return pairs.drop_duplicates(ENDS, ignore_index=True)


def cluster(images: pd.DataFrame, near: pd.DataFrame) -> pd.DataFrame:
    """Group the copies among images into clusters.

    An image has one row of kind "exact" if another image has equal pixels (distance 0, correlation 1), and one row of
    kind "near" if it has a near copy; distance and correlation are those of its closest pair. Near copies of near
    copies belong to the same cluster. Exact clusters are numbered first, from 0; each kind is numbered in the order of
    its files.

    Parameters
    ----------
    images, near : DataFrame, from ``find_copies``

    Returns
    -------
    DataFrame with the columns of tables.CLUSTERS
    """
    copied = images[images["pixels_sha256"].duplicated(keep=False)]
    exact = copied[["file"]].assign(
        cluster=copied.groupby("pixels_sha256", sort=False).ngroup(), kind="exact", distance=0, correlation=1.0
    )
    # Images with equal pixels share their near copies.
    of_file = images.set_index("file")["pixels_sha256"]
    ends = pd.concat([near.assign(file=near["first"]), near.assign(file=near["second"])])
    ends = ends.sort_values("correlation", ascending=False, kind="stable").drop_duplicates("file")
    closest = ends.assign(pixels_sha256=ends["file"].map(of_file)).set_index("pixels_sha256")
    in_pair = images[images["pixels_sha256"].isin(closest.index)]
    nodes = pd.Index(closest.index)
    first, second = (nodes.get_indexer(near[end].map(of_file)) for end in ("first", "second"))
    component = components.connected_components(len(nodes), first, second)
    number = pd.factorize(in_pair["pixels_sha256"].map(dict(zip(nodes, component, strict=True))))[0]
    closeness = {name: in_pair["pixels_sha256"].map(closest[name]) for name in ("distance", "correlation")}
    near_rows = in_pair[["file"]].assign(cluster=number + copied["pixels_sha256"].nunique(), kind="near", **closeness)
    rows = pd.concat([exact, near_rows], ignore_index=True).astype({"cluster": "Int64", "distance": "Int64"})
    return rows.sort_values(["cluster", "file"], ignore_index=True)[tables.CLUSTERS]


def with_classes(database: Database, images: pd.DataFrame) -> pd.DataFrame:
    """``images`` with their class, from the view ``labelled`` (file, class)."""
    database.add("copied", images[["file"]])
    query = 'select file, "class" from labelled where coalesce(file in (from copied), false)'
    return images.merge(database.frame(query), on="file", how="left")


def conflicts(images: pd.DataFrame, clusters: pd.DataFrame) -> dict[str, list[list[str]]]:
    """The files of each cluster whose copies have different classes, for the kinds "exact" and "near"; ``images`` have
    a column class. Classes on the same side can contradict each other, too.

    Files of an exact conflict are left out of the near ones, so that no conflict is reported twice.
    """
    labelled = clusters.merge(images[["file", "class"]], on="file")
    exact = _mixed(labelled[labelled["kind"] == "exact"], "class")
    reported = {file for members in exact for file in members}
    near = labelled[(labelled["kind"] == "near") & ~labelled["file"].isin(reported)]
    return {"exact": exact, "near": _mixed(near, "class")}


def _mixed(rows: pd.DataFrame, column: str) -> list[list[str]]:
    """The files of each cluster that has more than one value in a column."""
    mixed = rows[rows.groupby("cluster")[column].transform("nunique") > 1]
    return [list(members) for _, members in mixed.groupby("cluster")["file"]]


def find(
    database: Database, images: pd.DataFrame, clusters: pd.DataFrame, contradicting: dict[str, list[list[str]]],
    levels: tuple[np.ndarray, np.ndarray], folder: str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Find the images that a person should look at.

    A finding is one of unreadable, blank, near-blank, size, annotated, oblong, modality, intent, mode, brightness,
    no-breast, conflict (copies of different classes) and two-patients (copies under different patients).

    Parameters
    ----------
    database : that of ``find_copies``, with the views ``properties`` and ``labelled``, the files that should be indexed
    images, clusters, contradicting : from ``with_classes``, ``cluster`` and ``conflicts``
    levels : mean and standard deviation, (N,) float64 each, from copies.levels

    Returns
    -------
    DataFrame with a row per image and finding, and the columns of tables.FINDINGS
    """
    rows = _uncropped(database)
    count = database.frame("select (select count(*) from labelled) - (select count(*) from images) as missing")
    if count["missing"][0]:
        unreadable = database.frame("select file from labelled anti join images using (file)")["file"]
        rows += [(file, "unreadable", "") for file in unreadable]

    def note(finding: str, where: np.ndarray, details: list[str]) -> None:
        if not where.any():
            return
        database.add("noted", pd.DataFrame({"row": np.flatnonzero(where)}))
        names = database.frame("select file from images where coalesce(row in (from noted), false) order by row")
        rows.extend((file, finding, detail) for file, detail in zip(names["file"], details, strict=True))

    mean, std = levels
    note("blank", std == 0, [f"all grey level {level:.0f}" for level in mean[std == 0]])
    faint = (std > 0) & (std < copies.MIN_STD)
    note("near-blank", faint, [f"standard deviation {level:.1f} grey levels" for level in std[faint]])

    median_mean = _median(mean, folder)
    score = files.temp_memmap(mean.shape, np.float64, folder)
    np.abs(np.subtract(mean, median_mean, out=score), out=score)
    deviation = _median(score, folder)
    score *= 0.6745 / deviation if deviation else 0.0
    far = score > MAX_Z_SCORE
    note("brightness", far, [f"mean {level:.0f}, median {median_mean:.0f}" for level in mean[far]])

    sizes = database.frame("select width, height, count(*) as images from images group by width, height")
    usual = [
        float(np.quantile(sizes[side], 0.5, method="inverted_cdf", weights=sizes["images"]))
        for side in ("width", "height")
    ]
    outliers = database.frame(
        """select file, width, height from images where greatest(width / $1, height / $2) > $3
        or least(width / $1, height / $2) < 1 / $3""", *usual, SIZE_RATIO
    )  # fmt: skip
    median = " x ".join(f"{side:.0f}" for side in usual)
    rows += [(file, "size", f"{width} x {height}, median {median}") for file, width, height in outliers.to_numpy()]

    modes = "select file, regexp_replace(mode, $1, '') as kind, mode from images"
    burned = f"( {dicom.OBLONG})?( {dicom.BURNED_IN})?$"
    for finding in (dicom.BURNED_IN, dicom.OBLONG):
        marked = database.frame("select file from images where contains(mode, $1)", f" {finding}")["file"]
        rows += [(file, finding, "") for file in marked]
    for finding, pattern in dicom.IN_MODE.items():
        values = database.frame(
            "select file, regexp_extract(mode, $1, 1) as value from images where value != ''", pattern
        )
        most = values["value"].mode()[:1]  # of two that are equally frequent, the first
        others = values[~values["value"].isin(most)]
        rows += [(file, finding, f"{value}, most are {most[0]}") for file, value in others.to_numpy()]
    counts = database.frame(
        f"select kind, count(*) as images from ({modes}) group by kind order by images desc, kind", burned
    )
    rare = counts[counts["images"] / counts["images"].sum() < RARE_MODE]
    database.add("rare", rare[["kind"]])
    unusual = database.frame(f"select file, kind from ({modes}) where kind in (from rare)", burned)
    rows += [(file, "mode", f"{kind}, most are {counts['kind'][0]}") for file, kind in unusual.to_numpy()]

    by_file = images.set_index("file")
    for kind, groups in contradicting.items():
        for members in groups:
            classes = by_file.loc[members, "class"]
            for name in sorted(classes.unique()):
                against = shorten(list(classes.index[classes != name]), 1)
                detail = f"class {name}, not so its {kind} copies {against}"
                rows += [(file, "conflict", detail) for file in classes.index[classes == name]]
    for members in _mixed(clusters.merge(images[["file", "patient"]], on="file"), "patient"):
        owners = by_file.loc[members, "patient"].dropna()
        names = sorted(owners.unique())
        words = {name: shorten([other for other in names[:4] if other != name] + names[4:], 3) for name in names[:4]}
        rest = shorten(names, 3)
        for file, owner in owners.items():
            rows.append((file, "two-patients", f"patient {owner}, its copies are of {words.get(owner, rest)}"))
    return tables.frame(rows, tables.FINDINGS).sort_values(["finding", "file"], ignore_index=True)


def _uncropped(database: Database) -> list[tuple[object, ...]]:
    """The findings of images in which no breast was found, if images are cropped to the breast."""
    if not _has_crops(database):
        return []
    table = database.frame("select file from images join properties using (row) where crop is null")
    return [(file, "no-breast", "") for file in table["file"]]


def _has_crops(database: Database) -> bool:
    return tables.CROP in database.frame("from properties limit 0").columns


def _median(values: np.ndarray, folder: str | None) -> float:
    """The median of values that may be larger than memory."""
    ordered = files.temp_memmap(values.shape, values.dtype, folder)
    ordered[:] = values
    return float(np.median(ordered, overwrite_input=True))


# What metrics/audit.json shows of the figures.
HEADLINE = (
    "images", "positives", "patients", "positive_patients", "redundant_copies", "near_pairs", "label_conflicts",
    "patients_sharing_images",
)  # fmt: skip


def summarise(
    database: Database, images: pd.DataFrame, clusters: pd.DataFrame, near: pd.DataFrame,
    contradicting: dict[str, list[list[str]]], findings: pd.DataFrame,
) -> dict[str, Any]:  # fmt: skip
    """The figures of the audit. Figures that need patients are null if patients are not known.

    ``database`` is that of ``find_copies``, with the view ``clusters``; ``images``, ``clusters`` and ``near`` have all
    copies.
    """
    by_patient = queries.by_patient(database)
    counts, positives = tables.counts(by_patient), by_patient["label"] == 1
    # Positives that a split can keep apart: patients who share copies are one component, and an image of an unknown
    # patient without copies is a component of its own.
    alone = by_patient["patient"].isna() & by_patient["single"].isna()
    connected = components.of_images(by_patient, clusters)[positives & ~alone].nunique()
    exact = clusters[clusters["kind"] == "exact"]
    equal = images[images["file"].isin(exact["file"])]
    redundant, redundant_positives = (
        len(copied) - copied["pixels_sha256"].nunique() for copied in (equal, equal[equal["label"] == 1])
    )
    of_patients = by_patient.groupby("patient")["images"].sum().agg(["min", "median", "max"])
    sharing = images.set_index("file")["patient"][findings.loc[findings["finding"] == "two-patients", "file"]]
    number = findings["finding"].value_counts()
    return {
        "synthetic": queries.are_synthetic(database),
        "images": tables.number(by_patient),
        "distinct_images": tables.number(by_patient) - redundant,
        "redundant_copies": redundant,
        "exact_clusters": int(exact["cluster"].nunique()),
        "copied_images": len(exact),
        "near_pairs": len(near),
        "near_clusters": int(clusters.loc[clusters["kind"] == "near", "cluster"].nunique()),
        "positives": counts["positives"],
        "distinct_positives": tables.number(by_patient[positives]) - redundant_positives,
        "patients": counts["patients"],
        "positive_patients": counts["positive_patients"],
        "positive_components": connected + tables.number(by_patient[positives & alone]),
        "images_per_patient": {name: None if np.isnan(value) else float(value) for name, value in of_patients.items()},
        "patients_sharing_images": None if counts["patients"] is None else int(sharing.nunique()),
        "label_conflicts": sum(map(len, contradicting.values())),
        "unreadable": int(number.get("unreadable", 0)),
        "blank": int(number.get("blank", 0)),
        "near_blank": int(number.get("near-blank", 0)),
        "outliers": {name: int(number.get(name, 0)) for name in ("size", "mode", "brightness")},
    }


def draw(
    images: pd.DataFrame, clusters: pd.DataFrame, contradicting: dict[str, list[list[str]]], rejected: pd.DataFrame,
    thumbnails: np.ndarray, synthetic: bool, folder: str,
) -> None:  # fmt: skip
    """Save contact sheets in ``folder``.

    copies.png: the largest clusters; conflicts.png: all conflicts; rejected.png: the closest pairs that are not copies.

    Parameters
    ----------
    images : DataFrame, from ``with_classes``
    thumbnails : (N, H, H, C) uint8, in the order of the index
    """
    by_file = images.set_index("file")

    def row(heading: str, paths: list[str]) -> contact_sheets.Row:
        members = by_file.loc[paths]
        patients = shorten(sorted(set(members["patient"].dropna())), 4) or "unknown"
        # Images with equal pixels and class look the same, so repeated ones come last.
        repeated = members.duplicated(["pixels_sha256", "class"]).to_numpy()
        shown = members.iloc[np.argsort(repeated, kind="stable")[:SHOWN]]
        names = [f"{label}\n{str(name).rpartition('/')[2]}" for name, label in shown["class"].items()]
        pictures = [np.asarray(thumbnails[n]) for n in shown["row"]]
        return contact_sheets.Row(f"{heading}; patients: {patients}", pictures, names)

    largest = []
    for kind, words in (("exact", "equal images"), ("near", "near copies")):
        members = clusters[clusters["kind"] == kind].groupby("cluster")["file"]
        sizes = members.size().sort_values(ascending=False, kind="stable")[:LARGEST]
        largest += [row(f"{size:,} {words}", list(members.get_group(number))) for number, size in sizes.items()]
    mixed = [
        row(f"{len(members):,} {kind} copies of different classes", members)
        for kind, groups in contradicting.items()
        for members in groups
    ]
    closest = [
        row(f"correlation of detail {correlation:.3f}, hashes {distance} bits apart", [first, second])
        for first, second, distance, correlation in rejected[:LARGEST].to_numpy()
        if correlation >= copies.MIN_HALF_CORRELATION
    ]
    alike = f"Alike, but no copies: correlation below {copies.MIN_CORRELATION:g}"
    for name, rows, title, empty in (
        ("copies", largest, "The largest clusters of copies", "No image has a copy"),
        ("conflicts", mixed, "Copies of different classes", "No copies have different classes"),
        ("rejected", closest, alike, "No two images came close to being copies"),
    ):
        contact_sheets.save(title if rows else empty, rows, f"{folder}/{name}.png", synthetic)


def draw_crops(database: Database, thumbnails: np.ndarray, crops: np.ndarray, synthetic: bool, path: str) -> None:
    """Save a contact sheet of images beside their crops. No sheet if images are not cropped to the breast.

    They are those in which no breast was found, and those with the smallest and the largest crops.

    Parameters
    ----------
    thumbnails, crops : (N, H, H, C) uint8, in the order of the index; C can differ
    """
    if not _has_crops(database):
        return
    rows = []
    for heading, order in (
        ("No breast found: the whole image is used", "where crop is null order by row limit 64"),
        ("The smallest crops", "where crop is not null order by crop, row limit 16"),
        ("The largest crops", "where crop is not null order by crop desc, row limit 16"),
    ):
        table = database.frame(f"select row, file, crop from images join properties using (row) {order}")
        for start in range(0, len(table), SHOWN // 2):
            part = table[start : start + SHOWN // 2]
            pictures = [np.asarray(views[n]) for n in part["row"] for views in (thumbnails, crops)]
            shares = ["none" if pd.isna(share) else f"{share:.0%} of the area" for share in part["crop"]]
            captions = [text for pair in zip(part["file"].str.split("/").str[-1], shares, strict=True) for text in pair]
            rows.append(contact_sheets.Row(heading, pictures, captions))
    contact_sheets.save("Crops to the breast", rows, path, synthetic)
