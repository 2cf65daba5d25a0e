//! The Open Inference Protocol over gRPC, with messages of the test's own.

use axum::http::uri::PathAndQuery;
use runtime::serve::{Limits, Model, Settings, Token};
use tonic::{Code, Request, Status, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

use super::client::{FRAMES, lifter, serve, settings};

macro_rules! message {
    ($name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty),* $(,)? }) => {
        #[derive(Clone, PartialEq, prost::Message)]
        struct $name { $($(#[$attribute])* $field: $type),* }
    };
}

message!(Empty {});
message!(Flag {
    #[prost(bool, tag = "1")]
    value: bool
});
message!(Name {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String
});
message!(ServerAbout {
    #[prost(string, tag = "1")] name: String,
    #[prost(string, tag = "2")] version: String,
    #[prost(string, repeated, tag = "3")] extensions: Vec<String>,
});
message!(Port {
    #[prost(string, tag = "1")] name: String,
    #[prost(string, tag = "2")] datatype: String,
    #[prost(int64, repeated, tag = "3")] shape: Vec<i64>,
});
message!(ModelAbout {
    #[prost(string, tag = "1")] name: String,
    #[prost(string, repeated, tag = "2")] versions: Vec<String>,
    #[prost(string, tag = "3")] platform: String,
    #[prost(message, repeated, tag = "4")] inputs: Vec<Port>,
    #[prost(message, repeated, tag = "5")] outputs: Vec<Port>,
});
message!(Contents { #[prost(float, repeated, tag = "6")] fp32: Vec<f32> });
message!(Parameter { #[prost(int64, optional, tag = "2")] int64: Option<i64> });
message!(Tensor {
    #[prost(string, tag = "1")] name: String,
    #[prost(string, tag = "2")] datatype: String,
    #[prost(int64, repeated, tag = "3")] shape: Vec<i64>,
    #[prost(map = "string, message", tag = "4")] parameters: std::collections::HashMap<String, Parameter>,
    #[prost(message, optional, tag = "5")] contents: Option<Contents>,
});
message!(Infer {
    #[prost(string, tag = "1")] model_name: String,
    #[prost(string, tag = "2")] model_version: String,
    #[prost(string, tag = "3")] id: String,
    #[prost(message, repeated, tag = "5")] inputs: Vec<Tensor>,
    #[prost(bytes = "vec", repeated, tag = "7")] raw: Vec<Vec<u8>>,
});
message!(Inferred {
    #[prost(string, tag = "1")] model_name: String,
    #[prost(string, tag = "2")] model_version: String,
    #[prost(string, tag = "3")] id: String,
    #[prost(message, repeated, tag = "5")] outputs: Vec<Tensor>,
    #[prost(bytes = "vec", repeated, tag = "6")] raw: Vec<Vec<u8>>,
});

struct Caller {
    runtime: tokio::runtime::Runtime,
    channel: Channel,
    token: Option<String>,
}

impl Caller {
    fn new(address: std::net::SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = runtime.block_on(endpoint.connect()).unwrap();
        Self { runtime, channel, token: None }
    }

    fn call<Q: prost::Message + 'static, A: prost::Message + Default + 'static>(&self, method: &str, message: Q) -> Result<A, Status> {
        let path = PathAndQuery::try_from(format!("/inference.GRPCInferenceService/{method}")).unwrap();
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let mut grpc = Grpc::new(self.channel.clone());
        self.runtime.block_on(async {
            grpc.ready().await.unwrap();
            grpc.unary(request, path, ProstCodec::<Q, A>::new()).await.map(tonic::Response::into_inner)
        })
    }
}

fn with_grpc(limits: Limits, token: Option<Token>) -> Settings {
    Settings { grpc_port: Some(0), token, ..settings(limits) }
}

fn infer(values: &[f32], batch: i64) -> Infer {
    let card = lifter().card();
    let tensor = Tensor {
        name: card.input.name,
        datatype: "FP32".into(),
        shape: vec![batch, FRAMES as i64, 17, 3],
        parameters: [("ignored".to_owned(), Parameter { int64: Some(3) })].into(),
        contents: Some(Contents { fp32: values.to_vec() }),
    };
    Infer { model_name: card.name, model_version: String::new(), id: "seven".into(), inputs: vec![tensor], raw: vec![] }
}

#[test]
fn every_method_answers() {
    let server = serve(with_grpc(Limits::default(), None));
    let caller = Caller::new(server.grpc_address().unwrap());
    let card = lifter().card();
    let ours = || Name { name: card.name.clone(), version: String::new() };
    assert!(caller.call::<_, Flag>("ServerLive", Empty {}).unwrap().value);
    assert!(caller.call::<_, Flag>("ServerReady", Empty {}).unwrap().value);
    assert!(caller.call::<_, Flag>("ModelReady", ours()).unwrap().value);
    assert_eq!(caller.call::<_, ServerAbout>("ServerMetadata", Empty {}).unwrap().name, "poselift");
    let about: ModelAbout = caller.call("ModelMetadata", ours()).unwrap();
    assert_eq!((about.name, about.versions, about.platform), (card.name.clone(), vec!["1".to_owned()], "onnx".to_owned()));
    assert_eq!((&about.inputs[0].name, &about.outputs[0].name), (&card.input.name, &card.output.name));
    assert_eq!((about.inputs[0].shape[2], &about.inputs[0].datatype[..]), (17, "FP32"));

    let values: Vec<f32> = (0..2 * FRAMES * 17 * 3).map(|i| 0.5 * (i as f32 * 0.37).sin()).collect();
    let expected = lifter().infer(&values, [2, FRAMES, 17, 3]).unwrap();
    let mut raw = infer(&values, 2);
    raw.inputs[0].contents = None;
    raw.raw = vec![values.iter().flat_map(|value| value.to_le_bytes()).collect()];
    for request in [infer(&values, 2), raw] {
        let answer: Inferred = caller.call("ModelInfer", request).unwrap();
        assert_eq!((answer.model_name, answer.id), (card.name.clone(), "seven".to_owned()));
        assert_eq!((&answer.outputs[0].name, &answer.outputs[0].shape), (&card.output.name, &vec![2, FRAMES as i64, 17, 3]));
        let found: Vec<f32> = answer.raw[0].chunks(4).map(|value| f32::from_le_bytes(value.try_into().unwrap())).collect();
        let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(found.len() == expected.len() && worst < 1e-5, "{worst}");
    }
}

#[test]
fn what_is_no_good_has_a_status_and_a_sentence() {
    let server = serve(with_grpc(Limits { max_infer_frames: 2 * FRAMES, max_body_bytes: 10_000, ..Limits::default() }, None));
    let caller = Caller::new(server.grpc_address().unwrap());
    let values = vec![0.1; FRAMES * 17 * 3];
    let refused = |method: &str, request: Infer, code: Code, sentence: &str| {
        let status = caller.call::<_, Inferred>(method, request).unwrap_err();
        assert!(status.code() == code && status.message().contains(sentence), "{status:?}, expected {code:?}: {sentence}");
    };
    let with = |change: &dyn Fn(&mut Infer)| {
        let mut request = infer(&values, 1);
        change(&mut request);
        request
    };
    refused("ModelInfer", with(&|r| r.model_name = "other".into()), Code::NotFound, "there is no model");
    refused("ModelInfer", with(&|r| r.model_version = "2".into()), Code::NotFound, "there is no version");
    refused("ModelInfer", with(&|r| r.inputs.clear()), Code::InvalidArgument, "one input, found 0");
    refused("ModelInfer", with(&|r| r.inputs[0].shape = vec![1 << 31, FRAMES as i64, 17, 3]), Code::OutOfRange, "--max-infer-frames");
    refused("ModelInfer", with(&|r| r.inputs[0].shape = vec![2, FRAMES as i64, 17, 3]), Code::InvalidArgument, "numbers for the shape");
    refused("ModelInfer", with(&|r| r.inputs[0].contents = None), Code::InvalidArgument, "raw_input_contents");
    refused("ModelInfer", with(&|r| r.inputs[0].contents.as_mut().unwrap().fp32[7] = f32::NAN), Code::InvalidArgument, "finite");
    refused("ModelInfer", infer(&vec![0.1; 20 * FRAMES * 17 * 3], 20), Code::OutOfRange, "");
    refused("RepositoryIndex", with(&|_| {}), Code::Unimplemented, "expected ServerLive");
    assert!(caller.call::<_, Inferred>("ModelInfer", infer(&values, 1)).is_ok());
}

#[test]
fn the_token_is_asked_for_but_for_health() {
    let token = "0123456789abcdef";
    let server = serve(with_grpc(Limits::default(), Some(Token::new(token).unwrap())));
    let mut caller = Caller::new(server.grpc_address().unwrap());
    let name = || Name { name: lifter().name().to_owned(), version: String::new() };
    for wrong in [None, Some("0123456789abcdeF".to_owned())] {
        caller.token = wrong;
        assert!(caller.call::<_, Flag>("ServerLive", Empty {}).unwrap().value);
        assert!(caller.call::<_, Flag>("ServerReady", Empty {}).unwrap().value);
        for method in ["ModelReady", "ModelMetadata", "ServerMetadata", "ModelInfer"] {
            let status = caller.call::<_, Empty>(method, name()).unwrap_err();
            assert_eq!(status.code(), Code::Unauthenticated, "{method}");
        }
    }
    caller.token = Some(token.to_owned());
    assert!(caller.call::<_, Flag>("ModelReady", name()).unwrap().value);
}
