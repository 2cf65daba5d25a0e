//! The Human3.6M skeleton of 17 joints, as plain tables.
//!
//! "Foot" is the ankle, "Nose" lies between neck and face, "Head" is the top of the head, "Thorax" the middle of the shoulders.

use crate::JOINTS;

/// Joint names in order.
pub const NAMES: [&str; JOINTS] = [
    "Hip",
    "RHip",
    "RKnee",
    "RFoot",
    "LHip",
    "LKnee",
    "LFoot",
    "Spine",
    "Thorax",
    "Nose",
    "Head",
    "LShoulder",
    "LElbow",
    "LWrist",
    "RShoulder",
    "RElbow",
    "RWrist",
];

/// Parent of each joint; the root (joint 0) has none. A parent always comes before its children.
pub const PARENTS: [Option<usize>; JOINTS] = [
    None,
    Some(0),
    Some(1),
    Some(2),
    Some(0),
    Some(4),
    Some(5),
    Some(0),
    Some(7),
    Some(8),
    Some(9),
    Some(8),
    Some(11),
    Some(12),
    Some(8),
    Some(14),
    Some(15),
];

/// Joints of the person's left side, in the order of their twins in [`RIGHT`].
pub const LEFT: [usize; 6] = [4, 5, 6, 11, 12, 13];
/// Joints of the person's right side, in the order of their twins in [`LEFT`].
pub const RIGHT: [usize; 6] = [1, 2, 3, 14, 15, 16];

/// The 16 bones as (parent, child), in the order of the child: bone `b` ends in joint `b + 1`.
pub const BONES: [(usize, usize); JOINTS - 1] = [
    (0, 1),
    (1, 2),
    (2, 3),
    (0, 4),
    (4, 5),
    (5, 6),
    (0, 7),
    (7, 8),
    (8, 9),
    (9, 10),
    (8, 11),
    (11, 12),
    (12, 13),
    (8, 14),
    (14, 15),
    (15, 16),
];

/// The joint that takes each joint's place in a mirrored picture: left and right swapped, the rest themselves.
pub const fn flip_index() -> [usize; JOINTS] {
    let mut index = [0; JOINTS];
    let mut j = 0;
    while j < JOINTS {
        index[j] = j;
        j += 1;
    }
    let mut k = 0;
    while k < LEFT.len() {
        index[LEFT[k]] = RIGHT[k];
        index[RIGHT[k]] = LEFT[k];
        k += 1;
    }
    index
}

/// Length of each of the 16 [`BONES`], in the unit of the pose.
pub fn bone_lengths(pose: &crate::Pose3) -> [f32; JOINTS - 1] {
    BONES.map(|(parent, child)| {
        let d: [f32; 3] = std::array::from_fn(|k| pose[child][k] - pose[parent][k]);
        d.iter().map(|v| v * v).sum::<f32>().sqrt()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_agree() {
        for (b, &(parent, child)) in BONES.iter().enumerate() {
            assert_eq!(child, b + 1);
            assert_eq!(PARENTS[child], Some(parent));
            assert!(parent < child);
        }
        for (&l, &r) in LEFT.iter().zip(&RIGHT) {
            assert_eq!(NAMES[l].strip_prefix('L'), NAMES[r].strip_prefix('R'));
        }
        let flip = flip_index();
        for j in 0..JOINTS {
            assert_eq!(flip[flip[j]], j);
            // the mirrored skeleton is the same tree
            assert_eq!(PARENTS[flip[j]], PARENTS[j].map(|p| flip[p]));
        }
    }
}
