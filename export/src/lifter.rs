//! A checkpoint as an ONNX model.

use std::{cell::RefCell, rc::Rc};

use formats::StateDict;
use network::{Checkpoint, Context, Init, LifterConfig, ModelConfig, MotionAgFormer, WeightError, WeightSource, Weights, parameter_count};
use pose::{JOINTS, metadata::ModelMetadata, normalise::Normalisation};

use crate::{
    live::{self, Form},
    onnx::{norm_biases, property, proto::ModelProto},
    recorder::{Dim, Recorded, Recorder},
    scan_function::TwoForms,
};

/// Name of the graph's input, (B, T, 17, dim_in).
pub const INPUT: &str = "keypoints";
/// Name of the graph's output, (B, T, 17, 3).
pub const OUTPUT: &str = "poses";

/// Why a checkpoint did not become a model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A weight is missing or of another shape.
    #[error(transparent)]
    Weight(#[from] WeightError),
    /// The architecture uses what one file cannot hold.
    #[error(transparent)]
    Scan(#[from] TwoForms),
    /// A live lifter was not trained to look so far ahead.
    #[error("the checkpoint has no look-ahead of {asked} frames: it was trained for {trained}")]
    LookAhead {
        /// Frames.
        asked: usize,
        /// Those that it has, in words.
        trained: String,
    },
    /// Our own checkpoint, with metadata that cannot be read.
    #[error("the checkpoint's metadata cannot be used ({0}): the file is damaged, or of a newer poselift")]
    Metadata(String),
}

/// A part of a lifter that can be recorded as a model of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it: (B, T, 17, dim_in) -> (B, T, 17, 3).
    Whole,
    /// The first stage: (B, T, 17, dim_in) -> (B, T, 17, C).
    Embedding,
    /// One layer: (B, T, 17, C) -> (B, T, 17, C).
    Layer(usize),
    /// The last stage: (B, T, 17, C) -> (B, T, 17, 3).
    ReadOut,
}

/// Weights of a file as constants of a graph.
pub(crate) struct FileWeights<'a> {
    pub(crate) state: &'a StateDict,
    pub(crate) recorder: Recorder,
}

impl FileWeights<'_> {
    fn get(&self, name: &str, shape: &[usize]) -> Result<Recorded, WeightError> {
        let tensor = self.state.get(name).ok_or_else(|| WeightError::Missing { name: name.into(), expected: shape.into() })?;
        if tensor.shape != shape {
            return Err(WeightError::Shape { name: name.into(), expected: shape.into(), found: tensor.shape.clone() });
        }
        Ok(self.recorder.constant(name, shape, tensor.to_f32()))
    }
}

impl WeightSource<Recorded> for FileWeights<'_> {
    fn parameter(&mut self, name: &str, shape: &[usize], _: Init) -> Result<Recorded, WeightError> {
        self.get(name, shape)
    }
    fn buffer(&mut self, name: &str, shape: &[usize], _: &[f32]) -> Result<Recorded, WeightError> {
        self.get(name, shape)
    }
    fn counter(&mut self, name: &str) -> Result<Recorded, WeightError> {
        Ok(self.recorder.constant(name, &[], vec![0.0])) // counts updates in training
    }
    fn constant(&mut self, shape: &[usize], value: &[f32]) -> Result<Recorded, WeightError> {
        Ok(self.recorder.constant("adjacency", shape, value.to_vec()))
    }
}

/// Records a lifter, or a part of one. Batch is free; T is the configuration's, because the batch normalisation of the
/// temporal graph has one scale and shift for each of T frames.
///
/// # Errors
/// [`Error`].
pub fn record(config: &LifterConfig, state: &StateDict, part: Part) -> Result<ModelProto, Error> {
    recorded(config, state, part).map(norm_biases::in_weights)
}

fn recorded(config: &LifterConfig, state: &StateDict, part: Part) -> Result<ModelProto, Error> {
    let recorder = Recorder::new();
    let source: Rc<RefCell<dyn WeightSource<Recorded>>> = Rc::new(RefCell::new(FileWeights { state, recorder: recorder.clone() }));
    let lifter = MotionAgFormer::<Recorded>::new(&Weights::new(source), config)?;
    let input = |channels: usize| {
        let dims = [Dim::symbol("batch"), config.n_frames.into(), config.num_joints.into(), channels.into()];
        recorder.input(INPUT, &dims)
    };
    let output = match part {
        Part::Whole => lifter.forward(&input(config.dim_in), &Context::EVALUATION),
        Part::Embedding => lifter.embed(&input(config.dim_in)),
        Part::Layer(index) => lifter.layer(index, &input(config.dim_feat), &Context::EVALUATION),
        Part::ReadOut => lifter.read_out(&input(config.dim_feat)),
    };
    drop(lifter);
    Ok(recorder.finish("lifter", &[(OUTPUT, &output)])?)
}

/// The whole lifter of a checkpoint with its metadata; of the live family `form` says which graph, and the metadata's `look_ahead` which
/// of its heads.
///
/// # Errors
/// [`Error`].
pub fn model(checkpoint: &Checkpoint, metadata: &ModelMetadata, form: Form) -> Result<ModelProto, Error> {
    model_with_biases(checkpoint, metadata, form).map(norm_biases::in_weights)
}

/// The same with every bias as a sum of its own: for int8, whose products add them in passing and whose weights are more even without them.
///
/// # Errors
/// [`Error`].
pub fn model_with_biases(checkpoint: &Checkpoint, metadata: &ModelMetadata, form: Form) -> Result<ModelProto, Error> {
    let (mut model, frames) = match &checkpoint.config {
        ModelConfig::MotionAgFormer(config) => (recorded(config, &checkpoint.state, Part::Whole)?, metadata.frames.to_string()),
        ModelConfig::Live(config) => {
            let (config, state) = live::with_look_ahead(config, &checkpoint.state, metadata.look_ahead)?;
            let frames = if form == Form::Step { "1" } else { "frames" };
            (live::recorded(&config, &state, form)?, frames.to_owned())
        }
    };
    let json = serde_json::to_string(metadata).map_err(|e| Error::Metadata(e.to_string()))?;
    let states = if metadata.is_step() { ", and for each layer the states of its convolution and scan" } else { "" };
    model.doc_string = Some(format!(
        "{}: {JOINTS} human joints in 2D over {frames} frames to 3D. Input {INPUT} (batch, {frames}, {JOINTS}, {}), output {OUTPUT} (batch, {frames}, {JOINTS}, 3){states}.",
        metadata.architecture, metadata.dim_in,
    ));
    // The first is for programs, the rest for people who look at the file in a viewer.
    let mut readable = vec![
        ("name", metadata.name.clone()),
        ("architecture", metadata.architecture.clone()),
        ("parameters", metadata.parameters.to_string()),
        ("skeleton", metadata.skeleton.clone()),
        ("frames", format!("{} ({})", metadata.frames, if metadata.frames_dynamic { "any number works" } else { "exactly" })),
        ("fps", metadata.fps.to_string()),
        ("normalisation", metadata.normalisation.name().to_owned()),
        ("trained_on", metadata.trained_on.clone()),
        ("licence", metadata.licence.clone()),
    ];
    if metadata.causal {
        readable.push(("look_ahead", format!("{} frames", metadata.look_ahead)));
    }
    model.metadata_props.push(property(ModelMetadata::ONNX_KEY, &json));
    model.metadata_props.extend(readable.iter().map(|(key, value)| property(key, value)));
    Ok(model)
}

/// What a model says about itself. Our own checkpoints say what weights cannot tell; of others it is unknown.
///
/// Of the live family: for the graph `form`, with the least look-ahead that it was trained for.
///
/// # Errors
/// [`Error::Metadata`] when our own record cannot be read.
pub fn metadata(checkpoint: &Checkpoint, name: &str, form: Form) -> Result<ModelMetadata, Error> {
    let config = &checkpoint.config;
    let told = match &checkpoint.metadata_json {
        Some(json) => serde_json::from_str(json).map_err(|e| Error::Metadata(e.to_string()))?,
        None => ModelMetadata {
            format: ModelMetadata::FORMAT,
            name: name.to_owned(),
            architecture: String::new(),
            config_toml: String::new(),
            skeleton: ModelMetadata::SKELETON.to_owned(),
            frames: 0,
            frames_dynamic: false,
            causal: false,
            look_ahead: 0,
            dim_in: 0,
            normalisation: Normalisation::Frame,
            fps: 50.0,
            output: ModelMetadata::OUTPUT.to_owned(),
            parameters: 0,
            trained_on: "unknown (the checkpoint does not say; the reference code trains on Human3.6M, cameras at 50 frames a second)"
                .to_owned(),
            licence: "unknown: see where the checkpoint came from".to_owned(),
            has_top_k_graph: false,
        },
    };
    // What the weights themselves say wins. Batch normalisation fixes the frames of a window; a step is one frame.
    let (frames, frames_dynamic) = match (config.window(), form) {
        (Some(window), _) => (window, false),
        (None, Form::Sequence) => (told.frames, true),
        (None, Form::Step) => (1, false),
    };
    let metadata = ModelMetadata {
        architecture: config.architecture().to_owned(),
        config_toml: toml::to_string(config).map_err(|e| Error::Metadata(e.to_string()))?,
        frames,
        frames_dynamic,
        causal: config.live().is_some(),
        look_ahead: config.live().map_or(0, |live| live.look_aheads[0]),
        dim_in: config.dim_in(),
        parameters: parameter_count(config),
        has_top_k_graph: config.has_top_k_graph(),
        ..told
    };
    metadata.validate().map_err(|e| Error::Metadata(e.to_string()))?;
    Ok(metadata)
}
