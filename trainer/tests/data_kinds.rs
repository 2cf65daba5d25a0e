//! `trainer train` on each kind of data set: a few steps, the report, and what it says to data that do not fit.
#![allow(clippy::print_stdout)] // what was skipped

mod common;

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use common::shared;
use serde_json::Value as Json;

const CONFIGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/configs");

fn train(data: &Path, out: &Path, settings: &[&str]) -> Command {
    let mut command = Command::cargo_bin("trainer").unwrap();
    command.env("OMP_WAIT_POLICY", "passive").args(["train", "--config", &format!("{CONFIGS}/tiny-test.toml"), "--threads", "1"]);
    command.args(["--epochs", "2", "--data"]).arg(data).arg("--out").arg(out);
    for setting in settings {
        command.args(["--set", setting]);
    }
    command
}

fn error_of(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(!output.status.success(), "it succeeded");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!text.contains("panicked"), "{text}");
    text.lines().find(|line| line.starts_with("error:")).unwrap_or_else(|| panic!("no error line in {text}")).to_owned()
}

const CLIPS: [&str; 3] = ["data.normalisation=frame", "data.fps=50.0", "train.accumulate=2"];

#[test]
fn every_kind_trains_and_reports() {
    let Some(formats) = shared("reference/formats/numpy2") else { return };
    let folder = tempfile::tempdir().unwrap();
    let motion3d = formats.join("motion3d");
    let cases: [(&str, PathBuf, &[&str], &str); 6] = [
        ("motionbert", motion3d.clone(), &["data.validation_subjects=[\"s_06\"]"], "image_space_error_px"),
        ("motionbert", motion3d.clone(), &["data.validate_on_test=true"], "mpjpe_mm"),
        (
            "motionbert",
            motion3d.clone(),
            &["data.validate_on_test=true", "data.root_relative=false", "data.flip=0.0"],
            "image_space_error_px",
        ),
        ("clip-folder", motion3d.join("H36M-27"), &["model.n_frames=27", "data.validation_share=0.1"], "image_space_error_px"),
        ("mpi-inf-3dhp", motion3d.clone(), &["data.validate_on_test=true"], "mpjpe_mm"),
        ("videopose3d", formats.join("videopose3d"), &["data.validate_on_test=true", "data.stride=20"], "mpjpe_root_depth_mm"),
    ];
    for (i, (kind, data, more, chosen_by)) in cases.iter().enumerate() {
        let out = folder.path().join(i.to_string());
        let kind_is = format!("data.kind={kind}");
        let common = if *kind == "videopose3d" { &[][..] } else { &CLIPS };
        let settings = [&[kind_is.as_str(), "data.stride=60"], common, more].concat();
        let output = train(data, &out, &settings).arg("--json").output().unwrap();
        assert!(output.status.success(), "{kind}: {}", String::from_utf8_lossy(&output.stderr));
        let lines: Vec<Json> = String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{kind}");
        assert_eq!(lines[1]["chosen_by"], *chosen_by, "{kind}");
        assert!(lines[1]["validation"][chosen_by].as_f64().unwrap() > 0.0);

        let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
        let page = read("training_report.md");
        assert!(page.contains(&format!("| data | {kind} |")) && page.contains("![predictions](predictions.png)"), "{page}");
        assert_eq!(page.contains("chosen on the test set"), more.contains(&"data.validate_on_test=true"), "{page}");
        assert_eq!(read("metrics.csv").lines().count(), 3);
        assert_eq!(serde_json::from_str::<Json>(&read("metrics.json")).unwrap().as_array().unwrap().len(), 2);
        for picture in ["curves.png", "predictions.png"] {
            let bytes = std::fs::read(out.join(picture)).unwrap();
            assert_eq!(bytes[..8], *b"\x89PNG\r\n\x1a\n", "{picture}");
        }
    }
    // the run's own file and the evaluator agree about who chose the checkpoint, and the figure is the evaluator's
    let found = Command::cargo_bin("trainer")
        .unwrap()
        .args(["eval", "--threads", "1", "--json", "--no-flip", "--protocol", "h36m"])
        .arg(folder.path().join("1/best.pth"))
        .arg("--data")
        .arg(&motion3d)
        .output()
        .unwrap();
    let found: Json = serde_json::from_slice(&found.stdout).unwrap();
    let metrics: Json = serde_json::from_slice(&std::fs::read(folder.path().join("1/metrics.json")).unwrap()).unwrap();
    let best = metrics.as_array().unwrap().iter().rev().find(|epoch| epoch["best"] == true).unwrap();
    let (eval, run) = (found["figures"]["mpjpe_mm"].as_f64().unwrap(), best["validation"]["mpjpe_mm"].as_f64().unwrap());
    assert!((eval - run).abs() < 1e-3 * run, "{eval} {run}");
}

#[test]
fn data_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (nowhere, out) = (folder.path().join("nowhere"), folder.path().join("out"));
    let kind = |name: &str| format!("data.kind={name}");
    let unknown = error_of(&mut train(&nowhere, &out, &[&kind("kinetics")]));
    assert!(unknown.contains("kinetics") && unknown.contains("motionbert"), "{unknown}");
    let boxed = error_of(&mut train(&nowhere, &out, &[&kind("motionbert")]));
    assert!(boxed.contains("data.normalisation is person_box"), "{boxed}");
    let share = error_of(&mut train(&nowhere, &out, &[&kind("clip-folder"), CLIPS[0], "data.validation_share=0"]));
    assert!(share.contains("data.validation_share is 0"), "{share}");
    let parts = error_of(&mut train(&nowhere, &out, &["train.accumulate=99"]));
    assert!(parts.contains("train.accumulate is 99"), "{parts}");
    for (name, expected) in [
        ("motionbert", "h36m_sh_conf_cam_source_final.pkl"),
        ("clip-folder", "no such folder"),
        ("mpi-inf-3dhp", "data_train_3dhp.npz"),
        ("videopose3d", "nowhere"),
    ] {
        let error = error_of(&mut train(&nowhere, &out, &[&kind(name), CLIPS[0]]));
        assert!(error.contains(expected), "{name}: {error}");
    }
    assert!(!out.exists(), "a run that was refused left a folder");

    let Some(formats) = shared("reference/formats/numpy2") else { return };
    let motion3d = formats.join("motion3d");
    let nobody = error_of(&mut train(&motion3d, &out, &[&kind("motionbert"), CLIPS[0]]));
    assert!(nobody.contains("no clip of the subjects asked for; it has s_01"), "{nobody}");
    let nobody = error_of(&mut train(&formats.join("videopose3d"), &out, &[&kind("videopose3d")]));
    assert!(nobody.contains("it has nobody of S8 to validate on, but S1, S9"), "{nobody}");
    let length = error_of(&mut train(&motion3d.join("H36M-27"), &out, &[&kind("clip-folder"), CLIPS[0], "data.validation_share=0.1"]));
    assert!(length.contains("the clips have 27 frames and model.n_frames is 9"), "{length}");
}
