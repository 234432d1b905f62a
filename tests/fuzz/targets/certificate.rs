//! Staff certificates: who one names is in it, word for word.

#![no_main]

use countersign::grpc::identify;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    match identify(data) {
        Ok(staff) => {
            let (role, actor) = (staff.role.name(), staff.actor.expose());
            let uri = format!("countersign://staff/{role}/{actor}");
            assert!(data.windows(uri.len()).any(|window| window == uri.as_bytes()), "{uri}");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
