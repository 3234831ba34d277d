//! Frames over a stream: a reader that loses nothing when it is not waited for, and a writer of its own, so that two
//! nodes that both have much to say never wait for each other.

use std::io;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Refusal;
use crate::wire::link::{self, Decoder, FRAME_BYTES_MAX, HELLO_BYTES_MAX};

/// A peer that takes no bytes for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Frames; full: the connection counts as broken, because whoever reads so slowly helps nobody.
const WRITES_MAX: usize = 256;
const READ_BYTES: usize = 16 * 1024;

#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("closed by the other side")]
    Closed,
    #[error("ended in the middle of a frame")]
    Truncated,
    #[error(transparent)]
    Refused(#[from] link::Refused),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("silent")]
    Silent,
    #[error("it reads too slowly")]
    Slow,
}

impl Broken {
    /// As what it counts; none where a connection just ended.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Truncated | Self::Refused(_) => Some(Refusal::Malformed),
            Self::Io(error) => tls_refusal(error),
            Self::Closed | Self::Silent | Self::Slow => None,
        }
    }
}

/// What an error of TLS says about the other side; none where the network failed.
pub(super) fn tls_refusal(error: &io::Error) -> Option<Refusal> {
    use rustls::{AlertDescription as Alert, Error};
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    match error {
        Error::InvalidCertificate(_) | Error::NoCertificatesPresented => Some(Refusal::Key),
        Error::AlertReceived(Alert::UnknownCA | Alert::BadCertificate | Alert::CertificateUnknown) => {
            Some(Refusal::Key)
        }
        _ => Some(Refusal::Malformed),
    }
}

pub(super) struct FrameReader<R> {
    reader: R,
    decoder: Decoder,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// At first for a hello alone.
    pub(super) fn new(reader: R) -> Self {
        Self { reader, decoder: Decoder::new(HELLO_BYTES_MAX) }
    }

    /// The other side is known.
    pub(super) fn trust(&mut self) {
        self.decoder.allow(FRAME_BYTES_MAX);
    }

    /// The next message. Dropped before it is there, it has lost nothing.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Result<T, Broken> {
        loop {
            if let Some(message) = self.decoder.take()? {
                return Ok(message);
            }
            let buffer = self.decoder.buffer();
            buffer.reserve(READ_BYTES);
            if self.reader.read_buf(buffer).await? == 0 {
                let inside = self.decoder.is_inside_a_frame();
                return Err(if inside { Broken::Truncated } else { Broken::Closed });
            }
        }
    }
}

/// The way to a connection's writer; the connection is closed when it is dropped.
pub(super) struct FrameWriter(mpsc::Sender<Vec<u8>>);

impl Clone for FrameWriter {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl FrameWriter {
    pub(super) fn start(mut half: impl AsyncWrite + Unpin + Send + 'static) -> Self {
        let (sender, mut frames) = mpsc::channel::<Vec<u8>>(WRITES_MAX);
        tokio::spawn(async move {
            while let Some(frame) = frames.recv().await {
                let write = async {
                    half.write_all(&frame).await?;
                    half.flush().await
                };
                // The reader of this connection finds out why, or notices the silence.
                if !matches!(timeout(WRITE_TIMEOUT, write).await, Ok(Ok(()))) {
                    return;
                }
            }
            let _gone = timeout(WRITE_TIMEOUT, half.shutdown()).await;
        });
        Self(sender)
    }

    pub(super) fn send(&self, message: &impl Serialize) -> Result<(), Broken> {
        let frame = link::encode(message)?;
        self.0.try_send(frame).map_err(|_| Broken::Slow)
    }
}
