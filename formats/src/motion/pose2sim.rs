//! Files as Pose2Sim and FreeMoCap lay them out, to go on with their tools.
//!
//! * [`write_trc`]: what Pose2Sim's triangulation writes into `pose-3d`, for its filtering, marker augmentation and kinematics: TRC in metres, with its
//!   axes (its y is up: world `(x, y, z)` is `(y, z, x)` there) and its marker names. Spine and Nose are left out: Pose2Sim's markers of these names lie
//!   elsewhere.
//! * [`write_freemocap`]: `mediapipe_body_3d_xyz.npy`, (frames, 33, 3) f64 millimetres, z up, MediaPipe's landmarks; NaN where this skeleton has none
//!   (face, hands, feet).

use super::{MotionClip, write_file};
use crate::{Data, Tensor, error::Error, npy};
use std::{io::Write, path::Path};

/// Pose2Sim's names, and which of our joints they are.
const MARKERS: [(&str, usize); 15] = [
    ("Hip", 0),
    ("RHip", 1),
    ("RKnee", 2),
    ("RAnkle", 3),
    ("LHip", 4),
    ("LKnee", 5),
    ("LAnkle", 6),
    ("Neck", 8),
    ("Head", 10),
    ("RShoulder", 14),
    ("RElbow", 15),
    ("RWrist", 16),
    ("LShoulder", 11),
    ("LElbow", 12),
    ("LWrist", 13),
];

/// MediaPipe's landmarks that are joints of ours: (landmark, joint).
const LANDMARKS: [(usize, usize); 12] =
    [(11, 11), (12, 14), (13, 12), (14, 15), (15, 13), (16, 16), (23, 4), (24, 1), (25, 5), (26, 2), (27, 6), (28, 3)];
const N_LANDMARKS: usize = 33;

/// Writes Pose2Sim's TRC. Aside, then renamed.
///
/// # Errors
/// Every refusal of the operating system.
pub fn write_trc(path: &Path, clip: &MotionClip<'_>) -> std::result::Result<(), Error> {
    // a tab or a line break in the name would break the header
    let name = path.file_name().map(|name| name.to_string_lossy().replace(char::is_control, " ")).unwrap_or_default();
    let (frames, fps, markers) = (clip.poses_mm().len(), clip.fps(), MARKERS.len());
    write_file(path, |out| {
        writeln!(out, "PathFileType\t4\t(X/Y/Z)\t{name}")?;
        writeln!(out, "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames")?;
        writeln!(out, "{fps:.6}\t{fps:.6}\t{frames}\t{markers}\tm\t{fps:.6}\t0\t{frames}")?;
        writeln!(out, "Frame#\tTime\t{}\t\t\t", MARKERS.map(|marker| marker.0).join("\t\t\t"))?;
        let columns: Vec<String> = (1..=markers).map(|m| format!("X{m}\tY{m}\tZ{m}")).collect();
        writeln!(out, "\t\t{}\t", columns.join("\t"))?;
        for (i, (pose_mm, time_s)) in clip.poses_mm().iter().zip(clip.times_s()).enumerate() {
            write!(out, "{i}\t{time_s:.6}")?;
            for (_, joint) in MARKERS {
                let [x, y, z] = pose_mm[joint].map(|v| f64::from(v) / 1000.0);
                write!(out, "\t{y:.7}\t{z:.7}\t{x:.7}")?;
            }
            writeln!(out)?;
        }
        Ok(())
    })
}

/// Writes FreeMoCap's body. Aside, then renamed.
///
/// # Errors
/// Every refusal of the operating system.
pub fn write_freemocap(path: &Path, clip: &MotionClip<'_>) -> std::result::Result<(), Error> {
    let frames = clip.poses_mm().len();
    let mut values = vec![f64::NAN; frames * N_LANDMARKS * 3];
    for (frame, pose_mm) in values.chunks_exact_mut(N_LANDMARKS * 3).zip(clip.poses_mm()) {
        for (landmark, joint) in LANDMARKS {
            frame[3 * landmark..][..3].copy_from_slice(&pose_mm[joint].map(f64::from));
        }
    }
    npy::write(path, &Tensor::new([frames, N_LANDMARKS, 3], Data::F64(values))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pose::{Pose3, skeleton};

    fn pose() -> Pose3 {
        std::array::from_fn(|j| [1000.0 + j as f32, 2000.0 + j as f32, 100.0 * j as f32])
    }

    #[test]
    fn pose2sim_gets_its_names_axes_and_metres() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.trc");
        write_trc(&path, &MotionClip::new(&[pose(); 3], &[0.0, 0.02, 0.04]).unwrap()).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[2].starts_with("50.000000\t50.000000\t3\t15\tm\t"), "{}", lines[2]);
        let names: Vec<&str> = lines[3].split('\t').skip(2).step_by(3).take(15).collect();
        let row: Vec<f64> = lines[6].split('\t').map(|v| v.parse().unwrap()).collect();
        assert_eq!((row.len(), row[0], row[1]), (47, 1.0, 0.02));
        let ankle = 2 + 3 * names.iter().position(|name| *name == "RAnkle").unwrap();
        // (x, y, z) mm -> (y, z, x) m
        assert_eq!(row[ankle..ankle + 3], [2.003, 0.3, 1.003]);
        for (name, joint) in MARKERS {
            let ours = skeleton::NAMES[joint].replace("Foot", "Ankle").replace("Thorax", "Neck");
            assert_eq!(name, ours);
        }
    }

    #[test]
    fn freemocap_gets_mediapipes_landmarks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npy");
        write_freemocap(&path, &MotionClip::new(&[pose(); 2], &[0.0, 0.02]).unwrap()).unwrap();
        let tensor = npy::read(&path).unwrap();
        assert_eq!(tensor.shape, [2, 33, 3]);
        let values = tensor.to_f64();
        assert_eq!(values[3 * 28..3 * 29], [1003.0, 2003.0, 300.0], "the right ankle");
        assert!(values[0].is_nan() && values.iter().filter(|v| !v.is_nan()).count() == 2 * 12 * 3);
    }
}
