"""The model of a disk, on runs so small that all it may leave can be said."""

import pathlib
import random
import subprocess
import sys
import tempfile
import unittest

from disk import SECTOR, Directory, File, Names, Resize, Write, lay_out
from syscalls import TRACED, Trace

TRIES = 200


def left(top, cut):
    """All that cuts at a moment left in many tries: the files by their names, as a set."""
    found = set()
    for seed in range(TRIES):
        with tempfile.TemporaryDirectory() as place:
            lay_out(top, cut, random.Random(seed), place)
            files = sorted(path for path in pathlib.Path(place).rglob("*") if path.is_file())
            names = [str(path.relative_to(place)) for path in files]
            found.add(tuple(zip(names, [path.read_bytes() for path in files], strict=True)))
    return found


def one_file(changes, syncs):
    """A directory with one file in it, whose name is durable."""
    top, file = Directory(), File(0o600)
    top.change(Names(0, 0, {"a": file}))
    top.sync(1, 1)
    for change in changes:
        file.change(change)
    for begun, ended in syncs:
        file.sync(begun, ended)
    return top


def contents(top, cut):
    return {dict(files)["a"] for files in left(top, cut)}


class Bytes(unittest.TestCase):
    def test_what_was_synced_is_there(self):
        top = one_file([Write(2, 3, 0, b"synced")], [(4, 5)])
        self.assertEqual(contents(top, 6), {b"synced"})

    def test_a_sync_that_has_not_ended_covers_nothing(self):
        top = one_file([Write(2, 3, 0, b"x")], [(4, 7)])
        self.assertEqual(contents(top, 6), {b"", b"x", b"\0"})

    def test_a_sync_covers_only_what_had_ended_when_it_began(self):
        top = one_file([Write(2, 3, 0, b"1"), Write(4, 6, 1, b"2")], [(5, 7)])
        self.assertEqual(contents(top, 8), {b"1", b"12", b"1\0"})

    def test_what_has_not_begun_is_not_there(self):
        top = one_file([Write(2, 3, 0, b"1"), Write(5, 6, 1, b"2")], [(4, 4)])
        self.assertEqual(contents(top, 5), {b"1"})

    def test_the_unsynced_is_there_in_any_part(self):
        top = one_file([Write(2, 3, 0, b"1"), Write(4, 5, 1, b"2")], [])
        self.assertEqual(contents(top, 6), {b"", b"1", b"12", b"\x002", b"\0\0", b"1\0"})

    def test_a_write_is_torn_between_sectors_and_not_within(self):
        top = one_file([Write(2, 3, 100, b"x" * 2 * SECTOR)], [])
        for content in contents(top, 4):
            content = content.ljust(100 + 2 * SECTOR, b"\0")
            self.assertIn(len(set(content[100:SECTOR])), (0, 1))
            self.assertIn(len(set(content[SECTOR : 2 * SECTOR])), (0, 1))
        self.assertGreater(len(contents(top, 4)), 4)

    def test_a_truncation_may_be_there_without_what_follows(self):
        top = one_file([Write(2, 3, 0, b"old"), Resize(6, 7, 0), Write(8, 9, 0, b"n")], [(4, 5)])
        self.assertTrue({b"old", b"", b"n"} <= contents(top, 10))


class NamesOfFiles(unittest.TestCase):
    def setUp(self):
        self.top, self.old, self.new = Directory(), File(0o600), File(0o600)
        self.top.change(Names(0, 1, {"a": self.old}))
        self.top.change(Names(2, 3, {"b": self.new}))
        for file, content in ((self.old, b"old"), (self.new, b"new")):
            file.change(Write(4, 5, 0, content))
            file.sync(6, 7)

    def test_a_file_may_be_missing_until_its_directory_is_synced(self):
        a, b = ("a", b"old"), ("b", b"new")
        self.assertEqual(left(self.top, 8), {(), (a,), (b,), (a, b)})
        self.top.sync(8, 9)
        self.assertEqual(left(self.top, 10), {(a, b)})

    def test_a_move_is_there_or_not(self):
        self.top.sync(8, 9)
        self.top.change(Names(10, 11, {"b": None, "a": self.new}))
        moved, before = (("a", b"new"),), (("a", b"old"), ("b", b"new"))
        self.assertEqual(left(self.top, 12), {moved, before})


PROGRAM = """
import os, sys
root = sys.argv[1]
os.mkdir(root + "/in")
synced = open(root + "/in/synced", "xb")
synced.write(b"first")
synced.flush()
os.fsync(synced.fileno())
with open(root + "/in/unsynced", "xb") as unsynced:
    unsynced.write(b"gone")
for name in ("/in", ""):
    directory = os.open(root + name, os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)
synced.write(b", second")
synced.close()
os.rename(root + "/in/synced", root + "/in/moved")
"""


class Traces(unittest.TestCase):
    def test_a_programs_calls_are_read(self):
        with tempfile.TemporaryDirectory() as place:
            root, trace = pathlib.Path(place, "root"), pathlib.Path(place, "trace")
            root.mkdir()
            options = ["-f", "-y", "-xx", "-s", "4096", "--timestamps=unix,ns", "-e", "signal=none"]
            options += ["--syscall-times=ns"]
            options += ["-e", f"trace={','.join(TRACED)}", "-o", trace]
            subprocess.run(["strace", *options, sys.executable, "-c", PROGRAM, root], check=True)
            read = Trace(trace, root)
        self.assertEqual(read.unsettled, [])
        found = left(read.top, read.moments[-1] + 1)
        synced = {dict(files).get("in/synced", b"") for files in found}
        moved = {dict(files).get("in/moved", b"") for files in found}
        unsynced = {dict(files)["in/unsynced"] for files in found}
        self.assertTrue({b"first", b"first, second"} <= synced & moved)
        self.assertTrue(all(each[:5] in (b"first", b"") for each in synced | moved))
        self.assertEqual(unsynced, {b"gone", b"", bytes(4)})
        self.assertFalse([files for files in found if len(files) != 2])


if __name__ == "__main__":
    unittest.main()
