//! Outputs of every reference model, loaded from its own checkpoint.
#![allow(clippy::print_stdout)] // differences, for whoever asks with --nocapture

mod common;

use std::path::Path;

use common::{fraction_within, golden, max_difference, npy, shared};
use network::{Checkpoint, Context, MambaForm, Overrides};
use tch::{Device, Kind, Tensor};
use trainer::{model::Lifter, tensor::Eager};

/// How outputs are compared, see the reference's README.
#[derive(Clone, Copy)]
enum Compare {
    /// Largest difference.
    Within(f64),
    /// At least 0.97 of the outputs within 1e-4: top-k graphs on smooth input.
    Fraction,
    /// The input has rows (`fragile_rows_lt_1e5` of its meta.json) whose graph another rounding may flip: f32 by the
    /// fraction, and f64, where nothing flips, by the largest difference.
    Fragile(f64),
}

impl Compare {
    fn check(self, what: &str, found: &Tensor, expected: &Tensor) {
        let (largest, fraction) = (max_difference(found, expected), fraction_within(found, expected, 1e-4));
        println!("{what}: largest difference {largest:.2e}, within 1e-4: {:.4}", fraction);
        match self {
            Self::Within(tolerance) => assert!(largest <= tolerance, "{what}: {largest:.3e} above {tolerance:.0e}"),
            Self::Fraction | Self::Fragile(_) => assert!(fraction >= 0.97, "{what}: only {fraction:.4} within 1e-4"),
        }
    }
}

fn load(checkpoint: &Path, mamba: Option<MambaForm>, kind: Kind) -> Lifter {
    let read = Checkpoint::read(checkpoint, &Overrides { mamba, ..Overrides::default() })
        .unwrap_or_else(|e| panic!("{}: {e}", checkpoint.display()));
    Lifter::load(&read.config, &read.state, kind, Device::Cpu).unwrap()
}

/// f32 outputs, first layer and flip averaging of one folder.
fn check(folder: &Path, file: &str, mamba: Option<MambaForm>, compare: Compare) {
    let name = folder.file_name().unwrap().to_string_lossy().into_owned();
    let lifter = load(&folder.join(file), mamba, Kind::Float);
    let x = npy(&folder.join("input.npy"), Kind::Float);
    let expected = npy(&folder.join("output_f64.npy"), Kind::Double);
    compare.check(&name, &lifter.predict(&x, false), &expected);
    if let Compare::Fragile(tolerance) = compare {
        let exact = load(&folder.join(file), mamba, Kind::Double).predict(&x.to_kind(Kind::Double), false);
        Compare::Within(tolerance).check(&format!("{name}, f64"), &exact, &expected);
    }
    let layer0 = folder.join("layer0_out.npy");
    if layer0.exists() {
        let network::Lifter::MotionAgFormer(network) = &lifter.network else { panic!("{name} is of the references' family") };
        let found = tch::no_grad(|| network.layer(0, &network.embed(&Eager(x.shallow_clone())), &Context::EVALUATION).0);
        let expected = npy(&layer0, Kind::Float);
        // Inside, values are an order of magnitude larger than outputs, and the file is f32.
        match compare {
            Compare::Within(tolerance) => {
                let largest = max_difference(&found, &expected) / expected.abs().max().double_value(&[]);
                assert!(largest <= tolerance, "{name}, first layer: {largest:.3e} relative to the largest value");
            }
            Compare::Fraction | Compare::Fragile(_) => compare.check(&format!("{name}, first layer"), &found, &expected),
        }
    }
    let flipped = folder.join("output_flip_tta.npy");
    if flipped.exists() {
        let expected = npy(&flipped, Kind::Float);
        let found = lifter.predict(&x, true);
        // The mirrored input was not made with wide margins in the graph: f32 against f32 by fraction.
        Compare::Fraction.check(&format!("{name}, flip averaging"), &found, &expected);
    }
}

fn tiny(folder: &str, file: &str, mamba: Option<MambaForm>, compare: Compare) {
    check(&golden("tiny").join(folder), file, mamba, compare);
}

#[test]
fn official() {
    tiny("official", "best_epoch.pth.tr", None, Compare::Within(1e-5));
    tiny("official_with_optimizer", "best_epoch.pth.tr", None, Compare::Within(1e-5));
    tiny("official_with_optimizer", "numpy1_best_epoch.pth.tr", None, Compare::Within(1e-5));
    tiny("official_with_optimizer", "legacy_tar_best_epoch.pth.tr", None, Compare::Within(1e-5));
}

#[test]
fn official_on_smooth_input() {
    tiny("official_smooth_input", "best_epoch.pth.tr", None, Compare::Fraction);
}

#[test]
fn original_baseline() {
    tiny("original_baseline", "best_baseline.pth", None, Compare::Within(1e-5));
}

#[test]
fn global_mean_is_what_files_of_the_original_get() {
    tiny("original_mamba_gcn_legacy", "best_mamba_gcn.pth", None, Compare::Within(1e-4));
    tiny("original_full_legacy", "best_full.pth", None, Compare::Within(1e-4));
}

#[test]
fn selective() {
    tiny("original_mamba_gcn_fixed", "best_mamba_gcn.pth", Some(MambaForm::Selective), Compare::Within(2e-5));
    tiny("original_full_fixedmamba", "best_full.pth", Some(MambaForm::Selective), Compare::Within(2e-5));
}

#[test]
fn f64_agrees_to_rounding() {
    for (folder, file, mamba) in [
        ("official", "best_epoch.pth.tr", None),
        ("original_mamba_gcn_fixed", "best_mamba_gcn.pth", Some(MambaForm::Selective)),
        ("original_mamba_gcn_legacy", "best_mamba_gcn.pth", None),
    ] {
        let folder = golden("tiny").join(folder);
        let lifter = load(&folder.join(file), mamba, Kind::Double);
        let found = lifter.predict(&npy(&folder.join("input.npy"), Kind::Double), false);
        let largest = max_difference(&found, &npy(&folder.join("output_f64.npy"), Kind::Double));
        assert!(largest < 1e-6, "{}: {largest:.2e}", folder.display()); // the skeleton's adjacency is stored in f32
    }
}

#[test]
fn options_of_the_reference_are_refused_by_name() {
    let refused = Checkpoint::read(&golden("tiny/option_hierarchical/best_epoch.pth.tr"), &Overrides::default());
    let message = refused.err().expect("hierarchical is not supported").to_string();
    assert!(message.contains("hierarchical") && message.contains("not support"), "{message}");
}

#[test]
fn full_size() {
    for (folder, mamba, compare) in [
        ("official_xs_27", None, Compare::Within(1e-5)),
        ("official_xs_27_smooth_input", None, Compare::Fraction),
        ("mamba_gcn_selective_243", Some(MambaForm::Selective), Compare::Fragile(2e-5)),
    ] {
        let Some(folder) = shared(&format!("reference/full/{folder}")) else { continue };
        let is_checkpoint = |path: &Path| path.to_string_lossy().contains(".pth");
        let checkpoint = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).find(|p| is_checkpoint(p)).unwrap();
        check(&folder, &checkpoint.file_name().unwrap().to_string_lossy(), mamba, compare);
    }
}
