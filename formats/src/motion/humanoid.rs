//! One pose as the bones of a humanoid avatar, as Unity and the VMC protocol have them.
//!
//! * **Axes**: Unity's, left-handed, y up, metres. World `(x, y, z)` (right-handed, z up) is `(-x, z, -y)` here; a person who faces
//!   -y in our world faces +z here, and the person's left is at -x.
//! * **Rest pose**: a T-pose that faces +z, in which every bone has the axes of the world. A rotation is that of a bone against its
//!   parent, away from this pose: what `HumanBodyBones` of an avatar whose T-pose is normalised (VRM) take as they are.
//! * **Bones**: [`BONES`], those of Unity's `HumanBodyBones` that 17 joints show. The rotation of a bone points at the next joint.
//!   How bones are turned about themselves: see the BVH module, whose rotations these are.
//! * **Positions**: of a bone from its parent, in the parent's axes; of the hips, in the world. They are those of this very pose, so
//!   that forward kinematics gives its joints (all but the top of the head, which is no bone's place). Avatars of other
//!   proportions take the rotations and the hips' position alone.

use super::rig::{self, N_JOINTS};
use crate::error::Error;
use nalgebra::{UnitQuaternion, Vector3};
use pose::Pose3;

/// A bone: Unity's name, the bone above it (index in [`BONES`]), the joint of [`pose::skeleton`] that it starts at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bone {
    /// Unity's name, a value of `HumanBodyBones`.
    pub name: &'static str,
    /// Index in [`BONES`] of the bone that it hangs on; it comes before. The hips have none.
    pub parent: Option<usize>,
    /// Index in [`pose::skeleton::NAMES`] of the joint where it starts and about which it turns.
    pub joint: usize,
    /// The joint of the rig whose rotation it has.
    rig: usize,
}

/// All bones, a parent before its children.
pub const BONES: [Bone; 19] = {
    const fn bone(name: &'static str, parent: usize, joint: usize, rig: usize) -> Bone {
        Bone { name, parent: Some(parent), joint, rig }
    }
    [
        Bone { name: "Hips", parent: None, joint: 0, rig: 0 },
        bone("RightUpperLeg", 0, 1, 2),
        bone("RightLowerLeg", 1, 2, 3),
        bone("RightFoot", 2, 3, 4),
        bone("LeftUpperLeg", 0, 4, 6),
        bone("LeftLowerLeg", 4, 5, 7),
        bone("LeftFoot", 5, 6, 8),
        bone("Spine", 0, 0, 9),
        bone("Chest", 7, 7, 10),
        bone("Neck", 8, 8, 12),
        bone("Head", 9, 9, 13),
        bone("LeftShoulder", 8, 8, 15),
        bone("LeftUpperArm", 11, 11, 16),
        bone("LeftLowerArm", 12, 12, 17),
        bone("LeftHand", 13, 13, 18),
        bone("RightShoulder", 8, 8, 19),
        bone("RightUpperArm", 15, 14, 20),
        bone("RightLowerArm", 16, 15, 21),
        bone("RightHand", 17, 16, 22),
    ]
};

/// Where a bone is and how it is turned, against its parent; in Unity's axes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BonePose {
    /// Metres.
    pub position_m: [f32; 3],
    /// Unit quaternion x, y, z, w.
    pub rotation: [f32; 4],
}

/// The bones of one pose (world space, right-handed, z up, mm), in the order of [`BONES`].
///
/// # Errors
/// A coordinate that is not finite or beyond [`super::MAX_COORDINATE_MM`].
pub fn bones(pose_mm: &Pose3) -> Result<[BonePose; BONES.len()], Error> {
    super::MotionClip::new(std::slice::from_ref(pose_mm), &[0.0])?;
    let frame = rig::rigged_frame(pose_mm);
    let mut world = [UnitQuaternion::identity(); N_JOINTS];
    for (joint, rotation) in frame.rotations.iter().enumerate() {
        world[joint] = rig::JOINTS[joint].parent.map_or(*rotation, |parent| world[parent] * rotation);
    }
    let at_m = |joint: usize| Vector3::from(super::y_up(pose_mm[joint])).cast::<f64>() / 1000.0;
    Ok(BONES.map(|bone| {
        let (above, from_m) = match bone.parent {
            Some(parent) => (world[BONES[parent].rig], at_m(BONES[parent].joint)),
            None => (UnitQuaternion::identity(), Vector3::zeros()),
        };
        to_unity(above.inverse() * (at_m(bone.joint) - from_m), above.inverse() * world[bone.rig])
    }))
}

/// Right-handed with y up to left-handed: x changes its sign, and with it the sense of turns about y and z.
fn to_unity(position_m: Vector3<f64>, rotation: UnitQuaternion<f64>) -> BonePose {
    let (p, q) = (position_m.cast::<f32>(), rotation.cast::<f32>());
    BonePose { position_m: [-p.x, p.y, p.z], rotation: [q.i, -q.j, -q.k, q.w] }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// q v of Unity's left-handed axes; the formula is the same as in right-handed ones.
    fn rotate([x, y, z, w]: [f32; 4], v: [f32; 3]) -> [f32; 3] {
        let (u, v) = (Vector3::new(x, y, z), Vector3::from(v));
        let t = 2.0 * u.cross(&v);
        (v + w * t + u.cross(&t)).into()
    }

    /// a b
    fn times([ax, ay, az, aw]: [f32; 4], [bx, by, bz, bw]: [f32; 4]) -> [f32; 4] {
        let (a, b) = (Vector3::new(ax, ay, az), Vector3::new(bx, by, bz));
        let v = aw * b + bw * a + a.cross(&b);
        [v.x, v.y, v.z, aw * bw - a.dot(&b)]
    }

    fn walking(t: usize) -> Pose3 {
        let s = t as f32 * 0.2;
        let person = |x: f32, y: f32, z: f32| [x + 900.0, y - 40.0 * t as f32, z + 20.0 * s.sin()];
        [
            person(0.0, 0.0, 930.0),
            person(-130.0, 5.0, 925.0),
            person(-140.0, -120.0 * s.sin(), 510.0),
            person(-150.0, 60.0 - 260.0 * s.sin(), 90.0),
            person(130.0, -5.0, 935.0),
            person(140.0, 120.0 * s.sin(), 515.0),
            person(150.0, 60.0 + 260.0 * s.sin(), 95.0),
            person(5.0, 10.0, 1170.0),
            person(10.0, -10.0, 1410.0),
            person(10.0, -60.0, 1500.0),
            person(10.0, -40.0, 1610.0),
            person(170.0, -20.0 + 30.0 * s.cos(), 1390.0),
            person(240.0, -30.0, 1130.0),
            person(250.0, -160.0 + 40.0 * s.sin(), 900.0),
            person(-160.0, -20.0 - 30.0 * s.cos(), 1395.0),
            person(-230.0, -10.0, 1135.0),
            person(-240.0, -150.0 * s.cos(), 920.0),
        ]
    }

    #[test]
    fn forward_kinematics_gives_the_joints() {
        for t in 0..40 {
            let pose = walking(t);
            let bones = bones(&pose).unwrap();
            let mut at = [[0f32; 3]; BONES.len()];
            let mut turned = [[0f32; 4]; BONES.len()];
            for (i, (bone, local)) in BONES.iter().zip(&bones).enumerate() {
                let (from, above) = bone.parent.map_or(([0.0; 3], [0.0, 0.0, 0.0, 1.0]), |parent| (at[parent], turned[parent]));
                let offset = rotate(above, local.position_m);
                at[i] = std::array::from_fn(|k| from[k] + offset[k]);
                turned[i] = times(above, local.rotation);
                let [x, y, z] = pose[bone.joint].map(|mm| mm / 1000.0);
                assert!(at[i].iter().zip([-x, z, -y]).all(|(a, b)| (a - b).abs() < 1e-5), "{}: {:?}", bone.name, at[i]);
                assert!((local.rotation.iter().map(|q| q * q).sum::<f32>() - 1.0).abs() < 1e-5);
            }
            // The rotations alone point every bone that bends at its next joint: from the rest direction, up, down or sideways.
            for (name, next, rest) in [
                ("LeftUpperLeg", 5, [0.0, -1.0, 0.0]),
                ("RightLowerLeg", 3, [0.0, -1.0, 0.0]),
                ("Spine", 7, [0.0, 1.0, 0.0]),
                ("Chest", 8, [0.0, 1.0, 0.0]),
                ("Neck", 9, [0.0, 1.0, 0.0]),
                ("Head", 10, [0.0, 1.0, 0.0]),
                ("LeftShoulder", 11, [-1.0, 0.0, 0.0]),
                ("LeftLowerArm", 13, [-1.0, 0.0, 0.0]),
                ("RightUpperArm", 15, [1.0, 0.0, 0.0]),
            ] {
                let i = BONES.iter().position(|bone| bone.name == name).unwrap();
                let length = Vector3::from(std::array::from_fn::<f32, 3, _>(|k| pose[next][k] - pose[BONES[i].joint][k])).norm() / 1000.0;
                let [x, y, z] = pose[next].map(|mm| mm / 1000.0);
                let along = rotate(turned[i], rest);
                let end: [f32; 3] = std::array::from_fn(|k| at[i][k] + length * along[k]);
                assert!(end.iter().zip([-x, z, -y]).all(|(a, b)| (a - b).abs() < 1e-4), "{name}: {end:?}");
            }
        }
    }

    #[test]
    fn the_rest_pose_has_no_rotations_and_bad_poses_are_refused() {
        let mut pose = [[0.0; 3]; pose::JOINTS];
        for (joint, [x, z]) in
            [[0, 900], [-130, 900], [-130, 480], [-130, 60], [130, 900], [130, 480], [130, 60], [0, 1140]].iter().enumerate()
        {
            pose[joint] = [*x as f32, 0.0, *z as f32];
        }
        for (joint, [x, z]) in
            [[0, 1390], [0, 1480], [0, 1590], [160, 1390], [440, 1390], [690, 1390], [-160, 1390], [-440, 1390], [-690, 1390]]
                .iter()
                .enumerate()
        {
            pose[8 + joint] = [*x as f32, 0.0, *z as f32];
        }
        for (bone, BonePose { position_m, rotation }) in BONES.iter().zip(bones(&pose).unwrap()) {
            assert!(rotation[3] > 1.0 - 1e-6, "{}: {rotation:?}", bone.name);
            let side = if bone.name.starts_with("Left") && bone.joint != 8 { position_m[0] <= 1e-6 } else { true };
            assert!(side, "{}: {position_m:?}", bone.name);
        }
        pose[3][1] = f32::NAN;
        assert!(bones(&pose).is_err());
    }

    #[test]
    fn bones_stand_where_the_rig_has_them() {
        for (i, bone) in BONES.iter().enumerate() {
            assert_eq!(rig::JOINTS[bone.rig].at, bone.joint, "{}", bone.name);
            assert!(bone.parent.is_none_or(|parent| parent < i));
        }
    }
}
