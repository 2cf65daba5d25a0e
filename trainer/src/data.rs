//! What a run learns from and is validated on, by the recipe's kind of data.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use datasets::{
    CausalFeeding, ClipFolder, ClipOptions, ClipSampler, EvaluationOptions, EvaluationSet, MocapSet, MotionBert, MotionBertClips, Mpi3dhp,
    Mpi3dhpClips, OwnClips, RecordedOptions, RecordedSampler, Report, Sample, SampleSource, Windowing, inspect,
    motion_bert::Half,
    protocol::{Asking, evaluate_3dhp, evaluate_h36m, original_report_px},
};
use pose::{JOINTS, Keypoint, joint_map::MPI_INF_3DHP, normalise::Normalisation};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use crate::{
    chart::Figure,
    evaluate::{evaluate_lifter, evaluate_live},
    model::Lifter,
    protocol::{H36M_FILE, MPI_INF_3DHP_TEST_FILE, MPI_INF_3DHP_TRAIN_FILE, file, frame_predictor, in_h36m_order, reorder},
    recipe::Recipe,
    weights::values,
};

/// Clips that are predicted at once in validation.
const BATCH: usize = 16;

/// A kind of training data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataKind {
    /// `mocap_train.npz` and `mocap_val.npz`, seen by random cameras.
    #[default]
    MotionCapture,
    /// The motion of VideoPose3D's `data_3d_h36m.npz`, seen by random cameras.
    #[serde(rename = "videopose3d")]
    VideoPose3d,
    /// MotionBERT's pickle: Human3.6M with a detector's keypoints.
    #[serde(rename = "motionbert")]
    MotionBert,
    /// `train/%08d.pkl`, as the references cut them from that pickle.
    ClipFolder,
    /// `data_train_3dhp.npz`, its joints put in Human3.6M's order.
    #[serde(rename = "mpi-inf-3dhp")]
    Mpi3dhp,
    /// A user's own clips: 2D with 3D, or several calibrated cameras.
    OwnClips,
}

impl DataKind {
    /// Recognises a set.
    ///
    /// # Errors
    /// Nothing there, nothing known, or a set that cannot be trained on as it is.
    pub fn of(path: &Path) -> Result<Self> {
        use inspect::Kind;
        let kind = Kind::of(path)?;
        Ok(match kind {
            Kind::MotionCapture => Self::MotionCapture,
            Kind::VideoPose3d => Self::VideoPose3d,
            Kind::MotionBert => Self::MotionBert,
            Kind::ClipFolder => Self::ClipFolder,
            Kind::Mpi3dhp => Self::Mpi3dhp,
            Kind::OwnClips => Self::OwnClips,
            Kind::Bvh | Kind::AsfAmc => {
                bail!("{}: it is of kind {}: make motion capture of it first, with trainer data convert", path.display(), kind.name())
            }
            Kind::Keypoints => bail!("{}: it has 2D keypoints alone: training needs the 3D joints too", path.display()),
        })
    }

    /// Whether random cameras look at motion; the others are clips that a camera has seen.
    pub const fn is_motion(self) -> bool {
        matches!(self, Self::MotionCapture | Self::VideoPose3d)
    }

    /// Who is held out for validation when the recipe names nobody.
    const fn held_out(self) -> &'static str {
        match self {
            Self::MotionBert => "s_08",
            _ => "S8",
        }
    }
}

/// Both sides of a run.
pub struct RunData {
    /// What it learns from.
    pub source: Arc<dyn SampleSource>,
    /// What chooses the checkpoint.
    pub validation: Validation,
}

/// What chooses the checkpoint.
pub struct Validation {
    measure: Measure,
    /// Clips to be looked at, and for [`Measure::Clips`] measured.
    clips: Arc<dyn SampleSource>,
    /// Who or what is in it, for the report.
    pub description: String,
    /// Whether it is a test set: the references' habit, which makes the best figure too good.
    pub is_test: bool,
}

enum Measure {
    MotionCapture(EvaluationSet),
    H36m(Arc<MotionBert>),
    Mpi3dhp(Arc<Mpi3dhp>),
    Clips,
}

/// One validation.
pub struct Validated {
    /// The checkpoint with the least of it is the best.
    pub error: f64,
    /// Its name in `figures`.
    pub chosen_by: &'static str,
    /// All figures, by names with units.
    pub figures: Json,
    /// Each camera, of motion capture.
    pub conditions: Option<Report>,
}

/// Opens what the recipe trains on in the folder (or file) `data`.
///
/// # Errors
/// Data that is absent, refused, too short for the model, or without anybody to validate on.
pub fn open(recipe: &Recipe, data: &Path) -> Result<RunData> {
    match recipe.data.kind {
        DataKind::MotionCapture if data.is_file() => one_file(recipe, MocapSet::open(data)?),
        DataKind::MotionCapture => {
            ensure!(data.is_dir(), "{}: no such folder; --data names the folder with mocap_train.npz and mocap_val.npz", data.display());
            let train = MocapSet::open(&data.join("mocap_train.npz"))?;
            let (name, is_test) = if recipe.data.validate_on_test { ("mocap_test.npz", true) } else { ("mocap_val.npz", false) };
            motion(recipe, train, MocapSet::open(&data.join(name))?, name.into(), is_test)
        }
        DataKind::VideoPose3d => {
            let set = inspect::open_video_pose_3d(data)?;
            let (held, is_test) = held_out(recipe, &["S9", "S11"]);
            let known: Vec<&str> = set.recordings().iter().map(|r| r.subject.as_str()).collect();
            let is_held = |name: &&str| held.iter().any(|h| h == name);
            ensure!(
                known.iter().any(&is_held),
                "{}: it has nobody of {} to validate on, but {}: name some in data.validation_subjects",
                data.display(),
                held.join(", "),
                held_names(&known)
            );
            // the test subjects are never trained on
            let train: Vec<&str> = known.iter().filter(|name| !is_held(name) && !["S9", "S11"].contains(name)).copied().collect();
            let held: Vec<&str> = known.iter().filter(|name| is_held(name)).copied().collect();
            motion(recipe, set.mocap(&train)?, set.mocap(&held)?, held_names(&held), is_test)
        }
        DataKind::MotionBert => motion_bert(recipe, data),
        DataKind::ClipFolder => clip_folder(recipe, data),
        DataKind::Mpi3dhp => mpi_inf_3dhp(recipe, data),
        DataKind::OwnClips => own_clips(recipe, data),
    }
}

/// Opens the base data of a fine-tuning: samples to be replayed (none of a single file of motion capture, which is watched as a whole) and
/// what is watched.
///
/// # Errors
/// As [`open`].
pub fn open_base(recipe: &Recipe, data: &Path) -> Result<(Option<Arc<dyn SampleSource>>, Validation)> {
    if recipe.data.kind == DataKind::MotionCapture && data.is_file() {
        return Ok((None, motion_validation(recipe, MocapSet::open(data)?, data.display().to_string(), false)?));
    }
    let RunData { source, validation } = open(recipe, data)?;
    Ok((Some(source), validation))
}

/// One file of motion capture: the takes or subjects that the recipe names are held out, or the last takes of the file.
fn one_file(recipe: &Recipe, all: MocapSet) -> Result<RunData> {
    let named = &recipe.data.validation_subjects;
    let held = if named.is_empty() {
        let names: Vec<(&str, usize)> = all.clips().iter().map(|clip| (clip.name.as_str(), clip.frames())).collect();
        last_takes(&names, recipe.data.validation_share)
    } else {
        all.clips().iter().filter(|clip| clip.is_named(named)).map(|clip| clip.name.clone()).collect()
    };
    let refuse = |what: &str| {
        let names = held_names(&all.clips().iter().map(|clip| clip.name.as_str()).collect::<Vec<_>>());
        anyhow!(
            "{}: no take is left to {what}; it has {names}: name other takes or subjects in data.validation_subjects",
            all.path().display()
        )
    };
    ensure!(!held.is_empty(), refuse("validate on"));
    let is_held = |name: &str| held.iter().any(|h| h == name);
    ensure!(all.clips().iter().any(|clip| !is_held(&clip.name)), refuse("train on"));
    let (train, val) = (all.of_clips(|clip| !is_held(&clip.name))?, all.of_clips(|clip| is_held(&clip.name))?);
    let description = held_names(&held.iter().map(String::as_str).collect::<Vec<_>>());
    motion(recipe, train, val, description, false)
}

/// A user's own clips: the folders `train` and `val`, or one folder of which the takes or subjects that the recipe names are held out, or the
/// last takes, or the end of the only take.
fn own_clips(recipe: &Recipe, data: &Path) -> Result<RunData> {
    let (named, share) = (&recipe.data.validation_subjects, recipe.data.validation_share);
    let [train, val] = ["train", "val"].map(|half| data.join(half));
    let (train, val, description) = if train.is_dir() && val.is_dir() {
        (OwnClips::open(&train)?, OwnClips::open(&val)?, "the folder val".to_owned())
    } else {
        let all = OwnClips::open(data)?;
        all.remarks().iter().for_each(|remark| tracing::info!("{remark}"));
        let held = if named.is_empty() {
            last_takes(&all.takes(), share)
        } else {
            all.clips().iter().filter(|clip| clip.is_named(named)).map(|clip| clip.take.clone()).collect()
        };
        let is_held = |take: &str| held.iter().any(|h| h == take);
        let takes = held_names(&all.takes().iter().map(|(take, _)| *take).collect::<Vec<_>>());
        if held.is_empty() && named.is_empty() {
            let [train, val] = all.split_in_time(share)?;
            (train, val, format!("the last {:.0} % of the frames of {takes}", 100.0 * share))
        } else {
            ensure!(
                !held.is_empty() && all.clips().iter().any(|clip| !is_held(&clip.take)),
                "{}: data.validation_subjects {named:?} leaves nothing to validate on or to train on; there are {takes}",
                data.display()
            );
            let description = held_names(&held.iter().map(String::as_str).collect::<Vec<_>>());
            (all.of_takes(|clip| !is_held(&clip.take))?, all.of_takes(|clip| is_held(&clip.take))?, description)
        }
    };
    let source = Arc::new(RecordedSampler::new(&train, recipe.recorded_options())?);
    let clips = Arc::new(RecordedSampler::new(&val, RecordedOptions { flip: 0.0, ..recipe.recorded_options() })?);
    let measure = Measure::MotionCapture(val.evaluation_set());
    Ok(RunData { source, validation: Validation { measure, clips, description, is_test: false } })
}

/// The last of some takes, given with their frames: at least such a share of all frames, at least one take, not all of them.
fn last_takes(takes: &[(&str, usize)], share: f64) -> Vec<String> {
    let wanted = share * takes.iter().map(|(_, frames)| *frames as f64).sum::<f64>();
    let mut held = Vec::new();
    let mut frames = 0;
    for (name, length) in takes.iter().skip(1).rev() {
        if frames as f64 >= wanted {
            break;
        }
        held.push((*name).to_owned());
        frames += length;
    }
    held
}

/// Subjects to validate on, and whether they are those of the test set.
fn held_out(recipe: &Recipe, test: &[&str]) -> (Vec<String>, bool) {
    let config = &recipe.data;
    if config.validate_on_test {
        return (test.iter().map(|&name| name.to_owned()).collect(), true);
    }
    let named = &config.validation_subjects;
    (if named.is_empty() { vec![config.kind.held_out().to_owned()] } else { named.clone() }, false)
}

fn held_names(names: &[&str]) -> String {
    let names: std::collections::BTreeSet<&str> = names.iter().copied().collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

fn motion(recipe: &Recipe, train: MocapSet, held: MocapSet, description: String, is_test: bool) -> Result<RunData> {
    let source = Arc::new(ClipSampler::new(Arc::new(train), recipe.sampler_options())?);
    Ok(RunData { source, validation: motion_validation(recipe, held, description, is_test)? })
}

fn motion_validation(recipe: &Recipe, held: MocapSet, description: String, is_test: bool) -> Result<Validation> {
    let noise = recipe.data.noise.recipe();
    let options =
        EvaluationOptions { cameras: recipe.data.cameras.clone(), noisy: vec![noise.is_some()], noise: noise.unwrap_or_default(), seed: 0 };
    let measure = Measure::MotionCapture(EvaluationSet::new(&held, &options)?);
    let clips = Arc::new(ClipSampler::new(Arc::new(held), recipe.sampler_options())?);
    Ok(Validation { measure, clips, description, is_test })
}

/// How clips of the field's sets are made, for training and for validation.
fn clip_options(recipe: &Recipe) -> [ClipOptions; 2] {
    let of =
        |flip: f32| ClipOptions { dim_in: recipe.model.dim_in(), root_relative: recipe.data.root_relative, flip, seed: recipe.train.seed };
    [of(recipe.data.flip), of(0.0)]
}

fn motion_bert(recipe: &Recipe, data: &Path) -> Result<RunData> {
    let path = file(data, H36M_FILE)?;
    let (n_frames, stride) = (recipe.sample_frames(), recipe.data.stride);
    let [training, plain] = clip_options(recipe);
    let train = Arc::new(MotionBert::open(&path, Half::Train)?);
    let all = || MotionBertClips::new(train.clone(), n_frames, stride, training);
    if recipe.data.validate_on_test {
        let test = Arc::new(MotionBert::open(&path, Half::Test)?);
        let clips = Arc::new(MotionBertClips::new(test.clone(), n_frames, Some(n_frames), plain)?);
        // labels with their roots are the original report's, and so is then its figure
        let measure = if recipe.data.root_relative { Measure::H36m(test) } else { Measure::Clips };
        let validation = Validation { measure, clips, description: "subjects 9 and 11, the test set".into(), is_test: true };
        return Ok(RunData { source: Arc::new(all()?), validation });
    }
    let (held, _) = held_out(recipe, &[]);
    let is_held = |subject: &str| held.iter().any(|h| h == subject);
    let clips = MotionBertClips::new(train.clone(), n_frames, Some(n_frames), plain)?.of_subjects(is_held)?;
    let source = all()?.of_subjects(|subject| !is_held(subject))?;
    let validation = Validation { measure: Measure::Clips, clips: Arc::new(clips), description: held.join(", "), is_test: false };
    Ok(RunData { source: Arc::new(source), validation })
}

fn clip_folder(recipe: &Recipe, data: &Path) -> Result<RunData> {
    ensure!(data.is_dir(), "{}: no such folder; --data names a clip folder such as H36M-243", data.display());
    let [training, plain] = clip_options(recipe);
    let train = data.join("train");
    let (source, clips, description) = if recipe.data.validate_on_test {
        (ClipFolder::open(&train, training)?, ClipFolder::open(&data.join("test"), plain)?, "the clips of the folder test".to_owned())
    } else {
        let share = recipe.data.validation_share;
        let (source, clips) = (ClipFolder::open(&train, training)?.first(1.0 - share)?, ClipFolder::open(&train, plain)?.last(share)?);
        (source, clips, format!("the last {:.0} % of the training clips", 100.0 * share))
    };
    for clips in [&source, &clips] {
        ensure!(
            clips.frames() == recipe.sample_frames(),
            "{}: the clips have {} frames and model.n_frames is {}: they must agree",
            data.display(),
            clips.frames(),
            recipe.sample_frames()
        );
    }
    let validation = Validation { measure: Measure::Clips, clips: Arc::new(clips), description, is_test: recipe.data.validate_on_test };
    Ok(RunData { source: Arc::new(source), validation })
}

fn mpi_inf_3dhp(recipe: &Recipe, data: &Path) -> Result<RunData> {
    let set = Arc::new(Mpi3dhp::open_train(&file(data, MPI_INF_3DHP_TRAIN_FILE)?)?);
    let (n_frames, stride) = (recipe.sample_frames(), recipe.data.stride);
    let [training, plain] = clip_options(recipe);
    let (held, _) = held_out(recipe, &[]);
    let is_held = |subject: &str| held.iter().any(|h| h == subject);
    let all = Mpi3dhpClips::new(set.clone(), n_frames, stride, training)?;
    if recipe.data.validate_on_test {
        let folder = if data.is_dir() { data.to_owned() } else { data.with_file_name("") };
        let test = Arc::new(Mpi3dhp::open_test(&file(&folder, MPI_INF_3DHP_TEST_FILE)?)?);
        let clips = Arc::new(InH36mOrder(Mpi3dhpClips::new(test.clone(), n_frames, Some(n_frames), plain)?));
        let validation = Validation { measure: Measure::Mpi3dhp(test), clips, description: "the test set".into(), is_test: true };
        return Ok(RunData { source: Arc::new(InH36mOrder(all)), validation });
    }
    let clips = Mpi3dhpClips::new(set, n_frames, Some(n_frames), plain)?.of_subjects(is_held)?;
    let validation =
        Validation { measure: Measure::Clips, clips: Arc::new(InH36mOrder(clips)), description: held.join(", "), is_test: false };
    Ok(RunData { source: Arc::new(InH36mOrder(all.of_subjects(|subject| !is_held(subject))?)), validation })
}

/// MPI-INF-3DHP's clips with their joints in the order that our models say they take.
struct InH36mOrder(Mpi3dhpClips);

impl SampleSource for InH36mOrder {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn frames(&self) -> usize {
        self.0.frames()
    }
    fn dim_in(&self) -> usize {
        self.0.dim_in()
    }
    fn seed(&self) -> u64 {
        self.0.seed()
    }
    fn sample(&self, epoch: u64, index: usize) -> Result<Sample, datasets::Error> {
        let sample = self.0.sample(epoch, index)?;
        let input = reorder(&sample.input, self.dim_in(), &MPI_INF_3DHP);
        Ok(Sample { input, label: reorder(&sample.label, 3, &MPI_INF_3DHP), truth: None })
    }
}

impl Validation {
    /// Measures a lifter.
    ///
    /// # Errors
    /// A clip that cannot be made or read.
    pub fn measure(&self, lifter: &Lifter, recipe: &Recipe) -> Result<Validated> {
        let asking = Asking {
            n_frames: recipe.sample_frames(),
            dim_in: recipe.model.dim_in(),
            flip: recipe.train.validate_with_flip,
            batch: BATCH,
            root_relative: recipe.data.root_relative,
        };
        match &self.measure {
            Measure::MotionCapture(set) => {
                let report = match recipe.model.live() {
                    None => {
                        let windowing = Windowing {
                            overlap: 0, // half the time of the evaluator's overlap, the same order of checkpoints
                            flip: recipe.train.validate_with_flip,
                            ..crate::train::windowing(recipe)
                        };
                        evaluate_lifter(lifter, set, &windowing)?
                    }
                    Some(live) => {
                        let feeding = CausalFeeding {
                            dim_in: live.dim_in,
                            normalisation: recipe.data.normalisation,
                            fps: f64::from(recipe.data.fps),
                            flip: recipe.train.validate_with_flip,
                        };
                        // its least look-ahead: the hardest, and the one that is waited for most often
                        evaluate_live(lifter, live, set, &feeding)?.swap_remove(0)
                    }
                };
                let figures = report.mean(true).or_else(|| report.mean(false)).context("validation has no clips")?;
                let (error, figures) = (figures.mpjpe_root_depth_mm, serde_json::to_value(figures)?);
                Ok(Validated { error, chosen_by: "mpjpe_root_depth_mm", figures, conditions: Some(report) })
            }
            Measure::H36m(set) => {
                let report = evaluate_h36m(set, &asking, frame_predictor(lifter, Normalisation::Frame)?)?;
                let figures = json!({
                    "frames": report.frames,
                    "mpjpe_mm": report.mpjpe_mm,
                    "p_mpjpe_mm": report.p_mpjpe_mm,
                    "n_mpjpe_mm": report.n_mpjpe_mm,
                    "mpjve_mm": report.mpjve_mm_per_frame,
                });
                Ok(Validated { error: report.mpjpe_mm, chosen_by: "mpjpe_mm", figures, conditions: None })
            }
            Measure::Mpi3dhp(set) => {
                let predict = in_h36m_order(frame_predictor(lifter, Normalisation::Frame)?, asking.dim_in);
                let report = evaluate_3dhp(set, &asking, predict)?;
                let figures = json!({
                    "frames": report.frames,
                    "mpjpe_mm": report.mpjpe_mm,
                    "p_mpjpe_mm": report.p_mpjpe_mm,
                    "pck_percent": report.pck_percent,
                    "auc_percent": report.auc_percent,
                });
                Ok(Validated { error: report.mpjpe_mm, chosen_by: "mpjpe_mm", figures, conditions: None })
            }
            Measure::Clips => {
                let mut predict = frame_predictor(lifter, Normalisation::Frame)?;
                let error = original_report_px(&*self.clips, BATCH, |input, clips| {
                    let mut output = predict(input, clips)?;
                    if recipe.data.root_relative {
                        output.chunks_exact_mut(JOINTS * 3).for_each(|pose| pose[..3].fill(0.0));
                    }
                    Ok::<_, pose::Error>(output)
                })?;
                let figures = json!({ "clips": self.clips.len(), "image_space_error_px": error });
                Ok(Validated { error, chosen_by: "image_space_error_px", figures, conditions: None })
            }
        }
    }

    /// Predictions for the middle frames of some clips, spread over the validation set, with their truth.
    ///
    /// # Errors
    /// A clip that cannot be made or read.
    pub fn look(&self, lifter: &Lifter, count: usize) -> Result<Vec<Figure>> {
        let (frames, dim_in, all) = (self.clips.frames(), self.clips.dim_in(), self.clips.len());
        let count = count.min(all);
        (0..count)
            .map(|k| {
                let index = (2 * k + 1) * all / (2 * count);
                let sample = self.clips.sample(0, index)?;
                let x = lifter.tensor(&sample.input, [1, frames, JOINTS, dim_in]);
                let output = values(&lifter.predict(&x, false).to_device(tch::Device::Cpu).to_kind(tch::Kind::Float));
                let middle = frames / 2 * JOINTS;
                let at = |all: &[f32], channels: usize, j: usize, c: usize| all[(middle + j) * channels + c];
                let pose = |all: &[f32]| std::array::from_fn(|j| std::array::from_fn(|c| at(all, 3, j, c)));
                let keypoint = |j: usize| {
                    let confidence = if dim_in == 3 { at(&sample.input, 3, j, 2) } else { 1.0 };
                    Keypoint::new(at(&sample.input, dim_in, j, 0), at(&sample.input, dim_in, j, 1), confidence.clamp(0.0, 1.0))
                };
                Ok(Figure {
                    caption: format!("clip {index}, frame {}", frames / 2),
                    keypoints: Some(std::array::from_fn(keypoint)),
                    pose: Some(pose(&output)),
                    truth: Some(pose(&sample.label)),
                })
            })
            .collect()
    }
}
