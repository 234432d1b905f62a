"""A write that the disk refuses once, and a power cut later.

After a failed sync the kernel keeps what was not written in its cache, as if it were on the disk, and
never writes it. A server that starts again while the machine runs on must not build on that: what it
acknowledges from then on has to be there after a cut. The disk is that of the power cuts by blocks. It
refuses the block that the log ends in when the next record ends in the one behind: a block that is
written again later would have in it what was refused before.

Needs what those need.
"""

import argparse
import fcntl
import pathlib
import pickle
import struct
import sys

import blockdev
from blockdev import BLOCK
from blocks import Mounted, NoDisk, put, record
from scenario import request_of
from server import Refused, Server

# linux/fs.h: which block of the device a block of a file is.
FIBMAP = 1
# A record is longer.
SHORTEST = 150
# As often, with a cut after all of them.
TIMES = 3


def end_of(log):
    """Where the records in the log's file end, and where the block that this is in lies on the disk."""
    with open(log, "rb") as file:
        end = len(file.read().rstrip(b"\0"))
        number = struct.pack("I", end // BLOCK)
        return end, struct.unpack("I", fcntl.ioctl(file, FIBMAP, number))[0] * BLOCK


def fail(run, refusals):
    """Activates until the server ends over a refused write, starts it again, and asks again."""
    log, license = f"{run.directory}/data/log/db", run.history.licenses[0]
    while end_of(log)[0] % BLOCK < BLOCK - SHORTEST:
        run.activate(license)
    refusals.write_bytes(blockdev.refusals([end_of(log)[1]]))
    refused = run.activate(license)
    if not refused.refused:
        raise RuntimeError("a call was answered whose record the disk refused")
    run.clients.close()
    run.process.wait()
    refusals.write_bytes(blockdev.refusals([]))
    run.serve()
    call = run.clients.app.begin("ActivationService", "Activate", request_of(refused))
    refused.answer, refused.refused = call.result(), ""


def on_a_disk_that_refuses(run, refusals):
    """A server's life; all that it was asked was acknowledged in the end."""
    run.command("init")
    run.serve()
    run.issue("ada@example.com", 1000)
    for _ in range(TIMES):
        fail(run, refusals)
        run.activate(run.history.licenses[0])
    run.end()


def lost(place):
    """How many activations are not there after a cut, and of how many."""
    image = bytearray((place / "image").read_bytes())
    # All that the disk ever took.
    for write in blockdev.read_log(place / "log"):
        put(image, write.offset, write.data)
    (place / "cut").write_bytes(image)
    activations = pickle.loads((place / "history").read_bytes()).activations
    missing = 0
    with Mounted(place / "cut", place / "root"):
        server = Server(place / "root" / "srv" / "countersign", place / "log-after", ())
        try:
            for activation in activations:
                app, request = server.clients.app, request_of(activation)
                call = app.begin("ActivationService", "Activate", request)
                missing += bool(call.exception()) or call.result() != activation.answer
        finally:
            server.stop(kill=True)
    return missing, len(activations)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--place", type=pathlib.Path, required=True)
    parser.add_argument("--must-fail", action="store_true", help="a known-bad server is found out")
    options = parser.parse_args()
    try:
        refusals = options.place / "fuse" / blockdev.REFUSALS[1:]
        record(options.place, lambda run: on_a_disk_that_refuses(run, refusals))
        missing, count = lost(options.place)
        found = f"{count} activations, {TIMES} of them refused by the disk at first: {missing} lost"
    except NoDisk as no_disk:
        print(f"no disk that refuses writes on this machine: {no_disk}", file=sys.stderr)
        return 1
    except Refused as refused:
        missing, found = True, f"the server does not start after the cut: {refused}"
    print(found)
    return 0 if bool(missing) == options.must_fail else 1


if __name__ == "__main__":
    sys.exit(main())
