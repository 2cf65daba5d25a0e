//! Processes that train one model together, over libtorch's own c10d: Gloo on CPUs, NCCL on GPUs (feature `nccl`).
//!
//! torchrun, Slurm, Kubernetes and whatever else starts PyTorch jobs start these as well: [`Environment`] reads what they set.

mod environment;
mod group;

pub use environment::Environment;
pub use group::{Backend, ProcessGroup, Timeouts};

/// Why processes cannot work together.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A variable of the environment is absent, or no number of the kind.
    #[error("{name} is {found}: expected {expected}; torchrun sets it, or see \"Many GPUs, many machines\" in README.md")]
    Environment {
        /// Its name.
        name: &'static str,
        /// What it should hold.
        expected: String,
        /// Its value, or that it is not set.
        found: String,
    },
    /// Not all processes met.
    #[error(
        "rank {rank} of {world_size} did not meet the others at {place} within {seconds} s: start all of them with the same MASTER_ADDR, \
         MASTER_PORT and WORLD_SIZE, and see that nothing blocks the way ({message})"
    )]
    Join {
        /// This process.
        rank: usize,
        /// How many were to come.
        world_size: usize,
        /// Where.
        place: String,
        /// How long it waited.
        seconds: u64,
        /// libtorch's words.
        message: String,
    },
    /// A collective failed: most often a process is gone.
    #[error(
        "rank {rank} lost touch with the others during {what}: another process has ended or cannot be reached; its own message says why \
         ({message})"
    )]
    Lost {
        /// This process.
        rank: usize,
        /// What they were doing together.
        what: &'static str,
        /// libtorch's words.
        message: String,
    },
}
