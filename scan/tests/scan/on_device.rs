//! A scan whose tensors lie on a CUDA device: of the tests with a stand-in for the driver, and of examples/gpu_scan.rs with a real one.

use half::{bf16, f16};
use scan::cuda::{
    self, Address, Buffer, Device, ElementType, InputAddresses, InputGradAddresses, OutputAddresses, OutputGradAddresses, Program, Stream,
};
use scan::{Dims, Error};

use crate::case::{Case, Parts, Results};

/// Values of an element type, as bytes.
pub fn narrow(of: ElementType, values: &[f32]) -> Vec<u8> {
    match of {
        ElementType::F32 => values.iter().flat_map(|value| value.to_ne_bytes()).collect(),
        ElementType::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_ne_bytes()).collect(),
        ElementType::BF16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_ne_bytes()).collect(),
    }
}

pub fn widen(of: ElementType, bytes: &[u8]) -> Vec<f32> {
    match of {
        ElementType::F32 => bytes.as_chunks::<4>().0.iter().map(|&value| f32::from_ne_bytes(value)).collect(),
        ElementType::F16 => bytes.as_chunks::<2>().0.iter().map(|&value| f16::from_ne_bytes(value).to_f32()).collect(),
        ElementType::BF16 => bytes.as_chunks::<2>().0.iter().map(|&value| bf16::from_ne_bytes(value).to_f32()).collect(),
    }
}

/// A case whose values are what `of` makes of them.
pub fn rounded(dims: Dims, parts: Parts, of: ElementType, seed: u64) -> Case<f64> {
    let mut case = Case::random(dims, parts, seed);
    for values in [&mut case.u, &mut case.delta, &mut case.b, &mut case.c, &mut case.grad_y].into_iter().chain(case.z.as_mut()) {
        let rounded = values.iter().map(|&value| value as f32).collect::<Vec<_>>();
        *values = widen(of, &narrow(of, &rounded)).into_iter().map(f64::from).collect();
    }
    case
}

/// The truth in the order of [`OnDevice::results`].
pub fn listed(truth: &Results<f64>) -> Vec<&Vec<f64>> {
    [&truth.y, &truth.last_state, &truth.u, &truth.delta, &truth.a, &truth.b, &truth.c]
        .into_iter()
        .chain([&truth.d, &truth.z, &truth.delta_bias].into_iter().flatten())
        .chain([&truth.initial_state])
        .collect()
}

/// A scan on the device: its inputs, its outputs, its gradients.
pub struct OnDevice {
    dims: Dims,
    of: ElementType,
    stream: Stream,
    delta_softplus: bool,
    /// u, delta, A, B, C, D, z, delta_bias, initial_state, and the gradients of y and of last_state
    inputs: [Option<Buffer>; 11],
    y: Buffer,
    last_state: Buffer,
    /// The states that the forward pass keeps for the backward pass, where it does.
    kept: Option<Buffer>,
    /// As the first nine inputs.
    grads: [Option<Buffer>; 9],
    workspace: Buffer,
}

fn address(buffer: &Option<Buffer>) -> Address {
    buffer.as_ref().map_or(0, Buffer::address)
}

impl OnDevice {
    /// On a stream of the device; with its states kept between the passes, or made again.
    pub fn new(device: &Device, case: &Case<f32>, of: ElementType, stream: Stream, keeps: bool) -> Result<Self, Error> {
        let Dims { sequences: s, frames: l, channels: d, states: n } = case.dims;
        let wide = |values: Option<&Vec<f32>>| values.map(|values| device.upload(values)).transpose();
        let thin = |values: Option<&Vec<f32>>| values.map(|values| device.upload(&narrow(of, values))).transpose();
        let (channels, states) = (s * l * d * of.size(), s * l * n * of.size());
        let room = |bytes: usize| device.buffer(bytes).map(Some);
        let optional = |there: bool, bytes: usize| if there { room(bytes) } else { Ok(None) };
        Ok(Self {
            dims: case.dims,
            of,
            stream,
            delta_softplus: case.delta_softplus,
            inputs: [
                thin(Some(&case.u))?,
                thin(Some(&case.delta))?,
                wide(Some(&case.a))?,
                thin(Some(&case.b))?,
                thin(Some(&case.c))?,
                wide(case.d.as_ref())?,
                thin(case.z.as_ref())?,
                wide(case.delta_bias.as_ref())?,
                wide(case.initial_state.as_ref())?,
                thin(Some(&case.grad_y))?,
                wide(case.grad_last_state.as_ref())?,
            ],
            y: device.buffer(channels)?,
            last_state: device.buffer(s * d * n * 4)?,
            grads: [
                room(channels)?,
                room(channels)?,
                room(d * n * 4)?,
                room(states)?,
                room(states)?,
                optional(case.d.is_some(), d * 4)?,
                optional(case.z.is_some(), channels)?,
                optional(case.delta_bias.is_some(), d * 4)?,
                room(s * d * n * 4)?,
            ],
            kept: optional(keeps, cuda::kept_bytes(case.dims)?)?,
            workspace: device.buffer(cuda::workspace_bytes(case.dims, keeps)?)?,
        })
    }

    /// The same tensors on another stream.
    #[allow(dead_code, reason = "the example has one stream")]
    pub fn on(self, stream: Stream) -> Self {
        Self { stream, ..self }
    }

    fn input_addresses(&self) -> InputAddresses {
        let [u, delta, a, b, c, d, z, delta_bias, initial_state, ..] = self.inputs.each_ref().map(address);
        InputAddresses { u, delta, a, b, c, d, z, delta_bias, initial_state, delta_softplus: self.delta_softplus }
    }

    /// y and the last state.
    pub fn forward(&self) -> Result<(), Error> {
        let outputs = OutputAddresses { y: self.y.address(), last_state: self.last_state.address(), kept: address(&self.kept) };
        // SAFETY: buffers of this device, of the sizes that the shapes say.
        unsafe { cuda::forward(&self.stream, self.dims, &self.input_addresses(), &outputs) }
    }

    /// All gradients.
    pub fn backward(&self) -> Result<(), Error> {
        let from = OutputGradAddresses { y: address(&self.inputs[9]), last_state: address(&self.inputs[10]) };
        let [u, delta, a, b, c, d, z, delta_bias, initial_state] = self.grads.each_ref().map(address);
        let to = InputGradAddresses { u, delta, a, b, c, d, z, delta_bias, initial_state };
        // SAFETY: as above.
        unsafe {
            cuda::backward(&self.stream, self.dims, &self.input_addresses(), &from, &to, address(&self.kept), self.workspace.address())
        }
    }

    /// y, last_state and the gradients as f32.
    pub fn results(&self) -> Result<Vec<Vec<f32>>, Error> {
        let Dims { sequences: s, frames: l, channels: d, states: n } = self.dims;
        let read = |buffer: &Buffer, values: usize, of: ElementType| {
            let mut bytes = vec![0u8; values * of.size()];
            buffer.download(&mut bytes).map(|()| widen(of, &bytes))
        };
        let mut results = vec![read(&self.y, s * l * d, self.of)?, read(&self.last_state, s * d * n, ElementType::F32)?];
        let shapes = [s * l * d, s * l * d, d * n, s * l * n, s * l * n, d, s * l * d, d, s * d * n];
        let thin = [true, true, false, true, true, false, true, false, false];
        for ((grad, values), thin) in self.grads.iter().zip(shapes).zip(thin) {
            if let Some(grad) = grad {
                results.push(read(grad, values, if thin { self.of } else { ElementType::F32 })?);
            }
        }
        Ok(results)
    }
}

/// The default stream of the device that is current on this thread.
pub fn default_stream(of: ElementType, states: usize) -> Result<Stream, Error> {
    // SAFETY: the default stream lives as long as the device.
    unsafe { Stream::current(Program::new(of, states)?, std::ptr::null_mut()) }
}
