"""Promise: the answer to an access request is whole, readable by the person it is about and by
machines, and its signature verifies elsewhere."""

import csv
import hashlib
import io
import json
import os
import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import joserfc.jwk
import joserfc.jws
import jsonschema
import jwt
import pytest

from countersign.v1 import activation_pb2, history_pb2, privacy_pb2
from support import Server, activation, refusal

EMAIL = "ada@example.com"
NASTY = "Ada <b>&amp; \"Co\" 'x' é"
FILES = ["report.html", "data.json", "data.schema.json", "activations.csv"]
OUT = Path(os.environ["INTEROP_OUT"])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server that stores names, and where Ada has done all that leaves something behind."""
    server = Server(tmp_path_factory.mktemp("export") / "data")
    server.stop()
    policy = server.directory / "policy.toml"
    policy.write_text(policy.read_text().replace("enabled = false", "enabled = true"))
    server.start()
    license = server.issue(email=EMAIL, name=NASTY, seats=300)
    ended = server.issue(email=EMAIL, product="Old App")
    receipts = [server.activate(activation(license, email=EMAIL)) for _ in range(130)]
    for receipt in receipts[::2]:
        server.app.Deactivate(activation_pb2.DeactivateRequest(receipt=receipt))
    server.activate(activation(ended, email=EMAIL))
    server.change("Suspend", ended)
    server.change("Revoke", ended)
    request = history_pb2.GetHistoryRequest(email=EMAIL, purpose=1)
    server.staff["support"].GetHistory(request)
    refused = server.ready(EMAIL, privacy_pb2.REQUEST_KIND_OBJECTION)
    note = {"reason": "the license needs it", "evidence": "letter <7>"}
    refuse = privacy_pb2.RefuseRequestRequest(request_id=refused, **note)
    server.staff["privacy"].RefuseRequest(refuse)
    extend = server.open(EMAIL, privacy_pb2.REQUEST_KIND_PORTABILITY)
    extension = privacy_pb2.ExtendRequestRequest(request_id=extend, reason="many systems")
    server.staff["privacy"].ExtendRequest(extension)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def bundle(server):
    request_id = server.ready(EMAIL, privacy_pb2.REQUEST_KIND_ACCESS)
    return server.export(None, request_id=request_id)


@pytest.fixture(scope="module")
def data(bundle):
    return json.loads(bundle["data.json"])


def schema_errors(data, schema):
    checker = jsonschema.FormatChecker()
    jsonschema.Draft202012Validator.check_schema(schema)
    return list(jsonschema.Draft202012Validator(schema, format_checker=checker).iter_errors(data))


def test_the_data_keeps_to_its_schema(bundle, data):
    schema = json.loads(bundle["data.schema.json"])
    published = Path(__file__).parents[2] / "src/export/schema.json"
    assert schema == json.loads(published.read_text())
    assert schema_errors(data, schema) == []
    # The schema can refuse.
    for wrong in ({**data, "more": 1}, {**data, "generated_at": "yesterday"}):
        assert schema_errors(wrong, schema)


def test_the_manifest_has_every_sum_and_its_signature_verifies_elsewhere(server, bundle):
    assert list(bundle) == [*FILES, "manifest.json", "manifest.jws"]
    manifest = json.loads(bundle["manifest.json"])
    assert [each["name"] for each in manifest["files"]] == FILES
    for each in manifest["files"]:
        assert each["sha256"] == hashlib.sha256(bundle[each["name"]]).hexdigest()
        assert each["bytes"] == len(bundle[each["name"]])
    signed = bundle["manifest.jws"].decode()
    header = jwt.get_unverified_header(signed)
    assert header["typ"] == "export-manifest+jwt"
    key = jwt.PyJWKSet.from_json(server.jwks())[header["kid"]].key
    assert jwt.decode(signed, key, ["EdDSA"]) == manifest
    keys = joserfc.jwk.KeySet.import_key_set(json.loads(server.jwks()))
    payload = joserfc.jws.deserialize_compact(signed, keys, algorithms=["EdDSA"]).payload
    assert json.loads(payload) == manifest
    changed = signed[:-6] + ("AAAAAA" if signed[-6:] != "AAAAAA" else "BBBBBB")
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(changed, key, ["EdDSA"])


def test_it_holds_what_the_law_asks_for(data):
    assert data["data_held"] is True
    assert data["controller"].keys() == {"name", "contact", "country", "supervisory_authority"}
    # GDPR Art. 15(1)(a), (b), (d), (g); FADP Art. 25(2)(b) to (e).
    for category in data["categories"]:
        for part in ("what", "purpose", "source", "legal_basis", "retained_from"):
            assert category[part], part
        assert category["retention_days"] > 0
    # (c), (2); FADP Art. 25(2)(g).
    assert [each["name"] for each in data["recipients"]] == ["FastSpring", "ZenDesk", "MailChimp"]
    assert all(each["country"] and each["safeguard"] for each in data["recipients"])
    # (e), (f).
    rights = {each["name"] for each in data["rights"]}
    assert rights >= {"rectification", "erasure", "restriction", "objection", "complaint"}
    # (h); FADP Art. 25(2)(f).
    assert data["automated_decisions"]["exist"] is False


def test_each_datum_has_its_end(data):
    assert data["subject"]["email"]["value"] == EMAIL
    assert data["subject"]["name"]["value"] == NASTY
    app, old = data["licenses"]
    assert [each["status"] for each in old["changes"]] == ["suspended", "revoked"]
    # The seats of a year are kept together, and some are held; and a request is open.
    for each in (app, old, *app["activations"], *old["activations"], *data["accesses"]):
        assert each["kept_until"] is None


def test_what_has_an_end_states_it(server):
    email = "hedy@example.com"
    license = server.issue(email=email)
    receipt = server.activate(activation(license, email=email))
    server.app.Deactivate(activation_pb2.DeactivateRequest(receipt=receipt))
    server.change("Revoke", license)
    bundle = server.export(email)
    data = json.loads(bundle["data.json"])
    assert schema_errors(data, json.loads(bundle["data.schema.json"])) == []
    year = datetime.fromisoformat(data["generated_at"]).year
    (license,) = data["licenses"]
    (activated,) = license["activations"]
    seat_end = datetime(year + 1, 1, 1, tzinfo=UTC) + timedelta(days=730)
    assert datetime.fromisoformat(activated["kept_until"]) == seat_end
    ended = datetime.fromisoformat(license["changes"][0]["at"])
    assert datetime.fromisoformat(license["kept_until"]) == ended + timedelta(days=3650)
    address = data["subject"]["email"]["kept_until"]
    assert datetime.fromisoformat(address) == ended + timedelta(days=730)
    record_end = datetime(year + 1, 1, 1, tzinfo=UTC) + timedelta(days=1095)
    for each in data["accesses"]:
        assert datetime.fromisoformat(each["kept_until"]) == record_end


def test_requests_and_accesses_are_in_it(data):
    refused, extended, answered = data["requests"]
    assert [each["kind"] for each in data["requests"]] == ["objection", "portability", "access"]
    assert [step["what"] for step in refused["steps"]] == [
        "verified_by_code",
        "approved",
        "refused",
    ]
    assert refused["steps"][-1]["reason"] == "the license needs it"
    assert refused["steps"][-1]["evidence"] == "letter <7>"
    received, due = (datetime.fromisoformat(extended[part]) for part in ("received_at", "gdpr_due"))
    assert 89 <= (due - received).days <= 92
    assert answered["steps"][0]["what"] == "verified_by_code"
    operations = [each["operation"] for each in data["accesses"]]
    assert "GetHistory" in operations and operations[-1] == "ExportSubject"


def test_it_is_complete_against_the_log(data):
    for category in data["completeness"]:
        assert category["exported"] == category["in_log"] == sum(category["records"].values())
    counted = {each["category"]: each["exported"] for each in data["completeness"]}
    assert counted["email"] == counted["name"] == 1
    assert counted["activation_time"] == 131 + 65


def test_the_table_reads_back(bundle, data):
    rows = list(csv.DictReader(io.StringIO(bundle["activations.csv"].decode(), newline="")))
    flat = [
        (license["product"], each["activation_id"], each["activated_at"], each["deactivated_at"] or "")
        for license in data["licenses"]
        for each in license["activations"]
    ]
    columns = ("product", "activation_id", "activated_at", "deactivated_at")
    assert [tuple(row[column] for column in columns) for row in rows] == flat
    assert len(rows) == 131


def browse(bundle, name):
    path = OUT / f"{name}.html"
    path.write_bytes(bundle["report.html"])
    script = OUT / "node" / "report.mjs"
    shown = subprocess.run(
        ["node", script, path, OUT / name], capture_output=True, text=True, timeout=120
    )
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout), path


def luminance(color):
    """WCAG 2.2, relative luminance."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear))


def test_the_report_reads_well_and_loads_nothing(bundle):
    found, path = browse(bundle, "report")
    assert set(found["requests"]) == {f"file://{path}"}, "no request leaves the page"
    assert found["errors"] == [] and found["scripts"] == 0
    assert found["pdfPages"] > 1
    for screen in found["screens"]:
        assert not screen["scrolls"] and screen["outside"] == [], screen
        assert screen["bars"] == 100 and screen["fontSize"] >= 16
        lighter, darker = sorted(
            (luminance(screen[part]) + 0.05 for part in ("color", "background")), reverse=True
        )
        assert lighter / darker > 7, "WCAG 2.2, AAA"
    desktop, dark, _ = found["screens"]
    assert luminance(desktop["background"]) > 0.9 and luminance(dark["background"]) < 0.1
    for text in (EMAIL, NASTY, "letter <7>", "Yes, we hold data about you", "and 31 older ones"):
        assert text in found["text"], text


def test_that_nothing_is_held_is_an_answer_too(server, data):
    bundle = server.export("nobody@example.com")
    nothing = json.loads(bundle["data.json"])
    assert nothing["data_held"] is False
    assert schema_errors(nothing, json.loads(bundle["data.schema.json"])) == []
    assert nothing["subject"] == {"email": None, "name": None}
    for part in ("licenses", "requests", "accesses", "disclosures"):
        assert nothing[part] == []
    assert nothing["categories"] == data["categories"] and nothing["rights"] == data["rights"]
    assert "nobody@" not in bundle["report.html"].decode()
    found, _ = browse(bundle, "nobody")
    assert "No, we hold no data about you" in found["text"]


def test_a_request_is_fulfilled_once_and_after_its_export(server):
    email = "grace@example.com"
    server.issue(email=email)
    staff = server.staff["privacy"]
    precondition = grpc.StatusCode.FAILED_PRECONDITION
    opened = server.open(email, privacy_pb2.REQUEST_KIND_ACCESS)
    export = privacy_pb2.ExportSubjectRequest(request_id=opened)
    refused = refusal(staff.ExportSubject, export)
    assert refused[:2] == (precondition, "IDENTITY_NOT_VERIFIED")
    ready = server.ready(email, privacy_pb2.REQUEST_KIND_ACCESS)
    fulfil = privacy_pb2.FulfilRequestRequest(request_id=ready)
    assert refusal(staff.FulfilRequest, fulfil)[:2] == (precondition, "NOT_EXPORTED")
    # One that is cut off leaves the request as it was.
    pieces = staff.ExportSubject(privacy_pb2.ExportSubjectRequest(request_id=ready))
    next(pieces)
    pieces.cancel()
    listed = staff.ListRequests(privacy_pb2.ListRequestsRequest()).requests
    assert ready in [each.request_id for each in listed]
    server.export(None, request_id=ready)
    assert staff.FulfilRequest(fulfil).request.state == privacy_pb2.REQUEST_STATE_FULFILLED
    assert refusal(staff.FulfilRequest, fulfil)[:2] == (precondition, "REQUEST_CLOSED")
    again = privacy_pb2.ExportSubjectRequest(request_id=ready)
    assert refusal(staff.ExportSubject, again)[:2] == (precondition, "REQUEST_CLOSED")
