"""Power cuts by blocks.

A server lives on ext4, on a loop device, on a disk that notes each write and each flush. The disk
is then set back to what it may hold when the power goes at any moment: all up to the last flush,
and of the writes since any, or any sectors of them. The file system is mounted, which replays its
journal, a server is started and held to what its clients had been told, and started once more.

Needs root, /dev/fuse and a loop device.
"""

import bisect
import contextlib
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import time

import blockdev
import runner
from disk import SECTOR
from record import LAUNCHER
from scenario import SCENARIOS, Run

DISK_BYTES = 64 << 20
# All of its own writes are made now, and none later in the background.
MKFS = ["mkfs.ext4", "-q", "-F", "-b", "4096", "-J", "size=4", "-E"]
MKFS += ["lazy_itable_init=0,lazy_journal_init=0"]
DEADLINE = 60
# ext4 itself takes it that its superblock, of two sectors, is written whole; on a disk as small as
# this it has no other.
SUPERBLOCK_END = 4096
# Of the writes after the last flush.
FATES = {"none": 2, "all": 2, "beginning": 5, "subset": 6, "last": 2}


class NoDisk(Exception):
    """The machine has not what a disk is made of."""


def command(*arguments):
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode != 0:
        raise NoDisk(f"{' '.join(map(str, arguments))}: {done.stderr.strip()}")
    return done.stdout.strip()


class Mounted:
    """ext4 on a loop device over a file."""

    def __init__(self, file, place):
        self.place = place
        self.loop = command("losetup", "--find", "--show", file)
        try:
            command("mount", "-t", "ext4", self.loop, place)
        except NoDisk:
            command("losetup", "--detach", self.loop)
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        command("umount", self.place)
        command("losetup", "--detach", self.loop)


def record(place, scenario):
    """Into `place`: `image` as it was at first, `log` of the writes, and the `history` of a scenario."""
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        raise NoDisk("this needs root and /dev/fuse")
    shutil.rmtree(place, ignore_errors=True)
    for name in ("fuse", "root", "scratch"):
        (place / name).mkdir(parents=True)
    with open(place / "image", "wb") as image:
        image.truncate(DISK_BYTES)
    command(*MKFS, place / "image")
    disk = subprocess.Popen(
        [sys.executable, blockdev.__file__, place / "fuse", place / "image", place / "log"]
    )
    try:
        start = time.monotonic()
        while not (place / "fuse" / "disk").exists():
            if disk.poll() is not None or time.monotonic() - start > DEADLINE:
                raise NoDisk("the FUSE file system does not come up")
            time.sleep(0.05)
        with Mounted(place / "fuse" / "disk", place / "root"):
            os.sync()
            history = live(place, scenario)
    finally:
        subprocess.run(["umount", place / "fuse"], check=False)
        disk.wait(DEADLINE)
    (place / "history").write_bytes(pickle.dumps(history))


def live(place, scenario):
    launcher = subprocess.Popen(["bash", "-c", LAUNCHER], stdin=subprocess.PIPE, text=True)

    def launch(line):
        launcher.stdin.write(line + "\n")
        launcher.stdin.flush()

    run = Run(launch, place / "root" / "srv" / "countersign", place / "scratch")
    try:
        scenario(run)
    except BaseException:
        run.abandon()
        raise
    finally:
        launcher.stdin.close()
        launcher.wait(DEADLINE)
    run.phase("unmounted")
    return run.history


class Disk:
    """The disk of a recording, at any of its moments."""

    def __init__(self, recording):
        self.recording = recording
        self.writes = list(blockdev.read_log(recording / "log"))
        self.flushes = [number for number, write in enumerate(self.writes) if not write.data]
        self.times = [write.time for write in self.writes]
        self.image, self.applied = None, 0

    def set_back(self, cut, rng, path):
        """Writes the image as a cut before write `cut` may leave it; returns what became of it."""
        flushes = bisect.bisect_left(self.flushes, cut)
        durable = self.flushes[flushes - 1] if flushes else 0
        if self.image is None or durable < self.applied:
            self.image, self.applied = bytearray((self.recording / "image").read_bytes()), 0
        for write in self.writes[self.applied : durable]:
            put(self.image, write.offset, write.data)
        self.applied = durable
        with open(path, "wb") as file:
            file.write(self.image)
            pending = [write for write in self.writes[durable:cut] if write.data]
            fate = rng.choices(list(FATES), FATES.values())[0]
            tears = rng.random() < 0.5
            reached = rng.randrange(len(pending) + 1)
            for number, write in enumerate(pending):
                is_last = number == (reached - 1 if fate == "beginning" else len(pending) - 1)
                chosen = {
                    "none": False,
                    "all": True,
                    "beginning": number < reached,
                    "subset": rng.random() < 0.5,
                    "last": is_last,
                }[fate]
                if not chosen:
                    continue
                torn = tears and (is_last or fate == "subset") and fate != "all"
                torn = torn and write.offset >= SUPERBLOCK_END
                for begin in range(0, len(write.data), SECTOR):
                    if not torn or rng.random() < 0.5:
                        file.seek(write.offset + begin)
                        file.write(write.data[begin : begin + SECTOR])
        torn = ", torn" if tears else ""
        return f"of {len(pending)} unflushed writes: {fate}{torn}"


def put(image, offset, data):
    image[offset : offset + len(data)] = data


class State(runner.State):
    def __init__(self, seed, number, disk, history, phases):
        super().__init__(seed, number)
        self.disk, self.history = disk, history
        rng = self.rng("moment")
        self.phase, first, last = rng.choice(phases)
        self.at = rng.randrange(first, last)
        if rng.random() < 0.5:
            # Just before a flush most is still to be lost.
            following = bisect.bisect_left(disk.flushes, self.at)
            self.at = disk.flushes[following] if following < len(disk.flushes) else self.at
        # The first write that never came.
        self.time = disk.times[self.at]

    @contextlib.contextmanager
    def files(self, place):
        root = place / "root"
        root.mkdir()
        fate = self.disk.set_back(self.at, self.rng("files"), place / "image")
        with Mounted(place / "image", root):
            yield root, fate

    def keep(self, place):
        self.disk.set_back(self.at, self.rng("files"), place / "image")


def phases(disk, history):
    """The parts of a run, with the first of its writes and the first that is not."""
    starts = [start for _, start in history.phases]
    found = []
    for (name, _), start, end in zip(history.phases, starts, [*starts[1:], disk.times[-1] + 1]):
        first, last = (bisect.bisect_left(disk.times, time) for time in (start, end))
        if first < last:
            found.append((name, first, last))
    return found


def main():
    options = runner.arguments(__doc__)
    recording = options.place / "blocks"
    if options.work is None and not options.again:
        try:
            record(recording, SCENARIOS["life"])
        except NoDisk as missing:
            print(f"no power cuts by blocks on this machine: {missing}", file=sys.stderr)
            return 1

    def make_states(numbers):
        disk = Disk(recording)
        history = pickle.loads((recording / "history").read_bytes())
        parts = phases(disk, history)
        return [State(options.seed, number, disk, history, parts) for number in numbers]

    return runner.run(options, pathlib.Path(__file__), make_states)


if __name__ == "__main__":
    sys.exit(main())
