//! A graph in one of the libraries that run them: what the engines above stand on.

use std::{fmt, path::Path};

use pose::metadata::ModelMetadata;
use serde::Serialize;

use super::{Backend, EngineOptions, ort::OrtGraph};
use crate::Error;

/// The operator that a file may bring along as a function.
pub(super) const SCAN_OPERATOR: &str = "SelectiveScan";

/// An input or output of the model, as `runtime info` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Port {
    /// Its name in the graph.
    pub name: String,
    /// Its element type, as ONNX names it (`f32`, ...).
    pub element: String,
    /// Its dimensions; `None` for those that are free.
    pub shape: Vec<Option<usize>>,
}

impl Port {
    /// Whether it is f32.
    pub(super) fn is_f32(&self) -> bool {
        self.element == "f32"
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape: Vec<String> = self.shape.iter().map(|n| n.map_or("?".to_owned(), |n| n.to_string())).collect();
        write!(f, "{} {} ({})", self.name, self.element, shape.join(", "))
    }
}

/// Ports for a sentence.
pub(super) fn list(ports: &[Port]) -> String {
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// A tensor of f32 on its way into a graph or out of it, row-major.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub shape: &'a [usize],
    pub values: &'a [f32],
}

/// What is done with all outputs of a run, in the order of the graph, while they are alive.
pub(super) type Take<'a> = &'a mut (dyn FnMut(&[View<'_>]) -> Result<(), Error> + Send);

/// An open graph. Failures of a library are told by [`Error::Run`] and are not ends: the next run may succeed.
pub(super) trait Graph: fmt::Debug + Send + Sync {
    fn inputs(&self) -> &[Port];

    fn outputs(&self) -> &[Port];

    /// The file's property of this name.
    fn property(&self, name: &str) -> Result<Option<String>, String>;

    /// Makes ready for inputs of these shapes, and tells now what would fail later.
    fn prepare(&self, shapes: &[&[usize]]) -> Result<(), Error>;

    /// How many streams to run at once where `batch` are due, at least as many.
    fn padded_batch(&self, batch: usize) -> usize {
        batch
    }

    /// The graph in ONNX Runtime, if it is one there.
    fn as_ort(&self) -> Option<&OrtGraph> {
        None
    }

    /// Runs on all inputs, in the order of the graph; `take` gets the outputs.
    fn run(&self, inputs: &[View<'_>], take: Take<'_>) -> Result<(), Error>;
}

/// Opens one self-contained ONNX file.
pub(super) fn open(path: &Path, options: &EngineOptions) -> Result<Box<dyn Graph>, Error> {
    check_readable(path)?;
    match options.backend {
        Backend::Ort => Ok(Box::new(OrtGraph::open(path, options)?)),
        Backend::Tract => open_tract(path, options),
    }
}

#[cfg(feature = "tract")]
fn open_tract(path: &Path, options: &EngineOptions) -> Result<Box<dyn Graph>, Error> {
    match options.device {
        super::Device::Cpu | super::Device::Auto => Ok(Box::new(super::tract::TractGraph::open(path, options)?)),
        device => Err(Error::Device {
            device,
            reason: "the engine tract runs on the processor alone: choose the device cpu, or the engine ort".into(),
        }),
    }
}

#[cfg(not(feature = "tract"))]
fn open_tract(_: &Path, _: &EngineOptions) -> Result<Box<dyn Graph>, Error> {
    Err(Error::BackendMissing { backend: Backend::Tract })
}

/// The file is there and has content: said here, because the libraries' words for it are less clear.
fn check_readable(path: &Path) -> Result<(), Error> {
    let unreadable = |source| Error::ModelFile { path: path.to_owned(), source };
    let not_onnx = |reason: &str| Err(Error::NotOnnx { path: path.to_owned(), reason: reason.into() });
    let about = std::fs::metadata(path).map_err(unreadable)?;
    if about.is_dir() {
        return not_onnx("it is a folder");
    }
    // A pipe, say: opening it would wait for someone who writes to it.
    if !about.is_file() {
        return not_onnx("it is no regular file");
    }
    if about.len() == 0 {
        return not_onnx("it is empty");
    }
    std::fs::File::open(path).map(drop).map_err(unreadable)
}

/// The metadata in the file, if any; not yet compared with the graph.
pub(super) fn read_metadata(path: &Path, graph: &dyn Graph) -> Result<Option<ModelMetadata>, Error> {
    let unusable = |reason: String| Error::Metadata { path: path.to_owned(), reason };
    let Some(json) = graph.property(ModelMetadata::ONNX_KEY).map_err(unusable)? else { return Ok(None) };
    serde_json::from_str(&json).map(Some).map_err(|error| unusable(format!("expected the JSON of a model's metadata, {error}")))
}
