"""What the tests share: a server with a directory of its own, its clients, and refusals."""

import io
import os
import re
import select
import subprocess
import zipfile
from typing import NamedTuple

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from countersign.v1 import activation_pb2, activation_pb2_grpc, history_pb2_grpc
from countersign.v1 import license_pb2, license_pb2_grpc, privacy_pb2, privacy_pb2_grpc
from countersign.v1 import statistics_pb2_grpc, transparency_pb2_grpc

ROLES = ("issuer", "support", "privacy", "analytics", "witness")
EMAIL = "ada@example.com"
STUBS = (
    activation_pb2_grpc.ActivationServiceStub,
    license_pb2_grpc.LicenseServiceStub,
    history_pb2_grpc.HistoryServiceStub,
    privacy_pb2_grpc.PrivacyServiceStub,
    statistics_pb2_grpc.StatisticsServiceStub,
    transparency_pb2_grpc.TransparencyServiceStub,
)
# A server that hangs fails its test, and does not hang it.
DEADLINE_SECONDS = 30
OPTIONS = [
    (
        "grpc.service_config",
        '{"methodConfig": [{"name": [{}], "timeout": "%ds"}]}' % DEADLINE_SECONDS,
    )
]


class Client:
    """The RPCs of all services on one channel, by their names."""

    def __init__(self, channel):
        self.channel = channel
        for stub in STUBS:
            vars(self).update(vars(stub(channel)))


class Server:
    """A server; the receipts of its product `Leased` end after 30 days, others never."""

    def __init__(self, directory):
        self.directory = directory
        self.command("init")
        with open(directory / "countersign.toml", "a") as config:
            config.write("\n[lease_days]\nLeased = 30\n")
        self.start()

    def command(self, *arguments):
        command = [os.environ["COUNTERSIGN_BIN"], "--dir", self.directory, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def start(self, wrapper=()):
        log_path = self.directory.with_suffix(".log")
        with open(log_path, "a") as log:
            any_port = "127.0.0.1:0"
            self.process = subprocess.Popen(
                [*wrapper, os.environ["COUNTERSIGN_BIN"], "--dir", self.directory, "serve", "--dev"]
                + ["--public-listen", any_port, "--staff-listen", any_port],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert select.select([self.process.stdout], [], [], DEADLINE_SECONDS)[0], "no sign of life"
        line = self.process.stdout.readline()
        addresses = re.fullmatch(r"listening public=(\S+) staff=(\S+)\n", line)
        assert addresses, f"{line!r}, and logged:\n{log_path.read_text()}"
        self.public_address, self.staff_address = addresses.groups()
        self.app = Client(self.channel(self.public_address))
        # Who opens a request cannot approve it.
        names = (*ROLES, "privacy-2")
        self.staff = {name: Client(self.staff_channel(*self.pair(name))) for name in names}

    def stop(self):
        for client in (self.app, *self.staff.values()):
            client.channel.close()
        self.process.terminate()
        assert self.process.wait(DEADLINE_SECONDS) == 0

    def tls(self, name):
        return (self.directory / "tls" / name).read_bytes()

    def pair(self, role):
        """The certificate of a role and its key."""
        return self.tls(f"staff/{role}.pem"), self.tls(f"staff/{role}.key")

    def channel(self, address, key=None, certificate=None):
        tls = grpc.ssl_channel_credentials(self.tls("server-ca.pem"), key, certificate)
        return grpc.secure_channel(address, tls, OPTIONS)

    def staff_channel(self, certificate, key):
        return self.channel(self.staff_address, key, certificate)

    def issue(self, **terms):
        request = {"email": EMAIL, "product": "App", "seats": 2} | terms
        issue = self.staff["issuer"].IssueLicense
        return issue(license_pb2.IssueLicenseRequest(**request)).license

    def change(self, what, license):
        """Suspends, reinstates or revokes."""
        request = getattr(license_pb2, f"{what}LicenseRequest")(license_key=license.license_key)
        return getattr(self.staff["issuer"], f"{what}License")(request).license

    def open(self, email, kind, by="privacy"):
        """Opens a request about a person's data, and gives its id."""
        request = privacy_pb2.OpenRequestRequest(email=email, kind=kind)
        return self.staff[by].OpenRequest(request).request.request_id

    def ready(self, email, kind):
        """Opens a request, verifies the person and has it approved."""
        request_id = self.open(email, kind)
        issue = privacy_pb2.IssueVerificationCodeRequest(request_id=request_id)
        code = self.staff["privacy"].IssueVerificationCode(issue).code
        verify = privacy_pb2.VerifyIdentityRequest(request_id=request_id, code=code)
        self.staff["privacy"].VerifyIdentity(verify)
        approve = privacy_pb2.ApproveRequestRequest(request_id=request_id)
        self.staff["privacy-2"].ApproveRequest(approve)
        return request_id

    def erase(self, email, **how):
        """Erases all of a person's data."""
        request_id = self.ready(email, privacy_pb2.REQUEST_KIND_ERASURE)
        request = privacy_pb2.EraseSubjectRequest(request_id=request_id, **how)
        return self.staff["privacy"].EraseSubject(request).erasure

    def disclose(self, email, recipient):
        """Notes that a recipient got all of a person's data that they may have."""
        request = privacy_pb2.RecordDisclosureRequest(email=email, recipient=recipient)
        self.staff["support"].RecordDisclosure(request)

    def notices(self):
        """What recipients are still to be told."""
        return self.staff["privacy"].ListNotices(privacy_pb2.ListNoticesRequest()).notices

    def export(self, email, **how):
        """All that is held about a person: the files of the ZIP."""
        person = {"email": email, "purpose": 2} if email else {}
        request = privacy_pb2.ExportSubjectRequest(**person, **how)
        chunks = [answer.chunk for answer in self.staff["privacy"].ExportSubject(request)]
        assert all(0 < len(chunk) <= 32 * 1024 for chunk in chunks)
        bundle = zipfile.ZipFile(io.BytesIO(b"".join(chunks)))
        assert bundle.testzip() is None
        return {name: bundle.read(name) for name in bundle.namelist()}

    def activate(self, request):
        return self.app.Activate(request).receipt

    def used(self, license):
        """How many seats are in use."""
        request = license_pb2.GetLicenseRequest(license_key=license.license_key, purpose=1)
        return self.staff["support"].GetLicense(request).license.used

    def check(self, receipt):
        return self.app.Check(activation_pb2.CheckRequest(receipt=receipt)).standing

    def renew(self, receipt):
        return self.app.Renew(activation_pb2.RenewRequest(receipt=receipt)).receipt

    def jwks(self):
        return self.app.GetSigningKeys(activation_pb2.GetSigningKeysRequest()).jwks


def activation(license, **fields):
    """A request to activate a license on another device."""
    request = {
        "email": EMAIL,
        "license_key": license.license_key,
        "nonce": os.urandom(16),
        "binding": os.urandom(32),
    }
    return activation_pb2.ActivateRequest(**request | fields)


class Refusal(NamedTuple):
    code: grpc.StatusCode
    reason: str
    metadata: dict
    fields: set
    message: str
    details: bytes  # `google.rpc.Status` as it came


def refusal(call, request):
    """What a call that must fail is told. Its details must be of the documented form."""
    with pytest.raises(grpc.RpcError) as raised:
        answer = call(request)
        if hasattr(answer, "__next__"):
            list(answer)
    error = raised.value
    status = rpc_status.from_call(error)
    if status is None:
        return Refusal(error.code(), "", {}, set(), error.details(), b"")
    info, malformed = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        assert detail.Unpack(info) or detail.Unpack(malformed), detail.type_url
    assert info.domain == "countersign.v1"
    return Refusal(
        error.code(),
        info.reason,
        dict(info.metadata),
        {violation.field for violation in malformed.field_violations},
        error.details(),
        dict(error.trailing_metadata())["grpc-status-details-bin"],
    )
