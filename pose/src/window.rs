//! A clip of any length through a network that takes windows of n frames, and its predictions back together.
//!
//! Windows overlap; where they do, predictions are averaged with weights that fall smoothly towards a window's ends, where
//! it has seen least of what comes before or after. So no seam shows.
//!
//! Values that are merged must have one unit in all windows: with [`crate::normalise::Normalisation::PersonBox`] each window
//! has its own, so turn predictions into pixels (times `half_size_px`) before merging.
//!
//! ```
//! use pose::window::{Merger, plan};
//! let clip: Vec<f32> = (0..100).map(|t| (t as f32).sin()).collect();
//! let mut merger = Merger::new(clip.len(), 1);
//! for window in plan(clip.len(), 27, 9)? {
//!     let prediction: Vec<f32> = window.indices().map(|t| clip[t]).collect();
//!     merger.add(&window, &prediction)?;
//! }
//! assert_eq!(merger.finish()?, clip);
//! # Ok::<(), pose::Error>(())
//! ```

use crate::Error;
use std::f64::consts::FRAC_PI_2;

/// One window over a clip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Frame of the clip that the window's first frame is; negative where a short clip is padded at its front.
    pub start: isize,
    /// Frames in the window: the network's n.
    pub frames: usize,
    /// Frames in the clip.
    pub length: usize,
    /// Frames over which the weight rises and falls at the window's ends.
    pub ramp: usize,
}

impl Window {
    /// The clip's frame for each frame of the window; beyond the clip's ends the end frame is repeated.
    pub fn indices(&self) -> impl ExactSizeIterator<Item = usize> + use<> {
        let Self { start, frames, length, .. } = *self;
        (0..frames).map(move |i| (start + i as isize).clamp(0, length as isize - 1) as usize)
    }

    /// The frames of a clip in this window, ends repeated. `clip` must have [`Self::length`] entries.
    pub fn gather<F: Copy>(&self, clip: &[F]) -> Vec<F> {
        self.indices().map(|t| clip[t]).collect()
    }

    /// Weight of the window's frame `i`: sin^2 of its distance to the window's nearer end, 1 beyond the ramp.
    fn weight(&self, i: usize) -> f64 {
        let distance = (i + 1).min(self.frames - i) as f64;
        (FRAC_PI_2 * (distance / (self.ramp + 1) as f64).min(1.0)).sin().powi(2)
    }

    /// The window's frames that stand for a frame of the clip, not for padding: (frame in window, frame in clip).
    fn real_frames(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (start, length) = (self.start, self.length);
        (0..self.frames).filter_map(move |i| {
            let t = usize::try_from(start + i as isize).ok()?;
            (t < length).then_some((i, t))
        })
    }
}

/// Windows of `frames` frames that cover a clip of `length` frames, evenly spread so that neighbours share at least
/// `overlap` frames. A clip shorter than a window gets one window, padded at both ends by repetition.
///
/// # Errors
/// [`Error::NoFrames`] for an empty clip, [`Error::OutOfRange`] when `frames` is 0 or `overlap` is not below `frames`.
pub fn plan(length: usize, frames: usize, overlap: usize) -> Result<Vec<Window>, Error> {
    if length == 0 {
        return Err(Error::NoFrames);
    }
    if frames == 0 {
        return Err(Error::out_of_range("frames in a window", "at least 1", frames));
    }
    if overlap >= frames {
        return Err(Error::out_of_range("overlap of windows", "fewer frames than the window has", overlap));
    }
    if length <= frames {
        let start = -((frames - length) as isize / 2);
        return Ok(vec![Window { start, frames, length, ramp: overlap }]);
    }
    let free = length - frames; // last possible start
    let steps = free.div_ceil(frames - overlap);
    let window = |k: usize| {
        let start = (k as u128 * free as u128 / steps as u128) as isize;
        Window { start, frames, length, ramp: overlap }
    };
    Ok((0..=steps).map(window).collect())
}

/// Puts the predictions of overlapping windows together.
#[derive(Clone, Debug)]
pub struct Merger {
    channels: usize,
    /// Weighted sums, (length, channels). In f64, so that equal values come back exactly.
    sums: Vec<f64>,
    /// Sum of the weights of each frame.
    weights: Vec<f64>,
}

impl Merger {
    /// For a clip of `length` frames with `channels` values each (17 * 3 for poses).
    pub fn new(length: usize, channels: usize) -> Self {
        Self { channels, sums: vec![0.0; length * channels], weights: vec![0.0; length] }
    }

    /// Adds a window's prediction: (frames, channels) row-major.
    ///
    /// # Errors
    /// [`Error::WrongLength`] when `values` or the window's clip has another size than was said.
    pub fn add(&mut self, window: &Window, values: &[f32]) -> Result<(), Error> {
        Error::check_length("window's clip", self.weights.len(), window.length)?;
        Error::check_length("values of a window", window.frames * self.channels, values.len())?;
        for (i, t) in window.real_frames() {
            let weight = window.weight(i);
            self.weights[t] += weight;
            let from = &values[i * self.channels..(i + 1) * self.channels];
            let to = &mut self.sums[t * self.channels..(t + 1) * self.channels];
            for (sum, &value) in to.iter_mut().zip(from) {
                *sum += weight * f64::from(value);
            }
        }
        Ok(())
    }

    /// The whole clip: (length, channels) row-major.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when a frame was in no window.
    pub fn finish(self) -> Result<Vec<f32>, Error> {
        if let Some(t) = self.weights.iter().position(|&w| w == 0.0) {
            return Err(Error::out_of_range(
                "windows that were merged",
                "windows over every frame of the clip",
                format!("none over frame {t}"),
            ));
        }
        let channels = self.channels.max(1);
        let merged = self.sums.iter().enumerate().map(|(i, sum)| (sum / self.weights[i / channels]) as f32);
        Ok(merged.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_short_clip_is_padded_evenly() {
        let windows = plan(2, 5, 2).unwrap();
        assert_eq!(windows.len(), 1);
        assert_eq!(windows[0].indices().collect::<Vec<_>>(), [0, 0, 1, 1, 1]);
        assert_eq!(windows[0].gather(&['a', 'b']), ['a', 'a', 'b', 'b', 'b']);
    }

    #[test]
    fn a_seam_is_a_smooth_ramp() {
        // two windows that disagree: the merge must go from one to the other in small steps
        let windows = plan(40, 25, 10).unwrap();
        assert_eq!(windows.len(), 2);
        let mut merger = Merger::new(40, 1);
        merger.add(&windows[0], &[0.0; 25]).unwrap();
        merger.add(&windows[1], &[1.0; 25]).unwrap();
        let merged = merger.finish().unwrap();
        assert_eq!((merged[0], merged[39]), (0.0, 1.0));
        for pair in merged.windows(2) {
            assert!((0.0..0.2).contains(&(pair[1] - pair[0])), "{merged:?}");
        }
    }

    #[test]
    fn wrong_sizes_are_refused() {
        assert_eq!(plan(0, 5, 1), Err(Error::NoFrames));
        assert!(plan(9, 0, 0).is_err());
        assert!(plan(9, 5, 5).is_err());
        let window = plan(9, 5, 1).unwrap()[0];
        assert!(Merger::new(9, 2).add(&window, &[0.0; 5]).is_err());
        assert!(Merger::new(8, 1).add(&window, &[0.0; 5]).is_err());
        assert!(Merger::new(9, 1).finish().is_err());
    }

    proptest! {
        #[test]
        fn windows_cover_the_clip_and_overlap(length in 1usize..600, frames in 1usize..100, overlap in 0usize..100) {
            let overlap = overlap % frames;
            let windows = plan(length, frames, overlap).unwrap();
            let mut seen = vec![0; length];
            for w in &windows {
                prop_assert_eq!(w.indices().len(), frames);
                w.real_frames().for_each(|(_, t)| seen[t] += 1);
            }
            prop_assert!(seen.iter().all(|&n| n > 0));
            for pair in windows.windows(2) {
                let shared = pair[0].start + frames as isize - pair[1].start;
                prop_assert!(shared >= overlap as isize && pair[1].start > pair[0].start);
            }
            if length >= frames {
                prop_assert_eq!(windows.last().unwrap().start as usize, length - frames);
            }
        }

        #[test]
        fn merging_windows_of_one_signal_returns_it_exactly(
            signal in prop::collection::vec(-1e4f32..1e4, 1..300), frames in 1usize..60, overlap in 0usize..60
        ) {
            let mut merger = Merger::new(signal.len(), 1);
            for w in plan(signal.len(), frames, overlap % frames).unwrap() {
                merger.add(&w, &w.gather(&signal)).unwrap();
            }
            prop_assert_eq!(merger.finish().unwrap(), signal);
        }
    }
}
