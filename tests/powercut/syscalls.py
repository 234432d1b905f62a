"""What a traced run did to the files below one directory, in its order, as strace saw it.

strace stops a thread before a call begins and after it has ended, and writes lines in the order of
these stops. So a call whose end stands before another's beginning had ended when the other began,
and nothing else is taken to be so.
"""

import fnmatch
import os
import re
from typing import NamedTuple

from disk import Directory, File, Names, Resize, Write

TRACED = """
    openat close dup dup2 dup3 fcntl lseek
    write pwrite64 writev pwritev pwritev2 ftruncate truncate fallocate
    copy_file_range sendfile splice
    fsync fdatasync sync syncfs sync_file_range
    rename renameat renameat2 unlink unlinkat rmdir mkdir mkdirat
    link linkat symlink symlinkat chmod fchmod fchmodat clone clone3
""".split()

LINE = re.compile(r"^(\d+) +(\d+)\.(\d{9}) (.*)$", re.DOTALL)
BEGUN = re.compile(r"^(\w+)\((.*) <unfinished \.\.\.>$", re.DOTALL)
RESUMED = re.compile(r"^<\.\.\. ([\w?]+) resumed>(.*)$", re.DOTALL)
# A call that ended says how long it took, unless its process was killed.
WHOLE = re.compile(r"^(\w+)\((.*)\) += (.*?)(?: <(\d+)\.(\d{9})>)?$", re.DOTALL)
ENDED = re.compile(r"^(.*)\) += (.*?)(?: <\d+\.\d{9}>)?$", re.DOTALL)
DESCRIPTOR = re.compile(r"^(-?\d+|AT_FDCWD)(?:<(.*)>)?(?:\(deleted\))?$", re.DOTALL)
VECTOR = re.compile(r'iov_base="((?:\\x[0-9a-f]{2})*)"')

# A signal, an end; a thread that was killed before strace knew what it was doing.
NO_CALL = ("---", "+++", "???")

# Calls that would change files in a way that this reader does not know.
FOREIGN = {"fallocate", "sendfile", "splice", "link", "linkat", "symlink"}
FOREIGN |= {"symlinkat", "pwritev", "pwritev2", "sync", "syncfs", "truncate", "dup2", "dup3"}


class Call(NamedTuple):
    thread: str
    name: str
    arguments: list
    result: str
    begun: int
    ended: int

    @property
    def value(self):
        """What it returned; negative where it failed or was never seen to end."""
        number = re.match(r"-?\d+", self.result)
        return int(number[0]) if number else -1


class Opened:
    """An open file description."""

    def __init__(self, node, appends):
        self.node, self.appends, self.offset = node, appends, 0


def text(quoted):
    return raw(quoted).decode()


def raw(quoted):
    """The bytes of a string in strace's -xx form."""
    if not (quoted.startswith('"') and quoted.endswith('"')):
        raise ValueError(f"strace cut a string short: {quoted[:80]}")
    return bytes.fromhex(quoted[1:-1].replace("\\x", ""))


def nanoseconds(seconds, fraction):
    return int(seconds) * 10**9 + int(fraction)


def calls(path):
    """Each call that ended, in the order of their ends, with the moments of its beginning and its
    end; the latest time before each moment; and the calls that never ended."""
    found, times, begun = [], [], {}
    with open(path, encoding="ascii") as lines:
        for number, line in enumerate(lines):
            thread, *time, rest = LINE.match(line.rstrip("\n")).groups()
            time = nanoseconds(*time)
            # With nothing in between, the first moment lasts as long as the call.
            took = 0
            if whole := WHOLE.match(rest):
                name, arguments, result, *duration = whole.groups()
                took = nanoseconds(*duration) if duration[0] else 0
                start, end = 2 * number, 2 * number + 1
                found.append(Call(thread, name, arguments.split(", "), result, start, end))
            elif unfinished := BEGUN.match(rest):
                begun[thread] = (*unfinished.groups(), 2 * number)
            elif resumed := RESUMED.match(rest):
                name, arguments, start = begun.pop(thread)
                ended = ENDED.match(resumed[2])
                arguments = f"{arguments.removesuffix(',')}{ended[1]}"
                arguments = arguments.split(", ")
                found.append(Call(thread, name, arguments, ended[2], start, 2 * number + 1))
            elif not rest.startswith(NO_CALL):
                raise ValueError(f"an unknown line of the trace: {rest[:200]}")
            times += [time, time + took]
    return found, times, [f"{name}({arguments}" for name, arguments, _ in begun.values()]


class Trace:
    """The files below `root`, which was empty, through a run, on a disk that is deaf to the syncs
    of some: paths below `root` that match the pattern."""

    def __init__(self, path, root, deaf_to=None):
        self.root = str(root)
        self.deaf_to = deaf_to
        self.top = Directory()
        self.descriptors = {}
        self.processes = {}
        # The moments at which something about the files begins or ends.
        self.moments = []
        done, self.times, unfinished = calls(path)
        for call in done:
            if call.value >= 0:
                self.take(call)
        # What a killed process was doing to the files may have happened or not.
        unfinished += [f"{each.name}({each.arguments}" for each in done if each.result[0] == "?"]
        below = "".join(f"\\x{byte:02x}" for byte in self.root.encode())
        self.unsettled = [call[:200] for call in unfinished if below in call]
        self.moments = sorted(set(self.moments))

    def time(self, moment):
        """Until when nothing from this moment on had taken place, in nanoseconds: strace stops a
        thread that a call ends in, and only then lets it go on."""
        return self.times[min(moment, len(self.times) - 1)]

    # -- names

    def parts(self, path):
        if not path.startswith("/"):
            raise ValueError(f"where {path} is depends on a directory that is not known")
        if path == self.root:
            return []
        if not path.startswith(self.root + "/"):
            return None
        return path[len(self.root) + 1 :].split("/")

    def find(self, path):
        """What is at a path; `None` where that is not below the root, or nothing is there."""
        parts = self.parts(path)
        if parts is None:
            return None
        node = self.top
        for part in parts:
            node = node.names.get(part) if isinstance(node, Directory) else None
        return node

    def place(self, path):
        """The directory that holds a path, and the name there; `None` outside of the root."""
        parts = self.parts(path)
        if not parts:
            return None
        parent = self.find("/".join([self.root, *parts[:-1]]))
        if parent is None:
            raise ValueError(f"{path} is in no directory that is known")
        return parent, parts[-1]

    def named(self, call, parent, changes):
        if isinstance(parent, Directory):
            parent.change(Names(call.begun, call.ended, changes))
            self.moments += [call.begun, call.ended]

    # -- descriptors

    def process(self, thread):
        return self.processes.get(thread, thread)

    def opened(self, call, argument):
        number = DESCRIPTOR.match(argument)[1]
        return self.descriptors.get((self.process(call.thread), number))

    def open_at(self, call, opened):
        number = re.match(r"\d+", call.result)[0]
        self.descriptors[self.process(call.thread), number] = opened

    # -- calls

    def take(self, call):
        handler = getattr(self, f"take_{call.name}", None)
        if handler:
            handler(call)
        elif call.name in FOREIGN:
            about = filter(DESCRIPTOR.match, call.arguments)
            if any(self.opened(call, argument) for argument in about):
                raise ValueError(f"{call.name} changes files in an unknown way")

    def take_clone(self, call):
        child = re.match(r"\d+", call.result)
        if child and any("CLONE_THREAD" in argument for argument in call.arguments):
            self.processes[child[0]] = self.process(call.thread)

    take_clone3 = take_clone

    def take_openat(self, call):
        path = text(call.arguments[1])
        if not path.startswith("/"):
            at = DESCRIPTOR.match(call.arguments[0])[2]
            path = f"{text(chr(34) + at + chr(34))}/{path}"
        self.open(call, os.path.normpath(path), call.arguments[2], call.arguments[3:])

    def open(self, call, path, flags, mode):
        if self.parts(path) is None:
            return
        node = self.find(path)
        if node is None:
            if "O_CREAT" not in flags:
                raise ValueError(f"{path} was opened and never made")
            node = File(int(mode[0], 8))
            parent, name = self.place(path)
            self.named(call, parent, {name: node})
        elif "O_TRUNC" in flags and node.size > 0:
            self.change(call, node, Resize(call.begun, call.ended, 0))
        self.open_at(call, Opened(node, "O_APPEND" in flags))

    def take_close(self, call):
        number = DESCRIPTOR.match(call.arguments[0])[1]
        self.descriptors.pop((self.process(call.thread), number), None)

    def take_dup(self, call):
        if opened := self.opened(call, call.arguments[0]):
            self.open_at(call, opened)

    def take_fcntl(self, call):
        if call.arguments[1].startswith("F_DUPFD"):
            self.take_dup(call)

    def take_lseek(self, call):
        if opened := self.opened(call, call.arguments[0]):
            opened.offset = call.value

    def change(self, call, node, change):
        node.change(change)
        self.moments += [call.begun, call.ended]

    def take_write(self, call):
        if opened := self.opened(call, call.arguments[0]):
            self.write(call, opened, raw(call.arguments[1]))

    def take_writev(self, call):
        if opened := self.opened(call, call.arguments[0]):
            pieces = VECTOR.findall(", ".join(call.arguments))
            self.write(call, opened, b"".join(raw(f'"{piece}"') for piece in pieces))

    def write(self, call, opened, data):
        offset = opened.node.size if opened.appends else opened.offset
        data = data[: call.value]
        self.change(call, opened.node, Write(call.begun, call.ended, offset, data))
        opened.offset = offset + len(data)

    def take_pwrite64(self, call):
        if opened := self.opened(call, call.arguments[0]):
            data, offset = raw(call.arguments[1])[: call.value], int(call.arguments[3])
            self.change(call, opened.node, Write(call.begun, call.ended, offset, data))

    def take_copy_file_range(self, call):
        source, to = (self.opened(call, call.arguments[number]) for number in (0, 2))
        if to is None or call.value == 0:
            return
        if source is None or call.arguments[1] != "NULL" or call.arguments[3] != "NULL":
            raise ValueError("a copy whose source is not known")
        content = source.node.durable(len(source.node.changes))
        self.write(call, to, bytes(content[source.offset :]))
        source.offset += call.value

    def take_ftruncate(self, call):
        if opened := self.opened(call, call.arguments[0]):
            size = int(call.arguments[1])
            self.change(call, opened.node, Resize(call.begun, call.ended, size))

    def take_fsync(self, call):
        opened = self.opened(call, call.arguments[0])
        if opened and call.value == 0 and not self.is_deaf_to(call.arguments[0]):
            opened.node.sync(call.begun, call.ended)
            self.moments += [call.begun, call.ended]

    take_fdatasync = take_fsync

    def is_deaf_to(self, argument):
        if self.deaf_to is None:
            return False
        path = text(f'"{DESCRIPTOR.match(argument)[2]}"')
        return fnmatch.fnmatch(os.path.relpath(path, self.root), self.deaf_to)

    def take_chmod(self, call):
        self.chmod(text(call.arguments[0]), call.arguments[1])

    def take_fchmodat(self, call):
        self.chmod(text(call.arguments[1]), call.arguments[2])

    def chmod(self, path, mode):
        if (node := self.find(path)) is not None:
            node.mode = int(mode, 8)

    def take_mkdir(self, call):
        self.make_directory(call, text(call.arguments[0]))

    def take_mkdirat(self, call):
        self.make_directory(call, text(call.arguments[1]))

    def make_directory(self, call, path):
        if place := self.place(path):
            self.named(call, place[0], {place[1]: Directory()})

    def take_rename(self, call):
        self.rename(call, text(call.arguments[0]), text(call.arguments[1]))

    def take_renameat(self, call):
        self.rename(call, text(call.arguments[1]), text(call.arguments[3]))

    take_renameat2 = take_renameat

    def rename(self, call, old, new):
        if self.place(old) is None:
            return
        (parent, name), (new_parent, new_name) = self.place(old), self.place(new)
        node = parent.names[name]
        if parent is not new_parent:
            raise ValueError(f"{old} was moved to another directory, which is not known")
        self.named(call, parent, {name: None, new_name: node})

    def take_unlink(self, call):
        self.unlink(call, text(call.arguments[0]))

    def take_rmdir(self, call):
        self.unlink(call, text(call.arguments[0]))

    def take_unlinkat(self, call):
        at = DESCRIPTOR.match(call.arguments[0])
        path = text(call.arguments[1])
        if not path.startswith("/") and (opened := self.opened(call, call.arguments[0])):
            self.named(call, opened.node, {path: None})
        elif not path.startswith("/") and at[2]:
            self.unlink(call, f"{text(chr(34) + at[2] + chr(34))}/{path}")
        else:
            self.unlink(call, path)

    def unlink(self, call, path):
        if place := self.place(path):
            self.named(call, place[0], {place[1]: None})
