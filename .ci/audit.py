"""Check requirements.lock against the package index and the known vulnerabilities.

    python .ci/audit.py [requirements.lock]

The index (PyPI's simple API) must still offer each locked version with the locked hashes. The version must not be
withdrawn (yanked), and its project must not be in quarantine. Known vulnerabilities come from OSV (https://osv.dev). If
OSV can't be reached, for example behind a mirror of the index, a message says so and only the index is checked.
Advisories that do not affect this project are listed in gates.yaml under accepted, with the reason.
"""

import json
import os
import re
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import yaml

INDEX = os.environ.get("AUDIT_INDEX", "https://pypi.org/simple")
ADVISORIES = os.environ.get("AUDIT_ADVISORIES", "https://api.osv.dev/v1/querybatch")


class Locked(NamedTuple):
    name: str
    version: str
    hashes: set[str]


def read(path: Path) -> list[Locked]:
    entries = re.split(r"\n(?=\S)", path.read_text())
    found = [(re.match(r"([\w.-]+)==([\w.+!-]+)", entry), entry) for entry in entries]
    return [Locked(at[1], at[2], set(re.findall(r"sha256:([0-9a-f]{64})", entry))) for at, entry in found if at]


def ask(address: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Accept": "application/vnd.pypi.simple.v1+json" if body is None else "application/json"}
    with urllib.request.urlopen(urllib.request.Request(address, data, headers), timeout=60) as answer:
        return json.load(answer)


def on_index(locked: Locked) -> list[str]:
    """What is wrong with a locked version according to the index."""
    page = ask(f"{INDEX}/{re.sub(r'[-_.]+', '-', locked.name).lower()}/")
    project = page.get("project-status", {})
    files = {file["hashes"].get("sha256"): file for file in page["files"]}
    known = [files[digest] for digest in locked.hashes if digest in files]
    withdrawn = [file["yanked"] for file in known if file.get("yanked")]
    faults = []
    if project.get("status") == "quarantined":
        faults.append(f"its project is in quarantine: {project.get('reason', 'no reason given')}")
    if len(known) < len(locked.hashes):
        faults.append(f"{len(locked.hashes) - len(known)} of {len(locked.hashes)} locked files are not on the index")
    if withdrawn:
        faults.append(f"{len(withdrawn)} of its files are withdrawn: {withdrawn[0]}")
    return [f"{locked.name}=={locked.version}: {fault}" for fault in faults]


def advisories(locked: list[Locked], accepted: dict[str, str]) -> list[str]:
    """The known vulnerabilities of the locked versions, without the accepted ones."""
    queries = [{"package": {"name": each.name, "ecosystem": "PyPI"}, "version": each.version} for each in locked]
    answers = ask(ADVISORIES, {"queries": queries})["results"]
    return [
        f"{each.name}=={each.version} has a known vulnerability: https://osv.dev/{found['id']}"
        for each, answer in zip(locked, answers, strict=True)
        for found in answer.get("vulns", [])
        if found["id"] not in accepted
    ]


def main() -> None:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "requirements.lock")
    locked = read(path)
    accepted = yaml.safe_load(Path("gates.yaml").read_text())["accepted"]
    try:
        with ThreadPoolExecutor(8) as pool:
            faults = [fault for found in pool.map(on_index, locked) for fault in found]
    except (urllib.error.URLError, TimeoutError) as error:
        sys.exit(f"the package index {INDEX} can't be reached: {error}")
    try:
        faults += advisories(locked, accepted)
        asked = "and OSV knows no vulnerability of them"
    except (urllib.error.URLError, TimeoutError) as error:
        asked = f"but OSV could NOT be reached, so vulnerabilities were not checked ({error})"
    if faults:
        sys.exit("\n".join(faults))
    print(f"{len(locked)} locked packages: the index offers all with the locked hashes, none withdrawn, {asked}")


if __name__ == "__main__":
    main()
