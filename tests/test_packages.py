"""The locked packages: what the lock holds, and what make audit finds of it."""

import http.server
import json
import os
import re
import subprocess
import sys
import threading

import pytest

from conftest import TOP

LOCK = TOP / "requirements.lock"


def test_the_lock_has_every_requirement_at_its_version_and_each_file_by_its_hash():
    requirements = [
        re.sub(r"\[.*\]", "", line.split("#")[0].strip().lower())  # what an extra brings is locked by its own name
        for name in ("requirements.txt", "requirements-dev.txt")
        for line in (TOP / name).read_text().splitlines()
    ]
    entries = re.split(r"\n(?=\S)", LOCK.read_text().split("\n", 2)[2])
    locked = {re.match(r"\S+", entry)[0] for entry in entries}
    normal = {
        re.sub(r"[-_.]+", "-", line.partition("==")[0]) + "==" + line.partition("==")[2]
        for line in requirements
        if line
    }
    assert normal <= locked
    assert all("--hash=sha256:" in entry for entry in entries) and all("==" in name for name in locked)


@pytest.fixture
def audit(tmp_path):
    """Run .ci/audit.py on a lock of two packages, against an index and an advisory service on loopback."""
    pages, answer, queries = {}, {}, []

    class Handler(http.server.BaseHTTPRequestHandler):
        def reply(self, content):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def do_GET(self):
            self.reply(pages[self.path.strip("/")])

        def do_POST(self):
            queries.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.reply(answer)

        def log_message(self, *arguments):
            pass

    served = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
    threading.Thread(target=served.serve_forever, args=[0.01], daemon=True).start()  # seconds until shutdown is seen
    hashes = {"good": "a" * 64, "my-other": "b" * 64}
    (tmp_path / "requirements.lock").write_text(
        f"# made by\ngood==1.0 \\\n    --hash=sha256:{hashes['good']}\n"
        f"My.Other==2.0 ; python_version > '3' \\\n    --hash=sha256:{hashes['my-other']}\n"
    )
    for name, digest in hashes.items():
        pages[name] = {"files": [{"hashes": {"sha256": digest}, "yanked": False}]}
    answer["results"] = [{}, {}]
    (tmp_path / "gates.yaml").write_text("accepted: {GHSA-looked-into: never called}\n")

    def run(advisories=f"http://localhost:{served.server_port}/osv"):
        environment = {"AUDIT_INDEX": f"http://localhost:{served.server_port}", "AUDIT_ADVISORIES": advisories}
        command = [sys.executable, TOP / ".ci/audit.py"]
        process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | environment)
        return process.returncode, process.stdout + process.stderr

    yield run, pages, answer, queries
    served.shutdown()


def test_packages_that_nothing_is_known_against_pass(audit):
    run, _, answer, queries = audit
    answer["results"][0] = {"vulns": [{"id": "GHSA-looked-into"}]}
    code, output = run()
    assert code == 0 and "2 locked packages: the index offers all with the locked hashes, none withdrawn" in output
    versions = [(query["package"]["name"], query["version"]) for query in queries[0]["queries"]]
    assert versions == [("good", "1.0"), ("My.Other", "2.0")]


def test_each_fault_is_named(audit):
    run, pages, answer, _ = audit
    pages["good"]["files"][0]["yanked"] = "breaks everything"
    pages["good"]["project-status"] = {"status": "quarantined", "reason": "malware"}
    pages["my-other"]["files"][0]["hashes"]["sha256"] = "c" * 64
    answer["results"][1] = {"vulns": [{"id": "GHSA-new"}]}
    code, output = run()
    assert code == 1 and output.splitlines() == [
        "good==1.0: its project is in quarantine: malware",
        "good==1.0: 1 of its files are withdrawn: breaks everything",
        "My.Other==2.0: 1 of 1 locked files are not on the index",
        "My.Other==2.0 has a known vulnerability: https://osv.dev/GHSA-new",
    ]


def test_without_the_advisories_it_says_so_and_the_index_decides(audit):
    code, output = audit[0](advisories="http://localhost:9/")
    assert code == 0 and "but OSV could NOT be reached, so vulnerabilities were not checked" in output
