//! One person through a clip.

use opencv::core::Mat;

use super::detection::Detection;
use super::landmarks::Person;
use super::networks::{Error, Networks, image_size};
use super::roi::{Letterbox, Roi};

/// A crop with a lower score holds no person (MediaPipe's threshold).
const MIN_SCORE: f32 = 0.5;
/// How far a person's middle moves, in units of the square around the person (about 2.5 m): so much at once ...
const JUMP: f32 = 0.2;
/// ... and so much more in a second. A faster one is somebody else.
const FASTEST_PER_S: f32 = 2.5;
/// How much larger or smaller the square becomes between two looks; more means that it is somebody else.
const LARGEST_GROWTH: f32 = 2.0;
/// After this long out of sight the person may come back anywhere.
const FORGET_PLACE_S: f64 = 1.0;
/// A lost person is sought in a part of the frame this much larger than the square around them.
const SEARCH_FACTOR: f32 = 1.5;
/// Looks at a newly found person until their square moves and grows by less than this share of its size, but no more looks
/// than so many.
const SETTLED: f32 = 0.03;
const SETTLING_LOOKS: usize = 6;
/// Parts of the frame are searched one by one, which is slow, only so often.
const TILE_INTERVAL_S: f64 = 0.3;

/// Finds the most prominent person of a clip and stays with them.
///
/// While the person is in sight only the landmark network runs, on the square where the last frame's landmarks say they
/// are. When it sees nobody there, or somebody who cannot be the same person, the detector looks for the person around
/// their last place and in the whole frame; who is too far away to be them is left alone.
#[derive(Debug)]
pub struct Tracker {
    networks: Networks,
    last: Option<Sighting>,
    tiles_searched_s: f64,
}

/// Where and when the person was seen last.
#[derive(Debug, Clone, Copy)]
struct Sighting {
    roi: Roi,
    time_s: f64,
    /// In the frame before the one to come.
    in_sight: bool,
}

impl Sighting {
    /// Whether someone in `roi` at `time_s` can be the same person.
    fn can_be(&self, roi: &Roi, time_s: f64) -> bool {
        let elapsed_s = time_s - self.time_s;
        if elapsed_s > FORGET_PLACE_S {
            return true;
        }
        let growth = roi.size_px / self.roi.size_px;
        self.roi.relative_distance(roi) <= JUMP + FASTEST_PER_S * elapsed_s as f32
            && (LARGEST_GROWTH.recip()..=LARGEST_GROWTH).contains(&growth)
    }
}

impl Tracker {
    /// A tracker that has seen nobody yet.
    pub fn new(networks: Networks) -> Self {
        Self { networks, last: None, tiles_searched_s: f64::NEG_INFINITY }
    }

    /// The person in the next frame (BGR); `None` where they are not to be seen. Times rise.
    ///
    /// # Errors
    /// A failure of the engine or of OpenCV.
    pub fn step(&mut self, frame: &Mat, time_s: f64) -> Result<Option<Person>, Error> {
        if let Some(last) = self.last.filter(|last| last.in_sight)
            && let Some(person) = self.look(frame, &last.roi, time_s)?
        {
            return Ok(Some(person));
        }
        if let Some(last) = &mut self.last {
            last.in_sight = false;
        }
        for detection in self.candidates(frame, time_s)? {
            let roi = self.settle(frame, detection.roi())?;
            if let Some(person) = self.look(frame, &roi, time_s)? {
                return Ok(Some(person));
            }
        }
        Ok(None)
    }

    /// The detector's square is coarse: the landmarks in it say better where the person is, and those in that square better
    /// still. From frame to frame this happens by itself; for a person's first frame it is done here.
    fn settle(&mut self, frame: &Mat, mut roi: Roi) -> Result<Roi, Error> {
        for _ in 0..SETTLING_LOOKS {
            let Some(person) = self.networks.landmarks(frame, &roi)?.filter(|person| person.score >= MIN_SCORE) else { break };
            let next = person.next_roi;
            let moved = roi.relative_distance(&next) + (next.size_px / roi.size_px - 1.0).abs();
            roi = next;
            if moved < SETTLED {
                break;
            }
        }
        Ok(roi)
    }

    /// The person in a square of the frame, if someone is there who can be the one that is followed.
    fn look(&mut self, frame: &Mat, roi: &Roi, time_s: f64) -> Result<Option<Person>, Error> {
        let person = self
            .networks
            .landmarks(frame, roi)?
            .filter(|person| person.score >= MIN_SCORE && self.last.is_none_or(|last| last.can_be(&person.next_roi, time_s)));
        if let Some(person) = &person {
            self.last = Some(Sighting { roi: person.next_roi, time_s, in_sight: true });
        }
        Ok(person)
    }

    /// People that can be the one that is followed, the likeliest first.
    fn candidates(&mut self, frame: &Mat, time_s: f64) -> Result<Vec<Detection>, Error> {
        let image = image_size(frame);
        let mut people = self.networks.detect(frame, &Letterbox::whole(image))?;
        match self.last {
            None => {
                if people.is_empty() && time_s - self.tiles_searched_s >= TILE_INTERVAL_S {
                    self.tiles_searched_s = time_s;
                    for tile in Letterbox::tiles(image) {
                        people.extend(self.networks.detect(frame, &tile)?);
                    }
                }
                people.sort_by(|a, b| b.prominence().total_cmp(&a.prominence()));
            }
            Some(last) => {
                let around = Letterbox::around(last.roi.centre_px, last.roi.size_px * SEARCH_FACTOR);
                people.extend(self.networks.detect(frame, &around)?);
                people.retain(|person| last.can_be(&person.roi(), time_s));
                let distance = |person: &Detection| last.roi.relative_distance(&person.roi());
                people.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
            }
        }
        Ok(people)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_jumps_across_the_picture() {
        let roi = Roi { centre_px: [500.0, 400.0], size_px: 200.0, angle_rad: 0.0 };
        let last = Sighting { roi, time_s: 10.0, in_sight: true };
        let moved = |x: f32| Roi { centre_px: [500.0 + x, 400.0], ..roi };
        let next_frame_s = 10.0 + 1.0 / 30.0;
        assert!(last.can_be(&moved(30.0), next_frame_s), "a sprint");
        assert!(!last.can_be(&moved(150.0), next_frame_s), "somebody else");
        assert!(last.can_be(&moved(150.0), 10.5), "out of sight for half a second");
        assert!(!last.can_be(&moved(900.0), 10.5), "somebody at the other end of the picture");
        assert!(last.can_be(&moved(900.0), 11.5), "back after a long time");
        assert!(!last.can_be(&Roi { size_px: 500.0, ..roi }, next_frame_s), "somebody much nearer");
    }
}
