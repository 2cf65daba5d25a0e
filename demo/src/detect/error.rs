//! What can be wrong with a detector's file.

use std::path::PathBuf;

use crate::blazepose;

/// Why a detector cannot be opened or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such file.
    #[error("the detector {} cannot be read ({reason}): give an ONNX file, or `blazepose`", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// The ONNX Runtime library.
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    /// ONNX Runtime refused the file, or running it failed.
    #[error("the detector {} cannot be run: {reason}", path.display())]
    Run {
        /// The file.
        path: PathBuf,
        /// What the engine says.
        reason: String,
    },
    /// Inputs and outputs of no kind that is known.
    #[error("{} is no detector of a known kind: it has {found}; known are {known}", path.display())]
    UnknownKind {
        /// The file.
        path: PathBuf,
        /// Its inputs and outputs.
        found: String,
        /// What would have been recognised.
        known: &'static str,
    },
    /// A number of keypoints that does not say which they are, or does not go with what was asked for.
    #[error("the detector {} gives {found} keypoints for each person, {asked}", path.display())]
    Joints {
        /// The file.
        path: PathBuf,
        /// How many it gives.
        found: usize,
        /// What was asked for, and what to do.
        asked: String,
    },
    /// NaN or infinity came out.
    #[error(
        "the detector {} gave numbers that are not finite (output {output}): the file is damaged, or its half precision overflows; \
         export it with 32-bit floats", path.display()
    )]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// Name of the output.
        output: String,
    },
    /// An output changed its shape from one frame to the next.
    #[error("the detector {} gave an output of the shape {found} where it gave {expected} at first", path.display())]
    ShapeChanged {
        /// The file.
        path: PathBuf,
        /// Shapes when it was opened.
        expected: String,
        /// Shapes now.
        found: String,
    },
    /// A network that looks at one person at a time needs BlazePose's to find them.
    #[error("the detector {} looks at one person at a time, and BlazePose's detector, which is to find them, is not usable: {reason}", path.display())]
    Finder {
        /// The file.
        path: PathBuf,
        /// What is wrong with BlazePose.
        reason: blazepose::Error,
    },
    /// BlazePose's detector failed while it was searching.
    #[error(transparent)]
    BlazePose(#[from] blazepose::Error),
    /// OpenCV failed to cut out a part of a frame.
    #[error("OpenCV cannot cut out a part of the frame: {0}")]
    OpenCv(#[from] opencv::Error),
}
