//! Writes clips of motion capture in every motion format, for `tests/python/check_motion.py` to read with other software:
//! `cargo run -p formats --example write_motion -- ../shared/data/mocap/tiny_test.npz out/motion`
//!
//! Each clip is written three times: as it is; with the errors of a lifter (bones that change their length); and with every
//! fifth frame dropped. Beside each file set, `NAME.npz` has what was written: `world_mm` (T, 17, 3) and `times_s` (T).

use anyhow::{Context as _, Result, bail};
use formats::{
    Data, Tensor, Value,
    motion::{self, MotionClip},
    npz,
};
use pose::Pose3;
use std::path::{Path, PathBuf};

/// Of the motion capture, frames a second.
const FPS: f64 = 50.0;

fn main() -> Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [source, folder] = arguments.as_slice() else {
        bail!("expected two arguments, the NPZ of motion capture and a folder to write to")
    };
    std::fs::create_dir_all(folder)?;
    let arrays = npz::read(source)?;
    let array = |name: &str| arrays.get(name).with_context(|| format!("{} has no array '{name}'", source.display()));
    let poses_mm = pose::poses_from_values(&array("poses")?.to_f32())?;
    let offsets = array("offsets")?.to_i64();
    for (i, pair) in offsets.windows(2).enumerate() {
        let (start, end) = (usize::try_from(pair[0])?, usize::try_from(pair[1])?);
        let clip = poses_mm.get(start..end).context("an offset lies outside the poses")?;
        let times_s: Vec<f64> = (0..clip.len()).map(|t| t as f64 / FPS).collect();
        write_all(folder, &format!("{i:02}_mocap"), clip, &times_s)?;
        write_all(folder, &format!("{i:02}_lifted"), &with_errors(clip), &times_s)?;
        let kept = |t: &usize| t % 5 != 3;
        let fewer: Vec<Pose3> = (0..clip.len()).filter(kept).map(|t| clip[t]).collect();
        let fewer_s: Vec<f64> = (0..clip.len()).filter(kept).map(|t| times_s[t]).collect();
        write_all(folder, &format!("{i:02}_uneven"), &fewer, &fewer_s)?;
    }
    // longer than C3D can count in its header
    let long: Vec<Pose3> = poses_mm.iter().cycle().take(70_000).copied().collect();
    let times_s: Vec<f64> = (0..long.len()).map(|t| t as f64 / FPS).collect();
    motion::write(&folder.join("long.c3d"), &MotionClip::new(&long, &times_s)?)?;
    write_source(&folder.join("long.npz"), &long, &times_s)
}

fn write_all(folder: &Path, name: &str, poses_mm: &[Pose3], times_s: &[f64]) -> Result<()> {
    let clip = MotionClip::new(poses_mm, times_s)?;
    for extension in ["bvh", "glb", "trc", "c3d", "csv", "ndjson"] {
        motion::write(&folder.join(format!("{name}.{extension}")), &clip)?;
    }
    motion::csv::write_angles(&folder.join(format!("{name}.angles.csv")), &clip)?;
    write_source(&folder.join(format!("{name}.npz")), poses_mm, times_s)
}

fn write_source(path: &Path, poses_mm: &[Pose3], times_s: &[f64]) -> Result<()> {
    let world_mm = Tensor::f32([poses_mm.len(), pose::JOINTS, 3], pose::values_from_poses(poses_mm));
    let times_s = Tensor::new([times_s.len()], Data::F64(times_s.to_vec()))?;
    npz::write_values(path, &[("world_mm", Value::Tensor(world_mm)), ("times_s", Value::Tensor(times_s))])?;
    Ok(())
}

/// Each joint off by up to 30 mm in each coordinate, slowly drifting: bones change their length, as a lifter's do.
fn with_errors(clip: &[Pose3]) -> Vec<Pose3> {
    let error_mm = |t: usize, j: usize, k: usize| {
        let (t, phase) = (t as f64 / FPS, (3 * j + k) as f64);
        20.0 * (7.0 * t + 2.3 * phase).sin() + 10.0 * (23.0 * t + 4.1 * phase).sin()
    };
    let joint = |t: usize, j: usize, p: [f32; 3]| std::array::from_fn(|k| p[k] + error_mm(t, j, k) as f32);
    clip.iter().enumerate().map(|(t, pose)| std::array::from_fn(|j| joint(t, j, pose[j]))).collect()
}
