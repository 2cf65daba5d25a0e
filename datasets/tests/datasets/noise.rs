use std::path::Path;

use datasets::NoiseRecipe;
use datasets::noise::{Confidence, Missing, OutOfFrame, Proxies, SlowNoise, Swap};
use pose::{ImageSize, JOINTS, Keypoints17, Pose2, skeleton};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

const IMAGE: ImageSize = ImageSize { width_px: 1000, height_px: 1000 };

fn recipe_file() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/configs/detector-noise.toml"))
}

/// Positional noise alone.
fn plain() -> NoiseRecipe {
    NoiseRecipe {
        missing: Missing { joint_rate: 0.0, limb_rate: 0.0, ..Missing::default() },
        swap: Swap { rate: 0.0, ..Swap::default() },
        proxies: Proxies { rate: 0.0 },
        ..NoiseRecipe::default()
    }
}

/// No noise at all.
fn silent() -> NoiseRecipe {
    let slow = SlowNoise { std_px: [[0.0; 2]; JOINTS], inlier_rate: [1.0; JOINTS], far_outlier_rate: 0.0, ..SlowNoise::default() };
    let confidence = Confidence { visibility_share: 1.0, visibility_std: 0.0, ..Confidence::default() };
    NoiseRecipe { bias_px: 0.0, jitter_px: 0.0, slow, confidence, ..plain() }
}

/// Joints apart from each other, well inside the image, that stand still.
fn still(frames: usize) -> Vec<Pose2> {
    vec![std::array::from_fn(|j| [250.0 + 30.0 * j as f32, 300.0 + ((j * 7) % 17) as f32 * 20.0]); frames]
}

fn apply(recipe: &NoiseRecipe, clean: &[Pose2], torso_px: f32, seed: u64) -> Vec<Keypoints17> {
    recipe.validate().unwrap();
    recipe.apply(clean, &vec![torso_px; clean.len()], IMAGE, 50.0, &mut ChaCha8Rng::seed_from_u64(seed))
}

#[test]
fn the_documented_file_is_the_default() {
    assert_eq!(NoiseRecipe::open(recipe_file()).unwrap(), NoiseRecipe::default());
}

#[test]
fn the_file_has_the_figures_of_the_measurements() {
    let Some(path) = crate::shared("data/mocap/noise_model.json") else { return };
    let model: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let published = &model["published_SH_on_H36M"];
    let recipe = NoiseRecipe::default();
    assert_eq!(serde_json::from_value::<[[f32; 2]; 17]>(published["inlier_std_xy"].clone()).unwrap(), recipe.slow.std_px);
    assert_eq!(serde_json::from_value::<[f32; 17]>(published["inlier_weight"].clone()).unwrap(), recipe.slow.inlier_rate);
    assert_eq!(serde_json::from_value::<[String; 17]>(published["joints"].clone()).unwrap(), skeleton::NAMES);
}

#[test]
fn recipes_are_checked_as_they_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("noise.toml");
    let open = |text: &str| {
        std::fs::write(&path, text).unwrap();
        NoiseRecipe::open(&path)
    };
    assert_eq!(open("").unwrap(), NoiseRecipe::default(), "what is left out keeps its figure");
    assert_eq!(open("[swap]\nrate = 0.5").unwrap().swap.rate, 0.5);
    for (text, expected) in [
        ("bias = 3.0", "unknown field `bias`"),
        ("[slow]\nstd = 1", "unknown field `std`"),
        ("bias_px = \"much\"", "not a noise recipe"),
        ("bias_px = -1.0", "bias_px is -1"),
        ("jitter_px = nan", "jitter_px is NaN"),
        ("torso_px = 0.0", "torso_px is 0"),
        ("[missing]\njoint_rate = 1.0", "missing.joint_rate is 1"),
        ("[missing]\nlimb_frames = [9, 3]", "missing.limb_frames is [9, 3]"),
        ("[swap]\nrate = 1.5", "swap.rate is 1.5"),
        ("[slow]\nstd_px = [[1.0, 1.0]]", "not a noise recipe"),
        ("[confidence]\nheatmap_slope = inf", "confidence.heatmap_slope is inf"),
        ("clip_frames = 0", "clip_frames is 0"),
    ] {
        let message = open(text).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains("noise.toml"), "'{text}' gave '{message}'");
    }
    let message = NoiseRecipe::open(&dir.path().join("absent.toml")).unwrap_err().to_string();
    assert!(message.contains("absent.toml: the noise recipe cannot be read"), "{message}");
}

/// The variance that the recipe promises for one joint and axis.
fn variance(recipe: &NoiseRecipe, joint: usize, axis: usize) -> f64 {
    let uniform = |half: f32| f64::from(half).powi(2) / 3.0;
    let slow = &recipe.slow;
    let (inlier, far) = (f64::from(slow.inlier_rate[joint]), f64::from(slow.far_outlier_rate));
    let knot = far * uniform(slow.far_outlier_px)
        + (1.0 - far) * (inlier * f64::from(slow.std_px[joint][axis]).powi(2) + (1.0 - inlier) * uniform(slow.outlier_px));
    // Between two independent knots the variance is (1 - w)^2 + w^2 of it, 2 / 3 on average.
    f64::from(recipe.bias_px).powi(2) + f64::from(recipe.jitter_px).powi(2) + knot * 2.0 / 3.0
}

#[test]
fn offsets_have_the_variance_of_the_recipe_and_follow_the_persons_size() {
    let recipe = plain();
    for torso_px in [115.0, 230.0] {
        let clean = still(81);
        let mut squares = [[0.0_f64; 2]; JOINTS];
        let clips = 1500;
        for seed in 0..clips {
            for (frame, truth) in apply(&recipe, &clean, torso_px, seed).iter().zip(&clean) {
                for j in 0..JOINTS {
                    squares[j][0] += f64::from(frame[j].x_px - truth[j][0]).powi(2);
                    squares[j][1] += f64::from(frame[j].y_px - truth[j][1]).powi(2);
                }
            }
        }
        for (j, axes) in squares.iter().enumerate() {
            for (axis, square) in axes.iter().enumerate() {
                let found = (square / (clips as usize * clean.len()) as f64).sqrt();
                let expected = variance(&recipe, j, axis).sqrt() * f64::from(torso_px) / 115.0;
                assert!((found / expected - 1.0).abs() < 0.06, "{} axis {axis}: {found} px, expected {expected}", skeleton::NAMES[j]);
            }
        }
    }
}

#[test]
fn slow_noise_is_slow_and_jitter_is_not() {
    let clean = still(243);
    let step = |recipe: &NoiseRecipe| {
        let noisy = apply(recipe, &clean, 115.0, 1);
        let steps =
            noisy.windows(2).flat_map(|pair| (0..JOINTS).map(|j| f64::from(pair[1][j].x_px - pair[0][j].x_px).powi(2)).collect::<Vec<_>>());
        let steps: Vec<f64> = steps.collect();
        (steps.iter().sum::<f64>() / steps.len() as f64).sqrt()
    };
    let jitter = step(&NoiseRecipe { jitter_px: 1.2, ..silent() });
    assert!((jitter / (1.2 * 2_f64.sqrt()) - 1.0).abs() < 0.05, "{jitter}");
    let slow =
        step(&NoiseRecipe { slow: SlowNoise { far_outlier_rate: 0.0, inlier_rate: [1.0; JOINTS], ..SlowNoise::default() }, ..silent() });
    assert!(slow < 0.8, "nine frames from knot to knot: {slow}");
    assert!(step(&NoiseRecipe { bias_px: 3.0, ..silent() }) < 1e-3, "a bias stays");
}

#[test]
fn silence_changes_nothing() {
    let clean = still(30);
    for (frame, truth) in apply(&silent(), &clean, 115.0, 1).iter().zip(&clean) {
        for j in 0..JOINTS {
            assert_eq!(([frame[j].x_px, frame[j].y_px], frame[j].confidence), (truth[j], 1.0));
        }
    }
}

#[test]
fn joints_go_missing_at_the_rate_of_the_recipe() {
    let recipe = NoiseRecipe { missing: Missing { joint_rate: 0.05, limb_rate: 0.0, limb_frames: [5, 30] }, ..silent() };
    let missing: usize =
        (0..50).map(|seed| apply(&recipe, &still(81), 115.0, seed).iter().flatten().filter(|k| k.is_missing()).count()).sum();
    let rate = missing as f64 / (50 * 81 * JOINTS) as f64;
    assert!((rate - 0.05).abs() < 0.004, "{rate}");
}

#[test]
fn one_limb_is_lost_for_a_run_of_frames() {
    let recipe = NoiseRecipe { missing: Missing { joint_rate: 0.0, limb_rate: 1.0, limb_frames: [5, 30] }, ..silent() };
    let mut limbs = std::collections::BTreeSet::new();
    for seed in 0..60 {
        let noisy = apply(&recipe, &still(81), 115.0, seed);
        let lost = |frame: &Keypoints17| (0..JOINTS).filter(|&j| frame[j].is_missing()).collect::<Vec<_>>();
        let runs: Vec<usize> = (0..81).filter(|&t| !lost(&noisy[t]).is_empty()).collect();
        assert!((5..=30).contains(&runs.len()) && runs[runs.len() - 1] - runs[0] + 1 == runs.len(), "{runs:?}");
        let limb = lost(&noisy[runs[0]]);
        assert!(runs.iter().all(|&t| lost(&noisy[t]) == limb));
        limbs.insert(limb);
    }
    assert_eq!(limbs.into_iter().collect::<Vec<_>>(), [vec![1, 2, 3], vec![4, 5, 6], vec![11, 12, 13], vec![14, 15, 16]]);
    // A long clip is several: one loss for each 243 frames.
    let long = apply(&recipe, &still(729), 115.0, 1);
    assert!(long.chunks(243).all(|part| part.iter().any(|frame| frame.iter().any(|k| k.is_missing()))));
}

#[test]
fn swaps_take_left_for_right_for_a_while() {
    let clean = still(81);
    let flipped = skeleton::flip_index();
    for (legs_only, joints) in [(1.0, vec![1, 2, 3, 4, 5, 6]), (0.0, vec![1, 2, 3, 4, 5, 6, 11, 12, 13, 14, 15, 16])] {
        let recipe = NoiseRecipe { swap: Swap { rate: 1.0, legs_only, ..Swap::default() }, ..silent() };
        let mut lengths = Vec::new();
        for seed in 0..400 {
            let noisy = apply(&recipe, &clean, 115.0, seed);
            let swapped: Vec<usize> = (0..81).filter(|&t| noisy[t][1].x_px != clean[t][1][0]).collect();
            lengths.push(swapped.len());
            assert!((1..=25).contains(&swapped.len()) && swapped[swapped.len() - 1] - swapped[0] + 1 == swapped.len());
            for t in swapped {
                for j in 0..JOINTS {
                    let source = if joints.contains(&j) { flipped[j] } else { j };
                    assert_eq!([noisy[t][j].x_px, noisy[t][j].y_px], clean[t][source]);
                }
            }
        }
        let short = lengths.iter().filter(|&&n| n <= 3).count() as f64 / lengths.len() as f64;
        assert!((0.55..0.75).contains(&short), "60 % and an eighth of the others: {short}");
    }
}

#[test]
fn proxies_are_the_joints_that_the_joint_map_builds() {
    let clean = still(5);
    let recipe = NoiseRecipe { proxies: Proxies { rate: 1.0 }, ..silent() };
    for (frame, truth) in apply(&recipe, &clean, 115.0, 1).iter().zip(&clean) {
        let middle = |a: usize, b: usize| [(truth[a][0] + truth[b][0]) / 2.0, (truth[a][1] + truth[b][1]) / 2.0];
        let near = |j: usize, [x, y]: [f32; 2]| assert!((frame[j].x_px - x).abs() < 1e-2 && (frame[j].y_px - y).abs() < 1e-2, "joint {j}");
        let (hip, thorax) = (middle(1, 4), middle(11, 14));
        near(0, hip);
        near(8, thorax);
        near(7, [hip[0] + 0.44 * (thorax[0] - hip[0]), hip[1] + 0.44 * (thorax[1] - hip[1])]);
        // Head and nose move with the thorax that they are built on: by -0.3 and by 0.35 of its shift.
        let shift = [thorax[0] - truth[8][0], thorax[1] - truth[8][1]];
        near(10, [truth[10][0] - 0.3 * shift[0], truth[10][1] - 0.3 * shift[1]]);
        near(9, [truth[9][0] + 0.35 * shift[0], truth[9][1] + 0.35 * shift[1]]);
        for j in [1, 2, 3, 4, 5, 6, 11, 12, 13, 14, 15, 16] {
            near(j, truth[j]);
        }
    }
}

#[test]
fn confidence_falls_with_the_offset_in_both_forms() {
    for visibility_share in [0.0, 1.0] {
        let confidence = Confidence { visibility_share, ..Confidence::default() };
        let recipe = NoiseRecipe { confidence, ..plain() };
        let clean = still(81);
        let (mut near, mut far) = (Vec::new(), Vec::new());
        for seed in 0..100 {
            for (frame, truth) in apply(&recipe, &clean, 115.0, seed).iter().zip(&clean) {
                for (k, [x, y]) in frame.iter().zip(truth) {
                    assert!((0.0..=1.0).contains(&k.confidence));
                    let offset_px = (k.x_px - x).hypot(k.y_px - y);
                    if offset_px < 2.0 {
                        near.push(k.confidence);
                    } else if offset_px > 15.0 {
                        far.push(k.confidence);
                    }
                }
            }
        }
        let mean = |v: &[f32]| v.iter().sum::<f32>() / v.len() as f32;
        assert!(mean(&near) > 0.85 && mean(&far) < 0.6, "{} {}", mean(&near), mean(&far));
    }
}

#[test]
fn what_lies_outside_the_image_is_guessed() {
    let outside: Vec<Pose2> = vec![[[-50.0, 500.0]; JOINTS]; 40];
    let recipe = NoiseRecipe { jitter_px: 2.0, ..silent() };
    let guessed = apply(&recipe, &outside, 115.0, 1);
    assert!(guessed.iter().flatten().all(|k| k.confidence <= 0.2));
    let certain = NoiseRecipe { out_of_frame: OutOfFrame { noise_factor: 1.0, confidence_factor: 1.0 }, ..recipe };
    let spread = |frames: &[Keypoints17]| frames.iter().flatten().map(|k| (k.x_px + 50.0).powi(2)).sum::<f32>().sqrt();
    let factor = spread(&guessed) / spread(&apply(&certain, &outside, 115.0, 1));
    assert!((factor - 3.0).abs() < 0.05, "{factor}");
}

#[test]
fn the_same_seed_gives_the_same_noise() {
    let recipe = NoiseRecipe::default();
    assert_eq!(apply(&recipe, &still(81), 115.0, 9), apply(&recipe, &still(81), 115.0, 9));
    assert_ne!(apply(&recipe, &still(81), 115.0, 9), apply(&recipe, &still(81), 115.0, 10));
}
