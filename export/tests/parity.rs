//! Every reference model, exported, against the outputs of the PyTorch code it comes from.

#![allow(clippy::print_stdout)] // how close, and what was skipped

mod common;

use std::path::Path;

use common::{golden, largest_difference, npy, read_checkpoint, shared_reference, to_f32};
use export::{
    lifter::{self, INPUT, Part},
    session::{Options, Session},
};
use network::MambaForm;

/// How the outputs are compared, by ../shared/reference/README.md.
#[derive(Clone, Copy)]
enum Within {
    Largest(f64),
    /// The same, but a row of the top-k graph that is almost tied may flip: then [`AGREEING`] of the outputs within 1e-4.
    LargestUnlessFlipped(f64),
    /// Many near ties: [`AGREEING`] of the outputs within 1e-4.
    Fraction,
}

const AGREEING: f64 = 0.97;

const OFFICIAL: Within = Within::Largest(1e-5);
const SELECTIVE: Within = Within::Largest(2e-5);
const GLOBAL_MEAN: Within = Within::Largest(1e-4);
const BATCHES: [usize; 3] = [1, 2, 5];

fn assert_agrees(what: &str, found: &[f32], expected: &[f64], within: Within) {
    let largest = largest_difference(found, expected);
    let agreeing = found.iter().zip(expected).filter(|&(&a, &b)| (f64::from(a) - b).abs() <= 1e-4).count() as f64 / found.len() as f64;
    println!("{what}: largest difference {largest:.2e}, {:.2} % within 1e-4", agreeing * 100.0);
    match within {
        Within::Largest(limit) => assert!(largest <= limit, "{what}: {largest:e} > {limit:e}"),
        Within::LargestUnlessFlipped(limit) => assert!(largest <= limit || agreeing >= AGREEING, "{what}: {largest:e}, {agreeing}"),
        Within::Fraction => assert!(agreeing >= AGREEING, "{what}: only {agreeing}"),
    }
}

/// Both ways of running a file, and batches of other sizes.
fn check_model(folder: &Path, mamba: Option<MambaForm>, within: Within, batches: &[usize]) {
    let name = folder.file_name().unwrap().to_string_lossy().into_owned();
    let checkpoint = read_checkpoint(folder, mamba);
    let model = lifter::record(checkpoint.config.windowed().unwrap(), &checkpoint.state, Part::Whole).unwrap();
    let (shape, input) = npy(&folder.join("input.npy"));
    let (out_shape, expected) = npy(&folder.join("output_f64.npy"));
    let input = to_f32(&input);
    let (batch, window) = (shape[0], input.len() / shape[0]);
    for (custom_op, how) in [(true, "operator"), (false, "function body")] {
        let mut session = Session::open(&model, Options { custom_op, threads: 2 }).unwrap();
        let (found_shape, found) = session.run(&[(INPUT, &shape, &input)]).unwrap().remove(0);
        assert_eq!(found_shape, out_shape, "{name}");
        assert_agrees(&format!("{name}, {how}"), &found, &expected, within);

        // The batch is free: windows repeated give their own poses again.
        let pose = found.len() / batch;
        for &size in batches {
            let windows: Vec<f32> = (0..size).flat_map(|i| &input[i % batch * window..][..window]).copied().collect();
            let (found_shape, again) = session.run(&[(INPUT, &[size, shape[1], shape[2], shape[3]], &windows)]).unwrap().remove(0);
            assert_eq!(found_shape[0], size);
            let alone: Vec<f64> = (0..size).flat_map(|i| &expected[i % batch * pose..][..pose]).copied().collect();
            assert_agrees(&format!("{name}, {how}, batch {size}"), &again, &alone, within);
        }
    }
}

#[test]
fn official() {
    check_model(&golden("tiny/official"), None, OFFICIAL, &BATCHES);
    check_model(&golden("tiny/official_with_optimizer"), None, OFFICIAL, &BATCHES);
}

#[test]
fn official_on_smooth_input() {
    check_model(&golden("tiny/official_smooth_input"), None, Within::Fraction, &BATCHES);
}

#[test]
fn original_baseline() {
    check_model(&golden("tiny/original_baseline"), None, OFFICIAL, &BATCHES);
}

#[test]
fn selective() {
    check_model(&golden("tiny/original_mamba_gcn_fixed"), Some(MambaForm::Selective), SELECTIVE, &BATCHES);
    check_model(&golden("tiny/original_full_fixedmamba"), Some(MambaForm::Selective), SELECTIVE, &BATCHES);
}

#[test]
fn global_mean() {
    check_model(&golden("tiny/original_mamba_gcn_legacy"), None, GLOBAL_MEAN, &BATCHES);
    check_model(&golden("tiny/original_full_legacy"), None, GLOBAL_MEAN, &BATCHES);
}

#[test]
fn first_layer() {
    for (folder, mamba) in [("tiny/official", None), ("tiny/original_mamba_gcn_fixed", Some(MambaForm::Selective))] {
        let folder = golden(folder);
        let checkpoint = read_checkpoint(&folder, mamba);
        let (shape, input) = npy(&folder.join("input.npy"));
        let run = |part, shape: &[usize], x: &[f32]| {
            let model = lifter::record(checkpoint.config.windowed().unwrap(), &checkpoint.state, part).unwrap();
            Session::open(&model, Options { custom_op: true, threads: 1 }).unwrap().run(&[(INPUT, shape, x)]).unwrap().remove(0)
        };
        let (shape, x) = run(Part::Embedding, &shape, &to_f32(&input));
        let (shape, x) = run(Part::Layer(0), &shape, &x);
        let (expected_shape, expected) = npy(&folder.join("layer0_out.npy"));
        assert_eq!(shape, expected_shape);
        let largest = largest_difference(&x, &expected);
        assert!(largest < 3e-5, "{largest:e}"); // values up to 13, and the expected ones are f32
    }
}

#[test]
fn full_size() {
    let Some(full) = shared_reference() else {
        println!("skipped: ../shared is absent");
        return;
    };
    check_model(&full.join("official_xs_27"), None, Within::LargestUnlessFlipped(1e-5), &BATCHES);
    check_model(&full.join("official_xs_27_smooth_input"), None, Within::Fraction, &BATCHES);
}

#[test]
fn full_size_selective() {
    let Some(full) = shared_reference() else {
        println!("skipped: ../shared is absent");
        return;
    };
    // Its own batch only: a window takes seconds.
    check_model(&full.join("mamba_gcn_selective_243"), Some(MambaForm::Selective), Within::LargestUnlessFlipped(2e-5), &[]);
}
