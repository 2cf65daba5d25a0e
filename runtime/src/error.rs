//! What can go wrong, each as one sentence.

use std::path::PathBuf;

/// How to get the library, for the sentences that need it.
const GET_LIBRARY: &str = "run `make` in the project, or `pip install onnxruntime` (1.31 or newer) and set ORT_DYLIB_PATH to \
                           the libonnxruntime file in it";

/// Why a model could not be opened or run, or a clip not be lifted. Each message is one sentence that names what was
/// expected, what was found and, where it helps, what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No library anywhere in the search order of [`init_onnxruntime`](crate::init_onnxruntime).
    #[error("the ONNX Runtime library is not installed: {GET_LIBRARY}")]
    LibraryMissing,
    /// The caller or `ORT_DYLIB_PATH` named a library that is not there.
    #[error("there is no ONNX Runtime library at {}: {GET_LIBRARY}", path.display())]
    LibraryNotThere {
        /// The file or folder that was named.
        path: PathBuf,
    },
    /// A file that the system cannot load, or that is no ONNX Runtime.
    #[error("{} cannot be used as the ONNX Runtime library ({reason}): {GET_LIBRARY}", path.display())]
    LibraryUnusable {
        /// The library.
        path: PathBuf,
        /// What the loader says.
        reason: String,
    },
    /// ONNX Runtime, but of an older release than this crate is built for.
    #[error("{} is ONNX Runtime {found}, but {needed} or newer is needed: {GET_LIBRARY}", path.display())]
    LibraryTooOld {
        /// The library.
        path: PathBuf,
        /// Its version.
        found: String,
        /// The oldest version that works.
        needed: String,
    },
    /// A process has one ONNX Runtime: another one was asked for after the first was loaded.
    #[error("ONNX Runtime is already loaded from {}, so {} cannot be loaded in the same process", loaded.display(), asked.display())]
    LibraryAlreadyLoaded {
        /// The library of this process.
        loaded: PathBuf,
        /// The other one.
        asked: PathBuf,
    },
    /// The model file is absent or unreadable.
    #[error("cannot read the model {}: {source}", path.display())]
    ModelFile {
        /// The model.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is not ONNX, or is damaged, or holds operators that the engine does not have.
    #[error("{} is no ONNX model that can be run: {reason}", path.display())]
    NotOnnx {
        /// The model.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An ONNX file whose inputs and outputs are not a lifter's.
    #[error("this ONNX file is no lifter: expected {expected}, found {found} in {}", path.display())]
    NotALifter {
        /// The model.
        path: PathBuf,
        /// The shape or type that a lifter has there.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// An ONNX file whose inputs and outputs are not those of one step with states.
    #[error("this ONNX file is no step graph (one frame, states in and out): expected {expected}, found {found} in {}", path.display())]
    NotAStep {
        /// The model.
        path: PathBuf,
        /// What a step graph has there.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// An engine that was left out when this program was built.
    #[error("the engine {backend} is not part of this program: build it with `--features {backend}`, or choose the engine ort")]
    BackendMissing {
        /// The engine.
        backend: crate::Backend,
    },
    /// The property `poselift` of the file is damaged, from a newer version, or contradicts the graph.
    #[error("the metadata in {} cannot be used: {reason}", path.display())]
    Metadata {
        /// The model.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file lacks something that only its metadata could have told.
    #[error("{} does not say {what}", path.display())]
    Unstated {
        /// The model.
        path: PathBuf,
        /// What is missing, and how to give it.
        what: String,
    },
    /// A device that was asked for and cannot be used; nothing falls back to another one by itself.
    #[error("the device {device} was asked for, but {reason}")]
    Device {
        /// The device.
        device: crate::Device,
        /// Why not, and what to do.
        reason: String,
    },
    /// A way to run models that was asked for and does not go with the rest; nothing leaves it out by itself.
    #[error("{asked} was asked for, but {reason}")]
    Setting {
        /// What was asked for.
        asked: &'static str,
        /// Why not, and what to do.
        reason: String,
    },
    /// An input whose shape does not fit the model.
    #[error("the model's input has the shape {expected}, but {found} was given")]
    Shape {
        /// The model's shape.
        expected: String,
        /// The shape of the input, or what is wrong with it.
        found: String,
    },
    /// NaN or infinity in the input.
    #[error("the input holds {value} at batch item {item}, frame {frame}, joint {joint}: every number must be finite")]
    NotFinite {
        /// NaN or an infinity.
        value: f32,
        /// Index in the batch.
        item: usize,
        /// Index of the frame.
        frame: usize,
        /// Index of the joint.
        joint: usize,
    },
    /// The engine failed while running the model.
    #[error("the model {} failed while running: {reason}", path.display())]
    Run {
        /// The model.
        path: PathBuf,
        /// What the engine says.
        reason: String,
    },
    /// A clip that cannot be lifted.
    #[error("{0}")]
    Clip(String),
    /// A frame that a stream does not take, or settings that it cannot work with.
    #[error("{0}")]
    Stream(String),
    /// A file beside the model that could not be read or written.
    #[error(transparent)]
    File(#[from] formats::Error),
}

/// A foreign message on one line, at a length that can be read.
pub(crate) fn one_line(message: &str) -> String {
    const LONGEST: usize = 400;
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} ...", &line[..end]),
        None => line,
    }
}
