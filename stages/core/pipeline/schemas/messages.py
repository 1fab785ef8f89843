"""What wrong values of parameters are called; core.pipeline.messages puts the key before each text."""


def phantom_too_few(images: int, patients: int) -> str:
    return f"images ({images}) must be at least 4 times patients ({patients})"


def lists_missing(names: list[str]) -> str:
    return f"{' and '.join(names)} must be given too: set all three lists or none"


def edges_of_several(entry: object) -> str:
    return f"edges belong to one group each, such as {{age: [50, 70]}}, not {entry}"


def edges_fall(edges: list[float]) -> str:
    return f"edges must rise: {edges}"


def wrong_pattern(pattern: str, error: Exception) -> str:
    return f"{pattern!r} is not a regular expression: {error}"


def group_twice(names: list[str]) -> str:
    return f"a group is named twice: {', '.join(names)}"


def not_a_pattern(error: Exception) -> str:
    return f"is not a regular expression: {error}"


def pattern_without_group(group: str, otherwise: str) -> str:
    return f"must contain a group (?P<{group}>...), or be the name of {otherwise}"


def classes_on_both_sides(classes: list[str]) -> str:
    return f"positive and negative both name {', '.join(classes)}"


def credentials() -> str:
    return (
        "location contains a user, a password or a token, and params.yaml and dvc.lock are in git: download the file "
        "yourself and set its path"
    )


def must_be_empty(key: str, empty: str, value: object = None) -> str:
    return f"{key} must be {empty} for source phantom" + (f", not {value!r}" if value is not None else "")


def no_location(source: str) -> str:
    return f"location is null, but source {source} needs one"


def not_on_kaggle(location: str) -> str:
    return f"location must be owner/name or owner/name/versions/N, not {location!r}"


def not_https() -> str:
    return "location must be a path or an https address: other protocols are not secure"


def no_sha256() -> str:
    return "sha256 is null, but an archive from the network needs one"


def sha256_of_no_archive(source: str) -> str:
    return f"sha256 must be null for source {source}: only an archive has one"


def column_without_table(key: str, column: str, group: str) -> str:
    return f"{key} names the column {column!r}, but labels is no table; a pattern needs (?P<{group}>...)"


def home_folder() -> str:
    return "write the whole path: DVC does not know ~"


def outside_the_source() -> str:
    return "must be a folder inside the source, without .."


def not_a_keyword(tag: str) -> str:
    return f"{tag} must be followed by the keyword of a tag, such as PatientID"


def percentiles_fall() -> str:
    return "the first percentile must be below the second"


def folds_of_lists() -> str:
    return "folds must be null for strategy predefined, whose lists define the test set"


def no_such_fold(fold: int, folds: int) -> str:
    return f"fold must be from 1 to folds ({folds}), not {fold}"


def fractions(total: float) -> str:
    return f"train + val + test must be 1, not {total:g}"


def empty_split(name: str) -> str:
    return f"{name} must be above 0: training, early stopping and testing each need images"
