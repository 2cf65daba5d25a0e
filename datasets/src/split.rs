//! Videos into clips, exactly as MotionBERT and MotionAGFormer do it.

use std::ops::Range;

use rand::Rng;

use crate::random::{Stream, generator};

/// Frames of one clip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClipFrames {
    /// Frames as they follow each other.
    Run(Range<usize>),
    /// Frames of a video that is shorter than a clip, rising, some of them more than once.
    Resampled(Vec<usize>),
}

impl ClipFrames {
    /// Each frame's number in the set.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = usize> + '_ {
        let count = match self {
            Self::Run(range) => range.len(),
            Self::Resampled(frames) => frames.len(),
        };
        (0..count).map(move |i| match self {
            Self::Run(range) => range.start + i,
            Self::Resampled(frames) => frames[i],
        })
    }

    /// The first frame.
    pub fn first(&self) -> usize {
        self.iter().next().unwrap_or(0)
    }
}

/// A clip of one video.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clip {
    /// Index of the video.
    pub video: usize,
    /// Its frames.
    pub frames: ClipFrames,
}

/// Cuts videos into clips of `n_frames`, a new one every `stride` frames (a third of `n_frames` in the references' training,
/// `n_frames` in their evaluation).
///
/// As the references have it, tails are left out, and a video shorter than a clip becomes one clip by [`resample`] — except for the
/// last video of all, which is then left out. `videos` are the frames of each, one after the other; `seed` is what resampling
/// follows from, where the references' is not fixed.
pub fn split_clips(videos: &[Range<usize>], n_frames: usize, stride: usize, seed: u64) -> Vec<Clip> {
    let mut clips = Vec::new();
    for (video, frames) in videos.iter().enumerate() {
        if frames.len() >= n_frames {
            let starts = frames.clone().step_by(stride.max(1)).take_while(|start| start + n_frames <= frames.end);
            clips.extend(starts.map(|start| Clip { video, frames: ClipFrames::Run(start..start + n_frames) }));
        } else if video + 1 < videos.len() && !frames.is_empty() {
            let mut rng = generator(seed, Stream::Resample, 0, video as u64);
            let picked = resample(frames.len(), n_frames, &mut rng).into_iter().map(|t| frames.start + t).collect();
            clips.push(Clip { video, frames: ClipFrames::Resampled(picked) });
        }
    }
    clips
}

/// `target` positions out of `length` frames, of which there are fewer: evenly spread, each rounded down or up at random, sorted.
pub fn resample(length: usize, target: usize, rng: &mut impl Rng) -> Vec<usize> {
    let step = length as f64 / target as f64;
    let position = |k: usize| {
        let even = k as f64 * step;
        let rounded = if rng.random::<bool>() { even.floor() } else { even.ceil() };
        (rounded as usize).min(length.saturating_sub(1))
    };
    let mut positions: Vec<usize> = (0..target).map(position).collect();
    positions.sort_unstable();
    positions
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The loop of the references, word for word in its decisions.
    fn oracle(names: &[usize], n_frames: usize, stride: usize) -> Vec<(bool, usize, usize)> {
        let (mut clips, mut saved, mut start, mut i) = (Vec::new(), Vec::new(), 0, 0);
        while i < names.len() {
            i += 1;
            if i as isize - start as isize == n_frames as isize {
                clips.push((true, start, i));
                saved.push(names[i - 1]);
                start += stride;
            }
            if i == names.len() {
                break;
            }
            if names[i] != names[i - 1] {
                if !saved.contains(&names[i - 1]) {
                    clips.push((false, start, i));
                    saved.push(names[i - 1]);
                }
                start = i;
            }
        }
        clips
    }

    proptest! {
        #[test]
        fn splitting_is_that_of_the_references(lengths in prop::collection::vec(1usize..40, 1..8), n_frames in 1usize..20, stride in 1usize..25) {
            let names: Vec<usize> = lengths.iter().enumerate().flat_map(|(video, &length)| vec![video; length]).collect();
            let ends: Vec<usize> = lengths.iter().scan(0, |end, &length| { *end += length; Some(*end) }).collect();
            let videos: Vec<Range<usize>> = ends.iter().zip(&lengths).map(|(&end, &length)| end - length..end).collect();
            let clips = split_clips(&videos, n_frames, stride, 0);
            let expected = oracle(&names, n_frames, stride);
            prop_assert_eq!(clips.len(), expected.len());
            for (clip, (run, start, end)) in clips.iter().zip(expected) {
                match &clip.frames {
                    ClipFrames::Run(range) => prop_assert!(run && *range == (start..end)),
                    ClipFrames::Resampled(frames) => {
                        prop_assert!(!run && frames.len() == n_frames && frames.is_sorted());
                        prop_assert!(frames.iter().all(|t| (start..end).contains(t)));
                    }
                }
            }
        }

        #[test]
        fn resampling_rounds_even_positions(length in 1usize..50, more in 1usize..50, seed in 0u64..1000) {
            let target = length + more;
            let positions = resample(length, target, &mut generator(seed, Stream::Resample, 0, 0));
            for (k, &position) in positions.iter().enumerate() {
                let even = k as f64 * length as f64 / target as f64;
                prop_assert!((position as f64 - even).abs() <= 1.0); // sorting moves neighbours by at most one rounding
            }
        }
    }
}
