//! The tail file: how far the log had come, after each append.
//!
//! sled recovers a log up to the first write that it cannot read, and takes what follows for a power
//! cut's doing: it is silent about it, and overwrites it. The signed head file tells of it, but lags
//! by seconds. So after each append, which is durable by then, the position is written here, and left
//! to the kernel to sync: that costs a microsecond. After a crash of the process it is exact, and after
//! a power cut it is older, so that it never claims what the log had not come to.
//!
//! ```text
//! offset  bytes
//!      0      8  position, big-endian
//!      8      4  CRC-32C of it, big-endian
//! ```

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::domain::Position;

const POSITION_BYTES: usize = 8;
const BYTES: usize = POSITION_BYTES + 4;

/// An open tail file.
#[derive(Debug)]
pub(super) struct Tail(File);

impl Tail {
    /// Opens it, or makes it where there is none.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        Ok(Self(options.open(path)?))
    }

    /// How far the log had come at least; `None`: the file does not tell, as a power cut may leave it.
    pub(super) fn read(&self) -> io::Result<Option<Position>> {
        let mut bytes = [0; BYTES];
        match self.0.read_exact_at(&mut bytes, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let (position, checksum) = bytes.split_at(POSITION_BYTES);
        if crc32c::crc32c(position).to_be_bytes() != checksum {
            return Ok(None);
        }
        Ok(position.try_into().ok().map(|bytes| Position(u64::from_be_bytes(bytes))))
    }

    /// Says that the log has come this far.
    pub(super) fn write(&self, position: Position) -> io::Result<()> {
        let mut bytes = [0; BYTES];
        bytes[..POSITION_BYTES].copy_from_slice(&position.0.to_be_bytes());
        let checksum = crc32c::crc32c(&bytes[..POSITION_BYTES]);
        bytes[POSITION_BYTES..].copy_from_slice(&checksum.to_be_bytes());
        self.0.write_all_at(&bytes, 0)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn it_tells_the_last_position_or_nothing() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("tail");
        let tail = Tail::open(&path).unwrap();
        assert_eq!(tail.read().unwrap(), None);
        for position in [0, 1, 300, u64::MAX] {
            tail.write(Position(position)).unwrap();
            assert_eq!(Tail::open(&path).unwrap().read().unwrap(), Some(Position(position)));
        }
        let whole = fs::read(&path).unwrap();
        for bit in 0..BYTES * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, flipped).unwrap();
            assert_eq!(Tail::open(&path).unwrap().read().unwrap(), None);
        }
        fs::write(&path, &whole[..BYTES - 1]).unwrap();
        assert_eq!(tail.read().unwrap(), None);
    }
}
