use std::convert::Infallible;

use datasets::{
    ClipSampler, EvaluationOptions, EvaluationSet, LinearRegression, MeanPose, Report, SampleSource, SamplerOptions, Windowing, evaluate,
    synthetic,
};
use pose::Pose3;

use crate::walks;

fn constant(set: &EvaluationSet, pose: &Pose3) -> Report {
    evaluate(set, &Windowing::new(9), |_, windows| Ok::<_, Infallible>(MeanPose::predict(pose, 9 * windows))).unwrap()
}

#[test]
fn each_baseline_does_what_it_is_for() {
    let train = ClipSampler::new(walks(), SamplerOptions { stride: Some(3), ..SamplerOptions::new(9, 1) }).unwrap();
    let held_out = synthetic::walks("others", 6, 60, 77).unwrap();
    let set = EvaluationSet::new(&held_out, &EvaluationOptions::default()).unwrap();

    let mean = MeanPose::fit(&train, 1000).unwrap();
    assert_eq!((mean.label[0], mean.aligned[0]), ([0.0; 3], [0.0; 3]));
    let (label, aligned) = (constant(&set, &mean.label), constant(&set, &mean.aligned));
    let strongest = mean.report(&set, &Windowing::new(9)).unwrap();
    assert_eq!(strongest, label.least(&aligned));
    for noisy in [false, true] {
        let [label, aligned, strongest] = [&label, &aligned, &strongest].map(|report| report.mean(noisy).unwrap());
        assert!(aligned.p_mpjpe_mm < 0.8 * label.p_mpjpe_mm, "a person fits people better than a stick: {aligned:?} {label:?}");
        assert!(label.mpjpe_root_depth_mm < aligned.mpjpe_root_depth_mm, "{label:?} {aligned:?}");
        assert!(strongest.p_mpjpe_mm <= aligned.p_mpjpe_mm && strongest.mpjpe_root_depth_mm <= label.mpjpe_root_depth_mm);
    }

    let linear = LinearRegression::fit(&train, 4000).unwrap();
    let report = linear.report(&set, &Windowing::new(9)).unwrap();
    for noisy in [false, true] {
        let (linear, strongest) = (report.mean(noisy).unwrap(), strongest.mean(noisy).unwrap());
        assert!(linear.mpjpe_root_depth_mm < 0.8 * strongest.mpjpe_root_depth_mm, "{linear:?} {strongest:?}");
    }
    assert!(linear.predict(&[0.0; 10]).unwrap_err().to_string().contains("windows of 459 values, found 10"));
    let long = ClipSampler::new(walks(), SamplerOptions::new(243, 1)).unwrap();
    assert!(LinearRegression::fit(&long, 4000).unwrap_err().to_string().contains("these have 12393"));
    assert_eq!(LinearRegression::samples(&train), 12 * 459);
    assert!(LinearRegression::fit(&train, 10).is_err() && MeanPose::fit(&train, 0).is_err());
}

/// Labels that are a linear function of the input are found, whatever the penalty costs.
#[test]
fn a_linear_world_is_learnt() {
    struct Linear;
    impl SampleSource for Linear {
        fn len(&self) -> usize {
            2000
        }
        fn frames(&self) -> usize {
            1
        }
        fn dim_in(&self) -> usize {
            2
        }
        fn seed(&self) -> u64 {
            0
        }
        fn sample(&self, _: u64, index: usize) -> Result<datasets::Sample, datasets::Error> {
            let input: Vec<f32> = (0..34).map(|k| ((index * 37 + k * 101) as f32 * 0.618).sin()).collect();
            let label = (0..51).map(|k| 0.5 * input[k % 34] - 0.25 * input[(k + 5) % 34] + k as f32).collect();
            Ok(datasets::Sample { input, label, truth: None })
        }
    }
    let linear = LinearRegression::fit(&Linear, 2000).unwrap();
    let inputs: Vec<f32> = (0..3).flat_map(|i| Linear.sample(0, 5000 + i).unwrap().input).collect();
    let labels: Vec<f32> = (0..3).flat_map(|i| Linear.sample(0, 5000 + i).unwrap().label).collect();
    for (found, expected) in linear.predict(&inputs).unwrap().iter().zip(labels) {
        assert!((found - expected).abs() < 0.01, "{found} {expected}");
    }
}
