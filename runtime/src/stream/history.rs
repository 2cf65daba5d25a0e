//! The last frames of a stream, and the window of the model's rate over them.

use std::collections::VecDeque;

use pose::{Keypoints17, resample};

use crate::lifter::RATE_TOLERANCE;

/// Frames that come faster than so many times the model's rate are left out, so that a window is made of a bounded number.
pub(super) const FASTEST_INPUT: f64 = 8.0;

/// The frames of one person that a window of the model can reach, oldest first.
#[derive(Clone, Debug)]
pub(super) struct History {
    frames: VecDeque<(f64, Keypoints17)>,
    /// Frames in a window.
    window: usize,
    fps: f64,
}

/// A window at the model's rate, its last frame the newest of the stream.
pub(super) struct Sampled {
    /// Rising.
    pub times_s: Vec<f64>,
    pub keypoints: Vec<Keypoints17>,
}

impl History {
    pub fn new(window: usize, fps: f64) -> Self {
        Self { frames: VecDeque::new(), window, fps }
    }

    /// Takes a frame with a position for every joint, later than all before.
    pub fn push(&mut self, time_s: f64, keypoints: Keypoints17) {
        self.frames.push_back((time_s, keypoints));
        // a window of frames that are taken as they are may be so much longer
        let reach_s = self.window as f64 * (1.0 + RATE_TOLERANCE) / self.fps;
        // the first frame before the window stays: what lies between it and the next is made of both
        while self.frames.get(1).is_some_and(|second| second.0 < time_s - reach_s) {
            self.frames.pop_front();
        }
    }

    pub fn clear(&mut self) {
        self.frames.clear();
    }

    pub fn newest_s(&self) -> Option<f64> {
        self.frames.back().map(|newest| newest.0)
    }

    /// Walks back from the newest frame in steps of the model's interval. A frame within a tenth of a step is taken as it is, as
    /// [`crate::Lifter`] does with a whole clip, and the next step starts from it; elsewhere the two neighbours are mixed. The step
    /// that would lead past the first frame leads to it, and before that it is repeated. `None` without frames.
    pub fn sample(&self) -> Option<Sampled> {
        let &(newest_s, newest) = self.frames.back()?;
        let (mut times_s, mut keypoints) = (vec![newest_s], vec![newest]);
        let mut last_s = newest_s;
        for _ in 1..self.window {
            let target_s = last_s - 1.0 / self.fps;
            let (time_s, frame) = self.at(target_s, last_s);
            times_s.push(time_s);
            keypoints.push(frame);
            last_s = time_s;
        }
        times_s.reverse();
        keypoints.reverse();
        Some(Sampled { times_s, keypoints })
    }

    /// The frame at `target_s`, and its time; before `later_s`.
    fn at(&self, target_s: f64, later_s: f64) -> (f64, Keypoints17) {
        let after = self.frames.partition_point(|frame| frame.0 <= target_s);
        let neighbours = [after.checked_sub(1), Some(after)];
        let near = neighbours.into_iter().flatten().filter_map(|i| self.frames.get(i)).filter(|frame| frame.0 < later_s);
        let nearest = near.min_by(|a, b| (a.0 - target_s).abs().total_cmp(&(b.0 - target_s).abs()));
        if let Some(nearest) = nearest.filter(|frame| (frame.0 - target_s).abs() * self.fps <= RATE_TOLERANCE) {
            return *nearest;
        }
        if let Some(first) = self.frames.front().filter(|first| target_s < first.0 && first.0 < later_s) {
            return *first;
        }
        match (after.checked_sub(1).and_then(|i| self.frames.get(i)), self.frames.get(after)) {
            (Some(before), Some(after)) => {
                let share = (target_s - before.0) / (after.0 - before.0);
                (target_s, resample::keypoints_between(&before.1, &after.1, share as f32))
            }
            (Some(only), None) | (None, Some(only)) => (target_s, only.1),
            (None, None) => (target_s, [pose::Keypoint::MISSING; pose::JOINTS]), // not reached: `sample` has a newest frame
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pose::{JOINTS, Keypoint};

    fn frame(x_px: f64) -> Keypoints17 {
        [Keypoint::new(x_px as f32, 0.0, 0.5); JOINTS]
    }

    fn history(window: usize, fps: f64, times_s: &[f64]) -> History {
        let mut history = History::new(window, fps);
        times_s.iter().for_each(|&t| history.push(t, frame(100.0 * t)));
        history
    }

    #[test]
    fn frames_at_the_models_rate_are_taken_as_they_are() {
        let times_s: Vec<f64> = (0..40).map(|i| 7.0 + f64::from(i) / 29.2).collect(); // within a tenth of 30
        let sampled = history(27, 30.0, &times_s).sample().unwrap();
        assert_eq!(sampled.times_s, times_s[13..]);
        assert_eq!(sampled.keypoints, times_s[13..].iter().map(|t| frame(100.0 * t)).collect::<Vec<_>>());
    }

    #[test]
    fn other_rates_are_mixed_and_end_at_the_newest_frame() {
        for fps in [12.0, 24.0, 25.0, 48.0, 60.0, 200.0] {
            let times_s: Vec<f64> = (0..400).map(|i| f64::from(i) / fps + 0.002 * f64::from(i % 3)).collect();
            let sampled = history(27, 30.0, &times_s).sample().unwrap();
            assert_eq!(sampled.times_s.last(), times_s.last());
            for pair in sampled.times_s.windows(2) {
                assert!(((pair[1] - pair[0]) * 30.0 - 1.0).abs() <= RATE_TOLERANCE + 1e-9);
            }
            for (t, keypoints) in sampled.times_s.iter().zip(&sampled.keypoints) {
                assert!((f64::from(keypoints[3].x_px) - 100.0 * t).abs() < 1e-3);
            }
        }
    }

    #[test]
    fn before_the_first_frame_it_is_repeated() {
        let sampled = history(5, 10.0, &[3.0, 3.1]).sample().unwrap();
        assert_eq!(sampled.keypoints, [frame(300.0), frame(300.0), frame(300.0), frame(300.0), frame(310.0)]);
        assert!(sampled.times_s.is_sorted_by(|a, b| a < b));
        let sampled = history(4, 10.0, &[3.0, 3.02, 3.15]).sample().unwrap();
        assert_eq!(sampled.times_s[1..], [3.0, 3.15 - 0.1, 3.15]);
        assert!((sampled.keypoints[2][0].x_px - 305.0).abs() < 1e-3);
        assert!(history(5, 10.0, &[]).sample().is_none());
    }

    #[test]
    fn no_more_is_kept_than_a_window_needs() {
        let mut history = History::new(27, 30.0);
        for i in 0..10_000 {
            history.push(f64::from(i) / (30.0 * FASTEST_INPUT), frame(0.0));
            assert!(history.frames.len() <= (27.0 * 1.1 * FASTEST_INPUT) as usize + 3);
        }
        history.push(1e9, frame(0.0));
        assert_eq!(history.frames.len(), 2);
    }
}
