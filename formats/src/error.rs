//! The one error type of this crate: a sentence that names the file.

use std::path::{Path, PathBuf};

/// Why a file could not be read or written. `Display` is one sentence: the file, what was expected, what was found, what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused: no such file, no permission, disk full.
    #[error("cannot {action} {}: {cause}", path.display())]
    Io {
        /// What was tried: "read", "write", ...
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said: part of the sentence, so not told again as the error's source.
        cause: std::io::Error,
    },
    /// The file was read, but its content is not what it should be.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        reason: String,
    },
    /// The content is not what it should be, and no file is known (bytes in memory).
    #[error("{0}")]
    Content(String),
}

impl Error {
    pub(crate) fn content(reason: impl Into<String>) -> Self {
        Self::Content(reason.into())
    }

    pub(crate) fn io(action: &'static str, path: &Path, cause: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), cause }
    }

    /// Names the file that the content came from.
    pub(crate) fn in_file(self, path: &Path) -> Self {
        match self {
            Self::Content(reason) => Self::File { path: path.to_owned(), reason },
            other => other,
        }
    }
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

/// `Err(Error::Content(format!(...)))`, to be returned.
macro_rules! refuse {
    ($($arg:tt)*) => { return Err($crate::error::Error::content(format!($($arg)*))) };
}
pub(crate) use refuse;
