//! Everyone in a frame, by BlazePose.

use opencv::core::Mat;
use pose::joint_map::Source;
use pose::{ImageSize, Keypoint, Keypoints17};

use super::detection::Detection;
use super::landmarks::{BODY_LANDMARKS, Person};
use super::networks::{Error, Networks, Quality, image_size};
use super::roi::{Letterbox, Roi};
use crate::detect::{BoxPx, Detected, Detector, Expected};
use crate::track::{MOSTLY_HIDDEN, hidden_share, iou, oks};

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
/// Parts of the frame are searched one by one, which is slow, only so often while nobody is in sight.
const TILES_INTERVAL_S: f64 = 0.3;
/// New people are sought this often while others are in sight.
const SEARCH_INTERVAL_S: f64 = 0.5;
/// One of several lost people is sought at once and then this often; a single one in every frame.
const LOST_INTERVAL_S: f64 = 0.1;
/// Someone expected is the one of the frame before whose box overlaps theirs at least so much.
const SAME_BOX: f32 = 0.3;
/// Keypoints more alike than this are of one person.
const SAME_POSE: f32 = 0.65;
/// The middle of somebody whom the detector sees lies this near the middle of somebody known, in units of their square, if it is the same person.
const SAME_PLACE: f32 = 0.1;
/// Somebody's square is about so many times their height.
const SQUARE_HEIGHTS: f32 = 1.47;

/// Finds everyone by the two networks.
///
/// For each known person the landmark network runs on the square where the last frame's landmarks say they are. Where it sees
/// nobody, or somebody who cannot be the same person, the detector looks for them around their last place and in the whole
/// frame. Who is new is sought twice a second. Squares that settle on the same person are one.
#[derive(Debug)]
pub struct BlazePose {
    networks: Networks,
    quality: Quality,
    /// The people of the last frame.
    seen: Vec<Seen>,
    known: Vec<Known>,
    searched_s: f64,
    lost_searched_s: f64,
    next_tile: usize,
}

/// Somebody in the last frame.
#[derive(Debug, Clone, Copy)]
struct Seen {
    sighting: Sighting,
    box_px: BoxPx,
}

/// Somebody expected.
#[derive(Debug, Clone, Copy)]
struct Known {
    id: u64,
    sighting: Sighting,
    expected: BoxPx,
    /// In the last frame.
    in_sight: bool,
}

/// Where and when a person was seen last.
#[derive(Debug, Clone, Copy)]
struct Sighting {
    roi: Roi,
    time_s: f64,
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

/// Somebody found in this frame.
struct Found {
    person: Person,
    keypoints: Vec<Keypoint>,
    joints: Keypoints17,
    box_px: BoxPx,
    found_for: Option<u64>,
}

impl Found {
    fn new(person: Person, found_for: Option<u64>) -> Self {
        // The decoder gives finite pixels; the clamps keep what lies absurdly far outside within a clip's rules.
        let pixel = |value: f32| value.clamp(-pose::MAX_COORDINATE_PX, pose::MAX_COORDINATE_PX);
        let keypoints: [Keypoint; BODY_LANDMARKS] =
            person.landmarks.map(|landmark| Keypoint::new(pixel(landmark.x_px), pixel(landmark.y_px), landmark.visibility.clamp(0.0, 1.0)));
        let joints = Source::BlazePose33.to_h36m(&keypoints).unwrap_or([Keypoint::MISSING; pose::JOINTS]);
        let range = |value: fn(&Keypoint) -> f32| {
            keypoints.iter().fold((f32::MAX, f32::MIN), |(low, high), keypoint| (low.min(value(keypoint)), high.max(value(keypoint))))
        };
        let ((left, right), (top, bottom)) = (range(|keypoint| keypoint.x_px), range(|keypoint| keypoint.y_px));
        let box_px = BoxPx { left, top, width: (right - left).max(1.0), height: (bottom - top).max(1.0) };
        Self { person, keypoints: keypoints.to_vec(), joints, box_px, found_for }
    }

    fn is_same(&self, other: &Self) -> bool {
        let height_px = self.person.next_roi.size_px.max(other.person.next_roi.size_px) / SQUARE_HEIGHTS;
        oks(&self.joints, &other.joints, height_px).is_some_and(|oks| oks > SAME_POSE)
    }
}

impl BlazePose {
    /// A detector that has seen nobody yet.
    pub fn new(networks: Networks, quality: Quality) -> Self {
        let never = f64::NEG_INFINITY;
        Self { networks, quality, seen: Vec::new(), known: Vec::new(), searched_s: never, lost_searched_s: never, next_tile: 0 }
    }

    fn find(&mut self, frame: &Mat, time_s: f64, expected: &[Expected], most: usize) -> Result<Vec<Found>, Error> {
        self.known = self.recall(expected, image_size(frame));
        let known = self.known.clone();
        let mut found: Vec<Found> = Vec::new();
        for one in known.iter().filter(|one| one.in_sight).take(most) {
            if let Some(person) = self.look(frame, &one.sighting.roi, |roi| one.sighting.can_be(roi, time_s))? {
                admit(&mut found, Found::new(person, Some(one.id)), &known);
            }
        }
        let lost: Vec<Known> = known.into_iter().filter(|known| !found.iter().any(|found| found.found_for == Some(known.id))).collect();
        let is_due = time_s - self.searched_s >= SEARCH_INTERVAL_S || (found.is_empty() && lost.is_empty());
        let interval_s = if expected.len() > 1 { LOST_INTERVAL_S } else { 0.0 };
        let newly_lost = lost.iter().any(|lost| lost.in_sight);
        let is_lost_due = !lost.is_empty() && (newly_lost || time_s - self.lost_searched_s >= interval_s);
        if found.len() < most && (is_due || is_lost_due) {
            self.search(frame, time_s, &lost, is_due, most, &mut found)?;
        }
        Ok(found)
    }

    /// Who of those expected was seen where.
    fn recall(&self, expected: &[Expected], image: ImageSize) -> Vec<Known> {
        let mut free: Vec<Seen> = self.seen.clone();
        let recall = |expected: &Expected| {
            let overlaps = free.iter().map(|seen| iou(&expected.box_px, &seen.box_px)).enumerate();
            let nearest = overlaps.filter(|(_, overlap)| *overlap >= SAME_BOX).max_by(|a, b| a.1.total_cmp(&b.1));
            let (sighting, in_sight) = match nearest {
                Some((index, _)) => (free.swap_remove(index).sighting, true),
                None => (self.known.iter().find(|known| known.id == expected.id)?.sighting, false),
            };
            sighting.roi.is_usable(image).then_some(Known { id: expected.id, sighting, expected: expected.box_px, in_sight })
        };
        expected.iter().filter_map(recall).collect()
    }

    /// The person in a square of the frame, if someone is there who can be the one that is meant.
    fn look(&mut self, frame: &Mat, roi: &Roi, can_be: impl Fn(&Roi) -> bool) -> Result<Option<Person>, Error> {
        let person = self.networks.landmarks(frame, roi)?;
        Ok(person.filter(|person| person.score >= MIN_SCORE && can_be(&person.next_roi)))
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

    /// Looks for people who are lost, and for new ones if that `is_due`.
    fn search(&mut self, frame: &Mat, time_s: f64, lost: &[Known], is_due: bool, most: usize, found: &mut Vec<Found>) -> Result<(), Error> {
        let image = image_size(frame);
        let mut candidates = self.networks.detect(frame, &Letterbox::whole(image))?;
        self.lost_searched_s = time_s;
        for known in lost {
            let roi = known.sighting.roi;
            candidates.extend(self.networks.detect(frame, &Letterbox::around(roi.centre_px, roi.size_px * SEARCH_FACTOR))?);
        }
        if is_due {
            candidates.extend(self.search_tiles(frame, time_s, found.is_empty() && lost.is_empty() && candidates.is_empty())?);
        }
        for known in lost.iter().take(most.saturating_sub(found.len())) {
            let mut possible: Vec<Roi> = candidates.iter().map(Detection::roi).filter(|roi| known.sighting.can_be(roi, time_s)).collect();
            possible.sort_by(|a, b| known.sighting.roi.relative_distance(a).total_cmp(&known.sighting.roi.relative_distance(b)));
            possible.retain(|roi| !is_taken(roi, found));
            for roi in possible {
                let roi = self.settle(frame, roi)?;
                let Some(person) = self.look(frame, &roi, |roi| known.sighting.can_be(roi, time_s))? else { continue };
                let person = Found::new(person, Some(known.id));
                if !found.iter().any(|other| other.is_same(&person)) {
                    found.push(person);
                    break;
                }
            }
        }
        if !is_due {
            return Ok(());
        }
        self.searched_s = time_s;
        candidates.sort_by(|a, b| b.prominence().total_cmp(&a.prominence()));
        for candidate in candidates {
            let roi = candidate.roi();
            if found.len() >= most {
                break;
            }
            if is_taken(&roi, found) {
                continue;
            }
            let roi = self.settle(frame, roi)?;
            if is_taken(&roi, found) {
                continue;
            }
            if let Some(person) = self.look(frame, &roi, |_| true)? {
                let person = Found::new(person, None);
                let is_hidden = |other: &Found| hidden_share(&person.box_px, &other.box_px) > MOSTLY_HIDDEN;
                if !found.iter().any(|other| other.is_same(&person) || is_hidden(other)) {
                    found.push(person);
                }
            }
        }
        Ok(())
    }

    /// The detector on parts of the frame, where small people are seen: all of them now and then while nobody is known, or the
    /// next one.
    fn search_tiles(&mut self, frame: &Mat, time_s: f64, is_anybody_wanted: bool) -> Result<Vec<Detection>, Error> {
        let tiles = Letterbox::tiles(image_size(frame));
        let is_first = self.searched_s == f64::NEG_INFINITY;
        let chosen = if is_first || (is_anybody_wanted && time_s - self.searched_s >= TILES_INTERVAL_S) {
            tiles
        } else if is_anybody_wanted {
            Vec::new()
        } else {
            self.next_tile = (self.next_tile + 1) % tiles.len().max(1);
            tiles.into_iter().skip(self.next_tile).take(1).collect()
        };
        let mut people = Vec::new();
        for tile in chosen {
            people.extend(self.networks.detect(frame, &tile)?);
        }
        Ok(people)
    }
}

/// Adds somebody found for one of the `known`. Two squares that settled on the same person are that one of the two whom they were
/// expected to be: the other one is hidden.
fn admit(found: &mut Vec<Found>, new: Found, known: &[Known]) {
    let likelihood = |found: &Found| {
        known.iter().find(|known| Some(known.id) == found.found_for).map_or(0.0, |known| iou(&known.expected, &found.box_px))
    };
    match found.iter().position(|other| other.is_same(&new)) {
        Some(same) if likelihood(&found[same]) < likelihood(&new) => found[same] = new,
        Some(_) => {}
        None => found.push(new),
    }
}

/// Whether somebody found stands where the detector sees somebody.
fn is_taken(roi: &Roi, found: &[Found]) -> bool {
    found.iter().any(|found| found.person.next_roi.relative_distance(roi) < SAME_PLACE)
}

impl Detector for BlazePose {
    fn name(&self) -> String {
        format!("blazepose-{}", self.quality.name())
    }

    fn joints(&self) -> Source {
        Source::BlazePose33
    }

    fn detect(&mut self, frame: &Mat, time_s: f64, expected: &[Expected], most: usize) -> anyhow::Result<Vec<Detected>> {
        let found = self.find(frame, time_s, expected, most)?;
        self.seen =
            found.iter().map(|found| Seen { sighting: Sighting { roi: found.person.next_roi, time_s }, box_px: found.box_px }).collect();
        let detected = |found: Found| Detected {
            keypoints: found.keypoints,
            box_px: found.box_px,
            score: found.person.score.clamp(0.0, 1.0),
            found_for: found.found_for,
        };
        Ok(found.into_iter().map(detected).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blazepose::Landmark;

    #[test]
    fn nobody_jumps_across_the_picture() {
        let roi = Roi { centre_px: [500.0, 400.0], size_px: 200.0, angle_rad: 0.0 };
        let last = Sighting { roi, time_s: 10.0 };
        let moved = |x: f32| Roi { centre_px: [500.0 + x, 400.0], ..roi };
        let next_frame_s = 10.0 + 1.0 / 30.0;
        assert!(last.can_be(&moved(30.0), next_frame_s), "a sprint");
        assert!(!last.can_be(&moved(150.0), next_frame_s), "somebody else");
        assert!(last.can_be(&moved(150.0), 10.5), "out of sight for half a second");
        assert!(!last.can_be(&moved(900.0), 10.5), "somebody at the other end of the picture");
        assert!(last.can_be(&moved(900.0), 11.5), "back after a long time");
        assert!(!last.can_be(&Roi { size_px: 500.0, ..roi }, next_frame_s), "somebody much nearer");
    }

    /// A person whose landmarks lie along a line, 200 px high.
    fn found(x: f32, found_for: u64) -> Found {
        let landmarks = std::array::from_fn(|i| Landmark {
            x_px: x + (i % 2) as f32 * 40.0,
            y_px: 100.0 + 6.0 * i as f32,
            visibility: 0.9,
            presence: 0.9,
        });
        let next_roi = Roi { centre_px: [x + 20.0, 200.0], size_px: 300.0, angle_rad: 0.0 };
        Found::new(Person { landmarks, world_m: [[0.0; 3]; BODY_LANDMARKS], score: 0.9, next_roi }, Some(found_for))
    }

    fn known(x: f32, id: u64) -> Known {
        let Found { box_px, person, .. } = found(x, id);
        Known { id, sighting: Sighting { roi: person.next_roi, time_s: 0.0 }, expected: box_px, in_sight: true }
    }

    #[test]
    fn two_squares_on_one_person_are_the_one_who_was_expected_there() {
        let known = [known(100.0, 1), known(160.0, 2)];
        for order in [[(158.0, 1), (161.0, 2)], [(161.0, 2), (158.0, 1)]] {
            let mut people = Vec::new();
            order.into_iter().for_each(|(x, id)| admit(&mut people, found(x, id), &known));
            assert_eq!(
                people.iter().map(|found| found.found_for).collect::<Vec<_>>(),
                [Some(2)],
                "the first one's square slid onto the second"
            );
        }
        let mut people = Vec::new();
        admit(&mut people, found(100.0, 1), &known);
        admit(&mut people, found(165.0, 2), &known);
        assert_eq!(people.len(), 2);
    }
}
