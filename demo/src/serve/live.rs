//! A camera for browsers: each gets the newest update when it is ready for it, and never holds the loop.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket};
use opencv::core::{Mat, MatTraitConst as _, Size, Vector};
use opencv::{imgcodecs, imgproc};
use serde::Serialize;
use tokio::sync::watch;

use crate::live::{LiveUpdate, Sink};

/// Pictures are shown in a pane of a page: no larger than this.
const MOST_WIDTH_PX: i32 = 960;
const JPEG_QUALITY: i32 = 80;

/// How long a browser may take to read an update.
const PATIENCE: Duration = Duration::from_secs(10);

/// A picture as JPEG.
pub type Picture = Bytes;

/// What goes out together: the picture, then the update about it.
#[derive(Debug)]
struct Moment {
    picture: Option<Picture>,
    update: String,
}

/// The newest moment, for all who watch. Cloning it gives another hold of the same.
#[derive(Clone, Debug)]
pub struct Feed {
    title: String,
    newest: watch::Sender<Option<Arc<Moment>>>,
}

/// What the page is told first.
#[derive(Serialize)]
pub(super) struct Session<'a> {
    kind: &'static str,
    title: &'a str,
}

impl Feed {
    /// `title` names the camera.
    pub fn new(title: &str) -> Self {
        Self { title: title.to_owned(), newest: watch::Sender::new(None) }
    }

    /// Whether anybody watches: without them, no picture needs to be encoded.
    pub fn is_watched(&self) -> bool {
        self.newest.receiver_count() > 0
    }

    /// Replaces the moment that is shown; `update` is JSON. Never waits: who has not read the last one yet will not see it.
    pub fn show(&self, picture: Option<Picture>, update: String) {
        self.newest.send_replace(Some(Arc::new(Moment { picture, update })));
    }

    pub(super) fn session(&self) -> Session<'_> {
        Session { kind: "live", title: &self.title }
    }

    /// Sends moments until the browser goes, or does not read.
    pub(super) async fn send_to(&self, mut socket: WebSocket) {
        let mut newest = self.newest.subscribe();
        newest.mark_changed();
        loop {
            tokio::select! {
                // the page says nothing: this is how its going is noticed
                heard = socket.recv() => match heard {
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                    _ => return,
                },
                changed = newest.changed() => if changed.is_err() { return },
            }
            let Some(moment) = newest.borrow_and_update().clone() else { continue };
            let send = async {
                if let Some(picture) = &moment.picture {
                    socket.send(Message::Binary(picture.clone())).await?;
                }
                socket.send(Message::Text(moment.update.as_str().into())).await
            };
            if !matches!(tokio::time::timeout(PATIENCE, send).await, Ok(Ok(()))) {
                return;
            }
        }
    }
}

/// Gives a live session to a [`Feed`]. Pictures are encoded on a thread of their own, the newest one only, and only while somebody
/// watches: the session's loop pays for a copy of the frame.
pub struct FeedSink {
    feed: Feed,
    slot: Arc<Slot>,
    encoder: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Slot {
    newest: Mutex<Newest>,
    wake: Condvar,
}

#[derive(Default)]
struct Newest {
    moment: Option<(LiveUpdate, Mat)>,
    is_over: bool,
}

impl FeedSink {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn new(feed: Feed) -> io::Result<Self> {
        let slot = Arc::new(Slot::default());
        let encoder = std::thread::Builder::new().name("page pictures".to_owned()).spawn({
            let (feed, slot) = (feed.clone(), slot.clone());
            move || encode(&feed, &slot)
        })?;
        Ok(Self { feed, slot, encoder: Some(encoder) })
    }
}

impl Sink for FeedSink {
    fn update(&mut self, update: &LiveUpdate, frame: &Mat) -> io::Result<()> {
        if self.feed.is_watched() {
            let moment = (update.clone(), frame.clone());
            self.slot.newest.lock().unwrap_or_else(PoisonError::into_inner).moment = Some(moment);
            self.slot.wake.notify_one();
        }
        Ok(())
    }
}

impl Drop for FeedSink {
    fn drop(&mut self) {
        self.slot.newest.lock().unwrap_or_else(PoisonError::into_inner).is_over = true;
        self.slot.wake.notify_one();
        if let Some(encoder) = self.encoder.take() {
            encoder.join().ok(); // a panic there was OpenCV's, and the session is over
        }
    }
}

fn encode(feed: &Feed, slot: &Slot) {
    loop {
        let newest = slot.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(mut newest) = slot.wake.wait_while(newest, |newest| newest.moment.is_none() && !newest.is_over) else { return };
        if newest.is_over {
            return;
        }
        let moment = newest.moment.take();
        drop(newest);
        let Some((update, frame)) = moment else { continue };
        // an update without its picture is still one
        let picture = jpeg(&frame).inspect_err(|error| tracing::warn!("a picture for the page cannot be encoded: {error}")).ok();
        // a struct of plain fields always serialises
        feed.show(picture, serde_json::to_string(&update).unwrap_or_default());
    }
}

fn jpeg(frame: &Mat) -> opencv::Result<Picture> {
    let size = frame.size()?;
    let mut small = Mat::default();
    let frame = if size.width > MOST_WIDTH_PX {
        let height = (f64::from(size.height) * f64::from(MOST_WIDTH_PX) / f64::from(size.width)).round() as i32;
        imgproc::resize(frame, &mut small, Size::new(MOST_WIDTH_PX, height.max(1)), 0.0, 0.0, imgproc::INTER_AREA)?;
        &small
    } else {
        frame
    };
    let mut bytes = Vector::new();
    imgcodecs::imencode(".jpg", frame, &mut bytes, &Vector::from_slice(&[imgcodecs::IMWRITE_JPEG_QUALITY, JPEG_QUALITY]))?;
    Ok(Picture::copy_from_slice(bytes.as_slice()))
}
