//! Metrics against the values that the references computed (tests/golden/metrics).

use pose::{JOINTS, metrics};
use std::{fs::File, io::BufReader};

const TOLERANCE: f64 = 1e-5;

/// A golden array as f64.
fn read<T: npyz::Deserialize + Into<f64>>(name: &str) -> Vec<f64> {
    let path = format!("{}/../tests/golden/metrics/{name}.npy", env!("CARGO_MANIFEST_DIR"));
    let file = BufReader::new(File::open(&path).unwrap_or_else(|e| panic!("{path}: {e}")));
    npyz::NpyFile::new(file).unwrap().into_vec::<T>().unwrap().into_iter().map(Into::into).collect()
}

fn poses(name: &str) -> Vec<metrics::Pose<f64>> {
    let joint = |p: &[f64]| [p[0], p[1], p[2]];
    let pose = |p: &[f64]| std::array::from_fn(|j| joint(&p[3 * j..]));
    read::<f64>(name).chunks_exact(JOINTS * 3).map(pose).collect()
}

fn close(what: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (f, e) in found.iter().zip(expected) {
        assert!((f - e).abs() < TOLERANCE, "{what}: found {f}, expected {e}");
    }
}

#[test]
fn metrics_are_those_of_the_references() {
    let (pred, target) = (poses("pred_mm"), poses("gt_mm"));
    let (pred_root, target_root) = (metrics::root_relative(&pred), metrics::root_relative(&target));
    let golden = |name: &str| read::<f64>(&format!("expected_{name}"));

    let errors: Vec<f64> = pred_root.iter().zip(&target_root).flat_map(|(p, t)| metrics::joint_errors(p, t)).collect();
    close("joint errors", &errors, &golden("jpe_rootrel"));
    close("MPJPE", &metrics::mpjpe_per_frame(&pred_root, &target_root), &golden("mpjpe_rootrel_per_frame"));
    close("MPJPE, absolute", &metrics::mpjpe_per_frame(&pred, &target), &golden("mpjpe_absolute_per_frame"));
    close("P-MPJPE", &metrics::p_mpjpe_per_frame(&pred_root, &target_root), &golden("p_mpjpe_per_frame"));
    let absolute = metrics::p_mpjpe_per_frame(&pred, &target);
    close("P-MPJPE, absolute", &absolute, &golden("p_mpjpe_absolute_input_per_frame"));
    close("P-MPJPE, same", &metrics::p_mpjpe_per_frame(&target, &target), &golden("p_mpjpe_identical"));
    let n = metrics::n_mpjpe_per_frame(&pred_root, &target_root);
    close("N-MPJPE", &n, &golden("n_mpjpe_per_frame"));
    close("N-MPJPE, mean", &[metrics::n_mpjpe_mm(&pred_root, &target_root)], &golden("n_mpjpe_scalar"));
    let scales = metrics::n_mpjpe_scale_per_frame(&pred_root, &target_root);
    close("N-MPJPE, scale", &scales, &golden("n_mpjpe_scale_per_frame"));
    let velocity = metrics::velocity_error_per_frame(&pred_root, &target_root);
    close("MPJVE", &velocity, &golden("velocity_error_per_frame"));
    close("MPJVE, mean", &[metrics::velocity_error(&pred_root, &target_root)], &golden("velocity_error_scalar"));
    let acceleration = metrics::acceleration_error_per_frame(&pred_root, &target_root);
    close("acceleration", &acceleration, &golden("acc_error_per_frame"));
}

#[test]
fn single_precision_poses_give_the_same_within_their_rounding() {
    let single =
        |poses: Vec<metrics::Pose<f64>>| -> Vec<pose::Pose3> { poses.into_iter().map(|p| p.map(|j| j.map(|v| v as f32))).collect() };
    let (pred, target) = (single(poses("pred_mm")), single(poses("gt_mm")));
    let found = metrics::mpjpe_mm(&metrics::root_relative(&pred), &metrics::root_relative(&target));
    assert!((found - 116.10995436868046).abs() < 1e-3, "{found}");
}

#[test]
fn pck_and_auc_are_those_of_3dhp() {
    let path = format!("{}/../tests/golden/metrics/expected.json", env!("CARGO_MANIFEST_DIR"));
    let expected: serde_json::Value = serde_json::from_reader(File::open(path).unwrap()).unwrap();
    let errors = read::<f64>("p3dhp_joint_errors_mm"); // (frames, 17), in the order of MPI-INF-3DHP
    let groups: [(&str, &[usize]); 10] = [
        ("Head", &[0]),
        ("Neck", &[1]),
        ("Shou", &[2, 5]),
        ("Elbow", &[3, 6]),
        ("Wrist", &[4, 7]),
        ("Hip", &[8, 11]),
        ("Knee", &[9, 12]),
        ("Ankle", &[10, 13]),
        ("Total", &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]),
        ("all17", &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]),
    ];
    for (name, joints) in groups {
        let of_group: Vec<f64> = errors.chunks_exact(JOINTS).flat_map(|frame| joints.iter().map(|&j| frame[j])).collect();
        let golden = |metric: &str| expected[metric][name].as_f64().unwrap();
        close(name, &[100.0 * metrics::pck(&of_group, 150.0)], &[golden("pck150_percent")]);
        close(name, &[100.0 * metrics::auc_3dhp(&of_group)], &[golden("auc_percent")]);
    }
    let mean = errors.iter().sum::<f64>() / errors.len() as f64;
    close("MPJPE of 3DHP", &[mean], &[expected["mpjpe_3dhp_17"].as_f64().unwrap()]);
}

#[test]
fn the_original_reports_mpjpe_is_pixels() {
    // mean |500 (p - y)| in normalised image units: see spec/evaluation.md
    let (pred, label) = (read::<f32>("original_pred_norm"), read::<f32>("original_label_norm"));
    let distance = |(p, y): (&[f64], &[f64])| p.iter().zip(y).map(|(a, b)| (500.0 * (a - b)).powi(2)).sum::<f64>().sqrt();
    let errors: Vec<f64> = pred.chunks_exact(3).zip(label.chunks_exact(3)).map(distance).collect();
    let mean = errors.iter().sum::<f64>() / errors.len() as f64;
    assert!((mean - 25.131853103637695).abs() < 1e-4, "{mean}");
}
