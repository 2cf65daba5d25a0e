//! Any recorded model in ONNX Runtime, to check it.

use ort::{
    session::Session as OrtSession,
    value::{PrimitiveTensorElementType, TensorRef},
};
use prost::Message as _;

use crate::onnx::proto::ModelProto;

/// How a model is run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The scan as our operator, else as the function body in the file.
    pub custom_op: bool,
    /// Threads within one operation; 0 takes as many as ONNX Runtime likes.
    pub threads: usize,
}

/// Why a model cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The library is missing or unfit.
    #[error(transparent)]
    Library(#[from] runtime::Error),
    /// What ONNX Runtime says.
    #[error("ONNX Runtime refuses the exported model: {0}")]
    Engine(String),
}

impl From<ort::Error> for Error {
    fn from(error: ort::Error) -> Self {
        Self::Engine(error.message().lines().next().unwrap_or("no reason given").to_owned())
    }
}

/// A model, open in ONNX Runtime.
pub struct Session(OrtSession);

/// A tensor: shape and values, row-major.
pub type Array = (Vec<usize>, Vec<f32>);

impl Session {
    /// Opens a model that is in memory.
    ///
    /// # Errors
    /// [`Error`].
    pub fn open(model: &ModelProto, options: Options) -> Result<Self, Error> {
        let environment = runtime::environment(None)?;
        let mut builder = OrtSession::builder(&environment)?;
        if options.threads > 0 {
            builder = builder.with_intra_threads(options.threads).map_err(ort::Error::from)?;
        }
        let bytes = model.encode_to_vec();
        if !options.custom_op {
            return Ok(Self(builder.commit_from_memory(&bytes)?));
        }
        builder = builder.with_operators(poselift_scan_ort::operator_domain()?).map_err(ort::Error::from)?;
        Ok(Self(poselift_scan_ort::commit_with_operators(|| builder.commit_from_memory(&bytes))?))
    }

    /// Runs it on named inputs.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub fn run(&mut self, inputs: &[(&str, &[usize], &[f32])]) -> Result<Vec<Array>, Error> {
        self.run_for::<f32>(inputs)
    }

    /// The same where the outputs are whole numbers.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub fn run_for_integers(&mut self, inputs: &[(&str, &[usize], &[f32])]) -> Result<Vec<Vec<i64>>, Error> {
        Ok(self.run_for::<i64>(inputs)?.into_iter().map(|(_, values)| values).collect())
    }

    fn run_for<V: PrimitiveTensorElementType + Clone>(
        &mut self,
        inputs: &[(&str, &[usize], &[f32])],
    ) -> Result<Vec<(Vec<usize>, Vec<V>)>, Error> {
        let inputs = inputs
            .iter()
            .map(|(name, shape, values)| Ok((*name, TensorRef::from_array_view((shape.to_vec(), *values))?)))
            .collect::<Result<Vec<_>, ort::Error>>()?;
        let outputs = self.0.run(inputs)?;
        outputs
            .values()
            .map(|output| {
                let (shape, values) = output.try_extract_tensor::<V>()?;
                Ok((shape.iter().map(|&n| usize::try_from(n).unwrap_or(0)).collect(), values.to_vec()))
            })
            .collect()
    }
}
