//! The converter on BlazePose's real files, against the numbers of TFLite's own runtime (LiteRT 2, CPU); and the subcommand.

#![allow(clippy::print_stdout, reason = "a test says what it skips")]

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use export::tflite;
use ort::session::Session;
use ort::value::TensorRef;
use prost::Message as _;

/// Statistics of one output on [`pattern`], as LiteRT computes it from the TFLite file.
struct Expected {
    name: &'static str,
    len: usize,
    first: f64,
    last: f64,
    mean: f64,
    root_mean_square: f64,
}

const fn expected(name: &'static str, len: usize, numbers: [f64; 4]) -> Expected {
    let [first, last, mean, root_mean_square] = numbers;
    Expected { name, len, first, last, mean, root_mean_square }
}

const DETECTOR: [Expected; 2] = [
    expected("Identity", 27048, [-1.378820, 0.139307, 4.55516161, 57.51857726]),
    expected("Identity_1", 2254, [-72.339394, -24.164333, -44.13506368, 64.27181539]),
];
const LITE: [Expected; 5] = [
    expected("Identity", 195, [129.068604, -1.286922, 46.28057972, 81.10721131]),
    expected("Identity_1", 1, [0.035079, 0.035079, 0.03507869, 0.03507869]),
    expected("Identity_2", 65536, [-17.843136, -21.907139, -54.31759733, 58.78691835]),
    expected("Identity_3", 159744, [-13.077696, -10.005828, -6.83286924, 8.98519051]),
    expected("Identity_4", 117, [-0.102994, 0.324438, -0.10837106, 0.33241745]),
];
const FULL: [Expected; 5] = [
    expected("Identity", 195, [112.376968, -1.338128, 44.67850936, 78.11274218]),
    expected("Identity_1", 1, [0.421309, 0.421309, 0.42130852, 0.42130852]),
    expected("Identity_2", 65536, [-79.284721, -6.487123, -33.98375139, 133.02009580]),
    expected("Identity_3", 159744, [-27.039015, -7.391194, -6.32163988, 7.51213558]),
    expected("Identity_4", 117, [-0.002167, 0.026335, -0.04000548, 0.26452924]),
];
const HEAVY: [Expected; 5] = [
    expected("Identity", 195, [131.643005, -2.798823, 38.29725519, 71.97338562]),
    expected("Identity_1", 1, [0.719682, 0.719682, 0.71968234, 0.71968234]),
    expected("Identity_2", 65536, [-3.128871, -5.975948, -28.70958317, 32.28063270]),
    expected("Identity_3", 159744, [-22.804003, -77.443817, -9.38357873, 12.28957438]),
    expected("Identity_4", 117, [0.080685, 0.929528, -0.04523572, 0.62626337]),
];

/// A smooth picture, (1, side, side, 3) in 0..1.
fn pattern(side: usize) -> Vec<f32> {
    let value = |row: usize, column: usize, channel: usize| {
        let (row, column, channel) = (row as f64, column as f64, channel as f64);
        (0.5 + 0.5 * (row * 0.05 + column * 0.03 * (channel + 1.0) + channel).sin()) as f32
    };
    (0..side * side * 3).map(|i| value(i / 3 / side, i / 3 % side, i % 3)).collect()
}

fn blazepose(file: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.native/blazepose").join(file);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: .native/blazepose/{file} is absent (scripts/blazepose.sh fetches it)");
    None
}

/// Converts a file and compares every output with LiteRT's.
fn check(file: &str, side: usize, input: &[f32], expected: &[Expected]) {
    let Some(path) = blazepose(file) else { return };
    let model = tflite::convert(&std::fs::read(path).expect("a readable file")).expect("a model that converts");
    let environment = runtime::environment(None).expect("ONNX Runtime");
    let mut session = Session::builder(&environment)
        .and_then(|mut builder| builder.commit_from_memory(&model.encode_to_vec()))
        .expect("a model that ONNX Runtime takes");
    let input = TensorRef::from_array_view(([1, side, side, 3], input)).expect("a tensor");
    let outputs = session.run(ort::inputs![input]).expect("a run");
    assert_eq!(outputs.len(), expected.len());
    for output in expected {
        let (_, values) = outputs[output.name].try_extract_tensor::<f32>().expect("floats");
        let values: Vec<f64> = values.iter().map(|&value| f64::from(value)).collect();
        assert_eq!(values.len(), output.len, "{file} {}", output.name);
        let len = values.len() as f64;
        let mean = values.iter().sum::<f64>() / len;
        let root_mean_square = (values.iter().map(|value| value * value).sum::<f64>() / len).sqrt();
        let found = [values[0], values[values.len() - 1], mean, root_mean_square];
        let wanted = [output.first, output.last, output.mean, output.root_mean_square];
        for (found, wanted) in found.iter().zip(wanted) {
            // f32 sums in another order, through up to 109 convolutions.
            let tolerance = 2e-4 * output.root_mean_square;
            assert!((found - wanted).abs() <= tolerance, "{file} {}: {found} is not {wanted}", output.name);
        }
    }
}

#[test]
fn the_detector_agrees_with_litert() {
    let input: Vec<f32> = pattern(224).iter().map(|value| value * 2.0 - 1.0).collect();
    check("detector.tflite", 224, &input, &DETECTOR);
}

#[test]
fn the_landmark_networks_agree_with_litert() {
    for (file, expected) in [("landmarks-lite.tflite", &LITE), ("landmarks-full.tflite", &FULL), ("landmarks-heavy.tflite", &HEAVY)] {
        check(file, 256, &pattern(256), expected);
    }
}

/// A real file cut off or damaged anywhere is an error or another model, never a panic.
#[test]
fn damaged_real_files_are_refused() {
    let Some(path) = blazepose("landmarks-lite.tflite") else { return };
    let whole = std::fs::read(path).expect("a readable file");
    for share in 1..16 {
        assert!(tflite::convert(&whole[..whole.len() * share / 16]).is_err());
    }
    // The tables lie at the start and the end, the weights between them.
    let positions = (8..2000).chain(whole.len() - 40_000..whole.len()).step_by(97);
    for position in positions {
        let mut damaged = whole.clone();
        damaged[position] ^= 0x41;
        let _ = tflite::convert(&damaged);
    }
}

fn export(arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_export"));
    let output = command.env("RUST_LOG", "warn").arg("tflite").args(arguments).output().expect("the program runs");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn wrong_files_are_one_sentence() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    std::fs::write(path("text.tflite"), "this is text, not a model").expect("a file");
    std::fs::write(path("empty.tflite"), "").expect("a file");
    let cases = [("absent.tflite", "cannot read"), ("text.tflite", "not a TFLite model"), ("empty.tflite", "not a TFLite model")];
    for (name, sentence) in cases {
        let (success, error) = export(&[&path(name), &path("out.onnx")]);
        assert!(!success && error.contains(sentence), "{name}: {error}");
        assert_eq!(error.trim().lines().count(), 1, "{error}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 2, "nothing was written");
}

#[test]
fn outputs_can_be_kept_by_name() {
    let Some(path) = blazepose("landmarks-lite.tflite") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("lite.onnx");
    let (path, out) = (path.to_string_lossy(), out.to_string_lossy());
    let (success, error) = export(&[&path, &out, "--keep", "Identity_1=score"]);
    assert!(success, "{error}");
    assert!(std::fs::metadata(&*out).expect("the file").len() > 1_000_000);
    let (success, error) = export(&[&path, &out, "--keep", "Identity_9"]);
    assert!(!success && error.contains("no output \"Identity_9\""), "{error}");
}
