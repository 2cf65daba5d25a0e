use std::sync::Arc;

use datasets::motion_bert::Half;
use datasets::protocol::{Asking, evaluate_3dhp, evaluate_h36m, image_space_error_px, original_report_px};
use datasets::{ClipOptions, Error, MotionBert, MotionBertClips, Mpi3dhp, SampleSource, Windowing, evaluate};
use pose::normalise::Normalisation;

use crate::motion_bert::{golden_json, open};
use crate::pickles::write_npz;
use crate::{people, shared};

fn golden(name: &str) -> Vec<f32> {
    formats::npy::read(format!("{}/../tests/golden/metrics/{name}.npy", env!("CARGO_MANIFEST_DIR")).as_ref()).unwrap().to_f32()
}

fn reference() -> Option<MotionBert> {
    let path = shared("reference/formats/numpy2/motion3d/h36m_sh_conf_cam_source_final.pkl")?;
    Some(MotionBert::open(&path, Half::Test).unwrap())
}

/// A predictor that says what a list says, clip after clip.
fn recite(values: &[f32], n_frames: usize) -> impl FnMut(&[f32], usize) -> Result<Vec<f32>, Error> {
    let mut at = 0;
    move |_, clips| {
        let said = values[at..at + clips * n_frames * 51].to_vec();
        at += said.len();
        Ok(said)
    }
}

#[test]
fn the_standard_protocol_is_the_official_evaluation() {
    let Some(set) = reference() else { return };
    let expected = golden_json("h36m_eval/expected.json");
    for flip in ["False", "True"] {
        // the flip-averaged file is averaged already
        let predictions = golden(&format!("h36m_eval/pred_norm_n27_flip{flip}"));
        let asking = Asking { flip: false, batch: 7, ..Asking::new(27) };
        let report = evaluate_h36m(&set, &asking, recite(&predictions, 27)).unwrap();
        let expected = &expected[format!("official_n27_flip{flip}")];
        let close = |name: &str, found: f64, expected: &serde_json::Value| {
            let expected = expected.as_f64().unwrap();
            println!("flip {flip}, {name}: {found} (official {expected})");
            assert!((found - expected).abs() < 1e-5 * expected.max(1.0), "{name}: {found} is not {expected}");
        };
        close("MPJPE", report.mpjpe_mm, &expected["mpjpe"]);
        close("P-MPJPE", report.p_mpjpe_mm, &expected["p_mpjpe"]);
        close("acceleration", report.acceleration_as_printed_mm_per_frame2, &expected["acc"]);
        (0..17).for_each(|j| close(&format!("joint {j}"), report.joint_mpjpe_mm[j], &expected["joint_errors"][j]));
        assert_eq!((report.clips, report.clips_left_out), (50, 9));
        assert_eq!((report.frames, report.frames_in_set), (41 * 27, 1400));
        assert!(report.acceleration_mm_per_frame2 > report.acceleration_as_printed_mm_per_frame2);
    }
}

#[test]
fn the_label_as_prediction_errs_by_rounding_alone() {
    let Some(set) = reference() else { return };
    let expected = &golden_json("h36m_eval/expected.json")["oracle_label_as_prediction"];
    let set = Arc::new(set);
    let options = ClipOptions { root_relative: false, ..ClipOptions::evaluation() };
    let clips = MotionBertClips::new(set.clone(), 27, Some(27), options).unwrap();
    let labels: Vec<f32> = (0..clips.len()).flat_map(|i| clips.sample(0, i).unwrap().label).collect();
    let asking = Asking { flip: false, root_relative: false, ..Asking::new(27) };
    let report = evaluate_h36m(&set, &asking, recite(&labels, 27)).unwrap();
    println!("label as prediction: {} {} {}", report.mpjpe_mm, report.p_mpjpe_mm, report.acceleration_as_printed_mm_per_frame2);
    assert!((report.mpjpe_mm - expected["mpjpe"].as_f64().unwrap()).abs() < 1e-12, "{}", report.mpjpe_mm);
    assert!((report.p_mpjpe_mm - expected["p_mpjpe"].as_f64().unwrap()).abs() < 5e-5, "{}", report.p_mpjpe_mm);
    assert!(report.acceleration_as_printed_mm_per_frame2 < 5e-4);
}

#[test]
fn flip_averaging_asks_twice_and_undoes_the_mirror() {
    let dir = tempfile::tempdir().unwrap();
    let set = open(&dir.path().join("set.pkl"), &people::motion_bert(), Half::Test).unwrap();
    // x, y of the input as the prediction: odd under the mirror, as a perfect lifter is
    let lift = |input: &[f32]| -> Vec<f32> { input.chunks_exact(3).flat_map(|k| [k[0], k[1], 0.0]).collect() };
    let mut calls = 0;
    let mut asked = |asking: &Asking| {
        evaluate_h36m(&set, asking, |input, _| {
            calls += 1;
            Ok::<_, Error>(lift(input))
        })
        .unwrap()
    };
    let (plain, flipped) = (asked(&Asking { flip: false, ..Asking::new(20) }), asked(&Asking::new(20)));
    assert!((plain.mpjpe_mm - flipped.mpjpe_mm).abs() < 1e-3 && calls == 3);
    assert_eq!(plain.actions.len(), 1, "Eating of subject 9 is excluded");
    assert_eq!((plain.actions[0].action.as_str(), plain.clips_left_out, plain.frames), ("Walking", 3, 60));
}

#[test]
fn frames_that_a_clip_repeats_count_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut set = people::motion_bert();
    // the excluded name last, so that the first video is short and not the last
    let names = ["s_11_act_15_subact_01_ca_01", "s_11_act_16_subact_01_ca_02"];
    *set.at(&["test", "source"]) = crate::pickles::Py::texts(names.into_iter().flat_map(|name| std::iter::repeat_n(name, people::FRAMES)));
    let set = open(&dir.path().join("set.pkl"), &set, Half::Test).unwrap();
    let report = evaluate_h36m(&set, &Asking::new(81), |input, _| Ok::<_, Error>(vec![0.0; input.len()])).unwrap();
    let mut shown: Vec<usize> = set.split(81, 81, 0).unwrap()[0].frames.iter().collect();
    shown.dedup();
    assert!(shown.len() < 60, "rounding leaves some out");
    assert_eq!((report.clips, report.frames), (1, shown.len()));
    assert!(report.mpjpe_mm > 100.0 && report.mpjve_mm_per_frame.is_finite());
}

#[test]
fn wrong_questions_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.pkl");
    let zeros = |input: &[f32], _: usize| Ok::<_, Error>(vec![0.0; input.len()]);
    let train = open(&path, &people::motion_bert(), Half::Train).unwrap();
    assert!(evaluate_h36m(&train, &Asking::new(9), zeros).unwrap_err().to_string().contains("expected the test half"));
    let test = open(&path, &people::motion_bert(), Half::Test).unwrap();
    assert!(evaluate_h36m(&test, &Asking { dim_in: 4, ..Asking::new(9) }, zeros).is_err());
    let few = evaluate_h36m(&test, &Asking::new(9), |_, _| Ok::<_, Error>(vec![0.0; 5])).unwrap_err().to_string();
    assert!(few.contains("5 values came back for 12 clips of 9 frames: expected 5508"), "{few}");
    let failed = evaluate_h36m(&test, &Asking::new(9), |_, _| Err::<Vec<f32>, _>("no model")).unwrap_err();
    assert_eq!(failed.to_string(), "the predictor failed: no model");
}

#[test]
fn the_plain_protocol_measures_every_frame() {
    let dir = tempfile::tempdir().unwrap();
    let set = open(&dir.path().join("set.pkl"), &people::motion_bert(), Half::Test).unwrap();
    let clips = set.evaluation_set().unwrap();
    assert_eq!(clips.frames(), set.frames());
    let windowing = Windowing { normalisation: Normalisation::Frame, overlap: 0, batch: 100, ..Windowing::new(30) };
    // windows of 30 without overlap are the clips of the standard protocol here, so the label can be recited
    let sources = MotionBertClips::new(Arc::new(set), 30, Some(30), ClipOptions::evaluation()).unwrap();
    let labels: Vec<f32> = (0..sources.len()).flat_map(|i| sources.sample(0, i).unwrap().label).collect();
    let report = evaluate(&clips, &windowing, recite(&labels, 30)).unwrap();
    let figures = report.mean(true).unwrap();
    assert_eq!(figures.frames, 120);
    assert!(figures.mpjpe_root_depth_mm < 0.05, "{figures:?}");
    assert!(figures.mpjpe_default_height_mm > 1.0, "walkers are not all 1.70 m: {figures:?}");
}

#[test]
fn the_original_report_counts_pixels() {
    let (prediction, label) = (golden("original_pred_norm"), golden("original_label_norm"));
    assert!((image_space_error_px(&prediction, &label) - 25.131853103637695).abs() < 1e-4);

    let dir = tempfile::tempdir().unwrap();
    let set = Arc::new(open(&dir.path().join("set.pkl"), &people::motion_bert(), Half::Test).unwrap());
    let options = ClipOptions { root_relative: false, ..ClipOptions::evaluation() };
    let clips = MotionBertClips::new(set, 20, Some(20), options).unwrap();
    let labels: Vec<f32> = (0..clips.len()).flat_map(|i| clips.sample(0, i).unwrap().label).collect();
    let off: Vec<f32> = labels.iter().enumerate().map(|(i, v)| if i % 3 == 2 { v + 0.01 } else { *v }).collect();
    let found = original_report_px(&clips, 4, recite(&off, 20)).unwrap();
    assert!((found - 5.0).abs() < 1e-3, "{found}");
}

#[test]
fn the_3dhp_protocol_takes_the_middle_of_each_window() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data_test_3dhp.npz");
    write_npz(&path, &[("data", &people::mpi_inf_3dhp(true))]);
    let set = Mpi3dhp::open_test(&path).unwrap();
    let frames = set.valid_frames();
    assert_eq!(frames.len(), 60 + 30);
    // the truth in the middle, rubbish elsewhere, and some of it off by 149 and 151 mm in x
    let answers = |off_mm: [f32; 2]| -> Vec<f32> {
        let one = |&(s, t): &(usize, usize)| {
            let sequence = &set.sequences()[s];
            let mut middle = sequence.label(std::iter::once(t));
            for joint in [3, 4] {
                middle[3 * joint] += off_mm[joint - 3] / (sequence.image.width_px as f32 / 2.0);
            }
            [vec![9.0; 51], middle, vec![9.0; 51]].concat()
        };
        frames.iter().flat_map(one).collect()
    };
    let asking = Asking { flip: false, ..Asking::new(3) };
    let exact = evaluate_3dhp(&set, &asking, recite(&answers([0.0, 0.0]), 3)).unwrap();
    assert!(exact.mpjpe_mm < 1e-3 && exact.pck_percent == 100.0, "{exact:?}");
    assert!((exact.auc_percent - 100.0 * 30.0 / 31.0).abs() < 1e-9);
    let off = evaluate_3dhp(&set, &asking, recite(&answers([149.0, 151.0]), 3)).unwrap();
    assert!((off.mpjpe_mm - 300.0 / 17.0).abs() < 1e-2 && (off.pck_percent - 100.0 * 13.0 / 14.0).abs() < 1e-9, "{off:?}");
    assert_eq!(off.sequences.iter().map(|s| (s.name.as_str(), s.frames)).collect::<Vec<_>>(), [("TS1", 60), ("TS5", 30)]);
    assert!(evaluate_3dhp(&set, &Asking::new(4), recite(&[], 4)).unwrap_err().to_string().contains("expected an odd number"));
}
