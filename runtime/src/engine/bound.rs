//! Memory that stays where it is from call to call, and sessions whose inputs and outputs are bound to it.
//!
//! `ort` binds tensors that it owns, each with the whole of its memory. Here a binding is to a part of a block, in the shape that a
//! session wants it in, and one block may be an input and an output, so bindings are made through the C API itself.

use std::{ffi::CString, fmt};

use ort::{
    AsPointer as _,
    memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType},
    session::{IoBinding, RunOptions, Session},
    value::{PrimitiveTensorElementType, Shape, Tensor, TensorRefMut},
};

use super::Device;

/// Where a block lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    /// In the memory of the device.
    Device,
    /// In the program's own memory, from which and to which the device copies: pinned where the device is a GPU.
    Host,
}

/// What a block is made of.
pub(super) trait Number: PrimitiveTensorElementType + fmt::Debug + Copy + Default + 'static {}
impl Number for f32 {}
impl Number for i64 {}

/// Numbers in memory that stays where it is.
#[derive(Debug)]
pub(super) struct Block<T: Number> {
    tensor: Tensor<T>,
    len: usize,
    on_host: bool,
}

impl<T: Number> Block<T> {
    /// Room for `len` numbers, which may be anything at first.
    pub fn new(session: &Session, device: Device, memory: Memory, len: usize) -> ort::Result<Self> {
        let on = |name, kind| -> ort::Result<Allocator> {
            let index = device.gpu().unwrap_or(0);
            Allocator::new(session, MemoryInfo::new(name, index, AllocatorType::Device, kind)?)
        };
        let allocator = match (device.is_gpu(), memory) {
            (false, _) => Allocator::default(),
            (true, Memory::Device) => on(AllocationDevice::CUDA, MemoryType::Default)?,
            (true, Memory::Host) => on(AllocationDevice::CUDA_PINNED, MemoryType::CPUOutput).unwrap_or_else(|error| {
                // Right all the same, only slower.
                tracing::warn!("the GPU copies from and to memory that is not pinned: {}", error.message());
                Allocator::default()
            }),
        };
        let tensor = Tensor::new(&allocator, [len])?;
        Ok(Self { tensor, len, on_host: memory == Memory::Host })
    }

    /// The numbers from `start` on as a tensor of this shape; it must not be used longer than the block.
    pub fn view(&self, start: usize, shape: &[usize]) -> ort::Result<TensorRefMut<'_, T>> {
        let numbers = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
        if numbers.and_then(|numbers| numbers.checked_add(start)).is_none_or(|end| end > self.len) {
            return Err(ort::Error::new(format!("a block of {} numbers holds no {shape:?} from {start} on", self.len)));
        }
        // An address only: it may be one of the device's.
        let address = self.tensor.data_ptr().cast::<T>().wrapping_add(start);
        // SAFETY: the part lies in the block, which outlives the reference.
        unsafe { TensorRefMut::from_raw(self.tensor.memory_info().to_owned(), address.cast_mut().cast(), Shape::from(shape)) }
    }

    /// Copies all numbers, between devices too; both have as many.
    pub fn copy_to(&self, other: &mut Self) -> ort::Result<()> {
        self.tensor.copy_into(&mut other.tensor)
    }

    /// The numbers, of a block on the host.
    pub fn numbers(&self) -> &[T] {
        assert!(self.on_host, "only numbers on the host can be read");
        // SAFETY: memory of the host, as many numbers as were allocated, each of them set: `ort` zeroes what it allocates there.
        unsafe { std::slice::from_raw_parts(self.tensor.data_ptr().cast::<T>(), self.len) }
    }

    /// The numbers, of a block on the host, to be set.
    pub fn numbers_mut(&mut self) -> &mut [T] {
        assert!(self.on_host, "only numbers on the host can be set");
        // SAFETY: as for `numbers`; nobody else holds the block.
        unsafe { std::slice::from_raw_parts_mut(self.tensor.data_ptr_mut().cast::<T>(), self.len) }
    }
}

/// A session's inputs and outputs, each bound to a place in memory.
#[derive(Debug)]
pub(super) struct Bound {
    binding: IoBinding,
}

impl Bound {
    pub fn new(session: &Session) -> ort::Result<Self> {
        Ok(Self { binding: session.create_binding()? })
    }

    /// Binds an input. What lies on another device than the session wants is copied there now, and only now; whoever runs next waits for
    /// that with [`wait_for_inputs`](Self::wait_for_inputs).
    ///
    /// # Safety
    /// The tensor's memory stays where it is until another is bound in its place, or the binding is no longer run.
    pub unsafe fn input<T: Number>(&mut self, name: &str, tensor: &Tensor<T>) -> ort::Result<()> {
        let name = CString::new(name).map_err(ort::Error::wrap)?;
        // SAFETY: live objects and a string that ends in 0; the library counts its own references to the tensor.
        unsafe { ort::Error::result_from_status((ort::api().BindInput)(self.binding.ptr().cast_mut(), name.as_ptr(), tensor.ptr())) }
    }

    /// Binds an output, which every run writes.
    ///
    /// # Safety
    /// As [`input`](Self::input), and nobody reads or writes the memory while a run does.
    pub unsafe fn output<T: Number>(&mut self, name: &str, tensor: &Tensor<T>) -> ort::Result<()> {
        let name = CString::new(name).map_err(ort::Error::wrap)?;
        // SAFETY: as for `input`.
        unsafe { ort::Error::result_from_status((ort::api().BindOutput)(self.binding.ptr().cast_mut(), name.as_ptr(), tensor.ptr())) }
    }

    /// Waits for copies of inputs, which the library starts on some stream of the GPU, not always the one that runs.
    pub fn wait_for_inputs(&self) -> ort::Result<()> {
        self.binding.synchronize_inputs()
    }

    /// Runs, and waits until the outputs are written.
    pub fn run(&mut self, session: &mut Session, graph: Option<&CudaGraph>) -> ort::Result<()> {
        match graph {
            Some(graph) => session.run_binding_with_options(&self.binding, &graph.options).map(drop),
            None => session.run_binding(&self.binding).map(drop),
        }
    }
}

/// The name under which a session captures the run of a graph, once it has run it twice or so, and replays it from then on: the same
/// kernels on the same places in memory.
pub(super) struct CudaGraph {
    number: i32,
    pub options: RunOptions,
}

impl fmt::Debug for CudaGraph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CUDA graph {}", self.number)
    }
}

impl CudaGraph {
    /// Runs under this one are not captured.
    pub const NONE: i32 = -1;

    /// Numbers of a session's graphs are chosen by who holds it, from 1.
    pub fn new(number: i32) -> ort::Result<Self> {
        let mut options = RunOptions::new()?;
        options.set("gpu_graph_id", number.to_string())?;
        Ok(Self { number, options })
    }

    /// Lets the session forget it: its places in memory are no longer good.
    pub fn release(&self, session: &mut Session) {
        // SAFETY: a live session that nobody else uses.
        let released =
            unsafe { ort::Error::result_from_status((ort::api().SessionReleaseCapturedGraph)(session.ptr().cast_mut(), self.number)) };
        // Where none was captured there is nothing to forget.
        if let Err(error) = released {
            tracing::debug!("{self:?} is kept: {}", error.message());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnxruntime;

    #[test]
    fn a_view_never_leaves_its_block() {
        let environment = onnxruntime::environment(None).expect("the library");
        let session = Session::builder(&environment).and_then(|mut builder| builder.commit_from_memory(super::super::ort::IDENTITY));
        let session = session.expect("a session");
        let mut block = Block::<f32>::new(&session, Device::Cpu, Memory::Host, 12).expect("a block");
        block.numbers_mut().iter_mut().enumerate().for_each(|(i, x)| *x = i as f32);
        let view = block.view(4, &[2, 4]).expect("it fits");
        assert_eq!(view.extract_tensor().1, [4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
        let mut other = Block::<f32>::new(&session, Device::Cpu, Memory::Device, 12).expect("a block");
        block.copy_to(&mut other).expect("copied");
        assert_eq!(other.view(3, &[2]).expect("it fits").extract_tensor().1, [3.0, 4.0]);
        assert!(block.copy_to(&mut Block::new(&session, Device::Cpu, Memory::Device, 11).expect("a block")).is_err());
        for (start, shape) in [(5, vec![2, 4]), (13, vec![0]), (0, vec![usize::MAX, 2]), (usize::MAX, vec![2])] {
            assert!(block.view(start, &shape).is_err(), "{shape:?} from {start} on");
        }
    }
}
