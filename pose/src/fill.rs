//! Missing keypoints over time: in a clip ([`fill_missing`]) and in a stream ([`CausalFill`]).

use crate::{Error, JOINTS, Keypoint, Keypoints17, MAX_COORDINATE_PX, keypoints::check_times, skeleton};

/// Gives every missing keypoint (confidence 0) a position and leaves its confidence at 0, so that a network that reads
/// confidences still knows.
///
/// * Between two frames that have it: linear in time. Before the first and after the last: held.
/// * A joint that the whole clip lacks sits, frame by frame, on the nearest joint along the skeleton that the clip has.
///
/// # Errors
/// [`Error::NoConfidentKeypoint`] when nothing at all is there, [`Error::WrongLength`] or [`Error::BadTime`] for times that
/// do not fit the frames.
pub fn fill_missing(frames: &mut [Keypoints17], times_s: &[f64]) -> Result<(), Error> {
    Error::check_length("times", frames.len(), times_s.len())?;
    check_times(times_s)?;
    let present: [bool; JOINTS] = std::array::from_fn(|j| frames.iter().any(|frame| !frame[j].is_missing()));
    if !present.contains(&true) {
        return Err(Error::NoConfidentKeypoint { frames: frames.len() });
    }
    for j in (0..JOINTS).filter(|&j| present[j]) {
        interpolate(frames, times_s, j);
    }
    for j in (0..JOINTS).filter(|&j| !present[j]) {
        let stand_in = nearest_present(j, &present);
        for frame in frames.iter_mut() {
            frame[j] = Keypoint { confidence: 0.0, ..frame[stand_in] };
        }
    }
    Ok(())
}

/// Fills the gaps of one joint that at least one frame has.
fn interpolate(frames: &mut [Keypoints17], times_s: &[f64], j: usize) {
    let known: Vec<usize> = (0..frames.len()).filter(|&t| !frames[t][j].is_missing()).collect();
    let (first, last) = (known[0], known[known.len() - 1]);
    let position = |frame: &Keypoints17| Keypoint { confidence: 0.0, ..frame[j] };
    let (at_first, at_last) = (position(&frames[first]), position(&frames[last]));
    frames[..first].iter_mut().for_each(|frame| frame[j] = at_first);
    frames[last + 1..].iter_mut().for_each(|frame| frame[j] = at_last);
    for gap in known.windows(2) {
        let (a, b) = (frames[gap[0]][j], frames[gap[1]][j]);
        for t in gap[0] + 1..gap[1] {
            let s = ((times_s[t] - times_s[gap[0]]) / (times_s[gap[1]] - times_s[gap[0]])) as f32;
            frames[t][j] = Keypoint::new(a.x_px + s * (b.x_px - a.x_px), a.y_px + s * (b.y_px - a.y_px), 0.0);
        }
    }
}

/// The present joint the fewest bones away. There is one.
fn nearest_present(joint: usize, present: &[bool; JOINTS]) -> usize {
    let mut reached = vec![joint]; // breadth first over the tree
    let mut next = 0;
    while let Some(&from) = reached.get(next) {
        if present[from] {
            return from;
        }
        next += 1;
        for (parent, child) in skeleton::BONES {
            let neighbour = if parent == from { child } else { parent };
            if (parent == from || child == from) && !reached.contains(&neighbour) {
                reached.push(neighbour);
            }
        }
    }
    joint
}

/// [`fill_missing`] for a stream: it knows no later frame.
///
/// * A missing joint goes along with the nearest joint of the skeleton that is seen, as far from it as it last was.
/// * Where no joint is seen, all stay where they are.
/// * A joint that has not been seen yet sits on its nearest one that is.
///
/// Confidences of filled joints stay 0.
#[derive(Clone, Debug, Default)]
pub struct CausalFill {
    /// Where each joint was in the last frame, seen or filled; `None` before the first.
    last_px: Option<[[f32; 2]; JOINTS]>,
    /// Which joints have been seen so far.
    known: [bool; JOINTS],
}

impl CausalFill {
    /// The frame with a position for every joint; `None` as long as no joint at all has been seen.
    pub fn push(&mut self, frame: &Keypoints17) -> Option<Keypoints17> {
        let seen: [bool; JOINTS] = std::array::from_fn(|j| !frame[j].is_missing());
        let Some(last_px) = self.last_px else {
            if !seen.contains(&true) {
                return None;
            }
            let filled =
                std::array::from_fn(|j| if seen[j] { frame[j] } else { unseen_at(position_px(&frame[nearest_present(j, &seen)])) });
            return Some(self.remember(filled, &seen));
        };
        // an offset can be taken only from a joint whose place was known before this frame
        let anchors: [bool; JOINTS] = std::array::from_fn(|j| seen[j] && self.known[j]);
        let fill = |j: usize| {
            if !self.known[j] && seen.contains(&true) {
                return position_px(&frame[nearest_present(j, &seen)]);
            }
            if !anchors.contains(&true) {
                return last_px[j];
            }
            let anchor = nearest_present(j, &anchors);
            let now_px = position_px(&frame[anchor]);
            let along = |k: usize| (last_px[j][k] + now_px[k] - last_px[anchor][k]).clamp(-MAX_COORDINATE_PX, MAX_COORDINATE_PX);
            [along(0), along(1)]
        };
        let filled = std::array::from_fn(|j| if seen[j] { frame[j] } else { unseen_at(fill(j)) });
        Some(self.remember(filled, &seen))
    }

    fn remember(&mut self, filled: Keypoints17, seen: &[bool; JOINTS]) -> Keypoints17 {
        self.last_px = Some(filled.map(|keypoint| position_px(&keypoint)));
        (0..JOINTS).for_each(|j| self.known[j] |= seen[j]);
        filled
    }

    /// Forgets what it has seen, for instance because another person follows.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

fn position_px(keypoint: &Keypoint) -> [f32; 2] {
    [keypoint.x_px, keypoint.y_px]
}

fn unseen_at([x_px, y_px]: [f32; 2]) -> Keypoint {
    Keypoint { x_px, y_px, confidence: 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moving(frames: usize) -> Vec<Keypoints17> {
        (0..frames).map(|t| std::array::from_fn(|j| Keypoint::new((10 * t) as f32, j as f32, 0.8))).collect()
    }

    #[test]
    fn gaps_are_bridged_in_time_and_ends_held() {
        let mut frames = moving(6);
        let times_s = [0.0, 0.1, 0.2, 0.5, 0.6, 0.7]; // a gap in the video: time counts, not the frame's number
        for t in [0, 2, 3, 5] {
            frames[t][6] = Keypoint::new(-1.0, -1.0, 0.0);
        }
        fill_missing(&mut frames, &times_s).unwrap();
        let x: Vec<f32> = frames.iter().map(|f| f[6].x_px).collect();
        let expected = [10.0, 10.0, 16.0, 34.0, 40.0, 40.0];
        assert!(x.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4), "{x:?}");
        assert_eq!(frames.iter().map(|f| f[6].confidence).collect::<Vec<_>>(), [0.0, 0.8, 0.0, 0.0, 0.8, 0.0]);
        assert_eq!(frames[3][5], moving(6)[3][5]);
    }

    #[test]
    fn a_joint_that_is_never_seen_sits_on_its_neighbour() {
        let mut frames = moving(3);
        for frame in &mut frames {
            for j in [2, 3] {
                frame[j] = Keypoint::MISSING; // right knee and ankle: the right hip is nearest
            }
        }
        fill_missing(&mut frames, &[0.0, 1.0, 2.0]).unwrap();
        for (t, frame) in frames.iter().enumerate() {
            assert_eq!(frame[2], Keypoint::new((10 * t) as f32, 1.0, 0.0));
            assert_eq!(frame[3], frame[2]);
        }
    }

    #[test]
    fn nothing_to_fill_from_is_an_error() {
        let mut frames = vec![[Keypoint::MISSING; JOINTS]; 2];
        assert_eq!(fill_missing(&mut frames, &[0.0, 1.0]), Err(Error::NoConfidentKeypoint { frames: 2 }));
        assert!(fill_missing(&mut moving(2), &[0.0]).is_err());
        assert!(fill_missing(&mut moving(2), &[1.0, 1.0]).is_err());
        assert!(fill_missing(&mut [], &[]).is_err());
    }

    #[test]
    fn a_stream_moves_missing_joints_along() {
        let mut fill = CausalFill::default();
        assert_eq!(fill.push(&[Keypoint::MISSING; JOINTS]), None);
        let at = |x_px: f32| -> Keypoints17 { std::array::from_fn(|j| Keypoint::new(x_px + j as f32, 2.0 * j as f32, 0.8)) };
        let mut first = at(100.0);
        first[3] = Keypoint::MISSING; // the right foot is not in the picture yet
        let filled = fill.push(&first).unwrap();
        assert_eq!(filled[3], Keypoint { confidence: 0.0, ..first[2] }, "it sits on the knee");
        assert_eq!(filled[4], first[4]);

        let mut next = at(150.0);
        next[16] = Keypoint::MISSING; // a wrist is hidden: it goes along with its elbow
        assert_eq!(fill.push(&next).unwrap()[16], Keypoint { confidence: 0.0, ..at(150.0)[16] });
        assert_eq!(fill.push(&next).unwrap()[3], at(150.0)[3], "seen is seen");

        // nobody: all stay
        let held = fill.push(&[Keypoint::MISSING; JOINTS]).unwrap();
        assert!(held.iter().zip(at(150.0)).all(|(h, k)| (h.x_px, h.y_px, h.confidence) == (k.x_px, k.y_px, 0.0)));
        // and one joint that comes back takes the others along
        let mut one = [Keypoint::MISSING; JOINTS];
        one[8] = at(180.0)[8];
        assert_eq!(fill.push(&one).unwrap()[16].x_px, at(180.0)[16].x_px);
        fill.reset();
        assert_eq!(fill.push(&[Keypoint::MISSING; JOINTS]), None);
    }

    #[test]
    fn a_stream_stays_within_bounds_whatever_comes() {
        let mut fill = CausalFill::default();
        for t in 0..200 {
            let mut frame = [Keypoint::MISSING; JOINTS];
            let side = if t % 2 == 0 { MAX_COORDINATE_PX } else { -MAX_COORDINATE_PX };
            frame[t % JOINTS] = Keypoint::new(side, -side, 1.0);
            assert!(fill.push(&frame).unwrap().iter().all(Keypoint::is_valid));
        }
    }
}
