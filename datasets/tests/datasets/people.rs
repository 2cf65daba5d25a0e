//! The field's sets, made of synthetic walkers: right in every respect until a test spoils them.

use datasets::synthetic;
use pose::camera::{Extrinsics, Intrinsics};
use pose::joint_map::MPI_INF_3DHP;
use pose::{JOINTS, Pose2, Pose3, skeleton};

use crate::pickles::Py;

pub const FRAMES: usize = 60;

/// Somebody who walks: world mm, camera mm and pixels of a camera 1000 px wide.
pub struct Walk {
    pub world_mm: Vec<Pose3>,
    pub camera_mm: Vec<Pose3>,
    pub pixels: Vec<Pose2>,
}

pub const INTRINSICS: Intrinsics = Intrinsics { focal_px: [1145.0; 2], centre_px: [500.0; 2] };

pub fn walk(seed: u64) -> Walk {
    let set = synthetic::walks("walk", 1, FRAMES, seed).unwrap();
    let world_mm = set.poses(0).to_vec();
    let [x, y, _] = world_mm[0][0];
    let camera = Extrinsics::look_at([x + 5000.0, y + 1000.0, 1500.0], [x, y, 900.0], 0.0).unwrap();
    let camera_mm: Vec<Pose3> = world_mm.iter().map(|pose| camera.pose_to_camera(pose)).collect();
    let pixels = camera_mm.iter().map(|pose| pose.map(|p| INTRINSICS.project(p).unwrap())).collect();
    Walk { world_mm, camera_mm, pixels }
}

pub fn values2(poses: &[Pose2]) -> Py {
    Py::Array(vec![poses.len(), JOINTS, 2], poses.as_flattened().as_flattened().to_vec())
}

pub fn values3(poses: &[Pose3]) -> Py {
    Py::Array(vec![poses.len(), JOINTS, 3], poses.as_flattened().as_flattened().to_vec())
}

/// One half of MotionBERT's file: two videos.
pub fn motion_bert_half(test: bool) -> Py {
    let walks = [walk(1), walk(2)];
    let pixels: Vec<Pose2> = walks.iter().flat_map(|walk| walk.pixels.clone()).collect();
    let camera_mm: Vec<Pose3> = walks.iter().flat_map(|walk| walk.camera_mm.clone()).collect();
    let factors: Vec<f32> = camera_mm.iter().map(|pose| pose[0][2] / 1145.0).collect();
    let each = |t: usize, j: usize| {
        let (pixel, pose) = (pixels[t][j], camera_mm[t]);
        [pixel[0], pixel[1], (pose[j][2] - pose[0][2]) / factors[t]]
    };
    let image: Vec<Pose3> = (0..pixels.len()).map(|t| std::array::from_fn(|j| each(t, j))).collect();
    let joints_mm: Vec<Pose3> = image.iter().zip(&factors).map(|(pose, f)| pose.map(|p| p.map(|v| v * f))).collect();
    let per_video = |names: [&'static str; 2]| Py::texts(names.into_iter().flat_map(|name| std::iter::repeat_n(name, FRAMES)));
    let mut half = Py::dict([
        ("joint_2d", values2(&pixels)),
        ("confidence", Py::Array(vec![pixels.len(), JOINTS], vec![0.9; pixels.len() * JOINTS])),
        ("joint3d_image", values3(&image)),
        ("camera_name", per_video(["54138969", "55011271"])),
        ("source", per_video(["s_09_act_05_subact_02_ca_01", "s_11_act_15_subact_01_ca_02"])),
    ]);
    if test {
        let Py::Dict(entries) = &mut half else { unreachable!() };
        entries.push(("action".into(), per_video(["Eating", "Walking"])));
        entries.push(("2.5d_factor".into(), Py::Array(vec![factors.len()], factors)));
        entries.push(("joints_2.5d_image".into(), values3(&joints_mm)));
    }
    half
}

pub fn motion_bert() -> Py {
    Py::dict([("train", motion_bert_half(false)), ("test", motion_bert_half(true))])
}

/// The 3D and 2D files of VideoPose3D: S1, one take.
pub fn video_pose_3d() -> (Py, Py, Py) {
    let walk = walk(3);
    let mut all = vec![0.0; FRAMES * 32 * 3];
    for (t, pose) in walk.world_mm.iter().enumerate() {
        for (j, joint) in datasets::video_pose_3d::H36M_17_OF_32.into_iter().enumerate() {
            for c in 0..3 {
                all[(t * 32 + joint) * 3 + c] = pose[j][c] / 1000.0;
            }
        }
    }
    let positions_3d = Py::dict([("S1", Py::dict([("Walking", Py::Array(vec![FRAMES, 32, 3], all))]))]);
    let short = &walk.pixels[..FRAMES - 1];
    let tracks = Py::List(vec![values2(&walk.pixels), values2(&walk.pixels), values2(short), values2(&walk.pixels)]);
    let positions_2d = Py::dict([("S1", Py::dict([("Walking", tracks)]))]);
    let side = |joints: [usize; 6]| Py::List(joints.iter().map(|&j| Py::Int(j as i32)).collect());
    let metadata = Py::dict([
        ("layout_name", Py::text("h36m")),
        ("num_joints", Py::Int(17)),
        ("keypoints_symmetry", Py::List(vec![side(skeleton::LEFT), side(skeleton::RIGHT)])),
    ]);
    (positions_2d, metadata, positions_3d)
}

/// 3DHP's training file (`S1 Seq1`, two cameras) or test file (`TS1`, and `TS5`, where every second frame counts).
pub fn mpi_inf_3dhp(test: bool) -> Py {
    // the joint of ours for each of theirs
    let theirs: [usize; JOINTS] = std::array::from_fn(|j| MPI_INF_3DHP.iter().position(|&k| k == j).unwrap());
    let sequence = |seed| {
        let walk = walk(seed);
        let pixels: Vec<Pose2> = walk.pixels.iter().map(|pose| theirs.map(|j| pose[j])).collect();
        let camera_mm: Vec<Pose3> = walk.camera_mm.iter().map(|pose| theirs.map(|j| pose[j])).collect();
        vec![("data_2d".to_owned(), values2(&pixels)), ("data_3d".to_owned(), values3(&camera_mm))]
    };
    if !test {
        let cameras = Py::dict([("0", Py::Dict(sequence(4))), ("8", Py::Dict(sequence(5)))]);
        return Py::dict([("S1 Seq1", Py::List(vec![cameras, Py::Int(25)]))]);
    }
    let counted = |seed, every: usize| {
        let mut entries = sequence(seed);
        let valid = (0..FRAMES).map(|t| f32::from(u8::from(t % every == 0))).collect();
        entries.push(("valid".into(), Py::Array(vec![FRAMES], valid)));
        Py::Dict(entries)
    };
    Py::dict([("TS1", counted(6, 1)), ("TS5", counted(7, 2))])
}

/// (frames, 17, channels) with left and right exchanged.
pub fn swap_sides(array: &mut Py) {
    reorder(array, &skeleton::flip_index());
}

/// (frames, 17, channels) with the joints `order`.
pub fn reorder(array: &mut Py, order: &[usize]) {
    let (shape, values) = array.array();
    let (joints, channels) = (shape[1], shape[2]);
    let frames = values.chunks_exact(joints * channels);
    let reordered = frames.flat_map(|frame| order.iter().flat_map(|&j| frame[j * channels..(j + 1) * channels].to_vec())).collect();
    shape[1] = order.len();
    *values = reordered;
}

pub fn scale(array: &mut Py, factor: f32) {
    array.array().1.iter_mut().for_each(|v| *v *= factor);
}
