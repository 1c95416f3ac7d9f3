//! Sending batches of records that their maker has encoded already.
//!
//! A proxy makes two or more records for each request. Built as messages first
//! they would cost it as much as serving the request does.

use prost::bytes::{BufMut, Bytes};
use tonic::client::Grpc;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::tokio_stream::Stream;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use crate::node::{RecordBatch, RecordsReceived};

const METHOD: &str = "/weft.node.v1.NodeControl/Records";

/// Streams batches to the agent until they end; each is a [`RecordBatch`] on
/// the wire.
///
/// # Errors
/// What the agent or the connection to it said.
pub async fn send<S>(channel: Channel, batches: S) -> Result<RecordsReceived, Status>
where
    S: Stream<Item = Bytes> + Send + 'static,
{
    let mut client = Grpc::new(channel);
    client
        .ready()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let method = PathAndQuery::from_static(METHOD);
    let received = client
        .client_streaming(Request::new(batches), method, Encoded)
        .await?;
    Ok(received.into_inner())
}

/// Passes messages on as they are.
#[derive(Debug, Clone, Copy)]
struct Encoded;

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = RecordsReceived;
    type Encoder = Self;
    type Decoder = <ProstCodec<RecordBatch, RecordsReceived> as Codec>::Decoder;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<RecordBatch, RecordsReceived>::raw_decoder(BufferSettings::default())
    }
}

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, batch: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(batch);
        Ok(())
    }
}
