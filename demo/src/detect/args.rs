//! The flags that choose a detector.

use std::path::{Path, PathBuf};

use pose::joint_map::Source;

/// Which detector.
#[derive(Debug, Clone, clap::Args)]
pub struct DetectorArgs {
    /// The 2D detector: blazepose, or an ONNX file of yours (RTMPose, RTMO, ViTPose, HRNet, YOLO-pose, MoveNet)
    #[arg(long, value_name = "FILE|blazepose", default_value = "blazepose", conflicts_with = "keypoints")]
    pub detector: PathBuf,
    /// The skeleton of that file's keypoints, where their number does not say it: coco17, halpe26, ...
    #[arg(long, value_name = "SKELETON", conflicts_with = "keypoints")]
    pub detector_joints: Option<Source>,
}

impl DetectorArgs {
    /// The user's file, unless it is BlazePose that is wanted.
    pub fn own_file(&self) -> Option<&Path> {
        Some(self.detector.as_path()).filter(|path| *path != Path::new("blazepose"))
    }
}
