//! The frames of a connection, counted from bytes that any client sends: however they are cut into reads, each
//! frame is found and the same is said of them, which is what a plain count of whole frames says.

#![no_main]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_fuzz::Input;
use frames::Scanner;
use libfuzzer_sys::fuzz_target;
use tokio::time::Instant;
use traffic::{Abuse, Room, Traffic};

// No business of anyone who uses the library, so compiled in here.
#[path = "../../../src/grpc/frames.rs"]
mod frames;
#[path = "../../../src/grpc/traffic.rs"]
#[allow(dead_code)] // the connection asks for more than the frames alone do
mod traffic;

const HEADER: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const MOST_CALLS: usize = 1024;
const SHARE: usize = 1000;
const LEAVE: Duration = Duration::from_secs(5);

/// A frame, and where it begins.
struct Known {
    kind: u8,
    ends: bool,
    length: usize,
    stream: u32,
}

/// The frames whose headers are in bytes that are all there, and whether these end with one of them.
fn whole(bytes: &[u8]) -> (Vec<Known>, bool) {
    let (mut frames, mut at) = (Vec::new(), 0);
    while let Some(header) = bytes.get(at..at + HEADER) {
        let length =
            usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        let stream = u32::from_be_bytes(header[5..].try_into().unwrap()) & (u32::MAX >> 1);
        let ends = matches!(header[3], DATA | HEADERS) && header[4] & END_STREAM != 0;
        frames.push(Known { kind: header[3], ends, length, stream });
        at += HEADER + length;
    }
    (frames, at == bytes.len())
}

fn scan(bytes: &[u8], cut: usize) {
    let mut scanner = Scanner::default();
    let mut found = Vec::new();
    for mut part in bytes.chunks(cut) {
        while let Some(frame) = scanner.next(&mut part) {
            found.push((frame.length as usize, frame.stream, frame.ends_stream()));
        }
        assert!(part.is_empty());
    }
    let (known, is_end) = whole(bytes);
    assert!(found.into_iter().eq(known.iter().map(|f| (f.length, f.stream, f.ends))));
    assert_eq!(scanner.is_between_frames(), is_end);
}

/// What is to be known of a connection: of each call its bytes, and whether its request is complete.
struct Model {
    calls: BTreeMap<u32, (usize, bool)>,
    newest: u32,
    spare: u32,
    allowance: u32,
    room: usize,
    answered: usize,
    /// Whether we have said that the connection ends, and until when calls may begin then.
    is_told: bool,
    leaves_by: Option<Duration>,
}

impl Model {
    fn unfinished(&self) -> usize {
        self.calls.values().map(|(bytes, _)| bytes).sum()
    }

    fn earn(&mut self, frames: u32) {
        self.allowance = (self.allowance + frames).min(self.spare);
    }

    fn received(&mut self, frames: &[Known], now: Duration) -> Result<bool, Abuse> {
        let mut is_progress = false;
        if self.is_told && self.leaves_by.is_none() {
            self.leaves_by = Some(now + LEAVE);
        }
        for frame in frames {
            let is_owed = self.calls.values().any(|(_, is_complete)| *is_complete);
            if frame.kind == RST_STREAM {
                self.calls.remove(&frame.stream);
            }
            if frame.kind == HEADERS && frame.stream > self.newest {
                if self.leaves_by.is_some_and(|end| now > end) {
                    return Err(Abuse::Stays);
                }
                if self.calls.len() == MOST_CALLS {
                    return Err(Abuse::Calls);
                }
                self.newest = frame.stream;
                self.calls.insert(frame.stream, (0, false));
            }
            match self.calls.get_mut(&frame.stream) {
                Some(call @ (_, false)) if frame.ends => {
                    *call = (0, true);
                    self.earn(8);
                    is_progress |= !is_owed;
                }
                Some((bytes, false)) => {
                    *bytes += frame.length;
                    let unfinished = self.unfinished();
                    if unfinished > self.room && unfinished > SHARE {
                        return Err(Abuse::Unfinished);
                    }
                }
                _ => {}
            }
            let cost = if frame.kind == RST_STREAM { 16 } else { 1 };
            self.allowance = self.allowance.checked_sub(cost).ok_or(Abuse::Frames)?;
        }
        Ok(is_progress)
    }

    fn sent(&mut self, frames: &[Known]) -> bool {
        let mut is_progress = false;
        for frame in frames {
            if matches!(frame.kind, DATA | HEADERS) {
                self.earn(8);
            }
            self.is_told |= frame.kind == GOAWAY;
            if frame.kind == DATA {
                self.answered += frame.length;
            }
            let mut has_ended = false;
            if frame.kind == RST_STREAM || frame.ends {
                let ended = self.calls.remove(&frame.stream);
                has_ended = frame.ends && ended.is_some_and(|(_, is_complete)| is_complete);
            }
            if has_ended || self.answered >= 16 * 1024 {
                (self.answered, is_progress) = (0, true);
            }
        }
        is_progress
    }
}

/// Some bytes, one way.
struct Step {
    is_ours: bool,
    /// What was quiet before.
    wait: Duration,
    bytes: Vec<u8>,
}

/// Frames with little in them, or the bytes themselves.
fn steps(input: Input<'_>) -> Vec<Step> {
    let pieces = input.pieces().into_iter();
    let step = |piece| {
        let mut piece = Input(piece);
        let (how, wait) = (piece.byte(), piece.byte());
        let mut bytes = Vec::new();
        while how & 2 == 0 && !piece.0.is_empty() {
            let [kind, flags, stream, length] = piece.bytes();
            let length = usize::from(length) << (how >> 6);
            bytes.extend(&u32::try_from(length).unwrap().to_be_bytes()[1..]);
            bytes.extend([kind % 10, flags, 0, 0, 0, stream]);
            bytes.resize(bytes.len() + length, 0);
        }
        bytes.extend(piece.0);
        Step { is_ours: how & 1 == 1, wait: Duration::from_millis(10 * u64::from(wait)), bytes }
    };
    pieces.map(step).collect()
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (cut, spare) = (usize::from(input.byte()).max(1), 16 + u32::from(input.byte()));
    scan(input.0, cut);

    let bytes = usize::from(u16::from_be_bytes(input.bytes()));
    let begun = Instant::now();
    let steps = steps(input);
    let room = || Arc::new(Room::new(bytes, SHARE, spare));
    let (room, room_of_cut) = (room(), room());
    let mut traffic = Traffic::new(Arc::clone(&room), begun);
    let mut traffic_of_cut = Traffic::new(Arc::clone(&room_of_cut), begun);
    let mut model = Model {
        calls: BTreeMap::new(),
        newest: 0,
        spare,
        allowance: spare,
        room: bytes,
        answered: 0,
        is_told: false,
        leaves_by: None,
    };
    let (mut now, mut earned) = (Duration::ZERO, 0);
    // What came each way, and how many of its frames are known.
    let mut ways = [(Vec::new(), 0), (Vec::new(), 0)];
    for Step { is_ours, wait, bytes } in steps {
        now += wait;
        let at = begun + now;
        let (all, seen) = &mut ways[usize::from(is_ours)];
        all.extend(&bytes);
        let (frames, is_end) = whole(all);
        let new = &frames[*seen..];
        *seen = frames.len();
        let mut parts = bytes.chunks(cut);
        if is_ours {
            let expected = model.sent(new);
            assert_eq!(traffic.sent(&bytes), expected);
            assert_eq!(parts.fold(false, |any, part| any | traffic_of_cut.sent(part)), expected);
            assert_eq!(traffic.farewell().is_some(), is_end);
        } else {
            let times = u32::try_from(now.as_millis() / 50).unwrap();
            model.earn(times - earned);
            earned = times;
            let expected = model.received(new, now);
            // With nothing read, time is not looked at.
            let of_cut = traffic_of_cut.received(&[], at).and_then(|_| {
                parts.try_fold(false, |any, part| Ok(any | traffic_of_cut.received(part, at)?))
            });
            assert_eq!(traffic.received(&bytes, at), expected);
            assert_eq!(of_cut, expected);
            if expected.is_err() {
                break;
            }
            // An end of the connection may come at any moment.
            if let Some(farewell) = traffic.farewell() {
                assert!(farewell.windows(4).any(|four| four == model.newest.to_be_bytes()));
            }
            let used = format!("Room {{ used: {},", model.unfinished());
            assert!(format!("{room:?}").starts_with(&used), "{room:?} {used}");
        }
        assert!(model.calls.len() <= MOST_CALLS);
        // Each has kept the same.
        let kept = [&traffic, &traffic_of_cut].map(|traffic| format!("{traffic:?}"));
        assert_eq!(kept[0], kept[1]);
    }
    drop((traffic, traffic_of_cut));
    for room in [room, room_of_cut] {
        assert!(format!("{room:?}").starts_with("Room { used: 0,"), "{room:?}");
    }
});
