//! Whether a written model computes the same with the operator and with the function body that it carries.
//!
//! A top-k graph jumps where two frames are almost equally similar: there the last bit of a sum decides, and everything
//! after it differs. So such a model is compared layer by layer, each on the same input; how much of the whole model's
//! output agrees is reported, and no reason to refuse it.

use std::{path::Path, time::Instant};

use network::{Checkpoint, LifterConfig, LiveConfig, ModelConfig};
use pose::JOINTS;
use prost::Message as _;
use runtime::{AnyEngine, Device, Engine, EngineOptions};
use serde::Serialize;

use crate::{
    lifter::{self, INPUT, Part},
    live::{self, Form, state_names},
    onnx::proto::ModelProto,
    session::{self, Options, Session},
};

/// Difference that rounding explains, relative to the largest value (or 1).
pub const TOLERANCE: f32 = 1e-4;

/// What the check saw.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Largest difference between operator and function body, of any stage on the same input.
    pub largest_difference: f32,
    /// The stage where it is.
    pub stage: String,
    /// Largest value of that stage.
    pub largest_value: f32,
    /// Part of the whole model's outputs within [`TOLERANCE`]; a top-k graph lowers it.
    pub fraction_agreeing: f64,
    /// Whether the model has a scan at all.
    pub has_scan: bool,
    /// One window, or sequence of [`LIVE_FRAMES`], or step, with the operator, seconds.
    pub operator_s: f64,
    /// The same with the function body, seconds.
    pub body_s: f64,
    /// Of the live family: largest difference between the sequence graph and the step graph, frame by frame.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_difference: Option<f32>,
}

/// Frames that a live lifter is checked over.
pub const LIVE_FRAMES: usize = 64;

/// Why a model was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A part could not be recorded.
    #[error(transparent)]
    Record(#[from] lifter::Error),
    /// It cannot be run.
    #[error(transparent)]
    Run(#[from] session::Error),
    /// The file cannot be run.
    #[error(transparent)]
    Engine(#[from] runtime::Error),
    /// It gives infinities or NaN.
    #[error("the exported model gives {found} for ordinary input: are the weights of the checkpoint finite?")]
    NotFinite {
        /// One of them.
        found: f32,
    },
    /// Operator and function body differ.
    #[error(
        "the exported model differs by {difference:.1e} in {stage} between the operator and the function body in the file (values up to {largest:.1}): this is a bug of the export, the file was not kept"
    )]
    Differs {
        /// Where.
        stage: String,
        /// By how much.
        difference: f32,
        /// Largest value there.
        largest: f32,
    },
}

/// Runs the file at `path`, made of `checkpoint`, in ONNX Runtime with the operator and with the function body alone; of the live family
/// the sequence graph against the step graph too, with the head of `look_ahead`.
///
/// # Errors
/// [`Error`]: it cannot be run, or a difference is larger than rounding explains.
pub fn check(path: &Path, checkpoint: &Checkpoint, form: Form, look_ahead: usize, threads: usize) -> Result<Report, Error> {
    match &checkpoint.config {
        ModelConfig::MotionAgFormer(config) => check_windowed(path, checkpoint, config, threads),
        ModelConfig::Live(config) => {
            let (config, state) = live::with_look_ahead(config, &checkpoint.state, look_ahead)?;
            let file = std::fs::read(path).map_err(|e| session::Error::Engine(format!("{}: {e}", path.display())))?;
            let file = ModelProto::decode(file.as_slice()).map_err(|e| session::Error::Engine(format!("{}: {e}", path.display())))?;
            let other = live::record(&config, &state, if form == Form::Step { Form::Sequence } else { Form::Step })?;
            let (sequence, step) = if form == Form::Step { (&other, &file) } else { (&file, &other) };
            check_live(sequence, step, &config, form, threads)
        }
    }
}

/// Whether a file gives numbers for ordinary input: for one whose own precision was not checked in the way of [`check`].
///
/// # Errors
/// [`Error::NotFinite`], [`Error::Engine`].
pub fn gives_numbers(path: &Path, threads: usize) -> Result<(), Error> {
    let values = match AnyEngine::open(path, &EngineOptions { threads, ..EngineOptions::default() })? {
        AnyEngine::Whole(engine) => {
            let shape = [engine.batch().unwrap_or(1), engine.frames().unwrap_or(LIVE_FRAMES), JOINTS, engine.channels()];
            engine.run(&sample_input(shape), shape)?
        }
        AnyEngine::Step(engine) => {
            let mut state = vec![0.0; engine.state_len()];
            let frame = sample_input([1, 1, JOINTS, engine.channels()]);
            engine.step(&frame, &mut [&mut state])?.into_iter().chain(state).collect()
        }
    };
    match values.into_iter().find(|value| !value.is_finite()) {
        Some(found) => Err(Error::NotFinite { found }),
        None => Ok(()),
    }
}

/// Operator against body, and frame by frame against the sequence, over [`LIVE_FRAMES`] frames of two people.
fn check_live(sequence: &ModelProto, step: &ModelProto, config: &LiveConfig, form: Form, threads: usize) -> Result<Report, Error> {
    let shape = [2, LIVE_FRAMES, JOINTS, config.dim_in];
    let input = sample_input(shape);
    let options = |custom_op| Options { custom_op, threads };
    let whole = |custom_op| -> Result<(Vec<f32>, f64), Error> {
        let mut session = Session::open(sequence, options(custom_op))?;
        let start = Instant::now();
        let poses = session.run(&[(INPUT, &shape, &input)])?.swap_remove(0).1;
        Ok((poses, start.elapsed().as_secs_f64() / 2.0))
    };
    let stepped = |custom_op| step_through(&mut Session::open(step, options(custom_op))?, config, &input);
    let ((by_operator, operator_s), (by_body, body_s)) = (whole(true)?, whole(false)?);
    let ((steps, step_operator_s), (steps_by_body, step_body_s)) = (stepped(true)?, stepped(false)?);

    let [mut sequences, mut step_forms, mut step_by_step] = [const { Difference::NONE }; 3];
    sequences.add(&by_operator, &by_body)?;
    step_forms.add(&steps, &steps_by_body)?;
    step_by_step.add(&by_operator, &steps)?;
    for (stage, difference) in
        [("the sequence graph", &sequences), ("the step graph", &step_forms), ("a step against the sequence", &step_by_step)]
    {
        if !difference.is_rounding() {
            return Err(Error::Differs { stage: stage.into(), difference: difference.largest, largest: difference.value });
        }
    }
    let (of_file, stage) = if form == Form::Step { (step_forms, "the step graph") } else { (sequences, "the sequence graph") };
    let (operator_s, body_s) = if form == Form::Step { (step_operator_s, step_body_s) } else { (operator_s, body_s) };
    Ok(Report {
        largest_difference: of_file.largest,
        stage: stage.into(),
        largest_value: of_file.value,
        fraction_agreeing: of_file.fraction(),
        has_scan: true,
        operator_s,
        body_s,
        step_difference: Some(step_by_step.largest),
    })
}

/// The frames of (2, T, 17, C) one by one from empty states: (2, T, 17, 3), and seconds for a frame.
fn step_through(session: &mut Session, config: &LiveConfig, input: &[f32]) -> Result<(Vec<f32>, f64), Error> {
    let (people, pose_in) = (2, JOINTS * config.dim_in);
    let mut states: Vec<(String, Vec<usize>, Vec<f32>)> = (0..config.n_layers)
        .flat_map(|layer| state_names(layer).into_iter().zip(config.state_shapes()))
        .map(|(name, [rows, columns])| (name, vec![people, JOINTS, rows, columns], vec![0.0; people * JOINTS * rows * columns]))
        .collect();
    let frames = input.len() / (people * pose_in);
    let mut poses = vec![0.0; people * frames * JOINTS * 3];
    let shape = [people, 1, JOINTS, config.dim_in];
    let start = Instant::now();
    for t in 0..frames {
        let frame: Vec<f32> = (0..people).flat_map(|p| &input[(p * frames + t) * pose_in..][..pose_in]).copied().collect();
        let mut inputs: Vec<(&str, &[usize], &[f32])> = vec![(INPUT, &shape, &frame)];
        inputs.extend(states.iter().map(|(name, shape, values)| (name.as_str(), shape.as_slice(), values.as_slice())));
        let mut outputs = session.run(&inputs)?.into_iter();
        let pose = outputs.next().map(|(_, values)| values).unwrap_or_default();
        for (p, values) in pose.chunks(JOINTS * 3).enumerate().take(people) {
            poses[(p * frames + t) * JOINTS * 3..][..values.len()].copy_from_slice(values);
        }
        for (state, (_, next)) in states.iter_mut().zip(outputs) {
            state.2 = next;
        }
    }
    Ok((poses, start.elapsed().as_secs_f64() / frames as f64))
}

fn check_windowed(path: &Path, checkpoint: &Checkpoint, config: &LifterConfig, threads: usize) -> Result<Report, Error> {
    let has_scan = config.mamba_gcn.as_ref().is_some_and(|mamba_gcn| mamba_gcn.mamba == network::MambaForm::Selective);
    let options = |custom_op| EngineOptions { device: Device::Cpu, threads, custom_op, ..EngineOptions::default() };
    let (with_operator, with_body) = (Engine::open(path, &options(true))?, Engine::open(path, &options(false))?);

    let run = |engine: &Engine, batch: usize| -> Result<(Vec<f32>, f64), Error> {
        let shape = [batch, config.n_frames, config.num_joints, config.dim_in];
        let start = Instant::now();
        let poses = engine.run(&sample_input(shape), shape)?;
        Ok((poses, start.elapsed().as_secs_f64() / batch as f64))
    };
    let mut whole = Difference::NONE;
    run(&with_operator, 2)?; // the batch is free
    let ((by_operator, operator_s), (by_body, body_s)) = (run(&with_operator, 1)?, run(&with_body, 1)?);
    whole.add(&by_operator, &by_body)?;
    let (stage, largest) = if config.has_top_k_graph() && has_scan {
        largest_of_stages(checkpoint, config, threads)?
    } else {
        ("the whole model".to_owned(), whole.clone())
    };
    if !largest.is_rounding() {
        return Err(Error::Differs { stage, difference: largest.largest, largest: largest.value });
    }
    Ok(Report {
        largest_difference: largest.largest,
        stage,
        largest_value: largest.value,
        fraction_agreeing: whole.fraction(),
        has_scan,
        operator_s,
        body_s,
        step_difference: None,
    })
}

/// The stage with the largest difference, each run on what the operator's model makes of the stage before.
fn largest_of_stages(checkpoint: &Checkpoint, config: &LifterConfig, threads: usize) -> Result<(String, Difference), Error> {
    let mut shape = [1, config.n_frames, config.num_joints, config.dim_in];
    let mut x = sample_input(shape);
    let stages = std::iter::once(Part::Embedding).chain((0..config.n_layers).map(Part::Layer)).chain([Part::ReadOut]);
    let mut worst = (String::new(), Difference::NONE);
    for part in stages {
        let model = lifter::record(config, &checkpoint.state, part)?;
        let run = |custom_op| -> Result<Vec<f32>, Error> {
            let mut outputs = Session::open(&model, Options { custom_op, threads })?.run(&[(INPUT, &shape, &x)])?;
            Ok(outputs.pop().map(|(_, values)| values).unwrap_or_default())
        };
        let (a, b) = (run(true)?, run(false)?);
        let mut difference = Difference::NONE;
        difference.add(&a, &b)?;
        if worst.0.is_empty() || difference.relative() > worst.1.relative() {
            let stage = match part {
                Part::Layer(index) => format!("layer {index}"),
                Part::ReadOut => "the head".to_owned(),
                Part::Embedding | Part::Whole => "the embedding".to_owned(),
            };
            worst = (stage, difference);
        }
        (x, shape[3]) = (a, config.dim_feat);
    }
    Ok(worst)
}

/// How far two runs are apart.
#[derive(Clone, Debug)]
struct Difference {
    largest: f32,
    /// Largest absolute value of the first.
    value: f32,
    values: u64,
    agreeing: u64,
}

impl Difference {
    const NONE: Self = Self { largest: 0.0, value: 0.0, values: 0, agreeing: 0 };

    fn add(&mut self, a: &[f32], b: &[f32]) -> Result<(), Error> {
        for (&a, &b) in a.iter().zip(b) {
            if let Some(&found) = [a, b].iter().find(|x| !x.is_finite()) {
                return Err(Error::NotFinite { found });
            }
            self.largest = self.largest.max((a - b).abs());
            self.value = self.value.max(a.abs());
            self.values += 1;
            self.agreeing += u64::from((a - b).abs() <= TOLERANCE);
        }
        Ok(())
    }

    fn relative(&self) -> f32 {
        self.largest / self.value.max(1.0)
    }

    fn is_rounding(&self) -> bool {
        self.relative() <= TOLERANCE
    }

    fn fraction(&self) -> f64 {
        if self.values == 0 { 1.0 } else { self.agreeing as f64 / self.values as f64 }
    }
}

/// Poses that move: joints in the picture, each on a path of its own, with confidence; the same every time.
fn sample_input(shape: [usize; 4]) -> Vec<f32> {
    let [batch, frames, joints, channels] = shape;
    let mut values = Vec::with_capacity(batch * frames * joints * channels);
    for b in 0..batch {
        for t in 0..frames {
            for j in 0..joints {
                let phase = 1.7 * j as f32 + 0.9 * b as f32;
                let time = t as f32 * (0.11 + 0.013 * j as f32);
                let joint = [0.5 * (time + phase).sin() + 0.1 * phase.cos(), 0.5 * (0.8 * time + 2.0 * phase).cos(), 0.9];
                values.extend(&joint[..channels.min(3)]);
            }
        }
    }
    values
}
