import re
from itertools import pairwise

from core.pipeline import params, yaml12
from core.pipeline.errors import PipelineError
from core.pipeline.schemas import params_yaml
from core.pipeline.schemas.base import Section, Seed
from core.pipeline.schemas.prepare import BadImages, Prepare

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import TOP

TEXT = (TOP / "params.yaml").read_text()


class Common(Section):
    seed: Seed


def load(tmp_path, old="", new=""):
    assert old in TEXT
    path = tmp_path / "params.yaml"
    path.write_text(TEXT.replace(old, new, 1))
    return params_yaml.load(path)


def test_a_number_that_set_param_writes_as_1e_06_is_that_number(tmp_path):
    assert load(tmp_path, "lr: 0.003", "lr: 1e-06").train.lr == 0.000001


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lr: 0.003", "lr: fast", "train.lr = 'fast': input should be a valid number"),
        ("lr: 0.003", "lr: -1.0", "train.lr = -1.0: input should be greater than 0"),
        ("lr: 0.003", "lr: .nan", "train.lr = nan: input should be a finite number"),
        ("epochs: 10", "epochs: 2.5", "train.epochs = 2.5: input should be a valid integer"),
        ("seed: 1", "sede: 1", "sede is not a parameter"),
        ("  head: linear", "  haed: linear", "model.haed is not a parameter"),
        ("seed: 1", "seed: 1\nseed: 2", 'line 7: found duplicate key "seed"'),
        ("train: 0.7", "train: 0.8", "split: train + val + test must be 1, not 1.1"),
        ("threshold: 0.5", "threshold: best", "evaluate.threshold = 'best': input should be a valid number, or"),
        ("source: phantom", "source: folder", "data: location is null, but source folder needs one"),
        ("location:", "location: x", "data: location must be null for source phantom, not 'x'"),
        ("patient:", "patient: '(?P<patient>'", "data.patient = '(?P<patient>': is not a regular expression"),
        ("labels:", "labels: '(?P<patient>a)'", "data.labels = '(?P<patient>a)': must contain a group (?P<label>"),
        ("positive: 1", "positive: []", "data.positive = []"),
        ("negative:", "negative: [0, 1]", "data: positive and negative both name 1"),
        ("groups: []", "groups: [site]", "data: groups must be [] for source phantom"),
        ("groups: []", "groups: [{age: [70, 50]}]", "edges must rise: [70.0, 50.0]"),
        ("groups: []", "groups: [{age: [50], site: [1]}]", "edges belong to one group each"),
        ("groups: []", "groups: [age, {age: [50]}]", "a group is named twice: age, age"),
        ("groups: []", "groups: ['(?P<site>']", "is not a regular expression"),
        ("patient:", "patient: '(?P<p>a)'", "data.patient = '(?P<p>a)': must contain a group (?P<patient>...)"),
        ("breast:", "breast: side", "data: breast is set, but patient is null: a breast is one of a patient"),
        ("subdir:", "subdir: ../x", "data.subdir = '../x': must be a folder inside the source"),
        ("train:\n    val", "train: a\n    val", "data.lists: test must be given too"),
        ("train:\n    val:\n    test:", "train: rest\n    val:\n    test: b", "data.lists: only test can be rest"),
        ("images: 1200", "images: 100", "data.phantom: images (100) must be at least 4 times patients (60)"),
        ("device: auto", "device: tpu", "train.device = 'tpu'"),
    ],
)
def test_a_fault_is_one_line_with_key_value_and_what_is_allowed(tmp_path, old, new, message):
    with pytest.raises(PipelineError) as caught:
        load(tmp_path, old, new)
    assert any(message in line for line in str(caught.value).splitlines()), str(caught.value)


class OfPrepare(Section):
    prepare: Prepare
    data: BadImages


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ensemble_size: 4", "members: 4", "train.members is now called train.ensemble_size: rename it"),
        ("on_bad_image: fail", "unusable: fail", "data.unusable is now called data.on_bad_image: rename it"),
        ("grad_clip_norm: 1.0", "clip_norm: 1.0", "train.clip_norm is now called train.grad_clip_norm: rename it"),
        ("threads: 1", "threads: 1\n  checkpoint_minutes: 5",
         "train.checkpoint_minutes is now called runtime.checkpoint_minutes: rename it"),
        ("fit: stretch", "fit: squeeze", "prepare.fit: squeeze is now called stretch"),
        ("geometry: d4", "geometry: symmetries", "train.augment.geometry: symmetries is now called d4"),
    ],
)  # fmt: skip
def test_an_older_name_is_refused_with_the_new_one_and_nothing_else(tmp_path, old, new, message):
    with pytest.raises(PipelineError) as caught:
        load(tmp_path, old, new)
    assert str(caught.value) == f"{tmp_path / 'params.yaml'}: {message}"


@pytest.mark.parametrize("marker", ["<<<<<<< HEAD", "=======", ">>>>>>> other"])
def test_conflict_markers_are_called_so_with_the_way_out(tmp_path, marker):
    with pytest.raises(PipelineError, match=r"has conflict markers of git: edit it, .* run git add") as caught:
        load(tmp_path, "\nseed: 1\n", f"\nseed: 1\n{marker}\n")
    assert "\n" not in str(caught.value)


def test_a_section_can_be_missing_unless_it_is_asked_for(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("seed: 3\nexternal:\n  patients: same\n")
    assert params.load(Common, path).seed == 3
    with pytest.raises(PipelineError, match="params.yaml: data is missing"):
        params.load(OfPrepare, path)


@pytest.mark.parametrize("text", ["", "- 1\n", "seed: [1\n", "1", "seed: !!python/object:os.system 1\n", "\x00"])
def test_what_is_no_mapping_is_one_line(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(PipelineError) as caught:
        params.load(Common, path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "location", "sha256", "message"),
    [
        ("archive", "http://example.org/a.zip", "0" * 64, "must be a path or an https address"),
        ("archive", "ftp://example.org/a.zip", "0" * 64, "must be a path or an https address"),
        ("archive", "https://example.org/a.zip", None, "sha256 is null"),
        ("folder", "here", "0" * 64, "sha256 must be null for source folder"),
        ("kaggle", "only-a-name", None, "must be owner/name"),
    ],
)
def test_sources_that_cannot_be_trusted_are_refused(make_params, source, location, sha256, message):
    with pytest.raises(PipelineError, match=message):
        make_params({"data.source": source, "data.location": location, "data.sha256": sha256})


@pytest.mark.parametrize("source", ["archive", "kaggle", "folder", "phantom"])
@pytest.mark.parametrize(
    "location",
    ["https://me:hunter2@example.org/a.zip", "https://hunter2@example.org/a.zip",
     "https://example.org/a.zip?X-Amz-Signature=hunter2", "https://example.org/a.zip?download=1&access_token=hunter2"],
)  # fmt: skip
def test_a_credential_is_refused_before_git_sees_it_and_never_repeated(make_params, source, location):
    with pytest.raises(PipelineError, match="location contains a user, a password or a token") as caught:
        make_params({"data.source": source, "data.location": location, "data.sha256": "0" * 64})
    assert "hunter2" not in str(caught.value)


def test_a_stage_gets_only_the_keys_that_it_declares(tmp_path):
    cfg = params.load(OfPrepare, TOP / "params.yaml")
    assert cfg.model_dump() == {
        "prepare": {"image_size": 64, "fit": "stretch", "levels": [0, 100]}, "data": {"on_bad_image": "fail"}
    }  # fmt: skip


def test_a_seed_of_its_own_counts_before_the_common_one_even_if_it_is_0():
    assert [params.either(own, 7) for own in (None, 0, 5)] == [7, 0, 5]


def test_every_key_has_a_comment_above_it():
    lines = TEXT.splitlines()
    bare = [line.strip() for above, line in pairwise(lines) if re.match(r" *\w+:", line) and "#" not in above + line]
    headings = {f"{name}:" for name in (*params_yaml.Params.model_fields, "augment", "dicom", "phantom")}
    assert set(bare) - headings == {"images: 1200", "train:", "val:", "test:", "val: 0.1", "test: 0.2"} - headings


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(document, above=()):
    """Every key of params.yaml, at whatever depth."""
    for key, value in document.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from places(value, (*above, key))


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_value_of_any_key_gives_a_traceback(tmp_path, data):
    document = yaml12.load(TEXT)
    *above, key = data.draw(st.sampled_from(list(places(document))))
    section = document
    for name in above:
        section = section[name]
    action = data.draw(st.sampled_from(["change", "remove", "add"]))
    if action == "remove":
        del section[key]
    else:
        section[key if action == "change" else data.draw(st.text(max_size=5))] = data.draw(VALUES)
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(document))
    before = sorted(tmp_path.iterdir())
    try:
        params_yaml.load(path)
    except PipelineError as error:
        assert str(error).startswith(f"{path}")
    assert sorted(tmp_path.iterdir()) == before


SCALARS = ["2020-01-01", "0o17", "1_000", "~", "!!binary aGk=", "&a [*a]", "*a", ".inf", "-.nan", "{", "[1", "'", "? x",
           "- 1", "|", ">", "!!set {a}", "!!python/name:os.system", "1e400", "9" * 400, "1:30", "<<: 1", "%YAML 9",
           "---", "\t1", "\x85", "{a: 1, a: 2}", "!!float x", "!!int x", "!!timestamp x", "2020-99-99"]  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    line=st.sampled_from(re.findall(r"^ *\w+:.*$", TEXT, re.MULTILINE)),
    value=st.sampled_from(SCALARS) | st.text(max_size=9),
)
def test_no_text_in_the_place_of_a_value_gives_a_traceback(tmp_path, line, value):
    path = tmp_path / "params.yaml"
    path.write_text(TEXT.replace(line, f"{line.partition(':')[0]}: {value}", 1), encoding="utf-8", errors="replace")
    try:
        params_yaml.load(path)
    except PipelineError as error:
        assert str(error).startswith(f"{path}")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60))
def test_no_text_gives_a_traceback(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")
    with pytest.raises(PipelineError):
        params.load(Common, path)
