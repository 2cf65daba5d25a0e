//! `inference.GRPCInferenceService`: the Open Inference Protocol over gRPC.
//!
//! The messages have the field numbers of
//! <https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/open_inference_grpc.proto>; fields that are not
//! looked at are left out, and skipped when they come.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    response::Response,
    routing::post,
};
use tonic::{Status, server::Grpc};
use tonic_prost::ProstCodec;

use super::{
    App,
    inference::{self, EXTENSIONS, Input, Problem, VERSION},
    metrics::Refused,
};
use crate::Port;

/// Tensors take a few bytes more than their numbers.
const OVERHEAD_BYTES: usize = 4096;

/// `ServerLiveRequest`, `ServerReadyRequest`, `ServerMetadataRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Empty {}

/// `ServerLiveResponse`, `ServerReadyResponse`, `ModelReadyResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Yes {
    #[prost(bool, tag = "1")]
    pub yes: bool,
}

/// `ModelReadyRequest`, `ModelMetadataRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ModelName {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub version: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ServerMetadataResponse {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub version: String,
    #[prost(string, repeated, tag = "3")]
    pub extensions: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct TensorMetadata {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub datatype: String,
    #[prost(int64, repeated, tag = "3")]
    pub shape: Vec<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ModelMetadataResponse {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, repeated, tag = "2")]
    pub versions: Vec<String>,
    #[prost(string, tag = "3")]
    pub platform: String,
    #[prost(message, repeated, tag = "4")]
    pub inputs: Vec<TensorMetadata>,
    #[prost(message, repeated, tag = "5")]
    pub outputs: Vec<TensorMetadata>,
}

/// `InferTensorContents`: of its fields the one for FP32.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TensorContents {
    #[prost(float, repeated, tag = "6")]
    pub fp32_contents: Vec<f32>,
}

/// `InferInputTensor`, `InferOutputTensor`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Tensor {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub datatype: String,
    #[prost(int64, repeated, tag = "3")]
    pub shape: Vec<i64>,
    #[prost(message, optional, tag = "5")]
    pub contents: Option<TensorContents>,
}

/// `InferRequestedOutputTensor`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RequestedOutput {
    #[prost(string, tag = "1")]
    pub name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ModelInferRequest {
    #[prost(string, tag = "1")]
    pub model_name: String,
    #[prost(string, tag = "2")]
    pub model_version: String,
    #[prost(string, tag = "3")]
    pub id: String,
    #[prost(message, repeated, tag = "5")]
    pub inputs: Vec<Tensor>,
    #[prost(message, repeated, tag = "6")]
    pub outputs: Vec<RequestedOutput>,
    #[prost(bytes = "vec", repeated, tag = "7")]
    pub raw_input_contents: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ModelInferResponse {
    #[prost(string, tag = "1")]
    pub model_name: String,
    #[prost(string, tag = "2")]
    pub model_version: String,
    #[prost(string, tag = "3")]
    pub id: String,
    #[prost(message, repeated, tag = "5")]
    pub outputs: Vec<Tensor>,
    #[prost(bytes = "vec", repeated, tag = "6")]
    pub raw_output_contents: Vec<Vec<u8>>,
}

pub(super) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/inference.GRPCInferenceService/{method}", post(call))
        .fallback(|| async { refuse(Status::unimplemented("there is no such service: expected inference.GRPCInferenceService")) })
        .with_state(app)
}

fn refuse(status: Status) -> Response {
    status.into_http::<Body>()
}

impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::Bad(error) => Self::invalid_argument(error),
            Problem::Unknown(error) => Self::not_found(error),
            Problem::TooBig(error) => Self::out_of_range(error),
            Problem::Full(error) => Self::resource_exhausted(error),
            Problem::Unavailable(error) => Self::unavailable(error),
            Problem::Failed(error) => Self::internal(error),
        }
    }
}

/// One call, by the name of its method.
async fn call(State(app): State<Arc<App>>, Path(method): Path<String>, request: Request) -> Response {
    let is_health = matches!(method.as_str(), "ServerLive" | "ServerReady");
    if !is_health && !app.is_allowed(request.headers()) {
        app.metrics.refused(Refused::Token);
        return refuse(Status::unauthenticated("expected the server's token: send the metadata \"authorization: Bearer TOKEN\""));
    }
    // a place before the message: no more of them are in memory than may be
    let place = match method.as_str() {
        "ModelInfer" => match app.infer_place() {
            Ok(place) => Some(place),
            Err(problem) => return refuse(problem.into()),
        },
        _ => None,
    };
    let time = app.limits.request_timeout;
    let answer = async {
        match method.as_str() {
            "ServerLive" => unary(app, request, server_live).await,
            "ServerReady" => unary(app, request, server_ready).await,
            "ModelReady" => unary(app, request, model_ready).await,
            "ServerMetadata" => unary(app, request, server_metadata).await,
            "ModelMetadata" => unary(app, request, model_metadata).await,
            "ModelInfer" => unary(app, request, model_infer).await,
            _ => refuse(Status::unimplemented("expected ServerLive, ServerReady, ModelReady, ServerMetadata, ModelMetadata or ModelInfer")),
        }
    };
    let response = tokio::time::timeout(time, answer).await;
    drop(place);
    response.unwrap_or_else(|_| refuse(Status::deadline_exceeded("the request took too long (--request-timeout)")))
}

/// One message in, one out.
async fn unary<M, R, F>(app: Arc<App>, request: Request, answer: impl Fn(Arc<App>, M) -> F) -> Response
where
    M: prost::Message + Default + Send + 'static,
    R: prost::Message + Send + 'static,
    F: Future<Output = Result<R, Problem>>,
{
    let limit = app.limits.max_body_bytes + OVERHEAD_BYTES;
    let service = tower::service_fn(|message: tonic::Request<M>| {
        let answer = answer(app.clone(), message.into_inner());
        async move { Ok(tonic::Response::new(answer.await?)) }
    });
    let mut grpc = Grpc::new(ProstCodec::<R, M>::new()).max_decoding_message_size(limit).max_encoding_message_size(usize::MAX);
    grpc.unary(service, request).await.map(Body::new)
}

async fn server_live(app: Arc<App>, _: Empty) -> Result<Yes, Problem> {
    Ok(Yes { yes: !app.engine.hangs() })
}

async fn server_ready(app: Arc<App>, _: Empty) -> Result<Yes, Problem> {
    Ok(Yes { yes: app.engine.is_ready() })
}

async fn server_metadata(_: Arc<App>, _: Empty) -> Result<ServerMetadataResponse, Problem> {
    Ok(ServerMetadataResponse {
        name: "poselift".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        extensions: EXTENSIONS.map(String::from).to_vec(),
    })
}

async fn model_ready(app: Arc<App>, model: ModelName) -> Result<Yes, Problem> {
    app.check_model(&model.name, &model.version)?;
    Ok(Yes { yes: app.engine.is_ready() })
}

async fn model_metadata(app: Arc<App>, model: ModelName) -> Result<ModelMetadataResponse, Problem> {
    app.check_model(&model.name, &model.version)?;
    let card = app.engine.card();
    Ok(ModelMetadataResponse {
        name: card.name.clone(),
        versions: vec![VERSION.to_owned()],
        platform: "onnx".to_owned(),
        inputs: vec![(&card.input).into()],
        outputs: vec![(&card.output).into()],
    })
}

impl From<&Port> for TensorMetadata {
    fn from(port: &Port) -> Self {
        let inference::TensorMetadata { name, datatype, shape } = port.into();
        Self { name, datatype: datatype.to_owned(), shape }
    }
}

async fn model_infer(app: Arc<App>, request: ModelInferRequest) -> Result<ModelInferResponse, Problem> {
    let ModelInferRequest { model_name, model_version, id, inputs, outputs, raw_input_contents } = request;
    app.check_model(&model_name, &model_version)?;
    let bad = |error: String| Err(Problem::Bad(error));
    let [input] = &inputs[..] else { return bad(format!("expected one input, found {}", inputs.len())) };
    let values = match (&input.contents, &raw_input_contents[..]) {
        (None, [raw]) => inference::floats(raw)?,
        (Some(contents), []) => contents.fp32_contents.clone(),
        (_, raw) => {
            return bad(format!(
                "expected the input's numbers either in fp32_contents or as one of raw_input_contents, found {} of these",
                raw.len()
            ));
        }
    };
    drop(raw_input_contents);
    let asked: Vec<&str> = outputs.iter().map(|output| output.name.as_str()).collect();
    let input = Input { name: &input.name, datatype: &input.datatype, shape: &input.shape, values };
    let (values, shape) = app.infer(input, &asked, &id).await?;

    let card = app.engine.card();
    let output = Tensor {
        name: card.output.name.clone(),
        datatype: "FP32".to_owned(),
        shape: shape.iter().filter_map(|&n| i64::try_from(n).ok()).collect(),
        contents: None,
    };
    Ok(ModelInferResponse {
        model_name,
        model_version: VERSION.to_owned(),
        id,
        outputs: vec![output],
        raw_output_contents: vec![inference::bytes(&values)],
    })
}
