//! `trainer finetune`: from a checkpoint to another, on generated people.

mod common;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use assert_cmd::Command;
use datasets::synthetic;
use formats::{StateDict, Value};
use pose::{
    ImageSize, Keypoint, KeypointClip, Pose3,
    camera::{Extrinsics, Intrinsics},
};
use serde_json::{Value as Json, json};
use tch::{Device, Kind};
use trainer::{
    checkpoint,
    lora::LoraConfig,
    model::Lifter,
    optimiser::OptimiserConfig,
    tuning::{FinetuneConfig, Tuning},
};

const CONFIGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/configs");

fn trainer() -> Command {
    let mut command = Command::cargo_bin("trainer").unwrap();
    command.env("OMP_WAIT_POLICY", "passive");
    command
}

fn error_of(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(!output.status.success(), "it succeeded");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!text.contains("panicked"), "{text}");
    text.lines().find(|line| line.starts_with("error:")).unwrap_or_else(|| panic!("no error line in {text}")).to_owned()
}

/// What the tests start from: motion, and a model that has seen some of it. Made once.
struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn get() -> &'static Self {
        static WORLD: OnceLock<World> = OnceLock::new();
        WORLD.get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let at = |name: &str| folder.path().join(name);
            std::fs::create_dir(at("base")).unwrap();
            for (name, clips, seed) in [("base/mocap_train.npz", 8, 1), ("base/mocap_val.npz", 2, 2), ("new.npz", 5, 30)] {
                synthetic::walks(name, clips, 150, seed).unwrap().save(&at(name)).unwrap();
            }
            let tiny = ["--set", "data.stride=60", "--set", "train.learning_rate=3e-2", "--epochs", "10"];
            let mut train = trainer();
            train.args(["train", "--threads", "1", "--config", &format!("{CONFIGS}/tiny-test.toml")]).args(tiny);
            train.arg("--data").arg(at("base")).arg("--out").arg(at("run")).assert().success();
            World { folder }
        })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self) -> PathBuf {
        self.at("run/best.pth")
    }

    /// A short fine-tuning on the new motion.
    fn finetune(&self, out: &Path, more: &[&str]) -> Command {
        let mut command = trainer();
        command.arg("finetune").arg(self.start()).args(["--threads", "1", "--epochs", "2", "--set", "data.stride=60"]);
        command.args(["--set", "train.batch_size=4", "--set", "train.schedule.warm_up_steps=1"]);
        command.arg("--data").arg(self.at("new.npz")).arg("--out").arg(out).args(more);
        command
    }
}

fn weights(path: &Path) -> BTreeMap<String, Vec<f64>> {
    let state = StateDict::from_checkpoint(&formats::pth::read(path).unwrap()).unwrap();
    state.iter().map(|(name, tensor)| (name.to_owned(), tensor.to_f64())).collect()
}

fn metrics(run: &Path) -> Vec<Json> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Names of the weights that differ.
fn moved(before: &BTreeMap<String, Vec<f64>>, after: &BTreeMap<String, Vec<f64>>) -> Vec<String> {
    assert!(before.keys().eq(after.keys()), "the names have changed");
    before.iter().filter(|(name, values)| *values != &after[*name]).map(|(name, _)| name.clone()).collect()
}

#[test]
fn both_errors_are_reported_before_and_after() {
    let world = World::get();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let base = world.at("base");
    let output =
        world.finetune(&out, &["--json", "--replay", "0.3", "--max-forgetting", "1000%", "--base-data"]).arg(&base).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<Json> = String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 4, "before, two epochs, the change");
    let error = |line: &Json, part: &str| line[part]["mpjpe_root_depth_mm"].as_f64().unwrap();
    assert_eq!((lines[0]["epoch"].as_u64(), lines[0]["loss"].is_null()), (Some(0), true));
    for line in &lines[..3] {
        assert!(error(line, "validation") > 0.0 && error(line, "base") > 0.0, "{line}");
        let forgetting = error(line, "base") - error(&lines[0], "base");
        assert!((line["base"]["forgetting"].as_f64().unwrap() - forgetting).abs() < 1e-6);
    }
    assert_eq!(metrics(&out), lines[..3]);
    let change = lines[3]["change"]["errors"].as_array().unwrap();
    assert!(
        change.iter().any(|entry| entry[0] == "base.mpjpe_root_depth_mm") && change.iter().any(|entry| entry[0] == "validation.p_mpjpe_mm")
    );

    for name in [
        "best.pth",
        "last.pth",
        "final.pth",
        "recipe.toml",
        "training.log",
        "training_report.md",
        "curves.png",
        "predictions.png",
        "metrics.csv",
    ] {
        assert!(out.join(name).exists(), "{name} is missing");
    }
    let page = std::fs::read_to_string(out.join("training_report.md")).unwrap();
    for expected in ["## Before and after", "| base data: mpjpe_root_depth_mm |", "base data that is watched | mocap_val.npz"] {
        assert!(page.contains(expected), "{expected} is not in {page}");
    }
    let recipe = std::fs::read_to_string(out.join("recipe.toml")).unwrap();
    assert!(recipe.contains("[finetune]") && recipe.contains("replay = 0.3") && recipe.contains("max_forgetting = \"1000%\""), "{recipe}");
    let best = formats::pth::read(&out.join("best.pth")).unwrap();
    let metadata = best.get("poselift").and_then(|own| own.get("metadata")).and_then(Value::as_str).unwrap().to_owned();
    assert!(metadata.contains("Fine-tuned on new.npz") && metadata.contains(r#""normalisation":"person_box""#), "{metadata}");

    // the result is a checkpoint like any other: it is measured, and it can be tuned on
    trainer().args(["eval", "--threads", "1"]).arg(out.join("best.pth")).arg("--data").arg(world.at("new.npz")).assert().success();
    trainer().args(["report"]).arg(&out).assert().success();
    // its recipe alone starts nothing
    let mut train = trainer();
    train.arg("train").arg("--config").arg(out.join("recipe.toml")).arg("--data").arg(&base).arg("--out").arg(folder.path().join("t"));
    assert!(error_of(&mut train).contains("use trainer finetune"));
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one() {
    let world = World::get();
    let folder = tempfile::tempdir().unwrap();
    let base = world.at("base").display().to_string();
    for (name, more) in [
        ("whole weights", vec!["--layer-decay", "0.5", "--set", "train.ema=0.9", "--base-data", &base, "--replay", "0.4"]),
        ("adapters", vec!["--lora", "2", "--lora-alpha", "8", "--set", "train.ema=0.9", "--learning-rate", "3e-3"]),
    ] {
        let (whole, pieces) = (folder.path().join(name), folder.path().join(format!("{name} in pieces")));
        world.finetune(&whole, &more).assert().success();
        for steps in ["1", "2", "1000"] {
            world.finetune(&pieces, &[more.clone(), vec!["--resume", "--max-steps", steps]].concat()).assert().success();
        }
        assert_eq!(weights(&whole.join("final.pth")), weights(&pieces.join("final.pth")), "{name}");
        let losses = |run: &Path| metrics(run).iter().map(|line| (line["loss"].clone(), line["validation"].clone())).collect::<Vec<_>>();
        assert_eq!(losses(&whole), losses(&pieces), "{name}");
        assert!(!moved(&weights(&world.start()), &weights(&whole.join("final.pth"))).is_empty());
    }
    // what is saved of a run with adapters is the merged model alone, but for last.pth
    let saved = formats::pth::read(&folder.path().join("adapters/best.pth")).unwrap();
    assert!(weights(&folder.path().join("adapters/best.pth")).keys().all(|name| !name.contains("lora")) && saved.get("tuning").is_none());
    let last = formats::pth::read(&folder.path().join("adapters/last.pth")).unwrap();
    assert!(last.get("tuning").and_then(|tuning| tuning.get("lora")).is_some());
    // with adapters, nothing but linear layers within the layers moves, running statistics included
    let moved = moved(&weights(&world.start()), &weights(&folder.path().join("adapters/final.pth")));
    assert!(
        !moved.is_empty() && moved.iter().all(|name| name.starts_with("layers.") && name.ends_with(".weight") && !name.contains("norm")),
        "{moved:?}"
    );
    let other_rank =
        error_of(&mut world.finetune(&folder.path().join("adapters in pieces"), &["--lora", "3", "--resume", "--set", "train.epochs=9"]));
    assert!(other_rank.contains("another rank"), "{other_rank}");
}

#[test]
fn frozen_weights_stay() {
    let world = World::get();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    world.finetune(&out, &["--freeze", "joints_embed*", "--freeze", "layers.0.att_*", "--freeze", "pos_embed"]).assert().success();
    let moved = moved(&weights(&world.start()), &weights(&out.join("final.pth")));
    let is_frozen = |name: &String| name.starts_with("joints_embed") || name.starts_with("layers.0.att_") || name.starts_with("pos_embed");
    assert!(!moved.iter().any(is_frozen), "{moved:?}");
    for expected in ["head.weight", "layers.0.graph_spatial.mlp.fc1.weight"] {
        assert!(moved.iter().any(|name| name == expected), "{expected} is not in {moved:?}");
    }
    // so do the running statistics, unless the batches' are asked for
    assert!(!moved.iter().any(|name| name.contains("running_")), "{moved:?}");
    let of_batch = folder.path().join("of batch");
    world.finetune(&of_batch, &["--set", "finetune.batch_statistics=true"]).assert().success();
    let moved = self::moved(&weights(&world.start()), &weights(&of_batch.join("final.pth")));
    assert!(moved.iter().any(|name| name.contains("running_mean")), "{moved:?}");
}

fn tuning(spoil: impl Fn(&mut FinetuneConfig)) -> (Lifter, anyhow::Result<Tuning>) {
    let (file, _) = checkpoint::read(&World::get().start(), &network::Overrides::default()).unwrap();
    let mut lifter = Lifter::load(&file.config, &file.state, Kind::Float, Device::Cpu).unwrap();
    let mut config: FinetuneConfig = toml::from_str("checkpoint = \"start\"").unwrap();
    spoil(&mut config);
    let tuning = Tuning::new(&config, &mut lifter, None, 0);
    (lifter, tuning)
}

#[test]
fn each_depth_has_its_rate() {
    let (lifter, tuning) = tuning(|config| config.layer_decay = 0.5);
    let optimiser = tuning.unwrap().optimiser(&lifter, OptimiserConfig::default());
    let saved = optimiser.state_dict(8.0);
    let groups = saved.get("param_groups").and_then(Value::items).unwrap();
    let rates: Vec<f64> = groups.iter().map(|group| group.get("lr").and_then(Value::as_f64).unwrap()).collect();
    assert_eq!(rates, [8.0, 4.0, 2.0], "head, the one layer, embedding");
    let counts: Vec<usize> = groups.iter().map(|group| group.get("params").and_then(Value::items).unwrap().len()).collect();
    let of = |prefixes: &[&str]| lifter.weights.parameters().filter(|(name, _)| prefixes.iter().any(|p| name.starts_with(p))).count();
    assert_eq!(counts, [of(&["norm.", "rep_logit", "head"]), of(&["layers."]), of(&["joints_embed", "pos_embed"])]);
    assert_eq!(counts.iter().sum::<usize>(), lifter.weights.parameters().count());
}

#[test]
fn patterns_that_name_nothing_are_refused() {
    let error = |spoil: fn(&mut FinetuneConfig)| match tuning(spoil).1 {
        Ok(_) => panic!("it was accepted"),
        Err(error) => error.to_string(),
    };
    assert!(error(|config| config.freeze = vec!["hed*".into()]).contains("\"hed*\", which names no parameter"));
    assert!(error(|config| config.freeze = vec!["*".into()]).contains("leaves nothing to be trained"));
    let lora = |weights: &[&str]| Some(LoraConfig { rank: 2, alpha: None, weights: weights.iter().map(|w| (*w).to_owned()).collect() });
    let (_, refused) = tuning(|config| config.lora = lora(&["pos_embed"]));
    assert!(refused.err().unwrap().to_string().contains("names no linear layer's weight"));
    // a pattern may repeat what another one froze
    assert!(tuning(|config| config.freeze = vec!["layers.*".into(), "layers.0.*".into()]).1.is_ok());
}

#[test]
fn a_run_ends_when_nothing_improves_or_too_much_is_forgotten() {
    let world = World::get();
    let folder = tempfile::tempdir().unwrap();
    let (stale, forgetful) = (folder.path().join("stale"), folder.path().join("forgetful"));
    // so small a rate changes no weight
    world.finetune(&stale, &["--learning-rate", "1e-30", "--patience", "2", "--set", "train.epochs=9"]).assert().success();
    assert_eq!(metrics(&stale).len(), 3, "before and two epochs");
    assert!(std::fs::read_to_string(stale.join("training_report.md")).unwrap().contains("2 epochs in a row brought no lower error"));
    assert!(moved(&weights(&world.start()), &weights(&stale.join("best.pth"))).is_empty(), "the best is where it started");
    // ended stays ended
    world.finetune(&stale, &["--learning-rate", "1e-30", "--patience", "2", "--set", "train.epochs=9", "--resume"]).assert().success();
    assert_eq!(metrics(&stale).len(), 3);

    let base = world.at("base/mocap_val.npz").display().to_string();
    let wild = ["--learning-rate", "0.2", "--set", "train.epochs=9", "--max-forgetting", "0.5mm", "--base", &base];
    world.finetune(&forgetful, &wild).assert().success();
    let lines = metrics(&forgetful);
    assert_eq!(lines.len(), 2, "before and one epoch");
    assert!(lines[1]["base"]["forgetting"].as_f64().unwrap() > 0.5 && lines[1]["best"] == json!(false), "{}", lines[1]);
    let page = std::fs::read_to_string(forgetful.join("training_report.md")).unwrap();
    assert!(page.contains("more than the allowed 0.5"), "{page}");
    assert!(moved(&weights(&world.start()), &weights(&forgetful.join("best.pth"))).is_empty());
}

/// A folder of one take with 3D, seen by a phone.
fn own_clip(path: &Path, world_mm: &[Pose3]) {
    let image = ImageSize { width_px: 1080, height_px: 1920 };
    let intrinsics = Intrinsics::from_horizontal_fov_deg(image, 50.0).unwrap();
    let extrinsics = Extrinsics::look_at([4000.0, -3000.0, 1300.0], [0.0, 0.0, 900.0], 0.0).unwrap();
    let camera_mm: Vec<Pose3> = world_mm.iter().map(|pose| extrinsics.pose_to_camera(pose)).collect();
    let keypoint = |p: [f32; 3]| intrinsics.project(p).map_or(Keypoint::MISSING, |[x, y]| Keypoint::new(x, y, 0.8));
    let frames = camera_mm.iter().map(|pose| pose.map(keypoint)).collect();
    formats::keypoints::write_json(path, &KeypointClip::from_fps(frames, 50.0, image).unwrap()).unwrap();
    let mut json: Json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    json["camera_mm"] = json!(camera_mm);
    json["intrinsics"] = json!({"focal_px": intrinsics.focal_px, "centre_px": intrinsics.centre_px});
    std::fs::write(path, json.to_string()).unwrap();
}

#[test]
fn own_clips_are_trained_tuned_and_measured_on() {
    let world = World::get();
    let folder = tempfile::tempdir().unwrap();
    let clips = folder.path().join("my-clips");
    std::fs::create_dir(&clips).unwrap();
    let walks = synthetic::walks("own", 3, 120, 77).unwrap();
    for i in 0..3 {
        own_clip(&clips.join(format!("take_{i}.json")), walks.poses(i));
    }
    let run = |name: &str, more: &[&str]| {
        let out = folder.path().join(name);
        let mut command = trainer();
        command.arg("finetune").arg(world.start()).args(["--threads", "1", "--epochs", "1", "--set", "data.stride=20"]);
        command.arg("--data").arg(&clips).arg("--out").arg(&out).args(more);
        (out, command)
    };
    let (out, mut command) = run("tuned", &["--base-data", &world.at("base").display().to_string(), "--replay", "0.2"]);
    command.assert().success();
    let recipe = std::fs::read_to_string(out.join("recipe.toml")).unwrap();
    assert!(recipe.contains("kind = \"own-clips\""), "{recipe}");
    let page = std::fs::read_to_string(out.join("training_report.md")).unwrap();
    assert!(page.contains("| validated on | take_2 |"), "the last take is held out: {page}");

    // one take alone: its end is held out; named takes are
    let (out, mut command) = run("named", &["--set", "data.validation_subjects=[\"*_0\"]"]);
    command.assert().success();
    assert!(std::fs::read_to_string(out.join("training_report.md")).unwrap().contains("| validated on | take_0 |"));
    assert!(error_of(&mut run("nobody", &["--set", "data.validation_subjects=[\"bob\"]"]).1).contains("there are take_0, take_1, take_2"));
    let mut alone = trainer();
    alone.arg("finetune").arg(world.start()).args(["--threads", "1", "--epochs", "1", "--data"]).arg(clips.join("take_0.json"));
    alone.arg("--out").arg(folder.path().join("alone")).assert().success();
    let page = std::fs::read_to_string(folder.path().join("alone/training_report.md")).unwrap();
    assert!(page.contains("the last 20 % of the frames of take_0"), "{page}");

    // the kind is one like the others
    let mut train = trainer();
    train.args([
        "train",
        "--threads",
        "1",
        "--epochs",
        "1",
        "--config",
        &format!("{CONFIGS}/tiny-test.toml"),
        "--set",
        "data.kind=own-clips",
    ]);
    train.args(["--set", "data.stride=20"]).arg("--data").arg(&clips).arg("--out").arg(folder.path().join("trained")).assert().success();
    let eval = trainer().args(["eval", "--threads", "1"]).arg(world.start()).arg("--data").arg(&clips).output().unwrap();
    let text = String::from_utf8_lossy(&eval.stdout).into_owned();
    assert!(eval.status.success() && text.contains("real") && text.contains("360 frames") && !text.contains("both"), "{text}");
    let inspected = trainer().args(["data", "inspect"]).arg(&clips).output().unwrap();
    assert!(String::from_utf8_lossy(&inspected.stdout).contains("own-clips"));
    let picture = folder.path().join("sheet.png");
    trainer().args(["data", "preview"]).arg(&clips).arg("--out").arg(&picture).assert().success();
    let convert = error_of(trainer().args(["data", "convert"]).arg(&clips).arg("--out").arg(folder.path().join("m.npz")));
    assert!(convert.contains("needs world_from_camera or a calibration"), "{convert}");
}

#[test]
fn a_live_lifter_is_tuned_too() {
    let world = World::get();
    let folder = tempfile::tempdir().unwrap();
    let small = [
        "model.n_layers=1",
        "model.dim_feat=16",
        "model.dim_rep=16",
        "model.num_heads=2",
        "model.d_state=4",
        "data.sequence_frames=16",
        "train.sequence_parts=[1,2]",
        "data.stride=60",
        "train.batch_size=8",
        "train.replicas=1",
        "train.accumulate=1",
        "train.workers=1",
    ];
    let mut train = trainer();
    train.args(["train", "--threads", "1", "--epochs", "1", "--config", &format!("{CONFIGS}/live-xs.toml")]);
    small.iter().for_each(|setting| {
        train.args(["--set", setting]);
    });
    train.arg("--data").arg(world.at("base")).arg("--out").arg(folder.path().join("run")).assert().success();
    let mut tune = trainer();
    tune.arg("finetune").arg(folder.path().join("run/best.pth")).args([
        "--threads",
        "1",
        "--epochs",
        "1",
        "--lora",
        "2",
        "--set",
        "data.stride=60",
    ]);
    tune.arg("--data").arg(world.at("new.npz")).arg("--out").arg(folder.path().join("tuned")).assert().success();
    assert_eq!(metrics(&folder.path().join("tuned")).len(), 2);
}

#[test]
fn wrong_input_is_one_sentence() {
    let world = World::get();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let with = |more: &[&str]| error_of(&mut world.finetune(&out, more));
    for (more, expected) in [
        (&["--replay", "0.3"][..], "finetune.replay needs base data: name it with --base-data"),
        (&["--max-forgetting", "3"], "finetune.max_forgetting needs base data"),
        (&["--max-forgetting", "lots"], "expected millimetres such as 3, or percent such as 5%"),
        (&["--freeze", "hed*"], "\"hed*\", which names no parameter"),
        (&["--layer-decay", "2"], "finetune.layer_decay is 2"),
        (&["--lora", "0"], "finetune.lora.rank is 0"),
        (&["--patience", "0"], "finetune.patience is 0"),
        (&["--set", "finetune.lorra.rank=3"], "did you mean `lora`"),
        (&["--fps", "50"], "the checkpoint says that it was trained with 30"),
        (&["--normalisation", "frame"], "leave --normalisation out"),
        (&["--set", "data.validation_subjects=[\"bob\"]"], "no take is left to validate on"),
        (&["--set", "data.validation_subjects=[\"*\"]"], "no take is left to train on"),
        (&["--max-minutes", "0"], "--max-minutes 0"),
    ] {
        let error = with(more);
        assert!(error.contains(expected), "{error}: {expected}");
    }
    let one_file = world.at("new.npz").display().to_string();
    assert!(with(&["--replay", "0.3", "--base-data", &one_file]).contains("only watched"));
    let nowhere = folder.path().join("nowhere").display().to_string();
    assert!(with(&["--base-data", &nowhere]).contains("is not there"));
    let recipe = folder.path().join("recipe.toml");
    std::fs::write(&recipe, "[model]\nn_layers = 3\n").unwrap();
    assert!(with(&["--config", &recipe.display().to_string()]).contains("the model is the checkpoint's"));
    let mut command = trainer();
    command.args(["finetune"]).arg(folder.path().join("absent.pth")).arg("--data").arg(world.at("new.npz")).arg("--out").arg(&out);
    assert!(error_of(&mut command).contains("absent.pth"));
    let text = folder.path().join("clip.txt");
    std::fs::write(&text, "no data\n").unwrap();
    let mut command = trainer();
    command.arg("finetune").arg(world.start()).arg("--data").arg(&text).arg("--out").arg(&out);
    assert!(error_of(&mut command).contains("is of no known kind"));
    assert!(!out.exists(), "a run that was refused left a folder");
}
