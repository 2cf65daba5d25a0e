//! The program from outside: a run on the tiny set, its resume, and what it says to wrong input.
#![allow(clippy::print_stdout)] // what was skipped

mod common;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use assert_cmd::Command;
use common::shared;
use formats::{StateDict, Value};

const RECIPE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/configs/tiny-test.toml");

fn trainer() -> Command {
    let mut command = Command::cargo_bin("trainer").unwrap();
    command.env("OMP_WAIT_POLICY", "passive");
    command
}

/// A folder laid out as `--data` wants it, with the tiny set in it; `None` where that is absent.
fn tiny_data() -> Option<tempfile::TempDir> {
    let (train, test) = (shared("data/mocap/tiny_train.npz")?, shared("data/mocap/tiny_test.npz")?);
    let folder = tempfile::tempdir().unwrap();
    for (from, to) in [(&train, "mocap_train.npz"), (&test, "mocap_val.npz"), (&test, "mocap_test.npz")] {
        std::fs::copy(from, folder.path().join(to)).unwrap();
    }
    Some(folder)
}

fn train(data: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = trainer();
    command.args(["train", "--config", RECIPE, "--threads", "1", "--data"]).arg(data).arg("--out").arg(out).args(more);
    command
}

/// The one `error:` line of a failed command.
fn error_of(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(!output.status.success(), "it succeeded");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!text.contains("panicked"), "{text}");
    text.lines().find(|line| line.starts_with("error:")).unwrap_or_else(|| panic!("no error line in {text}")).to_owned()
}

fn weights(path: &Path) -> BTreeMap<String, Vec<f64>> {
    let state = StateDict::from_checkpoint(&formats::pth::read(path).unwrap()).unwrap();
    state.iter().map(|(name, tensor)| (name.to_owned(), tensor.to_f64())).collect()
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one() {
    let Some(data) = tiny_data() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (whole, pieces): (PathBuf, PathBuf) = (folder.path().join("whole"), folder.path().join("pieces"));
    let output = train(data.path(), &whole, &["--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<serde_json::Value> =
        String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    for figure in ["mpjpe_root_depth_mm", "n_mpjpe_mm", "p_mpjpe_mm", "mpjpe_default_height_mm"] {
        assert!(lines[1]["validation"][figure].as_f64().unwrap() > 0.0);
    }

    // Stopped within the first epoch and within the second.
    train(data.path(), &pieces, &["--max-steps", "3"]).assert().success();
    train(data.path(), &pieces, &["--resume", "--max-steps", "4"]).assert().success();
    train(data.path(), &pieces, &["--resume"]).assert().success();
    assert_eq!(weights(&whole.join("final.pth")), weights(&pieces.join("final.pth")));
    let metrics = |run: &Path| -> Vec<f64> {
        let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64().unwrap()).collect()
    };
    assert_eq!(metrics(&whole), metrics(&pieces));

    // Everything that is promised is there, and the model says what it is.
    let kept = ["best.pth", "last.pth", "final.pth", "epoch_1.pth", "epoch_2.pth", "recipe.toml", "training.log", "metrics.jsonl"];
    let reported = ["training_report.md", "metrics.json", "metrics.csv", "curves.png", "predictions.png"];
    for name in kept.into_iter().chain(reported) {
        assert!(whole.join(name).exists(), "{name} is missing");
    }
    // The report can be made anew.
    std::fs::remove_file(whole.join("curves.png")).unwrap();
    trainer().arg("report").arg(&whole).assert().success();
    assert!(whole.join("curves.png").exists());
    assert!(error_of(trainer().arg("report").arg(folder.path())).contains("recipe.toml"));
    let best = formats::pth::read(&whole.join("best.pth")).unwrap();
    let metadata = best.get("poselift").and_then(|own| own.get("metadata")).and_then(Value::as_str).unwrap().to_owned();
    assert!(metadata.contains(r#""normalisation":"person_box""#), "{metadata}");

    // A finished run is not overwritten, and nothing more is trained.
    assert!(error_of(&mut train(data.path(), &whole, &[])).contains("--resume"));
    assert!(error_of(&mut train(data.path(), &whole, &["--resume", "--seed", "5"])).contains("--seed 0"));
    assert!(error_of(&mut train(data.path(), &whole, &["--resume", "--set", "model.num_heads=2"])).contains("another model"));
    train(data.path(), &whole, &["--resume"]).assert().success();
    assert_eq!(metrics(&whole).len(), 2);

    // The evaluator reads it.
    let output = trainer()
        .args(["eval", "--threads", "1", "--no-baselines", "--json"])
        .arg(whole.join("best.pth"))
        .arg("--data")
        .arg(data.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["rows"][0]["conditions"].as_array().unwrap().len(), 4);
}

#[test]
fn python_reads_what_is_saved() {
    let Some(data) = tiny_data() else { return };
    let python = std::process::Command::new("python3").args(["-c", "import torch"]).output();
    if !python.is_ok_and(|output| output.status.success()) {
        println!("skipped: python3 with torch is absent");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    train(data.path(), &out, &["--max-steps", "2"]).assert().success();
    let script = "import sys, torch\n\
        c = torch.load(sys.argv[1], weights_only=True)\n\
        p = [torch.nn.Parameter(v.clone()) for k, v in c['model'].items() if v.is_floating_point() and not k.endswith(('running_mean', 'running_var', 'adj_matrix'))]\n\
        o = torch.optim.AdamW(p); o.load_state_dict(c['optimizer'])\n\
        assert o.state_dict()['state'][0]['step'] == 2";
    Command::new("python3").arg("-c").arg(script).arg(out.join("last.pth")).assert().success();
}

#[test]
fn wrong_input_is_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let (nowhere, out) = (folder.path().join("nowhere"), folder.path().join("out"));
    assert!(error_of(&mut train(&nowhere, &out, &[])).contains("no such folder"));
    assert!(error_of(&mut train(folder.path(), &out, &[])).contains("mocap_train.npz"));
    assert!(error_of(&mut train(&nowhere, &out, &["--set", "train.lerning_rate=1"])).contains("did you mean `learning_rate`"));
    let no_threads = error_of(trainer().args(["eval", "any.pth", "--data", "any", "--threads", "0"]));
    assert!(no_threads.contains("--threads 0"), "{no_threads}");
    assert!(!out.exists(), "a run that was refused left a folder");

    let text = folder.path().join("text.pth");
    std::fs::write(&text, "this is no checkpoint\n").unwrap();
    let error = error_of(trainer().args(["eval", "--data"]).arg(folder.path()).arg(&text));
    assert!(error.contains("text.pth"), "{error}");
    let error = error_of(trainer().args(["eval", "--data"]).arg(folder.path()).arg(folder.path().join("absent.pth")));
    assert!(error.contains("absent.pth"), "{error}");

    let no_cuda = error_of(train(&nowhere, &out, &["--device", "cuda"]).env_remove("LIBTORCH_CUDA_DIR"));
    assert!(no_cuda.contains("--device cuda"), "{no_cuda}");
}

#[test]
fn a_loss_that_is_no_number_stops_the_run() {
    let Some(data) = tiny_data() else { return };
    let folder = tempfile::tempdir().unwrap();
    let error = error_of(&mut train(
        data.path(),
        &folder.path().join("run"),
        &["--set", "train.learning_rate=1e30", "--set", "train.schedule.kind=constant"],
    ));
    assert!(error.contains("no finite number at step"), "{error}");
}
