"""Power cuts by system calls.

Records a server's system calls through its life, and lays out its directory as a disk may leave it
when the power goes at any moment in between. On each state a server is started, held to what its
clients had been told, stopped, and started once more.
"""

import contextlib
import pathlib
import sys

import disk
import record
import runner

SHARES = {"life": 17, "first": 3}


class State(runner.State):
    def __init__(self, seed, number, recordings):
        super().__init__(seed, number)
        rng = self.rng("moment")
        scenario = rng.choices(list(SHARES), SHARES.values())[0]
        self.trace, self.history, phases = recordings[scenario]
        # What is short is cut as often as what is long.
        self.phase, first, last = rng.choice(phases)
        picked, moments = rng.randrange(first, last), self.trace.moments
        # Nothing on the disk begins or ends between two moments, however long that is.
        self.at = moments[picked + 1] if picked + 1 < len(moments) else moments[picked] + 1
        self.time = self.trace.time(self.at)

    def lay_out(self, place):
        return disk.lay_out(self.trace.top, self.at, self.rng("files"), place)

    @contextlib.contextmanager
    def files(self, place):
        root = place / "root"
        root.mkdir()
        yield root, self.lay_out(root)

    def keep(self, place):
        self.lay_out(place)


def phases(trace, history):
    """The parts of a run, with the first of its moments and the first that is not."""
    times = [trace.time(moment) for moment in trace.moments]
    starts = [start for _, start in history.phases]
    found = []
    for (name, _), start, end in zip(history.phases, starts, [*starts[1:], times[-1] + 1]):
        inside = [number for number, time in enumerate(times) if start <= time < end]
        if inside:
            found.append((name, inside[0], inside[-1] + 1))
    return found


def main():
    options = runner.arguments(__doc__)
    if options.work is None and not options.again:
        for name in SHARES:
            record.record(name, options.place / name)

    def make_states(numbers):
        recordings = {}
        for name in SHARES:
            trace, history = record.load(options.place / name, options.deaf_to)
            recordings[name] = trace, history, phases(trace, history)
        return [State(options.seed, number, recordings) for number in numbers]

    return runner.run(options, pathlib.Path(__file__), make_states)


if __name__ == "__main__":
    sys.exit(main())
