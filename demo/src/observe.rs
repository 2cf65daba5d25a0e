//! The 2D half: everyone's keypoints over a clip, from a video or from a file.

use std::collections::BTreeMap;
use std::path::Path;

use pose::{ImageSize, Keypoint, KeypointClip, Keypoints17};

use crate::decode::Decoder;
use crate::detect::Detector;
use crate::progress::{Meter, Progress};
use crate::track::Tracker;
use crate::video;

/// Someone who is out of sight for longer is absent: no motion is made up for them.
pub const LONGEST_GAP_S: f64 = runtime::LONGEST_PAUSE_S;

/// Which part of a video.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Section {
    /// First moment, in the video's own time.
    pub start_s: f64,
    /// Length; infinite for all the rest.
    pub duration_s: f64,
}

impl Section {
    /// Where a moment lies: before the section, in it, or after it.
    pub fn place(&self, time_s: f64) -> std::cmp::Ordering {
        // Frame times are rounded somewhere: half a millisecond decides nothing.
        const ROUNDING_S: f64 = 5e-4;
        if time_s < self.start_s - ROUNDING_S {
            std::cmp::Ordering::Less
        } else if time_s < self.start_s + self.duration_s - ROUNDING_S {
            std::cmp::Ordering::Equal
        } else {
            std::cmp::Ordering::Greater
        }
    }
}

/// Someone seen for less time than this is nobody, if anybody was seen for longer.
const BRIEFEST_S: f64 = 0.3;

/// A clip's frames, and everyone in them.
#[derive(Debug, Clone, PartialEq)]
pub struct Everyone {
    /// Time of every frame of the section, rising.
    pub all_times_s: Vec<f64>,
    /// The upright picture.
    pub image: ImageSize,
    /// In the order of their first appearance; at least one.
    pub people: Vec<Person>,
}

/// One person of a clip.
#[derive(Debug, Clone, PartialEq)]
pub struct Person {
    /// Counted from 1 in the order of first appearance.
    pub id: u64,
    /// Time in sight (seconds) times mean size in it (heights of the picture): how prominent the person is.
    pub prominence: f64,
    /// What was seen of them.
    pub observation: Observation,
}

/// A clip's frames, and one person in them.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// Time of every frame of the section, rising.
    pub all_times_s: Vec<f64>,
    /// The frames that are lifted: all but those of long absences.
    pub clip: KeypointClip,
    /// For each frame of `clip` its index among `all_times_s`.
    pub frame: Vec<usize>,
    /// For each frame of `clip` whether the person was seen; where not, the keypoints are interpolated with confidence 0.
    pub person_found: Vec<bool>,
}

impl Everyone {
    /// Mean frames a second of the section.
    pub fn fps(&self) -> Option<f64> {
        mean_fps(&self.all_times_s)
    }
}

impl Observation {
    /// Frames in which the person was seen.
    pub fn frames_seen(&self) -> usize {
        self.person_found.iter().filter(|&&found| found).count()
    }
}

/// Frames a second over all of them; `None` of a single one.
pub fn mean_fps(times_s: &[f64]) -> Option<f64> {
    let (first, last) = (times_s.first()?, times_s.last()?);
    (last > first).then(|| (times_s.len() - 1) as f64 / (last - first))
}

/// Why there is nothing to lift.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// See [`video::Error`].
    #[error(transparent)]
    Video(#[from] video::Error),
    /// The detector failed.
    #[error("{0:#}")]
    Detector(anyhow::Error),
    /// The section of the video has no frames.
    #[error("the video {path} has no frames {section}; it is {length_s:.2} s long")]
    NoFrames {
        /// The video.
        path: String,
        /// Which part was asked for.
        section: String,
        /// Time of the last frame.
        length_s: f64,
    },
    /// Nobody in any frame.
    #[error("no person was found in any of the {frames} frames of {path}: give a clip in which one is to be seen from head to foot")]
    NoPerson {
        /// Where from.
        path: String,
        /// How many frames were searched.
        frames: usize,
    },
    /// Keypoints that make no clip.
    #[error(transparent)]
    Keypoints(#[from] pose::Error),
    /// A keypoint file that cannot be read.
    #[error(transparent)]
    File(#[from] formats::Error),
}

/// Follows everyone, at most so many at a time, through a section of a video.
///
/// # Errors
/// See [`Error`].
pub fn observe_video(
    path: &Path,
    section: Section,
    detector: &mut dyn Detector,
    most: usize,
    progress: &Progress,
    decode: &mut Meter,
    detect: &mut Meter,
) -> Result<Everyone, Error> {
    let mut decoder = Decoder::section(path, section)?;
    let bar = progress.bar("detect", decoder.expected_frames());
    let (mut tracker, mut sightings) = (Tracker::new(most), Sightings::default());
    let (mut times_s, mut image) = (Vec::new(), None);
    while let Some(picture) = decoder.take()? {
        let (time_s, frame) = (picture.time_s, &picture.frame);
        let size = *image.get_or_insert(image_size(frame));
        detect.measure(|| -> Result<(), Error> {
            let expected = tracker.expected(time_s);
            let detected = detector.detect(frame, time_s, &expected, most).map_err(Error::Detector)?;
            for seen in tracker.update(Some(frame), time_s, &detected, detector.joints()) {
                let size_in_heights = seen.box_px.height.max(seen.box_px.width) / size.height_px.max(1) as f32;
                sightings.add(seen.track, times_s.len(), seen.keypoints, size_in_heights);
            }
            Ok(())
        })?;
        detect.count(1);
        times_s.push(time_s);
        decoder.recycle(picture);
        bar.inc(1);
        bar.set_message(format!("detect {}", detect.rate_text()));
    }
    bar.finish_and_clear();
    let end = decoder.finish();
    *decode = end.meter;
    let Some(image) = image else {
        let section = if section.start_s > 0.0 { format!("after {} s", section.start_s) } else { "at all".to_owned() };
        return Err(Error::NoFrames { path: path.display().to_string(), section, length_s: end.last_s });
    };
    if end.reached_end
        && let Some(claimed) = end.claimed_frames.filter(|_| section.start_s <= 0.0)
    {
        let read = times_s.len() as u64;
        if read * 10 < claimed * 9 {
            tracing::warn!("only {read} of the {claimed} frames of {} could be decoded: it may be damaged", path.display());
        }
    }
    let frames = times_s.len();
    let people = sightings.people(&tracker, &times_s, image);
    if people.is_empty() {
        return Err(Error::NoPerson { path: path.display().to_string(), frames });
    }
    Ok(Everyone { all_times_s: times_s, image, people })
}

fn image_size(frame: &opencv::core::Mat) -> ImageSize {
    crate::blazepose::image_size(frame)
}

/// One person in one frame.
#[derive(Debug, Clone)]
struct Sighting {
    frame: usize,
    keypoints: Keypoints17,
    /// In heights of the picture.
    size: f32,
}

/// What was seen on each track.
#[derive(Debug, Default)]
struct Sightings {
    of_track: BTreeMap<u64, Vec<Sighting>>,
}

impl Sightings {
    fn add(&mut self, track: u64, frame: usize, keypoints: Keypoints17, size: f32) {
        self.of_track.entry(track).or_default().push(Sighting { frame, keypoints, size });
    }

    /// Tracks put together to people, in the order of their first appearance. Those who were hardly seen are left out.
    fn people(self, tracker: &Tracker, times_s: &[f64], image: ImageSize) -> Vec<Person> {
        let mut of_person: BTreeMap<u64, Vec<Sighting>> = BTreeMap::new();
        for (track, sightings) in self.of_track {
            if let Some(person) = tracker.person_of(track) {
                of_person.entry(person).or_default().extend(sightings);
            }
        }
        let frame_s = match times_s {
            [first, .., last] => (last - first) / (times_s.len() - 1) as f64,
            _ => 0.0,
        };
        let mut people: Vec<Vec<Sighting>> = of_person.into_values().collect();
        let is_brief = |sightings: &[Sighting]| sightings.len() as f64 * frame_s < BRIEFEST_S;
        if people.iter().any(|sightings| !is_brief(sightings)) {
            people.retain(|sightings| !is_brief(sightings));
        }
        people.iter_mut().for_each(|sightings| sightings.sort_by_key(|sighting| sighting.frame));
        people.sort_by_key(|sightings| sightings.first().map(|sighting| sighting.frame));
        let person = |(index, sightings): (usize, Vec<Sighting>)| {
            let mut keypoints = vec![None; times_s.len()];
            let prominence = sightings.iter().map(|sighting| f64::from(sighting.size) * frame_s.max(1e-3)).sum();
            sightings.iter().for_each(|sighting| keypoints[sighting.frame] = Some(sighting.keypoints));
            let observation = assemble(times_s.to_vec(), keypoints, image)?;
            Some(Person { id: index as u64 + 1, prominence, observation })
        };
        people.into_iter().enumerate().filter_map(person).collect()
    }
}

/// Takes keypoints from a file that [`formats::keypoints`] reads.
///
/// # Errors
/// See [`Error`].
pub fn observe_file(path: &Path) -> Result<Everyone, Error> {
    let clip = formats::keypoints::read(path)?;
    clip.validate()?;
    let seen = |frame: &Keypoints17| frame.iter().any(|keypoint| !keypoint.is_missing()).then_some(*frame);
    let people: Vec<Option<Keypoints17>> = clip.frames.iter().map(seen).collect();
    let frames = people.len();
    let all_times_s = clip.times_s.clone();
    let nobody = || Error::NoPerson { path: path.display().to_string(), frames };
    let observation = assemble(clip.times_s, people, clip.image).ok_or_else(nobody)?;
    Ok(Everyone { all_times_s, image: clip.image, people: vec![Person { id: 1, prominence: 1.0, observation }] })
}

/// Keeps the frames between which nobody was absent for long; `None` where nobody ever was there.
fn assemble(all_times_s: Vec<f64>, people: Vec<Option<Keypoints17>>, image: pose::ImageSize) -> Option<Observation> {
    let seen: Vec<usize> = (0..people.len()).filter(|&i| people[i].is_some()).collect();
    let mut frame = Vec::new();
    for (k, &i) in seen.iter().enumerate() {
        if let Some(&before) = k.checked_sub(1).and_then(|k| seen.get(k))
            && all_times_s[i] - all_times_s[before] <= LONGEST_GAP_S
        {
            frame.extend(before + 1..i);
        }
        frame.push(i);
    }
    if frame.is_empty() {
        return None;
    }
    let person_found: Vec<bool> = frame.iter().map(|&i| people[i].is_some()).collect();
    let frames = frame.iter().map(|&i| people[i].unwrap_or([Keypoint::MISSING; pose::JOINTS])).collect();
    let times_s = frame.iter().map(|&i| all_times_s[i]).collect();
    let mut clip = KeypointClip { frames, times_s, image };
    interpolate_gaps(&mut clip, &person_found);
    Some(Observation { all_times_s, clip, frame, person_found })
}

/// Gives the frames of a short gap positions on the way between its ends; their confidence stays 0. They are drawn, and the
/// lifter reads them as missing.
fn interpolate_gaps(clip: &mut KeypointClip, person_found: &[bool]) {
    let seen: Vec<usize> = (0..person_found.len()).filter(|&t| person_found[t]).collect();
    for ends in seen.windows(2) {
        let (a, b) = (clip.frames[ends[0]], clip.frames[ends[1]]);
        let (a_s, b_s) = (clip.times_s[ends[0]], clip.times_s[ends[1]]);
        for t in ends[0] + 1..ends[1] {
            let share = ((clip.times_s[t] - a_s) / (b_s - a_s)) as f32;
            clip.frames[t] = std::array::from_fn(|j| {
                let between = |from: f32, to: f32| from + share * (to - from);
                Keypoint::new(between(a[j].x_px, b[j].x_px), between(a[j].y_px, b[j].y_px), 0.0)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pose::{ImageSize, JOINTS};

    const IMAGE: ImageSize = ImageSize { width_px: 640, height_px: 480 };

    fn at(x_px: f32) -> Option<Keypoints17> {
        Some([Keypoint::new(x_px, 10.0, 0.9); JOINTS])
    }

    #[test]
    fn short_gaps_are_bridged_and_long_ones_left_out() {
        let times_s: Vec<f64> = (0..9).map(|i| f64::from(i) * 0.4).collect();
        // Seen at 0, 1; gone for 0.8 s; seen at 3; gone for 1.6 s; seen at 7; gone.
        let people = vec![at(0.0), at(10.0), None, at(30.0), None, None, None, at(70.0), None];
        let observation = assemble(times_s, people, IMAGE).expect("someone is there");
        assert_eq!(observation.frame, [0, 1, 2, 3, 7]);
        assert_eq!(observation.person_found, [true, true, false, true, true]);
        assert_eq!(observation.all_times_s.len(), 9);
        assert_eq!(observation.clip.times_s[4], 7.0 * 0.4);
        let bridged = observation.clip.frames[2][5];
        assert!((bridged.x_px - 20.0).abs() < 1e-4 && bridged.is_missing());
        observation.clip.validate().expect("a valid clip");
    }

    #[test]
    fn nobody_is_nothing() {
        assert_eq!(assemble(vec![0.0, 0.1], vec![None, None], IMAGE), None);
        assert_eq!(assemble(vec![], vec![], IMAGE), None);
    }

    #[test]
    fn a_section_starts_and_ends_where_it_says() {
        use std::cmp::Ordering;
        let section = Section { start_s: 1.0, duration_s: 0.5 };
        assert_eq!(section.place(0.9), Ordering::Less);
        assert_eq!(section.place(1.0), Ordering::Equal);
        assert_eq!(section.place(1.4999), Ordering::Greater);
        assert_eq!(section.place(1.48), Ordering::Equal);
    }
}
