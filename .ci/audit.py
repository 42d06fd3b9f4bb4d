"""Compare requirements.lock with a published database of vulnerabilities (OSV), through pip-audit.

Exit codes: 0 nothing known, 1 vulnerabilities found, 69 no database reached, 70 pip-audit failed otherwise.
Only packages that the running Python would install are compared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

FOUND, NOT_REACHED, FAILED = 1, 69, 70
NETWORK_ERRORS = (
    "ConnectionError",
    "ConnectTimeout",
    "ReadTimeout",
    "ProxyError",
    "SSLError",
    "HTTPError",
)
"""How pip-audit's last line begins, after the module's name, where the database does not answer."""


def main(arguments: list[str] | None = None) -> int:
    """Compare, and print the result in sentences."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("lock", nargs="?", type=Path, default=Path("requirements.lock"))
    parser.add_argument("--osv-url", help="address of another server that speaks OSV")
    chosen = parser.parse_args(arguments)
    done = _pip_audit(chosen.lock, osv_url=chosen.osv_url)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (json.JSONDecodeError, KeyError):
        return _not_compared(chosen.lock, done.stderr)
    return _tell(chosen.lock, packages)


def _pip_audit(lock: Path, *, osv_url: str | None) -> subprocess.CompletedProcess[str]:
    """pip-audit on the lock as it is: nothing is resolved or downloaded."""
    options = ["--disable-pip", "--require-hashes", "--progress-spinner", "off", "--format", "json"]
    service = ["--vulnerability-service", "osv", *(["--osv-url", osv_url] if osv_url else [])]
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), *options, *service]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _not_compared(lock: Path, stderr: str) -> int:
    reason = (stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
    error = reason.split(":")[0].rsplit(".", 1)[-1]
    if error in NETWORK_ERRORS:
        print(f"{lock} was NOT compared: no vulnerability database was reached ({reason})")
        return NOT_REACHED
    print(f"{lock} was NOT compared: pip-audit failed: {reason}")
    return FAILED


def _tell(lock: Path, packages: list[dict[str, Any]]) -> int:
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    found = [
        (package, vulnerability)
        for package in packages
        for vulnerability in package.get("vulns", [])
    ]
    for package, vulnerability in found:
        fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
    if skipped:
        print(f"not compared: {', '.join(skipped)}")
    print(
        f"{lock}: {len(packages) - len(skipped)} packages compared, {len(found)} known vulnerabilities"
    )
    return FOUND if found else 0


if __name__ == "__main__":
    sys.exit(main())
