/// Why a scan was refused or not finished.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A slice does not have the length that the dimensions ask for.
    #[error(
        "selective scan: {name} needs {expected} values for shape {shape}, but has {found}; give every input the shape that S, L, D, N imply"
    )]
    Length {
        /// The input's or output's name in the schema.
        name: &'static str,
        /// Its shape, with sizes.
        shape: String,
        /// The product of the shape.
        expected: usize,
        /// The slice's length.
        found: usize,
    },
    /// The dimensions multiply to more than an address can count.
    #[error(
        "selective scan: S={sequences}, L={frames}, D={channels}, N={states} is more data than this machine can address; check the shapes"
    )]
    TooLarge {
        /// S
        sequences: usize,
        /// L
        frames: usize,
        /// D
        channels: usize,
        /// N
        states: usize,
    },
    /// A gradient is asked for an optional input that is absent.
    #[error(
        "selective scan: a gradient of {name} is asked for, but {name} is not among the inputs; pass the input or leave its gradient out"
    )]
    GradientOfAbsent {
        /// The input's name in the schema.
        name: &'static str,
    },
    /// The form cannot run on this CPU.
    #[error("selective scan: this CPU cannot run the {form} form; choose another, or let Form::best() choose")]
    Unsupported {
        /// The form's name.
        form: &'static str,
    },
    /// The caller's threads did not run the work.
    #[error("selective scan: the thread pool failed: {0}")]
    Threads(String),
    /// The driver, the compiler or the device failed, or cannot do what was asked.
    #[cfg(feature = "cuda")]
    #[error("selective scan on CUDA: {0}")]
    Cuda(String),
}
