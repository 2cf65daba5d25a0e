//! What look-ahead and blending do for the shipped model on real motion: a table for the record, and bounds.
//!
//! `cargo test -p runtime --test stream_accuracy -- --ignored --nocapture`
#![allow(missing_docs, clippy::print_stdout)]

use pose::{
    ImageSize, Keypoint, KeypointClip, Pose3, ROOT,
    camera::{Extrinsics, Intrinsics},
    metrics,
};
use runtime::{EngineOptions, LiftOptions, Lifter, StreamOptions, StreamPose, run_due};

const IMAGE: ImageSize = ImageSize { width_px: 1280, height_px: 720 };
const FPS: f64 = 50.0;
/// Of each clip, from its start.
const FRAMES: usize = 150;

/// A clip as a camera sees it, with the detector's noise, and the truth in camera space.
fn seen(world_mm: &[Pose3], seed: u32) -> (KeypointClip, Vec<Pose3>) {
    let hip = world_mm[world_mm.len() / 2][ROOT];
    let reach = world_mm.iter().map(|p| (p[ROOT][0] - hip[0]).hypot(p[ROOT][1] - hip[1])).fold(0.0, f32::max);
    let camera = Extrinsics::look_at([hip[0] + 1500.0, hip[1] - 3500.0 - reach, 1500.0], [hip[0], hip[1], 900.0], 0.0).unwrap();
    let intrinsics = Intrinsics::from_horizontal_fov_deg(IMAGE, 60.0).unwrap();
    let mut state = seed.wrapping_mul(747_796_405) | 1;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    };
    let mut normal = || (0..12).map(|_| uniform()).sum::<f32>() - 6.0;
    let camera_mm: Vec<Pose3> = world_mm.iter().map(|pose| camera.pose_to_camera(pose)).collect();
    let frames = camera_mm.iter().map(|pose| {
        pose.map(|joint| {
            let [x_px, y_px] = intrinsics.project(joint).unwrap();
            Keypoint::new(x_px + 3.0 * normal(), y_px + 3.0 * normal(), 0.9)
        })
    });
    (KeypointClip::from_fps(frames.collect(), FPS, IMAGE).unwrap(), camera_mm)
}

/// Errors over all clips: P-MPJPE, root-relative MPJPE, and jitter (mean acceleration error), mm.
#[derive(Default)]
struct Errors {
    frames: f64,
    p_mpjpe: f64,
    mpjpe: f64,
    acceleration: f64,
}

impl Errors {
    fn add(&mut self, found: &[Pose3], truth: &[Pose3]) {
        let (found, truth) = (metrics::root_relative(found), metrics::root_relative(truth));
        let n = found.len() as f64;
        self.frames += n;
        self.p_mpjpe += n * metrics::p_mpjpe_mm(&found, &truth);
        self.mpjpe += n * metrics::mpjpe_mm(&found, &truth);
        self.acceleration += n * metrics::acceleration_error(&found, &truth);
    }

    fn means(&self) -> [f64; 3] {
        [self.p_mpjpe, self.mpjpe, self.acceleration].map(|sum| sum / self.frames)
    }
}

#[test]
#[ignore = "minutes: figures for the record"]
fn look_ahead_and_blending_on_real_motion() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/mocap/tiny_test.npz");
    let Ok(arrays) = formats::npz::read(path.as_ref()) else {
        println!("skipped: ../shared is absent");
        return;
    };
    let poses = pose::poses_from_values(&arrays["poses"].to_f32()).unwrap();
    let offsets: Vec<usize> = arrays["offsets"].to_i64().iter().map(|&offset| offset as usize).collect();
    let clips: Vec<(KeypointClip, Vec<Pose3>)> =
        offsets.windows(2).map(|clip| seen(&poses[clip[0]..clip[1].min(clip[0] + FRAMES)], clip[0] as u32)).collect();
    let lifter =
        Lifter::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/clip-xs.onnx"), &EngineOptions { threads: 1, ..Default::default() })
            .unwrap();

    println!("{} clips of up to {FRAMES} frames, clip-xs, noise of 3 px; mm, root-relative, default height", clips.len());
    println!("{:28} P-MPJPE   MPJPE  jitter", "");
    let mut whole = Errors::default();
    for (clip, truth) in &clips {
        whole.add(&lifter.lift(clip, &LiftOptions::default()).unwrap().camera_mm, truth);
    }
    let print = |name: &str, errors: &Errors| {
        let [p, m, a] = errors.means();
        println!("{name:28} {p:7.1} {m:7.1} {a:7.2}");
        [p, m, a]
    };
    let whole = print("whole clip", &whole);
    let mut rows = Vec::new();
    for (look_ahead, hop, blend_s) in
        [(0, 1, 0.0), (0, 1, 0.05), (0, 1, 0.1), (0, 1, 0.2), (4, 1, 0.0), (4, 1, 0.1), (4, 1, 0.2), (13, 1, 0.1), (4, 4, 0.0), (4, 4, 0.1)]
    {
        let options = StreamOptions { look_ahead: Some(look_ahead), hop, blend_s, ..Default::default() };
        let mut cores: Vec<_> = clips.iter().map(|_| lifter.stream_core(IMAGE, options.clone()).unwrap()).collect();
        let mut lifted: Vec<Vec<StreamPose>> = vec![Vec::new(); clips.len()];
        for t in 0..=FRAMES {
            for (core, (clip, _)) in cores.iter_mut().zip(&clips) {
                match clip.frames.get(t) {
                    Some(frame) => core.push(clip.times_s[t], Some(frame)).unwrap(),
                    None => core.finish(),
                }
            }
            let mut due: Vec<_> = cores.iter_mut().collect();
            run_due(&lifter, &mut due, &mut |i, answer| lifted[i].extend(answer.unwrap()));
        }
        let mut errors = Errors::default();
        for (poses, (_, truth)) in lifted.iter().zip(&clips) {
            assert_eq!(poses.len(), truth.len());
            errors.add(&poses.iter().map(|pose| pose.camera_mm).collect::<Vec<_>>(), truth);
        }
        rows.push(print(&format!("look-ahead {look_ahead:2} hop {hop} blend {blend_s}"), &errors));
    }
    assert!(rows[7][0] < rows[2][0], "13 frames of look-ahead are better than none");
    assert!(rows[7][0] < 1.1 * whole[0], "and nearly a whole clip");
    assert!(rows[2][2] < rows[0][2], "blending takes jitter out");
}
