"""Promise: a reply that acknowledges an event comes after the sync of the log; and a full disk loses
nothing. Seen from outside, by strace and by a file system that is really full."""

import os
import re
import shutil
import subprocess
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from countersign.v1 import history_pb2
from support import EMAIL, Server, activation

TRACED = "fdatasync,fsync,sync_file_range,pwrite64,write,writev,sendto,sendmsg"
# Microseconds that each sync is held up: an answer that does not wait for it comes before it.
SLOW = 20_000
# With -f and -yy: pid, time, call, its descriptor and what that is.
CALL = re.compile(r"^(\d+) +(\d+\.\d+) (\w+)\(\d+<(.*?)>(?=[,) ])(.*)$")
TOOK = re.compile(r" <(\d+\.\d+)>$")
RESUMED = re.compile(r"^(\d+) +(\d+\.\d+) <\.\.\. (\w+) resumed>(.*)$")


class TracedServer(Server):
    """A server whose syncs and sends are written to a file."""

    def start(self):
        self.trace = self.directory.with_suffix(".trace")
        options = ["-f", "-ttt", "-T", "-yy", "-e", f"trace={TRACED}", "-o", self.trace]
        super().start(["strace", *options, "-e", f"inject=fsync,fdatasync:delay_enter={SLOW}"])

    def stop(self):
        # strace passes no signal on, and ends with the server.
        children = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        with open(children) as pids:
            os.kill(int(pids.read().split()[0]), 15)
        assert self.process.wait(30) == 0


def calls(trace):
    """Each call: its name, what it was about, when it began and ended, and how it ended."""
    begun = {}
    for line in trace.read_text().splitlines():
        if call := CALL.match(line):
            pid, at, name, about, rest = call.groups()
            if rest.endswith("<unfinished ...>"):
                begun[pid, name] = about, float(at)
            else:
                yield name, about, float(at), float(at) + float(TOOK.search(rest)[1]), rest
        elif resumed := RESUMED.match(line):
            pid, at, name, rest = resumed.groups()
            about, began = begun.pop((pid, name))
            yield name, about, began, float(at), rest


def test_the_log_is_synced_before_each_reply(tmp_path):
    assert shutil.which("strace"), "strace must be installed"
    server = TracedServer(tmp_path / "data")
    license = server.issue(seats=20)
    server.check(server.activate(activation(license)))
    windows = []
    for _ in range(10):
        asked = time.time()
        server.activate(activation(license))
        windows.append((asked, time.time()))
    server.stop()

    seen = list(calls(server.trace))
    refused = [rest for name, _, _, _, rest in seen if name == "sync_file_range"]
    assert refused and all("ENOSYS" in rest for rest in refused)
    database = str(server.directory / "data/log/db")
    syncs = [
        (began, ended)
        for name, about, began, ended, rest in seen
        if name in ("fdatasync", "fsync") and about == database and ") = 0" in rest
    ]
    sends = [
        began
        for name, about, began, _, _ in seen
        if f"TCP:[{server.public_address}->" in about
    ]
    for asked, answered in windows:
        synced = [ended for began, ended in syncs if asked < began and ended < answered]
        assert synced, "no sync of the log's file between call and answer"
        answers = [sent for sent in sends if asked < sent < answered]
        assert max(answers) > min(synced), "the answer was sent before the sync"


def test_a_key_is_durable_before_its_record_is_written(tmp_path):
    server = TracedServer(tmp_path / "data")
    for number in range(3):
        server.issue(email=f"ada{number}@example.com")
    server.stop()
    vault, database = (str(server.directory / place) for place in ("data/vault", "data/log/db"))
    unsynced, keys, records = None, 0, 0
    for name, about, began, ended, _ in sorted(calls(server.trace), key=lambda call: call[2]):
        if about == vault and name == "pwrite64":
            unsynced, keys = began, keys + 1
        elif about == vault and name in ("fdatasync", "fsync"):
            unsynced = None
            synced = ended
        elif about == database and name == "pwrite64" and keys:
            assert unsynced is None and synced <= began, "the record is written before its key is durable"
            records += 1
    assert keys >= 3 and records >= 3


@pytest.fixture
def small_disk(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", place], check=True)
    # The server's log lines go elsewhere, or they would not fit either.
    (place / "data.log").symlink_to(tmp_path / "log")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_is_told_and_nothing_acknowledged_is_lost(small_disk):
    server = Server(small_disk / "data")
    license = server.issue(seats=100000)
    receipts = []
    whole = health_pb2.HealthCheckRequest()
    # It takes a while to fill a disk, and a connection without other calls would be closed meanwhile.
    health = health_pb2_grpc.HealthStub(server.app.channel).Watch(whole, timeout=300)
    assert next(health).status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as refused:
        while True:
            receipts.append(server.activate(activation(license)))
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    assert next(health).status == health_pb2.HealthCheckResponse.NOT_SERVING
    server.app.channel.close()
    assert server.process.wait(30) == 1, "it ends, and does not go on as if nothing had happened"
    log = server.directory.with_suffix(".log").read_text()
    assert "No space left" in log and "check the disk" in log
    server.process.stdout.close()

    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    server.start()
    request = history_pb2.GetHistoryRequest(email=EMAIL, purpose=1)
    history = server.staff["support"].GetHistory(request)
    assert history.licenses[0].activations_total >= len(receipts) > 100
    assert all(server.check(receipt) == 1 for receipt in receipts)
    server.activate(activation(license))
    server.stop()


def test_a_read_only_disk_is_told(small_disk):
    server = Server(small_disk / "data")
    license = server.issue(seats=1)
    receipt = server.activate(activation(license))
    server.stop()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    command = [os.environ["COUNTERSIGN_BIN"], "--dir", server.directory, "serve"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "cannot be written" in refused.stderr and "Read-only file system" in refused.stderr

    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    server.start()
    assert server.check(receipt) == 1
    server.stop()
