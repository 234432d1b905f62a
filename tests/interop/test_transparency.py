"""Promise: foreign verifiers accept the log's checkpoints, proofs and root, before and after an
erasure, and a witness's cosignature."""

import base64
import json
import struct
import subprocess

import aics_tlog
import jwt
import pymerkle
import pytest

from countersign.v1 import transparency_pb2 as v1
from support import EMAIL, Server, activation

SEGMENT_TITLE = b"countersign segment v1\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server that shows its log's tree to apps."""
    server = Server(tmp_path_factory.mktemp("transparency") / "data")
    server.stop()
    with open(server.directory / "countersign.toml", "a") as config:
        config.write("\n[transparency]\npublic = true\n")
    server.start()
    yield server
    server.stop()


def log_key(server):
    return aics_tlog.parse_vkey(server.command("log", "key").strip())


def tree(server, note):
    """What a checkpoint states, if it is the log's."""
    key = log_key(server)
    verified = aics_tlog.verify_checkpoint(
        aics_tlog.parse_note(note), key, expected_origin=key.name
    )
    assert verified.ok, verified
    return aics_tlog.parse_checkpoint(aics_tlog.parse_note(note).text)


def record_hash(receipt):
    """The leaf's hash, as a receipt states it."""
    claims = jwt.decode(receipt, options={"verify_signature": False})
    return base64.urlsafe_b64decode(claims["record"] + "=")


def read_proof(text):
    """A file of the form c2sp.org/tlog-proof."""
    proof, checkpoint = text.split("\n\n", 1)
    title, index, *path = proof.split("\n")
    assert title == "c2sp.org/tlog-proof@v1"
    name, index = index.split(" ")
    assert name == "index"
    return int(index), [base64.b64decode(line, validate=True) for line in path], checkpoint


def is_in_log(server, receipt, proof):
    index, path, checkpoint = read_proof(proof)
    stated = tree(server, checkpoint)
    leaf = record_hash(receipt)
    return aics_tlog.verify_inclusion(leaf, index, stated.size, path, stated.root)


def prove(server, receipt):
    request = v1.GetInclusionProofRequest(receipt=receipt)
    return server.app.GetInclusionProof(request).proof


def fresh(server):
    return server.app.GetCheckpoint(v1.GetCheckpointRequest(fresh=True)).checkpoint


def records(server, directory):
    """Every record of the log as it is stored, from a backup of the running server."""
    server.command("backup", directory)
    found = []
    for path in sorted((directory / "segments").iterdir()):
        content = path.read_bytes()
        assert content.startswith(SEGMENT_TITLE)
        (position,) = struct.unpack_from(">Q", content, 23)
        (count,) = struct.unpack_from(">Q", content, 63)
        at = 71
        for offset in range(count):
            (length,) = struct.unpack_from(">I", content, at)
            found.append((position + offset, content[at + 4 : at + 4 + length]))
            at += 4 + length
    found.sort()
    assert [position for position, _ in found] == list(range(len(found)))
    return [record for _, record in found]


def test_proofs_verify_elsewhere_before_and_after_an_erasure(server, tmp_path):
    license = server.issue(seats=300)
    receipts = [server.activate(activation(license)) for _ in range(280)]
    chosen = [receipts[i] for i in (0, 100, 279)]
    proofs = [prove(server, receipt) for receipt in chosen]
    old_note = fresh(server)
    for receipt, proof in zip(chosen, proofs):
        assert is_in_log(server, receipt, proof)
        assert not is_in_log(server, receipts[1], proof)

    erasure = server.erase(EMAIL, wait=True)
    assert erasure.HasField("final_at")

    for receipt, proof in zip(chosen, proofs):
        assert is_in_log(server, receipt, proof)
        again = prove(server, receipt)
        assert is_in_log(server, receipt, again)
        assert read_proof(again)[0] == read_proof(proof)[0]

    old, new_note = tree(server, old_note), fresh(server)
    new = tree(server, new_note)
    answer = server.app.GetConsistencyProof(v1.GetConsistencyProofRequest(size=old.size))
    assert answer.checkpoint == new_note and new.size > old.size
    hashes = list(answer.hashes)
    assert aics_tlog.verify_consistency(old.size, new.size, old.root, new.root, hashes)
    assert not aics_tlog.verify_consistency(old.size, new.size, new.root, new.root, hashes)

    stored = records(server, tmp_path / "backup")
    foreign = pymerkle.InmemoryTree(algorithm="sha256")
    for record in stored[: new.size]:
        foreign.append_entry(record)
    assert foreign.get_root(new.size) == new.root
    assert foreign.get_root(old.size) == old.root


def test_an_export_can_be_checked_against_the_log(server):
    license = server.issue(email="bob@example.com")
    receipt = server.activate(activation(license, email="bob@example.com"))
    proofs = json.loads(server.export("bob@example.com")["data.json"])["log_proofs"]
    assert proofs["log_key"] == server.command("log", "key").strip()
    stated = tree(server, proofs["checkpoint"])
    leaves = []
    for proof in proofs["records"]:
        leaf, *path = [base64.b64decode(hash) for hash in (proof["record"], *proof["path"])]
        index = proof["log_index"]
        assert aics_tlog.verify_inclusion(leaf, index, stated.size, path, stated.root)
        leaves.append(leaf)
    assert record_hash(receipt) in leaves


def test_a_cosignature_verifies_elsewhere(server, tmp_path):
    state = tmp_path / "witness"
    name = "witness.example.com/w1"
    key = aics_tlog.parse_vkey(
        server.command("witness", "init", state, "--name", name).strip()
    )
    server.command(
        "witness", "run", state, "--once", "--log-key", server.command("log", "key").strip()
    )
    note = aics_tlog.parse_note((state / "checkpoint").read_text())
    verified = aics_tlog.verify_checkpoint(
        note, log_key(server), witness_keys=[key], quorum=1, max_age_seconds=600
    )
    assert verified.ok, verified
    assert verified.witnesses == [name]


def test_tiles_are_fetched_as_files(server, tmp_path):
    """curl, as a mirror does it: the whole tree of a checkpoint, from tiles alone."""
    ca = server.directory / "tls" / "server-ca.pem"
    mirror = tmp_path / "mirror"

    def get(path):
        file = mirror / path.removeprefix("/")
        command = ["curl", "-sS", "--fail", "--create-dirs", "--cacert", ca, "--output", file]
        command.append(f"https://{server.public_address}{path}")
        subprocess.run(command, check=True, capture_output=True)
        return file.read_bytes()

    fresh(server)
    stated = tree(server, get("/checkpoint").decode())
    leaves = []
    while len(leaves) < stated.size:
        width = min(256, stated.size - len(leaves))
        suffix = "" if width == 256 else f".p/{width}"
        tile = get(f"/tile/0/{len(leaves) // 256:03}{suffix}")
        assert len(tile) == 32 * width
        leaves += [tile[at : at + 32] for at in range(0, len(tile), 32)]
    assert root(leaves) == stated.root
    with pytest.raises(subprocess.CalledProcessError):
        get("/tile/entries/000")

    server.stop()
    try:
        verified = server.command("log", "verify", "--tiles", mirror)
        assert verified.startswith("good: ")
    finally:
        server.start()


def root(hashes):
    """RFC 6962 §2.1 over the leaves' hashes."""
    if len(hashes) == 1:
        return hashes[0]
    split = 1 << (len(hashes) - 1).bit_length() - 1
    return aics_tlog.node_hash(root(hashes[:split]), root(hashes[split:]))
