//! TFLite to ONNX, for float convolutional networks such as BlazePose's detector and landmark models.
//!
//! Twelve operators are known: `CONV_2D`, `DEPTHWISE_CONV_2D`, `ADD`, `PAD`, `MAX_POOL_2D`, `RESIZE_BILINEAR`,
//! `DEPTH_TO_SPACE`, `RESHAPE`, `CONCATENATION`, `LOGISTIC`, and, on constants only, `DEQUANTIZE` (half floats) and
//! `DENSIFY` (sparse weights). Anything else is an error that names the operator.
//!
//! TFLite images are (N, H, W, C), ONNX images (N, C, H, W): inside the graph every tensor of four dimensions is NCHW,
//! inputs and outputs keep their TFLite layout. Half-float and sparse weights become dense f32, since ONNX Runtime's
//! CPU convolutions compute in f32 and unpack anything else while loading.
//!
//! The file may come from anywhere: every offset, length and product of sizes is checked before it is used.

mod flatbuffer;
mod graph;
mod model;
mod sparse;

use crate::onnx::proto::ModelProto;

/// Why a TFLite file was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file does not start as a TFLite file does.
    #[error("this is not a TFLite model: bytes 4 to 7 are {found:?}, expected \"TFL3\"")]
    NotTflite {
        /// What stands there instead.
        found: String,
    },
    /// An offset or a length leaves the file: it is damaged or was cut off.
    #[error("the TFLite file is damaged or cut off: {what} at byte {position} does not fit into its {file_len} bytes")]
    OutOfBounds {
        /// What was to be read.
        what: &'static str,
        /// Where it was to be read.
        position: usize,
        /// Length of the file in bytes.
        file_len: usize,
    },
    /// The file can be read but contradicts itself.
    #[error("the TFLite model is inconsistent: {0}")]
    Inconsistent(String),
    /// The model uses what this converter does not know.
    #[error("the TFLite model needs {0}, which this converter does not support")]
    Unsupported(String),
    /// A requested output is not one of the model's.
    #[error("the TFLite model has no output {asked:?}; its outputs are {outputs}")]
    NoSuchOutput {
        /// The name that was asked for.
        asked: String,
        /// The names that exist, separated by commas.
        outputs: String,
    },
}

/// An output to keep: its name in the TFLite file and its name in the ONNX file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Name of the tensor in the TFLite file, e.g. `Identity_1`.
    pub tflite_name: String,
    /// Name of the graph output in the ONNX file, e.g. `score`.
    pub onnx_name: String,
}

/// Converts a whole TFLite model: all its outputs, under their own names. See [`convert_outputs`].
///
/// # Errors
/// See [`Error`]; no input makes it panic.
pub fn convert(tflite: &[u8]) -> Result<ModelProto, Error> {
    convert_outputs(tflite, &[])
}

/// Converts what `outputs` need, in their order; what feeds no kept output is left out. An empty list keeps all outputs.
///
/// The result is opset 17 and keeps the TFLite shapes of inputs and outputs (static, images NHWC).
///
/// # Errors
/// See [`Error`]; no input makes it panic.
pub fn convert_outputs(tflite: &[u8], outputs: &[Output]) -> Result<ModelProto, Error> {
    let model = model::Model::parse(tflite)?;
    graph::convert(&model, outputs)
}

#[cfg(test)]
mod tests;
