"""Staff: who may call what, what they see, and that the person sees it too."""

import base64
import json
import os
from datetime import datetime

import grpc
import pytest

from countersign.v1 import access_pb2, activation_pb2, history_pb2, license_pb2, privacy_pb2
from countersign.v1 import statistics_pb2, transparency_pb2
from support import EMAIL, ROLES, activation, refusal
from verifiers import pyjwt

INVALID = grpc.StatusCode.INVALID_ARGUMENT
DENIED = grpc.StatusCode.PERMISSION_DENIED
PURPOSE = access_pb2.PURPOSE_CUSTOMER_SUPPORT
ACCESS = access_pb2.PURPOSE_ACCESS_REQUEST

READERS = {"issuer", "support", "privacy"}
MAY_CALL = {
    "IssueLicense": {"issuer"},
    "SuspendLicense": {"issuer"},
    "ReinstateLicense": {"issuer"},
    "RevokeLicense": {"issuer"},
    "GetLicense": READERS,
    "FreeSeat": READERS,
    "GetHistory": {"support", "privacy"},
    "ListActivations": {"support", "privacy"},
    "ExportSubject": {"privacy"},
    "OpenRequest": {"privacy"},
    "ListRequests": {"privacy"},
    "GetRequest": {"privacy"},
    "IssueVerificationCode": {"privacy"},
    "VerifyIdentity": {"privacy"},
    "ApproveRequest": {"privacy"},
    "ExtendRequest": {"privacy"},
    "RefuseRequest": {"privacy"},
    "FulfilRequest": {"privacy"},
    "RectifySubject": {"privacy"},
    "EraseSubject": {"privacy"},
    "GetErasure": {"privacy"},
    "ListErasures": {"privacy"},
    "SetRestriction": {"privacy"},
    "SweepRetention": {"privacy"},
    "RecordDisclosure": READERS,
    "ListNotices": {"privacy"},
    "SettleNotice": {"privacy"},
    "GetStatistics": {"analytics"},
    "GetCheckpoint": set(ROLES),
    "GetInclusionProof": set(ROLES),
    "GetConsistencyProof": set(ROLES),
}
PATHS = {
    method.name: f"/{service.full_name}/{method.name}"
    for file in (license_pb2, history_pb2, privacy_pb2, statistics_pb2, transparency_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def activation_id(server, receipt):
    encoded = pyjwt(receipt, server.jwks(), "App")["jti"]
    return base64.urlsafe_b64decode(encoded + "==")


@pytest.fixture(scope="module")
def requests(server):
    """A request for each RPC that a member of staff with the right role is answered."""
    license = server.issue()
    key = {"license_key": license.license_key}
    freed = activation_id(server, server.activate(activation(license)))
    return {
        "IssueLicense": license_pb2.IssueLicenseRequest(email=EMAIL, product="App", seats=1),
        "SuspendLicense": license_pb2.SuspendLicenseRequest(**key),
        "ReinstateLicense": license_pb2.ReinstateLicenseRequest(**key),
        "RevokeLicense": license_pb2.RevokeLicenseRequest(license_key=server.issue().license_key),
        "GetLicense": license_pb2.GetLicenseRequest(**key, purpose=PURPOSE),
        "FreeSeat": license_pb2.FreeSeatRequest(activation_id=freed),
        "GetHistory": history_pb2.GetHistoryRequest(**key, purpose=PURPOSE),
        "ListActivations": history_pb2.ListActivationsRequest(**key, purpose=PURPOSE),
        "ExportSubject": privacy_pb2.ExportSubjectRequest(email=EMAIL, purpose=ACCESS),
        "GetCheckpoint": transparency_pb2.GetCheckpointRequest(fresh=True),
        "GetInclusionProof": transparency_pb2.GetInclusionProofRequest(
            receipt=server.activate(activation(license))
        ),
        "GetConsistencyProof": transparency_pb2.GetConsistencyProofRequest(size=1),
    } | privacy_requests(server)


def privacy_requests(server):
    """Each about a person of its own."""

    def person(rpc):
        email = f"{rpc}@example.com"
        server.issue(email=email)
        return email

    def opened(rpc, kind, ready=True, **fields):
        number = privacy_pb2.RequestKind.Value(f"REQUEST_KIND_{kind}")
        request_id = (server.ready if ready else server.open)(person(rpc), number)
        request = getattr(privacy_pb2, f"{rpc}Request")
        return {rpc: request(request_id=request_id, **fields)}

    erasure = server.erase(person("GetErasure"))
    told = person("SettleNotice")
    server.disclose(told, "ZenDesk")
    server.erase(told)
    (waiting,) = server.notices()
    verified = opened("VerifyIdentity", "ACCESS", ready=False)
    license = server.issue(email="VerifyIdentity@example.com")
    receipt = server.activate(activation(license, email="VerifyIdentity@example.com"))
    verified["VerifyIdentity"].receipt = receipt
    approved = server.open(person("ApproveRequest"), 1, by="privacy-2")
    return {
        "OpenRequest": privacy_pb2.OpenRequestRequest(email=person("OpenRequest"), kind=1),
        "ListRequests": privacy_pb2.ListRequestsRequest(),
        "ApproveRequest": privacy_pb2.ApproveRequestRequest(request_id=approved),
        "GetErasure": privacy_pb2.GetErasureRequest(erasure_id=erasure.erasure_id),
        "ListErasures": privacy_pb2.ListErasuresRequest(),
        "SetRestriction": privacy_pb2.SetRestrictionRequest(email=person("SetRestriction"), kind=1),
        "SweepRetention": privacy_pb2.SweepRetentionRequest(),
        "RecordDisclosure": privacy_pb2.RecordDisclosureRequest(
            email=person("RecordDisclosure"), recipient="FastSpring"
        ),
        "ListNotices": privacy_pb2.ListNoticesRequest(),
        "SettleNotice": privacy_pb2.SettleNoticeRequest(notice_id=waiting.notice_id),
        "GetStatistics": statistics_pb2.GetStatisticsRequest(),
        **verified,
        **opened("GetRequest", "ACCESS"),
        **opened("IssueVerificationCode", "ACCESS"),
        **opened("ExtendRequest", "ACCESS", reason="many"),
        **opened("RefuseRequest", "OBJECTION", reason="unfounded", evidence="letter 7"),
        **opened("FulfilRequest", "RESTRICTION"),
        **opened("RectifySubject", "RECTIFICATION", email="right@example.com"),
        **opened("EraseSubject", "ERASURE"),
    }


def test_each_staff_rpc_has_its_roles_here():
    assert MAY_CALL.keys() == PATHS.keys()


@pytest.mark.parametrize("rpc", MAY_CALL)
@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_call_what_is_its_own(server, requests, role, rpc):
    call = getattr(server.staff[role], rpc)
    if role in MAY_CALL[rpc]:
        request = requests[rpc]
        if rpc == "GetLicense":
            issuing = access_pb2.PURPOSE_LICENSE_ADMINISTRATION
            request.purpose = issuing if role == "issuer" else PURPOSE
        answer = call(request)
        # A stream is called when it is read.
        _ = list(answer) if hasattr(answer, "__next__") else answer
        return
    raw = server.staff[role].channel.unary_unary(PATHS[rpc])
    for refused in (refusal(call, requests[rpc]), refusal(raw, b""), refusal(raw, b"\xff" * 9)):
        assert refused[:2] == (DENIED, "ROLE_MISSING")


@pytest.mark.parametrize("rpc", MAY_CALL)
def test_staff_services_are_not_on_the_public_port(server, requests, rpc):
    refused = refusal(getattr(server.app, rpc), requests[rpc])
    assert refused.code == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("purpose", [access_pb2.PURPOSE_UNSPECIFIED, 99])
@pytest.mark.parametrize("rpc", ["GetLicense", "GetHistory", "ListActivations", "ExportSubject"])
def test_nobody_reads_without_a_purpose(server, requests, rpc, purpose):
    request = type(requests[rpc])()
    request.CopyFrom(requests[rpc])
    request.purpose = purpose
    refused = refusal(getattr(server.staff["privacy"], rpc), request)
    assert refused[:2] == (INVALID, "INVALID_FIELD")
    assert refused.fields == {"purpose"}


def test_staff_free_a_seat_by_activation_id(server):
    license = server.issue(seats=1)
    receipt = server.activate(activation(license))
    request = license_pb2.FreeSeatRequest(activation_id=activation_id(server, receipt))
    for role in sorted(READERS):
        assert server.staff[role].FreeSeat(request).license.used == 0
    assert server.check(receipt) == activation_pb2.STANDING_DEACTIVATED
    server.activate(activation(license))
    request.activation_id = os.urandom(16)
    refused = refusal(server.staff["support"].FreeSeat, request)
    assert refused[:2] == (grpc.StatusCode.NOT_FOUND, "ACTIVATION_NOT_FOUND")


def history(server, **who):
    request = history_pb2.GetHistoryRequest(**who, purpose=PURPOSE)
    return server.staff["support"].GetHistory(request)


def pages(server, license, page_size):
    request = history_pb2.ListActivationsRequest(
        license_key=license.license_key, purpose=PURPOSE, page_size=page_size
    )
    answers = server.staff["support"].ListActivations(request)
    return [[each.activation_id for each in answer.activations] for answer in answers]


def test_a_history_shows_each_activation(server):
    email = "Grace@Example.com"
    licenses = [server.issue(email=email, product=product) for product in ("App", "Other")]
    requests = [activation(licenses[0], email=email) for _ in range(2)]
    receipts = [server.activate(request) for request in requests]
    ids = [activation_id(server, receipt) for receipt in receipts]
    server.app.Deactivate(activation_pb2.DeactivateRequest(receipt=receipts[0]))

    shown = history(server, email=email.lower())
    assert shown == history(server, license_key=licenses[1].license_key)
    assert shown.email == email
    assert [each.license.product for each in shown.licenses] == ["App", "Other"]
    newest, oldest = shown.licenses[0].activations
    assert [newest.activation_id, oldest.activation_id] == ids[::-1]
    assert oldest.HasField("deactivated_at") and not newest.HasField("deactivated_at")
    assert [each.activations_total for each in shown.licenses] == [2, 0]
    assert shown.licenses[0].license.used == 1
    assert pages(server, licenses[0], 1) == [[id] for id in ids]


def test_a_long_history_is_shown_in_part_and_listed_and_exported_whole(server):
    email = "joan@example.com"
    license = server.issue(email=email, seats=500)
    asked = [activation(license, email=email) for _ in range(250)]
    calls = [server.app.Activate.future(request) for request in asked]
    ids = {activation_id(server, call.result().receipt) for call in calls}

    (shown,) = history(server, email=email).licenses
    assert (len(shown.activations), shown.activations_total) == (100, 250)
    listed = pages(server, license, 0)
    assert [len(page) for page in listed] == [100, 100, 50]
    flat = sum(listed, [])
    assert set(flat) == ids
    assert [each.activation_id for each in shown.activations] == flat[:-101:-1]
    assert [len(page) for page in pages(server, license, 1000)] == [250]

    document = json.loads(server.export(email)["data.json"])
    exported = [each["activation_id"] for each in document["licenses"][0]["activations"]]
    assert [base64.urlsafe_b64decode(id + "==") for id in exported] == flat


def test_an_export_holds_each_license_activation_and_access_and_no_device(server):
    email = "mary@example.com"
    licenses = [server.issue(email=email, product=product) for product in ("Leased", "App")]
    asked = [activation(license, email=email) for license in licenses]
    leased, receipt = map(server.activate, asked)
    server.renew(leased)
    server.check(receipt)
    server.app.Deactivate(activation_pb2.DeactivateRequest(receipt=receipt))
    server.change("Suspend", licenses[0])
    history(server, email=email)
    pages(server, licenses[0], 0)
    server.used(licenses[1])
    text = server.export(email)["data.json"]
    document = json.loads(text)

    assert document["subject"]["email"]["value"] == email
    shown = document["licenses"]
    assert [each["license_key"] for each in shown] == [each.license_key for each in licenses]
    assert [each["status"] for each in shown] == ["suspended", "active"]
    assert [len(each["activations"]) for each in shown] == [1, 1]
    (ended,) = shown[1]["activations"]
    assert base64.urlsafe_b64decode(ended["activation_id"] + "==") == activation_id(server, receipt)
    assert ended["deactivated_by"] == "app"
    begin, end = (
        datetime.fromisoformat(ended[f"{what}_at"]) for what in ("activated", "deactivated")
    )
    assert begin <= end
    accesses = [
        tuple(each[part] for part in ("role", "purpose", "operation"))
        for each in document["accesses"]
    ]
    assert b"dev-" not in text, "the names of staff are sealed"
    issuer = ("issuer", "license_administration")
    support = ("support", "customer_support")
    assert accesses == [
        (*issuer, "IssueLicense"),
        (*issuer, "IssueLicense"),
        (*issuer, "SuspendLicense"),
        (*support, "GetHistory"),
        (*support, "ListActivations"),
        (*support, "GetLicense"),
        ("privacy", "access_request", "ExportSubject"),
    ]
    # A renewal and a check left nothing.
    recorded = {}
    for each in document["completeness"]:
        assert each["exported"] == each["in_log"] == sum(each["records"].values())
        recorded |= each["records"]
    assert recorded == {
        "email_recorded": 1,
        "license_issued": 2,
        "license_changed": 1,
        "activated": 2,
        "deactivated": 1,
        "access_recorded": 7,
    }
    for secret in (each for request in asked for each in (request.nonce, request.binding)):
        for form in (secret.hex().encode(), base64.urlsafe_b64encode(secret).rstrip(b"=")):
            assert form not in text
