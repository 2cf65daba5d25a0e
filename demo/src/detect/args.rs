//! The flags that choose a detector.

use std::path::{Path, PathBuf};

use pose::joint_map::Source;
use runtime::Device;

use super::{Detector, Options, open};
use crate::blazepose::{BlazePose, Networks, NetworksOptions, Quality};

/// Which detector.
#[derive(Debug, Clone, clap::Args)]
pub struct DetectorArgs {
    /// The 2D detector: blazepose, or an ONNX file of yours (RTMPose, RTMO, ViTPose, HRNet, YOLO-pose, MoveNet)
    #[arg(long, value_name = "FILE|blazepose", default_value = "blazepose", conflicts_with = "keypoints")]
    detector: PathBuf,
    /// The skeleton of that file's keypoints, where their number does not say it: coco17, halpe26, ...
    #[arg(long, value_name = "SKELETON", conflicts_with = "keypoints")]
    detector_joints: Option<Source>,
    /// Which of BlazePose's landmark networks [default: heavy for clips, full for live sessions]
    #[arg(long, value_enum)]
    detector_quality: Option<Quality>,
}

/// A detector to be opened.
#[derive(Debug, Clone, PartialEq)]
pub enum Choice {
    /// BlazePose, with this landmark network.
    BlazePose(Quality),
    /// The user's own file.
    Own {
        /// ONNX.
        path: PathBuf,
        /// Its skeleton, where the user says it.
        joints: Option<Source>,
    },
}

impl DetectorArgs {
    /// What was chosen; `usual` is BlazePose's landmark network where none is.
    ///
    /// # Errors
    /// Flags that do not go together.
    pub fn choice(&self, usual: Quality) -> anyhow::Result<Choice> {
        if self.detector == Path::new("blazepose") {
            anyhow::ensure!(
                self.detector_joints.is_none(),
                "--detector-joints is for a detector of your own: give its file with --detector"
            );
            return Ok(Choice::BlazePose(self.detector_quality.unwrap_or(usual)));
        }
        anyhow::ensure!(self.detector_quality.is_none(), "--detector-quality is BlazePose's: leave it out with a detector of your own");
        Ok(Choice::Own { path: self.detector.clone(), joints: self.detector_joints })
    }
}

impl Choice {
    /// Opens it.
    ///
    /// # Errors
    /// See [`open`] and [`Networks::open`].
    pub fn open(&self, device: Device, threads: usize) -> anyhow::Result<Box<dyn Detector>> {
        match self {
            Self::BlazePose(quality) => {
                let options = NetworksOptions { quality: *quality, device, threads, ..NetworksOptions::default() };
                Ok(Box::new(BlazePose::new(Networks::open(&options)?, *quality)))
            }
            Self::Own { path, joints } => Ok(open(path, &Options { device, threads, joints: *joints })?),
        }
    }
}
