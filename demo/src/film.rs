//! The result as a video.

use std::path::Path;

use opencv::core::Mat;
use runtime::LiftedClip;

use crate::observe::Observation;
use crate::picture::{Painter, Sight, Subject, panel_size};
use crate::progress::{Meter, Progress};
use crate::video::{self, VideoReader, VideoWriter264};
use crate::viewpoint::Viewpoint;

/// Frame rates that are written; a clip of one frame lasts as long as one frame at the fallback.
const FPS_RANGE: (f64, f64) = (1.0, 240.0);
const FALLBACK_FPS: f64 = 25.0;

/// Why the film could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// See [`video::Error`].
    #[error(transparent)]
    Video(#[from] video::Error),
    /// Drawing failed.
    #[error("OpenCV cannot draw the result: {0}")]
    Draw(#[from] opencv::Error),
    /// The clip's picture has no pixels.
    #[error(transparent)]
    Pose(#[from] pose::Error),
    /// The second reading of the video gave fewer frames than the first.
    #[error("the video {path} changed while it was being read: it has {found} frames now, and had {expected}")]
    Changed {
        /// The video.
        path: String,
        /// Frames read now.
        found: usize,
        /// Frames read before.
        expected: usize,
    },
}

/// Writes the film: `source` is decoded a second time for its pictures, or the 2D skeleton stands on a blank background.
///
/// The film has a constant rate, the clip's usual one, and keeps the clip's time: where the clip's frames come faster or
/// slower, frames are left out or repeated.
///
/// # Errors
/// See [`Error`].
pub fn write(
    path: &Path,
    source: Option<&Path>,
    observation: &Observation,
    lifted: &LiftedClip,
    progress: &Progress,
    meter: &mut Meter,
) -> Result<(), Error> {
    let times_s = &observation.all_times_s;
    let video = observation.clip.image;
    let world_mm = lifted.world_mm();
    let view = Viewpoint::fit(&world_mm, &lifted.times_s, panel_size(video))?;
    let mut painter = Painter::new(video, view)?;
    let mut pose_of_frame = vec![None; times_s.len()];
    observation.frame.iter().enumerate().for_each(|(pose, &frame)| pose_of_frame[frame] = Some(pose));

    let fps = usual_fps(times_s);
    let mut writer = VideoWriter264::create(path, fps, painter.size())?;
    let mut reader = source.map(|source| Rereader::open(source, times_s)).transpose()?;
    let mut picture = Mat::default();
    let bar = progress.bar("draw", Some(times_s.len() as u64));
    for (frame, repeats) in repeats(times_s, fps).into_iter().enumerate() {
        if let Some(reader) = &mut reader {
            reader.next(&mut picture, frame)?;
        }
        meter.measure(|| -> Result<(), Error> {
            let (subject, sight) = match pose_of_frame[frame] {
                Some(pose) => {
                    let subject = Subject { keypoints: &observation.clip.frames[pose], world_mm: &world_mm[pose], frame: pose };
                    (Some(subject), if observation.person_found[pose] { Sight::Seen } else { Sight::Bridged })
                }
                None => (None, Sight::Nobody),
            };
            let video = reader.as_ref().map(|_| &picture);
            if repeats > 0 {
                let painted = painter.paint(video, times_s[frame], subject, sight)?;
                for _ in 0..repeats {
                    writer.write(painted)?;
                }
            }
            Ok(())
        })?;
        meter.count(1);
        bar.inc(1);
        bar.set_message(format!("draw and encode {}", meter.rate_text()));
    }
    meter.measure(|| writer.finish())?;
    bar.finish_and_clear();
    Ok(())
}

/// The same frames of a video once more.
struct Rereader<'a> {
    reader: VideoReader,
    source: &'a Path,
    times_s: &'a [f64],
}

impl<'a> Rereader<'a> {
    fn open(source: &'a Path, times_s: &'a [f64]) -> Result<Self, Error> {
        Ok(Self { reader: VideoReader::open(source)?, source, times_s })
    }

    /// Decodes the frame with this index; frames before the section are passed over.
    fn next(&mut self, picture: &mut Mat, frame: usize) -> Result<(), Error> {
        loop {
            match self.reader.skip()? {
                Some(time_s) if time_s < self.times_s[frame] => {}
                Some(_) => return Ok(self.reader.retrieve(picture)?),
                None => {
                    let (found, expected) = (frame, self.times_s.len());
                    return Err(Error::Changed { path: self.source.display().to_string(), found, expected });
                }
            }
        }
    }
}

/// One over the median time between frames.
fn usual_fps(times_s: &[f64]) -> f64 {
    let mut steps_s: Vec<f64> = times_s.windows(2).map(|pair| pair[1] - pair[0]).collect();
    steps_s.sort_by(f64::total_cmp);
    let Some(&median_s) = steps_s.get(steps_s.len() / 2) else { return FALLBACK_FPS };
    // Times are often rounded to milliseconds; a whole rate that fits them is the one that was meant.
    let fps = 1.0 / median_s;
    let whole = fps.round();
    let fps = if (fps - whole).abs() < 0.01 { whole } else { fps };
    fps.clamp(FPS_RANGE.0, FPS_RANGE.1)
}

/// How often each frame is shown at a constant rate so that the film keeps the clip's time. Their sum is at least 1.
fn repeats(times_s: &[f64], fps: f64) -> Vec<usize> {
    let Some(&start_s) = times_s.first() else { return Vec::new() };
    // A frame stands until the next one comes; the last one for one period.
    let mut shown = 0;
    (0..times_s.len())
        .map(|frame| {
            let until = times_s.get(frame + 1).map_or(shown as f64 + 1.0, |next_s| ((next_s - start_s) * fps).round());
            let count = (until as usize).saturating_sub(shown);
            shown += count;
            count
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_rate_shows_every_frame_once() {
        for fps in [23.976, 25.0, 29.97, 30.0, 59.94, 120.0] {
            // Rounded to milliseconds, as some files are.
            let times_s: Vec<f64> = (0..1000).map(|i| (f64::from(i) / fps * 1000.0).round() / 1000.0).collect();
            let exact_s: Vec<f64> = (0..1000).map(|i| f64::from(i) / fps).collect();
            assert!((usual_fps(&exact_s) - fps).abs() < 0.005, "{fps}: {}", usual_fps(&exact_s));
            assert!(repeats(&exact_s, fps).iter().all(|&count| count == 1));
            assert!(repeats(&times_s, fps).iter().sum::<usize>().abs_diff(1000) <= 1);
        }
    }

    #[test]
    fn a_variable_rate_keeps_its_time() {
        // 30 fps, then 15 fps, then 60 fps.
        let mut times_s = vec![10.0];
        for step_s in [(1.0 / 30.0, 60), (1.0 / 15.0, 30), (1.0 / 60.0, 20)].iter().flat_map(|&(s, n)| vec![s; n]) {
            times_s.push(times_s[times_s.len() - 1] + step_s);
        }
        let counts = repeats(&times_s, usual_fps(&times_s));
        assert_eq!(usual_fps(&times_s), 30.0);
        assert!(counts[..60].iter().all(|&count| count == 1));
        assert!(counts[60..90].iter().all(|&count| count == 2));
        let length_s = times_s[times_s.len() - 1] - times_s[0];
        assert!((counts.iter().sum::<usize>() as f64 - length_s * 30.0).abs() <= 1.5);
    }

    #[test]
    fn one_frame_is_shown_once() {
        assert_eq!(repeats(&[3.0], usual_fps(&[3.0])), [1]);
    }
}
