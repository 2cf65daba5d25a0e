//! Which foot stands on the floor, when and where; and legs whose standing foot does not slide.
//!
//! The camera stands still, so a foot that stands still in the room stands still in the picture too, whatever is unsure about its depth. A
//! foot is taken to bear the body while its ankle moves slowly (above all across the line of sight, where that is seen and not guessed) and lies near the floor, with hysteresis: what
//! begins a contact must be clearer than what keeps it up.

use crate::{Pose3, camera::Extrinsics, smooth};
use nalgebra::{Rotation3, Vector3};
use std::ops::Range;

/// The ankles, right and left.
pub const FEET: [usize; 2] = [3, 6];
/// Hip, knee and ankle of each leg.
const LEGS: [[usize; 3]; 2] = [[1, 2, 3], [4, 5, 6]];

/// Whether the right and the left foot stand on the floor.
pub type FootContact = [bool; 2];

/// Speed of an ankle across the line of sight that begins a contact, and that ends it, mm/s.
const ACROSS_MM_S: [f64; 2] = [200.0, 350.0];
/// The same in any direction, where the lifter's depth has its say.
const ANY_MM_S: [f64; 2] = [800.0, 1200.0];
/// Height of an ankle above where it stands that begins a contact, and that ends it, mm.
const ABOVE_MM: [f64; 2] = [110.0, 160.0];
/// Speeds are slopes over this long before and after.
const SLOPE_S: f64 = 0.07;
/// A contact is no shorter.
const SHORTEST_S: f64 = 0.1;
/// Interruptions no longer than this are none.
const LONGEST_GAP_S: f64 = 0.05;
/// A correction fades in and out over this long beside its contact.
const FADE_S: f64 = 0.2;
/// A foot this far from where it should stand does not slide: something is wrong. From the first distance on it is corrected less, from the second on not.
const MISTAKE_MM: [f64; 2] = [150.0, 300.0];

/// One foot on one place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Contact {
    /// 0 = right, 1 = left.
    pub(crate) foot: usize,
    pub(crate) frames: Range<usize>,
}

/// All contacts of a clip in camera space, given where the floor is. `ankle_mm`: height of a standing ankle.
pub(crate) fn find(camera_mm: &[Pose3], times_s: &[f64], world: &Extrinsics, ankle_mm: f64) -> Vec<Contact> {
    let mut contacts = Vec::new();
    for (foot, &ankle) in FEET.iter().enumerate() {
        let rays: Vec<[f64; 2]> = camera_mm.iter().map(|pose| ray(pose[ankle])).collect();
        let speed = |t: usize| slope_norm(&rays, times_s, t) * f64::from(camera_mm[t][ankle][2]);
        let across_mm_s: Vec<f64> = (0..rays.len()).map(speed).collect();
        let above_mm: Vec<f64> = camera_mm.iter().map(|pose| f64::from(world.to_world(pose[ankle])[2]) - ankle_mm).collect();
        let places: Vec<[f64; 3]> = camera_mm.iter().map(|pose| pose[ankle].map(f64::from)).collect();
        let any_mm_s: Vec<f64> = (0..rays.len()).map(|t| slope_norm(&places, times_s, t)).collect();
        let within = |t: usize, k: usize| across_mm_s[t] < ACROSS_MM_S[k] && any_mm_s[t] < ANY_MM_S[k] && above_mm[t] < ABOVE_MM[k];
        let mut runs = runs(rays.len(), |t| within(t, 1));
        runs.retain(|run| run.clone().any(|t| within(t, 0)));
        let mut joined: Vec<Range<usize>> = Vec::new();
        for run in runs {
            match joined.last_mut() {
                Some(last) if times_s[run.start] - times_s[last.end - 1] <= LONGEST_GAP_S => last.end = run.end,
                _ => joined.push(run),
            }
        }
        joined.retain(|run| times_s[run.end - 1] - times_s[run.start] >= SHORTEST_S);
        contacts.extend(joined.into_iter().map(|frames| Contact { foot, frames }));
    }
    contacts
}

/// Frame by frame which feet stand.
pub(crate) fn by_frame(contacts: &[Contact], frames: usize) -> Vec<FootContact> {
    let mut by_frame = vec![[false; 2]; frames];
    for contact in contacts {
        by_frame[contact.frames.clone()].iter_mut().for_each(|feet| feet[contact.foot] = true);
    }
    by_frame
}

fn ray([x, y, z]: [f32; 3]) -> [f64; 2] {
    [f64::from(x) / f64::from(z), f64::from(y) / f64::from(z)]
}

/// Length of the slope of a straight line through the points around `t`, per second.
fn slope_norm<const N: usize>(points: &[[f64; N]], times_s: &[f64], t: usize) -> f64 {
    let near = |i: &usize| (times_s[*i] - times_s[t]).abs() <= SLOPE_S;
    let first = (0..t).rev().take_while(near).last().unwrap_or(t.saturating_sub(1));
    let last = (t + 1..points.len()).take_while(near).last().unwrap_or((t + 1).min(points.len() - 1));
    let count = (last + 1 - first) as f64;
    let mean = |value: &dyn Fn(usize) -> f64| (first..=last).map(value).sum::<f64>() / count;
    let middle_s = mean(&|i| times_s[i]);
    let spread = mean(&|i| (times_s[i] - middle_s).powi(2));
    let slope = |k: usize| mean(&|i| (times_s[i] - middle_s) * points[i][k]) / spread;
    if spread > 0.0 { (0..N).map(|k| slope(k).powi(2)).sum::<f64>().sqrt() } else { 0.0 }
}

/// The runs of frames for which something holds.
fn runs(frames: usize, holds: impl Fn(usize) -> bool) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for t in (0..frames).filter(|&t| holds(t)) {
        match runs.last_mut() {
            Some(run) if run.end == t => run.end = t + 1,
            _ => runs.push(t..t + 1),
        }
    }
    runs
}

/// Where the foot of a contact stands: the middle of where its ankle was seen, moved onto the floor at the ankle's height the way that it
/// is most easily wrong: along the line of sight. In camera space.
pub(crate) fn anchor(contact: &Contact, camera_mm: &[Pose3], world: &Extrinsics, ankle_mm: f64) -> Vector3<f64> {
    const ACROSS_MM: f64 = 10.0; // uncertainty of an ankle's place across the line of sight ...
    const ALONG: f64 = 0.03; // ... and along it, as a share of its distance
    let ankles = &camera_mm[contact.frames.clone()];
    let median = |k: usize| smooth::median(&mut ankles.iter().map(|pose| f64::from(pose[FEET[contact.foot]][k])).collect::<Vec<_>>());
    let seen = Vector3::new(median(0), median(1), median(2));
    let up = Vector3::from(world.rotation[2]).cast::<f64>();
    let above_mm = up.dot(&seen) + f64::from(world.translation_mm[2]) - ankle_mm;
    let sight = seen.normalize();
    // the nearest point of the floor by the uncertainty's own measure
    let spread = |v: Vector3<f64>| ACROSS_MM.powi(2) * v + ((ALONG * seen.norm()).powi(2) - ACROSS_MM.powi(2)) * sight.dot(&v) * sight;
    let reach = spread(up);
    seen - reach * (above_mm / up.dot(&reach))
}

/// Turns (and, by a few per cent, stretches) each leg so that a standing foot is where its anchor says; the correction fades beside the
/// contact. The knee keeps its angle.
pub(crate) fn lock_feet(camera_mm: &mut [Pose3], times_s: &[f64], contacts: &[(Contact, Vector3<f64>)]) {
    for (foot, [hip, knee, ankle]) in LEGS.into_iter().enumerate() {
        let of_foot: Vec<_> = contacts.iter().filter(|(contact, _)| contact.foot == foot).collect();
        let corrections = corrections(camera_mm, times_s, &of_foot, ankle);
        for (pose, correction) in camera_mm.iter_mut().zip(corrections) {
            let (from, to) = (point(pose[hip]), point(pose[ankle]));
            let (old, new) = (to - from, to + correction - from);
            let Some(turn) = Rotation3::rotation_between(&old, &new) else { continue };
            let stretch = new.norm() / old.norm();
            if stretch.is_finite() {
                pose[knee] = (from + stretch * (turn * (point(pose[knee]) - from))).cast::<f32>().into();
                pose[ankle] = (from + new).cast::<f32>().into();
            }
        }
    }
}

fn point(p: [f32; 3]) -> Vector3<f64> {
    Vector3::from(p).cast()
}

/// By how much one ankle is moved in each frame, without steps. `contacts`: those of its foot, in order.
fn corrections(camera_mm: &[Pose3], times_s: &[f64], contacts: &[&(Contact, Vector3<f64>)], ankle: usize) -> Vec<Vector3<f64>> {
    let off = |t: usize, anchor: &Vector3<f64>| {
        let off = anchor - point(camera_mm[t][ankle]);
        off * ((MISTAKE_MM[1] - off.norm()) / (MISTAKE_MM[1] - MISTAKE_MM[0])).clamp(0.0, 1.0)
    };
    let mut corrections = vec![Vector3::zeros(); camera_mm.len()];
    for (i, (contact, anchor)) in contacts.iter().enumerate() {
        let (start, last) = (contact.frames.start, contact.frames.end - 1);
        for t in start..=last {
            corrections[t] = off(t, anchor);
        }
        // between two contacts that lie close the one hands over to the other
        let reach = |edge_s: f64, neighbour: Option<f64>| neighbour.map_or(FADE_S, |other_s| FADE_S.min((other_s - edge_s).abs()));
        let before = i.checked_sub(1).map(|k| times_s[contacts[k].0.frames.end - 1]);
        let after = contacts.get(i + 1).map(|next| times_s[next.0.frames.start]);
        let mut fade = |edge: usize, frames: &mut dyn Iterator<Item = usize>, reach_s: f64| {
            for t in frames {
                let left = 1.0 - (times_s[t] - times_s[edge]).abs() / reach_s;
                if left.is_nan() || left <= 0.0 {
                    return;
                }
                corrections[t] += left * left * (3.0 - 2.0 * left) * off(edge, anchor); // smoothstep
            }
        };
        fade(start, &mut (0..start).rev(), reach(times_s[start], before));
        fade(last, &mut (last + 1..camera_mm.len()), reach(times_s[last], after));
    }
    corrections
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A leg along x whose foot strays.
    fn strayed(by_mm: f32) -> Pose3 {
        let mut pose = [[0.0; 3]; crate::JOINTS];
        pose[1] = [0.0, -800.0, 4000.0];
        pose[2] = [100.0, -400.0, 4000.0];
        pose[3] = [by_mm, 0.0, 4000.0];
        pose
    }

    #[test]
    fn corrections_have_no_steps() {
        let times_s: Vec<f64> = (0..100).map(|t| f64::from(t) * 0.02).collect();
        let poses: Vec<Pose3> = (0..100).map(|t| strayed(0.6 * t as f32)).collect();
        let contact = |frames: Range<usize>, x_mm: f64| (Contact { foot: 0, frames }, Vector3::new(x_mm, 0.0, 4000.0));
        // two close together, one apart, one that is a mistake
        let contacts = [contact(10..30, 10.0), contact(35..50, 40.0), contact(70..80, 60.0), contact(90..95, 5000.0)];
        let mut locked = poses.clone();
        lock_feet(&mut locked, &times_s, &contacts);
        for (t, pose) in locked.iter().enumerate() {
            let there = contacts.iter().find(|(contact, _)| contact.frames.contains(&t));
            if let Some((_, anchor)) = there.filter(|(_, anchor)| anchor.x < 1000.0) {
                assert!((f64::from(pose[3][0]) - anchor.x).abs() < 1e-3, "frame {t}: {}", pose[3][0]);
            }
        }
        let step = locked.windows(2).map(|pair| (pair[1][3][0] - pair[0][3][0]).abs()).fold(0.0, f32::max);
        assert!(step < 10.0, "{step} mm in a frame");
        assert_eq!(locked[92], poses[92]);
        assert!((locked[60][3][0] - poses[60][3][0]).abs() < 1e-2, "nor is a foot moved that is far from every contact");
    }
}
