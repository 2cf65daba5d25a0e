//! The 2D half: one person's keypoints over a clip, from a video or from a file.

use std::path::Path;

use opencv::core::Mat;
use pose::joint_map::Source;
use pose::{Keypoint, KeypointClip, Keypoints17};

use crate::blazepose::{self, Person, Tracker, image_size};
use crate::progress::{Meter, Progress};
use crate::video::{self, VideoReader};

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
    /// Where a moment lies.
    fn place(&self, time_s: f64) -> std::cmp::Ordering {
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

/// A clip's frames, and the person in them.
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

/// Why there is nothing to lift.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// See [`video::Error`].
    #[error(transparent)]
    Video(#[from] video::Error),
    /// See [`blazepose::Error`].
    #[error(transparent)]
    Detector(#[from] blazepose::Error),
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

/// Follows the most prominent person through a section of a video.
///
/// # Errors
/// See [`Error`].
pub fn observe_video(
    path: &Path,
    section: Section,
    tracker: &mut Tracker,
    progress: &Progress,
    decode: &mut Meter,
    detect: &mut Meter,
) -> Result<Observation, Error> {
    let mut reader = VideoReader::open(path)?;
    let claimed = reader.frame_count();
    let section_end = ((section.start_s + section.duration_s) * reader.nominal_fps()).ceil();
    let bar = progress.bar("detect", claimed.map(|claimed| (claimed as f64).min(section_end) as u64));
    let mut frame = Mat::default();
    let (mut times_s, mut people, mut image, mut last_s) = (Vec::new(), Vec::new(), None, 0.0);
    let reached_end = loop {
        let Some(time_s) = decode.measure(|| reader.skip())? else { break true };
        last_s = time_s;
        bar.inc(1);
        match section.place(time_s) {
            std::cmp::Ordering::Less => continue,
            std::cmp::Ordering::Greater => break false,
            std::cmp::Ordering::Equal => {}
        }
        decode.measure(|| reader.retrieve(&mut frame))?;
        decode.count(1);
        image.get_or_insert_with(|| image_size(&frame));
        let person = detect.measure(|| tracker.step(&frame, time_s))?;
        detect.count(1);
        times_s.push(time_s);
        people.push(person.as_ref().map(keypoints));
        bar.set_message(format!("decode {}, detect {}", decode.rate_text(), detect.rate_text()));
    };
    bar.finish_and_clear();
    let Some(image) = image else {
        let section = if section.start_s > 0.0 { format!("after {} s", section.start_s) } else { "at all".to_owned() };
        return Err(Error::NoFrames { path: path.display().to_string(), section, length_s: last_s });
    };
    if reached_end && let Some(claimed) = claimed.filter(|_| section.start_s <= 0.0) {
        let read = times_s.len() as u64;
        if read * 10 < claimed * 9 {
            tracing::warn!("only {read} of the {claimed} frames of {} could be decoded: it may be damaged", path.display());
        }
    }
    let frames = people.len();
    assemble(times_s, people, image).ok_or_else(|| Error::NoPerson { path: path.display().to_string(), frames })
}

/// Takes keypoints from a file that [`formats::keypoints`] reads.
///
/// # Errors
/// See [`Error`].
pub fn observe_file(path: &Path) -> Result<Observation, Error> {
    let clip = formats::keypoints::read(path)?;
    clip.validate()?;
    let seen = |frame: &Keypoints17| frame.iter().any(|keypoint| !keypoint.is_missing()).then_some(*frame);
    let people: Vec<Option<Keypoints17>> = clip.frames.iter().map(seen).collect();
    let frames = people.len();
    assemble(clip.times_s, people, clip.image).ok_or_else(|| Error::NoPerson { path: path.display().to_string(), frames })
}

/// The 17 joints of a person, with the landmarks' visibility as confidence.
fn keypoints(person: &Person) -> Keypoints17 {
    // The decoder gives finite pixels; the clamps keep what lies absurdly far outside within the clip's rules.
    let pixel = |value: f32| value.clamp(-pose::MAX_COORDINATE_PX, pose::MAX_COORDINATE_PX);
    let landmarks =
        person.landmarks.map(|landmark| Keypoint::new(pixel(landmark.x_px), pixel(landmark.y_px), landmark.visibility.clamp(0.0, 1.0)));
    Source::BlazePose33.to_h36m(&landmarks).unwrap_or([Keypoint::MISSING; pose::JOINTS])
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
