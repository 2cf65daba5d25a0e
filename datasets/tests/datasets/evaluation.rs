use std::collections::VecDeque;
use std::convert::Infallible;

use datasets::{EvaluationOptions, EvaluationSet, MocapSet, Windowing, evaluate, synthetic};
use pose::normalise::Normalisation;

use crate::{shared, walks};

fn quiet() -> EvaluationOptions {
    EvaluationOptions { noisy: vec![false], ..EvaluationOptions::default() }
}

/// What a lifter that is always right would say, window by window, in the order in which windows are asked for.
fn truth(set: &EvaluationSet, windowing: &Windowing) -> VecDeque<Vec<f32>> {
    let mut answers = VecDeque::new();
    for clip in &set.clips {
        let mut keypoints = clip.keypoints.clone();
        pose::fill::fill_missing(&mut keypoints.frames, &keypoints.times_s).unwrap();
        for window in pose::window::plan(keypoints.frames.len(), windowing.n_frames, windowing.overlap).unwrap() {
            let transform = windowing.normalisation.transform(&window.gather(&keypoints.frames), keypoints.image).unwrap();
            let poses: Vec<_> = window.indices().map(|t| clip.view.pose25(t, &transform).unwrap()).collect();
            answers.push_back(pose::values_from_poses(&poses));
        }
    }
    answers
}

#[test]
fn a_lifter_that_is_right_has_no_error() {
    let set = EvaluationSet::new(&walks(), &EvaluationOptions::default()).unwrap();
    assert_eq!(set.frames(), 4 * 12 * 120);
    for windowing in
        [Windowing { batch: 7, ..Windowing::new(27) }, Windowing { normalisation: Normalisation::Frame, ..Windowing::new(200) }]
    {
        let mut answers = truth(&set, &windowing);
        let report = evaluate(&set, &windowing, |input: &[f32], windows| {
            assert!(windows <= windowing.batch && input.len() == windows * windowing.n_frames * 17 * 3);
            Ok::<_, Infallible>((0..windows).flat_map(|_| answers.pop_front().unwrap()).collect())
        })
        .unwrap();
        assert!(answers.is_empty());
        assert_eq!(report.conditions.len(), 4);
        for condition in &report.conditions {
            let f = condition.figures;
            assert_eq!(f.frames, 12 * 120);
            for error in [f.mpjpe_root_depth_mm, f.n_mpjpe_mm, f.p_mpjpe_mm, f.mpjve_mm] {
                assert!(error < 0.02, "{condition:?}");
            }
            // Walkers are 1.53 to 1.87 m tall and 1.70 m is assumed: the error is that of the size alone.
            assert!((1.0..60.0).contains(&f.mpjpe_default_height_mm), "{condition:?}");
        }
    }
}

#[test]
fn a_wrong_scale_shows_in_mpjpe_alone() {
    let set = EvaluationSet::new(&walks(), &quiet()).unwrap();
    let windowing = Windowing::new(27);
    let answer = |change: fn(usize, &mut f32)| {
        let mut answers = truth(&set, &windowing);
        let report = evaluate(&set, &windowing, |_: &[f32], windows| {
            let mut values: Vec<f32> = (0..windows).flat_map(|_| answers.pop_front().unwrap()).collect();
            values.iter_mut().enumerate().for_each(|(i, v)| change(i, v));
            Ok::<_, Infallible>(values)
        });
        report.unwrap().mean(false).unwrap()
    };
    let larger = answer(|_, v| *v *= 1.1);
    assert!(larger.mpjpe_root_depth_mm > 30.0 && larger.n_mpjpe_mm < 5.0 && larger.p_mpjpe_mm < 5.0, "{larger:?}");
    let flat = answer(|i, v| *v *= if i % 3 == 2 { 0.0 } else { 1.0 });
    assert!(flat.p_mpjpe_mm > 20.0 && flat.n_mpjpe_mm > flat.p_mpjpe_mm, "{flat:?}");
}

#[test]
fn the_set_is_the_same_every_time_and_a_condition_less_changes_no_other() {
    let all = EvaluationSet::new(&walks(), &EvaluationOptions::default()).unwrap();
    assert_eq!(all, EvaluationSet::new(&walks(), &EvaluationOptions::default()).unwrap());
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(all, one_thread.install(|| EvaluationSet::new(&walks(), &EvaluationOptions::default()).unwrap()));
    let fewer = EvaluationSet::new(&walks(), &quiet()).unwrap();
    assert!(fewer.clips.iter().eq(all.clips.iter().filter(|clip| !clip.noisy)));
    let noisy = all.clips.iter().find(|clip| clip.noisy).unwrap();
    let exact = all.clips.iter().find(|clip| !clip.noisy && clip.camera == noisy.camera).unwrap();
    assert_eq!(noisy.view, exact.view, "the same camera with and without noise");
    assert_ne!(noisy.keypoints, exact.keypoints);
    assert_ne!(all, EvaluationSet::new(&walks(), &EvaluationOptions { seed: 1, ..EvaluationOptions::default() }).unwrap());
}

#[test]
fn flip_averaging_and_other_rates_go_through() {
    let set = EvaluationSet::new(&walks(), &quiet()).unwrap();
    let windowing = Windowing { flip: true, fps: Some(30.0), ..Windowing::new(27) };
    let mut calls = 0;
    // Takes x and y from the input and knows no depth: flips leave that as it is.
    let flat = |input: &[f32], _: usize| {
        calls += 1;
        let frames = input.as_chunks::<51>().0.iter();
        Ok::<_, Infallible>(
            frames.flat_map(|f| (0..17).flat_map(|j| [f[3 * j] - f[0], f[3 * j + 1] - f[1], 0.0]).collect::<Vec<_>>()).collect(),
        )
    };
    let flipped = evaluate(&set, &windowing, flat).unwrap().mean(false).unwrap();
    assert_eq!(flipped.frames, 2 * 12 * 120, "at the clip's own times");
    assert!(calls > 1 && flipped.p_mpjpe_mm > 10.0 && flipped.p_mpjpe_mm < 200.0, "{flipped:?}");
}

/// A model may collapse early in its training: its error is told, and the run goes on.
#[test]
fn a_collapsed_lifter_has_an_error() {
    let set = EvaluationSet::new(&synthetic::walks("walk", 1, 60, 3).unwrap(), &quiet()).unwrap();
    let windowing = Windowing::new(27);
    let report = evaluate(&set, &windowing, |_: &[f32], windows| Ok::<_, Infallible>(vec![0.0; windows * 27 * 17 * 3])).unwrap();
    let figures = report.mean(false).unwrap();
    // joints are half a metre from the pelvis in the mean
    for error_mm in [figures.mpjpe_root_depth_mm, figures.mpjpe_default_height_mm] {
        assert!((300.0..800.0).contains(&error_mm), "{error_mm}");
    }
}

#[test]
fn predictors_that_fail_are_named() {
    let set = EvaluationSet::new(&walks(), &quiet()).unwrap();
    let failed = evaluate(&set, &Windowing::new(27), |_, _| Err::<Vec<f32>, _>("out of memory")).unwrap_err();
    assert_eq!(failed.to_string(), "the predictor failed: out of memory");
    let short = evaluate(&set, &Windowing::new(27), |_, _| Ok::<_, Infallible>(vec![0.0; 3])).unwrap_err();
    assert!(short.to_string().contains("3 values came back for"), "{short}");
    let nan = evaluate(&set, &Windowing::new(27), |_, windows| Ok::<_, Infallible>(vec![f32::NAN; windows * 27 * 51])).unwrap_err();
    assert!(nan.to_string().contains("NaN"), "{nan}");
    let overlap = Windowing { overlap: 27, ..Windowing::new(27) };
    assert!(evaluate(&set, &overlap, |_, _| Ok::<_, Infallible>(vec![])).is_err());
    assert!(EvaluationSet::new(&walks(), &EvaluationOptions { cameras: vec![], ..quiet() }).is_err());
}

#[test]
fn all_frames_of_the_real_validation_set_are_seen() {
    let Some(path) = shared("data/mocap/mocap_val.npz") else { return };
    let val = MocapSet::open(&path).unwrap();
    let set = EvaluationSet::new(&val, &EvaluationOptions::default()).unwrap();
    assert_eq!((set.clips.len(), set.frames()), (4 * 24, 4 * 10_731));
    for clip in &set.clips {
        clip.keypoints.validate().unwrap();
        let depth_mm = clip.view.root_depth_mm();
        assert!(depth_mm.iter().all(|&z| z > 500.0 && z < 40_000.0), "{}", clip.name);
    }
}

#[test]
fn walkers_are_drawn_from_their_seed() {
    let [a, b, c] = [1, 1, 2].map(|seed| synthetic::walks("w", 2, 10, seed).unwrap());
    assert_eq!(a.poses(1), b.poses(1));
    assert_ne!(a.poses(1), c.poses(1));
    assert!(synthetic::walks("w", 1, 1, 0).is_err() && synthetic::walks("w", 0, 10, 0).is_err());
}
