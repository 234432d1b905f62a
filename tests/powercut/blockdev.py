"""A disk that is a file in a file system of ours, so that each write and each flush is seen.

`blockdev.py MOUNTPOINT IMAGE LOG` shows the image as the file `disk` in a directory, and writes
what comes to the log: when, where, what. A loop device over the file passes a flush of its cache on
as a sync of the file. Writes to the blocks that the file `refusals` names fail.
"""

import errno
import stat
import struct
import sys
import time
from typing import NamedTuple

# When, in nanoseconds; where; how many bytes. A flush has no bytes.
HEADER = struct.Struct("<QQI")
NAME = "/disk"
REFUSALS = "/refusals"
BLOCK = 4096


class Write(NamedTuple):
    time: int
    offset: int
    # Empty: a flush.
    data: bytes


def read_log(path):
    with open(path, "rb") as log:
        while header := log.read(HEADER.size):
            when, offset, length = HEADER.unpack(header)
            yield Write(when, offset, log.read(length))


def refusals(offsets):
    """What to write to the file, so that the blocks there are not written."""
    return struct.pack(f"<Q{len(offsets)}Q", len(offsets), *offsets)


def serve(mountpoint, image_path, log_path):
    import mfusepy

    class Disk(mfusepy.Operations):
        # Of the times that are never given.
        use_ns = True

        def __init__(self):
            with open(image_path, "rb") as file:
                self.image = bytearray(file.read())
            self.log = open(log_path, "wb")
            self.refusals, self.refused = bytearray(), set()

        def note(self, offset, data):
            self.log.write(HEADER.pack(time.time_ns(), offset, len(data)))
            self.log.write(data)

        def getattr(self, path, fh=None):
            if path == "/":
                return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2}
            if path in (NAME, REFUSALS):
                size = len(self.image if path == NAME else self.refusals)
                return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": size}
            raise mfusepy.FuseOSError(errno.ENOENT)

        def readdir(self, path, fh):
            return [".", "..", NAME[1:], REFUSALS[1:]]

        def open(self, path, flags):
            return 0

        def read(self, path, size, offset, fh):
            return bytes(self.image[offset : offset + size])

        def truncate(self, path, length, fh=None):
            if path != REFUSALS:
                raise mfusepy.FuseOSError(errno.EPERM)

        def write(self, path, data, offset, fh):
            if path == REFUSALS:
                self.refusals[offset : offset + len(data)] = data
                (count,) = struct.unpack_from("<Q", self.refusals)
                if len(self.refusals) >= 8 * (count + 1):
                    self.refused = set(struct.unpack_from(f"<{count}Q", self.refusals, 8))
                return len(data)
            blocks = range(offset - offset % BLOCK, offset + len(data), BLOCK)
            if not self.refused.isdisjoint(blocks):
                raise mfusepy.FuseOSError(errno.EIO)
            self.note(offset, data)
            self.image[offset : offset + len(data)] = data
            return len(data)

        def fsync(self, path, datasync, fh):
            self.note(0, b"")
            return 0

        def destroy(self, path):
            self.log.close()

    # One thread: what it sees is in an order.
    mfusepy.FUSE(Disk(), mountpoint, foreground=True, nothreads=True, fsname="powercut")


if __name__ == "__main__":
    serve(*sys.argv[1:])
