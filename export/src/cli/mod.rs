//! The subcommands of `export`: one module each, with its arguments and its `run`.

pub mod inspect;
pub mod onnx;
pub mod tflite;
pub mod triton;
