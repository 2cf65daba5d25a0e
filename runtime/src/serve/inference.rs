//! The Open Inference Protocol, as far as HTTP and gRPC have it in common: what a request may ask of a lifter.
//!
//! The protocol: <https://github.com/kserve/open-inference-protocol>; binary tensors over HTTP: Triton's extension
//! <https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md>.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de};

use super::{
    App,
    metrics::{Answer, Refused},
    worker::InferError,
};
use crate::Port;

/// Version of our one model.
pub const VERSION: &str = "1";
/// What this server has beyond the protocol.
pub const EXTENSIONS: [&str; 1] = ["binary_tensor_data"];
/// Longest id of a request that is given back, in bytes.
const LONGEST_ID: usize = 256;

/// The JSON of an infer request; what it says beyond this is not looked at.
#[derive(Debug, Deserialize)]
pub(super) struct Request {
    #[serde(default)]
    pub id: Option<String>,
    #[serde(default)]
    pub parameters: RequestParameters,
    pub inputs: Vec<InputTensor>,
    #[serde(default)]
    pub outputs: Vec<OutputTensor>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct RequestParameters {
    #[serde(default)]
    pub binary_data_output: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct InputTensor {
    pub name: String,
    pub shape: Vec<i64>,
    pub datatype: String,
    #[serde(default)]
    pub parameters: InputParameters,
    #[serde(default)]
    pub data: Option<Numbers>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct InputParameters {
    /// Bytes of the tensor behind the JSON.
    #[serde(default)]
    pub binary_data_size: Option<usize>,
}

#[derive(Debug, Deserialize)]
pub(super) struct OutputTensor {
    pub name: String,
    #[serde(default)]
    pub parameters: OutputParameters,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct OutputParameters {
    #[serde(default)]
    pub binary_data: Option<bool>,
}

/// Numbers in lists of any depth, row-major.
#[derive(Debug, Default)]
pub(super) struct Numbers(pub Vec<f32>);

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut numbers = Self::default();
        de::DeserializeSeed::deserialize(Collect(&mut numbers.0), deserializer)?;
        Ok(numbers)
    }
}

/// Adds a number, or all numbers of a list.
struct Collect<'a>(&'a mut Vec<f32>);

impl<'de> de::DeserializeSeed<'de> for Collect<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> de::Visitor<'de> for Collect<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("numbers in lists")
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        self.0.push(value as f32);
        Ok(())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.visit_f64(value as f64)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.visit_f64(value as f64)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        while sequence.next_element_seed(Collect(&mut *self.0))?.is_some() {}
        Ok(())
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Response<'a> {
    pub model_name: &'a str,
    pub model_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
    pub outputs: [OutputAnswer<'a>; 1],
}

#[derive(Debug, Serialize)]
pub(super) struct OutputAnswer<'a> {
    pub name: &'a str,
    pub shape: [usize; 4],
    pub datatype: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<BinarySize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<&'a [f32]>,
}

#[derive(Debug, Serialize)]
pub(super) struct BinarySize {
    pub binary_data_size: usize,
}

/// A tensor's description in a model's metadata.
#[derive(Debug, Serialize)]
pub(super) struct TensorMetadata {
    pub name: String,
    pub datatype: &'static str,
    pub shape: Vec<i64>,
}

impl From<&Port> for TensorMetadata {
    fn from(port: &Port) -> Self {
        let shape = port.shape.iter().map(|size| size.and_then(|n| i64::try_from(n).ok()).unwrap_or(-1)).collect();
        Self { name: port.name.clone(), datatype: "FP32", shape } // the engine takes no lifter of another type
    }
}

/// Why a request has no answer, as HTTP and gRPC tell it apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// 400, INVALID_ARGUMENT
    Bad(String),
    /// 404, NOT_FOUND
    Unknown(String),
    /// 413, OUT_OF_RANGE
    TooBig(String),
    /// 503, RESOURCE_EXHAUSTED
    Full(String),
    /// 503, UNAVAILABLE
    Unavailable(String),
    /// 500, INTERNAL
    Failed(String),
}

/// One input tensor of an infer request.
pub(super) struct Input<'a> {
    pub name: &'a str,
    pub datatype: &'a str,
    pub shape: &'a [i64],
    pub values: Vec<f32>,
}

impl App {
    /// The model that a request names, where it is ours.
    pub(super) fn check_model(&self, name: &str, version: &str) -> Result<(), Problem> {
        let ours = &self.engine.card().name;
        if name != ours {
            return Err(Problem::Unknown(format!("there is no model \"{}\" here, but \"{ours}\"", short(name))));
        }
        if !version.is_empty() && version != VERSION {
            return Err(Problem::Unknown(format!("there is no version \"{}\" of {ours}, but \"{VERSION}\"", short(version))));
        }
        Ok(())
    }

    /// Runs one request, and counts how it ended. Returns the output (B, T, 17, 3) and its shape.
    pub(super) async fn infer(&self, input: Input<'_>, outputs: &[&str], id: &str) -> Result<(Vec<f32>, [usize; 4]), Problem> {
        let result = match self.checked(&input, outputs, id) {
            Ok(shape) => {
                let answer = self.engine.infer(input.values, shape).await;
                answer.map(|values| (values, [shape[0], shape[1], shape[2], 3])).map_err(|error| match error {
                    InferError::Bad(error) => Problem::Bad(error),
                    InferError::Full => {
                        Problem::Full(format!("{} infer requests wait already (--max-infer-requests)", self.limits.max_infer_requests))
                    }
                    InferError::Unavailable => Problem::Unavailable("there is no engine now: try again later".to_owned()),
                    InferError::Failed(error) => Problem::Failed(error),
                })
            }
            Err(problem) => Err(problem),
        };
        match &result {
            Ok(_) => self.metrics.infer(Answer::Ok),
            Err(Problem::Bad(_) | Problem::Unknown(_) | Problem::TooBig(_)) => self.metrics.infer(Answer::BadRequest),
            Err(Problem::Full(_) | Problem::Unavailable(_)) => {
                self.metrics.refused(Refused::Infer);
                self.metrics.infer(Answer::Failed);
            }
            Err(Problem::Failed(_)) => self.metrics.infer(Answer::Failed),
        }
        result
    }

    /// The input's shape, where the model may take it.
    fn checked(&self, input: &Input<'_>, outputs: &[&str], id: &str) -> Result<[usize; 4], Problem> {
        let bad = |error: String| Err(Problem::Bad(error));
        let card = self.engine.card();
        if !card.infers {
            return bad("this is the step graph of a live model, whose states are the streams': send frames to /v1/stream".to_owned());
        }
        if id.len() > LONGEST_ID {
            return bad(format!("expected an id of at most {LONGEST_ID} bytes, found {}", id.len()));
        }
        if input.name != card.input.name {
            return bad(format!("expected the input \"{}\", found \"{}\"", card.input.name, short(input.name)));
        }
        if let Some(other) = outputs.iter().find(|name| **name != card.output.name) {
            return bad(format!("expected the output \"{}\", found \"{}\"", card.output.name, short(other)));
        }
        if input.datatype != "FP32" {
            return bad(format!("expected the input's datatype FP32, found \"{}\"", short(input.datatype)));
        }
        let sizes: Vec<usize> = input.shape.iter().filter_map(|&n| usize::try_from(n).ok()).collect();
        let (Ok(shape), true) = (<[usize; 4]>::try_from(sizes), input.shape.len() == 4) else {
            return bad(format!("expected the input's shape to be {}, found {:?}", card.input, &input.shape[..input.shape.len().min(8)]));
        };
        let fits = card.input.shape.len() == 4
            && card.input.shape.iter().zip(shape).all(|(fixed, n)| n > 0 && fixed.is_none_or(|fixed| fixed == n));
        if !fits {
            return bad(format!("expected the input's shape to be {}, found {shape:?}", card.input));
        }
        match shape[0].checked_mul(shape[1]) {
            Some(frames) if frames <= self.limits.max_infer_frames => {}
            _ => {
                return Err(Problem::TooBig(format!(
                    "a request has at most {} frames (--max-infer-frames), found {shape:?}",
                    self.limits.max_infer_frames
                )));
            }
        }
        let expected: usize = shape.iter().product();
        if input.values.len() != expected {
            return bad(format!("expected {expected} numbers for the shape {shape:?}, found {}", input.values.len()));
        }
        match input.values.iter().position(|value| !value.is_finite()) {
            Some(at) => bad(format!("expected finite numbers, found {} at index {at} of the input", input.values[at])),
            None => Ok(shape),
        }
    }
}

/// f32 of a raw tensor, little-endian.
pub(super) fn floats(bytes: &[u8]) -> Result<Vec<f32>, Problem> {
    match bytes.as_chunks::<4>() {
        (values, []) => Ok(values.iter().map(|value| f32::from_le_bytes(*value)).collect()),
        _ => Err(Problem::Bad(format!("expected the tensor's bytes to be a multiple of 4, found {}", bytes.len()))),
    }
}

pub(super) fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A foreign name at a length that can be repeated.
fn short(name: &str) -> String {
    name.chars().take(64).collect()
}

/// The JSON of an infer request and the binary tensors behind it.
///
/// # Errors
/// A length that does not fit, JSON that is none, not exactly one input.
pub(super) fn read(body: &[u8], json_length: Option<usize>) -> Result<(Request, Vec<f32>), Problem> {
    let bad = |error: String| Err(Problem::Bad(error));
    let (json, mut binary) = match json_length {
        None => (body, &[][..]),
        Some(length) => match body.split_at_checked(length) {
            Some(split) => split,
            None => return bad(format!("Inference-Header-Content-Length says {length} bytes of JSON, but the body has {}", body.len())),
        },
    };
    let mut request: Request = match serde_json::from_slice(json) {
        Ok(request) => request,
        Err(error) => return bad(format!("the request's JSON: {error}")),
    };
    let [input] = &mut request.inputs[..] else {
        return bad(format!("expected one input, found {}", request.inputs.len()));
    };
    let values = match (input.data.take(), input.parameters.binary_data_size) {
        (Some(Numbers(values)), None) => values,
        (None, Some(size)) => {
            let Some((tensor, rest)) = binary.split_at_checked(size) else {
                return bad(format!("the input says {size} binary bytes, but {} follow the JSON", binary.len()));
            };
            binary = rest;
            floats(tensor)?
        }
        (Some(_), Some(_)) => return bad("expected the input's data either in JSON or as binary, found both".to_owned()),
        (None, None) => return bad("expected the input's data, found none".to_owned()),
    };
    match binary {
        [] => Ok((request, values)),
        rest => bad(format!("{} bytes follow that no input asks for", rest.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_flat_or_nested() {
        let json = |data: &str| format!(r#"{{"inputs": [{{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": {data}}}]}}"#);
        for good in ["[1, 2.5, -3, 4e1]", "[[1, 2.5], [-3, 4e1]]", "[[[1], [2.5]], [[-3], 40]]"] {
            assert_eq!(read(json(good).as_bytes(), None).unwrap().1, [1.0, 2.5, -3.0, 40.0]);
        }
        let deep = "[".repeat(100_000);
        for bad in ["[1, \"a\"]", "[null]", "{}", "[1", &deep] {
            assert!(matches!(read(json(bad).as_bytes(), None), Err(Problem::Bad(_))));
        }
    }

    #[test]
    fn binary_tensors_follow_the_json() {
        let json = r#"{"id": "7", "inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}],
            "outputs": [{"name": "y", "parameters": {"binary_data": true}}]}"#;
        let whole = [json.as_bytes(), &bytes(&[1.5, -2.0])].concat();
        let (request, values) = read(&whole, Some(json.len())).unwrap();
        assert_eq!((values, request.outputs[0].parameters.binary_data), (vec![1.5, -2.0], Some(true)));
        for (body, length) in [
            (&whole[..whole.len() - 1], json.len()),
            (&whole, json.len() - 1),
            (&whole, whole.len() + 1),
            (&whole, usize::MAX),
            (&[&whole[..], &[0]].concat(), json.len()),
        ] {
            assert!(read(body, Some(length)).is_err());
        }
        assert!(read(&whole, None).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..300), length in proptest::option::of(0usize..400)) {
            let _ = read(&body, length);
        }
    }
}
