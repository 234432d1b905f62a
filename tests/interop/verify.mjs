// Reads {receipt, jwks, issuer, product} on standard input and prints the receipt's claims, as an
// app with npm jose would read them. Exit code 3: the receipt is refused.
import { readFileSync } from 'node:fs';
import { createLocalJWKSet, errors, jwtVerify } from 'jose';

const { receipt, jwks, issuer, product } = JSON.parse(readFileSync(0, 'utf8'));
try {
  const { payload } = await jwtVerify(receipt, createLocalJWKSet(JSON.parse(jwks)), {
    algorithms: ['EdDSA'],
    audience: product,
    issuer,
    typ: 'activation+jwt',
  });
  console.log(JSON.stringify(payload));
} catch (error) {
  if (!(error instanceof errors.JOSEError)) throw error;
  console.error(error.code);
  process.exitCode = 3;
}
