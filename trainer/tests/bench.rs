//! `trainer bench` from outside.

use assert_cmd::Command;
use serde_json::Value;

const CONFIGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/configs");

fn bench(config: &str, more: &[&str]) -> (bool, String, String) {
    let mut command = Command::cargo_bin("trainer").unwrap();
    let path = format!("{CONFIGS}/{config}");
    let args = ["bench", "--config", &path, "--threads", "2", "--batch", "4", "--steps", "3", "--warm-up", "1"];
    let output = command.env("OMP_WAIT_POLICY", "passive").args(args).args(more).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn every_part_is_timed() {
    for (config, more) in [
        ("tiny-test.toml", &["--frames", "12"][..]),
        ("tiny-test.toml", &["--frames", "12", "--set", "train.accumulate=2"]),
        ("live-xs.toml", &["--frames", "8", "--set", "train.sequence_parts=[]", "--set", "model.n_layers=1"]),
    ] {
        let (good, out, err) = bench(config, &[more, &["--json"]].concat());
        assert!(good, "{err}");
        let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 5, "4 steps and their medians: {out}");
        assert_eq!(lines[0]["warm_up"], true);
        let summary = &lines[4];
        assert_eq!((&summary["batch"], &summary["steps"], &summary["threads"]), (&4.into(), &3.into(), &2.into()));
        assert_eq!(summary["frames"], if config == "live-xs.toml" { 8 } else { 12 });
        let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{summary}"));
        let parts = ["data", "forward", "loss", "backward", "optimiser"].map(|part| number(&summary["parts_ms"][part]));
        assert!(parts.iter().all(|&time| time > 0.0), "{summary}");
        assert!((number(&summary["samples_per_s"]) - 4e3 / number(&summary["step_ms"])).abs() < 1e-6);
        assert!(number(&summary["peak_memory_mib"]) > 10.0);
    }
}

#[test]
fn replicas_are_timed_as_one_and_people_get_a_table() {
    let (good, out, err) = bench("tiny-test.toml", &["--set", "train.replicas=2"]);
    assert!(good, "{err}");
    assert!(out.contains("samples/s") && out.contains("gradient") && out.contains("peak memory") && !out.contains("backward"), "{out}");
    let (good, _, err) = bench("tiny-test.toml", &["--frames", "0"]);
    assert!(!good && err.contains("n_frames"), "{err}");
}
