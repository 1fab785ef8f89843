"""docs/remotes.md against real servers on this machine: a folder, sshd, a server that speaks S3, Apache with WebDAV."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import TOP, Clone

pytestmark = pytest.mark.slow

PAGE = (TOP / "docs/remotes.md").read_text()
PUBLISH, COLLEAGUE, SHARE, TAKE, OLD, CLEAN = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serving(port, process):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        assert process.poll() is None, process.stdout.read()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.1)
    raise AssertionError("the server does not answer")


def start(*command, port, **options):
    return serving(port, subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options,
    ))  # fmt: skip


def needed(command, package):
    path = shutil.which(command, path=os.environ["PATH"] + ":/usr/sbin")
    if not path:
        pytest.skip(f"{command} is not here (Debian, Ubuntu: apt install {package})")
    return path


def folder(place):
    return [f"remote add --default store {place}/store"], None


def ssh(place):
    pytest.importorskip("dvc_ssh")
    sshd, port = needed("sshd", "openssh-server"), free_port()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place / name], check=True)
    (place / "keys").write_text((place / "user.pub").read_text())
    Path("/run/sshd").mkdir(exist_ok=True)
    server = start(
        sshd, "-D", "-e", "-f", "/dev/null", "-p", port, "-h", place / "host", "-o", "ListenAddress=127.0.0.1",
        "-o", f"AuthorizedKeysFile={place}/keys", "-o", "StrictModes=no", "-o", f"PidFile={place}/pid",
        "-o", "Subsystem=sftp internal-sftp", "-o", "PasswordAuthentication=no", port=port,
    )  # fmt: skip
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    return [
        f"remote add --default store ssh://{user}@127.0.0.1:{port}{place}/store",
        f"remote modify --local store keyfile {place}/user",
    ], server


def s3(place):
    pytest.importorskip("dvc_s3")
    pytest.importorskip("moto")
    port = free_port()
    server = start(sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port, port=port)
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    import boto3

    boto3.client(
        "s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1",
        aws_access_key_id="a", aws_secret_access_key="b",
    ).create_bucket(Bucket="bucket")  # fmt: skip
    return [
        "remote add --default store s3://bucket/path",
        f"remote modify store endpointurl http://127.0.0.1:{port}",
        *(f"remote modify --local store {name} {keys[key]}" for name, key in (
            ("access_key_id", "AWS_ACCESS_KEY_ID"), ("secret_access_key", "AWS_SECRET_ACCESS_KEY"),
        )),
        "remote modify store region us-east-1",
    ], server  # fmt: skip


def webdav(place):
    pytest.importorskip("dvc_webdav")
    apache, port = needed("apache2", "apache2"), free_port()
    modules = "/usr/lib/apache2/modules"
    (place / "site/path").mkdir(parents=True)
    place.chmod(0o755)
    (place / "htpasswd").write_text("user:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n")  # password
    for path in (place / "site", place / "site/path"):
        if os.getuid() == 0:
            shutil.chown(path, "www-data")
    load = {
        "mpm_event": "mpm_event", "authn_core": "authn_core", "authz_core": "authz_core", "authn_file": "authn_file",
        "authz_user": "authz_user", "auth_basic": "auth_basic", "dav": "dav", "dav_fs": "dav_fs",
    }  # fmt: skip
    lines = [f"LoadModule {name}_module {modules}/mod_{file}.so" for name, file in load.items()]
    lines += [
        f"ServerRoot {place}", f"Listen 127.0.0.1:{port}", "ServerName localhost", f"PidFile {place}/pid",
        f"ErrorLog {place}/errors", f"DocumentRoot {place}/site", f"DavLockDB {place}/site/.locks",
        f"<Directory {place}/site>", "Dav On", "AuthType Basic", "AuthName dav", f"AuthUserFile {place}/htpasswd",
        "Require valid-user", "</Directory>",
        *(["User www-data", "Group www-data"] if os.getuid() == 0 else []),
    ]  # fmt: skip
    (place / "httpd.conf").write_text("\n".join(lines) + "\n")
    server = start(apache, "-D", "FOREGROUND", "-f", place / "httpd.conf", port=port)
    return [
        f"remote add --default store webdav://127.0.0.1:{port}/path",
        "remote modify store user user",
        "remote modify --local store password password",
    ], server


@pytest.mark.parametrize(
    "kind",
    [folder, *(pytest.param(kind, marks=pytest.mark.long) for kind in (ssh, s3, webdav))],
    ids=["folder", "ssh", "s3", "webdav"],
)
def test_what_one_clone_pushes_another_pulls_and_computes_nothing(clone, kind, tmp_path_factory):
    place = tmp_path_factory.mktemp("remote")
    for path in (place, *place.parents):
        if path.owner() == (place.owner()) and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o011)  # the server's user must come through
    settings, server = kind(place)
    bare = place / "bare.git"
    clone.run("git", "init", "-q", "--bare", "-b", "main", bare)
    clone.run("git", "remote", "add", "origin", bare)
    before = clone.run("git", "rev-parse", "HEAD").strip()
    try:
        for setting in settings:
            clone.run("dvc", *setting.split())
        clone.run("git", "commit", "-qam", "A remote")
        secrets = clone.folder / ".dvc/config.local"
        clone.run("bash", "-ec", PUBLISH)
        elsewhere = Clone(place)
        commands = COLLEAGUE.replace("REPOSITORY", str(bare))
        if secrets.exists():
            commands = commands.replace("dvc pull", f"cp {secrets} .dvc/config.local; dvc pull")
        output = elsewhere.run("bash", "-ec", commands)
        assert "Running stage" not in output and "Data and pipelines are up to date" in output
        for path in ("models/model.safetensors", "data/predictions.csv", "reports/report.html", "plots/heatmaps.png"):
            assert (place / "colleague" / path).read_bytes() == (clone.folder / path).read_bytes()
    finally:
        if server:
            server.terminate()
            server.wait(timeout=20)
        (clone.folder / ".dvc/config.local").unlink(missing_ok=True)
        clone.run("git", "remote", "remove", "origin")
        clone.run("git", "reset", "-q", "--hard", before)


@pytest.mark.long
def test_an_experiment_that_a_colleague_did_not_commit_is_applied_without_computing_anything(clone, tmp_path):
    """Two clones of one commit, a git remote and a DVC remote. The colleague's clone has computed nothing."""
    bare, colleague = tmp_path / "bare.git", Clone(tmp_path / "colleague")
    clone.run("git", "init", "-q", "--bare", "-b", "main", bare)
    clone.run("git", "remote", "add", "origin", bare)
    clone.run("git", "push", "-q", "origin", "main")
    clone.run("git", "clone", "-q", bare, colleague.folder)
    for copy in (clone, colleague):
        copy.run("dvc", "remote", "add", "--local", "--default", "store", tmp_path / "store")
    clone.change("train.lr", 0.002)
    try:
        clone.run("dvc", "repro")
        clone.run("bash", "-ec", SHARE)
        output = colleague.run("bash", "-ec", TAKE)
        assert "Running stage" not in output and "Data and pipelines are up to date" in output
        for path in ("dvc.lock", "models/model.safetensors", "metrics/evaluate.json", "reports/report.html"):
            assert (colleague.folder / path).read_bytes() == (clone.folder / path).read_bytes()
        assert "lr: 0.002" in (colleague.folder / "params.yaml").read_text()
        colleague.change("evaluate.threshold", 0.4)
        output = colleague.run("dvc", "repro", "--pull")
        assert re.findall(r"Running stage '(\w+)'", output) == ["evaluate", "report"]
    finally:
        clone.run("dvc", "exp", "remove", "shared")
        (clone.folder / ".dvc/config.local").unlink()
        clone.run("git", "remote", "remove", "origin")


@pytest.mark.long
def test_the_state_of_an_older_commit_comes_back_and_cleaning_up_keeps_it(clone):
    before = clone.run("git", "rev-parse", "HEAD").strip()
    paths = [
        clone.folder / path for path in ("models/model.safetensors", "reports/report.html", "data/predictions.csv")
    ]
    old = [path.read_bytes() for path in paths]
    try:
        clone.change("train.lr", 0.002)
        clone.run("dvc", "repro")
        clone.run("git", "commit", "-qam", "Another rate")
        new = [path.read_bytes() for path in paths]
        assert all(first != second for first, second in zip(old, new, strict=True))
        clone.run("git", "tag", "kept", before)
        clone.change("train.lr", 0.004)
        clone.run("dvc", "repro", "train")
        lost = (clone.folder / "models/model.safetensors").read_bytes()
        clone.run("git", "checkout", "-q", "-f", "main")
        clone.run("dvc", "checkout", "-f")
        clone.run("bash", "-ec", CLEAN)
        cached = {path.read_bytes() for path in (clone.folder / ".dvc/cache/files").rglob("*") if path.is_file()}
        assert lost not in cached and {*old, *new} <= cached
        steps = OLD.replace("OLD", "kept").partition("git checkout --quiet main")
        clone.run("bash", "-ec", steps[0])
        assert [path.read_bytes() for path in paths] == old
        clone.run("bash", "-ec", steps[1] + steps[2])
        assert [path.read_bytes() for path in paths] == new
    finally:
        clone.run("git", "checkout", "-q", "-f", "main")
        clone.run("git", "reset", "-q", "--hard", before)
        clone.run("git", "tag", "-d", "kept")
