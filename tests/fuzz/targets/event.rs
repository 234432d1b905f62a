//! Events, as they are sealed in records: what decodes encodes, to the same bytes from then on; and any
//! events in any order are a state.

#![no_main]

use countersign::domain::{Event, Position, State, evolve};
use countersign::log::codec::{category, decode, encode};
use countersign_fuzz::Input;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut state = State::default();
    for (position, piece) in (0..).map(Position).zip(Input(data).pieces()) {
        let Ok(event) = decode(piece) else { continue };
        let (event_type, bytes) = encode(&event);
        let Ok(again) = decode(&bytes) else { panic!("an event that was decoded does not encode") };
        assert!(encode(&again) == (event_type, bytes));
        let _ = category(event_type);
        evolve(&mut state, position, &event);
        if let Event::SubjectRegistered { email, .. } | Event::EmailRecorded { email, .. } = &event
        {
            assert!(!format!("{event:?}").contains(email.expose()), "an address is printed");
        }
    }
});
