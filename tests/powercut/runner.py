"""Tries many states in a few processes, and says what was wrong. Each state is made from a seed and
its number alone, so that one can be tried again."""

import argparse
import collections
import json
import pathlib
import random
import selectors
import shutil
import subprocess
import sys
import tempfile
import time

import check

# States lie here while they are tried: what a disk of today does to them is of no interest.
MEMORY = "/dev/shm"
KINDS = ("lost", "refused", "oversold", "resurrected", "changed", "error")
# Views are believed within one boot of the machine; after a cut there is another.
OTHER_BOOT = 'mount --bind "$1" /proc/sys/kernel/random/boot_id && shift && exec "$@"'
BOOT_ID = "00000000-0000-4000-8000-000000000000\n"


class State:
    """What a cut may leave. Those that are made have the members that are only declared here."""

    # What the server was doing, and where in the recording the cut was.
    phase: str
    at: int
    # When the last thing had happened that is certainly before the cut, by the clients' clock.
    time: int
    history: object

    def __init__(self, seed, number):
        self.seed, self.number = seed, number

    def rng(self, purpose):
        return random.Random(f"{self.seed}/{self.number}/{purpose}")

    def name(self):
        return f"{self.phase}, moment {self.at}"

    def files(self, place):
        """A context: makes the files below `place`; gives where, and what became of them."""
        raise NotImplementedError

    def keep(self, place):
        """Makes them in `place`, for a person to look at."""
        raise NotImplementedError


def arguments(description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--states", type=int, default=300)
    parser.add_argument("--state", type=int, help="only this one")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--place", type=pathlib.Path, required=True, help="for recordings, failures"
    )
    parser.add_argument("--again", action="store_true", help="with the recordings that are there")
    parser.add_argument("--must-fail", action="store_true", help="a known-bad server is found out")
    parser.add_argument("--deaf-to", help="paths whose syncs the disk does not heed")
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def run(options, script, make_states):
    """The whole of a run, after its recording; or a worker's part of it. The exit code."""
    numbers = range(options.states) if options.state is None else [options.state]
    if options.work is not None:
        states = make_states(numbers[options.work :: options.workers])
        # What is certainly on the disk only grows from one to the next.
        for state in sorted(states, key=lambda state: (state.phase, state.at)):
            print(json.dumps(try_out(state, options)), flush=True)
        return 0
    if not options.again:
        shutil.rmtree(options.place / "failed", ignore_errors=True)
    (options.place / "boot_id").write_text(BOOT_ID)
    workers = [start_worker(options, script, number) for number in range(options.workers)]
    return report(options, results(workers), len(numbers))


def try_out(state, options):
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="powercut-", dir=MEMORY) as scratch:
        log_path, fate = f"{scratch}/log", ""
        try:
            with state.files(pathlib.Path(scratch)) as (root, fate):
                rng = state.rng("check")
                wrong = check.check(str(root), state.history, state.time, rng, log_path)
        except Exception as error:
            # One state does not end the run.
            wrong = [f"error: {type(error).__name__}: {error}"]
        if wrong and not options.must_fail:
            kept = options.place / "failed" / f"{state.seed}-{state.number}"
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir(parents=True)
            state.keep(kept)
            (kept / "wrong").write_text("\n".join([state.name(), str(fate), *wrong]) + "\n")
            if pathlib.Path(log_path).exists():
                shutil.copy(log_path, kept / "log")
    result = {"number": state.number, "name": state.name(), "fate": str(fate)}
    return result | {"phase": state.phase, "wrong": wrong, "seconds": time.monotonic() - start}


def start_worker(options, script, number):
    worker = [sys.executable, script, *sys.argv[1:], "--work", str(number)]
    unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-c", OTHER_BOOT, "sh"]
    boot_id = options.place / "boot_id"
    return subprocess.Popen([*unshare, boot_id, *worker], stdout=subprocess.PIPE, text=True)


def results(workers):
    ready = selectors.DefaultSelector()
    for worker in workers:
        ready.register(worker.stdout, selectors.EVENT_READ, worker)
    while ready.get_map():
        for key, _ in ready.select():
            # A worker writes a whole line at a time.
            if line := key.fileobj.readline():
                yield json.loads(line)
            else:
                ready.unregister(key.fileobj)
                if key.data.wait() != 0:
                    raise RuntimeError("a worker ended early")


def report(options, results, total):
    start, failed = time.monotonic(), []
    kinds, phases = collections.Counter(), collections.Counter()
    for done, result in enumerate(results, 1):
        phases[result["phase"]] += 1
        if options.must_fail:
            # What this harness could not do is not found out by it.
            result["wrong"] = [wrong for wrong in result["wrong"] if not wrong.startswith("error:")]
        if result["wrong"]:
            failed.append(result["number"])
            kinds.update({wrong.split(":")[0] for wrong in result["wrong"]})
            if not options.must_fail or len(failed) == 1:
                print(f"state {result['number']} ({result['name']}; {result['fate']}):")
                shown = result["wrong"][: 1 if options.must_fail else 5]
                print(*(f"  {wrong.strip()}"[:1500] for wrong in shown), sep="\n")
        if done % 100 == 0 or done == total:
            took = time.monotonic() - start
            print(f"{done} of {total} states, {len(failed)} wrong, {took:.0f} s", flush=True)
    if not options.must_fail:
        by_phase = ", ".join(f"{phase} {count}" for phase, count in phases.most_common())
        print(f"by what the server was doing: {by_phase}")
    by_kind = ", ".join(f"{kind} {kinds[kind]}" for kind in KINDS)
    print(f"{total} states: {len(failed)} wrong ({by_kind})", flush=True)
    if failed and not options.must_fail:
        print(f"kept in {options.place / 'failed'}; this seed is {options.seed}")
    return int(bool(failed) != options.must_fail)
