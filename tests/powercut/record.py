"""Records a scripted run of a server: its system calls, and what its clients were told."""

import pickle
import shutil
import subprocess

from disk import differences
from scenario import SCENARIOS, Run
from syscalls import TRACED, Trace

# strace's own bound is a little above.
LONGEST = 1 << 24
# A process that is killed is mostly doing nothing to its files.
ATTEMPTS = 4
# Each line is a command, to be run beside the others. That one was killed needs no telling.
LAUNCHER = 'exec 2>/dev/null; while read -r line; do eval "$line" & done; wait'


class Unsettled(Exception):
    """Whether a call of a killed process took place cannot be told, or strace has not told of it."""


def record(name, place):
    """Into `place`: `trace`, `history`, and the files as they were left below `root`."""
    for _ in range(ATTEMPTS - 1):
        record_once(name, place)
        try:
            load(place)
            return
        except Unsettled:
            continue
    record_once(name, place)


def record_once(name, place):
    shutil.rmtree(place, ignore_errors=True)
    root = place / "root"
    root.mkdir(parents=True)
    options = ["-f", "--seccomp-bpf", "-y", "-xx", "-s", str(LONGEST), "--timestamps=unix,ns"]
    options += ["--syscall-times=ns"]
    strace = subprocess.Popen(
        ["strace", *options, "-e", f"trace={','.join(TRACED)}", "-e", "signal=none"]
        + ["-o", str(place / "trace"), "bash", "-c", LAUNCHER],
        stdin=subprocess.PIPE,
        text=True,
    )

    def launch(line):
        strace.stdin.write(line + "\n")
        strace.stdin.flush()

    # Its parent is not there either.
    run = Run(launch, root / "srv" / "countersign", place)
    try:
        SCENARIOS[name](run)
    except BaseException:
        run.abandon()
        raise
    finally:
        strace.stdin.close()
        strace.wait(60)
    (place / "history").write_bytes(pickle.dumps(run.history))


def load(place, deaf_to=None):
    """The trace and the history of a recording, after a look whether the trace is complete."""
    trace = Trace(place / "trace", place / "root", deaf_to)
    if trace.unsettled:
        raise Unsettled(f"a process was killed within {trace.unsettled}")
    if differing := differences(trace.top, place / "root"):
        raise Unsettled(f"the trace does not explain {differing}")
    return trace, pickle.loads((place / "history").read_bytes())
