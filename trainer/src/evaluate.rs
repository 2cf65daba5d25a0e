//! A lifter's figures on motion capture.

use anyhow::Result;
use datasets::{CausalFeeding, EvaluationSet, LinearRegression, MeanPose, Report, SampleSource, Windowing, evaluate, evaluate_causal};
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

/// Measures a live lifter on every frame of a set, as a stream, with the look-ahead at `index` of those it has.
///
/// # Errors
/// See [`datasets::evaluate_causal`].
pub fn evaluate_live(lifter: &Lifter, set: &EvaluationSet, feeding: &CausalFeeding, index: usize) -> Result<Report> {
    let report = evaluate_causal(set, feeding, |input, frames| -> Result<Vec<f32>, tch::TchError> {
        let x = lifter.tensor(input, [1, frames, pose::JOINTS, feeding.dim_in]);
        Ok(values(&lifter.predict_ahead(&x, index, false).to_device(tch::Device::Cpu).to_kind(tch::Kind::Float)))
    })?;
    Ok(report)
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
