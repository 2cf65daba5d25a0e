use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::NonNull;
use std::time::Duration;

use tch::Tensor;
use torch_sys::C_tensor;

use crate::{Environment, Error};

/// `struct Group` in cpp/shim.cpp.
#[repr(C)]
struct RawGroup {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn poselift_c10d_last_error() -> *const c_char;
    fn poselift_c10d_join(
        nccl: c_int,
        host: *const c_char,
        port: u16,
        serve: c_int,
        prefix: *const c_char,
        rank: c_int,
        world_size: c_int,
        join_timeout_ms: i64,
        timeout_ms: i64,
    ) -> *mut RawGroup;
    fn poselift_c10d_leave(group: *mut RawGroup);
    fn poselift_c10d_all_reduce_sum(group: *mut RawGroup, tensors: *const *mut C_tensor, count: usize, timeout_ms: i64) -> c_int;
    fn poselift_c10d_broadcast(group: *mut RawGroup, tensors: *const *mut C_tensor, count: usize, root: c_int, timeout_ms: i64) -> c_int;
}

/// What carries tensors between processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// TCP, tensors on the CPU.
    Gloo,
    /// NVIDIA's, tensors on the GPU that is current. In builds with the feature `nccl` alone.
    Nccl,
}

/// How long to wait for other processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For all to come.
    pub join: Duration,
    /// In each collective: longer than the longest time that one process works while the others wait for it.
    pub collective: Duration,
}

impl Default for Timeouts {
    /// 5 minutes for all to come, 30 in each collective, as PyTorch has it.
    fn default() -> Self {
        Self { join: Duration::from_secs(300), collective: Duration::from_secs(1800) }
    }
}

/// Processes that do the same collectives in the same order.
///
/// A process that ends, however it ends, closes its connections: the others' collectives then fail at once. One that stops without ending,
/// or whose machine is gone, fails them after [`Timeouts::collective`].
#[derive(Debug)]
pub struct ProcessGroup {
    raw: NonNull<RawGroup>,
    rank: usize,
    world_size: usize,
    timeout_ms: i64,
}

// SAFETY: c10d's groups and stores may be used from any thread, one at a time; `&self` methods are not shared between threads (no Sync).
unsafe impl Send for ProcessGroup {}

impl ProcessGroup {
    /// Meets the other processes of the job; returns when all have come.
    ///
    /// # Errors
    /// [`Error::Join`]: not all came in time, the address is wrong or taken, or this build has no such backend.
    pub fn join(environment: &Environment, backend: Backend, timeouts: Timeouts) -> Result<Self, Error> {
        let Environment { rank, world_size, ref master_addr, master_port, agent_serves, attempt, .. } = *environment;
        let failed = |message: String| Error::Join {
            rank,
            world_size,
            place: format!("{master_addr}:{master_port}"),
            seconds: timeouts.join.as_secs(),
            message: in_one_line(&message),
        };
        let host = CString::new(master_addr.as_str()).map_err(|e| failed(e.to_string()))?;
        // the name that PyTorch's own processes use under torchrun
        let prefix = CString::new(format!("/worker/attempt_{attempt}")).map_err(|e| failed(e.to_string()))?;
        let timeout_ms = milliseconds(timeouts.collective);
        // SAFETY: NUL-terminated strings that outlive the call; the numbers were checked when the environment was read.
        let raw = unsafe {
            poselift_c10d_join(
                c_int::from(backend == Backend::Nccl),
                host.as_ptr(),
                master_port,
                c_int::from(rank == 0 && !agent_serves),
                prefix.as_ptr(),
                rank as c_int,
                world_size as c_int,
                milliseconds(timeouts.join),
                timeout_ms,
            )
        };
        let raw = NonNull::new(raw).ok_or_else(|| failed(last_error()))?;
        Ok(Self { raw, rank, world_size, timeout_ms })
    }

    /// Which of the processes this is.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many there are.
    pub fn world_size(&self) -> usize {
        self.world_size
    }

    /// Sums each tensor over all processes, in place: every process gives as many, of the same shapes. `what` is for the error's sentence.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub fn all_reduce_sum(&self, tensors: &[Tensor], what: &'static str) -> Result<(), Error> {
        let handles = handles(tensors);
        // SAFETY: a live group, and as many live, contiguous tensors as said, which outlive the call: it returns when all is done.
        let status = unsafe { poselift_c10d_all_reduce_sum(self.raw.as_ptr(), handles.as_ptr(), handles.len(), self.timeout_ms) };
        self.checked(status, what)
    }

    /// Overwrites each tensor with that of process `root`.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub fn broadcast(&self, tensors: &[Tensor], root: usize, what: &'static str) -> Result<(), Error> {
        let handles = handles(tensors);
        // SAFETY: as above.
        let status = unsafe { poselift_c10d_broadcast(self.raw.as_ptr(), handles.as_ptr(), handles.len(), root as c_int, self.timeout_ms) };
        self.checked(status, what)
    }

    fn checked(&self, status: c_int, what: &'static str) -> Result<(), Error> {
        if status == 0 { Ok(()) } else { Err(Error::Lost { rank: self.rank, what, message: in_one_line(&last_error()) }) }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        // SAFETY: made by `join` and dropped once.
        unsafe { poselift_c10d_leave(self.raw.as_ptr()) };
    }
}

fn handles(tensors: &[Tensor]) -> Vec<*mut C_tensor> {
    tensors.iter().map(|tensor| tensor.as_ptr().cast_mut()).collect()
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX).max(1)
}

fn last_error() -> String {
    // SAFETY: the shim returns a NUL-terminated string that lives until the next failing call on this thread.
    unsafe { CStr::from_ptr(poselift_c10d_last_error()) }.to_string_lossy().into_owned()
}

/// libtorch's message without its stack trace and without line breaks.
fn in_one_line(message: &str) -> String {
    let lines = message.lines().take_while(|line| !line.starts_with("Exception raised from"));
    lines.map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}
