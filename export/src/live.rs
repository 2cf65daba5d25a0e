//! The live family as ONNX: a graph for sequences and a graph for one frame at a time.
//!
//! | graph | inputs | outputs |
//! |---|---|---|
//! | [`Form::Sequence`] | `keypoints` (B, T, 17, dim_in) | `poses` (B, T, 17, 3) |
//! | [`Form::Step`] | `keypoints` (B, 1, 17, dim_in), `conv_0` (B, 17, K - 1, E), `scan_0` (B, 17, E, N), `conv_1`, ... | `poses` (B, 1, 17, 3), `next_conv_0`, `next_scan_0`, ... |
//!
//! B and T are free. States are zero before the first frame; what `next_*` gives goes into the same name without `next_` at
//! the following frame. Their first axis is the batch, so that engines that batch streams can move them row by row.

use std::{cell::RefCell, rc::Rc};

use formats::{StateDict, Tensor};
use network::{
    Context, LiveConfig, LiveLifter, LiveState, Tensor as _, WeightError, WeightSource, Weights, layers::MambaState, skeleton::JOINTS,
};

use crate::{
    lifter::{Error, FileWeights, INPUT, OUTPUT},
    onnx::{norm_biases, proto::ModelProto},
    recorder::{Dim, Recorded, Recorder},
};

/// Which of the two graphs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Whole sequences from an empty state.
    Sequence,
    /// One frame from and to a state.
    Step,
}

/// Names of a layer's states as inputs of the step graph: convolution, scan.
#[must_use]
pub fn state_names(layer: usize) -> [String; 2] {
    [format!("conv_{layer}"), format!("scan_{layer}")]
}

/// Before a state's name where it is an output.
pub const NEXT: &str = "next_";

/// The lifter with one of its look-aheads alone: (B, T, 17, 3) comes out.
///
/// # Errors
/// [`Error::LookAhead`] when it was not trained for it; a head that is missing or of another shape.
pub fn with_look_ahead(config: &LiveConfig, state: &StateDict, look_ahead: usize) -> Result<(LiveConfig, StateDict), Error> {
    let Some(index) = config.look_aheads.iter().position(|&k| k == look_ahead) else {
        let trained = config.look_aheads.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        return Err(Error::LookAhead { asked: look_ahead, trained });
    };
    let rows = 3 * config.look_aheads.len();
    let head = |name: &str, tensor: &Tensor, columns: usize| -> Result<Tensor, Error> {
        let shape = if name == "head.weight" { vec![rows, columns] } else { vec![rows] };
        if tensor.shape != shape {
            return Err(WeightError::Shape { name: name.to_owned(), expected: shape, found: tensor.shape.clone() }.into());
        }
        let values = tensor.to_f32()[3 * index * columns..][..3 * columns].to_vec();
        let shape = if name == "head.weight" { vec![3, columns] } else { vec![3] };
        Ok(Tensor::f32(shape, values))
    };
    let one = state.iter().map(|(name, tensor)| {
        let tensor = match name {
            "head.weight" => head(name, tensor, config.dim_rep)?,
            "head.bias" => head(name, tensor, 1)?,
            _ => tensor.clone(),
        };
        Ok((name.to_owned(), tensor))
    });
    Ok((LiveConfig { look_aheads: vec![look_ahead], ..config.clone() }, StateDict::new(one.collect::<Result<Vec<_>, Error>>()?)))
}

/// Records a live lifter; one of several look-aheads gives (B, T, 17, 3 K), see [`with_look_ahead`].
///
/// # Errors
/// [`Error`]: a weight is missing or of another shape.
pub fn record(config: &LiveConfig, state: &StateDict, form: Form) -> Result<ModelProto, Error> {
    recorded(config, state, form).map(norm_biases::in_weights)
}

/// The same with every bias as a sum of its own.
pub(crate) fn recorded(config: &LiveConfig, state: &StateDict, form: Form) -> Result<ModelProto, Error> {
    let recorder = Recorder::new();
    let source: Rc<RefCell<dyn WeightSource<Recorded>>> = Rc::new(RefCell::new(FileWeights { state, recorder: recorder.clone() }));
    let lifter = LiveLifter::<Recorded>::new(&Weights::new(source), config)?;
    let frames = match form {
        Form::Sequence => Dim::symbol("frames"),
        Form::Step => Dim::fixed(1),
    };
    let keypoints = recorder.input(INPUT, &[Dim::symbol("batch"), frames, JOINTS.into(), config.dim_in.into()]);
    let before = (form == Form::Step).then(|| states(&recorder, config));
    let (poses, after) = lifter.forward(&keypoints, before.as_ref(), &Context::EVALUATION);
    drop(lifter);

    let mut outputs = vec![(OUTPUT.to_owned(), poses)];
    if form == Form::Step {
        for (layer, MambaState { conv, scan }) in after.0.iter().enumerate() {
            let next = state_names(layer).map(|name| format!("{NEXT}{name}"));
            outputs.extend(next.into_iter().zip([conv, scan].map(|state| state.split_batch_and_joints(JOINTS))));
        }
    }
    let outputs: Vec<(&str, &Recorded)> = outputs.iter().map(|(name, value)| (name.as_str(), value)).collect();
    Ok(recorder.finish("live", &outputs)?)
}

/// All states as inputs: (B, 17, ..) in the file, (B 17, ..) to the layers.
fn states(recorder: &Recorder, config: &LiveConfig) -> LiveState<Recorded> {
    let layer = |index: usize| {
        let [conv_name, scan_name] = state_names(index);
        let [conv, scan] = config.state_shapes();
        let input = |name: &str, [rows, columns]: [usize; 2]| {
            recorder.plain_input(name, &[Dim::symbol("batch"), JOINTS.into(), rows.into(), columns.into()]).merge_batch_and_joints()
        };
        MambaState { conv: input(&conv_name, conv), scan: input(&scan_name, scan) }
    };
    LiveState((0..config.n_layers).map(layer).collect())
}
