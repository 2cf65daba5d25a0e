use std::path::{Path, PathBuf};

/// What can go wrong between a file and a batch. Each message is one sentence: what was expected, what was found, what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that could not be read at all.
    #[error(transparent)]
    Read(#[from] formats::Error),
    /// A file that was read and does not hold what it should.
    #[error("{}: {problem}", path.display())]
    Content {
        /// The file, or the name of a set that was made in memory.
        path: PathBuf,
        /// What was expected and what was found.
        problem: String,
    },
    /// Options that contradict each other or the data.
    #[error("{0}")]
    Options(String),
    /// Keypoints or cameras that `pose` refuses.
    #[error(transparent)]
    Pose(#[from] pose::Error),
    /// The predictor that is being evaluated failed.
    #[error("the predictor failed: {0}")]
    Predictor(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    pub(crate) fn content(path: &Path, problem: impl Into<String>) -> Self {
        Error::Content { path: path.to_owned(), problem: problem.into() }
    }

    pub(crate) fn options(problem: impl Into<String>) -> Self {
        Error::Options(problem.into())
    }
}
