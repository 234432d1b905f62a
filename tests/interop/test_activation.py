"""An app activates, retries, renews, checks and deactivates."""

import grpc
import pytest

from countersign.v1 import activation_pb2 as v1
from support import activation, refusal

INVALID = grpc.StatusCode.INVALID_ARGUMENT
FAILED = grpc.StatusCode.FAILED_PRECONDITION
# Well formed, and never issued.
UNISSUED = "00000-00000-00000-00000-000150"


@pytest.fixture
def license(server):
    return server.issue()


def test_an_app_activates_over_tls(server, license):
    receipt = server.activate(activation(license))
    assert receipt.count(".") == 2
    assert server.used(license) == 1
    assert server.check(receipt) == v1.STANDING_GOOD


def test_a_retry_takes_no_seat(server, license):
    request = activation(license)
    receipt = server.activate(request)
    assert [server.activate(request) for _ in range(3)] == [receipt] * 3
    assert server.used(license) == 1


def test_retries_at_once_take_one_seat_and_get_one_receipt(server, license):
    request = activation(license)
    calls = [server.app.Activate.future(request) for _ in range(50)]
    assert len({call.result().receipt for call in calls}) == 1
    assert server.used(license) == 1


def test_devices_at_once_get_as_many_seats_as_there_are(server):
    license = server.issue(seats=5)
    calls = [server.app.Activate.future(activation(license)) for _ in range(50)]
    codes = [call.code() for call in calls]
    assert codes.count(grpc.StatusCode.OK) == 5
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 45
    assert server.used(license) == 5


def test_a_full_license_refuses_and_still_answers_retries(server, license):
    requests = [activation(license) for _ in range(2)]
    receipts = [server.activate(request) for request in requests]
    refused = refusal(server.app.Activate, activation(license))
    assert refused[:2] == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SEATS_EXHAUSTED")
    assert refused.metadata == {"seats": "2", "used": "2"}
    assert [server.activate(request) for request in requests] == receipts


def test_a_nonce_is_good_for_one_license(server, license):
    request = activation(license)
    server.activate(request)
    request.license_key = server.issue().license_key
    refused = refusal(server.app.Activate, request)
    assert refused[:2] == (grpc.StatusCode.ALREADY_EXISTS, "NONCE_REUSED")


def test_a_wrong_key_and_a_wrong_address_are_one_answer(server, license):
    other = server.issue(email="eve@example.com")
    refused = [
        refusal(server.app.Activate, activation(license, **wrong))
        for wrong in (
            {"license_key": UNISSUED},
            {"license_key": other.license_key},
            {"email": "eve@example.com"},
            {"email": "nobody@example.com"},
            {"email": "nobody@example.com", "license_key": UNISSUED},
        )
    ]
    assert refused == refused[:1] * 5
    assert refused[0][:2] == (grpc.StatusCode.NOT_FOUND, "LICENSE_NOT_FOUND")


@pytest.mark.parametrize("place", [0, 12, -1])
def test_a_typing_error_in_a_key_is_told_before_any_lookup(server, license, place):
    typed = list(license.license_key.replace("-", ""))
    typed[place] = "3" if typed[place] == "2" else "2"
    refused = refusal(server.app.Activate, activation(license, license_key="".join(typed)))
    assert refused[:2] == (INVALID, "INVALID_FIELD")
    assert refused.fields == {"license_key"}


MALFORMED = {
    "email": [" ", "ada", "ada@", "@example.com", "a da@example.com", "ada@exam_ple.com"]
    + ["a\0da@example.com", "ada@exam\0ple.com", "a" * 65 + "@example.com"]
    + ["ada@" + "example." * 40 + "com"],
    "license_key": ["", "-", "0" * 25, "0" * 27, "0" * 10_000, "ключ", "0\0" * 13, "\u0660" * 26],
    "nonce": [b"", b"\1" * 15, b"\1" * 17, b"\1" * 10_000],
    "binding": [b"", b"\1" * 31, b"\1" * 33, b"\1" * 64],
}


@pytest.mark.parametrize(
    "field, value",
    [
        pytest.param(field, value, id=f"{field}-{number}")
        for field, values in MALFORMED.items()
        for number, value in enumerate(values)
    ],
)
def test_a_malformed_field_is_named(server, license, field, value):
    refused = refusal(server.app.Activate, activation(license, **{field: value}))
    assert refused[:2] == (INVALID, "INVALID_FIELD")
    assert refused.fields == {field}


def test_all_malformed_fields_are_named_at_once(server):
    refused = refusal(server.app.Activate, v1.ActivateRequest(email="ada"))
    assert refused.fields == set(MALFORMED)


def test_a_huge_message_is_refused(server, license):
    refused = refusal(server.app.Activate, activation(license, email="a" * (1 << 20)))
    assert refused.code == grpc.StatusCode.OUT_OF_RANGE
    server.activate(activation(license))


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"\x0a\x03a\xff@", id="not-utf-8"),
        pytest.param(b"\x0a\x7fada", id="cut-off"),
        pytest.param(b"\x08\x01", id="number-for-text"),
        pytest.param(b"\xff" * 16, id="no-message"),
    ],
)
def test_bytes_that_are_no_request_are_the_callers_mistake(server, message):
    activate = server.app.channel.unary_unary("/countersign.v1.ActivationService/Activate")
    assert refusal(activate, message).code == INVALID


def test_a_suspended_license_rests_until_it_is_reinstated(server, license):
    request = activation(license)
    receipt = server.activate(request)
    server.change("Suspend", license)
    for asked in (request, activation(license)):
        assert refusal(server.app.Activate, asked)[:2] == (FAILED, "LICENSE_SUSPENDED")
    assert server.check(receipt) == v1.STANDING_SUSPENDED
    server.change("Reinstate", license)
    assert server.check(receipt) == v1.STANDING_GOOD
    assert server.activate(request) == receipt


def test_a_revoked_license_stays_revoked(server, license):
    request = activation(license)
    receipt = server.activate(request)
    server.change("Revoke", license)
    server.change("Revoke", license)
    assert refusal(server.app.Activate, request)[:2] == (FAILED, "LICENSE_REVOKED")
    refused = refusal(lambda what: server.change(what, license), "Reinstate")
    assert refused[:2] == (FAILED, "LICENSE_REVOKED")
    assert server.check(receipt) == v1.STANDING_REVOKED


def test_a_deactivated_device_frees_its_seat_and_cannot_retry(server, license):
    request = activation(license)
    receipt = server.activate(request)
    for _ in range(2):
        server.app.Deactivate(v1.DeactivateRequest(receipt=receipt))
        assert server.used(license) == 0
        assert server.check(receipt) == v1.STANDING_DEACTIVATED
    assert refusal(server.app.Activate, request)[:2] == (FAILED, "ACTIVATION_ENDED")


def test_a_receipt_without_end_is_not_renewed(server, license):
    receipt = server.activate(activation(license))
    refused = refusal(server.app.Renew, v1.RenewRequest(receipt=receipt))
    assert refused[:2] == (FAILED, "RECEIPT_NOT_LEASED")


def test_what_is_no_receipt_is_refused(server, license):
    receipt = server.activate(activation(license))
    header, payload, _ = receipt.split(".")
    for text in ("", "a.b.c", f"{header}.{payload}.", f"{receipt}=", receipt * 10, "ключ"):
        for call, request in (
            (server.app.Renew, v1.RenewRequest),
            (server.app.Check, v1.CheckRequest),
            (server.app.Deactivate, v1.DeactivateRequest),
        ):
            refused = refusal(call, request(receipt=text))
            assert refused[:2] == (INVALID, "RECEIPT_INVALID")
            assert refused.fields == {"receipt"}
