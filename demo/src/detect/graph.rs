//! An ONNX file with one picture as its input, open in ONNX Runtime.

use std::path::{Path, PathBuf};
use std::thread;

use half::f16;
use ort::ep;
use ort::session::{Session, SessionInputValue, SessionOutputs};
use ort::value::{Tensor, TensorElementType, TensorRef, ValueType};
use runtime::Device;

use super::error::Error;

/// Most numbers that an output may have: far more than any known kind needs, far less than what hurts.
const MAX_OUTPUT_VALUES: usize = 1 << 26;
/// Longest side of a network's input that is believed.
const MAX_SIDE_PX: i64 = 4096;

/// Type of a tensor's numbers, as far as pictures have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// Bytes.
    U8,
    /// 32-bit integer.
    I32,
}

/// An input or output as the file declares it.
#[derive(Debug, Clone, PartialEq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// `None` for what is no tensor of a known type.
    pub element: Option<Element>,
    /// Sizes; -1 where they are open.
    pub shape: Vec<i64>,
    /// Type for messages.
    type_name: String,
}

impl Port {
    pub(super) fn new(name: &str, kind: &ValueType) -> Self {
        let (element, shape, type_name) = match kind {
            ValueType::Tensor { ty, shape, .. } => {
                let element = match ty {
                    TensorElementType::Float32 => Some(Element::F32),
                    TensorElementType::Float16 => Some(Element::F16),
                    TensorElementType::Uint8 => Some(Element::U8),
                    TensorElementType::Int32 => Some(Element::I32),
                    _ => None,
                };
                (element, shape.to_vec(), ty.to_string())
            }
            other => (None, Vec::new(), other.to_string()),
        };
        Self { name: name.to_owned(), element, shape, type_name }
    }

    /// For messages: `images f32 [1, 3, ?, ?]`.
    pub fn describe(&self) -> String {
        let sizes: Vec<String> = self.shape.iter().map(|&size| if size < 0 { "?".to_owned() } else { size.to_string() }).collect();
        format!("{} {} [{}]", self.name, self.type_name, sizes.join(", "))
    }
}

/// An output of a run, as 32-bit floats.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// Its sizes; their product is the number of values.
    pub shape: Vec<usize>,
    /// Row-major.
    pub values: Vec<f32>,
}

/// The axes of a network's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// (batch, 3, height, width).
    ChannelsFirst,
    /// (batch, height, width, 3).
    ChannelsLast,
}

/// What a file says of its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Input {
    /// Its axes.
    pub layout: Layout,
    /// Pictures in one call; `None` = any number.
    pub batch: Option<usize>,
    /// `None` = any.
    pub height: Option<usize>,
    /// `None` = any.
    pub width: Option<usize>,
    /// Type of its numbers.
    pub element: Element,
}

/// An open file.
#[derive(Debug)]
pub struct Graph {
    path: PathBuf,
    session: Session,
    /// Every input and output, as declared.
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

impl Graph {
    /// Opens a file, whatever is in it.
    ///
    /// # Errors
    /// A file that is absent or no ONNX model, an ONNX Runtime library that is missing, a device that cannot be used.
    pub fn open(path: &Path, device: Device, threads: usize) -> Result<Self, Error> {
        let unreadable = |reason: String| Error::Unreadable { path: path.to_owned(), reason };
        let about = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?;
        if !about.is_file() {
            return Err(unreadable("it is no file".to_owned()));
        }
        let environment = runtime::environment(None)?;
        let threads = if threads == 0 { thread::available_parallelism().map_or(1, usize::from) } else { threads };
        let mut builder = Session::builder(&environment)
            // Idle threads that spin would take the processor from the stages that work beside the detector.
            .and_then(|builder| Ok(builder.with_intra_threads(threads)?.with_intra_op_spinning(false)?))
            .map_err(|error| run_error(path, &error))?;
        if let Some(index) = device.gpu() {
            // Without `error_on_failure` a provider that cannot start leaves the model on the CPU, silently.
            let provider = ep::CUDA::default().with_device_id(index).build().error_on_failure();
            builder = builder.with_execution_providers([provider]).map_err(|error| run_error(path, &error.into()))?;
        }
        let session = builder.commit_from_file(path).map_err(|error| run_error(path, &error))?;
        let inputs = session.inputs().iter().map(|port| Port::new(port.name(), port.dtype())).collect();
        let outputs = session.outputs().iter().map(|port| Port::new(port.name(), port.dtype())).collect();
        Ok(Self { path: path.to_owned(), session, inputs, outputs })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its outputs as declared.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// Its only input, if that is a picture of three channels.
    pub fn picture_input(&self) -> Option<Input> {
        let [port] = &self.inputs[..] else { return None };
        let (element, &[batch, a, b, c]) = (port.element?, &port.shape[..]) else { return None };
        let (layout, height, width) = match (a, c) {
            (3, _) => (Layout::ChannelsFirst, b, c),
            (_, 3) => (Layout::ChannelsLast, a, b),
            _ => return None,
        };
        let plausible = |size: i64| size == -1 || (8..=MAX_SIDE_PX).contains(&size);
        if !plausible(height) || !plausible(width) || !(batch == -1 || (1..=64).contains(&batch)) {
            return None;
        }
        let known = |size: i64| usize::try_from(size).ok();
        Some(Input { layout, batch: known(batch), height: known(height), width: known(width), element })
    }

    /// Every input and output, for messages.
    pub fn describe(&self) -> String {
        let list = |ports: &[Port]| ports.iter().map(Port::describe).collect::<Vec<_>>().join(", ");
        format!("inputs {}; outputs {}", list(&self.inputs), list(&self.outputs))
    }

    /// Runs it on pictures that already have its layout and range; outputs that are no floats are left out.
    ///
    /// # Errors
    /// A failure of the engine; NaN or infinity in an output.
    pub fn run(&mut self, element: Element, shape: [usize; 4], values: &[f32]) -> Result<Vec<Output>, Error> {
        let path = &self.path;
        let failed = |error: ort::Error| run_error(path, &error);
        let input: SessionInputValue<'_> = match element {
            Element::F32 => TensorRef::from_array_view((shape, values)).map_err(failed)?.into(),
            Element::F16 => {
                let halves: Vec<f16> = values.iter().map(|&value| f16::from_f32(value)).collect();
                Tensor::from_array((shape, halves)).map_err(failed)?.into()
            }
            // Rounding: pictures that were resized lie between two whole numbers.
            Element::U8 => {
                let bytes: Vec<u8> = values.iter().map(|&value| value.round() as u8).collect();
                Tensor::from_array((shape, bytes)).map_err(failed)?.into()
            }
            Element::I32 => {
                let whole: Vec<i32> = values.iter().map(|&value| value.round() as i32).collect();
                Tensor::from_array((shape, whole)).map_err(failed)?.into()
            }
        };
        let outputs = self.session.run(ort::inputs![input]).map_err(failed)?;
        read_outputs(path, &outputs)
    }
}

fn read_outputs(path: &Path, outputs: &SessionOutputs<'_>) -> Result<Vec<Output>, Error> {
    let mut all = Vec::new();
    for (name, value) in outputs.iter() {
        let (shape, values) = if let Ok((shape, values)) = value.try_extract_tensor::<f32>() {
            (shape, values.to_vec())
        } else if let Ok((shape, values)) = value.try_extract_tensor::<f16>() {
            (shape, values.iter().map(|value| value.to_f32()).collect())
        } else {
            continue;
        };
        if values.len() > MAX_OUTPUT_VALUES {
            let reason = format!("its output {name} has {} numbers, more than any detector needs", values.len());
            return Err(Error::Run { path: path.to_owned(), reason });
        }
        if !values.iter().all(|value| value.is_finite()) {
            return Err(Error::NotFinite { path: path.to_owned(), output: name.to_owned() });
        }
        let shape = shape.iter().map(|&size| usize::try_from(size).unwrap_or(0)).collect();
        all.push(Output { name: name.to_owned(), shape, values });
    }
    Ok(all)
}

/// What the engine says, in one line.
fn run_error(path: &Path, error: &ort::Error) -> Error {
    Error::Run { path: path.to_owned(), reason: error.message().lines().collect::<Vec<_>>().join(" ") }
}
