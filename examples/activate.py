"""An app in Python: activates once, and at each start verifies the receipt offline.

    pip install grpcio-tools grpcio-status pyjwt cryptography
    python -m grpc_tools.protoc -Iproto --python_out=. --grpc_python_out=. proto/countersign/v1/*.proto
    python examples/activate.py HOST:PORT CA.pem JWKS.json PRODUCT EMAIL LICENSE_KEY
"""

import base64
import hashlib
import json
import os
import sys
import time

import grpc
import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from countersign.v1 import activation_pb2, activation_pb2_grpc


# The server is busy, or the answer is late or lost: whether there is an activation is unknown.
NO_ANSWER = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
)
ANSWER_TIMEOUT_SECONDS = 30


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def detail(error, kind):
    """A detail of an error: an ErrorInfo, a BadRequest or a RetryInfo; empty where it has none."""
    message, status = kind(), rpc_status.from_call(error)
    for any_detail in status.details if status else ():
        any_detail.Unpack(message)
    return message


def activate(server, request):
    """The receipt. Safe to repeat: the request's nonce takes one seat, however often it is sent."""
    while True:
        try:
            return server.Activate(request, timeout=ANSWER_TIMEOUT_SECONDS).receipt
        except grpc.RpcError as error:
            if error.code() not in NO_ANSWER:
                reason = detail(error, error_details_pb2.ErrorInfo).reason
                sys.exit(f"{reason}: {error.details()}")
            delay = detail(error, error_details_pb2.RetryInfo).retry_delay
            time.sleep(delay.ToTimedelta().total_seconds() or 1)


def verify(receipt, jwks, product, binding):
    """The claims, where the receipt is genuine, for this product and for this device."""
    keys = {key.key_id: key for key in jwt.PyJWKSet.from_json(jwks).keys}
    header = jwt.get_unverified_header(receipt)
    if header.get("typ") != "activation+jwt" or header.get("kid") not in keys:
        sys.exit("this is no receipt of ours")
    claims = jwt.decode(receipt, keys[header["kid"]], algorithms=["EdDSA"], audience=product)
    if claims["cnf"]["jkt"] != base64url(binding):
        sys.exit("this receipt belongs to another device")
    return claims


address, ca, jwks, product, email, license_key = sys.argv[1:]

# At the first start: a key pair, kept in the system's keychain. Its thumbprint is RFC 7638's.
device = Ed25519PrivateKey.generate()
x = base64url(device.public_key().public_bytes_raw())
binding = hashlib.sha256(f'{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}'.encode()).digest()

with open(ca, "rb") as file:
    credentials = grpc.ssl_channel_credentials(file.read())
with grpc.secure_channel(address, credentials) as channel:
    request = activation_pb2.ActivateRequest(
        email=email, license_key=license_key, nonce=os.urandom(16), binding=binding
    )
    receipt = activate(activation_pb2_grpc.ActivationServiceStub(channel), request)

# At each start, with the keys that are built into the app.
with open(jwks) as file:
    print(json.dumps(verify(receipt, file.read(), product, binding), indent=2))
