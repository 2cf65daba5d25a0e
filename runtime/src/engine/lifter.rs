//! One lifter: opened, checked, run on raw tensors.

use std::path::{Path, PathBuf};

use pose::{JOINTS, metadata::ModelMetadata};

use super::{
    Backend, Binding, Device, EngineOptions, Port,
    graph::{self, Graph, View, list},
};
use crate::Error;

/// Frames that a plan is made ready for at most, when a model is opened.
const MOST_PREPARED_FRAMES: usize = 512;

/// One lifter, open in one of the libraries that run it.
///
/// An engine may be shared between threads. Calls to [`run`](Self::run) in ONNX Runtime are done one after the other (it
/// spreads one call over its threads); whoever wants calls side by side opens one engine per caller, with fewer threads each.
#[derive(Debug)]
pub struct Engine {
    path: PathBuf,
    backend: Backend,
    device: Device,
    binding: Binding,
    graph: Box<dyn Graph>,
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
        let options = &options.settled()?;
        Self::new(path, graph::open(path, options)?, options)
    }

    pub(super) fn new(path: &Path, graph: Box<dyn Graph>, options: &EngineOptions) -> Result<Self, Error> {
        let (input, output) = lifter_ports(path, graph.inputs(), graph.outputs())?;
        let engine = Self {
            path: path.to_owned(),
            backend: options.backend,
            device: options.device,
            binding: options.binding,
            batch: input.shape[0],
            frames: input.shape[1],
            channels: input.shape[3].unwrap_or_default(), // checked by lifter_ports: 2 or 3
            metadata: graph::read_metadata(path, &*graph)?,
            graph,
            input,
            output,
        };
        engine.check_metadata()?;
        engine.graph.prepare(&[&engine.likely_shape()])?;
        Ok(engine)
    }

    /// Runs the model. `input` is (B, T, 17, C) row-major in the model's normalised units; the result is (B, T, 17, 3).
    ///
    /// # Errors
    /// A shape that the model does not take, numbers that are not finite, a failure of the engine.
    pub fn run(&self, input: &[f32], shape: [usize; 4]) -> Result<Vec<f32>, Error> {
        let mut poses = Vec::new();
        self.run_into(input, shape, &mut poses)?;
        Ok(poses)
    }

    /// [`run`](Self::run) into a vector that may be used again and again: its content is replaced, or left as it is where the run fails.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_into(&self, input: &[f32], shape: [usize; 4], poses: &mut Vec<f32>) -> Result<(), Error> {
        self.check_input(input, shape)?;
        let expected = [shape[0], shape[1], JOINTS, 3];
        self.graph.run(&[View { shape: &shape, values: input }], &mut |outputs| match outputs {
            [output] if output.shape == expected => {
                poses.clear();
                poses.extend_from_slice(output.values);
                Ok(())
            }
            _ => Err(Error::NotALifter {
                path: self.path.clone(),
                expected: format!("an output of shape {expected:?} for an input of shape {shape:?}"),
                found: outputs.iter().map(|output| format!("{:?}", output.shape)).collect::<Vec<_>>().join("; "),
            }),
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The library that runs it.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Where it runs.
    pub fn device(&self) -> Device {
        self.device
    }

    /// On where inputs and outputs are bound to memory that the engine keeps, else off.
    pub fn binding(&self) -> Binding {
        self.binding
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

    /// One window as the file has it, or as it was trained.
    fn likely_shape(&self) -> [usize; 4] {
        let trained = self.metadata.as_ref().map_or(1, |metadata| metadata.frames.min(MOST_PREPARED_FRAMES));
        [self.batch.unwrap_or(1), self.frames.unwrap_or(trained), JOINTS, self.channels]
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

/// The one input and the one output of a lifter, or what the file has in their place.
fn lifter_ports(path: &Path, inputs: &[Port], outputs: &[Port]) -> Result<(Port, Port), Error> {
    let no_lifter = |expected: &str, found: String| Err(Error::NotALifter { path: path.to_owned(), expected: expected.to_owned(), found });
    let [input] = inputs else {
        return no_lifter("one input, f32 (B, T, 17, 2 or 3)", format!("{} inputs: {}", inputs.len(), list(inputs)));
    };
    let [output] = outputs else {
        return no_lifter("one output, f32 (B, T, 17, 3)", format!("{} outputs: {}", outputs.len(), list(outputs)));
    };
    if !(input.is_f32() && matches!(input.shape[..], [_, _, Some(JOINTS), Some(2 | 3)])) {
        return no_lifter("the input f32 (B, T, 17, 2 or 3)", input.to_string());
    }
    // The graph may leave the output's dimensions open: then `run` checks them.
    let is_output = match output.shape[..] {
        [_, _, joints, channels] => joints.is_none_or(|n| n == JOINTS) && channels.is_none_or(|n| n == 3),
        _ => false,
    };
    if !(output.is_f32() && is_output) {
        return no_lifter("the output f32 (B, T, 17, 3)", output.to_string());
    }
    Ok((input.clone(), output.clone()))
}
