//! How much of everything there may be.

use std::time::Duration;

/// Bounds of a server: what is beyond them is refused or dropped, counted, and said to whom it concerns. The flags of `runtime serve`
/// have the same names.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Open connections over HTTP and WebSocket, and again as many over gRPC.
    pub max_connections: usize,
    /// Open streams of all connections.
    pub max_streams: usize,
    /// Open streams of one connection.
    pub max_streams_per_connection: usize,
    /// Joints of a skeleton.
    pub max_joints: usize,
    /// Bytes of a WebSocket message.
    pub max_message_bytes: usize,
    /// Bytes of the body of an HTTP or gRPC request.
    pub max_body_bytes: usize,
    /// Frames of one stream that wait for the engine; more drop the oldest.
    pub queue_frames: usize,
    /// Poses of one stream that wait for their client to read; more drop the oldest.
    pub output_poses: usize,
    /// Infer requests that are read, wait or run.
    pub max_infer_requests: usize,
    /// Frames (batch times window) of one infer request.
    pub max_infer_frames: usize,
    /// Messages within a minute that a connection may send in vain.
    pub max_bad_messages: u32,
    /// A stream without a frame for so long ends; a connection without streams, or of which nothing is heard, is closed.
    pub idle: Duration,
    /// How long a client may take to read what is sent to it.
    pub write_timeout: Duration,
    /// How long a client may take over a request's head, and a request as a whole.
    pub request_timeout: Duration,
    /// How long stopping may take.
    pub stop_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 256,
            max_streams: 1024,
            max_streams_per_connection: 256,
            max_joints: 133,
            max_message_bytes: 1 << 16,
            max_body_bytes: 4 << 20,
            queue_frames: 32,
            output_poses: 64,
            max_infer_requests: 16,
            max_infer_frames: 4096,
            max_bad_messages: 100,
            idle: Duration::from_secs(60),
            write_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            stop_timeout: Duration::from_secs(5),
        }
    }
}

impl Limits {
    /// One sentence on the first limit that would let nothing through.
    ///
    /// # Errors
    /// A limit of 0.
    pub fn validate(&self) -> Result<(), String> {
        let counts = [
            ("--max-connections", self.max_connections),
            ("--max-streams", self.max_streams),
            ("--max-streams-per-connection", self.max_streams_per_connection),
            ("--max-joints", self.max_joints),
            ("--max-message-bytes", self.max_message_bytes),
            ("--max-body-bytes", self.max_body_bytes),
            ("--queue-frames", self.queue_frames),
            ("--output-poses", self.output_poses),
            ("--max-infer-requests", self.max_infer_requests),
            ("--max-infer-frames", self.max_infer_frames),
            ("--max-bad-messages", self.max_bad_messages as usize),
        ];
        if let Some((flag, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err(format!("expected {flag} to be at least 1, found 0"));
        }
        let times = [
            ("--idle", self.idle),
            ("--write-timeout", self.write_timeout),
            ("--request-timeout", self.request_timeout),
            ("--stop-timeout", self.stop_timeout),
        ];
        match times.iter().find(|(_, time)| time.is_zero()) {
            Some((flag, _)) => Err(format!("expected {flag} to be more than 0 seconds")),
            None => Ok(()),
        }
    }
}

/// Who is in, of a number that may be: each [`Permit`] is one.
#[derive(Debug)]
pub(super) struct Gate {
    permits: std::sync::Arc<tokio::sync::Semaphore>,
}

/// A place in a [`Gate`], given back when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl Gate {
    pub fn new(most: usize) -> Self {
        let most = most.min(tokio::sync::Semaphore::MAX_PERMITS);
        Self { permits: std::sync::Arc::new(tokio::sync::Semaphore::new(most)) }
    }

    /// `None` when all places are taken.
    pub fn enter(&self) -> Option<Permit> {
        self.permits.clone().try_acquire_owned().ok().map(|permit| Permit { _permit: permit })
    }
}
