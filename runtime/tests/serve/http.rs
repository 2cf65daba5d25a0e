//! The Open Inference Protocol over HTTP, and what else is asked for with GET.

use runtime::serve::{Limits, Model};
use serde_json::{Value, json};

use super::client::{FRAMES, flat, get, lifter, metric, request, serve, settings};

fn input(batch: usize) -> Vec<f32> {
    (0..batch * FRAMES * 17 * 3).map(|i| 0.5 * (i as f32 * 0.37).sin()).collect()
}

fn infer_json(batch: usize, name: &str, data: &[f32]) -> Value {
    json!({ "id": "7", "inputs": [{ "name": name, "shape": [batch, FRAMES, 17, 3], "datatype": "FP32", "data": data }] })
}

#[test]
fn health_metadata_and_readiness() {
    let server = serve(settings(Limits::default()));
    let address = server.http_address();
    let name = lifter().name().to_owned();
    assert_eq!(get(address, "/v2/health/live"), (200, json!({ "live": true })));
    assert_eq!(get(address, "/v2/health/ready"), (200, json!({ "ready": true })));
    let (status, about) = get(address, "/v2");
    assert_eq!((status, &about["name"], &about["extensions"]), (200, &json!("poselift"), &json!(["binary_tensor_data"])));
    let card = lifter().card();
    for path in [format!("/v2/models/{name}"), format!("/v2/models/{name}/versions/1")] {
        let (status, about) = get(address, &path);
        assert_eq!((status, &about["name"], &about["versions"], &about["platform"]), (200, &json!(name), &json!(["1"]), &json!("onnx")));
        assert_eq!(about["inputs"][0]["name"], card.input.name);
        assert_eq!(about["outputs"][0]["name"], card.output.name);
        for tensor in [&about["inputs"][0], &about["outputs"][0]] {
            assert_eq!((&tensor["datatype"], &tensor["shape"][2]), (&json!("FP32"), &json!(17)));
        }
        assert_eq!(get(address, &format!("{path}/ready")), (200, json!({ "ready": true })));
    }
    for path in ["/v2/models/other", "/v2/models/other/ready", &format!("/v2/models/{name}/versions/2")] {
        let (status, error) = get(address, path);
        assert!(status == 404 && error["error"].as_str().unwrap().starts_with("there is no"), "{path}: {error}");
    }
    assert_eq!(get(address, "/nothing").0, 404);
    assert_eq!(get(address, "/v1/stream").0, 400);
    assert_eq!(request(address, "POST", "/v2/health/live", &[], b"x").0, 405);
    assert_eq!(get(address, &format!("/v2/models/{name}/infer")).0, 405);
}

#[test]
fn infer_gives_what_the_engine_gives() {
    let server = serve(settings(Limits::default()));
    let (address, card) = (server.http_address(), lifter().card());
    let path = format!("/v2/models/{}/infer", card.name);
    // 100 windows of 9 frames are more than one slice
    for batch in [1, 100] {
        let values = input(batch);
        let expected = lifter().infer(&values, [batch, FRAMES, 17, 3]).unwrap();
        let body = infer_json(batch, &card.input.name, &values).to_string();
        let (status, _, answer) = request(address, "POST", &path, &[("content-type", "application/json")], body.as_bytes());
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(status, 200, "{answer}");
        assert_eq!((&answer["model_name"], &answer["model_version"], &answer["id"]), (&json!(card.name), &json!("1"), &json!("7")));
        let output = &answer["outputs"][0];
        assert_eq!(
            (&output["name"], &output["datatype"], &output["shape"]),
            (&json!(card.output.name), &json!("FP32"), &json!([batch, FRAMES, 17, 3]))
        );
        let found = flat(&output["data"]);
        let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(found.len() == expected.len() && worst < 1e-5, "{worst}");

        // the same as binary
        let head = json!({
            "inputs": [{ "name": card.input.name, "shape": [batch, FRAMES, 17, 3], "datatype": "FP32", "parameters": { "binary_data_size": 4 * values.len() } }],
            "outputs": [{ "name": card.output.name, "parameters": { "binary_data": true } }],
        })
        .to_string();
        let body = [head.as_bytes(), &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>()].concat();
        let length = head.len().to_string();
        let (status, head, answer) = request(address, "POST", &path, &[("inference-header-content-length", &length)], &body);
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
        let json_length: usize = head.split("inference-header-content-length: ").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
        let json: Value = serde_json::from_slice(&answer[..json_length]).unwrap();
        assert_eq!(json["outputs"][0]["parameters"]["binary_data_size"], 4 * expected.len());
        let binary: Vec<f32> = answer[json_length..].chunks(4).map(|value| f32::from_le_bytes(value.try_into().unwrap())).collect();
        assert_eq!(binary, found);
    }
    assert_eq!(metric(address, "poselift_infer_requests_total{answer=\"Ok\"}"), 4.0);
}

#[test]
fn infer_requests_that_are_no_good_are_refused() {
    let limits = Limits { max_infer_frames: 2 * FRAMES, max_body_bytes: 100_000, ..Limits::default() };
    let server = serve(settings(limits));
    let (address, card) = (server.http_address(), lifter().card());
    let path = format!("/v2/models/{}/infer", card.name);
    let good = infer_json(1, &card.input.name, &input(1));
    let with = |change: &dyn Fn(&mut Value)| {
        let mut request = good.clone();
        change(&mut request);
        request.to_string()
    };
    let cases: Vec<(u16, &str, String)> = vec![
        (400, "JSON", "{".into()),
        (400, "JSON", "[]".into()),
        (400, "one input, found 0", json!({ "inputs": [] }).to_string()),
        (400, "expected the input", with(&|r| r["inputs"][0]["name"] = "wrong".into())),
        (400, "datatype FP32", with(&|r| r["inputs"][0]["datatype"] = "INT8".into())),
        (400, "shape", with(&|r| r["inputs"][0]["shape"] = json!([1, FRAMES, 17]))),
        (400, "shape", with(&|r| r["inputs"][0]["shape"] = json!([1, FRAMES, 17, -3]))),
        (400, "shape", with(&|r| r["inputs"][0]["shape"] = json!([0, FRAMES, 17, 3]))),
        (400, "numbers for the shape", with(&|r| r["inputs"][0]["shape"] = json!([2, FRAMES, 17, 3]))),
        (413, "--max-infer-frames", with(&|r| r["inputs"][0]["shape"] = json!([2_147_483_648i64, FRAMES, 17, 3]))),
        (413, "--max-infer-frames", with(&|r| r["inputs"][0]["shape"] = json!([i64::MAX, FRAMES, 17, 3]))),
        (400, "finite", with(&|r| r["inputs"][0]["data"][5] = json!(1e300))),
        (400, "found none", with(&|r| r["inputs"][0]["data"] = Value::Null)),
        (400, "expected the output", with(&|r| r["outputs"] = json!([{ "name": "wrong" }]))),
        (400, "id", with(&|r| r["id"] = "x".repeat(10_000).into())),
    ];
    for (expected, sentence, body) in cases {
        let (status, _, answer) = request(address, "POST", &path, &[], body.as_bytes());
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        let error = answer["error"].as_str().unwrap();
        assert!(status == expected && error.contains(sentence), "{status}: {error}, expected {expected}: {sentence}");
    }
    let big = vec![b' '; 100_001];
    assert_eq!(request(address, "POST", &path, &[], &big).0, 413);
    assert_eq!(request(address, "POST", &path, &[("content-encoding", "gzip")], b"x").0, 400);
    assert_eq!(request(address, "POST", &path, &[("inference-header-content-length", "99")], b"{}").0, 400);
    assert_eq!(request(address, "POST", &path, &[("inference-header-content-length", "-1")], b"{}").0, 400);
    assert_eq!(request(address, "POST", "/v2/models/other/infer", &[], good.to_string().as_bytes()).0, 404);
    assert_eq!(request(address, "POST", &path, &[], good.to_string().as_bytes()).0, 200);
}
