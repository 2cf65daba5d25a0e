//! A camera for browsers: each gets the newest update when it is ready for it, and never holds the loop.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket};
use serde::Serialize;
use tokio::sync::watch;

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
