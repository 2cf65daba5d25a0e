//! What a lifter must beat: a constant pose, and a linear regression from the same input. Both are fitted on training samples and
//! predict (T, 17, 3) as a lifter does.

use nalgebra::{DMatrix, DVector, Matrix3, Vector3};
use pose::{JOINTS, Pose3};
use rayon::prelude::*;

use crate::Error;
use crate::cholesky::Factors;
use crate::evaluation::{EvaluationSet, Report, Windowing, evaluate};
use crate::sample::SampleSource;

/// Values of a 2.5D pose.
const VALUES: usize = JOINTS * 3;
/// Rows that are gathered before they enter the normal equations: large enough for a fast product, small in memory.
const CHUNK: usize = 256;

/// Calls `each` with the chunks of the first `samples` samples that training would draw: of epoch 0, then 1, ... in their order.
///
/// `each` gets the inputs (rows of T * 17 * dim_in values) and labels (rows of T * 17 * 3) of up to [`CHUNK`] samples.
fn for_each_chunk(source: &dyn SampleSource, samples: usize, mut each: impl FnMut(&[Vec<f32>], &[Vec<f32>])) -> Result<(), Error> {
    if source.is_empty() || samples == 0 {
        return Err(Error::options("a baseline needs at least one training sample"));
    }
    let draws = (0..).flat_map(|epoch| source.order(epoch).into_iter().map(move |index| (epoch, index)));
    let draws: Vec<(u64, usize)> = draws.take(samples).collect();
    for chunk in draws.chunks(CHUNK) {
        let drawn: Result<Vec<_>, Error> = chunk.par_iter().map(|&(epoch, index)| source.sample(epoch, index)).collect();
        let (inputs, labels): (Vec<_>, Vec<_>) = drawn?.into_iter().map(|sample| (sample.input, sample.label)).unzip();
        each(&inputs, &labels);
    }
    Ok(())
}

/// The best constant poses, root-relative 2.5D.
///
/// One constant cannot be the strongest by every figure. Seen by random cameras, the mean of the labels is an upright stick, for left and
/// right cancel: it is the best constant for errors in the camera's own axes, and a poor one for P-MPJPE, where any orientation is free. There
/// the strongest constant is the mean of the poses after each has been aligned with it (generalised Procrustes): a person who stands.
/// So both are fitted, and "the mean pose" in a figure is the better of the two by that figure.
#[derive(Clone, Debug, PartialEq)]
pub struct MeanPose {
    /// Mean of the training labels.
    pub label: Pose3,
    /// Mean of the training labels after alignment by rotation and scale, as seen from the front on average.
    pub aligned: Pose3,
}

impl MeanPose {
    /// Samples that a mean pose is fitted on when nothing else is said.
    pub const SAMPLES: usize = 4000;
    /// Rounds of alignment: the mean has settled long before.
    const ROUNDS: usize = 8;

    /// Fits both means on the first `samples` training samples.
    ///
    /// # Errors
    /// An empty data set, or a sample that cannot be made.
    pub fn fit(source: &dyn SampleSource, samples: usize) -> Result<Self, Error> {
        let mut sum = [[0.0_f64; 3]; JOINTS];
        let mut count = 0_usize;
        let mut poses: Vec<Pose3> = Vec::new(); // one per sample: the frames of a clip are much alike
        for_each_chunk(source, samples, |_, labels| {
            for frame in labels.iter().flat_map(|label| label.as_chunks::<VALUES>().0) {
                for (total, &value) in sum.as_flattened_mut().iter_mut().zip(frame) {
                    *total += f64::from(value);
                }
                count += 1;
            }
            poses.extend(labels.iter().filter_map(|label| pose_of(&label.as_chunks::<VALUES>().0[label.len() / VALUES / 2])));
        })?;
        let label = sum.map(|joint| joint.map(|v| (v / count as f64) as f32));
        Ok(Self { label, aligned: aligned_mean(&poses, Self::ROUNDS) })
    }

    /// The figures of "the mean pose": for each the better of the two. A constant depends on no window and on no flip.
    ///
    /// # Errors
    /// As [`evaluate`].
    pub fn report(&self, set: &EvaluationSet, windowing: &Windowing) -> Result<Report, Error> {
        let windowing = Windowing { flip: false, ..*windowing };
        let constant =
            |pose: &Pose3| evaluate(set, &windowing, |_, windows| Ok::<_, Error>(Self::predict(pose, windows * windowing.n_frames)));
        Ok(constant(&self.label)?.least(&constant(&self.aligned)?))
    }

    /// A constant as the prediction for `frames` frames (over all windows): (frames, 17, 3) row-major.
    pub fn predict(pose: &Pose3, frames: usize) -> Vec<f32> {
        pose.as_flattened().repeat(frames)
    }
}

fn pose_of(values: &[f32; VALUES]) -> Option<Pose3> {
    pose::poses_from_values(values).ok()?.first().copied()
}

/// Generalised Procrustes mean: each pose turned and scaled to fit the mean, then the mean of those, some rounds of it. Root-relative.
fn aligned_mean(poses: &[Pose3], rounds: usize) -> Pose3 {
    let centred = |pose: &Pose3| {
        let joints = pose.map(|p| Vector3::from(p).cast::<f64>());
        let centre = joints.iter().sum::<Vector3<f64>>() / JOINTS as f64;
        let shifted = joints.map(|p| p - centre);
        let size = shifted.iter().map(Vector3::norm_squared).sum::<f64>().sqrt().max(1e-12);
        (shifted.map(|p| p / size), size)
    };
    let (shapes, sizes): (Vec<_>, Vec<_>) = poses.iter().map(centred).unzip();
    let mut mean = shapes[0];
    for _ in 0..rounds {
        let mut sum = [Vector3::zeros(); JOINTS];
        for shape in &shapes {
            let turn = rotation_onto(shape, &mean);
            (0..JOINTS).for_each(|j| sum[j] += turn * shape[j]);
        }
        let size = sum.iter().map(Vector3::norm_squared).sum::<f64>().sqrt();
        mean = sum.map(|p| p / size);
    }
    let size = sizes.iter().sum::<f64>() / sizes.len() as f64;
    mean.map(|p| ((p - mean[0]) * size).cast::<f32>().into())
}

/// The rotation that fits `from` onto `to` best, both centred (Kabsch).
fn rotation_onto(from: &[Vector3<f64>; JOINTS], to: &[Vector3<f64>; JOINTS]) -> Matrix3<f64> {
    let covariance: Matrix3<f64> = from.iter().zip(to).map(|(a, b)| b * a.transpose()).sum();
    let svd = covariance.svd(true, true);
    let (Some(u), Some(v_t)) = (svd.u, svd.v_t) else { return Matrix3::identity() };
    let handed = Matrix3::from_diagonal(&Vector3::new(1.0, 1.0, (u * v_t).determinant().signum()));
    u * handed * v_t
}

/// Ridge regression from all values of a window's input to the 2.5D of each of its frames.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearRegression {
    /// (T * 17 * 3, T * 17 * dim_in)
    weights: DMatrix<f32>,
    /// (T * 17 * 3): the prediction for the mean input less what the weights make of it.
    bias: DVector<f32>,
    /// The penalty that was best on held-out samples, as a share of the features' mean variance.
    pub penalty: f64,
}

impl LinearRegression {
    /// Values of a window that a regression is fitted for at most; the work grows with their square.
    pub const LARGEST_WINDOW: usize = 6000;
    /// Samples per value of the window that make a regression about as good as it gets.
    const SAMPLES_PER_VALUE: usize = 12;
    /// Penalties to choose from.
    const PENALTIES: [f64; 4] = [1e-2, 3e-2, 1e-1, 3e-1];
    /// One chunk in so many is held out to choose the penalty.
    const HELD_OUT: usize = 8;

    /// Samples to fit on when nothing else is said: enough that more would hardly help.
    pub fn samples(source: &dyn SampleSource) -> usize {
        (Self::SAMPLES_PER_VALUE * source.frames() * JOINTS * source.dim_in()).max(2 * CHUNK)
    }

    /// Fits on the first `samples` training samples; the penalty is chosen on an eighth of them that is held out.
    ///
    /// # Errors
    /// An empty data set, a sample that cannot be made, fewer than 512 samples, windows of more than [`Self::LARGEST_WINDOW`] values.
    pub fn fit(source: &dyn SampleSource, samples: usize) -> Result<Self, Error> {
        if samples < 2 * CHUNK {
            return Err(Error::options(format!("a linear regression is fitted on {samples} samples: expected at least {}", 2 * CHUNK)));
        }
        let values = source.frames() * JOINTS * source.dim_in();
        if values > Self::LARGEST_WINDOW {
            let largest = Self::LARGEST_WINDOW;
            return Err(Error::options(format!(
                "a linear regression takes windows of up to {largest} values, these have {values}: compare shorter windows"
            )));
        }
        let mut sums: Option<Moments> = None;
        let mut held_out = Vec::new();
        let mut chunk = 0;
        for_each_chunk(source, samples, |inputs, labels| {
            let (x, y) = (rows(inputs), rows(labels));
            if chunk % Self::HELD_OUT == 1 {
                held_out.push((x, y));
            } else {
                sums.get_or_insert_with(|| Moments::new(x.ncols(), y.ncols())).add(&x, &y);
            }
            chunk += 1;
        })?;
        let Some(moments) = sums else { return Err(Error::options("a baseline needs at least one training sample")) };
        let moments = moments.centred();

        let middle = source.frames() / 2 * VALUES;
        let mut best: Option<(f64, f64, Factors)> = None;
        for penalty in Self::PENALTIES {
            let Some(factors) = moments.factors(penalty) else { continue };
            let weights = factors.solve(&moments.xy.columns(middle, VALUES).into_owned());
            let error =
                held_out.iter().map(|(x, y)| moments.error(x, &y.columns(middle, VALUES).into_owned(), &weights, middle)).sum::<f64>();
            if best.as_ref().is_none_or(|(least, ..)| error < *least) {
                best = Some((error, penalty, factors));
            }
        }
        let Some((_, penalty, factors)) = best else {
            return Err(Error::options("the linear regression has no solution: are the inputs finite?"));
        };
        let weights = factors.solve(&moments.xy);
        let bias = &moments.y_mean - weights.tr_mul(&moments.x_mean);
        Ok(Self { weights: weights.transpose().cast(), bias: bias.cast(), penalty })
    }

    /// The figures of the regression, through the windows that a lifter gets.
    ///
    /// # Errors
    /// As [`evaluate`], and windows of another size than it was fitted on.
    pub fn report(&self, set: &EvaluationSet, windowing: &Windowing) -> Result<Report, Error> {
        evaluate(set, windowing, |input, _| self.predict(input))
    }

    /// Predictions for windows of (B, T, 17, dim_in) values: (B, T, 17, 3) row-major.
    ///
    /// # Errors
    /// An input of other windows than it was fitted on.
    pub fn predict(&self, input: &[f32]) -> Result<Vec<f32>, Error> {
        let features = self.weights.ncols();
        if !input.len().is_multiple_of(features) {
            return Err(Error::options(format!("the regression takes windows of {features} values, found {}", input.len())));
        }
        // The rows of B windows, row-major, are the columns of a column-major matrix.
        let windows = nalgebra::DMatrixView::from_slice(input, features, input.len() / features);
        let mut predicted = &self.weights * windows;
        for mut column in predicted.column_iter_mut() {
            column += &self.bias;
        }
        Ok(predicted.as_slice().to_vec())
    }
}

fn rows(values: &[Vec<f32>]) -> DMatrix<f32> {
    let columns = values.first().map_or(0, Vec::len);
    DMatrix::from_row_iterator(values.len(), columns, values.iter().flatten().copied())
}

/// Sums over samples of x x^T, x y^T, x, y; then, centred, their means about the means.
struct Moments {
    samples: usize,
    xx: DMatrix<f64>,
    xy: DMatrix<f64>,
    x_mean: DVector<f64>,
    y_mean: DVector<f64>,
}

impl Moments {
    fn new(inputs: usize, outputs: usize) -> Self {
        Self {
            samples: 0,
            xx: DMatrix::zeros(inputs, inputs),
            xy: DMatrix::zeros(inputs, outputs),
            x_mean: DVector::zeros(inputs),
            y_mean: DVector::zeros(outputs),
        }
    }

    /// Adds samples as rows. Their products are summed in f32 within a chunk, which is twice as fast, and in f64 over chunks.
    fn add(&mut self, x: &DMatrix<f32>, y: &DMatrix<f32>) {
        self.samples += x.nrows();
        let Self { xx, xy, .. } = self;
        let add = |sum: &mut DMatrix<f64>, product: DMatrix<f32>| sum.zip_apply(&product, |s, p| *s += f64::from(p));
        let x_t = x.transpose(); // the library's product of a transposed matrix is a slow one
        rayon::join(|| add(xx, &x_t * x), || add(xy, &x_t * y));
        self.x_mean += x.map(f64::from).row_sum_tr();
        self.y_mean += y.map(f64::from).row_sum_tr();
    }

    fn centred(mut self) -> Self {
        let n = self.samples as f64;
        self.x_mean /= n;
        self.y_mean /= n;
        self.xx.ger(-n, &self.x_mean, &self.x_mean, 1.0);
        self.xy.ger(-n, &self.x_mean, &self.y_mean, 1.0);
        self
    }

    /// Factors of x^T x plus the penalty, which is in units of the mean diagonal; `None` when it is not positive definite.
    fn factors(&self, penalty: f64) -> Option<Factors> {
        let mut matrix = self.xx.clone();
        let added = penalty * matrix.trace() / matrix.nrows() as f64;
        (0..matrix.nrows()).for_each(|i| matrix[(i, i)] += added);
        Factors::new(matrix)
    }

    /// Squared error of the outputs from column `first` on, over rows of samples.
    fn error(&self, x: &DMatrix<f32>, y: &DMatrix<f32>, weights: &DMatrix<f64>, first: usize) -> f64 {
        let mut difference = x.map(f64::from) * weights - y.map(f64::from);
        let shift = self.y_mean.rows(first, y.ncols()) - weights.tr_mul(&self.x_mean);
        for mut row in difference.row_iter_mut() {
            row += shift.transpose();
        }
        difference.norm_squared()
    }
}
