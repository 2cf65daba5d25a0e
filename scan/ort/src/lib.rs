//! The selective scan as an operator of ONNX Runtime, in process.
