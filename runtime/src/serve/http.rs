//! What is served over HTTP.

use std::sync::Arc;

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{FromRequestParts as _, Path, Request, State, WebSocketUpgrade},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::json;

use super::{
    App,
    inference::{self, BinarySize, EXTENSIONS, Input, OutputAnswer, Problem, TensorMetadata, VERSION},
    listen::Connection,
    metrics::{CONTENT_TYPE, Refused},
    socket, ui,
};

/// Length of the JSON before binary tensors.
const JSON_LENGTH: &str = "inference-header-content-length";

pub(super) fn router(app: Arc<App>) -> Router {
    let mut guarded = Router::new().route("/v1/stream", get(stream)).route("/v2", get(server_metadata)).route("/metrics", get(metrics));
    for model in ["/v2/models/{model}", "/v2/models/{model}/versions/{version}"] {
        guarded = guarded
            .route(model, get(model_metadata))
            .route(&format!("{model}/ready"), get(model_ready))
            .route(&format!("{model}/infer"), post(model_infer));
    }
    if app.ui {
        guarded = guarded.route("/v1/watch", get(ui::watch));
    }
    let router = Router::new()
        .merge(guarded)
        .fallback(|| async { answer(StatusCode::NOT_FOUND, "there is nothing here: see docs/server.md for what is") })
        .method_not_allowed_fallback(|| async { answer(StatusCode::METHOD_NOT_ALLOWED, "this is not asked for with this method") })
        .layer(middleware::from_fn_with_state(app.clone(), guard))
        // health is for whoever keeps the server running, token or not
        .route("/v2/health/live", get(live))
        .route("/v2/health/ready", get(ready));
    let router = match app.ui {
        true => router.route("/", get(ui::the_page)).route("/api/session", get(ui::session)),
        false => router,
    };
    router.layer(middleware::from_fn_with_state(app.clone(), limit_time)).with_state(app)
}

/// An error as the protocol writes it.
pub(super) fn answer(status: StatusCode, error: &str) -> Response {
    json_response(status, &json!({ "error": error }))
}

pub(super) fn json_response(status: StatusCode, json: &impl serde::Serialize) -> Response {
    // only maps with keys that are no texts fail, and there are none
    let text = serde_json::to_string(json).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, error) = match self {
            Self::Bad(error) => (StatusCode::BAD_REQUEST, error),
            Self::Unknown(error) => (StatusCode::NOT_FOUND, error),
            Self::TooBig(error) => (StatusCode::PAYLOAD_TOO_LARGE, error),
            Self::Full(error) | Self::Unavailable(error) => (StatusCode::SERVICE_UNAVAILABLE, error),
            Self::Failed(error) => (StatusCode::INTERNAL_SERVER_ERROR, error),
        };
        answer(status, &error)
    }
}

/// The token, and pages of other sites.
async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if let Some(origin) = request.headers().get(header::ORIGIN)
        && !app.allows_origin(origin, request.headers().get(header::HOST))
    {
        app.metrics.refused(Refused::Token);
        return answer(StatusCode::FORBIDDEN, "a page of this origin may not use this server: allow it with --allow-origin");
    }
    if app.is_allowed(request.headers()) {
        return next.run(request).await;
    }
    app.metrics.refused(Refused::Token);
    let mut response = answer(StatusCode::UNAUTHORIZED, "expected the server's token: send the header \"Authorization: Bearer TOKEN\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// A request that takes too long is given up, so that its place is free.
async fn limit_time(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(app.limits.request_timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => answer(StatusCode::REQUEST_TIMEOUT, "the request took too long (--request-timeout)"),
    }
}

async fn live(State(app): State<Arc<App>>) -> Response {
    let live = !app.engine.hangs();
    let status = if live { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json_response(status, &json!({ "live": live }))
}

async fn ready(State(app): State<Arc<App>>) -> Response {
    ready_answer(&app)
}

fn ready_answer(app: &App) -> Response {
    let ready = app.engine.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json_response(status, &json!({ "ready": ready }))
}

async fn server_metadata() -> Response {
    json_response(StatusCode::OK, &json!({ "name": "poselift", "version": env!("CARGO_PKG_VERSION"), "extensions": EXTENSIONS }))
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], app.metrics.text()).into_response()
}

/// The path's model, and version where it has one.
#[derive(serde::Deserialize)]
struct ModelPath {
    model: String,
    #[serde(default)]
    version: String,
}

async fn model_metadata(State(app): State<Arc<App>>, Path(path): Path<ModelPath>) -> Result<Response, Problem> {
    app.check_model(&path.model, &path.version)?;
    let card = app.engine.card();
    Ok(json_response(
        StatusCode::OK,
        &json!({
            "name": card.name, "versions": [VERSION], "platform": "onnx",
            "inputs": [TensorMetadata::from(&card.input)], "outputs": [TensorMetadata::from(&card.output)],
        }),
    ))
}

async fn model_ready(State(app): State<Arc<App>>, Path(path): Path<ModelPath>) -> Result<Response, Problem> {
    app.check_model(&path.model, &path.version)?;
    Ok(ready_answer(&app))
}

async fn model_infer(
    State(app): State<Arc<App>>,
    Path(path): Path<ModelPath>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    app.check_model(&path.model, &path.version)?;
    // a place before the body: no more of them are in memory than may be
    let _place = app.infer_place()?;
    if headers.contains_key(header::CONTENT_ENCODING) {
        return Err(Problem::Bad("expected a body that is not compressed".to_owned()));
    }
    let json_length = match headers.get(JSON_LENGTH) {
        None => None,
        Some(length) => match length.to_str().ok().and_then(|length| length.parse().ok()) {
            Some(length) => Some(length),
            None => return Err(Problem::Bad("expected Inference-Header-Content-Length to be a number of bytes".to_owned())),
        },
    };
    let body: Bytes = axum::body::to_bytes(body, app.limits.max_body_bytes)
        .await
        .map_err(|_| Problem::TooBig(format!("expected a whole body of at most {} bytes (--max-body-bytes)", app.limits.max_body_bytes)))?;
    let (request, values) = inference::read(&body, json_length)?;
    drop(body);
    let [input] = &request.inputs[..] else { return Err(Problem::Bad("expected one input".to_owned())) };
    let input = Input { name: &input.name, datatype: &input.datatype, shape: &input.shape, values };
    let outputs: Vec<&str> = request.outputs.iter().map(|output| output.name.as_str()).collect();
    let id = request.id.as_deref();
    let (values, shape) = app.infer(input, &outputs, id.unwrap_or_default()).await?;

    let card = app.engine.card();
    let asked = request.outputs.first().and_then(|output| output.parameters.binary_data);
    let binary = asked.unwrap_or(request.parameters.binary_data_output);
    let output = OutputAnswer {
        name: &card.output.name,
        shape,
        datatype: "FP32",
        parameters: binary.then_some(BinarySize { binary_data_size: 4 * values.len() }),
        data: (!binary).then_some(&values),
    };
    let response = inference::Response { model_name: &card.name, model_version: VERSION, id, outputs: [output] };
    if !binary {
        return Ok(json_response(StatusCode::OK, &response));
    }
    let json = serde_json::to_vec(&response).map_err(|error| Problem::Failed(error.to_string()))?;
    let length = HeaderValue::from(json.len());
    let body = [json, inference::bytes(&values)].concat();
    let mut response = ([(header::CONTENT_TYPE, "application/octet-stream")], body).into_response();
    response.headers_mut().insert(JSON_LENGTH, length);
    Ok(response)
}

async fn stream(State(app): State<Arc<App>>, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    // kept until the last message, so that the connection counts
    let connection = parts.extensions.get::<Connection>().cloned();
    let upgrade = match WebSocketUpgrade::from_request_parts(&mut parts, &app).await {
        Ok(upgrade) => upgrade,
        Err(rejection) => return answer(rejection.into_response().status(), "expected a WebSocket: see docs/server.md"),
    };
    if app.engine.is_stopping() {
        return answer(StatusCode::SERVICE_UNAVAILABLE, "the server stops");
    }
    let limit = app.limits.max_message_bytes;
    // what a page offers beside its token
    let upgrade = if app.ui { upgrade.protocols([ui::PROTOCOL]) } else { upgrade };
    upgrade.max_message_size(limit).max_frame_size(limit).read_buffer_size(16 << 10).write_buffer_size(16 << 10).on_upgrade(
        |socket| async move {
            socket::serve(app, socket).await;
            drop(connection);
        },
    )
}
