//! What a causal model is fed: frames at about its rate, each in the box that was known by then. The same code makes the input of
//! training, evaluation, clips and streams, so a stream is its clip.

use std::collections::VecDeque;

use crate::{
    Error, ImageSize, Keypoints17,
    normalise::{BoxFollower, ImageTransform, Normalisation},
    resample,
};

/// Frames, at the model's rate, that the box around the person looks back over.
pub const BOX_FRAMES: usize = 27;
/// A frame that lies within this part of the model's interval around the time that is due is taken as it is, so that a camera of 24 to
/// 40 frames a second is never resampled for a model of 30. Training varies the rate by as much.
pub const RATE_TOLERANCE: f64 = 0.25;
/// Times are sums of intervals: what is less than this part of an interval over a limit is rounding.
const ROUNDING: f64 = 1e-6;
/// The same for pauses, in seconds.
const PAUSE_ROUNDING_S: f64 = 1e-6;
/// A person who is not seen is held for so long, unless a stream says otherwise.
pub const DEFAULT_HOLD_S: f64 = 0.5;

/// The box of each frame of a stream: that around the last [`BOX_FRAMES`] frames, drifting at the rates of [`BoxFollower`].
#[derive(Clone, Debug, Default)]
pub struct CausalBox {
    recent: VecDeque<Keypoints17>,
    follower: BoxFollower,
    last: Option<(f64, ImageTransform)>,
}

impl CausalBox {
    /// The box at `time_s`, which is later than the last. Frames of missing joints alone leave it where it is.
    ///
    /// # Errors
    /// [`Error::NoConfidentKeypoint`] as long as no keypoint has been seen.
    pub fn push(&mut self, time_s: f64, frame: &Keypoints17) -> Result<ImageTransform, Error> {
        if self.recent.len() == BOX_FRAMES {
            self.recent.pop_front();
        }
        self.recent.push_back(*frame);
        let target = match (ImageTransform::person_box(self.recent.make_contiguous()), self.last) {
            (Ok(target), _) => target,
            (Err(_), Some((_, last))) => last,
            (Err(error), None) => return Err(error),
        };
        let elapsed_s = self.last.map_or(0.0, |(last_s, _)| time_s - last_s);
        let transform = self.follower.push(target, elapsed_s);
        self.last = Some((time_s, transform));
        Ok(transform)
    }

    /// Forgets the person.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

/// Frames of any rate at about the model's. No frame waits for the next one to be resampled: where one is due between two that came, it
/// is made of both when the second comes.
#[derive(Clone, Debug)]
pub struct CausalGrid {
    fps: f64,
    /// When the last frame for the model was.
    last_step_s: Option<f64>,
    /// The last frame that came.
    last_frame: Option<(f64, Keypoints17)>,
}

impl CausalGrid {
    /// For a model of `fps` frames a second.
    pub fn new(fps: f64) -> Self {
        Self { fps, last_step_s: None, last_frame: None }
    }

    /// Takes a frame, with a position for every joint, later than the last, and calls `step` for each frame that the model is to see,
    /// with its time, in order.
    pub fn push(&mut self, time_s: f64, frame: &Keypoints17, mut step: impl FnMut(f64, Keypoints17)) {
        let before = self.last_frame.replace((time_s, *frame));
        let (Some(mut last_step_s), Some((before_s, before))) = (self.last_step_s, before) else {
            self.last_step_s = Some(time_s);
            return step(time_s, *frame);
        };
        loop {
            let late = (time_s - last_step_s) * self.fps - 1.0; // intervals after the time that is due
            if late < -RATE_TOLERANCE - ROUNDING {
                break;
            }
            if late <= RATE_TOLERANCE + ROUNDING {
                last_step_s = time_s;
                step(time_s, *frame);
                break;
            }
            last_step_s += 1.0 / self.fps;
            let share = ((last_step_s - before_s) / (time_s - before_s)) as f32;
            step(last_step_s, resample::keypoints_between(&before, frame, share.clamp(0.0, 1.0)));
        }
        self.last_step_s = Some(last_step_s);
    }

    /// The end: the last frame that came, where the model has not seen it, is seen too. Forgets all.
    pub fn finish(&mut self, step: impl FnOnce(f64, Keypoints17)) {
        if let (Some((time_s, frame)), Some(last_step_s)) = (self.last_frame, self.last_step_s)
            && time_s > last_step_s
        {
            step(time_s, frame);
        }
        self.reset();
    }

    /// Forgets what it has seen.
    pub fn reset(&mut self) {
        *self = Self::new(self.fps);
    }
}

/// Whether the person of a stream is there: who is not seen for longer than is held over is lost, and whoever comes next is somebody else.
#[derive(Clone, Copy, Debug)]
pub struct Presence {
    hold_s: f64,
    last_seen_s: Option<f64>,
}

impl Presence {
    /// Nobody yet. A person is held over pauses of `hold_s` seconds.
    pub fn new(hold_s: f64) -> Self {
        Self { hold_s, last_seen_s: None }
    }

    /// Takes a frame at `time_s` and whether any joint is seen in it. `true` = whoever was there before is lost.
    pub fn push(&mut self, time_s: f64, seen: bool) -> bool {
        let lost = self.last_seen_s.is_some_and(|last_s| time_s - last_s > self.hold_s + PAUSE_ROUNDING_S);
        if lost {
            self.last_seen_s = None;
        }
        if seen {
            self.last_seen_s = Some(time_s);
        }
        lost
    }

    /// Whether somebody is there, seen or held.
    pub fn is_anybody(&self) -> bool {
        self.last_seen_s.is_some()
    }

    /// Nobody is there any more.
    pub fn reset(&mut self) {
        self.last_seen_s = None;
    }
}

/// A frame for the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// When.
    pub time_s: f64,
    /// What is seen, every joint with a position.
    pub keypoints: Keypoints17,
    /// How its pixels become the model's input.
    pub transform: ImageTransform,
}

/// From frames without holes (see [`crate::fill::CausalFill`]) to what the model sees: [`CausalGrid`], then the box.
#[derive(Clone, Debug)]
pub struct CausalSteps {
    grid: CausalGrid,
    boxes: CausalBox,
    normalisation: Normalisation,
    image: ImageSize,
}

impl CausalSteps {
    /// For pictures of `image` and a model of `fps` frames a second.
    pub fn new(normalisation: Normalisation, image: ImageSize, fps: f64) -> Self {
        Self { grid: CausalGrid::new(fps), boxes: CausalBox::default(), normalisation, image }
    }

    /// Takes a frame later than the last and calls `step` with what the model is to see, in order.
    ///
    /// # Errors
    /// [`Error::NoConfidentKeypoint`] as long as no keypoint has been seen.
    pub fn push(&mut self, time_s: f64, frame: &Keypoints17, mut step: impl FnMut(Step)) -> Result<(), Error> {
        let Self { grid, boxes, normalisation, image } = self;
        let mut outcome = Ok(());
        grid.push(time_s, frame, |time_s, keypoints| match boxed(boxes, *normalisation, *image, time_s, keypoints) {
            Ok(made) => step(made),
            Err(error) => outcome = Err(error),
        });
        outcome
    }

    /// The end: the last frame that came is seen by the model, where it was not. Forgets all.
    pub fn finish(&mut self, step: impl FnOnce(Step)) {
        let Self { grid, boxes, normalisation, image } = self;
        grid.finish(|time_s, keypoints| {
            // whoever has been pushed before has a box
            if let Ok(made) = boxed(boxes, *normalisation, *image, time_s, keypoints) {
                step(made);
            }
        });
        self.reset();
    }

    /// Forgets the person.
    pub fn reset(&mut self) {
        self.grid.reset();
        self.boxes.reset();
    }
}

fn boxed(
    boxes: &mut CausalBox,
    normalisation: Normalisation,
    image: ImageSize,
    time_s: f64,
    keypoints: Keypoints17,
) -> Result<Step, Error> {
    let transform = match normalisation {
        Normalisation::Frame => ImageTransform::frame(image),
        Normalisation::PersonBox => boxes.push(time_s, &keypoints)?,
    };
    Ok(Step { time_s, keypoints, transform })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{JOINTS, Keypoint};
    use proptest::prelude::*;

    fn frame(x_px: f64) -> Keypoints17 {
        std::array::from_fn(|j| Keypoint::new(x_px as f32 + j as f32, 10.0 * j as f32, 0.5))
    }

    fn steps(fps: f64, times_s: &[f64]) -> Vec<(f64, f32)> {
        let (mut grid, mut steps) = (CausalGrid::new(fps), Vec::new());
        times_s.iter().for_each(|&t| grid.push(t, &frame(100.0 * t), |time_s, keypoints| steps.push((time_s, keypoints[0].x_px))));
        steps
    }

    #[test]
    fn cameras_near_the_models_rate_are_taken_as_they_are() {
        for fps in [24.0, 25.0, 29.97, 30.0, 36.0, 40.0] {
            let times_s: Vec<f64> = (0..50).map(|i| 3.0 + f64::from(i) / fps).collect();
            assert_eq!(steps(30.0, &times_s).iter().map(|s| s.0).collect::<Vec<_>>(), times_s, "{fps}");
        }
        // every second frame of 60
        let times_s: Vec<f64> = (0..50).map(|i| f64::from(i) / 60.0).collect();
        assert_eq!(steps(30.0, &times_s).len(), 25);
    }

    #[test]
    fn a_hole_is_bridged_when_the_next_frame_comes() {
        let found = steps(10.0, &[1.0, 1.1, 1.5]);
        let times: Vec<f64> = found.iter().map(|s| s.0).collect();
        assert!(times.iter().zip([1.0, 1.1, 1.2, 1.3, 1.4, 1.5]).all(|(a, b)| (a - b).abs() < 1e-9) && times.len() == 6, "{times:?}");
        assert!(found.iter().all(|&(t, x)| (f64::from(x) - 100.0 * t).abs() < 1e-3));
    }

    proptest! {
        #[test]
        fn steps_keep_to_the_rate_and_never_see_the_future(gaps in prop::collection::vec(0.004f64..0.2, 1..60)) {
            let times_s: Vec<f64> = gaps.iter().scan(5.0, |t, gap| { *t += gap; Some(*t) }).collect();
            let found = steps(30.0, &times_s);
            for pair in found.windows(2) {
                let interval = (pair[1].0 - pair[0].0) * 30.0;
                prop_assert!((interval - 1.0).abs() <= RATE_TOLERANCE + 1e-5, "{interval}");
            }
            prop_assert!(found.iter().all(|&(t, x)| (f64::from(x) - 100.0 * t).abs() < 0.01));
            // what comes later changes nothing before
            for n in 1..times_s.len() {
                let earlier = steps(30.0, &times_s[..n]);
                prop_assert_eq!(&earlier[..], &found[..earlier.len()]);
            }
        }
    }

    #[test]
    fn the_last_frame_is_always_seen() {
        for (times_s, last) in [(vec![1.0, 1.1], None), (vec![1.0, 1.02], Some(1.02))] {
            let (mut grid, mut seen) = (CausalGrid::new(10.0), None);
            times_s.iter().for_each(|&t| grid.push(t, &frame(t), |_, _| ()));
            grid.finish(|t, _| seen = Some(t));
            assert_eq!(seen, last);
            grid.finish(|_, _| panic!("it has forgotten all"));
        }
    }

    #[test]
    fn the_box_looks_back_only() {
        let mut boxes = CausalBox::default();
        assert!(boxes.push(0.0, &[Keypoint::MISSING; JOINTS]).is_err());
        let first = boxes.push(0.1, &frame(0.0)).unwrap();
        assert_eq!(first, ImageTransform::person_box(&[frame(0.0)]).unwrap());
        // nobody for a while: it stays
        for i in 0..60 {
            assert_eq!(boxes.push(0.2 + f64::from(i) / 30.0, &frame(0.0).map(|k| Keypoint { confidence: 0.0, ..k })).unwrap(), first);
        }
        let moved = boxes.push(3.0, &frame(40.0)).unwrap();
        assert!(moved.centre_px[0] > first.centre_px[0]);
        boxes.reset();
        assert_eq!(boxes.push(9.0, &frame(0.0)).unwrap(), first);
    }
}
