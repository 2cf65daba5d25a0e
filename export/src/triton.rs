//! A model repository for NVIDIA Triton Inference Server's ONNX Runtime backend.
//!
//! ```text
//! REPOSITORY/NAME/config.pbtxt     inputs, outputs, dynamic batching
//! REPOSITORY/NAME/1/model.onnx     version 1
//! REPOSITORY/NAME/libposelift_ops.so   with an operator library alone
//! ```
//! The first axis of every input and output must be free: it is Triton's batch, which the configuration leaves out.
//!
//! A step graph of a live model ([`crate::live`]) is served statefully: a stream is a sequence of requests with one correlation
//! identifier, the server keeps its states (Triton's implicit state) and zeroes them where a sequence starts, and frames of several
//! sequences that are due together run as one batch.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use crate::{
    inspect::{Port, inspect},
    live::NEXT,
    onnx::proto::ModelProto,
};

/// What the repository is to say beyond the model.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the model in the repository.
    pub name: String,
    /// Number of the version, from 1.
    pub version: u32,
    /// Largest batch that the server makes of requests.
    pub max_batch: u32,
    /// How long a request may wait for others, microseconds.
    pub max_wait_us: u32,
    /// Of a step graph: streams at a time.
    pub max_streams: u32,
    /// Of a step graph: the server keeps the states, and forgets a stream of which no frame comes for so long, microseconds.
    pub stateful_idle_us: Option<u64>,
    /// Library with the operator `SelectiveScan`; without it the body in the file runs.
    pub operators: Option<PathBuf>,
}

/// Why there is no repository.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that is no folder's.
    #[error("`{0}` cannot be a model's name: expected letters, digits, `-`, `_` and `.`, none of them first but letters and digits")]
    Name(String),
    /// An input or output that Triton cannot batch.
    #[error(
        "{port} has the shape ({shape}) of {element}: expected float with a free first axis (the batch) and known or free others; export the model with `export onnx`"
    )]
    Port {
        /// Name.
        port: String,
        /// Its shape.
        shape: String,
        /// Its elements.
        element: String,
    },
    /// A stateful repository of a model without states, or the other way round.
    #[error("{0}")]
    States(&'static str),
    /// It exists.
    #[error("{0} exists: versions of a repository are not overwritten, name another with --version")]
    Exists(PathBuf),
    /// A file or folder.
    #[error("{path}: {cause}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
}

fn at<T>(path: &Path, result: std::io::Result<T>) -> Result<T, Error> {
    result.map_err(|cause| Error::Io { path: path.to_owned(), cause })
}

/// The configuration as Triton reads it (protobuf text of `inference.ModelConfig`).
///
/// # Errors
/// [`Error::Name`], [`Error::Port`].
pub fn configuration(model: &ModelProto, settings: &Settings) -> Result<String, Error> {
    let plain = |c: char| c.is_ascii_alphanumeric();
    if !settings.name.starts_with(plain) || !settings.name.chars().all(|c| plain(c) || "-_.".contains(c)) {
        return Err(Error::Name(settings.name.clone()));
    }
    let inspection = inspect(model);
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(text, "name: \"{}\"\nbackend: \"onnxruntime\"\nmax_batch_size: {}", settings.name, settings.max_batch);
    let state_of = |output: &Port| output.name.strip_prefix(NEXT).map(str::to_owned);
    let states: Vec<(&Port, String)> = inspection.outputs.iter().filter_map(|output| Some((output, state_of(output)?))).collect();
    let is_state = |port: &&Port| states.iter().any(|(output, input)| port.name == output.name || port.name == *input);
    match (states.is_empty(), settings.stateful_idle_us) {
        (true, Some(_)) => {
            return Err(Error::States(
                "the model has no states to keep: a stateful repository takes a step graph, as `export onnx --step` writes it",
            ));
        }
        (false, None) => {
            return Err(Error::States(
                "the model is a step graph, with states: add --stateful, so that the server keeps them for each stream",
            ));
        }
        _ => {}
    }
    for (what, ports) in [("input", &inspection.inputs), ("output", &inspection.outputs)] {
        for port in ports.iter().filter(|port| !is_state(port)) {
            let dims = dims_after_batch(port)?;
            let _ = writeln!(text, "{what} [{{ name: \"{}\" data_type: TYPE_FP32 dims: [ {dims} ] }}]", port.name);
        }
    }
    match settings.stateful_idle_us {
        None => {
            let _ = writeln!(text, "dynamic_batching {{ max_queue_delay_microseconds: {} }}", settings.max_wait_us);
        }
        Some(idle_us) => {
            let _ = writeln!(text, "sequence_batching {{\n  max_sequence_idle_microseconds: {idle_us}");
            // "oldest": frames of any sequences that are due make a batch; a sequence has one frame in it at most
            let _ = writeln!(
                text,
                "  oldest {{ max_candidate_sequences: {} max_queue_delay_microseconds: {} }}",
                settings.max_streams, settings.max_wait_us
            );
            for (output, input) in &states {
                let dims = dims_after_batch(output)?;
                let _ = writeln!(
                    text,
                    "  state [{{ input_name: \"{input}\" output_name: \"{}\" data_type: TYPE_FP32 dims: [ {dims} ]\n           \
                     initial_state [{{ name: \"zeros_{input}\" data_type: TYPE_FP32 dims: [ {dims} ] zero_data: true }}] }}]",
                    output.name
                );
            }
            text.push_str("}\n");
        }
    }
    if let Some(library) = settings.operators.as_deref().and_then(Path::file_name) {
        let _ = writeln!(text, "model_operations {{ op_library_filename: [ \"{}\" ] }}", library.to_string_lossy());
    }
    Ok(text)
}

fn dims_after_batch(port: &Port) -> Result<String, Error> {
    let refuse = || Error::Port {
        port: port.name.clone(),
        shape: port.shape.as_ref().map_or("unknown".to_owned(), |shape| shape.join(", ")),
        element: port.element.clone(),
    };
    let shape = port.shape.as_deref().filter(|_| port.element == "float").ok_or_else(refuse)?;
    match shape {
        [batch, rest @ ..] if batch.parse::<usize>().is_err() && !rest.is_empty() => {
            let dims: Vec<&str> = rest.iter().map(|size| if size.parse::<usize>().is_ok() { size.as_str() } else { "-1" }).collect();
            Ok(dims.join(", "))
        }
        _ => Err(refuse()),
    }
}

/// Adds a version of a model to a repository, which is made if need be. The version appears whole or not at all. Returns the
/// model's folder.
///
/// # Errors
/// [`Error`].
pub fn add(repository: &Path, model: &ModelProto, bytes: &[u8], settings: &Settings) -> Result<PathBuf, Error> {
    let text = configuration(model, settings)?;
    let folder = repository.join(&settings.name);
    let version = folder.join(settings.version.to_string());
    at(&folder, fs::create_dir_all(&folder))?;
    if version.exists() {
        return Err(Error::Exists(version));
    }
    if let Some(library) = &settings.operators {
        let name = library.file_name().unwrap_or_default();
        let bytes = at(library, fs::read(library))?;
        write_whole(&folder.join(name), &bytes)?;
    }
    let aside = at(&folder, tempfile::Builder::new().prefix(".version-").tempdir_in(&folder))?;
    write_whole(&aside.path().join("model.onnx"), bytes)?;
    readable(aside.path(), 0o755)?;
    at(&version, fs::rename(aside.path(), &version))?;
    write_whole(&folder.join("config.pbtxt"), text.as_bytes())?;
    Ok(folder)
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = at(path, tempfile::Builder::new().prefix(".export-").tempfile_in(folder))?;
    at(path, file.write_all(bytes).and_then(|()| file.as_file().sync_all()))?;
    readable(file.path(), 0o644)?;
    at(path, file.persist(path).map(drop).map_err(|error| error.error))
}

/// What is made aside is private; a server of another user is to read it.
fn readable(path: &Path, mode: u32) -> Result<(), Error> {
    #[cfg(unix)]
    at(path, fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)))?;
    #[cfg(not(unix))]
    let _ = (path, mode);
    Ok(())
}
