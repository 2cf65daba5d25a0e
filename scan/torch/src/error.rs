use std::ffi::CStr;

/// What libtorch, or the scan, said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An operation was refused; the message names the input, what was expected and what was found.
    #[error("{0}")]
    Torch(String),
    /// Lists that belong together differ in length.
    #[error("the optimiser has {expected} parameters but was given {found} {what}; build its state from the same list")]
    Count {
        /// What there are too many or too few of.
        what: &'static str,
        /// How many parameters there are.
        expected: usize,
        /// How many were given.
        found: usize,
    },
}

impl Error {
    /// The message that the shim left on this thread.
    pub(crate) fn last() -> Self {
        // SAFETY: the shim returns a NUL-terminated string that lives until the next failing call on this thread.
        let message = unsafe { CStr::from_ptr(crate::shim::poselift_torch_last_error()) };
        Self::Torch(message.to_string_lossy().into_owned())
    }
}
