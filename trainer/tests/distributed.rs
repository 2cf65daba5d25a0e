//! Several processes of the program that train one model, over Gloo on this machine.
#![allow(clippy::print_stdout)] // what was skipped, and differences

mod common;

use std::{
    collections::BTreeMap,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use common::shared;
use formats::StateDict;

const CONFIGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/configs");

fn tiny_data() -> Option<tempfile::TempDir> {
    let (train, test) = (shared("data/mocap/tiny_train.npz")?, shared("data/mocap/tiny_test.npz")?);
    let folder = tempfile::tempdir().unwrap();
    for (from, to) in [(&train, "mocap_train.npz"), (&test, "mocap_val.npz")] {
        std::fs::copy(from, folder.path().join(to)).unwrap();
    }
    Some(folder)
}

/// A job: the recipe and what is set in it.
struct Job<'a> {
    recipe: &'a str,
    settings: &'a [&'a str],
    data: &'a Path,
}

/// No dropout, which each process would draw for itself.
const WINDOWED: &[&str] = &["model.mamba_gcn.dropout=0.0", "train.batch_size=8", "data.stride=40", "train.epochs=3"];
/// Without batch normalisation: nothing depends on how a batch is split.
const LIVE: &[&str] = &[
    "model.n_layers=1",
    "model.dim_feat=16",
    "model.dim_rep=16",
    "model.num_heads=4",
    "model.look_aheads=[0, 2]",
    "data.sequence_frames=16",
    "data.stride=40",
    "train.sequence_parts=[1, 2]",
    "train.batch_size=8",
    "train.learning_rate=1e-3",
    "train.schedule.warm_up_steps=0",
    "train.epochs=3",
];

impl Job<'_> {
    fn command(&self, out: &Path, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trainer"));
        command.env("OMP_WAIT_POLICY", "passive").args(["train", "--threads", "1", "--config"]).arg(format!("{CONFIGS}/{}", self.recipe));
        for setting in self.settings {
            command.args(["--set", setting]);
        }
        command.arg("--data").arg(self.data).arg("--out").arg(out).args(more).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    fn alone(&self, out: &Path, more: &[&str]) {
        let output = self.command(out, more).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
    }

    /// Starts ranks, each with its own folder `out/rank` and its own options.
    fn start(&self, out: &Path, ranks: &[&[&str]]) -> Vec<Child> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
        let start = |(rank, more): (usize, &&[&str])| {
            let mut command = self.command(&out.join(rank.to_string()), more);
            command.env("RANK", rank.to_string()).env("WORLD_SIZE", ranks.len().to_string());
            command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", &port).spawn().unwrap()
        };
        ranks.iter().enumerate().map(start).collect()
    }

    /// Two ranks that do the same, until they are done.
    fn together(&self, out: &Path, more: &[&str]) {
        for (rank, child) in self.start(out, &[more, more]).into_iter().enumerate() {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "rank {rank}: {}", text(&output));
        }
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The one `error:` line of a process that must fail.
fn error_of(output: &Output) -> String {
    let text = text(output);
    assert!(!output.status.success() && !text.contains("panicked"), "{text}");
    text.lines().find(|line| line.starts_with("error:")).unwrap_or_else(|| panic!("no error line in {text}")).to_owned()
}

fn weights(run: &Path) -> BTreeMap<String, Vec<f64>> {
    let state = StateDict::from_checkpoint(&formats::pth::read(&run.join("last.pth")).unwrap()).unwrap();
    let trained = |name: &str| !name.contains("running_") && !name.ends_with("num_batches_tracked");
    state.iter().filter(|(name, _)| trained(name)).map(|(name, tensor)| (name.to_owned(), tensor.to_f64())).collect()
}

/// Rounding alone may differ. Adam divides a gradient by its own size, so where a gradient is nothing but rounding a step is too: few values.
fn assert_close(found: &Path, expected: &Path) {
    let (found, expected) = (weights(found), weights(expected));
    assert!(found.len() == expected.len() && !found.is_empty());
    let (mut largest, mut far, mut count) = (0.0_f64, 0, 0);
    for (name, expected) in &expected {
        for (a, b) in found[name].iter().zip(expected) {
            largest = largest.max((a - b).abs());
            far += usize::from((a - b).abs() > 1e-6);
            count += 1;
        }
    }
    println!("largest difference {largest:.2e}, {far} of {count} above 1e-6");
    assert!(largest < 1e-4 && far * 200 < count, "largest difference {largest:.2e}, {far} of {count} above 1e-6");
}

#[test]
fn two_ranks_of_four_make_the_steps_of_one_process_with_eight() {
    let Some(data) = tiny_data() else { return };
    // A model without batch normalisation is the same however a batch is split; with it the process must split its batch as the ranks do.
    for (recipe, settings, alone) in [("live-xs.toml", LIVE, &[][..]), ("tiny-test.toml", WINDOWED, &["--set", "train.accumulate=2"][..])] {
        let job = Job { recipe, settings, data: data.path() };
        let folder = tempfile::tempdir().unwrap();
        let (one, two, pieces) = (folder.path().join("one"), folder.path().join("two"), folder.path().join("pieces"));
        job.alone(&one, &[alone, &["--max-steps", "4"]].concat());
        job.together(&two, &["--max-steps", "4"]);
        assert_close(&two.join("0"), &one);
        assert!(!two.join("1").exists(), "rank 1 wrote");
        // A resume of rank 0's files, which the other rank does not have.
        job.together(&pieces, &["--max-steps", "1"]);
        job.together(&pieces, &["--max-steps", "3", "--resume"]);
        assert_close(&pieces.join("0"), &two.join("0"));
    }
}

#[test]
fn a_job_of_one_process_is_a_plain_run_and_a_whole_run_is_reported() {
    let Some(data) = tiny_data() else { return };
    let job = Job { recipe: "tiny-test.toml", settings: &[], data: data.path() };
    let folder = tempfile::tempdir().unwrap();
    let alone = folder.path().join("alone");
    job.alone(&alone, &[]);
    let [only] = job.start(folder.path(), &[&[]]).try_into().unwrap();
    let output = only.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(weights(&folder.path().join("0")), weights(&alone));

    // To the end, with validation: rank 1 waits and ends as well.
    let two = folder.path().join("two");
    job.together(&two, &["--set", "data.stride=150"]);
    for file in ["best.pth", "last.pth", "final.pth", "training_report.md", "metrics.jsonl", "tensorboard"] {
        assert!(two.join("0").join(file).exists(), "{file}");
    }
    assert!(!two.join("1").exists(), "rank 1 wrote");
}

#[test]
fn a_lost_rank_ends_the_job_with_a_message() {
    let Some(data) = tiny_data() else { return };
    let settings = [WINDOWED, &["train.epochs=100000", "data.stride=10"]].concat();
    let job = Job { recipe: "tiny-test.toml", settings: &settings, data: data.path() };
    let folder = tempfile::tempdir().unwrap();
    let [first, mut second] = job.start(folder.path(), &[&[], &[]]).try_into().unwrap();
    // They train once the curves are begun; a little later the second dies as if the machine had taken it.
    let events = folder.path().join("0/tensorboard");
    let started = Instant::now();
    while !events.exists() {
        assert!(started.elapsed() < Duration::from_secs(120), "no training after two minutes");
        std::thread::sleep(Duration::from_millis(100));
    }
    std::thread::sleep(Duration::from_secs(2));
    second.kill().unwrap();
    second.wait().unwrap();
    let killed = Instant::now();
    let error = error_of(&first.wait_with_output().unwrap());
    assert!(error.contains("rank 0 lost touch with the others during"), "{error}");
    assert!(killed.elapsed() < Duration::from_secs(60), "{:?}", killed.elapsed());
}

#[test]
fn a_rank_that_hangs_ends_the_job_in_time() {
    let Some(data) = tiny_data() else { return };
    let settings = [WINDOWED, &["train.epochs=100000", "data.stride=10"]].concat();
    let job = Job { recipe: "tiny-test.toml", settings: &settings, data: data.path() };
    let folder = tempfile::tempdir().unwrap();
    let options: &[&str] = &["--rank-timeout", "0.2"]; // 12 s
    let [first, mut second] = job.start(folder.path(), &[options, options]).try_into().unwrap();
    let events = folder.path().join("0/tensorboard");
    let started = Instant::now();
    while !events.exists() {
        assert!(started.elapsed() < Duration::from_secs(120), "no training after two minutes");
        std::thread::sleep(Duration::from_millis(100));
    }
    let stopped = Command::new("kill").args(["-STOP", &second.id().to_string()]).status().unwrap();
    assert!(stopped.success());
    let error = error_of(&first.wait_with_output().unwrap());
    second.kill().unwrap();
    second.wait().unwrap();
    assert!(error.contains("rank 0 lost touch with the others during"), "{error}");
}

#[test]
fn what_cannot_work_is_said() {
    let Some(data) = tiny_data() else { return };
    let job = Job { recipe: "tiny-test.toml", settings: WINDOWED, data: data.path() };
    let folder = tempfile::tempdir().unwrap();
    let errors = |out: &str, ranks: &[&[&str]]| -> Vec<String> {
        let children = job.start(&folder.path().join(out), ranks);
        children.into_iter().map(|child| error_of(&child.wait_with_output().unwrap())).collect()
    };
    let differing = errors("recipes", &[&["--set", "train.learning_rate=2e-3"], &[]]);
    assert!(differing[1].contains("rank 1 has another recipe than rank 0"), "{differing:?}");
    assert!(differing[0].contains("rank 0 lost touch"), "{differing:?}");
    let uneven = errors("uneven", &[&["--set", "train.batch_size=9"][..]; 2]);
    assert!(
        uneven.iter().all(|error| error.contains("train.batch_size is 9: expected a multiple of the number of processes, 2")),
        "{uneven:?}"
    );

    let mut half_told = job.command(&folder.path().join("half"), &[]);
    let output = half_told.env("RANK", "0").env("WORLD_SIZE", "2").output().unwrap();
    assert!(error_of(&output).contains("MASTER_ADDR is not set"), "{}", text(&output));
}
