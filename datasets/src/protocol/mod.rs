//! The evaluation protocols of the field, each named for what it is. Only numbers of one protocol may be compared with each other.
//!
//! | function | who reports it | what it is |
//! |---|---|---|
//! | [`evaluate_h36m`] | MotionBERT, MotionAGFormer, PoseMamba, TCPFormer | standard Human3.6M: true scale of each frame given ("oracle"), three takes left out, tails of videos left out, mean over actions |
//! | [`crate::evaluate`] on [`crate::MotionBert::evaluation_set`] | nobody yet | plain: every frame of every video, scale from an assumed height, mean over frames |
//! | [`evaluate_3dhp`] | MotionAGFormer, P-STMO, TCPFormer | MPI-INF-3DHP: MPJPE rooted at joint 14, PCK, AUC |
//! | [`original_report_px`] | the original MambaGCN report, as "MPJPE" in "mm" | image-space error in pixels of a 1000-px frame, root not removed; no millimetres at all |
//!
//! The CPN lineage (VideoPose3D, MixSTE, KTPFormer) regresses metric joints without confidences or the oracle scale: compare its
//! numbers with none of these.
//!
//! A predictor is a function from network inputs, (B, T, 17, dim_in) row-major, and B, to network outputs, (B, T, 17, 3).

mod h36m;
mod mpi_inf_3dhp;

use pose::JOINTS;

use crate::Error;
use crate::clip_options::JointOrder;
use crate::sample::SampleSource;

pub use h36m::{ActionFigures, EXCLUDED_TAKES, H36mReport, evaluate_h36m};
pub use mpi_inf_3dhp::{Report3dhp, SequenceFigures, evaluate_3dhp};

/// Values of a pose.
const VALUES: usize = JOINTS * 3;

/// How a predictor is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asking {
    /// Frames of a clip, T.
    pub n_frames: usize,
    /// 3 (x, y, confidence) or 2 (x, y).
    pub dim_in: usize,
    /// Whether predictions are averaged with those for the mirrored input, as the published figures are.
    pub flip: bool,
    /// Largest B.
    pub batch: usize,
    /// Whether the model was trained on root-relative labels: [`evaluate_h36m`] then takes its root for 0 before it is subtracted,
    /// as the references do. Not so for the original MambaGCN. 3DHP always takes it for 0.
    pub root_relative: bool,
}

impl Asking {
    /// Clips of `n_frames`, x, y and confidence, flip averaging, 32 clips at once, root-relative.
    pub fn new(n_frames: usize) -> Self {
        Self { n_frames, dim_in: 3, flip: true, batch: 32, root_relative: true }
    }

    fn validate(&self) -> Result<(), Error> {
        if !(1..=1 << 16).contains(&self.n_frames) || !matches!(self.dim_in, 2 | 3) || self.batch == 0 {
            return Err(Error::options(format!(
                "n_frames is {}, dim_in {} and batch {}: expected 1 to 65536, 2 or 3, and at least 1",
                self.n_frames, self.dim_in, self.batch
            )));
        }
        Ok(())
    }
}

/// The predictor's answer for B clips, averaged with the one for the mirrored input where that is asked for.
fn ask<E>(
    asking: &Asking,
    joints: &JointOrder,
    input: &[f32],
    clips: usize,
    predict: &mut impl FnMut(&[f32], usize) -> Result<Vec<f32>, E>,
) -> Result<Vec<f32>, Error>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut answer = |input: &[f32]| -> Result<Vec<f32>, Error> {
        let output = predict(input, clips).map_err(|e| Error::Predictor(e.into()))?;
        let expected = clips * asking.n_frames * VALUES;
        if output.len() != expected {
            let problem = format!("{} values came back for {clips} clips of {} frames: expected {expected}", output.len(), asking.n_frames);
            return Err(Error::Predictor(problem.into()));
        }
        Ok(output)
    };
    let mut output = answer(input)?;
    if asking.flip {
        let mirrored = joints.flip(&answer(&joints.flip(input, asking.dim_in))?, 3);
        output.iter_mut().zip(mirrored).for_each(|(a, b)| *a = (*a + b) / 2.0);
    }
    Ok(output)
}

/// The original MambaGCN report's "MPJPE": the mean of |500 (p - y)| over all joints, in normalised image units. Pixels of a frame
/// 1000 px wide, x, y and z alike; the root is not removed and no millimetre is involved. The same predictions measure about six
/// times as much in the standard protocol.
///
/// `prediction` and `label` are (..., 17, 3) row-major of the same length, the label not root-relative. NaN for no values.
///
/// # Panics
/// When the lengths differ.
pub fn image_space_error_px(prediction: &[f32], label: &[f32]) -> f64 {
    assert_eq!(prediction.len(), label.len(), "predictions and labels must be of the same joints");
    let distance = |(p, y): (&[f32; 3], &[f32; 3])| (0..3).map(|c| (500.0 * f64::from(p[c] - y[c])).powi(2)).sum::<f64>().sqrt();
    let pairs = prediction.as_chunks::<3>().0.iter().zip(label.as_chunks::<3>().0);
    pairs.map(distance).sum::<f64>() / (prediction.len() / 3) as f64
}

/// [`image_space_error_px`] over all samples of a set, as that report has it: every clip, no exclusions, no flip averaging.
///
/// Open the set with labels that are not root-relative and without flips ([`crate::ClipOptions`]).
///
/// # Errors
/// A sample that cannot be made, a predictor that fails or returns another number of values.
pub fn original_report_px<E>(
    source: &dyn SampleSource,
    batch: usize,
    mut predict: impl FnMut(&[f32], usize) -> Result<Vec<f32>, E>,
) -> Result<f64, Error>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let indices: Vec<usize> = (0..source.len()).collect();
    let asking = Asking { n_frames: source.frames(), dim_in: source.dim_in(), flip: false, batch: batch.max(1), root_relative: false };
    let mut sum = 0.0;
    for indices in indices.chunks(asking.batch) {
        let samples = source.batch(0, indices)?;
        let output = ask(&asking, &crate::clip_options::H36M, &samples.input, indices.len(), &mut predict)?;
        sum += image_space_error_px(&output, &samples.label) * indices.len() as f64;
    }
    Ok(sum / source.len() as f64)
}
