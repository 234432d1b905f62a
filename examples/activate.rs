//! An app in Rust: activates once, and at each start verifies the receipt offline.
//!
//! `cargo run --example activate -- URL CA.pem JWKS.json EMAIL LICENSE_KEY`

use std::error::Error;
use std::time::Duration;

use countersign::proto::v1::ActivateRequest;
use countersign::proto::v1::activation_service_client::ActivationServiceClient;
use countersign::receipt::{KeyRing, PublicKeys};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// How long to wait for an answer before asking again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, ca, jwks, email, license_key] =
        <[String; 5]>::try_from(arguments).map_err(|_| "URL CA.pem JWKS.json EMAIL LICENSE_KEY")?;

    // At the first start: a key pair, kept in the system's keychain as `to_jwks` gives it.
    let device = KeyRing::generate(&mut rand::rng());
    let request = ActivateRequest {
        email,
        license_key,
        // Kept with the request until there is an answer, also over a restart: a retry with the same
        // nonce takes no second seat.
        nonce: rand::random::<[u8; 16]>().to_vec(),
        binding: device.current().as_bytes().to_vec(),
    };

    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(std::fs::read(ca)?));
    let endpoint = Endpoint::from_shared(url)?;
    // With any other scheme the transport would leave TLS out without a word.
    if endpoint.uri().scheme_str() != Some("https") {
        return Err("the URL must begin with https://".into());
    }
    let channel = endpoint.tls_config(tls)?.timeout(ANSWER_TIMEOUT).connect().await?;
    let mut server = ActivationServiceClient::new(channel);
    let receipt = loop {
        match server.activate(request.clone()).await {
            Ok(answer) => break answer.into_inner().receipt,
            Err(status) if has_no_answer(&status) => {
                tokio::time::sleep(retry_delay(&status)).await;
            }
            Err(status) => {
                let reason = status.get_details_error_info().map(|info| info.reason);
                return Err(format!("{}: {}", reason.unwrap_or_default(), status.message()).into());
            }
        }
    };

    // At each start, with the keys that are built into the app.
    let claims = PublicKeys::from_jwks(&std::fs::read_to_string(jwks)?)?.verify(&receipt)?;
    if claims.binding.as_bytes() != device.current().as_bytes() {
        return Err("this receipt belongs to another device".into());
    }
    println!("{} is licensed for {} seats", claims.product.as_str(), claims.license.seats);
    Ok(())
}

/// The server is busy, or the answer is late or lost: whether there is an activation is unknown.
fn has_no_answer(status: &Status) -> bool {
    // What the transport itself says has a source; what the server says has none.
    status.source().is_some()
        || matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
}

fn retry_delay(status: &Status) -> Duration {
    let hint = status.get_details_retry_info().and_then(|info| info.retry_delay);
    hint.unwrap_or(Duration::from_secs(1))
}
