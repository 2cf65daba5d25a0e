//! One WebSocket connection: its streams, what is read from it and what is written to it.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use formats::keypoints::{LineEvent, StreamId};
use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use pose::{Keypoints17, joint_map::Source};
use tokio::time::{interval, timeout};

use super::{
    App,
    metrics::Refused,
    protocol::{self, Open, Opened, Record, Said, Written},
    slot::{Ending, Outbox, QueuedFrame, Slot},
    ui::About,
};

/// Messages that are written before the network is asked to take them.
const WRITTEN_AT_ONCE: usize = 64;
/// How long a client may take to answer the closing of the connection.
const GOODBYE: Duration = Duration::from_secs(1);
/// A connection may send so many times the frames that the model's rate asks for, and [`SPARE_RATE`] messages a second more; what is
/// beyond that is left waiting in the network.
const FASTEST: f64 = 8.0;
const SPARE_RATE: f64 = 50.0;
/// An allowance of so many seconds can be used at once.
const BURST_S: f64 = 4.0;
/// Opening a stream costs as much as so many frames, and so do this many bytes of a message.
const OPEN_COST: f64 = 10.0;
const BYTES_PER_COST: f64 = 4096.0;

// close codes of RFC 6455, section 7.4.1
const GOING_AWAY: u16 = 1001;
const PROTOCOL: u16 = 1002;
const NO_TEXT: u16 = 1007;
const POLICY: u16 = 1008;
const TOO_BIG: u16 = 1009;

/// Why a connection ends.
enum End {
    /// The client closed it, or is gone.
    Gone,
    /// We close it, with this code and sentence.
    Close(u16, String),
    /// The server stops: streams are brought to their end first.
    Stopping,
}

/// Serves a connection until it ends.
pub(super) async fn serve(app: Arc<App>, socket: WebSocket) {
    let (mut sink, mut stream) = socket.split();
    let outbox = Arc::new(Outbox::new(app.limits.output_poses));
    let mut session = Session::new(app.clone(), outbox.clone());
    let end = {
        let mut writer = std::pin::pin!(write(&mut sink, &outbox, &app));
        let mut end = tokio::select! {
            end = session.read(&mut stream) => end,
            () = &mut writer => End::Gone,
        };
        // what has been said so far still goes out, and at a stop what the streams are owed
        let patience = match &end {
            End::Gone => Duration::ZERO,
            End::Close(..) => {
                session.abandon();
                app.limits.write_timeout.min(GOODBYE)
            }
            End::Stopping => {
                session.end_all(Ending::Stopping);
                app.limits.stop_timeout
            }
        };
        if !patience.is_zero() {
            outbox.close();
            if timeout(patience, &mut writer).await.is_err() {
                end = End::Gone;
            }
        }
        end
    };
    session.abandon();
    let (code, reason) = match end {
        End::Gone => return,
        End::Close(code, reason) => (code, reason),
        End::Stopping => (GOING_AWAY, "the server stops".to_owned()),
    };
    // a client that does not listen gets no goodbye
    let frame = CloseFrame { code, reason: shortened(&reason).into() };
    if let Ok(Ok(())) = timeout(GOODBYE, sink.send(Message::Close(Some(frame)))).await {
        timeout(GOODBYE, async { while let Some(Ok(_)) = stream.next().await {} }).await.ok();
    }
}

/// A close frame has 123 bytes for its reason.
fn shortened(reason: &str) -> &str {
    let end = (0..=reason.len().min(123)).rev().find(|&end| reason.is_char_boundary(end));
    &reason[..end.unwrap_or_default()]
}

/// Sends what waits, until all has been said or the client does not take it.
async fn write(sink: &mut (impl Sink<Message, Error = axum::Error> + Unpin), outbox: &Outbox, app: &App) {
    let mut ping = interval((app.limits.idle / 3).max(Duration::from_millis(10)));
    ping.tick().await; // the first one is at once
    loop {
        let messages: Vec<Message> = tokio::select! {
            out = outbox.take(WRITTEN_AT_ONCE) => out.into_iter().map(protocol::write).map(message).collect(),
            _ = ping.tick() => vec![Message::Ping(Default::default())],
        };
        if messages.is_empty() {
            return;
        }
        let send = async {
            for message in messages {
                sink.feed(message).await?;
            }
            sink.flush().await
        };
        if !matches!(timeout(app.limits.write_timeout, send).await, Ok(Ok(()))) {
            return;
        }
    }
}

fn message(written: Written) -> Message {
    match written {
        Written::Text(text) => Message::Text(text.into()),
        Written::Binary(bytes) => Message::Binary(bytes.into()),
    }
}

/// A stream of this connection.
struct OpenStream {
    slot: Arc<Slot>,
    id: Option<StreamId>,
    source: Source,
    last_frame: Instant,
}

struct Session {
    app: Arc<App>,
    outbox: Arc<Outbox>,
    /// By number.
    streams: HashMap<u32, OpenStream>,
    numbers: HashMap<Option<StreamId>, u32>,
    next_number: u32,
    /// Messages read so far.
    messages: u64,
    allowance: Allowance,
    last_heard: Instant,
    /// Since when there has been no stream.
    empty_since: Instant,
    /// Bad messages since this moment, at most a minute ago.
    bad: (Instant, u32),
}

impl Session {
    fn new(app: Arc<App>, outbox: Arc<Outbox>) -> Self {
        let now = Instant::now();
        Self {
            app,
            outbox,
            streams: HashMap::new(),
            numbers: HashMap::new(),
            next_number: 0,
            messages: 0,
            allowance: Allowance { left: SPARE_RATE * BURST_S, at: now },
            last_heard: now,
            empty_since: now,
            bad: (now, 0),
        }
    }

    /// Reads until the connection is to end.
    async fn read(&mut self, stream: &mut (impl Stream<Item = Result<Message, axum::Error>> + Unpin)) -> End {
        let mut stopping = self.app.stopping.clone();
        let mut tick = interval((self.app.limits.idle / 4).clamp(Duration::from_millis(10), Duration::from_secs(1)));
        loop {
            let message = tokio::select! {
                // an error is the server's end
                _ = stopping.wait_for(|stopping| *stopping) => return End::Stopping,
                _ = tick.tick() => None,
                message = stream.next() => match message {
                    None => return End::Gone,
                    Some(Err(error)) => return refusal(&error, &self.app),
                    Some(Ok(message)) => Some(message),
                },
            };
            if let Some(message) = message {
                self.last_heard = Instant::now();
                let cost = match message {
                    Message::Text(text) => self.text(&text) + text.len() as f64 / BYTES_PER_COST,
                    Message::Binary(bytes) => self.binary(&bytes) + bytes.len() as f64 / BYTES_PER_COST,
                    Message::Close(_) => return End::Gone,
                    Message::Ping(_) | Message::Pong(_) => 1.0,
                };
                let rate = FASTEST * self.app.engine.card().fps * self.outbox.open_streams() as f64 + SPARE_RATE;
                if let Some(wait) = self.allowance.pay(cost, rate) {
                    tokio::time::sleep(wait).await;
                }
            }
            if let Some(end) = self.look_after() {
                return end;
            }
        }
    }

    /// Ends what has been idle; says whether the connection as a whole is to end.
    fn look_after(&mut self) -> Option<End> {
        let idle = self.app.limits.idle;
        let now = Instant::now();
        let bad = self.outbox.take_bad();
        self.count_bad(bad);
        if self.bad.1 > self.app.limits.max_bad_messages {
            let reason = format!("more than {} bad messages within a minute (--max-bad-messages)", self.app.limits.max_bad_messages);
            self.outbox.text(protocol::error_text("limit", &reason, None, None));
            return Some(End::Close(POLICY, reason));
        }
        if self.outbox.is_flooded() {
            return Some(End::Close(POLICY, "too many messages were sent and none of the answers read".to_owned()));
        }
        let mut told = Vec::new();
        for open in self.streams.values().filter(|open| now.duration_since(open.last_frame) > idle) {
            if open.slot.end(Ending::Idle) {
                told.push(open.slot.key);
            }
        }
        told.into_iter().for_each(|key| self.app.engine.announce(key));
        if self.outbox.open_streams() > 0 {
            self.empty_since = now;
        }
        if now.duration_since(self.last_heard) > idle || now.duration_since(self.empty_since) > idle {
            return Some(End::Close(POLICY, format!("idle for more than {} s (--idle)", idle.as_secs_f64())));
        }
        None
    }

    fn count_bad(&mut self, bad: u32) {
        if self.bad.0.elapsed() > Duration::from_secs(60) {
            self.bad = (Instant::now(), 0);
        }
        self.bad.1 = self.bad.1.saturating_add(bad);
        (0..bad).for_each(|_| self.app.metrics.refused(Refused::Message));
    }

    /// A message, or part of one, is no good.
    fn refuse(&mut self, code: &str, error: &str, id: Option<&StreamId>) {
        self.count_bad(1);
        self.outbox.text(protocol::error_text(code, error, Some(self.messages), id));
    }

    /// A text message: what it costs.
    fn text(&mut self, text: &str) -> f64 {
        self.messages += 1;
        match protocol::read_text(text) {
            Err(error) => self.refuse("message", &error, None),
            Ok(Said::Open(id, open)) => {
                let opened = open.map_err(|error| ("settings", error)).and_then(|open| self.open(id.clone(), &open));
                if let Err((code, error)) = opened {
                    self.app.metrics.refused(Refused::Stream);
                    self.refuse(code, &error, id.as_ref());
                }
                return OPEN_COST;
            }
            Ok(Said::Line(id, line)) => {
                let Some((number, source)) = self.numbers.get(&id).and_then(|number| Some((*number, self.streams.get(number)?.source)))
                else {
                    self.refuse(
                        "stream",
                        "there is no such stream: open it first with {\"open\": {\"image\": ...}, \"id\": ...}",
                        id.as_ref(),
                    );
                    return 1.0;
                };
                match protocol::event(&line, source) {
                    Ok(LineEvent::Frame { time_s, keypoints }) => self.frame(number, time_s, Ok(keypoints)),
                    Ok(LineEvent::End) => self.end(number),
                    Err(error) => self.frame(number, 0.0, Err(error)),
                }
            }
        }
        1.0
    }

    /// A binary message of one or several records: what it costs.
    fn binary(&mut self, bytes: &[u8]) -> f64 {
        self.messages += 1;
        let (rest, mut cost) = (&mut &bytes[..], 1.0);
        while !rest.is_empty() {
            cost += 1.0;
            let record = match protocol::take_record(rest) {
                Ok(record) => record,
                Err(error) => {
                    self.refuse("message", &error, None);
                    break;
                }
            };
            let (Record::Frame { stream, .. } | Record::End { stream }) = record;
            let Some(source) = self.streams.get(&stream).map(|open| open.source) else {
                self.refuse("stream", &format!("there is no stream {stream}: it was not opened, or has ended"), None);
                continue;
            };
            match record {
                Record::Frame { time_s, joints, .. } => {
                    self.frame(stream, time_s, joints.map(|joints| protocol::joints(joints, source)).transpose());
                }
                Record::End { .. } => self.end(stream),
            }
        }
        cost
    }

    fn open(&mut self, id: Option<StreamId>, open: &Open) -> Result<(), (&'static str, String)> {
        let app = self.app.clone();
        let Open { form, settings } = open;
        self.streams.retain(|_, open| !open.slot.done.load(Ordering::Acquire));
        self.numbers.retain(|_, number| self.streams.contains_key(number));
        if self.numbers.contains_key(&id) {
            return Err(("stream", "this stream is open already: end it first, and wait for \"ended\"".to_owned()));
        }
        if self.outbox.open_streams() >= app.limits.max_streams_per_connection {
            return Err((
                "limit",
                format!("a connection has at most {} streams (--max-streams-per-connection)", app.limits.max_streams_per_connection),
            ));
        }
        if settings.skeleton.joints() > app.limits.max_joints {
            return Err(("limit", format!("a skeleton has at most {} joints (--max-joints)", app.limits.max_joints)));
        }
        let Some(permit) = app.streams.enter() else {
            return Err(("limit", format!("the server has at most {} streams (--max-streams): try again later", app.limits.max_streams)));
        };
        let options = settings.options().map_err(|error| ("settings", error.to_string()))?;
        let Some(seat) = app.engine.seat(settings.image, options) else {
            return Err(("engine", "the engine has failed and is being opened again: try again later".to_owned()));
        };
        let seat = seat.map_err(|error| ("settings", error.to_string()))?;

        let number = self.next_number;
        self.next_number += 1;
        let card = app.engine.card();
        let opened = Opened {
            stream: number,
            model: &card.name,
            skeleton: settings.skeleton,
            joints: settings.skeleton.joints(),
            fps: card.fps,
            delay_s: seat.delay_s(),
            form: *form,
        };
        let key = app.next_key.fetch_add(1, Ordering::Relaxed);
        let about = About { name: id.clone(), image: settings.image };
        let slot = Arc::new(Slot::new(key, number, self.outbox.clone(), about, app.limits.queue_frames, permit));
        self.outbox.open(&slot, id.clone(), *form);
        self.outbox.text(protocol::opened_text(&opened, id.as_ref()));
        app.engine.sit(slot.clone(), seat);
        self.streams.insert(number, OpenStream { slot, id: id.clone(), source: settings.skeleton, last_frame: Instant::now() });
        self.numbers.insert(id, number);
        Ok(())
    }

    /// A frame, or why it is none.
    fn frame(&mut self, number: u32, time_s: f64, keypoints: Result<Option<Keypoints17>, String>) {
        let Some(open) = self.streams.get_mut(&number) else { return };
        open.last_frame = Instant::now();
        self.app.metrics.frames.inc();
        match keypoints {
            Err(error) => open.slot.outbox.error(number, "frame", Some(self.messages), error),
            Ok(keypoints) => {
                let frame = QueuedFrame { time_s, keypoints, arrived: open.last_frame, message: self.messages };
                match open.slot.push(frame, &self.app.metrics) {
                    Some(true) => self.app.engine.announce(open.slot.key),
                    Some(false) => {}
                    None => {
                        let id = open.id.clone();
                        self.refuse("stream", "this stream has ended: open another one", id.as_ref());
                    }
                }
            }
        }
    }

    fn end(&mut self, number: u32) {
        let Some(open) = self.streams.get(&number) else { return };
        if open.slot.end(Ending::Client) {
            self.app.engine.announce(open.slot.key);
        }
    }

    fn end_all(&self, ending: Ending) {
        for open in self.streams.values() {
            if open.slot.end(ending) {
                self.app.engine.announce(open.slot.key);
            }
        }
    }

    /// Nobody is interested in the streams any more.
    fn abandon(&mut self) {
        self.end_all(Ending::Vanished);
        self.streams.clear();
        self.numbers.clear();
        self.outbox.forget_streams();
    }
}

/// Also when the task is thrown away in the middle.
impl Drop for Session {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// What to answer to bytes that are no message.
fn refusal(error: &axum::Error, app: &App) -> End {
    use std::error::Error as _;
    use tungstenite::Error as Ws;
    let Some(error) = error.source().and_then(|source| source.downcast_ref::<Ws>()) else { return End::Gone };
    let close = |code, reason| {
        app.metrics.refused(Refused::Message);
        End::Close(code, reason)
    };
    match error {
        Ws::Capacity(_) => close(TOO_BIG, format!("a message has at most {} bytes (--max-message-bytes)", app.limits.max_message_bytes)),
        Ws::Utf8(_) => close(NO_TEXT, "a text message is not UTF-8".to_owned()),
        // vanished without a word
        Ws::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake) => End::Gone,
        Ws::Protocol(error) => close(PROTOCOL, error.to_string()),
        _ => End::Gone,
    }
}

/// How much a client may send: a bucket that fills at a rate.
struct Allowance {
    left: f64,
    at: Instant,
}

impl Allowance {
    /// How long to wait before reading on, where more was spent than there was.
    fn pay(&mut self, cost: f64, rate: f64) -> Option<Duration> {
        let now = Instant::now();
        self.left = (self.left + now.duration_since(self.at).as_secs_f64() * rate).min(rate * BURST_S) - cost;
        self.at = now;
        (self.left < 0.0).then(|| Duration::from_secs_f64((-self.left / rate).min(1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_is_a_rate_with_a_burst() {
        let mut allowance = Allowance { left: 100.0, at: Instant::now() };
        assert!((0..100).all(|_| allowance.pay(0.999, 25.0).is_none()));
        let wait = allowance.pay(5.0, 25.0).unwrap();
        assert!((0.1..0.25).contains(&wait.as_secs_f64()), "{wait:?}");
    }

    #[test]
    fn reasons_fit_into_a_frame() {
        assert_eq!(shortened("short"), "short");
        assert!(shortened(&"é".repeat(100)).len() <= 123);
    }
}
