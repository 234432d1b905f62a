"""TLS 1.3 and client certificates, health and reflection."""

import datetime
import socket
import ssl

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from countersign.v1 import license_pb2
from support import EMAIL, ROLES, Client, refusal

PORTS = ("public", "staff")
STAFF_SERVICES = {f"countersign.v1.{name}Service" for name in ("License", "History", "Privacy")}
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"  # RFC 9113, 3.4
ISSUER_URI = "countersign://staff/issuer/eve"
DAY = datetime.timedelta(days=1)
PEM = serialization.Encoding.PEM
REFUSED = grpc.StatusCode.UNAVAILABLE
ISSUE = license_pb2.IssueLicenseRequest(email=EMAIL, product="App", seats=1)


def address(server, port):
    host, number = getattr(server, f"{port}_address").rsplit(":", 1)
    return host, int(number)


def client_context(server, role=None):
    context = ssl.create_default_context(cafile=server.directory / "tls/server-ca.pem")
    context.set_alpn_protocols(["h2"])
    if role:
        files = (server.directory / f"tls/staff/{role}.{end}" for end in ("pem", "key"))
        context.load_cert_chain(*files)
    return context


def handshake(server, port, context, hello=HELLO):
    """Begins a connection, and gives the first bytes that the server sends inside TLS."""
    with socket.create_connection(address(server, port), timeout=30) as plain:
        with context.wrap_socket(plain, server_hostname="localhost") as tls:
            assert (tls.version(), tls.selected_alpn_protocol()) == ("TLSv1.3", "h2")
            tls.sendall(hello)
            return tls.recv(9)


def staff_pair(server, uris, ca="staff-ca", key=None, days=1):
    """A certificate for the staff port by the CA of that name, or in its name by another key."""
    authority = x509.load_pem_x509_certificate(server.tls(f"{ca}.pem"))
    signer = key or serialization.load_pem_private_key(server.tls(f"{ca}.key"), None)
    own = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.timezone.utc)
    names = [x509.DNSName("localhost"), *map(x509.UniformResourceIdentifier, uris)]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.subject)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 30 * DAY)
        .not_valid_after(now + days * DAY)
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.OID_CLIENT_AUTH]), critical=False)
    )
    certificate = builder.sign(signer, hashes.SHA256())
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return certificate.public_bytes(PEM), own.private_bytes(PEM, *form)


@pytest.mark.parametrize("port", PORTS)
def test_tls_1_3_is_spoken(server, port):
    assert handshake(server, port, client_context(server, "support"))[3] == 4  # SETTINGS


@pytest.mark.parametrize("port", PORTS)
def test_tls_1_2_is_refused(server, port):
    context = client_context(server, "support")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        handshake(server, port, context)


@pytest.mark.parametrize("port", PORTS)
def test_plaintext_is_refused(server, port):
    with socket.create_connection(address(server, port), timeout=30) as plain:
        plain.sendall(HELLO)
        try:
            answer = plain.recv(99)
        except ConnectionResetError:
            answer = b""
        assert answer == b"" or answer[0] == 21  # nothing, or a TLS alert
    with grpc.insecure_channel(":".join(map(str, address(server, port)))) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert refusal(health.Check, health_pb2.HealthCheckRequest()).code == REFUSED


def test_the_staff_port_is_closed_without_a_certificate(server):
    # TLS 1.3 lets a client finish before the server has judged its certificate.
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
        handshake(server, "staff", client_context(server), hello=b"")
    with server.channel(server.staff_address) as channel:
        assert refusal(Client(channel).IssueLicense, ISSUE).code == REFUSED


def test_the_staff_port_knows_its_own_ca_only(server):
    strangers_key = ec.generate_private_key(ec.SECP256R1())
    for pair in (
        staff_pair(server, [ISSUER_URI], key=strangers_key),
        staff_pair(server, [ISSUER_URI], ca="server-ca"),
        staff_pair(server, [ISSUER_URI], days=-1),
        (server.tls("server.pem"), server.tls("server.key")),
    ):
        with server.staff_channel(*pair) as channel:
            assert refusal(Client(channel).IssueLicense, ISSUE).code == REFUSED
    with server.staff_channel(*staff_pair(server, [ISSUER_URI])) as channel:
        assert Client(channel).IssueLicense(ISSUE).license.seats == 1


@pytest.mark.parametrize(
    "uris",
    [
        [],
        [ISSUER_URI, "countersign://staff/support/eve"],
        ["countersign://staff/owner/eve"],
        ["countersign://staff/issuer/"],
        ["https://example.com/staff/issuer/eve"],
    ],
    ids=["no-name", "two-names", "no-role", "no-actor", "another-scheme"],
)
def test_a_certificate_that_names_no_role_may_do_nothing(server, uris):
    with server.staff_channel(*staff_pair(server, uris)) as channel:
        refused = refusal(Client(channel).IssueLicense, ISSUE)
    assert refused[:2] == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_MISSING")


def healthy(channel, services):
    health = health_pb2_grpc.HealthStub(channel)
    answers = [health.Check(health_pb2.HealthCheckRequest(service=name)) for name in services]
    return all(each.status == health_pb2.HealthCheckResponse.SERVING for each in answers)


def test_the_public_port_is_healthy(server):
    assert healthy(server.app.channel, ["", "countersign.v1.ActivationService"])


def reflect(channel, **question):
    """Asks the reflection service; v1 has the messages of v1alpha, which is all that Python has."""
    call = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    (answer,) = call(iter([reflection_pb2.ServerReflectionRequest(**question)]))
    return answer


@pytest.mark.parametrize("role", ROLES)
def test_the_staff_port_tells_any_role_its_health_and_its_services(server, role):
    channel = server.staff[role].channel
    assert healthy(channel, ["", *STAFF_SERVICES])
    listed = reflect(channel, list_services="").list_services_response.service
    assert {service.name for service in listed} >= STAFF_SERVICES
    for service in STAFF_SERVICES:
        answer = reflect(channel, file_containing_symbol=service).file_descriptor_response
        files = map(FileDescriptorProto.FromString, answer.file_descriptor_proto)
        assert service.rpartition(".")[2] in {each.name for file in files for each in file.service}


def test_the_public_port_does_not_describe_itself(server):
    refused = refusal(lambda _: reflect(server.app.channel, list_services=""), None)
    assert refused.code == grpc.StatusCode.UNIMPLEMENTED
