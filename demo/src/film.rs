//! The result as a video: decoding, drawing and encoding side by side.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use opencv::core::Mat;
use pose::{ImageSize, Pose3};

use crate::decode::Decoder;
use crate::observe::Observation;
use crate::picture::{Painter, Sight, Subject, panel_size};
use crate::progress::{Meter, Progress};
use crate::video::{self, VideoWriter264};
use crate::viewpoint::Viewpoint;

/// Frame rates that are written; a clip of one frame lasts as long as one frame at the fallback.
const FPS_RANGE: (f64, f64) = (1.0, 240.0);
const FALLBACK_FPS: f64 = 25.0;

/// Pictures that wait for the encoder.
const ENCODE_AHEAD: usize = 3;

/// Somebody in the film.
#[derive(Debug, Clone)]
pub struct Actor<'a> {
    /// The number that is drawn where there are several.
    pub id: u64,
    /// What was seen of them.
    pub observation: &'a Observation,
    /// A pose for each frame of the observation's clip, z up.
    pub world_mm: Vec<Pose3>,
}

/// What is to be shown.
#[derive(Debug, Clone, Copy)]
pub struct Script<'a> {
    /// Time of each frame.
    pub times_s: &'a [f64],
    /// Size of the video.
    pub image: ImageSize,
    /// Everyone who is shown.
    pub actors: &'a [Actor<'a>],
    /// Whether they have numbers.
    pub numbered: bool,
}

/// How fast the parts of the work were.
#[derive(Debug, Clone, Copy, Default)]
pub struct Meters {
    /// Reading the video a second time.
    pub decode: Meter,
    /// Drawing.
    pub draw: Meter,
    /// Encoding.
    pub encode: Meter,
}

/// Why the film could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// See [`video::Error`].
    #[error(transparent)]
    Video(#[from] video::Error),
    /// Drawing failed.
    #[error("OpenCV cannot draw the result: {0}")]
    Draw(#[from] opencv::Error),
    /// The thread of the encoder is gone without a word.
    #[error("the film's encoder ended unexpectedly")]
    EncoderGone,
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

/// Writes the film: `source` is decoded a second time for its pictures, or the 2D skeletons stand on a blank background.
///
/// The film has a constant rate, the clip's usual one, and keeps the clip's time: where the clip's frames come faster or
/// slower, frames are left out or repeated.
///
/// # Errors
/// See [`Error`].
pub fn write(path: &Path, source: Option<&Path>, script: &Script<'_>, progress: &Progress) -> Result<Meters, Error> {
    let times_s = script.times_s;
    let subjects = subjects(script);
    let poses: Vec<Vec<&Pose3>> = subjects.iter().map(|subjects| subjects.iter().map(|subject| subject.world_mm).collect()).collect();
    let painter = Painter::new(script.image, Viewpoint::fit(&poses, times_s, panel_size(script.image))?, script.numbered)?;

    let fps = usual_fps(times_s);
    let repeats = repeats(times_s, fps);
    let mut encoder = Encoder::start(VideoWriter264::create(path, fps, painter.size())?);
    let wanted = || times_s.iter().zip(&repeats).map(|(&time_s, &repeats)| (time_s, repeats > 0)).collect();
    let mut decoder = source.map(|source| Decoder::times(source, wanted(), painter.video_size())).transpose()?;
    let (mut draw, bar) = (Meter::default(), progress.bar("draw", Some(times_s.len() as u64)));
    for (frame, &repeats) in repeats.iter().enumerate() {
        bar.inc(1);
        if repeats == 0 {
            continue;
        }
        let picture = match (&mut decoder, source) {
            (Some(decoder), Some(source)) => {
                let changed = || Error::Changed { path: source.display().to_string(), found: frame, expected: times_s.len() };
                Some(decoder.take()?.ok_or_else(changed)?)
            }
            _ => None,
        };
        let mut canvas = encoder.canvas();
        draw.measure(|| {
            painter.paint(&mut canvas, picture.as_ref().map(|picture| &picture.frame), frame, times_s[frame], &subjects[frame])
        })?;
        draw.count(1);
        if let (Some(decoder), Some(picture)) = (&decoder, picture) {
            decoder.recycle(picture);
        }
        encoder.write(canvas, repeats)?;
        bar.set_message(format!("draw {}", draw.rate_text()));
    }
    let encode = encoder.finish()?;
    bar.finish_and_clear();
    Ok(Meters { decode: decoder.map(|decoder| decoder.finish().meter).unwrap_or_default(), draw, encode })
}

/// Who is in each frame.
fn subjects<'a>(script: &Script<'a>) -> Vec<Vec<Subject<'a>>> {
    let mut subjects: Vec<Vec<Subject<'a>>> = vec![Vec::new(); script.times_s.len()];
    for Actor { id, observation, world_mm } in script.actors {
        for (pose, &frame) in observation.frame.iter().enumerate() {
            let sight = if observation.person_found[pose] { Sight::Seen } else { Sight::Bridged };
            subjects[frame].push(Subject { id: *id, keypoints: &observation.clip.frames[pose], world_mm: &world_mm[pose], sight });
        }
    }
    subjects
}

/// Encodes in a thread of its own.
struct Encoder {
    /// A picture, and how often it is shown.
    full: Option<SyncSender<(Mat, usize)>>,
    used: Receiver<Mat>,
    thread: Option<JoinHandle<Result<Meter, video::Error>>>,
}

impl Encoder {
    fn start(mut writer: VideoWriter264) -> Self {
        let (full, pictures): (_, Receiver<(Mat, usize)>) = sync_channel(ENCODE_AHEAD);
        let (empty, used): (Sender<Mat>, _) = channel();
        let thread = std::thread::spawn(move || {
            let mut meter = Meter::default();
            for (picture, repeats) in pictures {
                meter.measure(|| (0..repeats).try_for_each(|_| writer.write(&picture)))?;
                meter.count(1);
                // At the end nobody needs it.
                let _ = empty.send(picture);
            }
            meter.measure(|| writer.finish())?;
            Ok(meter)
        });
        Self { full: Some(full), used, thread: Some(thread) }
    }

    /// One that was encoded, to draw on; a new one while there are few.
    fn canvas(&self) -> Mat {
        self.used.try_recv().unwrap_or_default()
    }

    fn write(&mut self, picture: Mat, repeats: usize) -> Result<(), Error> {
        match self.full.as_ref().map(|full| full.send((picture, repeats))) {
            Some(Ok(())) => Ok(()),
            // The thread has failed and says why.
            _ => Err(self.finish().err().unwrap_or(Error::EncoderGone)),
        }
    }

    fn finish(&mut self) -> Result<Meter, Error> {
        self.full = None;
        let ended = self.thread.take().map(JoinHandle::join);
        Ok(ended.and_then(Result::ok).ok_or(Error::EncoderGone)??)
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        // Nothing may go on writing into a folder that is about to be removed.
        let _ = self.finish();
    }
}

/// One over the median time between frames.
fn usual_fps(times_s: &[f64]) -> f64 {
    let mut steps_s: Vec<f64> = times_s.windows(2).map(|pair| pair[1] - pair[0]).collect();
    steps_s.sort_by(f64::total_cmp);
    let Some(&median_s) = steps_s.get(steps_s.len() / 2) else { return FALLBACK_FPS };
    // Times are often rounded to milliseconds: over all frames together that is little, if the rate is constant.
    let mean_s = steps_s.iter().sum::<f64>() / steps_s.len() as f64;
    let is_constant = (mean_s - median_s).abs() < 7e-4;
    // A whole rate that fits is the one that was meant.
    let fps = 1.0 / if is_constant { mean_s } else { median_s };
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
            assert!((usual_fps(&times_s) - fps).abs() < 0.02, "{fps}: {}", usual_fps(&times_s));
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
