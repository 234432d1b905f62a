"""Promise: who got a person's data is told when it is put right or erased, until they have heard it;
and is named in the export."""

import base64
import http.server
import json
import os
import queue
import ssl
import threading

import grpc
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from countersign.v1 import privacy_pb2
from support import Server, refusal

NOT_FOUND = grpc.StatusCode.NOT_FOUND


class Hook:
    """A recipient's end: answers with the next status of `answers`, then with 204."""

    def __init__(self, server, port=0):
        self.told = queue.Queue()
        self.answers = []
        told, answers = self.told, self.answers

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                status = answers.pop(0) if answers else 204
                told.put((self.path, dict(self.headers), body, status))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # The development certificate is for localhost, and stands in for a recipient's.
        tls.load_cert_chain(server / "tls/server.pem", server / "tls/server.key")
        self.http.socket = tls.wrap_socket(self.http.socket, server_side=True)
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def next(self):
        return self.told.get(timeout=60)

    def close(self):
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def told(tmp_path):
    """A server that tells ZenDesk by webhook, and the others not; and ZenDesk's end."""
    server = Server(tmp_path / "data")
    server.stop()
    hook = Hook(server.directory)
    secret = "whsec_" + base64.b64encode(os.urandom(32)).decode()
    (server.directory / "keys/zendesk.webhook").write_text(secret + "\n")
    (server.directory / "keys/zendesk.webhook").chmod(0o600)
    with open(server.directory / "countersign.toml", "a") as config:
        config.write(
            f'\n[[webhook]]\nrecipient = "ZenDesk"\nurl = "https://localhost:{hook.port}/gdpr?a=b"\n'
            'secret = "keys/zendesk.webhook"\nca = "tls/server-ca.pem"\n'
        )
    server.start()
    yield server, hook, secret
    server.stop()
    hook.close()


def verified(message, secret):
    path, headers, body, _ = message
    assert path == "/gdpr?a=b" and headers["content-type"] == "application/json"
    lower = {name.lower(): value for name, value in headers.items()}
    payload = Webhook(secret).verify(body, lower)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body.replace(b"example", b"exampel"), lower)
    return lower["webhook-id"], payload


def erasure(server, erased):
    request = privacy_pb2.GetErasureRequest(erasure_id=erased.erasure_id)
    return server.staff["privacy"].GetErasure(request).erasure


def waits_for(server, count):
    """Until so many notices wait: the server notes a delivery after it was answered."""
    for _ in range(600):
        notices = server.notices()
        if len(notices) == count:
            return notices
        threading.Event().wait(0.05)
    raise AssertionError(notices)


def test_a_recipient_is_told_of_an_erasure_until_they_have_heard_it(told):
    server, hook, secret = told
    email = "ada@example.com"
    server.issue(email=email)
    server.disclose(email, "ZenDesk")
    server.disclose(email, "ZenDesk")
    hook.answers += [500]
    erased = server.erase(email, wait=True)
    first = hook.next()
    assert first[3] == 500
    assert not erased.certificate and "ZenDesk" in " ".join(erased.remains)
    # The next try is made by another process, and is the same message.
    server.process.kill()
    server.process.wait(30)
    server.process.stdout.close()
    server.start()
    second = hook.next()
    ids = {verified(message, secret)[0] for message in (first, second)}
    assert len(ids) == 1 and ids.pop().startswith("msg_")
    _, payload = verified(second, secret)
    assert payload["type"] == "person.erased" and payload["data"] == {"email": email}
    waits_for(server, 0)
    # Nobody else got data, so that after the next epoch it is final.
    server.issue(email="next@example.com")
    server.erase("next@example.com", wait=True)
    final = erasure(server, erased)
    assert final.certificate and not final.remains
    assert hook.told.empty()


def test_a_rectification_is_told_and_shown(told):
    server, hook, secret = told
    old, new = "grace@example.com", "grace.h@example.com"
    server.issue(email=old)
    server.disclose(old, "ZenDesk")
    server.disclose(old, "MailChimp")
    request_id = server.ready(old, privacy_pb2.REQUEST_KIND_RECTIFICATION)
    rectify = privacy_pb2.RectifySubjectRequest(request_id=request_id, email=new)
    server.staff["privacy"].RectifySubject(rectify)
    _, payload = verified(hook.next(), secret)
    assert payload["type"] == "person.rectified"
    assert payload["data"] == {"email": old, "new_email": new}
    (by_hand,) = waits_for(server, 1)
    assert (by_hand.recipient, by_hand.email, by_hand.new_email) == ("MailChimp", old, new)
    assert not by_hand.has_webhook and not by_hand.erased

    def state():
        data = json.loads(server.export(new)["data.json"])
        return {each["recipient"]: each["state"] for each in data["notices"]}, data

    states, data = state()
    assert states == {"ZenDesk": "delivered", "MailChimp": "waiting"}
    got = {each["name"]: len(each["got_data_at"]) for each in data["recipients"]}
    assert got == {"FastSpring": 0, "ZenDesk": 1, "MailChimp": 1}
    assert [each["recipient"] for each in data["disclosures"]] == ["ZenDesk", "MailChimp"]
    settle = privacy_pb2.SettleNoticeRequest(notice_id=by_hand.notice_id)
    server.staff["privacy"].SettleNotice(settle)
    assert state()[0] == {"ZenDesk": "delivered", "MailChimp": "by_hand"}
    again = refusal(server.staff["privacy"].SettleNotice, settle)
    assert again[:2] == (NOT_FOUND, "NOTICE_NOT_FOUND")


def test_only_who_the_policy_names_gets_only_what_it_says(told):
    server, _, _ = told
    server.issue(email="joan@example.com")
    record = server.staff["support"].RecordDisclosure
    request = privacy_pb2.RecordDisclosureRequest(email="joan@example.com", recipient="Nobody Ltd")
    assert refusal(record, request)[:2] == (NOT_FOUND, "RECIPIENT_UNKNOWN")
    request.recipient = "MailChimp"
    request.categories.append("license")
    assert refusal(record, request).reason == "RECIPIENT_MAY_NOT_HAVE"
    request.categories[:] = ["payment"]
    assert refusal(record, request).fields == {"categories"}
    request.categories[:] = ["email"]
    record(request)
