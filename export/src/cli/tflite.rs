//! `export tflite IN.tflite OUT.onnx`.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use export::tflite::{Output, convert_outputs};
use prost::Message as _;

/// Converts a float TFLite model (such as BlazePose's) to ONNX.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The TFLite model
    input: PathBuf,
    /// The ONNX file to write
    output: PathBuf,
    /// Keep only this output, under its own name or another (repeatable; default: all outputs)
    #[arg(long = "keep", value_name = "NAME[=NEW_NAME]", value_parser = parse_output)]
    keep: Vec<Output>,
}

fn parse_output(text: &str) -> Result<Output, String> {
    let (tflite_name, onnx_name) = text.split_once('=').unwrap_or((text, text));
    if tflite_name.is_empty() || onnx_name.is_empty() {
        return Err("expected NAME or NAME=NEW_NAME".to_owned());
    }
    Ok(Output { tflite_name: tflite_name.to_owned(), onnx_name: onnx_name.to_owned() })
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let tflite = fs::read(&args.input).with_context(|| format!("cannot read {}", args.input.display()))?;
    let model = convert_outputs(&tflite, &args.keep).with_context(|| format!("cannot convert {}", args.input.display()))?;
    let bytes = model.encode_to_vec();
    write_whole(&args.output, &bytes).with_context(|| format!("cannot write {}", args.output.display()))?;
    let nodes = model.graph.map_or(0, |graph| graph.node.len());
    tracing::info!("wrote {}: {nodes} nodes, {:.1} MB", args.output.display(), bytes.len() as f64 / 1e6);
    Ok(())
}

/// Written aside and renamed: there is never half a file under `path`.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".export-").suffix(".partial").tempfile_in(folder)?;
    file.write_all(bytes)?;
    make_readable(file.as_file())?;
    file.persist(path)?;
    Ok(())
}

/// Temporary files are private; a model need not be.
fn make_readable(file: &fs::File) -> std::io::Result<()> {
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    #[cfg(not(unix))]
    let _ = file;
    Ok(())
}
