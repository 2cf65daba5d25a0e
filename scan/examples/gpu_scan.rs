//! The CUDA kernels on a real device: right (against the f64 oracle), the same at every run, and how fast.
//! `tests/gpu/scan.sh` runs it; it needs an NVIDIA driver and NVRTC, and nothing else.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

#[allow(dead_code, reason = "shared with the tests, which use more of it")]
#[path = "../tests/scan/case.rs"]
mod case;

use std::process::ExitCode;

use case::{Case, Parts, relative_error};
use half::{bf16, f16};
use scan::cuda::{
    self, Address, Buffer, Device, ElementType, InputAddresses, InputGradAddresses, OutputAddresses, OutputGradAddresses, Program, Stream,
};
use scan::{Dims, Error};

/// Values of an element type, as bytes.
fn narrow(of: ElementType, values: &[f32]) -> Vec<u8> {
    match of {
        ElementType::F32 => values.iter().flat_map(|value| value.to_ne_bytes()).collect(),
        ElementType::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_ne_bytes()).collect(),
        ElementType::BF16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_ne_bytes()).collect(),
    }
}

fn widen(of: ElementType, bytes: &[u8]) -> Vec<f32> {
    match of {
        ElementType::F32 => bytes.as_chunks::<4>().0.iter().map(|&value| f32::from_ne_bytes(value)).collect(),
        ElementType::F16 => bytes.as_chunks::<2>().0.iter().map(|&value| f16::from_ne_bytes(value).to_f32()).collect(),
        ElementType::BF16 => bytes.as_chunks::<2>().0.iter().map(|&value| bf16::from_ne_bytes(value).to_f32()).collect(),
    }
}

/// A scan on the device: its inputs, its outputs, its gradients.
struct OnDevice {
    dims: Dims,
    of: ElementType,
    stream: Stream,
    delta_softplus: bool,
    /// u, delta, A, B, C, D, z, delta_bias, initial_state, and the gradients of y and of last_state
    inputs: [Option<Buffer>; 11],
    y: Buffer,
    last_state: Buffer,
    /// As the first nine inputs.
    grads: [Option<Buffer>; 9],
    workspace: Buffer,
}

fn address(buffer: &Option<Buffer>) -> Address {
    buffer.as_ref().map_or(0, Buffer::address)
}

impl OnDevice {
    fn new(device: &Device, case: &Case<f32>, of: ElementType) -> Result<Self, Error> {
        let Dims { sequences: s, frames: l, channels: d, states: n } = case.dims;
        let wide = |values: Option<&Vec<f32>>| values.map(|values| device.upload(values)).transpose();
        let thin = |values: Option<&Vec<f32>>| values.map(|values| device.upload(&narrow(of, values))).transpose();
        let (channels, states) = (s * l * d * of.size(), s * l * n * of.size());
        let room = |bytes: usize| device.buffer(bytes).map(Some);
        let optional = |there: bool, bytes: usize| if there { room(bytes) } else { Ok(None) };
        Ok(Self {
            dims: case.dims,
            of,
            // SAFETY: the default stream lives as long as the device.
            stream: unsafe { Stream::current(Program::new(of, n)?, std::ptr::null_mut())? },
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
            workspace: device.buffer(cuda::workspace_bytes(case.dims)?)?,
        })
    }

    fn input_addresses(&self) -> InputAddresses {
        let [u, delta, a, b, c, d, z, delta_bias, initial_state, ..] = self.inputs.each_ref().map(address);
        InputAddresses { u, delta, a, b, c, d, z, delta_bias, initial_state, delta_softplus: self.delta_softplus }
    }

    fn forward(&self) -> Result<(), Error> {
        let outputs = OutputAddresses { y: self.y.address(), last_state: self.last_state.address() };
        // SAFETY: buffers of this device, of the sizes that the shapes say.
        unsafe { cuda::forward(&self.stream, self.dims, &self.input_addresses(), &outputs) }
    }

    fn backward(&self) -> Result<(), Error> {
        let from = OutputGradAddresses { y: address(&self.inputs[9]), last_state: address(&self.inputs[10]) };
        let [u, delta, a, b, c, d, z, delta_bias, initial_state] = self.grads.each_ref().map(address);
        let to = InputGradAddresses { u, delta, a, b, c, d, z, delta_bias, initial_state };
        // SAFETY: as above.
        unsafe { cuda::backward(&self.stream, self.dims, &self.input_addresses(), &from, &to, self.workspace.address()) }
    }

    /// y, last_state and the gradients as f32.
    fn results(&self) -> Result<Vec<Vec<f32>>, Error> {
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

/// The largest error of y and of all gradients, and whether a second run gives the same bits.
fn check(device: &Device, dims: Dims, parts: Parts, of: ElementType) -> Result<(f64, bool), Error> {
    let mut case = Case::random(dims, parts, 11);
    for values in [&mut case.u, &mut case.delta, &mut case.b, &mut case.c, &mut case.grad_y].into_iter().chain(case.z.as_mut()) {
        let rounded = values.iter().map(|&value| value as f32).collect::<Vec<_>>();
        *values = widen(of, &narrow(of, &rounded)).into_iter().map(f64::from).collect();
    }
    let truth = case.by_oracle(0.0);
    let truth: Vec<&Vec<f64>> = [&truth.y, &truth.last_state, &truth.u, &truth.delta, &truth.a, &truth.b, &truth.c]
        .into_iter()
        .chain([&truth.d, &truth.z, &truth.delta_bias].into_iter().flatten())
        .chain([&truth.initial_state])
        .collect();
    let on_device = OnDevice::new(device, &case.narrow(), of)?;
    let run = || {
        on_device.forward()?;
        on_device.backward()?;
        on_device.results()
    };
    let found = run()?;
    let error = found.iter().zip(truth).map(|(found, truth)| relative_error(found, truth)).fold(0.0, f64::max);
    let again = run()?;
    let bits = |results: &[Vec<f32>]| results.iter().flatten().map(|value| value.to_bits()).collect::<Vec<_>>();
    Ok((error, bits(&found) == bits(&again)))
}

/// The shortest of some runs, in seconds.
fn time(device: &Device, work: impl Fn() -> Result<(), Error>) -> Result<f64, Error> {
    work()?;
    (0..20).try_fold(f64::INFINITY, |best, _| Ok(best.min(device.seconds(&work)?)))
}

fn run() -> Result<bool, Error> {
    let device = Device::open(0)?;
    println!("device: {}, sm_{}", device.name()?, device.architecture()?);
    let mut passed = true;
    let dims = |sequences, frames, channels, states| Dims { sequences, frames, channels, states };
    for (of, tolerance) in [(ElementType::F32, 1e-4), (ElementType::F16, 1e-3), (ElementType::BF16, 8e-3)] {
        for (dims, parts) in [
            (dims(3, 27, 256, 16), Parts::ALL),
            (dims(2, 243, 33, 16), Parts::ALL),
            (dims(1500, 5, 129, 16), Parts::ALL),
            (dims(2, 40, 5, 1), Parts::numbered(3)),
            (dims(2, 40, 5, 5), Parts::numbered(21)),
            (dims(2, 65, 40, 64), Parts::ALL),
            (dims(1, 30, 9, 128), Parts::ALL),
            (dims(1, 1000, 4, 16), Parts::default()),
            (dims(4, 1, 256, 16), Parts::ALL),
            (dims(4, 0, 8, 16), Parts::ALL),
        ] {
            let (error, same) = check(&device, dims, parts, of)?;
            let right = error <= tolerance && same;
            passed &= right;
            println!(
                "{} {of:?} {dims:?}: largest error {error:.1e}, {}",
                if right { "ok  " } else { "FAIL" },
                if same { "same bits again" } else { "OTHER BITS AGAIN" }
            );
        }
    }
    // What can be reached: a copy reads and writes each byte once.
    let (from, to) = (device.buffer(1 << 30)?, device.buffer(1 << 30)?);
    let bandwidth = 2.0 * f64::from(1 << 30) / time(&device, || to.copy_from(&from))?;
    println!("copy: {:.0} GB/s", bandwidth * 1e-9);
    println!("element  S     L    forward_ms of_roofline  backward_ms of_roofline   (D = 256, N = 16, z, D, bias, softplus)");
    for of in [ElementType::F32, ElementType::BF16] {
        for (sequences, frames) in [(17, 243), (136, 243), (2176, 243), (17408, 27), (17408, 1)] {
            let parts = Parts { d: true, z: true, delta_bias: true, delta_softplus: true, ..Parts::default() };
            let case = Case::random(dims(sequences, frames, 256, 16), parts, 1).narrow();
            let scan = OnDevice::new(&device, &case, of)?;
            let (forward, backward) = (time(&device, || scan.forward())?, time(&device, || scan.backward())?);
            // Each tensor once: u, delta, z, y and B, C; with their gradients on the way back.
            let (channels, states, state) =
                (sequences * frames * 256 * of.size(), sequences * frames * 16 * of.size(), sequences * 256 * 16 * 4);
            let share = |bytes: usize, seconds: f64| 100.0 * bytes as f64 / bandwidth / seconds;
            println!(
                "{of:?} {sequences:>6} {frames:>5} {:>12.3} {:>10.0} % {:>12.3} {:>10.0} %",
                forward * 1e3,
                share(4 * channels + 2 * states + state, forward),
                backward * 1e3,
                share(7 * channels + 4 * states + state, backward),
            );
        }
    }
    Ok(passed)
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
