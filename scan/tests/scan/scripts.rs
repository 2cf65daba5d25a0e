//! The scripts of tests/gpu on a machine without a GPU: each says in one sentence what is missing.
#![allow(clippy::print_stdout, reason = "what was skipped")]

use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn every_script_says_what_is_missing() {
    let scripts = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/gpu"));
    let carry = tempfile::tempdir().expect("a folder");
    let says = |script: &str| {
        let output = Command::new("bash").arg(scripts.join(script)).args([carry.path(), carry.path()]).output().expect("bash");
        assert!(!output.status.success(), "{script}");
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(words.starts_with("FAIL: ") && words.lines().count() == 1, "{script}: {words}");
        words
    };
    const SCRIPTS: [&str; 6] = ["scan.sh", "torch_scan.sh", "ort_scan.sh", "binding.sh", "streams.sh", "train.sh"];
    for script in SCRIPTS {
        let words = says(script);
        assert!(words.contains(" is missing; tests/gpu/README.md says how to make it"), "{script}: {words}");
    }
    fs::create_dir_all(carry.path().join("ort")).expect("a folder");
    fs::create_dir_all(carry.path().join("configs")).expect("a folder");
    for file in [
        "gpu_scan",
        "gpu_autograd",
        "gpu_binding",
        "clip-xs.onnx",
        "runtime",
        "trainer",
        "mocap",
        "configs/clip-xs.toml",
        "ort/libonnxruntime_providers_cuda.so",
        "live-xs.step.onnx",
        "live-s.step.onnx",
    ] {
        fs::write(carry.path().join(file), "").expect("a file");
    }
    if Command::new("nvidia-smi").output().is_ok() {
        return println!("skipped: this machine has nvidia-smi, and the scripts would go on");
    }
    for script in SCRIPTS {
        let words = says(script);
        assert!(words.contains("there is no NVIDIA GPU here"), "{script}: {words}");
    }
}
