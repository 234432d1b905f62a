"""Foreign libraries verify receipts, and a receipt states what the design says."""

import base64
import hashlib
import json

import jwt
import pytest
from joserfc.jwk import OKPKey

from countersign.v1 import activation_pb2 as v1
from support import activation, refusal
from verifiers import ISSUER, VERIFIERS, Refused, pyjwt

MONTH_SECONDS = 30 * 24 * 60 * 60
BASE64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def base64url(octets):
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


@pytest.fixture(scope="module")
def receipt(server):
    return server.activate(activation(server.issue()))


@pytest.fixture(scope="module")
def leased(server):
    return server.activate(activation(server.issue(product="Leased")))


@pytest.mark.parametrize("verify", VERIFIERS)
def test_a_receipt_verifies_elsewhere(server, receipt, leased, verify):
    assert "exp" not in verify(receipt, server.jwks(), "App")
    assert "exp" in verify(leased, server.jwks(), "Leased")
    with pytest.raises(Refused):
        verify(receipt, server.jwks(), "Leased")


@pytest.mark.parametrize("part", [0, 1, 2], ids=["header", "payload", "signature"])
@pytest.mark.parametrize("verify", VERIFIERS)
def test_a_changed_character_is_refused(server, receipt, verify, part):
    parts = receipt.split(".")
    middle = len(parts[part]) // 2
    other = BASE64URL[BASE64URL.index(parts[part][middle]) ^ 1]
    parts[part] = parts[part][:middle] + other + parts[part][middle + 1 :]
    with pytest.raises(Refused):
        verify(".".join(parts), server.jwks(), "App")
    refused = refusal(server.app.Check, v1.CheckRequest(receipt=".".join(parts)))
    assert refused.reason == "RECEIPT_INVALID"


def test_a_receipt_states_the_activation_and_nothing_of_the_person(server):
    device = OKPKey.generate_key("Ed25519").thumbprint()
    binding = base64.urlsafe_b64decode(device + "=")
    license = server.issue(seats=7, updates_until={"seconds": 4_000_000_000})
    request = activation(license, binding=binding)
    receipt = server.activate(request)
    claims = pyjwt(receipt, server.jwks(), "App")

    issued_at, record = claims.pop("iat"), claims.pop("record")
    assert issued_at >= license.issued_at.seconds
    assert len(record) == 43
    named = b"countersign/activation/v1" + request.nonce + request.binding
    symbols = license.license_key.replace("-", "").encode()
    thumbprint = hashlib.sha256(b"countersign/license-key/v1" + symbols).digest()
    assert claims == {
        "iss": ISSUER,
        "aud": "App",
        "jti": base64url(hashlib.sha256(named).digest()[:16]),
        "cnf": {"jkt": device},
        "license": {
            "key_thumbprint": base64url(thumbprint),
            "seats": 7,
            "updates_until": 4_000_000_000,
        },
    }
    header = jwt.get_unverified_header(receipt)
    (key,) = json.loads(server.jwks())["keys"]
    assert header == {"alg": "EdDSA", "typ": "activation+jwt", "kid": key["kid"]}


def test_published_keys_are_public_and_named_by_thumbprint(server):
    assert json.loads(server.jwks()) == json.loads(server.command("keys", "show"))
    for key in json.loads(server.jwks())["keys"]:
        assert key.keys() == {"kty", "crv", "x", "kid", "alg", "use"}
        assert OKPKey.import_key(key).thumbprint() == key["kid"]


def test_a_lease_is_renewed_for_the_same_activation(server, leased):
    renewed = server.renew(leased)
    old, new = (pyjwt(text, server.jwks(), "Leased") for text in (leased, renewed))
    for claims in (old, new):
        assert claims.pop("exp") == claims["iat"] + MONTH_SECONDS
    assert new.pop("iat") >= old.pop("iat")
    assert new == old
    assert server.check(renewed) == v1.STANDING_GOOD


def test_a_lease_of_a_license_that_does_not_stand_is_not_renewed(server):
    license = server.issue(product="Leased")
    receipt = server.activate(activation(license))
    request = v1.RenewRequest(receipt=receipt)
    server.change("Suspend", license)
    assert refusal(server.app.Renew, request).reason == "LICENSE_SUSPENDED"
    server.change("Reinstate", license)
    server.renew(receipt)
    server.app.Deactivate(v1.DeactivateRequest(receipt=receipt))
    assert refusal(server.app.Renew, request).reason == "ACTIVATION_ENDED"
    server.change("Revoke", license)
    assert refusal(server.app.Renew, request).reason == "LICENSE_REVOKED"


@pytest.mark.parametrize("product", ["App", "Leased"])
def test_a_rotation_keeps_receipts_and_retries(server, product):
    request = activation(server.issue(product=product))
    receipt, old_keys = server.activate(request), server.jwks()
    server.stop()
    server.command("keys", "rotate")
    server.start()

    for verify in VERIFIERS:
        assert verify(receipt, server.jwks(), product)["jti"]
    assert server.activate(request) == receipt
    assert server.check(receipt) == v1.STANDING_GOOD

    fresh = server.activate(activation(server.issue(product=product)))
    kids = [jwt.get_unverified_header(text)["kid"] for text in (receipt, fresh)]
    assert kids[0] != kids[1]
    assert {key["kid"] for key in json.loads(server.jwks())["keys"]} >= set(kids)
    assert pyjwt(fresh, server.jwks(), product)
    with pytest.raises(Refused):
        pyjwt(fresh, old_keys, product)
    if product == "Leased":
        assert jwt.get_unverified_header(server.renew(receipt))["kid"] == kids[1]
