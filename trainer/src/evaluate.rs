//! A lifter's figures on motion capture.

use anyhow::Result;
use datasets::{CausalFeeding, EvaluationSet, LinearRegression, MeanPose, Report, SampleSource, Windowing, evaluate, evaluate_causal};
use network::{Context, LiveConfig};
use serde::Serialize;

use crate::{model::Lifter, weights::values};

/// Measures a lifter on every frame of a set.
///
/// # Errors
/// See [`datasets::evaluate`].
pub fn evaluate_lifter(lifter: &Lifter, set: &EvaluationSet, windowing: &Windowing) -> Result<Report> {
    let (frames, dim_in) = (windowing.n_frames, windowing.dim_in);
    let report = evaluate(set, windowing, |input, windows| -> Result<Vec<f32>, tch::TchError> {
        let x = lifter.tensor(input, [windows, frames, pose::JOINTS, dim_in]);
        Ok(values(&lifter.predict(&x, false).to_device(tch::Device::Cpu).to_kind(tch::Kind::Float)))
    })?;
    Ok(report)
}

/// Measures a live lifter on every frame of a set, as a stream: one report for each of its look-aheads.
///
/// # Errors
/// See [`datasets::evaluate_causal`].
pub fn evaluate_live(lifter: &Lifter, live: &LiveConfig, set: &EvaluationSet, feeding: &CausalFeeding) -> Result<Vec<Report>> {
    let reports = evaluate_causal(set, feeding, &live.look_aheads, |input, frames| -> Result<Vec<Vec<f32>>, tch::TchError> {
        let x = lifter.tensor(input, [1, frames, pose::JOINTS, feeding.dim_in]);
        let all = tch::no_grad(|| lifter.forward(&x, &Context::EVALUATION)).to_device(tch::Device::Cpu).to_kind(tch::Kind::Float);
        Ok((0..live.look_aheads.len()).map(|index| values(&all.narrow(-1, 3 * index as i64, 3).contiguous())).collect())
    })?;
    Ok(reports)
}

/// A predictor's figures with its name.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Who predicts.
    pub predictor: String,
    /// What came out.
    #[serde(flatten)]
    pub report: Report,
}

/// The better, figure by figure, of the two constant poses. See [`MeanPose`].
///
/// # Errors
/// See [`MeanPose::fit`] and [`MeanPose::report`].
pub fn evaluate_mean_pose(source: &dyn SampleSource, set: &EvaluationSet, windowing: &Windowing) -> Result<Report> {
    Ok(MeanPose::fit(source, MeanPose::SAMPLES)?.report(set, windowing)?)
}

/// The linear regression from the same windows.
///
/// # Errors
/// See [`LinearRegression::fit`] and [`LinearRegression::report`].
pub fn evaluate_linear_regression(source: &dyn SampleSource, set: &EvaluationSet, windowing: &Windowing) -> Result<Report> {
    Ok(LinearRegression::fit(source, LinearRegression::samples(source))?.report(set, windowing)?)
}
