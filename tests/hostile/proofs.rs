//! Proofs of what was erased, each of which has the server look through the whole tree.

use std::net::IpAddr;

use countersign::proto::v1::GetInclusionProofRequest;
use countersign::proto::v1::transparency_service_client::TransparencyServiceClient;
use tokio::task::JoinSet;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::client::attacker;
use crate::honest::Watched;
use crate::support::{activation, reason};

const CLIENTS: usize = 12;
/// As many as a client may give up before its connection is ended.
const CALLS: usize = 64;
const ROUNDS: usize = 40;

/// Asks many times at once, gives up all but one, and tells how that one ended; again and again.
async fn ask(endpoint: Endpoint, receipt: String) -> Vec<Result<(), Status>> {
    let mut outcomes = Vec::new();
    for _ in 0..ROUNDS {
        let client = TransparencyServiceClient::new(endpoint.connect().await.unwrap());
        let mut calls = JoinSet::new();
        for _ in 0..CALLS {
            let mut client = client.clone();
            let receipt = receipt.clone();
            calls.spawn(async move {
                let request = GetInclusionProofRequest { receipt, log_index: None };
                client.get_inclusion_proof(request).await.map(drop)
            });
        }
        outcomes.push(calls.join_next().await.unwrap().unwrap());
        calls.shutdown().await;
    }
    outcomes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proofs_that_cost_much_are_bounded_and_given_up_with_their_callers() {
    let watched = Watched::start("[transparency]\npublic = true").await;
    let server = &watched.server;
    let eve = "eve@example.com";
    let license = server.issue(eve, "App", 1).await;
    let activated = server.app().activate(activation(eve, &license, 1)).await.unwrap();
    let receipt = activated.into_inner().receipt;
    server.erase(eve, false, false).await;
    let attack = async {
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let from = Some(IpAddr::V4(attacker(number)));
            clients.spawn(ask(server.public_endpoint().local_address(from), receipt.clone()));
        }
        clients.join_all().await.concat()
    };
    let outcomes = watched.bears("proofs of what was erased", CLIENTS, attack).await;
    assert_eq!(outcomes.len(), CLIENTS * ROUNDS);
    for refused in outcomes.into_iter().filter_map(Result::err) {
        // Whoever is not served is told when to come again.
        assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
        assert!(["OVERLOADED", "TREE_BEHIND"].contains(&reason(&refused).as_str()), "{refused:?}");
        assert!(refused.get_details_retry_info().unwrap().retry_delay.is_some());
    }
    // What was given up holds no place.
    let mut client = TransparencyServiceClient::new(server.channel());
    let request = GetInclusionProofRequest { receipt, log_index: None };
    client.get_inclusion_proof(request).await.expect("there is room again");
}
