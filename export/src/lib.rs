//! Writes lifters as ONNX, checks them, converts the TFLite detector.

pub mod check;
pub mod inspect;
pub mod lifter;
pub mod live;
pub mod onnx;
pub mod precision;
pub mod recorder;
pub mod scan_function;
pub mod session;
pub mod tflite;
pub mod triton;
