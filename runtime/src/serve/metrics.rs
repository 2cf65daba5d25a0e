//! What `/metrics` tells, in the OpenMetrics text that Prometheus reads.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

/// The content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Why a frame has no pose, or its client does not get it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Dropped {
    /// It waited for the engine behind more frames of its stream than may wait.
    Queue,
    /// Its pose waited for the client to read behind more than may wait.
    Output,
    /// The engine failed, or was not there.
    Engine,
    /// It came at more than eight times the model's rate.
    TooFast,
    /// Nobody was seen in it, and there was nobody to hold.
    Empty,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DroppedFor {
    reason: Dropped,
}

/// Where something was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Refused {
    /// A connection over `--max-connections`.
    Connection,
    /// A request or message without the token.
    Token,
    /// A stream over a limit.
    Stream,
    /// A message that is not understood, or a frame that is no good.
    Message,
    /// An infer request over a limit, or while there is no engine.
    Infer,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedAt {
    what: Refused,
}

/// How an infer request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Answer {
    /// With tensors.
    Ok,
    /// It was not good.
    BadRequest,
    /// The engine failed, or there was no room.
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnsweredWith {
    answer: Answer,
}

/// Counters of one server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Open connections.
    pub connections: Gauge,
    /// Open streams.
    pub streams: Gauge,
    /// Frames that came.
    pub frames: Counter,
    /// Poses that were made.
    pub poses: Counter,
    dropped: Family<DroppedFor, Counter>,
    refused: Family<RefusedAt, Counter>,
    infers: Family<AnsweredWith, Counter>,
    /// Streams in one batch.
    pub batch: Histogram,
    /// Frames that waited in a stream's queue when the engine came for them.
    pub queue: Histogram,
    /// From the arrival of a pose's newest frame to its being ready for the client.
    pub latency: Histogram,
    /// One run of the engine over what was due.
    pub run: Histogram,
    /// How often the engine failed.
    pub engine_failures: Counter,
    /// 1 = the engine runs.
    pub engine_ready: Gauge,
}

impl Metrics {
    pub fn new() -> Self {
        let powers_of_two = || Histogram::new(exponential_buckets(1.0, 2.0, 12));
        // 0.25 ms to 8 s
        let times = || Histogram::new(exponential_buckets(0.000_25, 2.0, 16));
        let mut registry = Registry::with_prefix("poselift");
        let metrics = Self {
            connections: Gauge::default(),
            streams: Gauge::default(),
            frames: Counter::default(),
            poses: Counter::default(),
            dropped: Family::default(),
            refused: Family::default(),
            infers: Family::default(),
            batch: powers_of_two(),
            queue: powers_of_two(),
            latency: times(),
            run: times(),
            engine_failures: Counter::default(),
            engine_ready: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("connections", "Open connections", metrics.connections.clone());
        registry.register("streams", "Open streams", metrics.streams.clone());
        registry.register("frames", "Frames that came", metrics.frames.clone());
        registry.register("poses", "Poses that were made", metrics.poses.clone());
        registry.register("dropped_frames", "Frames that gave no pose to their client", metrics.dropped.clone());
        registry.register("refused", "Connections, streams, messages and requests that were refused", metrics.refused.clone());
        registry.register("infer_requests", "Infer requests that were answered", metrics.infers.clone());
        registry.register("batch_streams", "Streams in one batch", metrics.batch.clone());
        registry.register("queue_frames", "Frames in a stream's queue when the engine came for them", metrics.queue.clone());
        let latency = "From the arrival of a pose's newest frame to the pose";
        registry.register_with_unit("latency", latency, Unit::Seconds, metrics.latency.clone());
        registry.register_with_unit("engine_run", "One run over all that is due", Unit::Seconds, metrics.run.clone());
        registry.register("engine_failures", "How often the engine failed", metrics.engine_failures.clone());
        registry.register("engine_ready", "1 while the engine runs", metrics.engine_ready.clone());
        // all reasons are there from the start, so that rates can be taken
        for reason in [Dropped::Queue, Dropped::Output, Dropped::Engine, Dropped::TooFast, Dropped::Empty] {
            metrics.dropped(reason, 0);
        }
        Self { registry, ..metrics }
    }

    pub fn dropped(&self, reason: Dropped, frames: u64) {
        self.dropped.get_or_create(&DroppedFor { reason }).inc_by(frames);
    }

    pub fn refused(&self, what: Refused) {
        self.refused.get_or_create(&RefusedAt { what }).inc();
    }

    pub fn infer(&self, answer: Answer) {
        self.infers.get_or_create(&AnsweredWith { answer }).inc();
    }

    /// All of them, as text.
    pub fn text(&self) -> String {
        let mut out = String::new();
        match text::encode(&mut out, &self.registry) {
            Ok(()) => out,
            Err(_) => String::new(), // writing to a text does not fail
        }
    }
}
