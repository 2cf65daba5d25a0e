//! The kernels that cpp/shim.cpp calls back: raw pointers in, a status and a message out, no panic across the border.

use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;

use scan::cuda::{self, Address, ElementType, InputAddresses, InputGradAddresses, OutputAddresses, OutputGradAddresses, Program, Stream};
use scan::oracle::Real;
use scan::{Dims, Error, InputGrads, Inputs, OutputGrads, ParallelFor, without_panics};

use crate::shim;

/// Sizes, as `struct ScanDims` in cpp/shim.cpp.
#[repr(C)]
struct RawDims {
    sequences: usize,
    frames: usize,
    channels: usize,
    states: usize,
}

/// `struct ScanInputs` in cpp/shim.cpp.
#[repr(C)]
struct RawInputs {
    u: *const c_void,
    delta: *const c_void,
    a: *const c_void,
    b: *const c_void,
    c: *const c_void,
    d: *const c_void,
    z: *const c_void,
    delta_bias: *const c_void,
    initial_state: *const c_void,
    delta_softplus: c_int,
}

/// `struct ScanOutputs` in cpp/shim.cpp.
#[repr(C)]
struct RawOutputs {
    y: *mut c_void,
    last_state: *mut c_void,
    kept: *mut c_void,
}

/// `struct ScanOutputGrads` in cpp/shim.cpp.
#[repr(C)]
struct RawOutputGrads {
    y: *const c_void,
    last_state: *const c_void,
}

/// `struct ScanInputGrads` in cpp/shim.cpp.
#[repr(C)]
struct RawInputGrads {
    u: *mut c_void,
    delta: *mut c_void,
    a: *mut c_void,
    b: *mut c_void,
    c: *mut c_void,
    d: *mut c_void,
    z: *mut c_void,
    delta_bias: *mut c_void,
    initial_state: *mut c_void,
}

/// libtorch's own threads, so that two pools never fight over the cores.
struct TorchThreads;

/// What travels through C as the context of a parallel loop.
struct Task<'a>(&'a (dyn Fn(usize) + Sync));

unsafe extern "C" fn run_task(context: *const c_void, index: usize) {
    // SAFETY: `TorchThreads::run` passes a `Task` that outlives the loop.
    let Task(task) = unsafe { &*context.cast::<Task<'_>>() };
    task(index);
}

impl ParallelFor for TorchThreads {
    fn run(&self, count: usize, task: &(dyn Fn(usize) + Sync)) -> Result<(), Error> {
        if count <= 1 {
            (0..count).for_each(task);
            return Ok(());
        }
        without_panics(task, |task| {
            let context = Task(task);
            // SAFETY: `run_task` reads `context` as the `Task` it is; the call returns only when every task is done.
            match unsafe { shim::poselift_torch_parallel_for(count, run_task, (&raw const context).cast()) } {
                0 => Ok(()),
                _ => Err(Error::Threads(crate::Error::last().to_string())),
            }
        })
    }
}

/// The two element types: which kernel each of them runs on.
trait Kernel: Real {
    fn forward(dims: Dims, inputs: &Inputs<'_, Self>, y: &mut [Self], last_state: &mut [Self]) -> Result<(), Error>;
    fn backward(dims: Dims, inputs: &Inputs<'_, Self>, from: &OutputGrads<'_, Self>, to: &mut InputGrads<'_, Self>) -> Result<(), Error>;
}

impl Kernel for f32 {
    fn forward(dims: Dims, inputs: &Inputs<'_, f32>, y: &mut [f32], last_state: &mut [f32]) -> Result<(), Error> {
        scan::forward(dims, inputs, y, Some(last_state), &TorchThreads)
    }
    fn backward(dims: Dims, inputs: &Inputs<'_, f32>, from: &OutputGrads<'_, f32>, to: &mut InputGrads<'_, f32>) -> Result<(), Error> {
        scan::backward(dims, inputs, from, to, &TorchThreads)
    }
}

impl Kernel for f64 {
    fn forward(dims: Dims, inputs: &Inputs<'_, f64>, y: &mut [f64], last_state: &mut [f64]) -> Result<(), Error> {
        scan::oracle::forward(dims, inputs, y, Some(last_state))
    }
    fn backward(dims: Dims, inputs: &Inputs<'_, f64>, from: &OutputGrads<'_, f64>, to: &mut InputGrads<'_, f64>) -> Result<(), Error> {
        scan::oracle::backward(dims, inputs, from, to)
    }
}

/// How many values each kind of argument has.
struct Lengths {
    /// (S, L, D)
    channels: usize,
    /// (S, L, N)
    states: usize,
    /// (D, N)
    transition: usize,
    /// (D)
    per_channel: usize,
    /// (S, D, N)
    state: usize,
}

impl RawDims {
    fn dims(&self) -> Dims {
        Dims { sequences: self.sequences, frames: self.frames, channels: self.channels, states: self.states }
    }

    /// Products that fit: each is the size of a tensor that exists.
    fn lengths(&self) -> Lengths {
        let RawDims { sequences: s, frames: l, channels: d, states: n } = *self;
        Lengths { channels: s * l * d, states: s * l * n, transition: d * n, per_channel: d, state: s * d * n }
    }
}

/// # Safety
/// `data` is null or points to `length` values that nobody writes during `'a`.
unsafe fn read<'a, T>(data: *const c_void, length: usize) -> Option<&'a [T]> {
    // An empty tensor's pointer is null though it is present: an absent required input is then an empty slice as well.
    // SAFETY: as the caller promises.
    (!data.is_null()).then(|| unsafe { slice::from_raw_parts(data.cast::<T>(), length) })
}

/// # Safety
/// `data` is null or points to `length` values that nobody else touches during `'a`.
unsafe fn write<'a, T>(data: *mut c_void, length: usize) -> Option<&'a mut [T]> {
    // SAFETY: as the caller promises.
    (!data.is_null()).then(|| unsafe { slice::from_raw_parts_mut(data.cast::<T>(), length) })
}

impl RawInputs {
    /// # Safety
    /// Every pointer is null or points to contiguous values of `T` of its shape, unchanged during `'a`.
    unsafe fn inputs<'a, T>(&self, n: &Lengths) -> Inputs<'a, T> {
        // SAFETY: as the caller promises.
        unsafe {
            Inputs {
                u: read(self.u, n.channels).unwrap_or_default(),
                delta: read(self.delta, n.channels).unwrap_or_default(),
                a: read(self.a, n.transition).unwrap_or_default(),
                b: read(self.b, n.states).unwrap_or_default(),
                c: read(self.c, n.states).unwrap_or_default(),
                d: read(self.d, n.per_channel),
                z: read(self.z, n.channels),
                delta_bias: read(self.delta_bias, n.per_channel),
                initial_state: read(self.initial_state, n.state),
                delta_softplus: self.delta_softplus != 0,
            }
        }
    }
}

unsafe fn forward<T: Kernel>(dims: &RawDims, inputs: &RawInputs, outputs: &RawOutputs) -> Result<(), Error> {
    let n = dims.lengths();
    // SAFETY: the shim passes contiguous tensors of these shapes and of type `T`, and fresh outputs.
    unsafe {
        let y = write(outputs.y, n.channels).unwrap_or_default();
        let last_state = write(outputs.last_state, n.state).unwrap_or_default();
        T::forward(dims.dims(), &inputs.inputs::<T>(&n), y, last_state)
    }
}

unsafe fn backward<T: Kernel>(dims: &RawDims, inputs: &RawInputs, from: &RawOutputGrads, to: &RawInputGrads) -> Result<(), Error> {
    let n = dims.lengths();
    // SAFETY: as in `forward`; every gradient is a fresh tensor shaped as its input.
    unsafe {
        let from = OutputGrads { y: read(from.y, n.channels).unwrap_or_default(), last_state: read(from.last_state, n.state) };
        let mut to = InputGrads {
            u: write(to.u, n.channels).unwrap_or_default(),
            delta: write(to.delta, n.channels).unwrap_or_default(),
            a: write(to.a, n.transition).unwrap_or_default(),
            b: write(to.b, n.states).unwrap_or_default(),
            c: write(to.c, n.states).unwrap_or_default(),
            d: write(to.d, n.per_channel),
            z: write(to.z, n.channels),
            delta_bias: write(to.delta_bias, n.per_channel),
            initial_state: write(to.initial_state, n.state),
        };
        T::backward(dims.dims(), &inputs.inputs::<T>(&n), &from, &mut to)
    }
}

/// Turns a result, or a panic, into a status and a message in the caller's buffer.
///
/// # Safety
/// `message` points to `capacity` writable bytes.
unsafe fn report(message: *mut c_char, capacity: usize, run: impl FnOnce() -> Result<(), Error>) -> c_int {
    let text = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => return 0,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "selective scan: the kernel panicked; this is a defect of poselift".to_owned(),
    };
    // SAFETY: as the caller promises; the buffer is zeroed, so the byte after the text ends it.
    let buffer = unsafe { slice::from_raw_parts_mut(message.cast::<u8>(), capacity) };
    for (to, from) in buffer.iter_mut().take(capacity.saturating_sub(1)).zip(text.bytes()) {
        *to = from;
    }
    1
}

#[unsafe(no_mangle)]
unsafe extern "C" fn poselift_scan_forward(
    f64: c_int,
    dims: *const RawDims,
    inputs: *const RawInputs,
    outputs: *const RawOutputs,
    message: *mut c_char,
    capacity: usize,
) -> c_int {
    // SAFETY: the shim passes live structs and a buffer of `capacity` bytes.
    unsafe {
        let (dims, inputs, outputs) = (&*dims, &*inputs, &*outputs);
        report(message, capacity, || if f64 != 0 { forward::<f64>(dims, inputs, outputs) } else { forward::<f32>(dims, inputs, outputs) })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn poselift_scan_backward(
    f64: c_int,
    dims: *const RawDims,
    inputs: *const RawInputs,
    from: *const RawOutputGrads,
    to: *const RawInputGrads,
    message: *mut c_char,
    capacity: usize,
) -> c_int {
    // SAFETY: the shim passes live structs and a buffer of `capacity` bytes.
    unsafe {
        let (dims, inputs, from, to) = (&*dims, &*inputs, &*from, &*to);
        report(
            message,
            capacity,
            || if f64 != 0 { backward::<f64>(dims, inputs, from, to) } else { backward::<f32>(dims, inputs, from, to) },
        )
    }
}

/// What cpp/shim.cpp numbers element types with.
fn element(number: c_int) -> ElementType {
    match number {
        0 => ElementType::F32,
        1 => ElementType::F16,
        _ => ElementType::BF16,
    }
}

impl RawInputs {
    fn addresses(&self) -> InputAddresses {
        InputAddresses {
            u: self.u as Address,
            delta: self.delta as Address,
            a: self.a as Address,
            b: self.b as Address,
            c: self.c as Address,
            d: self.d as Address,
            z: self.z as Address,
            delta_bias: self.delta_bias as Address,
            initial_state: self.initial_state as Address,
            delta_softplus: self.delta_softplus != 0,
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn poselift_scan_cuda_forward(
    element_type: c_int,
    dims: *const RawDims,
    inputs: *const RawInputs,
    outputs: *const RawOutputs,
    device: c_int,
    stream: *mut c_void,
    message: *mut c_char,
    capacity: usize,
) -> c_int {
    // SAFETY: the shim passes live structs, a buffer of `capacity` bytes, contiguous tensors of these shapes on that device, and its current
    // stream.
    unsafe {
        let (dims, inputs, outputs) = ((*dims).dims(), &*inputs, &*outputs);
        report(message, capacity, || {
            let stream = Stream::of_device(Program::new(element(element_type), dims.states)?, device, stream)?;
            let outputs =
                OutputAddresses { y: outputs.y as Address, last_state: outputs.last_state as Address, kept: outputs.kept as Address };
            cuda::forward(&stream, dims, &inputs.addresses(), &outputs)
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn poselift_scan_cuda_sizes(
    dims: *const RawDims,
    kept: *mut usize,
    workspace_with_kept: *mut usize,
    workspace: *mut usize,
    message: *mut c_char,
    capacity: usize,
) -> c_int {
    // SAFETY: the shim passes live structs, room for three numbers, and a buffer of `capacity` bytes.
    unsafe {
        let dims = (*dims).dims();
        report(message, capacity, || {
            *kept = cuda::kept_bytes(dims)?;
            *workspace_with_kept = cuda::workspace_bytes(dims, true)?;
            *workspace = cuda::workspace_bytes(dims, false)?;
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn poselift_scan_cuda_backward(
    element_type: c_int,
    dims: *const RawDims,
    inputs: *const RawInputs,
    from: *const RawOutputGrads,
    to: *const RawInputGrads,
    kept: *const c_void,
    workspace: *mut c_void,
    device: c_int,
    stream: *mut c_void,
    message: *mut c_char,
    capacity: usize,
) -> c_int {
    // SAFETY: as in `poselift_scan_cuda_forward`; every gradient is a fresh tensor shaped as its input, `kept` is null or what the
    // forward pass left there, and the workspace has the bytes that go with that.
    unsafe {
        let (dims, inputs, from, to) = ((*dims).dims(), &*inputs, &*from, &*to);
        report(message, capacity, || {
            let stream = Stream::of_device(Program::new(element(element_type), dims.states)?, device, stream)?;
            let from = OutputGradAddresses { y: from.y as Address, last_state: from.last_state as Address };
            let to = InputGradAddresses {
                u: to.u as Address,
                delta: to.delta as Address,
                a: to.a as Address,
                b: to.b as Address,
                c: to.c as Address,
                d: to.d as Address,
                z: to.z as Address,
                delta_bias: to.delta_bias as Address,
                initial_state: to.initial_state as Address,
            };
            cuda::backward(&stream, dims, &inputs.addresses(), &from, &to, kept as Address, workspace as Address)
        })
    }
}
