//! The scan on CUDA devices: one source ([`SOURCE`]), compiled by NVRTC for the device that is there.
//!
//! Building needs no CUDA toolkit and no GPU: the driver and NVRTC are loaded when they are first used. Kernels run on a
//! stream of the caller's, in its context: those of libtorch or of ONNX Runtime.
//!
//! ```text
//! let program = Program::new(ElementType::F32, 16)?;      // element type and N are constants of the kernels
//! let stream = Stream::current(program, raw_stream)?;     // compiles on first use, then from disk, then from memory
//! unsafe { cuda::forward(&stream, dims, &inputs, &outputs)? };
//! ```
//!
//! u, delta, B, C, z, y and their gradients have the program's element type; everything else is f32, as is all arithmetic.
//! A step is a forward pass of one frame with `initial_state` and `last_state`, which may be the same memory.
//!
//! The gradients are the same at every run: nothing is added up in the order in which threads happen to arrive.

mod arguments;
mod cache;
mod driver;
mod launch;
mod nvrtc;

use std::ffi::c_void;

pub use cache::{compile_cached, default_folder};
pub use driver::{Buffer, Device, Stream};
pub use launch::{backward, forward, kept_bytes, workspace_bytes};
pub use nvrtc::{Compiled, compile, is_available};

use crate::Error;

/// The kernels, CUDA C++ without includes.
pub const SOURCE: &str = include_str!("selective_scan.cu");

/// The most states that the kernels take.
pub const MAX_STATES: usize = 128;

/// A place in a device's memory (`CUdeviceptr`) where contiguous values lie; 0 for an argument that is absent.
pub type Address = u64;

/// What u, delta, B, C, z, y and their gradients are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ElementType {
    /// 32 bits
    F32,
    /// IEEE half precision
    F16,
    /// bfloat16
    BF16,
}

impl ElementType {
    /// Bytes of a value.
    pub fn size(self) -> usize {
        match self {
            ElementType::F32 => 4,
            ElementType::F16 | ElementType::BF16 => 2,
        }
    }
}

/// What the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Program {
    element: ElementType,
    states: usize,
}

impl Program {
    /// # Errors
    /// A number of states that is not in 1 to [`MAX_STATES`].
    pub fn new(element: ElementType, states: usize) -> Result<Self, Error> {
        if (1..=MAX_STATES).contains(&states) {
            return Ok(Self { element, states });
        }
        Err(Error::Cuda(format!("the kernels take 1 to {MAX_STATES} states, but A has {states}; run this scan on the CPU")))
    }

    /// The type of u.
    pub fn element(self) -> ElementType {
        self.element
    }

    /// N
    pub fn states(self) -> usize {
        self.states
    }

    /// What the source is to be compiled with, beside the architecture.
    pub fn definitions(self) -> [String; 2] {
        let element = match self.element {
            ElementType::F32 => 0,
            ElementType::F16 => 1,
            ElementType::BF16 => 2,
        };
        [format!("-DSCAN_STATES={}", self.states), format!("-DSCAN_ELEMENT={element}")]
    }
}

/// The kernels of [`SOURCE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Forward with up to 16 states in a thread: for many sequences.
    ForwardWide,
    /// Forward with up to 4 states in a thread: for few.
    ForwardNarrow,
    /// Backward, from states that a forward pass kept, with two channels in a thread: for many sequences.
    BackwardWide,
    /// Backward with one channel in a thread: for few.
    BackwardNarrow,
    /// Sums of few rows.
    SumFew,
    /// Sums of many rows.
    SumMany,
}

impl Kernel {
    /// All of them.
    pub const ALL: [Kernel; 6] =
        [Kernel::ForwardWide, Kernel::ForwardNarrow, Kernel::BackwardWide, Kernel::BackwardNarrow, Kernel::SumFew, Kernel::SumMany];

    /// Its name in the source.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::ForwardWide => "scan_forward_wide",
            Kernel::ForwardNarrow => "scan_forward_narrow",
            Kernel::BackwardWide => "scan_backward_wide",
            Kernel::BackwardNarrow => "scan_backward_narrow",
            Kernel::SumFew => "scan_sum_few",
            Kernel::SumMany => "scan_sum_many",
        }
    }
}

/// Where kernels run: a CUDA [`Stream`], or an emulator in tests.
pub trait Launcher {
    /// What the kernels were compiled for.
    fn program(&self) -> Program;

    /// How many multiprocessors share the blocks.
    fn multiprocessors(&self) -> usize;

    /// Runs `blocks` blocks of `threads` threads after everything that was launched before.
    ///
    /// # Safety
    /// `argument` points to the kernel's argument as the source declares it, and the addresses in it are good for what the
    /// kernel does.
    ///
    /// # Errors
    /// The device's.
    unsafe fn launch(&self, kernel: Kernel, blocks: u32, threads: u32, argument: *const c_void) -> Result<(), Error>;
}

/// What goes into a scan; see the crate's page for shapes.
#[derive(Clone, Copy, Debug, Default)]
pub struct InputAddresses {
    /// (S, L, D)
    pub u: Address,
    /// (S, L, D), before bias and softplus
    pub delta: Address,
    /// (D, N), f32
    pub a: Address,
    /// (S, L, N)
    pub b: Address,
    /// (S, L, N)
    pub c: Address,
    /// (D), f32, optional
    pub d: Address,
    /// (S, L, D), optional
    pub z: Address,
    /// (D), f32, optional
    pub delta_bias: Address,
    /// (S, D, N), f32, optional
    pub initial_state: Address,
    /// Whether delta (with its bias) goes through softplus.
    pub delta_softplus: bool,
}

/// What comes out of a scan.
#[derive(Clone, Copy, Debug, Default)]
pub struct OutputAddresses {
    /// (S, L, D)
    pub y: Address,
    /// (S, D, N), f32, optional; may be `initial_state`
    pub last_state: Address,
    /// [`kept_bytes`], optional: states on the way, for [`backward`]
    pub kept: Address,
}

/// Gradients that come in.
#[derive(Clone, Copy, Debug, Default)]
pub struct OutputGradAddresses {
    /// (S, L, D)
    pub y: Address,
    /// (S, D, N), f32, optional
    pub last_state: Address,
}

/// Gradients that go out, overwritten. Those of optional inputs may be left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct InputGradAddresses {
    /// (S, L, D)
    pub u: Address,
    /// (S, L, D), of delta before bias and softplus
    pub delta: Address,
    /// (D, N), f32
    pub a: Address,
    /// (S, L, N)
    pub b: Address,
    /// (S, L, N)
    pub c: Address,
    /// (D), f32
    pub d: Address,
    /// (S, L, D)
    pub z: Address,
    /// (D), f32
    pub delta_bias: Address,
    /// (S, D, N), f32
    pub initial_state: Address,
}
