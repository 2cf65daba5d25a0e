//! One lifter in ONNX Runtime: opened, checked, run on raw tensors.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Mutex, PoisonError},
};

use ort::{
    ep,
    session::{Session, builder::SessionBuilder},
    value::{Outlet, TensorElementType, TensorRef, ValueType},
};
use pose::{JOINTS, metadata::ModelMetadata};
use serde::Serialize;

use crate::{Error, error::one_line, onnxruntime};

/// The operator that a file may bring along as a function.
const SCAN_OPERATOR: &str = "SelectiveScan";

/// Where a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// A CUDA GPU; needs the GPU build of ONNX Runtime and the CUDA 13 libraries.
    Cuda {
        /// Which GPU, from 0.
        index: i32,
    },
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda { index } => write!(f, "cuda:{index}"),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    /// `cpu`, `cuda` (the first GPU) or `cuda:N`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda { index: 0 }),
            Some(("cuda", index)) => match index.parse() {
                Ok(index) if index >= 0 => Ok(Self::Cuda { index }),
                _ => Err(format!("expected the number of a GPU after \"cuda:\", found \"{index}\"")),
            },
            _ => Err(format!("expected cpu, cuda or cuda:N, found \"{text}\"")),
        }
    }
}

/// How to open a model.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Where it runs. A device that cannot be used is an error, never a silent fallback.
    pub device: Device,
    /// Threads within one operation, up to 1024; 0 takes as many as this process has processors.
    pub threads: usize,
    /// Whether the selective scan runs as our operator (fast) or as the function of standard ONNX operators that the file
    /// carries (slow: for checking a file, or the operator).
    pub custom_op: bool,
    /// The ONNX Runtime library; `None` searches as [`init_onnxruntime`](crate::init_onnxruntime) says.
    pub onnxruntime: Option<PathBuf>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { device: Device::Cpu, threads: 0, custom_op: true, onnxruntime: None }
    }
}

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

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape: Vec<String> = self.shape.iter().map(|n| n.map_or("?".to_owned(), |n| n.to_string())).collect();
        write!(f, "{} {} ({})", self.name, self.element, shape.join(", "))
    }
}

/// One lifter, open in ONNX Runtime.
///
/// An engine may be shared between threads. Calls to [`run`](Self::run) are done one after the other (ONNX Runtime itself
/// spreads one call over its threads, and `ort` wants exclusive access for a run); whoever wants calls side by side opens
/// one engine per caller, with fewer threads each.
#[derive(Debug)]
pub struct Engine {
    path: PathBuf,
    device: Device,
    session: Mutex<Session>,
    input: Port,
    output: Port,
    metadata: Option<ModelMetadata>,
    /// Sizes of the input (B, T, 17, C).
    batch: Option<usize>,
    frames: Option<usize>,
    channels: usize,
}

impl Engine {
    /// Opens one self-contained ONNX file and checks that it is a lifter: one f32 input (B, T, 17, C) with C = 2 or 3, one
    /// f32 output (B, T, 17, 3), B and T free or fixed.
    ///
    /// # Errors
    /// A library that is missing, a file that is absent, no ONNX or no lifter, metadata that contradicts the graph, a
    /// device that cannot be used.
    pub fn open(path: impl AsRef<Path>, options: &EngineOptions) -> Result<Self, Error> {
        let path = path.as_ref();
        check_readable(path)?;
        let environment = onnxruntime::environment(options.onnxruntime.as_deref())?;
        let mut builder = Session::builder(&environment)
            .and_then(|builder| Ok(builder.with_intra_threads(threads(options.threads))?))
            .map_err(|error| Error::Run { path: path.to_owned(), reason: one_line(error.message()) })?;
        if options.custom_op {
            builder = poselift_scan_ort::operator_domain()
                .and_then(|domain| Ok(builder.with_operators(domain)?))
                .map_err(|error| Error::Run { path: path.to_owned(), reason: one_line(error.message()) })?;
        }
        builder = on_device(builder, options.device)?;
        let mut commit = || builder.commit_from_file(path);
        let session = if options.custom_op { poselift_scan_ort::commit_with_operators(commit) } else { commit() };
        let session = session.map_err(|error| open_error(path, options, error.message()))?;

        let (input, output) = lifter_ports(path, session.inputs(), session.outputs())?;
        let metadata = read_metadata(path, &session)?;
        let engine = Self {
            path: path.to_owned(),
            device: options.device,
            batch: input.shape[0],
            frames: input.shape[1],
            channels: input.shape[3].unwrap_or_default(), // checked by lifter_ports: 2 or 3
            session: Mutex::new(session),
            input,
            output,
            metadata,
        };
        engine.check_metadata()?;
        Ok(engine)
    }

    /// Runs the model. `input` is (B, T, 17, C) row-major in the model's normalised units; the result is (B, T, 17, 3).
    ///
    /// # Errors
    /// A shape that the model does not take, numbers that are not finite, a failure of the engine.
    pub fn run(&self, input: &[f32], shape: [usize; 4]) -> Result<Vec<f32>, Error> {
        self.check_input(input, shape)?;
        let failed = |error: ort::Error| {
            tracing::debug!("{}", error.message());
            Error::Run { path: self.path.clone(), reason: one_line(error.message()) }
        };
        let tensor = TensorRef::from_array_view((shape, input)).map_err(failed)?;
        // A panic of another caller leaves no half-done state in the session.
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let outputs = session.run(ort::inputs![tensor]).map_err(failed)?;
        let (found, values) = outputs[0].try_extract_tensor::<f32>().map_err(failed)?;

        let expected = [shape[0], shape[1], JOINTS, 3];
        if !found.iter().map(|&n| usize::try_from(n).ok()).eq(expected.map(Some)) {
            return Err(Error::NotALifter {
                path: self.path.clone(),
                expected: format!("an output of shape {expected:?} for an input of shape {shape:?}"),
                found: format!("{found:?}"),
            });
        }
        Ok(values.to_vec())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it runs.
    pub fn device(&self) -> Device {
        self.device
    }

    /// What the file says about itself; `None` for files that this project did not write.
    pub fn metadata(&self) -> Option<&ModelMetadata> {
        self.metadata.as_ref()
    }

    /// The one input, (B, T, 17, C).
    pub fn input(&self) -> &Port {
        &self.input
    }

    /// The one output, (B, T, 17, 3).
    pub fn output(&self) -> &Port {
        &self.output
    }

    /// Windows per call, where the file fixes it.
    pub fn batch(&self) -> Option<usize> {
        self.batch
    }

    /// Frames per window, where the file fixes it.
    pub fn frames(&self) -> Option<usize> {
        self.frames
    }

    /// Numbers per joint in the input: 2 (x, y) or 3 (x, y, confidence).
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// `input` has the shape that it claims, the model takes it, and every number is finite.
    fn check_input(&self, input: &[f32], shape: [usize; 4]) -> Result<(), Error> {
        let mismatch = |found: String| Error::Shape { expected: self.expected_shape(), found };
        let [batch, frames, joints, channels] = shape;
        let fits = self.batch.is_none_or(|n| n == batch)
            && self.frames.is_none_or(|n| n == frames)
            && joints == JOINTS
            && channels == self.channels;
        if !fits || batch == 0 || frames == 0 {
            return Err(mismatch(format!("{shape:?}")));
        }
        let numbers = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
        if numbers != Some(input.len()) {
            return Err(mismatch(format!("{shape:?} with {} numbers", input.len())));
        }
        match input.iter().position(|value| !value.is_finite()) {
            None => Ok(()),
            Some(at) => Err(Error::NotFinite {
                value: input[at],
                item: at / (frames * joints * channels),
                frame: at / (joints * channels) % frames,
                joint: at / channels % joints,
            }),
        }
    }

    fn expected_shape(&self) -> String {
        let size = |n: Option<usize>, name: &str| n.map_or(name.to_owned(), |n| n.to_string());
        format!("({}, {}, {JOINTS}, {})", size(self.batch, "batch"), size(self.frames, "frames"), self.channels)
    }

    /// The metadata describes this graph, and in a way that this version understands.
    fn check_metadata(&self) -> Result<(), Error> {
        let Some(metadata) = &self.metadata else { return Ok(()) };
        let unusable = |reason: String| Err(Error::Metadata { path: self.path.clone(), reason });
        metadata.validate().or_else(|error| unusable(error.to_string()))?;
        if metadata.dim_in != self.channels {
            return unusable(format!("it says {} numbers per joint, but the graph takes {}", metadata.dim_in, self.channels));
        }
        match self.frames {
            Some(frames) if frames != metadata.frames => {
                unusable(format!("it says windows of {} frames, but the graph takes {frames}", metadata.frames))
            }
            _ => Ok(()),
        }
    }
}

/// More threads than this help nobody, and might not start at all.
const MAX_THREADS: usize = 1024;

/// The number of threads to ask for: ONNX Runtime's own default would also pin them to processors.
fn threads(asked: usize) -> usize {
    match asked {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n.min(MAX_THREADS),
    }
}

/// The file is there and has content: said here, because ONNX Runtime's words for it are less clear.
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

fn on_device(builder: SessionBuilder, device: Device) -> Result<SessionBuilder, Error> {
    match device {
        Device::Cpu => Ok(builder),
        Device::Cuda { index } => {
            // Without `error_on_failure` a provider that cannot start leaves the model on the CPU, silently.
            let provider = ep::CUDA::default().with_device_id(index).build().error_on_failure();
            builder.with_execution_providers([provider]).map_err(|error| Error::Device {
                device,
                reason: format!(
                    "ONNX Runtime cannot start it ({}): take the library of onnxruntime-gpu, put the CUDA 13 libraries on \
                     LD_LIBRARY_PATH, or choose the device cpu",
                    one_line(error.message())
                ),
            })
        }
    }
}

/// Says what is wrong with a file that ONNX Runtime refused.
fn open_error(path: &Path, options: &EngineOptions, message: &str) -> Error {
    tracing::debug!("{message}");
    if message.contains(SCAN_OPERATOR) && !options.custom_op {
        return Error::NotOnnx {
            path: path.to_owned(),
            reason: format!("it carries no function for its operator {}, so it runs only with ours", SCAN_OPERATOR),
        };
    }
    let reason = if message.contains("Protobuf parsing failed") || message.contains("ModelProto does not have a graph") {
        "it is not an ONNX file, or a damaged one (expected a model written by `export onnx`)".to_owned()
    } else {
        one_line(message)
    };
    match options.device {
        // The provider's libraries load with the session: a failure may be the device's, and says so.
        device @ Device::Cuda { .. } if message.contains("CUDA") => Error::Device { device, reason: one_line(message) },
        _ => Error::NotOnnx { path: path.to_owned(), reason },
    }
}

/// The one input and the one output of a lifter, or what the file has in their place.
fn lifter_ports(path: &Path, inputs: &[Outlet], outputs: &[Outlet]) -> Result<(Port, Port), Error> {
    let list = |ports: &[Outlet]| ports.iter().map(|outlet| port(outlet).to_string()).collect::<Vec<_>>().join("; ");
    let no_lifter = |expected: &str, found: String| Err(Error::NotALifter { path: path.to_owned(), expected: expected.to_owned(), found });
    let [input] = inputs else {
        return no_lifter("one input, f32 (B, T, 17, 2 or 3)", format!("{} inputs: {}", inputs.len(), list(inputs)));
    };
    let [output] = outputs else {
        return no_lifter("one output, f32 (B, T, 17, 3)", format!("{} outputs: {}", outputs.len(), list(outputs)));
    };
    let (input, output) = (port(input), port(output));
    if !(input.element == "f32" && matches!(input.shape[..], [_, _, Some(JOINTS), Some(2 | 3)])) {
        return no_lifter("the input f32 (B, T, 17, 2 or 3)", input.to_string());
    }
    // The graph may leave the output's dimensions open: then `run` checks them.
    let is_output = match output.shape[..] {
        [_, _, joints, channels] => joints.is_none_or(|n| n == JOINTS) && channels.is_none_or(|n| n == 3),
        _ => false,
    };
    if !(output.element == "f32" && is_output) {
        return no_lifter("the output f32 (B, T, 17, 3)", output.to_string());
    }
    Ok((input, output))
}

fn port(outlet: &Outlet) -> Port {
    let (element, shape) = match outlet.dtype() {
        ValueType::Tensor { ty, shape, .. } => (
            if *ty == TensorElementType::Float32 { "f32".to_owned() } else { ty.to_string() },
            shape.iter().map(|&n| usize::try_from(n).ok()).collect(),
        ),
        other => (other.to_string(), Vec::new()),
    };
    Port { name: outlet.name().to_owned(), element, shape }
}

fn read_metadata(path: &Path, session: &Session) -> Result<Option<ModelMetadata>, Error> {
    let unusable = |reason: String| Error::Metadata { path: path.to_owned(), reason };
    let properties = session.metadata().map_err(|error| unusable(one_line(error.message())))?;
    let Some(json) = properties.custom(ModelMetadata::ONNX_KEY) else { return Ok(None) };
    serde_json::from_str(&json).map(Some).map_err(|error| unusable(format!("expected the JSON of a model's metadata, {error}")))
}
