"""Promise: whichever read, write or sync of the disk fails, nothing is acknowledged that is not durable,
the server ends with a message that says what to do or is not harmed, and once the disk is well again a
restart has all that was acknowledged, once: where the log was harmed, after it is restored.

A directory with some history is copied for each trial. In one server's life on it, from its start over
every kind of change to its end, the Nth call of one kind fails (`faults.c`); then a server without
faults starts on what is left. N goes over some calls on each file, or, with `COUNTERSIGN_FAULTS=all`,
over all of them until a life ends without having come to its Nth call. The log is read whole at a start,
or what was checked before is read again behind the serving server, as of a long one; beside that one the
server keeps an archive, which must have all in it when the server without faults has ended.

The same of what an operator does without a server: whichever call of such a command fails, what was
acknowledged is still there, and the command can be given again.
"""

import collections
import json
import os
import pathlib
import re
import shutil
import subprocess

import grpc
import pytest

from countersign.v1 import activation_pb2, history_pb2, privacy_pb2
from support import DEADLINE_SECONDS, Server, activation, refusal, rpc_status
from support import error_details_pb2, license_pb2

# Each kind of call and how it fails. A short one is no error: the rest is asked for again.
KINDS = (
    ("open", "EIO"),
    ("read", "EIO"),
    ("read", "SHORT"),
    ("write", "EIO"),
    ("write", "ENOSPC"),
    ("write", "SHORT"),
    ("write", "ENOSPC-STAYS"),
    ("sync", "EIO"),
    ("sync", "EIO-STAYS"),
    ("truncate", "ENOSPC"),
    ("rename", "EIO"),
    ("unlink", "EIO"),
    ("mkdir", "ENOSPC"),
)
EVERYTHING = os.environ.get("COUNTERSIGN_FAULTS") == "all"
# On a log that is read whole at a start, on a long one that is read again behind the server, or both.
CASES = [
    pytest.param(call, error, is_long, id=f"{call}-{error}-{'long' if is_long else 'whole'}")
    for number, (call, error) in enumerate(KINDS)
    for is_long in ((False, True) if EVERYTHING else (number % 2 == 0,))
]
# What the server goes on without, or makes anew: nothing that is acknowledged depends on it.
DISPOSABLE = re.compile(r"views|tiles|run|archive|data/head|data/checked|data/vault\.next|keys/master\.key\.next|data/lock")
# What nothing goes on without: the server ends.
VITAL = ("data/log/db", "data/log/tail", "data/vault", "ledger/erasures")
CHANGES = ("write", "sync", "truncate", "rename")
# What a message tells an operator to do.
HELP = re.compile(r"check the disk|start again|restore|put (it )?back|cannot be (written|read|locked)")
ADA, OLD, NEW, GONE = (f"{name}@example.com" for name in ("ada", "old", "new", "gone"))
NOT_FOUND = grpc.StatusCode.NOT_FOUND


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    """The library that makes calls fail."""
    built = tmp_path_factory.mktemp("shim") / "faults.so"
    source = pathlib.Path(__file__).with_name("faults.c")
    compile = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", built, source, "-ldl"]
    subprocess.run(compile, check=True)
    return built


class History:
    """What a directory holds whose server was killed, and what is to be asked of the next one."""

    def __init__(self, directory, is_long):
        self.is_long = is_long
        server = Server(directory)
        if is_long:
            with open(directory / "countersign.toml", "a") as config:
                config.write("\n[storage]\nchecked_first = 1\n")
                config.write('\n[archive]\ndirectory = "archive"\n')
            server.stop()
            server.start()
        self.license = server.issue(email=ADA, seats=50)
        self.asked = [activation(self.license, email=ADA) for _ in range(4)]
        self.receipts = [server.activate(asked) for asked in self.asked]
        for email in (OLD, GONE):
            license = server.issue(email=email)
            server.activate(activation(license, email=email))
        self.rectify = privacy_pb2.RectifySubjectRequest(
            request_id=server.ready(OLD, privacy_pb2.REQUEST_KIND_RECTIFICATION), email=NEW
        )
        self.erase = privacy_pb2.EraseSubjectRequest(
            request_id=server.ready(GONE, privacy_pb2.REQUEST_KIND_ERASURE), wait=True
        )
        self.issue = license_pb2.IssueLicenseRequest(
            email=ADA, product="More", seats=3, nonce=os.urandom(16)
        )
        self.fresh = [activation(self.license, email=ADA) for _ in range(3)]
        # What a log that is lost is restored from.
        self.copy = "archive" if is_long else "backup"
        server.command("backup", directory / "backup")
        while records(server, directory / self.copy) < records(server, directory / "backup"):
            assert server.process.poll() is None
        server.process.kill()
        server.process.wait()
        server.process.stdout.close()
        # The beginning of a line, as a power cut leaves it, is cut off.
        with open(directory / "ledger/erasures", "a") as ledger:
            ledger.write("erased 7:")


def records(server, *of):
    """How many the log has, or a backup of it; all of them are looked at."""
    return json.loads(server.command("--json", "verify", *of))["records"]


class FaultyServer(Server):
    """A server on a copy of a directory, with a fault to come."""

    def __init__(self, directory, whole, shim, call, number, error):
        shutil.copytree(whole, directory, ignore=shutil.ignore_patterns("run"))
        self.directory = directory
        self.report = directory.with_suffix(".report")
        self.faults = {
            "LD_PRELOAD": str(shim),
            "FAULT_UNDER": f"{directory}/",
            "FAULT_CALL": call,
            "FAULT_NUMBER": str(number),
            "FAULT_ERROR": error,
            "FAULT_REPORT": str(self.report),
        }
        self.log_path = directory.with_suffix(".log")

    def starts(self):
        """Whether it serves."""
        try:
            self.start()
        except AssertionError:
            self.process.wait(DEADLINE_SECONDS)
            return False
        return True

    def starts_with_the_fault(self):
        os.environ.update(self.faults)
        try:
            return self.starts()
        finally:
            for name in self.faults:
                del os.environ[name]

    def failed(self):
        """What has failed first: the call and the file."""
        # It is there before its first line is.
        line, end, _ = (self.report.read_text() if self.report.exists() else "").partition("\n")
        return tuple(line.split(" ", 1)) if end else None

    def logged(self):
        return self.log_path.read_text() if self.log_path.exists() else ""

    def end(self):
        """Stops it, if it has not stopped; its exit code and all that it logged."""
        for client in (self.app, *self.staff.values()):
            client.channel.close()
        self.process.terminate()
        code = self.process.wait(DEADLINE_SECONDS)
        return code, self.logged()


GIVEN, UNKNOWN, REFUSED = "given", "unknown", "refused"


def asked(call, request):
    """How a call was answered, and the answer. Only a fault can have it refused."""
    try:
        return GIVEN, call(request)
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAVAILABLE:
            return UNKNOWN, None
        info = error_details_pb2.ErrorInfo()
        status = rpc_status.from_call(error)
        assert any(detail.Unpack(info) for detail in status.details), error
        assert info.reason in ("STORAGE", "EPOCH_NOT_MOVED", "STOPPING"), f"{info.reason} {request}"
        return REFUSED if info.reason == "EPOCH_NOT_MOVED" else UNKNOWN, None


class Life:
    """All that was asked of one server, and how it answered."""

    def __init__(self, server, history):
        self.server, self.history = server, history
        self.answers = {}
        # Changes that were acknowledged though something had failed that they depend on.
        self.wrong = []

    def run(self):
        server, history = self.server, self.history
        self.ask("retry", server.app.Activate, history.asked[0])
        self.ask("issue", server.staff["issuer"].IssueLicense, history.issue)
        for number, request in enumerate(history.fresh):
            self.ask(f"activate {number}", server.app.Activate, request)
        deactivate = activation_pb2.DeactivateRequest(receipt=history.receipts[1])
        self.ask("deactivate", server.app.Deactivate, deactivate)
        self.ask("rectify", server.staff["privacy"].RectifySubject, history.rectify)
        self.ask("erase", server.staff["privacy"].EraseSubject, history.erase)
        sweep = privacy_pb2.SweepRetentionRequest()
        self.ask("sweep", server.staff["privacy"].SweepRetention, sweep)
        look = history_pb2.GetHistoryRequest(email=ADA, purpose=1)
        self.ask("history", server.staff["support"].GetHistory, look)

    def ask(self, name, call, request):
        how, answer = self.answers[name] = asked(call, request)
        failed = self.server.failed()
        is_change = name not in ("retry", "sweep")
        if how == GIVEN and is_change and failed and failed[0] in CHANGES:
            is_short = self.server.faults["FAULT_ERROR"] == "SHORT"
            # A new master key that could not be put beside the old one is of no consequence.
            is_staged = failed[1] == "keys" and "goes on with the old one" in self.server.logged()
            # Nor is the name of what the next start could have gone on from.
            is_checked = failed == ("sync", "data") and "next start takes longer" in self.server.logged()
            is_harmless = is_short or is_staged or is_checked
            if not is_harmless and not DISPOSABLE.match(failed[1]):
                self.wrong.append(f"{name} was acknowledged after {failed} had failed")

    def was(self, name):
        return self.answers.get(name, (UNKNOWN, None))[0]


def found(server, email):
    """How many licenses and activations a person has; `None`: there is nobody."""
    try:
        licenses = (
            server.staff["support"]
            .GetHistory(history_pb2.GetHistoryRequest(email=email, purpose=1))
            .licenses
        )
    except grpc.RpcError as error:
        assert error.code() == NOT_FOUND
        return None
    return len(licenses), sum(license.activations_total for license in licenses)


def check_restart(server, life):
    """A server without faults: all that was acknowledged is there, once; what was not is there or not."""
    history = life.history
    licenses, activations = found(server, ADA)
    fresh = [f"activate {number}" for number in range(len(history.fresh))]
    given = [life.was(name) == GIVEN for name in fresh]
    least, most = len(history.asked) + sum(given), len(history.asked) + len(given)
    assert least <= activations <= most, "an activation is lost, or there twice"
    assert 1 + (life.was("issue") == GIVEN) <= licenses <= 2
    issued = server.staff["issuer"].IssueLicense(history.issue).license
    if life.was("issue") == GIVEN:
        assert issued.license_key == life.answers["issue"][1].license.license_key
    for name, request in zip(fresh, history.fresh):
        receipt = server.activate(request)
        assert life.was(name) != GIVEN or receipt == life.answers[name][1].receipt
    assert found(server, ADA) == (2, most), "asked for again, each is there once"
    for number, request in enumerate(history.asked):
        if number == 1 and life.was("deactivate") == GIVEN:
            assert refusal(server.app.Activate, request).reason == "ACTIVATION_ENDED"
        elif number != 1:
            assert server.activate(request) == history.receipts[number]
    people = found(server, OLD), found(server, NEW)
    assert people in (((1, 1), None), (None, (1, 1)))
    assert life.was("rectify") != GIVEN or people[0] is None
    gone = found(server, GONE)
    assert gone in (None, (1, 1))
    if life.was("erase") != UNKNOWN:
        assert gone is None
    if life.was("erase") == GIVEN:
        erasure = life.answers["erase"][1].erasure
        get = privacy_pb2.GetErasureRequest(erasure_id=erasure.erasure_id)
        is_final = server.staff["privacy"].GetErasure(get).erasure.HasField("final_at")
        # Where the vault could not move, the answer said so.
        assert is_final or not erasure.HasField("final_at")


def check_archive(server):
    """It is whole, and has all that the log has."""
    ends = records(server), records(server, server.directory / "archive")
    assert ends[0] == ends[1], f"the log and the archive have {ends} records"


def restored(server, history, failed):
    """Whether the log was lost to a read, and is restored now."""
    if failed != ("read", "data/log/db"):
        return False
    # sled overwrites what it cannot read. The server reads that before it opens, so that such a read is
    # one that succeeded a moment before, and is in memory. Only a backup helps.
    before = len(server.logged())
    if server.starts():
        server.stop()
        server.process.stdout.close()
        return False
    server.process.stdout.close()
    said = server.logged()[before:]
    assert "restore" in said and ("are lost" in said or "corrupt" in said), said
    server.command("restore", server.directory / history.copy)
    return True


def trial(place, history, whole, shim, call, number, error):
    """What failed, and what came of it."""
    server = FaultyServer(place / "data", whole, shim, call, number, error)
    life = Life(server, history)
    if server.starts_with_the_fault():
        try:
            life.run()
        except AssertionError as refused:
            life.wrong.append(f"refused: {refused}")
        code, log = server.end()
    else:
        code, log = server.process.returncode, server.logged()
    server.process.stdout.close()
    failed = server.failed()
    answers = {name: how for name, (how, _) in life.answers.items()}
    shown = f"{call} {number} {error}: {failed}, {answers}, code {code}, log:\n{log}"
    assert not life.wrong, f"{life.wrong}\n{shown}"
    assert code in (0, 1) and "panicked" not in log, shown
    if not failed or error == "SHORT":
        assert code == 0 and all(how == GIVEN for how, _ in life.answers.values()), shown
    if failed and failed[0] in ("write", "sync") and failed[1] in VITAL and error != "SHORT":
        # When all is answered, and durable, it is only told.
        is_told = "could not be closed in order; check the disk" in log
        assert code == 1 or is_told, f"it goes on\n{shown}"
    if code == 1:
        assert HELP.search(log), f"no help in the message\n{shown}"
    is_lost = not life.answers and restored(server, history, failed)
    try:
        server.start()
        check_restart(server, life)
        server.stop()
        if history.is_long:
            check_archive(server)
    except (AssertionError, grpc.RpcError) as wrong:
        raise AssertionError(f"after the restart: {wrong}\n{shown}") from wrong
    server.process.stdout.close()
    log = server.logged()
    assert "panicked" not in log, f"after the restart\n{shown}\n{log}"
    if is_lost:
        came_of_it = "was refused until restored"
    elif code == 0:
        came_of_it = "went on"
    else:
        came_of_it = "ended" if life.answers else "did not start"
    return failed, came_of_it


def some(files):
    """Which of the calls, by the file that each is on: of each file the first, the last, and two
    between, of every kind of place in the server's life."""
    places = collections.defaultdict(list)
    for number, file in enumerate(files, start=1):
        places[re.sub(r"[0-9A-Fa-f]{8,}", "#", file)].append(number)
    chosen = set()
    for numbers in places.values():
        chosen.update(numbers[at * (len(numbers) - 1) // 3] for at in range(4))
    return sorted(chosen)


@pytest.mark.parametrize("call,error,is_long", CASES)
def test_whichever_call_fails_nothing_acknowledged_is_lost(tmp_path, shim, call, error, is_long):
    whole = tmp_path / "whole"
    history = History(whole, is_long)
    counted = FaultyServer(tmp_path / "counted" / "data", whole, shim, call, 0, error)
    assert counted.starts_with_the_fault()
    life = Life(counted, history)
    life.run()
    assert counted.end()[0] == 0
    assert {how for how, _ in life.answers.values()} == {GIVEN}
    counted.process.stdout.close()
    files = [line.split(" ", 1)[1] for line in counted.report.read_text().splitlines()]

    outcomes, wrong = collections.Counter(), []
    numbers = range(1, len(files) + 100) if EVERYTHING else some(files)
    for number in numbers:
        place = tmp_path / str(number)
        try:
            failed, came_of_it = trial(place, history, whole, shim, call, number, error)
        except AssertionError as reason:
            wrong.append(str(reason))
            continue
        finally:
            shutil.rmtree(place, ignore_errors=True)
        if EVERYTHING and not failed:
            break
        file = re.sub(r"[0-9A-Fa-f]{8,}", "#", failed[1]) if failed else "none"
        outcomes[file, came_of_it] += 1
    for (file, came_of_it), count in sorted(outcomes.items()):
        print(f"{call} {error} on {file}: {came_of_it} {count}")
    assert not wrong, f"{len(wrong)} of {len(wrong) + sum(outcomes.values())}:\n" + "\n".join(wrong)


# What is done without a server, and how its calls fail.
COMMANDS = (["restore"], ["keys", "rotate"], ["views", "rebuild"], ["verify", "--deep"])
# What they do without, or do again. sled's file is synced once more when it is closed, and is whole by then.
SPARE = re.compile(DISPOSABLE.pattern + r"|data(\.unfinished)?/log/db|views\.verify")
KINDS_OF_COMMANDS = [
    (call, error)
    for call, error in KINDS
    if error in ("EIO", "ENOSPC") and (EVERYTHING or call in ("sync", "rename") or error == "ENOSPC")
]


def command_trial(place, history, whole, shim, command, fault):
    """What failed, and the command's exit code."""
    server = FaultyServer(place / "data", whole, shim, *fault)
    if command == ["restore"]:
        command = ["restore", server.directory / history.copy]
    ran = subprocess.run(
        [os.environ["COUNTERSIGN_BIN"], "--dir", server.directory, *command],
        env=os.environ | server.faults,
        capture_output=True,
        text=True,
    )
    failed, code = server.failed(), ran.returncode
    shown = f"{command} {fault}: {failed}, exit code {code}: {ran.stderr}"
    assert code in (0, 1, 3) and "panicked" not in ran.stderr, shown
    assert failed or code == 0, shown
    assert code == 0 or HELP.search(ran.stderr), f"no help in the message\n{shown}"
    is_vital = failed and fault[1] and failed[0] in CHANGES and not SPARE.match(failed[1])
    assert not is_vital or code != 0, f"it was said to be done\n{shown}"
    try:
        restored(server, history, failed)
        # Either at once, or after the command was given again.
        if fault[1] % 2:
            server.command(*command)
        server.start()
        check_restart(server, Life(server, history))
        server.stop()
    except subprocess.CalledProcessError as wrong:
        raise AssertionError(f"given again: {wrong.stderr}\n{shown}") from wrong
    except (AssertionError, grpc.RpcError) as wrong:
        raise AssertionError(f"after it: {wrong}\n{shown}") from wrong
    server.process.stdout.close()
    return failed, code


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: "-".join(command).strip("-"))
def test_whichever_call_of_a_command_fails_nothing_acknowledged_is_lost(tmp_path, shim, command):
    whole = tmp_path / "whole"
    history = History(whole, is_long=False)
    outcomes, wrong = collections.Counter(), []
    for call, error in KINDS_OF_COMMANDS:
        place = tmp_path / "counted"
        assert command_trial(place, history, whole, shim, command, (call, 0, error))[1] == 0
        report = (place / "data").with_suffix(".report")
        # There is none where it makes no such call.
        lines = report.read_text().splitlines() if report.exists() else []
        files = [line.split(" ", 1)[1] for line in lines]
        shutil.rmtree(place)
        for number in range(1, len(files) + 1) if EVERYTHING else some(files):
            place = tmp_path / str(number)
            fault = call, number, error
            try:
                failed, code = command_trial(place, history, whole, shim, command, fault)
                file = re.sub(r"[0-9A-Fa-f]{8,}", "#", failed[1]) if failed else "none"
                outcomes[call, error, file, code] += 1
            except AssertionError as reason:
                wrong.append(str(reason))
            shutil.rmtree(place, ignore_errors=True)
    for (call, error, file, code), count in sorted(outcomes.items()):
        print(f"{' '.join(command)}, {call} {error} on {file}: exit code {code}, {count} times")
    assert outcomes, "nothing failed"
    assert not wrong, f"{len(wrong)} of {len(wrong) + sum(outcomes.values())}:\n" + "\n".join(wrong)


@pytest.mark.parametrize("error", ("EIO", "EINVAL"))
def test_a_restore_that_cannot_exchange_the_data_leaves_it_or_does_so_in_steps(
    tmp_path, shim, error
):
    """The exchange goes to the kernel past the C library, and fails there."""
    whole = tmp_path / "whole"
    history = History(whole, is_long=False)
    server = FaultyServer(tmp_path / "data", whole, shim, "rename", 0, "EIO")
    inject = ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"inject=renameat2:error={error}"]
    binary = os.environ["COUNTERSIGN_BIN"]
    restore = ["--dir", server.directory, "restore", server.directory / history.copy]
    ran = subprocess.run([*inject, binary, *restore], capture_output=True, text=True)
    names = {path.name for path in server.directory.iterdir()}
    if error == "EIO":
        assert ran.returncode == 1 and HELP.search(ran.stderr), ran.stderr
        assert not any(name.startswith("data.before-restore") for name in names), names
    else:
        assert ran.returncode == 0, ran.stderr
        assert "data.before-restore-1" in names, names
    server.start()
    check_restart(server, Life(server, history))
    server.stop()
    server.process.stdout.close()
