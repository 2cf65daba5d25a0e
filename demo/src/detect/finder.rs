//! Finds people for networks that look at one at a time.

use opencv::core::Mat;
use pose::ImageSize;
use runtime::Device;

use super::BoxPx;
use super::view::BOX_PADDING;
use crate::blazepose::{self, Detection, Letterbox, Networks, NetworksOptions, Quality, image_size};

/// Parts of the frame are all searched, which is slow, only so often while nobody is in sight.
const TILE_INTERVAL_S: f64 = 0.3;

/// Two detections whose middles are this near each other, in units of the squares around them, are of one person.
const SAME_PLACE: f32 = 0.1;

/// A way of finding people.
pub enum Finder {
    /// The network itself, on the whole picture.
    WholePicture,
    /// BlazePose's detector.
    BlazePose {
        /// Its networks, of which only the first is used.
        networks: Box<Networks>,
        /// When all parts of the frame were searched last.
        tiles_searched_s: f64,
        /// Which part is searched next while somebody is in sight.
        next_tile: usize,
    },
}

impl Finder {
    /// BlazePose's detector.
    ///
    /// # Errors
    /// Its models are missing or cannot be opened.
    pub fn blazepose(device: Device, threads: usize) -> Result<Self, blazepose::Error> {
        // The smallest landmark network: it is opened with the detector and not used.
        let options = NetworksOptions { quality: Quality::Lite, device, threads, ..NetworksOptions::default() };
        Ok(Self::BlazePose { networks: Box::new(Networks::open(&options)?), tiles_searched_s: f64::NEG_INFINITY, next_tile: 0 })
    }

    /// Boxes around people, the most prominent first. `thorough`: nobody is in sight, so that parts of the frame are searched too.
    ///
    /// # Errors
    /// A failure of the engine or of OpenCV.
    pub fn find(&mut self, frame: &Mat, time_s: f64, thorough: bool) -> Result<Vec<BoxPx>, blazepose::Error> {
        let image = image_size(frame);
        let Self::BlazePose { networks, tiles_searched_s, next_tile } = self else {
            return Ok(if thorough { vec![whole_frame(image)] } else { Vec::new() });
        };
        let mut found = networks.detect(frame, &Letterbox::whole(image))?;
        // Small people are seen in parts of the frame only: in all of them at first and while nobody is in sight, else in one at a time.
        let mut tiles = Letterbox::tiles(image);
        if *tiles_searched_s == f64::NEG_INFINITY || (thorough && time_s - *tiles_searched_s >= TILE_INTERVAL_S) {
            *tiles_searched_s = time_s;
        } else if thorough {
            tiles.clear();
        } else {
            *next_tile = (*next_tile + 1) % tiles.len().max(1);
            tiles = tiles.into_iter().skip(*next_tile).take(1).collect();
        }
        for tile in tiles {
            found.extend(networks.detect(frame, &tile)?);
        }
        found.sort_by(|a, b| b.prominence().total_cmp(&a.prominence()));
        let mut people: Vec<Detection> = Vec::new();
        for detection in found {
            if !people.iter().any(|other| other.roi().relative_distance(&detection.roi()) < SAME_PLACE) {
                people.push(detection);
            }
        }
        Ok(people.iter().map(around_body).collect())
    }
}

/// A square around the circle that encloses the body: lying or standing, the person is in it.
fn around_body(detection: &Detection) -> BoxPx {
    let [x, y] = detection.hip_centre_px;
    let radius = (detection.circle_point_px[0] - x).hypot(detection.circle_point_px[1] - y);
    BoxPx { left: x - radius, top: y - radius, width: 2.0 * radius, height: 2.0 * radius }
}

/// The box that, with its padding, is the whole frame.
fn whole_frame(image: ImageSize) -> BoxPx {
    let [width, height] = [image.width_px, image.height_px].map(|side| side as f32);
    let [left, top] = [width, height].map(|side| side / 2.0 * (1.0 - BOX_PADDING.recip()));
    BoxPx { left, top, width: width / BOX_PADDING, height: height / BOX_PADDING }
}
