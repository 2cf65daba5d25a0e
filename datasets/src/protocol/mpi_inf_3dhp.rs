//! MPI-INF-3DHP.

use pose::metrics::{self, Pose};
use pose::{JOINTS, Pose3};
use serde::Serialize;

use super::{Asking, VALUES, ask};
use crate::Error;
use crate::clip_options::with_channels;
use crate::mpi_inf_3dhp::{Mpi3dhp, ORDER, ROOT, SCORED_JOINTS, Sequence};

/// A joint nearer than this to its target is correct.
const PCK_MM: f64 = 150.0;

/// Figures on the test set, over the frames that it counts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report3dhp {
    /// Frames.
    pub frames: usize,
    /// MPJPE of all 17 joints, relative to joint 14, mm.
    pub mpjpe_mm: f64,
    /// P-MPJPE of all 17 joints, mm. No part of the published protocol.
    pub p_mpjpe_mm: f64,
    /// Joints 0 to 13 that are strictly within 150 mm, %.
    pub pck_percent: f64,
    /// Mean of PCK over 0, 5, ..., 150 mm, joints 0 to 13, %.
    pub auc_percent: f64,
    /// Each sequence.
    pub sequences: Vec<SequenceFigures>,
}

/// One test sequence.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SequenceFigures {
    /// Such as `TS3`.
    pub name: String,
    /// Frames that count.
    pub frames: usize,
    /// MPJPE, mm.
    pub mpjpe_mm: f64,
    /// %.
    pub pck_percent: f64,
    /// %.
    pub auc_percent: f64,
}

impl Sequence {
    /// The window of `n_frames` (odd) around a frame, ends repeated: the test's input for that frame, (T, 17, 3).
    pub fn window(&self, frame: usize, n_frames: usize) -> Vec<f32> {
        let (pad, last) = (n_frames / 2, self.frames() - 1);
        self.input((0..n_frames).map(|k| (frame + k).saturating_sub(pad).min(last)))
    }
}

/// The published protocol: one edge-padded window for each counted frame, of which the middle is measured; values times half the
/// picture's width are mm; joint 14 is the root of both.
///
/// `predict` gets (B, T, 17, dim_in) values in the order of [`Mpi3dhp::valid_frames`] and B, and returns (B, T, 17, 3), the joints
/// in 3DHP's order; with `asking.flip` it is asked a second time for each batch, with the mirrored input.
///
/// # Errors
/// Options out of range, an even number of frames, a set that counts no frame (the training file), a predictor that fails or returns
/// another number of values.
pub fn evaluate_3dhp<E>(
    set: &Mpi3dhp,
    asking: &Asking,
    mut predict: impl FnMut(&[f32], usize) -> Result<Vec<f32>, E>,
) -> Result<Report3dhp, Error>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    asking.validate()?;
    if asking.n_frames.is_multiple_of(2) {
        return Err(Error::options(format!(
            "n_frames is {}: the 3DHP protocol measures the middle frame, expected an odd number",
            asking.n_frames
        )));
    }
    let frames = set.valid_frames();
    if frames.is_empty() {
        return Err(Error::content(set.path(), "counts no frame as valid: expected the test file"));
    }
    let middle = asking.n_frames / 2;
    let mut errors: Vec<Vec<[f64; JOINTS]>> = vec![Vec::new(); set.sequences().len()];
    let mut p_mpjpe_mm = 0.0;
    for batch in frames.chunks(asking.batch) {
        let window = |&(s, t): &(usize, usize)| with_channels(set.sequences()[s].window(t, asking.n_frames), asking.dim_in);
        let input: Vec<f32> = batch.iter().flat_map(window).collect();
        let output = ask(asking, &ORDER, &input, batch.len(), &mut predict)?;
        for (&(s, t), values) in batch.iter().zip(output.chunks_exact(asking.n_frames * VALUES)) {
            let sequence = &set.sequences()[s];
            let half_width = f64::from(sequence.image.width_px) / 2.0;
            let values = &values[middle * VALUES..][..VALUES];
            let pred: Pose<f64> =
                std::array::from_fn(|j| std::array::from_fn(|c| if j == ROOT { 0.0 } else { f64::from(values[3 * j + c]) * half_width }));
            let target = rooted(&sequence.camera_mm(t));
            p_mpjpe_mm += metrics::p_mpjpe_mm(&[pred], &[target]);
            errors[s].push(metrics::joint_errors(&pred, &target));
        }
    }
    let sequences = set.sequences().iter().zip(&errors).filter(|(_, errors)| !errors.is_empty());
    let sequences = sequences.map(|(sequence, errors)| {
        let Scores { mpjpe_mm, pck_percent, auc_percent } = Scores::of(errors);
        SequenceFigures { name: sequence.name.clone(), frames: errors.len(), mpjpe_mm, pck_percent, auc_percent }
    });
    let sequences = sequences.collect();
    let Scores { mpjpe_mm, pck_percent, auc_percent } = Scores::of(&errors.concat());
    Ok(Report3dhp { frames: frames.len(), mpjpe_mm, p_mpjpe_mm: p_mpjpe_mm / frames.len() as f64, pck_percent, auc_percent, sequences })
}

fn rooted(pose: &Pose3) -> Pose<f64> {
    pose.map(|p| std::array::from_fn(|c| f64::from(p[c]) - f64::from(pose[ROOT][c])))
}

/// The three published figures.
struct Scores {
    mpjpe_mm: f64,
    pck_percent: f64,
    auc_percent: f64,
}

impl Scores {
    fn of(errors_mm: &[[f64; JOINTS]]) -> Self {
        let scored: Vec<f64> = errors_mm.iter().flat_map(|frame| &frame[SCORED_JOINTS]).copied().collect();
        Self {
            mpjpe_mm: errors_mm.as_flattened().iter().sum::<f64>() / (errors_mm.len() * JOINTS) as f64,
            pck_percent: 100.0 * metrics::pck(&scored, PCK_MM),
            auc_percent: 100.0 * metrics::auc_3dhp(&scored),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_those_of_the_golden_errors() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/metrics");
        let errors = formats::npy::read(format!("{golden}/p3dhp_joint_errors_mm.npy").as_ref()).unwrap().to_f64();
        let expected: serde_json::Value = serde_json::from_slice(&std::fs::read(format!("{golden}/expected.json")).unwrap()).unwrap();
        let scores = Scores::of(errors.as_chunks::<JOINTS>().0);
        for (found, expected) in [
            (scores.mpjpe_mm, &expected["mpjpe_3dhp_17"]),
            (scores.pck_percent, &expected["pck150_percent"]["Total"]),
            (scores.auc_percent, &expected["auc_percent"]["Total"]),
        ] {
            assert!((found - expected.as_f64().unwrap()).abs() < 1e-9, "{found} is not {expected}");
        }
    }
}
