//! What a client's HTTP/2 frames cost, judged before the HTTP/2 server works on them.
//!
//! That server bounds what one frame, one stream and one header block may hold. It does not bound
//! how many frames come that carry no call (CVE-2019-9512 and its kin: PING, SETTINGS, PRIORITY,
//! empty DATA; CVE-2023-44487: calls that are reset as soon as they have begun), nor whether calls
//! ever end, nor what the unfinished requests of all connections hold together. Nor does it part from a
//! client that was told to go and makes new calls: it waits for an answer to its PING first.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::frames::{Frame, Kind, Scanner};

/// How many frames a complete request, or a frame of the answer, earns a client. gRPC clients
/// measure the path with a PING for each answer, and give back the window for it.
const EARNED: u32 = 8;
/// What a reset costs, in frames: more than the call earned that is reset, and no more than two
/// calls earn that are not.
const RESET: u32 = 2 * EARNED;
/// A frame is earned by every such time, for clients that are connected and quiet.
const EARNED_EVERY: Duration = Duration::from_millis(50);
/// Calls under way, far above what a client may begin before it knows how many it may.
const MOST_CALLS: usize = 1024;
/// How long a client may go on to begin calls that was told to begin none: they were on their way.
const LEAVE: Duration = Duration::from_secs(5);
/// So many bytes of an answer are progress, even if it has not ended.
const PROGRESS: usize = 16 * 1024;

/// Why a connection is ended at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Abuse {
    /// PING, SETTINGS, resets and such, for too few calls.
    #[error("more frames than its calls need")]
    Frames,
    /// More calls than the server ever said there may be.
    #[error("more calls at once than there may be")]
    Calls,
    /// New calls, long after the server said that the connection ends.
    #[error("calls on a connection that was to be left")]
    Stays,
    /// Requests that begin and do not end, while the memory for them is used up.
    #[error("unfinished requests, while there is no room for more")]
    Unfinished,
}

/// What the unfinished requests of all connections of a listener may hold.
#[derive(Debug)]
pub(super) struct Room {
    used: AtomicUsize,
    /// Bytes that all together may hold.
    pub(super) bytes: usize,
    /// Bytes that each may hold even then, so that who sends little is never in want.
    pub(super) share: usize,
    /// How many frames a connection may send beside its calls.
    pub(super) spare_frames: u32,
}

impl Room {
    /// Nothing is used yet.
    pub(super) fn new(bytes: usize, share: usize, spare_frames: u32) -> Self {
        Self { used: AtomicUsize::new(0), bytes, share, spare_frames }
    }
}

/// The frames of one connection, both ways.
#[derive(Debug)]
pub(super) struct Traffic {
    incoming: Scanner,
    outgoing: Scanner,
    calls: Vec<Call>,
    /// The newest stream of the client's: its numbers only grow.
    newest: u32,
    /// Of requests that have not ended.
    unfinished: usize,
    room: Arc<Room>,
    /// Frames that the client may send.
    allowance: u32,
    earned_until: Instant,
    /// Bytes of answers since the last progress.
    answered: usize,
    leave: Leave,
}

/// Whether calls may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leave {
    Stays,
    /// The server has said that the connection ends.
    Told,
    /// Until then those that were on their way.
    By(Instant),
}

#[derive(Debug)]
struct Call {
    stream: u32,
    bytes: usize,
    is_complete: bool,
}

impl Traffic {
    /// Of a connection that begins.
    pub(super) fn new(room: Arc<Room>, now: Instant) -> Self {
        Self {
            incoming: Scanner::default(),
            outgoing: Scanner::default(),
            calls: Vec::new(),
            newest: 0,
            unfinished: 0,
            allowance: room.spare_frames,
            room,
            earned_until: now,
            answered: 0,
            leave: Leave::Stays,
        }
    }

    /// Judges bytes from the client. Tells whether a request became complete while no other waited
    /// for its answer: from here on it is the server that must do something.
    pub(super) fn received(&mut self, mut bytes: &[u8], now: Instant) -> Result<bool, Abuse> {
        self.earn_by_time(now);
        if self.leave == Leave::Told {
            self.leave = Leave::By(now + LEAVE);
        }
        let mut is_progress = false;
        while let Some(frame) = self.incoming.next(&mut bytes) {
            let is_owed = self.calls.iter().any(|call| call.is_complete);
            let is_complete = self.note(frame, now)?;
            if is_complete {
                self.earn();
                is_progress |= !is_owed;
            }
            let cost = if frame.kind == Kind::Reset { RESET } else { 1 };
            self.allowance = self.allowance.checked_sub(cost).ok_or(Abuse::Frames)?;
        }
        Ok(is_progress)
    }

    /// Looks at bytes that went to the client. Tells whether an answer ended, or came on.
    pub(super) fn sent(&mut self, mut bytes: &[u8]) -> bool {
        let mut is_progress = false;
        while let Some(frame) = self.outgoing.next(&mut bytes) {
            match frame.kind {
                Kind::Data => {
                    self.earn();
                    self.answered += frame.length as usize;
                }
                Kind::Headers => self.earn(),
                Kind::Reset => drop(self.end(frame.stream)),
                Kind::GoAway if self.leave == Leave::Stays => self.leave = Leave::Told,
                Kind::GoAway | Kind::Continuation | Kind::Other => {}
            }
            let has_ended = frame.ends_stream() && self.end(frame.stream);
            if has_ended || self.answered >= PROGRESS {
                self.answered = 0;
                is_progress = true;
            }
        }
        is_progress
    }

    /// Whether more than one call has not been answered yet.
    pub(super) fn has_several_calls(&self) -> bool {
        self.calls.len() > 1
    }

    /// The frame that says that the connection ends and up to where calls were taken (RFC 9113
    /// §6.8), if one can be sent now.
    pub(super) fn farewell(&self) -> Option<[u8; 17]> {
        let mut frame = *b"\0\0\x08\x07\0\0\0\0\0........";
        frame[9..13].copy_from_slice(&self.newest.to_be_bytes());
        frame[13..].copy_from_slice(&[0; 4]);
        self.outgoing.is_between_frames().then_some(frame)
    }

    /// Notes what a frame of the client's does to its call. Tells whether its request is complete.
    fn note(&mut self, frame: Frame, now: Instant) -> Result<bool, Abuse> {
        match frame.kind {
            Kind::Reset => drop(self.end(frame.stream)),
            Kind::Headers if frame.stream > self.newest => {
                if matches!(self.leave, Leave::By(end) if end < now) {
                    return Err(Abuse::Stays);
                }
                if self.calls.len() == MOST_CALLS {
                    return Err(Abuse::Calls);
                }
                self.newest = frame.stream;
                self.calls.push(Call { stream: frame.stream, bytes: 0, is_complete: false });
            }
            Kind::Data | Kind::Headers | Kind::GoAway | Kind::Continuation | Kind::Other => {}
        }
        let may_end = frame.ends_stream();
        // The newest is last.
        let mut calls = self.calls.iter_mut().rev();
        let Some(call) = calls.find(|call| call.stream == frame.stream && !call.is_complete) else {
            return Ok(false);
        };
        if may_end {
            call.is_complete = true;
            let bytes = std::mem::take(&mut call.bytes);
            self.release(bytes);
            return Ok(true);
        }
        let bytes = frame.length as usize;
        call.bytes += bytes;
        self.unfinished += bytes;
        let used = self.room.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if used > self.room.bytes && self.unfinished > self.room.share {
            return Err(Abuse::Unfinished);
        }
        Ok(false)
    }

    /// Forgets a call. Tells whether its request had come in full: to answer one that did not is no
    /// progress of the client's.
    fn end(&mut self, stream: u32) -> bool {
        let Some(index) = self.calls.iter().position(|call| call.stream == stream) else {
            return false;
        };
        let call = self.calls.remove(index);
        self.release(call.bytes);
        call.is_complete
    }

    fn release(&mut self, bytes: usize) {
        self.unfinished -= bytes;
        self.room.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn earn(&mut self) {
        self.allowance = self.allowance.saturating_add(EARNED).min(self.room.spare_frames);
    }

    fn earn_by_time(&mut self, now: Instant) {
        let times = now.duration_since(self.earned_until).as_millis() / EARNED_EVERY.as_millis();
        if let Ok(times @ 1..) = u32::try_from(times) {
            self.allowance = self.allowance.saturating_add(times).min(self.room.spare_frames);
            self.earned_until += EARNED_EVERY * times;
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.release(self.unfinished);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADERS: u8 = 1;
    const DATA: u8 = 0;
    const RST_STREAM: u8 = 3;
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    const OPEN: u8 = 0;
    const END: u8 = 1;

    fn frame(kind: u8, flags: u8, stream: u32, length: usize) -> Vec<u8> {
        let mut frame = u32::try_from(length).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.resize(9 + length, 0);
        frame
    }

    fn room(bytes: usize) -> Arc<Room> {
        Arc::new(Room::new(bytes, 1000, 100))
    }

    fn call(stream: u32) -> Vec<u8> {
        [frame(HEADERS, OPEN, stream, 50), frame(DATA, END, stream, 100)].concat()
    }

    fn answer(stream: u32) -> Vec<u8> {
        [
            frame(HEADERS, OPEN, stream, 9),
            frame(DATA, OPEN, stream, 9),
            frame(HEADERS, END, stream, 9),
        ]
        .concat()
    }

    #[test]
    fn a_flood_ends_and_calls_never_do() {
        let now = Instant::now();
        let mut traffic = Traffic::new(room(1 << 20), now);
        for stream in (1..20_001).step_by(2) {
            assert_eq!(traffic.received(&call(stream), now), Ok(true));
            assert_eq!(traffic.received(&frame(PING, OPEN, 0, 8).repeat(3), now), Ok(false));
            assert!(traffic.sent(&answer(stream)));
        }
        let ping = frame(PING, OPEN, 0, 8);
        let borne = (0..1000).take_while(|_| traffic.received(&ping, now).is_ok()).count();
        assert_eq!(borne, 100);
        // A second later it may go on a little.
        let later = now + Duration::from_secs(1);
        let borne = (0..1000).take_while(|_| traffic.received(&ping, later).is_ok()).count();
        assert_eq!(borne, 20);
    }

    #[test]
    fn calls_that_are_reset_at_once_are_borne_a_few_times_only() {
        let now = Instant::now();
        let mut traffic = Traffic::new(room(1 << 20), now);
        let reset = |stream| [call(stream), frame(RST_STREAM, OPEN, stream, 4)].concat();
        let streams = (1..20_001).step_by(2);
        let borne = streams.take_while(|s| traffic.received(&reset(*s), now).is_ok()).count();
        assert!((5..20).contains(&borne), "{borne}");

        // One in three is an honest client that changes its mind.
        let mut traffic = Traffic::new(room(1 << 20), now);
        for stream in (1..20_001).step_by(6) {
            for stream in [stream, stream + 2] {
                traffic.received(&call(stream), now).unwrap();
                traffic.sent(&answer(stream));
            }
            traffic.received(&reset(stream + 4), now).unwrap();
        }
    }

    #[test]
    fn only_what_ends_is_progress() {
        let now = Instant::now();
        let mut traffic = Traffic::new(room(1 << 20), now);
        assert_eq!(traffic.received(&frame(HEADERS, OPEN, 1, 50), now), Ok(false));
        assert_eq!(traffic.received(&frame(DATA, OPEN, 1, 50), now), Ok(false));
        assert_eq!(traffic.received(&frame(DATA, END, 1, 50), now), Ok(true));
        // One is owed: that others are asked for is none.
        assert_eq!(traffic.received(&call(3), now), Ok(false));
        assert!(!traffic.sent(&frame(HEADERS, OPEN, 1, 9)));
        assert!(!traffic.sent(&frame(PING, END, 0, 8)));
        assert!(traffic.sent(&frame(HEADERS, END, 3, 9)));
        assert!(!traffic.sent(&frame(HEADERS, END, 3, 9)), "it has ended before");
        // A long answer is, on its way.
        let parts = (0..8).filter(|_| traffic.sent(&frame(DATA, OPEN, 1, 4096)));
        assert_eq!(parts.count(), 2);
    }

    #[test]
    fn unfinished_requests_share_a_room() {
        let now = Instant::now();
        let room = room(10_000);
        let mut greedy = Vec::new();
        while room.used.load(Ordering::Relaxed) <= 10_000 {
            let mut traffic = Traffic::new(Arc::clone(&room), now);
            traffic.received(&frame(HEADERS, OPEN, 1, 999), now).unwrap();
            greedy.push(traffic);
        }
        // Who sends little is served all the same.
        let mut honest = Traffic::new(Arc::clone(&room), now);
        assert_eq!(honest.received(&call(1), now), Ok(true));
        let more = frame(DATA, OPEN, 1, 10);
        assert_eq!(greedy[0].received(&more, now), Err(Abuse::Unfinished));
        drop(greedy);
        assert_eq!(room.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn who_is_told_to_leave_begins_no_calls_for_long() {
        let now = Instant::now();
        let mut traffic = Traffic::new(room(1 << 20), now);
        traffic.received(&frame(HEADERS, OPEN, 1, 50), now).unwrap();
        assert!(!traffic.sent(&frame(GOAWAY, OPEN, 0, 8)));
        // Was on its way.
        assert_eq!(traffic.received(&call(3), now), Ok(true));
        let later = now + LEAVE + Duration::from_millis(1);
        assert_eq!(traffic.received(&frame(DATA, END, 1, 50), later), Ok(false));
        assert_eq!(traffic.received(&call(5), later), Err(Abuse::Stays));
    }

    #[test]
    fn a_farewell_stands_between_frames_alone() {
        let now = Instant::now();
        let mut traffic = Traffic::new(room(1 << 20), now);
        traffic.received(&call(7), now).unwrap();
        let farewell = traffic.farewell().unwrap();
        assert_eq!(farewell, *b"\0\0\x08\x07\0\0\0\0\0\0\0\0\x07\0\0\0\0");
        traffic.sent(&answer(7)[..12]);
        assert_eq!(traffic.farewell(), None);
    }
}
