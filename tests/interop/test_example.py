"""The example in Python does what it says."""

import json
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "activate.py"


def test_the_example_activates_and_verifies(server, tmp_path):
    license = server.issue(seats=1)
    jwks = tmp_path / "jwks.json"
    jwks.write_text(server.jwks())
    ca = server.directory / "tls" / "server-ca.pem"
    command = [sys.executable, EXAMPLE, server.public_address, ca, jwks]
    command += ["App", "ada@example.com", license.license_key]
    first = subprocess.run(command, check=True, capture_output=True, text=True)
    claims = json.loads(first.stdout)
    assert (claims["aud"], claims["license"]["seats"]) == ("App", 1)
    assert server.used(license) == 1

    # Another device, and no seat left.
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 1
    assert second.stderr.startswith("SEATS_EXHAUSTED: ")
