//! A lifter's figures by the protocols of the field: which data, which arithmetic, and with whose numbers they may be compared.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use datasets::{
    ClipFolder, ClipOptions, MotionBert, MotionBertClips, Mpi3dhp, SampleSource, Windowing, evaluate,
    motion_bert::Half,
    protocol::{Asking, H36mReport, Report3dhp, evaluate_3dhp, evaluate_h36m, original_report_px},
};
use network::LifterConfig;
use pose::{
    JOINTS, Keypoint, Keypoints17,
    joint_map::MPI_INF_3DHP,
    normalise::{self, ImageTransform, Normalisation},
};
use serde::Serialize;

use crate::{model::Lifter, weights::values};

/// MotionBERT's pickle, as it is published.
pub const H36M_FILE: &str = "h36m_sh_conf_cam_source_final.pkl";
/// The test file of MotionAGFormer's and P-STMO's preparation.
pub const MPI_INF_3DHP_TEST_FILE: &str = "data_test_3dhp.npz";
/// Its training file.
pub const MPI_INF_3DHP_TRAIN_FILE: &str = "data_train_3dhp.npz";

/// Figures that only numbers of the same protocol may be compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Standard Human3.6M.
    H36m,
    /// Human3.6M, every frame, no scale given.
    H36mPlain,
    /// MPI-INF-3DHP.
    #[serde(rename = "3dhp")]
    Mpi3dhp,
    /// The original MambaGCN report's own figure.
    Report,
}

/// A published MPJPE.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Published {
    /// Model and paper.
    pub model: &'static str,
    /// Frames of its clips, where the paper's figure is for one length.
    pub frames: Option<usize>,
    /// mm.
    pub mpjpe_mm: f64,
}

/// Standard protocol with the Stacked Hourglass keypoints of [`H36M_FILE`], flip averaging.
pub const PUBLISHED_H36M: [Published; 11] = [
    Published { model: "MotionAGFormer-XS", frames: Some(27), mpjpe_mm: 45.1 },
    Published { model: "MotionAGFormer-S", frames: Some(81), mpjpe_mm: 42.5 },
    Published { model: "MotionAGFormer-B", frames: Some(243), mpjpe_mm: 38.4 },
    Published { model: "MotionAGFormer-L", frames: Some(243), mpjpe_mm: 38.4 },
    Published { model: "MotionBERT, from scratch", frames: Some(243), mpjpe_mm: 39.2 },
    Published { model: "MotionBERT, fine-tuned", frames: Some(243), mpjpe_mm: 37.2 },
    Published { model: "PoseMamba-S", frames: Some(243), mpjpe_mm: 41.8 },
    Published { model: "PoseMamba-B", frames: Some(243), mpjpe_mm: 40.8 },
    Published { model: "PoseMamba-L", frames: Some(243), mpjpe_mm: 38.1 },
    Published { model: "TCPFormer", frames: Some(243), mpjpe_mm: 37.9 },
    Published { model: "SBAHGNet", frames: None, mpjpe_mm: 37.2 },
];

/// MPJPE of [`Protocol::Mpi3dhp`].
pub const PUBLISHED_3DHP: [Published; 3] = [
    Published { model: "MotionAGFormer-L", frames: None, mpjpe_mm: 16.2 },
    Published { model: "TCPFormer", frames: None, mpjpe_mm: 15.0 },
    Published { model: "HSTGFormer", frames: None, mpjpe_mm: 14.0 },
];

impl Protocol {
    /// Every protocol.
    pub const ALL: [Self; 4] = [Self::H36m, Self::H36mPlain, Self::Mpi3dhp, Self::Report];

    /// As the command line and the JSON call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::H36m => "h36m",
            Self::H36mPlain => "h36m-plain",
            Self::Mpi3dhp => "3dhp",
            Self::Report => "report",
        }
    }

    /// Its figure, in words.
    pub const fn measures(self) -> &'static str {
        match self {
            Self::H36m => {
                "mm at the true scale of each frame (\"oracle\"), root-relative; three takes and tails of videos left out; mean over actions"
            }
            Self::H36mPlain => "mm over every frame of every video, root-relative; true root depth or default height, each named",
            Self::Mpi3dhp => "mm relative to joint 14, PCK under 150 mm, AUC over 0 to 150 mm; middle frame of a window",
            Self::Report => "pixels of a 1000-px frame in image space, root not removed, no flip averaging; no millimetres",
        }
    }

    /// Whose numbers are of the same kind.
    pub const fn comparable_with(self) -> &'static str {
        match self {
            Self::H36m => "MotionBERT, MotionAGFormer, PoseMamba, TCPFormer, SBAHGNet with detected (Stacked Hourglass) 2D",
            Self::H36mPlain => "no published number: own models among each other",
            Self::Mpi3dhp => "MotionAGFormer, P-STMO, TCPFormer, HSTGFormer (2D from the labels)",
            Self::Report => "the \"MPJPE\" of the original MambaGCN report (22.07 after 5 epochs), printed there as mm",
        }
    }

    /// Whose numbers are not, though they look so.
    pub const fn not_with(self) -> &'static str {
        match self {
            Self::H36m => "VideoPose3D, MixSTE, KTPFormer (metric joints, no oracle scale); \"GT 2D\" columns (x and y are in the input)",
            Self::H36mPlain => "any paper's protocol 1 or 2",
            Self::Mpi3dhp => "papers with the root at another joint, or over 14 joints",
            Self::Report => "anything in millimetres: the same predictions measure about six times as much by h36m",
        }
    }

    /// All protocols beside each other.
    pub fn table() -> String {
        let mut text = String::from("Which number may be compared with which:\n");
        for protocol in Self::ALL {
            text += &format!(
                "\n  {:<11} {}\n  {:<11} compare with: {}\n  {:<11} never with: {}\n",
                protocol.name(),
                protocol.measures(),
                "",
                protocol.comparable_with(),
                "",
                protocol.not_with()
            );
        }
        text
    }
}

/// Order of the joints that a model takes and gives, for 3DHP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Joints {
    /// Human3.6M's: the set is put in that order for the model, and its answer back.
    H36m,
    /// The set's own, as the published 3DHP checkpoints have it.
    Mpi3dhp,
}

/// How a model is asked.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Feeding {
    /// How its input is normalised.
    pub normalisation: Normalisation,
    /// Frames per second that [`Protocol::H36mPlain`] resamples to; the other protocols show the frames as they are.
    pub fps: f32,
    /// Whether predictions are averaged with those for the mirrored input ([`Protocol::Report`] never does).
    pub flip: bool,
    /// Whether the model was trained on root-relative labels, all but the original MambaGCN's.
    pub root_relative: bool,
    /// For [`Protocol::Mpi3dhp`].
    pub joints: Joints,
}

/// What a protocol found.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Figures {
    /// [`Protocol::H36m`].
    H36m(H36mReport),
    /// [`Protocol::H36mPlain`].
    Plain(datasets::Figures),
    /// [`Protocol::Mpi3dhp`].
    Mpi3dhp(Report3dhp),
    /// [`Protocol::Report`].
    Report {
        /// Clips.
        clips: usize,
        /// Mean |500 (p - y)|, px of a 1000-px frame.
        image_space_error_px: f64,
    },
}

/// Clips that a lifter gets at once.
const BATCH: usize = 16;

/// Measures a lifter on the test split that lies at `data`: the protocol's file, or the folder that holds it; for
/// [`Protocol::Report`] also a clip folder.
///
/// # Errors
/// Data that is absent or refused, and as the protocols' own functions.
pub fn measure(protocol: Protocol, lifter: &Lifter, feeding: &Feeding, data: &Path) -> Result<Figures> {
    let config = windowed(lifter)?;
    let asking =
        Asking { n_frames: config.n_frames, dim_in: config.dim_in, flip: feeding.flip, batch: BATCH, root_relative: feeding.root_relative };
    match protocol {
        Protocol::H36m => {
            let set = MotionBert::open(&file(data, H36M_FILE)?, Half::Test)?;
            Ok(Figures::H36m(evaluate_h36m(&set, &asking, frame_predictor(lifter, feeding.normalisation)?)?))
        }
        Protocol::H36mPlain => {
            let set = MotionBert::open(&file(data, H36M_FILE)?, Half::Test)?.evaluation_set()?;
            let windowing = Windowing {
                dim_in: config.dim_in,
                normalisation: feeding.normalisation,
                fps: (f64::from(feeding.fps) != datasets::motion_bert::FPS).then(|| f64::from(feeding.fps)),
                flip: feeding.flip,
                batch: BATCH,
                ..Windowing::new(config.n_frames)
            };
            let report = evaluate(&set, &windowing, |input, windows| Ok::<_, tch::TchError>(answer(lifter, config, input, windows)))?;
            Ok(Figures::Plain(report.mean(true).context("the set has no clips")?))
        }
        Protocol::Mpi3dhp => {
            let set = Mpi3dhp::open_test(&file(data, MPI_INF_3DHP_TEST_FILE)?)?;
            let predict = frame_predictor(lifter, feeding.normalisation)?;
            Ok(Figures::Mpi3dhp(match feeding.joints {
                Joints::Mpi3dhp => evaluate_3dhp(&set, &asking, predict)?,
                Joints::H36m => evaluate_3dhp(&set, &asking, in_h36m_order(predict, config.dim_in))?,
            }))
        }
        Protocol::Report => {
            let options = ClipOptions { dim_in: config.dim_in, root_relative: false, ..ClipOptions::evaluation() };
            let source = report_clips(data, config.n_frames, options)?;
            let image_space_error_px = original_report_px(&*source, BATCH, frame_predictor(lifter, feeding.normalisation)?)?;
            Ok(Figures::Report { clips: source.len(), image_space_error_px })
        }
    }
}

/// `data` itself, or the file of that name in the folder `data`.
///
/// # Errors
/// Neither is there.
pub fn file(data: &Path, name: &str) -> Result<PathBuf> {
    let path = if data.is_dir() { data.join(name) } else { data.to_owned() };
    ensure!(path.is_file(), "{}: no such file; --data names {name} or the folder that holds it", path.display());
    Ok(path)
}

/// The test clips of a clip folder, or of the pickle that clip folders are made of.
fn report_clips(data: &Path, n_frames: usize, options: ClipOptions) -> Result<Box<dyn SampleSource>> {
    let holds_clips = |folder: &Path| {
        let mut files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        files.any(|path| path.extension().is_some_and(|e| e == "pkl") && path.file_name().is_none_or(|name| name != H36M_FILE))
    };
    if data.is_dir() && !data.join(H36M_FILE).is_file() {
        let test = data.join("test");
        let folder = if test.is_dir() { test } else { data.to_owned() };
        ensure!(
            holds_clips(&folder),
            "{}: there is neither {H36M_FILE} nor a folder `test` with clips such as 00000000.pkl",
            data.display()
        );
        let clips = ClipFolder::open(&folder, options)?;
        ensure!(
            clips.frames() == n_frames,
            "{}: the clips have {} frames, the model takes {n_frames}: use the folder H36M-{n_frames}",
            folder.display(),
            clips.frames()
        );
        return Ok(Box::new(clips));
    }
    let set = Arc::new(MotionBert::open(&file(data, H36M_FILE)?, Half::Test)?);
    Ok(Box::new(MotionBertClips::new(set, n_frames, Some(n_frames), options)?))
}

/// The protocols of the field cut clips into windows and look at them from both ends.
fn windowed(lifter: &Lifter) -> Result<&LifterConfig> {
    lifter
        .config
        .windowed()
        .context("the model is of the live family: measure it with --protocol mocap, the others are for models of windows")
}

/// Network output (B, T, 17, 3) for network input (B, T, 17, dim_in), B = `clips`.
fn answer(lifter: &Lifter, config: &LifterConfig, input: &[f32], clips: usize) -> Vec<f32> {
    let x = lifter.tensor(input, [clips, config.n_frames, JOINTS, config.dim_in]);
    values(&lifter.predict(&x, false).to_device(tch::Device::Cpu).to_kind(tch::Kind::Float))
}

/// A predictor whose input and output are in units of the frame (x / W * 2 - 1), whatever the model itself is fed with.
///
/// # Errors
/// A model that does not take windows.
pub fn frame_predictor(
    lifter: &Lifter,
    normalisation: Normalisation,
) -> Result<impl FnMut(&[f32], usize) -> Result<Vec<f32>, pose::Error> + '_> {
    let config = windowed(lifter)?;
    Ok(move |input: &[f32], clips: usize| match normalisation {
        Normalisation::Frame => Ok(answer(lifter, config, input, clips)),
        Normalisation::PersonBox => {
            let (frames, dim_in) = (config.n_frames, config.dim_in);
            let (mut boxed, mut half_sizes) = (Vec::with_capacity(input.len()), Vec::with_capacity(clips));
            for clip in input.chunks_exact(frames * JOINTS * dim_in) {
                let keypoints = keypoints(clip, dim_in);
                let transform = ImageTransform::person_box(&keypoints)?;
                boxed.extend(normalise::network_input(&keypoints, &transform, dim_in)?);
                half_sizes.push(transform.half_size_px / HALF_WIDTH_PX);
            }
            let mut output = answer(lifter, config, &boxed, clips);
            for (values, half_size) in output.chunks_exact_mut(frames * JOINTS * 3).zip(half_sizes) {
                values.iter_mut().for_each(|value| *value *= half_size);
            }
            Ok(output)
        }
    })
}

/// Any width serves: boxes only need some pixels to be measured in.
const HALF_WIDTH_PX: f32 = 500.0;

/// (T, 17, dim_in) in units of the frame as keypoints of a frame 1000 px wide; without confidences they are sure.
fn keypoints(clip: &[f32], dim_in: usize) -> Vec<Keypoints17> {
    let joint = |k: &[f32]| Keypoint::new(k[0] * HALF_WIDTH_PX, k[1] * HALF_WIDTH_PX, k.get(2).map_or(1.0, |c| c.clamp(0.0, 1.0)));
    clip.chunks_exact(JOINTS * dim_in)
        .map(|frame| {
            let mut joints = frame.chunks_exact(dim_in).map(joint);
            std::array::from_fn(|_| joints.next().unwrap_or(Keypoint::MISSING))
        })
        .collect()
}

/// A predictor of 3DHP's joints made of one that takes (B, T, 17, dim_in) and gives (B, T, 17, 3) in Human3.6M's order.
pub fn in_h36m_order<E>(
    mut predict: impl FnMut(&[f32], usize) -> Result<Vec<f32>, E>,
    dim_in: usize,
) -> impl FnMut(&[f32], usize) -> Result<Vec<f32>, E> {
    move |input, clips| Ok(reorder(&predict(&reorder(input, dim_in, &MPI_INF_3DHP), clips)?, 3, &inverse(&MPI_INF_3DHP)))
}

/// Values (..., 17, channels) with joint `j` taken from joint `order[j]`.
pub fn reorder(values: &[f32], channels: usize, order: &[usize; JOINTS]) -> Vec<f32> {
    let frames = values.chunks_exact(JOINTS * channels);
    frames.flat_map(|frame| order.iter().flat_map(|&j| &frame[j * channels..][..channels])).copied().collect()
}

/// The order that undoes an order.
fn inverse(order: &[usize; JOINTS]) -> [usize; JOINTS] {
    let mut inverse = [0; JOINTS];
    order.iter().enumerate().for_each(|(to, &from)| inverse[from] = to);
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joints_are_put_in_order_and_back() {
        let values: Vec<f32> = (0..2 * JOINTS * 3).map(|v| v as f32).collect();
        let there = reorder(&values, 3, &MPI_INF_3DHP);
        assert_eq!(there[..3], [42.0, 43.0, 44.0], "the hip is 3DHP's joint 14");
        assert_eq!(reorder(&there, 3, &inverse(&MPI_INF_3DHP)), values);
    }

    #[test]
    fn every_protocol_is_in_the_table() {
        let table = Protocol::table();
        assert!(Protocol::ALL.iter().all(|p| table.contains(p.comparable_with()) && table.contains(p.not_with())));
    }
}
