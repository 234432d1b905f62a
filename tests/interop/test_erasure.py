"""Promise: an erasure or a rectification that is killed at any step is not begun or is carried to its
end. And what it says of itself verifies elsewhere."""

import json
import select
import shutil
import subprocess

import grpc
import jwt
import pytest

from countersign.v1 import activation_pb2, history_pb2, privacy_pb2
from support import Server, activation, refusal

# What an erasure writes, moves and removes, and the calls that do so.
PLACES = ("data/vault", "data/vault.next", "data/log/db", "ledger/erasures")
PLACES += ("keys/master.key", "keys/master.key.next", "data", "keys")
CALLS = ("fsync", "fdatasync", "write", "pwrite64", "rename", "unlink", "openat")
NOT_FOUND = grpc.StatusCode.NOT_FOUND


def kill_at(server, name, number, call):
    """Calls, and kills the server at this one of what the call does to the disk. Whether it was
    answered."""
    paths = [option for place in PLACES for option in ("-P", server.directory / place)]
    inject = f"inject={name}:signal=KILL:when={number}"
    strace = subprocess.Popen(
        ["strace", "-f", "-p", str(server.process.pid), *paths, "-o", "/dev/null", "-e", inject],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert select.select([strace.stderr], [], [], 30)[0]
    assert "attached" in strace.stderr.readline()
    try:
        call()
        answered = True
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        answered = False
    if answered:
        server.process.kill()
    assert server.process.wait(30) == -9
    strace.wait(30)
    strace.stderr.close()
    server.process.stdout.close()
    for client in (server.app, *server.staff.values()):
        client.channel.close()
    return answered


def steps(outcomes):
    """Each system call by its name and number, until one is answered without that many."""
    for name in CALLS:
        number = 1
        while number == 1 or not outcomes[name, number - 1][0]:
            yield name, number
            number += 1


def shown(server, email):
    """How many activations a person's history shows; `None`: there is nobody."""
    request = history_pb2.GetHistoryRequest(email=email, purpose=1)
    try:
        (license,) = server.staff["support"].GetHistory(request).licenses
    except grpc.RpcError as error:
        assert error.code() == NOT_FOUND
        return None
    return license.activations_total


def erase(server, request_id, keep):
    request = privacy_pb2.EraseSubjectRequest(
        request_id=request_id, keep_licenses=keep, wait=True
    )
    return lambda: server.staff["privacy"].EraseSubject(request)


@pytest.mark.parametrize("keep", [False, True], ids=["all", "licenses-kept"])
def test_an_erasure_killed_at_any_step_is_not_begun_or_ends(tmp_path, keep):
    assert shutil.which("strace"), "strace must be installed"
    server = Server(tmp_path / "data")
    other = server.issue(email="other@example.com")
    server.activate(activation(other, email="other@example.com"))
    outcomes = {}
    for name, number in steps(outcomes):
        email = f"{name}{number}@example.com"
        license = server.issue(email=email)
        asked = activation(license, email=email)
        receipt = server.activate(asked)
        request_id = server.ready(email, privacy_pb2.REQUEST_KIND_ERASURE)
        answered = kill_at(server, name, number, erase(server, request_id, keep))
        server.start()
        for _ in range(2):
            is_there = shown(server, email)
            assert is_there in (None, 1)
            by_key = activation(license, email="", nonce=asked.nonce, binding=asked.binding)
            if is_there is None and not keep:
                refused = refusal(server.app.Activate, asked)
                assert refused[:2] == (NOT_FOUND, "LICENSE_NOT_FOUND")
            elif is_there is None:
                again = server.activate(by_key)
                assert server.check(receipt) == server.check(again) == 1
            else:
                assert server.activate(asked) == receipt
                assert refusal(server.app.Activate, by_key).reason == "LICENSE_NOT_FOUND"
            assert shown(server, "other@example.com") == 1
            server.stop()
            server.start()
        assert not (answered and is_there)
        outcomes[name, number] = answered, is_there
    server.stop()
    ended = [is_there for answered, is_there in outcomes.values() if not answered]
    assert ended.count(1) > 0 and ended.count(None) > 8, outcomes


def test_a_rectification_killed_at_any_step_is_not_begun_or_ends(tmp_path):
    server = Server(tmp_path / "data")
    outcomes = {}
    for name, number in steps(outcomes):
        old, new = (f"{which}-{name}{number}@example.com" for which in ("old", "new"))
        license = server.issue(email=old)
        receipt = server.activate(activation(license, email=old))
        request_id = server.ready(old, privacy_pb2.REQUEST_KIND_RECTIFICATION)
        request = privacy_pb2.RectifySubjectRequest(request_id=request_id, email=new)
        rectify = lambda: server.staff["privacy"].RectifySubject(request)  # noqa: E731
        answered = kill_at(server, name, number, rectify)
        server.start()
        found = shown(server, old), shown(server, new)
        assert found in ((1, None), (None, 1)), outcomes
        assert server.check(receipt) == 1
        assert not answered or found[1]
        outcomes[name, number] = answered, found[1]
    server.stop()
    ended = [found for answered, found in outcomes.values() if not answered]
    assert ended.count(None) > 0 and ended.count(1) > 3, outcomes


def test_a_certificate_verifies_elsewhere_and_names_nobody(server):
    email = "ada.lovelace@example.com"
    license = server.issue(email=email)
    server.activate(activation(license, email=email))
    waiting = server.erase(email)
    assert not waiting.certificate and waiting.remains and waiting.HasField("final_by")
    server.issue(email="next@example.com")
    erasure = server.erase("next@example.com", wait=True)
    get = privacy_pb2.GetErasureRequest(erasure_id=waiting.erasure_id)
    first = server.staff["privacy"].GetErasure(get).erasure
    for each in (erasure, first):
        assert each.HasField("final_at") and not each.remains
        keys = jwt.PyJWKSet.from_json(server.jwks())
        header = jwt.get_unverified_header(each.certificate)
        assert header["typ"] == "erasure-certificate+jwt"
        claims = jwt.decode(each.certificate, keys[header["kid"]].key, ["EdDSA"])
        assert claims["reason"] == "request" and claims["erased_at"] <= claims["iat"]
        assert claims["records"] == {each.category: each.records for each in each.records}
        assert "@" not in json.dumps(claims)
    # Nor does it pass for a receipt.
    check = activation_pb2.CheckRequest(receipt=first.certificate)
    assert refusal(server.app.Check, check).reason == "RECEIPT_INVALID"
