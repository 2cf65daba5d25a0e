//! `export inspect MODEL.onnx`.
#![allow(clippy::print_stdout)] // the report is this command's output

use std::{collections::HashMap, path::PathBuf};

use anyhow::{Context as _, bail};
use export::{
    inspect::{Inspection, Macs, Port, count_macs, inspect},
    onnx::proto::ModelProto,
};
use prost::Message as _;
use serde_json::json;

/// Prints what an ONNX model holds: metadata, inputs, operators, parameters, and the multiply-accumulates of a run
///
/// Any ONNX model, not only poselift's. The work is counted by running the model once on zeros: matrix products, convolutions
/// and the selective scan.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model
    model: PathBuf,
    /// Size of a free axis by its name, such as batch=8 or frames=243 (repeatable) [default: frames from the model's metadata, others 1]
    #[arg(long, value_name = "NAME=SIZE", value_parser = size)]
    size: Vec<(String, usize)>,
    /// Leave the work out: nothing is run, ONNX Runtime is not needed
    #[arg(long)]
    no_macs: bool,
    /// Prints the report as JSON
    #[arg(long)]
    json: bool,
}

fn size(text: &str) -> Result<(String, usize), String> {
    let parsed =
        text.split_once('=').and_then(|(name, size)| Some((name.to_owned(), size.parse().ok().filter(|n| (1..=1 << 20).contains(n))?)));
    parsed.ok_or_else(|| "expected NAME=SIZE with a size of 1 to 1048576, such as frames=243".to_owned())
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let path = args.model.display();
    let bytes = std::fs::read(&args.model).with_context(|| format!("cannot read {path}"))?;
    let model = ModelProto::decode(bytes.as_slice()).ok().filter(|model| model.graph.is_some());
    let Some(model) = model else { bail!("{path} is no ONNX model: its content is no ONNX graph") };
    let inspection = inspect(&model);
    let mut sizes: HashMap<String, usize> = inspection.metadata.iter().map(|m| ("frames".to_owned(), m.frames)).collect();
    sizes.extend(args.size.iter().cloned());
    let macs = if args.no_macs {
        None
    } else {
        Some(count_macs(&model, &sizes).with_context(|| format!("cannot count the work of {path}; --no-macs leaves it out"))?)
    };
    if args.json {
        let total = macs.as_ref().map(Macs::total);
        let report =
            json!({ "model": args.model, "bytes": bytes.len(), "contents": inspection, "macs": macs, "total_macs": total, "sizes": sizes });
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    println!("{path}: {:.2} MB", bytes.len() as f64 / 1e6);
    print(&inspection);
    if let Some(macs) = macs {
        print_macs(&macs, &sizes);
    }
    Ok(())
}

fn print(inspection: &Inspection) {
    match &inspection.metadata {
        Some(m) => {
            println!("A lifter of poselift: {} ({}), {} parameters.", m.name, m.architecture, m.parameters);
            let frames = if m.frames_dynamic { "any number of frames" } else { "exactly so many frames" };
            let normalisation = json!(m.normalisation);
            println!(
                "Windows of {} frames ({frames}) at {} frames a second, {} channels, normalised by {}.",
                m.frames,
                m.fps,
                m.dim_in,
                normalisation.as_str().unwrap_or_default()
            );
            if m.causal {
                let what = if m.is_step() { "One step of a causal model" } else { "Causal" };
                println!("{what}: at frame t comes out the pose of frame t - {}.", m.look_ahead);
            }
            println!("Trained on: {}", m.trained_on);
            println!("Licence: {}", m.licence);
        }
        None => println!("No metadata of poselift: not one of its lifters."),
    }
    let sets: Vec<String> = inspection
        .opsets
        .iter()
        .map(|(domain, version)| format!("{} {version}", if domain.is_empty() { "ONNX" } else { domain }))
        .collect();
    println!("Operator sets: {}.", sets.join(", "));
    if !inspection.functions.is_empty() {
        println!("Bodies in the file: {}: any engine runs them, one with the operator is faster.", inspection.functions.join(", "));
    }
    let ports = |what: &str, ports: &[Port]| {
        for Port { name, element, shape } in ports {
            println!(
                "{what} {name}: {element} {}",
                shape.as_ref().map_or("of any shape".to_owned(), |shape| format!("({})", shape.join(", ")))
            );
        }
    };
    ports("Input", &inspection.inputs);
    ports("Output", &inspection.outputs);
    println!("Constants: {} numbers, {:.2} MB.", inspection.constants, inspection.constant_bytes as f64 / 1e6);
    println!("Nodes: {}", inspection.operators.values().sum::<usize>());
    for (operator, count) in &inspection.operators {
        println!("  {count:>6}  {operator}");
    }
}

fn print_macs(macs: &Macs, sizes: &HashMap<String, usize>) {
    let mut told: Vec<String> = sizes.iter().map(|(name, size)| format!("{name} {size}")).collect();
    told.sort();
    let told = if told.is_empty() { String::new() } else { format!(", {}", told.join(", ")) };
    println!("Multiply-accumulates of a run (free sizes 1{told}): {:.1} M", macs.total() as f64 / 1e6);
    for (operator, count) in &macs.by_operator {
        println!("  {:>10.2} M  {operator}", *count as f64 / 1e6);
    }
    if macs.uncounted > 0 {
        println!("  not counted: the inside of {} nodes with graphs of their own", macs.uncounted);
    }
}
