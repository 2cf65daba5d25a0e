//! `export triton MODEL.onnx`.
#![allow(clippy::print_stdout)] // what was written is this command's output

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use export::{
    onnx::proto::ModelProto,
    triton::{self, Settings},
};
use prost::Message as _;

/// Adds an exported model to a model repository of NVIDIA Triton Inference Server
///
/// Triton's ONNX Runtime backend runs the scan's body that the file carries; with --operators it loads our kernel instead. That library
/// must be built against the ONNX Runtime API of the server (its version stands in Triton's release notes).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model, as `export onnx` writes it
    model: PathBuf,
    /// The repository: the folder that `tritonserver --model-repository` names
    #[arg(long, value_name = "FOLDER")]
    repository: PathBuf,
    /// Name in the repository [default: that of the file]
    #[arg(long)]
    name: Option<String>,
    /// Number of the version
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    version: u32,
    /// Largest batch that the server makes of requests
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    max_batch: u32,
    /// How long a request may wait for others, microseconds
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 2000)]
    max_wait: u32,
    /// For a step graph (`export onnx --step`): the server keeps the states of each stream (sequence batching, implicit state)
    #[arg(long)]
    stateful: bool,
    /// With --stateful: streams at a time; a stream beyond them waits
    #[arg(long, value_name = "STREAMS", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1 << 20), requires = "stateful")]
    max_streams: u32,
    /// With --stateful: seconds after which a stream of which no frame comes is forgotten
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86400), requires = "stateful")]
    idle: u64,
    /// Library with our operators (libposelift_ops.so), copied beside the model
    #[arg(long, value_name = "FILE")]
    operators: Option<PathBuf>,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let path = args.model.display();
    let bytes = std::fs::read(&args.model).with_context(|| format!("cannot read {path}"))?;
    let model = ModelProto::decode(bytes.as_slice()).ok().filter(|model| model.graph.is_some());
    let Some(model) = model else { bail!("{path} is no ONNX model: its content is no ONNX graph") };
    let stem = || args.model.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let settings = Settings {
        name: args.name.clone().unwrap_or_else(stem),
        version: args.version,
        max_batch: args.max_batch,
        max_wait_us: args.max_wait,
        max_streams: args.max_streams,
        stateful_idle_us: args.stateful.then_some(args.idle * 1_000_000),
        operators: args.operators.clone(),
    };
    let folder = triton::add(&args.repository, &model, &bytes, &settings).with_context(|| format!("cannot add {path} to a repository"))?;
    println!("Wrote {}: version {} of {}.", folder.display(), settings.version, settings.name);
    println!("Serve it with: tritonserver --model-repository {}", args.repository.display());
    Ok(())
}
