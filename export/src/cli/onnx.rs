//! `export onnx CKPT`.
#![allow(clippy::print_stdout)] // the report is this command's output

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use export::{
    check, lifter,
    live::Form,
    onnx::{Aside, OPSET, proto::ModelProto},
    precision::{self, Calibration, Precision, Products, cost::Cost},
};
use network::{Checkpoint, MambaForm, ModelConfig, Overrides};
use pose::KeypointClip;
use runtime::{EngineOptions, Lifter};
use serde_json::json;

/// Writes a checkpoint as one self-contained ONNX file, and checks it in ONNX Runtime
///
/// Reads .pth files of `trainer`, of the official MotionAGFormer code and of the original MambaGCN code. What the shapes of
/// the weights do not tell comes from --set, --config, the file itself or a default, and is printed.
///
/// The batch is free. The number of frames is the checkpoint's: the batch normalisation of MotionAGFormer's temporal graph
/// has weights for each frame of the window. A lifter of the live family takes sequences of any length; --step writes one frame of it
/// instead, with the states of its layers as inputs and outputs.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The checkpoint, such as runs/xs/best.pth
    checkpoint: PathBuf,
    /// The ONNX file to write [default: beside the checkpoint, best.pth -> best.onnx, with --step best.step.onnx]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Live family: write one frame with states instead of a sequence
    #[arg(long)]
    step: bool,
    /// Live family: frames that the model waits for after a frame before it says its pose, one of those it was trained for [default:
    /// the least]
    #[arg(long, value_name = "FRAMES")]
    look_ahead: Option<usize>,
    /// With which Mamba a MambaGCN checkpoint was trained, where it does not say so itself
    #[arg(long, value_enum)]
    mamba: Option<Mamba>,
    /// A configuration of the reference code (YAML) or of ours (.toml)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sets one value of the configuration, such as num_heads=8 (repeatable)
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// Numbers inside the model; its inputs and outputs are f32 always
    #[arg(long, value_enum, default_value_t)]
    precision: Precision,
    /// Keypoint files (JSON or NPZ) of motion as the model will see it, for --precision int8: the ranges of its values come from them.
    /// A minute of typical motion is enough
    #[arg(long, value_name = "FILE", num_args = 1..)]
    calibrate: Vec<PathBuf>,
    /// Keypoint files on which the cost of --precision is measured [default: those of --calibrate]
    #[arg(long, value_name = "FILE", num_args = 1..)]
    measure: Vec<PathBuf>,
    /// Threads of the check; 0 takes all
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Prints the report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Mamba {
    /// A true selective scan
    Selective,
    /// The shortcut of the original MambaGCN code
    GlobalMean,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err("expected KEY=VALUE, such as num_heads=8".to_owned()),
    }
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let overrides = Overrides {
        config_file: args.config.clone(),
        set: args.set.clone(),
        mamba: args.mamba.map(|form| match form {
            Mamba::Selective => MambaForm::Selective,
            Mamba::GlobalMean => MambaForm::GlobalMean,
        }),
    };
    let source = &args.checkpoint;
    let checkpoint = Checkpoint::read(source, &overrides).with_context(|| format!("cannot export {}", source.display()))?;
    let form = if args.step { Form::Step } else { Form::Sequence };
    if checkpoint.config.live().is_none() && (args.step || args.look_ahead.is_some()) {
        bail!("{}: it is a model of windows: --step and --look-ahead are for the live family", source.display());
    }
    let out = args.out.clone().unwrap_or_else(|| beside(source, form, args.precision));
    let clips = Clips::read(args)?;
    if same_file(source, &out) {
        bail!("{} is the checkpoint itself: name another file with --out", out.display());
    }
    if !args.json {
        print_settings(&checkpoint);
    }
    let mut metadata = lifter::metadata(&checkpoint, &stem(source), form).with_context(|| format!("cannot export {}", source.display()))?;
    metadata.look_ahead = args.look_ahead.unwrap_or(metadata.look_ahead);
    let model = lifter::model(&checkpoint, &metadata, form).with_context(|| format!("cannot export {}", source.display()))?;
    let aside = Aside::write(&model, &out).with_context(|| format!("cannot write {}", out.display()))?;
    let report = check::check(aside.path(), &checkpoint, form, metadata.look_ahead, args.threads)
        .with_context(|| format!("{} was not written", out.display()))?;
    let (model, aside, cost) = match args.precision {
        Precision::F32 => (model, aside, None),
        _ => {
            let (smaller, cost) =
                in_precision(args, &model, || lifter::model_with_biases(&checkpoint, &metadata, form), &aside, &clips, &out)
                    .with_context(|| format!("{} was not written", out.display()))?;
            (smaller.0, smaller.1, cost)
        }
    };
    let bytes = aside.bytes();
    aside.publish(&out).with_context(|| format!("cannot write {}", out.display()))?;

    let nodes = model.graph.as_ref().map_or(0, |graph| graph.node.len());
    if args.json {
        let settings: serde_json::Map<_, _> = checkpoint
            .settings
            .iter()
            .map(|(key, value, origin)| (key.clone(), json!({ "value": value, "origin": origin.to_string() })))
            .collect();
        let report = json!({
            "checkpoint": source, "onnx": out, "bytes": bytes, "nodes": nodes, "opset": OPSET,
            "settings": settings, "notes": checkpoint.notes, "metadata": metadata, "check": report, "precision": args.precision.name(), "cost": cost,
        });
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    println!("Model: {}, {} parameters.", metadata.architecture, metadata.parameters);
    match (&checkpoint.config, form) {
        (ModelConfig::MotionAgFormer(_), _) => {
            println!(
                "Input: any batch of windows of exactly {} frames (the temporal graph's batch normalisation fixes them).",
                metadata.frames
            );
        }
        (ModelConfig::Live(_), Form::Sequence) => println!("Input: any batch of sequences of any length, from empty states."),
        (ModelConfig::Live(_), Form::Step) => println!("Input: one frame of any batch of streams, with their states."),
    }
    if metadata.causal {
        println!("Look-ahead: what comes out at frame t is the pose of frame t - {}.", metadata.look_ahead);
    }
    match report.step_difference {
        None => print_check(&report),
        Some(difference) => print_live_check(&report, difference, form),
    }
    if args.precision != Precision::F32 {
        println!("That was in f32; in {} the file gives finite numbers.", args.precision);
    }
    if let Some(cost) = &cost {
        print_cost(args, cost);
    }
    println!("Wrote {} ({nodes} nodes, {:.1} MB, opset {OPSET}).", out.display(), bytes as f64 / 1e6);
    Ok(())
}

/// Motion to calibrate and to measure on.
struct Clips {
    calibrate: Vec<KeypointClip>,
    measure: Vec<KeypointClip>,
}

impl Clips {
    /// Read before anything slow, and only where they have a use.
    fn read(args: &Args) -> anyhow::Result<Self> {
        match args.precision {
            Precision::F32 if !(args.calibrate.is_empty() && args.measure.is_empty()) => {
                bail!("--calibrate and --measure are for --precision f16 or int8: f32 costs nothing");
            }
            Precision::F16 if !args.calibrate.is_empty() => bail!("--calibrate is for --precision int8; f16 takes --measure alone"),
            Precision::Int8 if args.step => return Err(precision::Error::Step.into()),
            Precision::Int8 if args.calibrate.is_empty() => {
                bail!("--precision int8 needs motion to take the ranges of its values from: give keypoint files with --calibrate");
            }
            _ => {}
        }
        let read = |files: &[PathBuf]| -> anyhow::Result<Vec<KeypointClip>> {
            Ok(files.iter().map(|file| formats::keypoints::read(file)).collect::<Result<_, _>>()?)
        };
        let calibrate = read(&args.calibrate)?;
        let measure = if args.measure.is_empty() { calibrate.clone() } else { read(&args.measure)? };
        Ok(Self { calibrate, measure })
    }
}

/// The model in smaller numbers, in a file of its own beside `out`, and what that costs against `in_f32`.
fn in_precision(
    args: &Args,
    model: &ModelProto,
    with_biases: impl FnOnce() -> Result<ModelProto, lifter::Error>,
    in_f32: &Aside,
    clips: &Clips,
    out: &Path,
) -> anyhow::Result<((ModelProto, Aside), Option<Cost>)> {
    let mut smaller = match args.precision {
        Precision::F32 => model.clone(),
        Precision::F16 => precision::to_f16(model)?,
        Precision::Int8 => {
            let model = &with_biases()?;
            let products = Products::of(model)?;
            let lifter = Lifter::open(in_f32.path(), &EngineOptions { threads: args.threads, ..EngineOptions::default() })?;
            let mut calibration = Calibration::new(model, &products, args.threads)?;
            for clip in &clips.calibrate {
                for (shape, values) in lifter.network_inputs(clip)? {
                    calibration.add(&shape, &values)?;
                }
            }
            precision::to_int8(model, &products, &calibration)
        }
    };
    smaller.metadata_props.push(export::onnx::property("precision", args.precision.name()));
    let aside = Aside::write(&smaller, out)?;
    check::gives_numbers(aside.path(), args.threads)?;
    let cost = if clips.measure.is_empty() {
        None
    } else {
        Some(precision::cost::measure(in_f32.path(), aside.path(), &clips.measure, args.threads)?)
    };
    Ok(((smaller, aside), cost))
}

fn print_cost(args: &Args, cost: &Cost) {
    let on = if args.measure.is_empty() { "the clips that it was calibrated on" } else { "the clips of --measure" };
    println!(
        "Cost of {}: joints are {:.2} mm from those of the f32 model in the mean ({:.2} mm for 19 of 20; {:.2} mm after alignment), root-relative, people of 1.70 m, \
         {} frames of {on}. No error against the truth changes by more than the mean.",
        args.precision, cost.mean_mm, cost.p95_mm, cost.aligned_mm, cost.frames
    );
}

fn print_settings(checkpoint: &Checkpoint) {
    println!("Configuration:");
    for (key, value, origin) in &checkpoint.settings {
        println!("  {key:<16} {value:<12} {origin}");
    }
    for note in &checkpoint.notes {
        println!("Note: {note}.");
    }
}

fn print_check(report: &check::Report) {
    if report.has_scan {
        println!(
            "Checked in ONNX Runtime, the scan as operator against the function body in the file, stage by stage on the same input: \
             largest difference {:.1e} ({}, values up to {:.1}).",
            report.largest_difference, report.stage, report.largest_value
        );
        println!(
            "Over the whole model {:.2} % of the coordinates agree within 1e-4 (near ties in the temporal top-k graph decide the rest).",
            report.fraction_agreeing * 100.0
        );
        println!("One window takes {:.3} s with the operator, {:.3} s with the function body.", report.operator_s, report.body_s);
    } else {
        println!(
            "Checked in ONNX Runtime: largest difference {:.1e} with and without our operators (it has no scan: the file is standard ONNX throughout).",
            report.largest_difference
        );
        println!("One window takes {:.3} s.", report.operator_s);
    }
}

fn print_live_check(report: &check::Report, step_difference: f32, form: Form) {
    println!(
        "Checked in ONNX Runtime over {} frames of two people: the scan as operator against the function body in the file, largest difference \
         {:.1e}; frame by frame against the whole sequence, {step_difference:.1e} (values up to {:.1}).",
        check::LIVE_FRAMES,
        report.largest_difference,
        report.largest_value
    );
    let what =
        if form == Form::Step { "One frame of two people".to_owned() } else { format!("A sequence of {} frames", check::LIVE_FRAMES) };
    println!("{what} takes {:.1} ms with the operator, {:.1} ms with the function body.", 1e3 * report.operator_s, 1e3 * report.body_s);
}

/// The checkpoint's name without what marks it as one.
fn stem(checkpoint: &Path) -> String {
    let name = checkpoint.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let without_tr = name.strip_suffix(".tr").unwrap_or(&name);
    let stem = [".pth", ".pt", ".bin", ".ckpt", ".tar"].iter().find_map(|end| without_tr.strip_suffix(end)).unwrap_or(without_tr);
    if stem.is_empty() { "model".to_owned() } else { stem.to_owned() }
}

/// `best.pth` -> `best.onnx`, `best.step.onnx` or `best.int8.onnx`, `best_epoch.pth.tr` -> `best_epoch.onnx`.
fn beside(checkpoint: &Path, form: Form, precision: Precision) -> PathBuf {
    let step = if form == Form::Step { ".step" } else { "" };
    let precision = if precision == Precision::F32 { String::new() } else { format!(".{precision}") };
    checkpoint.with_file_name(format!("{}{step}{precision}.onnx", stem(checkpoint)))
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_lie_beside_their_checkpoints() {
        for (checkpoint, model) in [
            ("runs/xs/best.pth", "runs/xs/best.onnx"),
            ("best_epoch.pth.tr", "best_epoch.onnx"),
            ("a/b.c/weights", "a/b.c/weights.onnx"),
            ("v1.2.pt", "v1.2.onnx"),
        ] {
            assert_eq!(beside(Path::new(checkpoint), Form::Sequence, Precision::F32), Path::new(model));
        }
        assert_eq!(beside(Path::new("runs/live-s/best.pth"), Form::Step, Precision::F32), Path::new("runs/live-s/best.step.onnx"));
        assert_eq!(beside(Path::new("best.pth"), Form::Step, Precision::F16), Path::new("best.step.f16.onnx"));
    }

    #[test]
    fn keys_and_values() {
        assert_eq!(key_value("num_heads = 8"), Ok(("num_heads".to_owned(), "8".to_owned())));
        assert!(key_value("num_heads").is_err());
        assert!(key_value("=8").is_err());
    }
}
