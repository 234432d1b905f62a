//! Protobuf on the wire, as tonic's own codec has it, but for two things. Bytes that are no message
//! of the kind are the caller's mistake, `INVALID_ARGUMENT` with the reason `INVALID_MESSAGE`, and not
//! `INTERNAL`; the answer names message and field, and holds nothing of the value. And buffers are small.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, DecodeBuf, Decoder};
use tonic::{Code, Status};
use tonic_prost::{ProstDecoder, ProstEncoder};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::ERROR_DOMAIN;

/// What a message is written into and read from, in bytes: a receipt has some 700, and what is longer takes
/// more. Each call has two, which tonic's own default makes eight times as large.
const BUFFER: usize = 1024;
/// Bytes of a stream's messages that are sent together at the most: tonic's own.
const SENT_TOGETHER: usize = 32 * 1024;

fn buffers() -> BufferSettings {
    BufferSettings::new(BUFFER, SENT_TOGETHER)
}

/// Encodes `T`, decodes `U`.
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BlamingDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(buffers())
    }

    fn decoder(&mut self) -> Self::Decoder {
        BlamingDecoder(ProstDecoder::new(buffers()))
    }
}

/// Decodes `U`.
pub struct BlamingDecoder<U>(ProstDecoder<U>);

impl<U: Message + Default> Decoder for BlamingDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        self.0.decode(source).map_err(|status| {
            let details = ErrorDetails::with_error_info("INVALID_MESSAGE", ERROR_DOMAIN, []);
            Status::with_error_details(Code::InvalidArgument, status.message(), details)
        })
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}
