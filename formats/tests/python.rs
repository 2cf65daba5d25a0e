//! What we write, read by Python itself. Needs a Python with torch and numpy, named by POSELIFT_PYTHON.
#![allow(clippy::print_stdout)]
mod common;

use common::*;
use formats::{Data, Tensor, Value, half, npy, npz, pth};
use std::{path::Path, process::Command};

fn python(args: &[&str]) -> Option<String> {
    let Some(python) = std::env::var_os("POSELIFT_PYTHON") else {
        println!("skipped: POSELIFT_PYTHON names no Python with torch");
        return None;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/check_written.py");
    let output = Command::new(python).arg("-B").arg(script).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap().trim_end().to_owned())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn every_dtype() -> Vec<(&'static str, Data)> {
    vec![
        ("f64", Data::F64(vec![1.5, -2.0])),
        ("f32", Data::F32(vec![1.5, -2.0])),
        ("f16", Data::F16(vec![half::f16::from_f32(1.5), half::f16::from_f32(-2.0)])),
        ("i64", Data::I64(vec![1 << 40, -2])),
        ("i32", Data::I32(vec![1 << 30, -2])),
        ("i16", Data::I16(vec![300, -2])),
        ("i8", Data::I8(vec![3, -2])),
        ("u8", Data::U8(vec![3, 254])),
        ("bool", Data::Bool(vec![true, false])),
    ]
}

#[test]
fn torch_reads_what_we_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pth");
    let mut tensors: Vec<_> = every_dtype().into_iter().map(|(name, data)| (name, Tensor::new([2, 1], data).unwrap().into())).collect();
    tensors.push(("bf16", Tensor::new([2], Data::BF16(vec![half::bf16::from_f32(1.5); 2])).unwrap().into()));
    tensors.push(("empty", Tensor::f32([0, 3], vec![]).into()));
    tensors.push(("scalar", Tensor::f32([], vec![7.0]).into()));
    let value = Value::dict([
        ("model", Value::dict(tensors)),
        ("none", Value::None),
        ("ints", Value::List(vec![0.into(), (-1).into(), (1i64 << 40).into(), i64::MIN.into()])),
        ("floats", Value::Tuple(vec![0.1f64.into(), f64::INFINITY.into()])),
        ("bytes", Value::Bytes(vec![0, 255, 128])),
        ("text", "Grüße 你好 \u{1f600}".into()),
        ("flags", Value::Tuple(vec![true.into(), false.into()])),
        ("empty", Value::List(vec![Value::List(vec![]), Value::Tuple(vec![]), Value::Dict(vec![])])),
        ("by number", Value::Dict(vec![(Value::Int(0), Value::dict([("step", Tensor::f32([], vec![3.0]).into())]))])),
    ]);
    pth::write(&path, &value).unwrap();
    let Some(seen) = python(&[text(&path)]) else { return };
    assert_same("x.pth", &say(&value), &seen);
}

#[test]
fn torch_reads_a_golden_checkpoint_that_we_copied() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pth");
    let value = pth::read(&golden().join("tiny/official_with_optimizer/best_epoch.pth.tr")).unwrap();
    pth::write(&path, &value).unwrap();
    let Some(seen) = python(&[text(&path)]) else { return };
    assert_same("x.pth", &say(&value), &seen);
}

/// Four more steps of AdamW after a round trip through our reader and writer, to the bit as without it.
#[test]
fn adamw_resumes_from_what_we_write() {
    let folder = tempfile::tempdir().unwrap();
    let (before, copy) = (folder.path().join("before.pth"), folder.path().join("copy.pth"));
    if python(&["adamw", text(&before)]).is_none() {
        return;
    }
    pth::write(&copy, &pth::read(&before).unwrap()).unwrap();
    assert_eq!(python(&["adamw-resume", text(&before), text(&copy)]).unwrap(), "True");
}

/// A state as a trainer without Python makes it.
#[test]
fn adamw_loads_a_state_that_we_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pth");
    let moment = || Value::Tensor(Tensor::f32([2, 3], vec![0.5; 6]));
    let state = Value::dict([("step", Tensor::f32([], vec![3.0]).into()), ("exp_avg", moment()), ("exp_avg_sq", moment())]);
    let group = Value::dict([
        ("lr", Value::Float(5e-4)),
        ("betas", Value::Tuple(vec![0.9f64.into(), 0.999f64.into()])),
        ("eps", Value::Float(1e-8)),
        ("weight_decay", Value::Float(0.01)),
        ("amsgrad", Value::Bool(false)),
        ("maximize", Value::Bool(false)),
        ("foreach", Value::None),
        ("capturable", Value::Bool(false)),
        ("differentiable", Value::Bool(false)),
        ("fused", Value::None),
        ("params", Value::List(vec![0.into()])),
    ]);
    let optimizer = Value::dict([("state", Value::Dict(vec![(Value::Int(0), state)])), ("param_groups", Value::List(vec![group]))]);
    pth::write(&path, &Value::dict([("optimizer", optimizer)])).unwrap();
    for how in ["read", "mmap"] {
        let Some(seen) = python(&["adamw-load", text(&path), how]) else { return };
        let numbers: Vec<f32> = seen.split(' ').map(|number| number.parse().unwrap()).collect();
        assert_eq!(numbers, [4.0, 5e-4, 0.9 * 0.5 + 0.1], "{seen}");
    }
}

#[test]
fn numpy_reads_what_we_write() {
    let folder = tempfile::tempdir().unwrap();
    for (name, data) in every_dtype() {
        let path = folder.path().join(format!("{name}.npy"));
        let tensor = Tensor::new([1, 2, 1], data).unwrap();
        npy::write(&path, &tensor).unwrap();
        let Some(seen) = python(&[text(&path)]) else { return };
        assert_eq!(seen, say(&tensor.into()));
    }
    let path = folder.path().join("x.npz");
    let members =
        [("a", Tensor::f32([3], vec![1.0; 3]).into()), ("empty", Tensor::f32([0, 2], vec![]).into()), ("skeleton", Value::str("Grüße"))];
    npz::write_values(&path, &members).unwrap();
    assert_eq!(python(&[text(&path)]).unwrap(), say(&Value::dict(members)));
}
