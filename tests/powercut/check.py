"""Starts a server on what a cut left, and holds it to what clients had been told by then."""

import os
import shutil
import subprocess
from dataclasses import replace

import grpc

from countersign.v1 import activation_pb2, history_pb2, license_pb2, privacy_pb2
from history import Activation, License
from scenario import ARCHIVE, LONG_LOG, archive_of, backup_of, reason, request_of
from server import BINARY, DEADLINE, Refused, Server

ROLES = ("issuer", "support", "privacy")
SUPPORT = 1  # PURPOSE_SUPPORT
GOOD, DEACTIVATED = 1, 5
# Of the many persons, those whose license is looked at: the last ones, and others by chance.
LAST, OTHERS = 10, 6
# A license of so many seats is never full.
ROOMY = 1000


class Wrong(list):
    """What does not hold."""

    def note(self, what, about):
        self.append(f"{what}: {about}")


class Expected:
    """What a history says of the state: what had been answered by one moment is there, and of what
    had begun by another any part."""

    def __init__(self, history, at, begun_by=None):
        self.at, begun_by = at, begun_by or at
        self.licenses = [license for license in history.licenses if license.had_begun(begun_by)]
        self.activations = [each for each in history.activations if each.had_begun(begun_by)]
        self.ends = [each for each in history.deactivations if each.had_begun(begun_by)]
        self.rectifications = [each for each in history.rectifications if each.had_begun(begun_by)]
        self.erasures = [each for each in history.erasures if each.had_begun(begun_by)]
        self.backups = [each for each in history.backups if each.was_answered(at)]
        self.key_ids = [each.key_id for each in history.rotations if each.was_answered(at)]
        self.is_made = history.made.was_answered(at)

    def was_answered(self, asked):
        return asked.was_answered(self.at)


class Round:
    """One start of the server, and all questions."""

    def __init__(self, server, expected, rng, wrong):
        self.clients, self.expected, self.wrong, self.rng = server.clients, expected, wrong, rng

    def ask(self, role, service, method, request, answer):
        """The answer, or the reason why there is none."""
        calls = self.clients.staff[role] if role else self.clients.app
        future = calls.begin(service, method, request.SerializeToString())

        def result():
            try:
                return answer.FromString(future.result())
            except grpc.RpcError as error:
                return reason(error)

        return result

    def activate(self, activation, email=None):
        request = request_of(activation, email)
        future = self.clients.app.begin("ActivationService", "Activate", request)

        def result():
            try:
                return future.result(), ""
            except grpc.RpcError as error:
                return b"", reason(error)

        return result

    def history(self, email):
        request = history_pb2.GetHistoryRequest(email=email, purpose=SUPPORT)
        answer = history_pb2.GetHistoryResponse
        return self.ask("support", "HistoryService", "GetHistory", request, answer)

    def license(self, key):
        request = license_pb2.GetLicenseRequest(license_key=key, purpose=SUPPORT)
        return self.ask(
            "support", "LicenseService", "GetLicense", request, license_pb2.GetLicenseResponse
        )

    def standing(self, activation):
        receipt = activation_pb2.ActivateResponse.FromString(activation.answer).receipt
        request = activation_pb2.CheckRequest(receipt=receipt)
        answer = activation_pb2.CheckResponse
        return self.ask(None, "ActivationService", "Check", request, answer)

    def run(self):
        self.resolve_persons()
        self.check_licenses()
        self.check_activations()
        self.check_keys()

    # -- persons

    def resolve_persons(self):
        """Under which address each is found, and who is erased."""
        expected = self.expected
        self.addresses, self.erased = {}, {}
        for change in expected.rectifications:
            is_there = []
            for email in (change.old, change.new):
                found = self.history(email)()
                if found == "SUBJECT_NOT_FOUND":
                    continue
                if isinstance(found, str):
                    self.wrong.note("error", f"the history of {email}: {found}")
                is_there.append(email)
            if len(is_there) != 1:
                self.wrong.note("changed", f"{change.old} rectified is found as {is_there}")
            elif expected.was_answered(change) and is_there == [change.old]:
                self.wrong.note("lost", f"the rectification of {change.old}")
            elif expected.was_answered(change):
                self.check_told(change)
            self.addresses[change.old] = (is_there or [change.new])[0]
        for erasure in expected.erasures:
            found = self.history(erasure.email)()
            is_erased = found == "SUBJECT_NOT_FOUND"
            if not is_erased and isinstance(found, str):
                self.wrong.note("error", f"the history of {erasure.email}: {found}")
            if is_erased:
                self.erased[erasure.email] = erasure
            if expected.was_answered(erasure):
                self.check_final(erasure, is_erased)

    def check_final(self, erasure, is_erased):
        if not is_erased:
            self.wrong.note("resurrected", erasure.email)
        request = privacy_pb2.GetErasureRequest(erasure_id=erasure.id)
        answer = privacy_pb2.GetErasureResponse
        found = self.ask("privacy", "PrivacyService", "GetErasure", request, answer)()
        if isinstance(found, str) or not found.erasure.HasField("final_at"):
            self.wrong.note("lost", f"that the erasure of {erasure.email} is final: {found}")

    def check_told(self, change):
        request, answer = privacy_pb2.ListNoticesRequest(), privacy_pb2.ListNoticesResponse
        found = self.ask("privacy", "PrivacyService", "ListNotices", request, answer)()
        notices = () if isinstance(found, str) else found.notices
        to_tell = [each.recipient for each in notices if each.new_email == change.new]
        if to_tell != change.recipients:
            self.wrong.note("lost", f"whom to tell of {change.new}: {found}")

    def address(self, email):
        return self.addresses.get(email, email)

    # -- licenses

    def check_licenses(self):
        expected = self.expected
        known = [each for each in expected.licenses if expected.was_answered(each)]
        named = [each for each in known if each.seats > 2]
        many = [each for each in known if each.seats <= 2]
        others = many[:-LAST]
        picked = named + many[-LAST:] + self.rng.sample(others, min(OTHERS, len(others)))
        asked = []
        for license in picked:
            erasure = self.erased.get(license.email)
            if erasure is None or erasure.keeps_licenses:
                asked.append((license, self.license(license.key), self.activations_of(license)))
            else:
                asked.append((license, self.license(license.key), None))
        for license, found, listed in asked:
            self.check_license(license, found(), listed)

    def activations_of(self, license):
        request = history_pb2.ListActivationsRequest(
            license_key=license.key, purpose=SUPPORT, page_size=1000
        )
        path = "/countersign.v1.HistoryService/ListActivations"
        stream = self.clients.staff["support"].channel.unary_stream(path)
        answers = stream(request.SerializeToString(), timeout=DEADLINE)

        def result():
            pages = map(history_pb2.ListActivationsResponse.FromString, answers)
            return [activation for page in pages for activation in page.activations]

        return result

    def check_license(self, license, found, listed):
        name = f"the license of {license.email}"
        if listed is None:
            if found != "LICENSE_NOT_FOUND":
                self.wrong.note("resurrected", f"{name}: {found}")
            return
        if isinstance(found, str):
            self.wrong.note("lost", f"{name}: {found}")
            return
        try:
            activations = {each.activation_id: each for each in listed()}
        except grpc.RpcError as error:
            self.wrong.note("error", f"the activations of {name}: {reason(error)}")
            return
        used = found.license.used
        live = sum(not each.HasField("deactivated_at") for each in activations.values())
        if used != live:
            self.wrong.note("changed", f"{name}: {used} seats in use, held by {live} activations")
        if max(used, live) > license.seats:
            self.wrong.note("oversold", f"{name}: {used} of {license.seats}")
        asked = [each for each in self.expected.activations if each.license.key == license.key]
        asked = {each.id: each for each in asked}
        for id in activations.keys() - asked.keys():
            self.wrong.note("changed", f"{name}: activation {id.hex()}, which nobody asked for")
        for id, activation in asked.items():
            is_told = self.expected.was_answered(activation)
            if is_told and activation.answer and id not in activations:
                self.wrong.note("lost", f"{name}: activation {id.hex()} is not listed")
            if is_told and not activation.answer and id in activations:
                self.wrong.note("changed", f"{name}: activation {id.hex()} was refused")
        for end in self.expected.ends:
            found = activations.get(end.activation.id)
            if found and self.expected.was_answered(end) and not found.HasField("deactivated_at"):
                self.wrong.note("lost", f"{name}: the end of {end.activation.id.hex()}")

    # -- activations

    def check_activations(self):
        expected, asked = self.expected, []
        ends = {each.activation.id: expected.was_answered(each) for each in expected.ends}
        for activation in expected.activations:
            if not (expected.was_answered(activation) and activation.answer):
                continue
            erasure = self.erased.get(activation.license.email)
            if erasure and erasure.keeps_licenses:
                again = self.activate(activation, "")
                asked.append((activation, again, self.standing(activation), erasure))
            else:
                address = self.address(activation.email)
                again = self.activate(activation, address)
                asked.append((activation, again, None, erasure))
        for activation, again, standing, erasure in asked:
            name = f"activation {activation.id.hex()} of {activation.license.email}"
            answer, refused = again()
            end = ends.get(activation.id)
            if standing is not None:
                found = standing()
                if isinstance(found, str) or found.standing != GOOD or refused:
                    self.wrong.note("lost", f"{name}, kept: {found} {refused}")
            elif erasure is not None:
                if refused != "LICENSE_NOT_FOUND":
                    self.wrong.note("resurrected", f"{name}: {refused}")
            elif refused == "ACTIVATION_ENDED" and end is not None:
                pass
            elif end is True:
                self.wrong.note("lost", f"the end of {name}: {refused or 'it is active'}")
            elif refused:
                self.wrong.note("lost", f"{name}: {refused}")
            elif answer != activation.answer:
                self.wrong.note("changed", f"the receipt of {name}")

    def check_keys(self):
        answer = activation_pb2.GetSigningKeysResponse
        request = activation_pb2.GetSigningKeysRequest()
        jwks = self.ask(None, "ActivationService", "GetSigningKeys", request, answer)()
        for key_id in self.expected.key_ids:
            if isinstance(jwks, str) or key_id not in jwks.jwks:
                self.wrong.note("lost", f"receipt key {key_id}: {jwks}")

    # -- more of it

    def go_on(self):
        """A server that came back takes more; what it takes is expected from then on."""
        email = f"{os.urandom(8).hex()}@example.com"
        request = license_pb2.IssueLicenseRequest(email=email, product="App", seats=3)
        answer = license_pb2.IssueLicenseResponse
        issued = self.ask("issuer", "LicenseService", "IssueLicense", request, answer)()
        if isinstance(issued, str):
            self.wrong.note("refused", f"a new license: {issued}")
            return
        license = License(0, 0, email, 3, issued.license.license_key)
        self.expected.licenses.append(license)
        # One more than there are seats.
        fresh = [self.fresh(license) for _ in range(4)]
        roomy = [each for each in self.expected.licenses if each.seats >= ROOMY]
        fresh += [self.fresh(each) for each in roomy if self.expected.was_answered(each)]
        results = [(activation, self.activate(activation)) for activation in fresh]
        refusals = []
        for activation, result in results:
            activation.answer, activation.refused = result()
            self.expected.activations.append(activation)
            if activation.refused:
                refusals.append(activation.refused)
        if refusals != ["SEATS_EXHAUSTED"]:
            self.wrong.note("refused", f"new activations: {refusals}")

    def fresh(self, license):
        email = license.email
        return Activation(0, 0, license, email, os.urandom(16), os.urandom(32))


def check(root, history, at, rng, log_path):
    """What is wrong with the files below `root`, which are as a cut at that time left them."""
    wrong, expected = Wrong(), Expected(history, at)
    directory = f"{root}/srv/countersign"
    if not os.path.exists(directory):
        if expected.is_made:
            wrong.note("lost", "the directory")
        else:
            check_again_from_nothing(directory, wrong, log_path)
        if wrong:
            return wrong
        expected = Expected(replace(history, licenses=[], activations=[]), 0)
    check_keys_destroyed(directory, expected, wrong)
    if rng.random() < 0.3:
        read_whole(directory)
    if expected.backups:
        command(wrong, "--dir", directory, "verify", backup_of(directory))
    # Before it is there, the archive states nothing.
    if os.path.exists(f"{archive_of(directory)}/manifest"):
        command(wrong, "--dir", directory, "verify", archive_of(directory))
        if rng.random() < 0.2:
            check_without_the_log(directory, f"{root}/copy", wrong)
    kills = rng.random() < 0.5
    for number in range(2):
        try:
            server = Server(directory, log_path, ROLES)
        except Refused as refused:
            wrong.note("refused", f"start {number + 1}: {refused}")
            return wrong
        try:
            round = Round(server, expected, rng, wrong)
            round.run()
            if number == 0:
                round.go_on()
        finally:
            code = server.stop(kill=kills and number == 0)
        if code != (-9 if kills and number == 0 else 0):
            wrong.note("error", f"exit code {code} of start {number + 1}")
    if is_archived(directory) and rng.random() < 0.5:
        # The server has ended in order, so that all is in it: also what came after the cut.
        check_restored(directory, expected, rng, wrong, archive_of(directory))
    elif expected.backups:
        # From the newest backup that was finished, or from one that was begun since.
        before = Expected(history, expected.backups[-1].begun, at)
        check_restored(directory, before, rng, wrong, "--lose-newer", backup_of(directory))
    return wrong


def is_archived(directory):
    with open(f"{directory}/countersign.toml", encoding="utf-8") as file:
        return ARCHIVE in file.read()


def read_whole(directory):
    """Has the log read whole at starts, as one that is not long."""
    path = f"{directory}/countersign.toml"
    with open(path, encoding="utf-8") as file:
        config = file.read()
    with open(path, "w", encoding="utf-8") as file:
        file.write(config.replace(LONG_LOG, ""))


def check_without_the_log(directory, copy, wrong):
    """The cut has cost the log; what the archive states comes back from it, and is good."""
    # A disk has room for all but what is made again.
    shutil.copytree(directory, copy, ignore=shutil.ignore_patterns("run", "views", "tiles"))
    shutil.rmtree(f"{copy}/data/log")
    if command(wrong, "--dir", copy, "restore", "--lose-newer", archive_of(copy)):
        command(wrong, "--dir", copy, "verify", "--deep")
    shutil.rmtree(copy)


def check_restored(directory, expected, rng, wrong, *source):
    if not command(wrong, "--dir", directory, "restore", *source):
        return
    server = Server(directory, f"{directory}.log", ROLES)
    try:
        Round(server, expected, rng, wrong).run()
    finally:
        server.stop()


def command(wrong, *arguments):
    done = subprocess.run([BINARY, *arguments], capture_output=True, text=True, timeout=DEADLINE)
    if done.returncode != 0:
        wrong.note("refused", f"{' '.join(arguments[2:])}: {done.stderr}")
    return done.returncode == 0


def check_again_from_nothing(directory, wrong, log_path):
    """Nothing was made: the server says so, and `init` makes it."""
    serve = subprocess.run([BINARY, "--dir", directory, "serve"], capture_output=True, text=True)
    if serve.returncode != 1 or "init" not in serve.stderr:
        wrong.note("refused", f"without a clear message: {serve.returncode} {serve.stderr}")
    made = subprocess.run([BINARY, "--dir", directory, "init"], capture_output=True, text=True)
    if made.returncode != 0:
        wrong.note("refused", f"init: {made.stderr}")


def check_keys_destroyed(directory, expected, wrong):
    keys = f"{directory}/keys"
    for erasure in expected.erasures:
        if not expected.was_answered(erasure):
            continue
        for entry in os.scandir(keys):
            with open(entry.path, "rb") as file:
                if erasure.master_key in file.read():
                    wrong.note("resurrected", f"the master key of {erasure.email} in {entry.name}")
