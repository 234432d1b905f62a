//! HTTP/2 frames in a stream of bytes (RFC 9113 §4.1). Only their headers are looked at, so that
//! this costs next to nothing for each byte.

/// Length, type, flags, stream.
const HEADER: usize = 9;
/// `END_STREAM`, of DATA and HEADERS.
const END_STREAM: u8 = 0x1;

/// What a frame's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    flags: u8,
    /// Bytes that follow the header.
    pub(super) length: u32,
    /// 0: the connection itself.
    pub(super) stream: u32,
}

/// The types that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Headers,
    Reset,
    GoAway,
    Continuation,
    Other,
}

impl Frame {
    /// Whether its sender has nothing more to say in this stream.
    pub(super) fn ends_stream(&self) -> bool {
        matches!(self.kind, Kind::Data | Kind::Headers) && self.flags & END_STREAM != 0
    }

    fn parse(header: [u8; HEADER]) -> Self {
        let [l1, l2, l3, kind, flags, s1, s2, s3, s4] = header;
        let kind = match kind {
            0 => Kind::Data,
            1 => Kind::Headers,
            3 => Kind::Reset,
            7 => Kind::GoAway,
            9 => Kind::Continuation,
            _ => Kind::Other,
        };
        let length = u32::from_be_bytes([0, l1, l2, l3]);
        // The first bit is reserved.
        let stream = u32::from_be_bytes([s1 & 0x7f, s2, s3, s4]);
        Self { kind, flags, length, stream }
    }
}

/// Finds the frames in one direction of a connection, however its bytes are cut into reads.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    header: [u8; HEADER],
    /// Bytes of the header that have come.
    have: usize,
    /// Bytes of the frame's payload that are to come.
    payload: usize,
}

impl Scanner {
    /// Takes bytes up to the end of the next frame header in them, and gives that frame.
    pub(super) fn next(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        let skipped = self.payload.min(bytes.len());
        self.payload -= skipped;
        *bytes = &bytes[skipped..];
        let taken = (HEADER - self.have).min(bytes.len());
        let (head, rest) = bytes.split_at(taken);
        self.header[self.have..self.have + taken].copy_from_slice(head);
        self.have += taken;
        *bytes = rest;
        if self.have < HEADER {
            return None;
        }
        let frame = Frame::parse(self.header);
        self.have = 0;
        self.payload = frame.length as usize;
        Some(frame)
    }

    /// Whether the last byte was the end of a frame.
    pub(super) fn is_between_frames(&self) -> bool {
        self.have == 0 && self.payload == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_however_the_bytes_are_cut() {
        let mut bytes = Vec::new();
        bytes.extend(b"\0\0\x03\x01\x05\0\0\0\x01abc"); // HEADERS that end the stream
        bytes.extend(b"\0\0\0\x04\x01\0\0\0\0"); // SETTINGS, acknowledged: the same flag
        bytes.extend(b"\0\x01\x00\x00\x00\x80\0\0\x03"); // DATA, with the reserved bit
        bytes.extend([9; 256]);
        bytes.extend(b"\0\0\x04\x03\0\0\0\0\x030000"); // RST_STREAM
        for cut in 1..bytes.len() {
            let mut scanner = Scanner::default();
            let mut frames = Vec::new();
            for mut part in bytes.chunks(cut) {
                while let Some(frame) = scanner.next(&mut part) {
                    frames.push((frame.kind, frame.length, frame.stream, frame.ends_stream()));
                }
                assert!(part.is_empty());
            }
            assert_eq!(
                frames,
                [
                    (Kind::Headers, 3, 1, true),
                    (Kind::Other, 0, 0, false),
                    (Kind::Data, 256, 3, false),
                    (Kind::Reset, 4, 3, false),
                ]
            );
            assert!(scanner.is_between_frames());
        }
    }
}
