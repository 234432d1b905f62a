"""Files as a disk may hold them after its power was cut.

What a sync covered is there: all that had changed of a file, or of the names of a directory, when
the sync began, once it has ended. Of what changed since, each change may be there or not, of a
write any of its sectors, and a file may have become longer before its bytes were there.
"""

import bisect
import os
import stat
from typing import NamedTuple

SECTOR = 512


class Write(NamedTuple):
    begun: int
    ended: int
    offset: int
    data: bytes

    def end(self):
        return self.offset + len(self.data)

    def apply(self, image):
        put(image, self.offset, self.data)

    def torn(self, image, rng):
        """Only some of its sectors."""
        first, last = self.offset // SECTOR, (self.offset + len(self.data) - 1) // SECTOR
        sectors = range(first, last + 1)
        border = rng.randrange(first, last + 2)
        keep = rng.choice(
            (
                lambda sector: sector < border,
                lambda sector: sector >= border,
                lambda _sector: rng.random() < 0.5,
            )
        )
        for sector in filter(keep, sectors):
            begin = max(sector * SECTOR, self.offset)
            end = min((sector + 1) * SECTOR, self.offset + len(self.data))
            put(image, begin, self.data[begin - self.offset : end - self.offset])


class Resize(NamedTuple):
    begun: int
    ended: int
    size: int

    def apply(self, image):
        if len(image) > self.size:
            del image[self.size :]
        else:
            image.extend(bytes(self.size - len(image)))

    def torn(self, image, rng):
        if rng.random() < 0.5:
            self.apply(image)


class Names(NamedTuple):
    """What names of a directory mean from here on; `None`: nothing."""

    begun: int
    ended: int
    changes: dict


def put(image, offset, data):
    if len(image) < offset:
        image.extend(bytes(offset - len(image)))
    image[offset : offset + len(data)] = data


class Node:
    def __init__(self):
        self.changes, self.ends = [], []
        # When each sync ended, and when that one or an earlier one began at the latest.
        self.sync_ends, self.sync_begins = [], []

    def change(self, change):
        """Changes come in the order in which they ended."""
        self.changes.append(change)
        self.ends.append(change.ended)

    def sync(self, begun, ended):
        self.sync_ends.append(ended)
        self.sync_begins.append(max(begun, self.sync_begins[-1]) if self.sync_begins else begun)

    def split(self, cut):
        """How many changes are certainly on the disk at a moment, and those that may be."""
        syncs = bisect.bisect_left(self.sync_ends, cut)
        durable = bisect.bisect_left(self.ends, self.sync_begins[syncs - 1]) if syncs else 0
        pending = [change for change in self.changes[durable:] if change.begun < cut]
        return durable, pending


class File(Node):
    def __init__(self, mode):
        super().__init__()
        self.mode, self.size = mode, 0
        self.image, self.applied = bytearray(), 0

    def change(self, change):
        super().change(change)
        is_write = isinstance(change, Write)
        self.size = max(self.size, change.end()) if is_write else change.size

    def durable(self, count):
        """The bytes after so many changes. Cheap where counts grow from call to call."""
        if count < self.applied:
            self.image, self.applied = bytearray(), 0
        for change in self.changes[self.applied : count]:
            change.apply(self.image)
        self.applied = count
        return self.image


class Directory(Node):
    def __init__(self):
        super().__init__()
        self.mode, self.names = 0o755, {}

    def change(self, change):
        super().change(change)
        alter(self.names, change.changes)


def alter(names, changes):
    for name, node in changes.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


class Fate:
    """What becomes of the changes that no sync covered, for one cut."""

    # How much of the bytes; how much of the names.
    BYTES = {"none": 2, "all": 2, "beginning": 4, "subset": 5, "last": 3}
    NAMES = {"none": 3, "all": 3, "beginning": 2, "subset": 2}

    def __init__(self, rng):
        self.rng = rng
        self.bytes = rng.choices(list(self.BYTES), self.BYTES.values())[0]
        self.names = rng.choices(list(self.NAMES), self.NAMES.values())[0]
        self.tears = rng.random() < 0.6
        self.grows = rng.random() < 0.5

    def __str__(self):
        tears = ", torn" if self.tears else ""
        grows = ", with their lengths" if self.grows else ""
        return f"of the unsynced: bytes {self.bytes}{tears}{grows}, names {self.names}"

    def content(self, file, durable, pending, border):
        image = file.durable(durable)
        if not pending:
            return image
        image = bytearray(image)
        # Without truncations the file would be this long.
        full = len(image)
        last = len(pending) - 1
        for number, change in enumerate(pending):
            is_last = number == last
            chosen = {
                "none": False,
                "all": True,
                "beginning": change.ended <= border,
                "subset": self.rng.random() < 0.5,
                "last": is_last,
            }[self.bytes]
            full = change.size if isinstance(change, Resize) else max(full, change.end())
            if not chosen:
                continue
            # "All" is as if the power had lasted a little longer.
            if self.tears and self.bytes != "all" and (is_last or self.bytes == "subset"):
                change.torn(image, self.rng)
            else:
                change.apply(image)
        if self.grows and full > len(image):
            image.extend(bytes(full - len(image)))
        return image

    def entries(self, directory, durable, pending, border):
        names = {}
        for change in directory.changes[:durable]:
            alter(names, change.changes)
        for change in pending:
            chosen = {
                "none": False,
                "all": True,
                "beginning": change.ended <= border,
                "subset": self.rng.random() < 0.5,
            }[self.names]
            if chosen:
                alter(names, change.changes)
        return names


def lay_out(top, cut, rng, place):
    """Makes in `place` what a cut at a moment leaves, by chance. Returns what became of it."""
    fate = Fate(rng)
    unsynced = sorted(pending(top, cut), key=lambda changes: changes[0].begun)
    # Of a file or directory that is picked first, lest those that are never synced decide.
    border = rng.choice(rng.choice(unsynced)).ended if unsynced else cut
    _lay_out(top, cut, fate, border, str(place))
    return fate


def pending(node, cut):
    """For each file and directory, the changes that no sync covered, where there are any."""
    changes = node.split(cut)[1]
    found = [changes] if changes else []
    if isinstance(node, Directory):
        once = {id(child): child for change in node.changes for child in change.changes.values()}
        for child in once.values():
            if child is not None:
                found += pending(child, cut)
    return found


def _lay_out(directory, cut, fate, border, place):
    durable, pending = directory.split(cut)
    for name, node in sorted(fate.entries(directory, durable, pending, border).items()):
        path = f"{place}/{name}"
        if isinstance(node, Directory):
            os.mkdir(path)
            _lay_out(node, cut, fate, border, path)
        else:
            content = fate.content(node, *node.split(cut), border)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, node.mode)
            with open(descriptor, "wb") as file:
                file.write(content)


def differences(directory, place):
    """Where the files that are there differ from what the changes add up to."""
    # A socket is of use only to the process that made it.
    entries = [entry for entry in os.scandir(place) if not stat.S_ISSOCK(entry.stat().st_mode)]
    there = {entry.name: entry for entry in entries}
    found = [f"{place}/{name}" for name in there.keys() ^ directory.names.keys()]
    for name in there.keys() & directory.names.keys():
        node, entry = directory.names[name], there[name]
        if isinstance(node, Directory):
            found += differences(node, entry.path)
        else:
            with open(entry.path, "rb") as file:
                if file.read() != node.durable(len(node.changes)):
                    found.append(entry.path)
    return found
