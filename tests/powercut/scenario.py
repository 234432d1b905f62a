"""The scripted run: all that writes, from the first start on, with what clients were told."""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import grpc

from countersign.v1 import activation_pb2, license_pb2, privacy_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from history import (
    Activation,
    Asked,
    Backup,
    Deactivation,
    Erasure,
    History,
    License,
    Rectification,
)
from history import Rotation, now
from server import BINARY, DEADLINE, LISTENING, SERVE, Clients

ROLES = ("issuer", "privacy", "privacy-2")
# More than the vault has slots at first: a person of these takes four.
MANY = 270
# The head file is written every five seconds while the log moves.
HEAD_DEADLINE = 30
PACE = 0.2
# From then on every log is long: what was checked before is read again behind the serving server.
LONG_LOG = "[storage]\nchecked_first = 1"
# And the server keeps an archive.
ARCHIVE = '[archive]\ndirectory = "archive"'


class Process:
    """A command that a launcher started; its output comes through a pipe."""

    def __init__(self, launch, command, pipe, log):
        os.mkfifo(pipe)
        command = " ".join(f"'{word}'" for word in command)
        launch(f"{{ echo $BASHPID; exec {command}; }} > '{pipe}' 2>> '{log}'")
        # An open that waits for the writer would wait for ever where there is no launcher.
        descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        if not select.select([descriptor], [], [], DEADLINE)[0]:
            raise TimeoutError(f"nothing runs {command}")
        os.set_blocking(descriptor, True)
        self.output = os.fdopen(descriptor, encoding="utf-8")
        os.unlink(pipe)
        self.handle = None
        # It may have ended already.
        with contextlib.suppress(ProcessLookupError):
            self.handle = os.pidfd_open(int(self.output.readline()))

    def wait(self):
        rest = self.output.read()
        self.output.close()
        if self.handle is not None:
            if not select.select([self.handle], [], [], DEADLINE)[0]:
                raise TimeoutError("a process does not end")
            os.close(self.handle)
        return rest


class Run:
    """One server's directory through its life; every call is noted in `history`."""

    def __init__(self, launch, directory, scratch):
        self.launch, self.directory, self.scratch = launch, str(directory), scratch
        self.history = History()
        self.log = scratch / "log"
        # Who got data of whom.
        self.told = {}
        self.started = 0
        self.process = self.clients = None

    def phase(self, name):
        self.history.phases.append((name, now()))

    # -- processes

    def start_process(self, *command):
        self.started += 1
        return Process(self.launch, command, self.scratch / f"out-{self.started}", self.log)

    def start_server(self, *arguments):
        return self.start_process(BINARY, "--dir", self.directory, *arguments)

    def command(self, *arguments):
        output = self.start_server(*arguments).wait()
        if not output:
            raise RuntimeError(f"{arguments} failed: {self.log.read_text()[-2000:]}")
        return output

    def serve(self, *options):
        self.process = self.start_server(*SERVE, *options)
        line = self.process.output.readline()
        addresses = LISTENING.fullmatch(line)
        if not addresses:
            raise RuntimeError(f"no server: {line!r} {self.log.read_text()[-2000:]}")
        self.clients = Clients(self.directory, *addresses.groups(), ROLES)

    def configure(self, lines):
        """Puts lines at the end of the configuration, by a new file, as who fears a power cut does."""
        path = f"{self.directory}/countersign.toml"
        new = 'cp -p "$0" "$0.new" && printf "%s\\n" "$@" | tee -a "$0.new" && sync "$0.new"'
        script = f'{new} && mv "$0.new" "$0" && sync "${{0%/*}}"'
        self.start_process("sh", "-c", script, path, *lines.splitlines()).wait()
        with open(path, encoding="utf-8") as file:
            if lines not in file.read():
                raise RuntimeError("the configuration was not written")

    def abandon(self):
        """Leaves no process behind where something went wrong."""
        if self.process and self.process.handle is not None:
            # It may have ended already.
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self.process.handle, signal.SIGKILL)

    def end(self, number=signal.SIGTERM):
        self.clients.close()
        signal.pidfd_send_signal(self.process.handle, number)
        self.process.wait()

    # -- calls

    def call(self, role, service, method, request, answer):
        calls = self.clients.staff[role] if role else self.clients.app
        result = calls.begin(service, method, request.SerializeToString()).result()
        return answer.FromString(result)

    def privacy(self, method, role="privacy", **fields):
        request = getattr(privacy_pb2, f"{method}Request")(**fields)
        answer = getattr(privacy_pb2, f"{method}Response")
        return self.call(role, "PrivacyService", method, request, answer)

    def issue(self, email, seats):
        request = license_pb2.IssueLicenseRequest(
            email=email, product="App", seats=seats, nonce=os.urandom(16)
        )
        license = License(email=email, seats=seats)
        self.history.licenses.append(license)
        answer = license_pb2.IssueLicenseResponse
        issued = self.call("issuer", "LicenseService", "IssueLicense", request, answer)
        license.key, license.answered = issued.license.license_key, now()
        return license

    def activate(self, license, email=None):
        activation = Activation(
            license=license,
            email=license.email if email is None else email,
            nonce=os.urandom(16),
            binding=os.urandom(32),
        )
        self.history.activations.append(activation)
        try:
            call = self.clients.app.begin("ActivationService", "Activate", request_of(activation))
            activation.answer = call.result()
        except grpc.RpcError as error:
            activation.refused = reason(error)
        activation.answered = now()
        return activation

    def deactivate(self, activation):
        receipt = activation_pb2.ActivateResponse.FromString(activation.answer).receipt
        ended = Deactivation(activation=activation)
        self.history.deactivations.append(ended)
        request = activation_pb2.DeactivateRequest(receipt=receipt)
        answer = activation_pb2.DeactivateResponse
        self.call(None, "ActivationService", "Deactivate", request, answer)
        ended.answered = now()

    def ready(self, email, kind):
        """A request that is verified and approved."""
        request_id = self.privacy("OpenRequest", email=email, kind=kind).request.request_id
        code = self.privacy("IssueVerificationCode", request_id=request_id).code
        self.privacy("VerifyIdentity", request_id=request_id, code=code)
        self.privacy("ApproveRequest", "privacy-2", request_id=request_id)
        return request_id

    def rectify(self, old, new):
        request_id = self.ready(old, privacy_pb2.REQUEST_KIND_RECTIFICATION)
        change = Rectification(old=old, new=new, recipients=self.told.get(old, []))
        self.history.rectifications.append(change)
        self.privacy("RectifySubject", request_id=request_id, email=new)
        change.answered = now()

    def disclose(self, email, recipient):
        self.privacy("RecordDisclosure", email=email, recipient=recipient)
        self.told.setdefault(email, []).append(recipient)

    def erase(self, email, keep=False):
        request_id = self.ready(email, privacy_pb2.REQUEST_KIND_ERASURE)
        with open(f"{self.directory}/keys/master.key", "rb") as file:
            master_key = file.read().strip().rsplit(b":", 1)[1]
        erasure = Erasure(email=email, keeps_licenses=keep, master_key=master_key)
        self.history.erasures.append(erasure)
        answer = self.privacy("EraseSubject", request_id=request_id, keep_licenses=keep, wait=True)
        if not answer.erasure.HasField("final_at"):
            raise RuntimeError("an erasure that was to be waited for is not final")
        erasure.id, erasure.answered = answer.erasure.erasure_id, now()

    def rotate(self):
        rotation = Rotation()
        self.history.rotations.append(rotation)
        rotation.key_id = json.loads(self.command("--json", "keys", "rotate"))["kid"]
        rotation.answered = now()


def request_of(activation, email=None):
    return activation_pb2.ActivateRequest(
        email=activation.email if email is None else email,
        license_key=activation.license.key,
        nonce=activation.nonce,
        binding=activation.binding,
    ).SerializeToString()


def reason(error):
    """The stable reason of a refusal, or the code where it has none."""
    status, info = rpc_status.from_call(error), error_details_pb2.ErrorInfo()
    for detail in status.details if status else ():
        if detail.Unpack(info):
            return info.reason
    return error.code().name


def at_once(count, calls):
    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(*call) for call in calls]]


def whole_life(run):
    """Everything, in one directory."""
    run.phase("init")
    run.history.made = Asked()
    run.command("init")
    run.history.made.answered = now()
    run.phase("first serve")
    run.serve()
    run.phase("issue")
    ada = run.issue("ada@example.com", 1000)
    bob = run.issue("bob@example.com", 5)
    carol = run.issue("carol@example.com", 50)
    dave = run.issue("dave@example.com", 50)
    erin = run.issue("erin@example.com", 50)
    run.phase("one at a time")
    alone = [run.activate(ada) for _ in range(12)]
    for license in (carol, dave, erin):
        for _ in range(3):
            run.activate(license)
    run.phase("many at once")
    at_once(8, [(run.activate, ada)] * 64)
    rivals = at_once(12, [(run.activate, bob)] * 12)
    run.phase("deactivate")
    holders = [rival for rival in rivals if rival.answer]
    for activation in (*alone[:3], *holders[:2]):
        run.deactivate(activation)
    at_once(4, [(run.activate, bob)] * 4)
    run.phase("head file")
    head = f"{run.directory}/data/head"
    before, start = os.stat(head).st_ino, time.monotonic()
    while os.stat(head).st_ino == before:
        if time.monotonic() - start > HEAD_DEADLINE:
            raise TimeoutError("the head file is never written")
        run.activate(ada)
        time.sleep(PACE)
    run.phase("rotate receipt keys")
    run.rotate()
    run.phase("restart")
    run.end()
    run.configure(LONG_LOG)
    run.configure(ARCHIVE)
    run.serve()
    at_once(2, [(run.activate, ada)] * 4)
    run.phase("rectify")
    run.disclose("carol@example.com", "ZenDesk")
    run.rectify("carol@example.com", "caroline@example.com")
    run.activate(carol, "caroline@example.com")
    run.phase("erase")
    at_once(4, [(run.erase, "dave@example.com"), *[(run.activate, ada)] * 16])
    run.phase("kill")
    at_once(8, [(run.activate, ada)] * 8)
    run.end(signal.SIGKILL)
    run.serve()
    at_once(2, [(run.activate, ada)] * 4)
    run.phase("rebuild views")
    run.end()
    run.command("views", "rebuild")
    run.serve()
    at_once(2, [(run.activate, ada)] * 4)
    run.phase("grow the vault")
    at_once(16, [(issue_and_activate, run, f"p{number}@example.com") for number in range(MANY)])
    run.phase("erase, keep licenses")
    run.erase("erin@example.com", keep=True)
    run.activate(ada)
    back_up(run)
    run.phase("end")
    run.end()


def issue_and_activate(run, email):
    run.activate(run.issue(email, 2))


def back_up(run):
    """A backup and one that adds to it, where the server has that command."""
    usage = subprocess.run([BINARY, "help"], capture_output=True, text=True, check=True).stdout
    if not re.search(r"^ +backup\b", usage, re.MULTILINE):
        return
    for name in ("back up", "back up again"):
        run.phase(name)
        backup = Backup()
        run.history.backups.append(backup)
        run.command("backup", backup_of(run.directory))
        backup.answered = now()
        at_once(2, [(run.activate, run.history.licenses[0])] * 4)


def backup_of(directory):
    return f"{directory}-backup"


def archive_of(directory):
    return f"{directory}/archive"


def first_start(run):
    """`serve --dev` where there is nothing yet."""
    run.phase("first start")
    run.history.made = Asked()
    run.serve("--dev")
    run.history.made.answered = now()
    license = run.issue("ada@example.com", 3)
    at_once(2, [(run.activate, license)] * 5)
    run.phase("first end")
    run.end()


SCENARIOS = {"life": whole_life, "first": first_start}
