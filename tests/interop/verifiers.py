"""Three libraries that read receipts. Each function gives the claims, or raises `Refused`."""

import json
import os
import subprocess
from pathlib import Path

import joserfc.errors
import joserfc.jwk
import joserfc.jwt
import jwt

ISSUER = "https://licenses.example.com"


class Refused(Exception):
    """The library does not accept the receipt."""


def pyjwt(receipt, jwks, product):
    try:
        keys = {key.key_id: key for key in jwt.PyJWKSet.from_json(jwks).keys}
        key = keys.get(jwt.get_unverified_header(receipt).get("kid"))
        if key is None:
            raise Refused("kid")
        return jwt.decode(receipt, key, algorithms=["EdDSA"], audience=product, issuer=ISSUER)
    except jwt.PyJWTError as error:
        raise Refused from error


def joserfc_(receipt, jwks, product):
    keys = joserfc.jwk.KeySet.import_key_set(json.loads(jwks))
    try:
        claims = joserfc.jwt.decode(receipt, keys, algorithms=["EdDSA"]).claims
        registry = joserfc.jwt.JWTClaimsRegistry(
            aud={"essential": True, "value": product}, iss={"essential": True, "value": ISSUER}
        )
        registry.validate(claims)
        return claims
    except joserfc.errors.JoseError as error:
        raise Refused from error


def npm_jose(receipt, jwks, product):
    script = Path(os.environ["INTEROP_OUT"]) / "node" / "verify.mjs"
    asked = {"receipt": receipt, "jwks": jwks, "issuer": ISSUER, "product": product}
    node = subprocess.run(["node", script], input=json.dumps(asked), capture_output=True, text=True)
    if node.returncode == 3:
        raise Refused(node.stderr)
    assert node.returncode == 0, node.stderr
    return json.loads(node.stdout)


VERIFIERS = (pyjwt, joserfc_, npm_jose)
