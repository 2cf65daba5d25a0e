//! `runtime serve`: a model for clients on the network.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use clap::Args;
use runtime::{
    AnyEngine, EngineOptions, Lifter,
    serve::{Limits, Model, ServeError, Server, Settings, Token},
};
use serde_json::json;

use crate::{AssumptionArgs, print};

/// The variable that a token is taken from.
const TOKEN_VARIABLE: &str = "POSELIFT_TOKEN";

/// What docs/server.md says at length.
pub const HELP: &str = "\
Live streams: ws://HOST:PORT/v1/stream. Open Inference Protocol: http://HOST:PORT/v2/health/live, /v2/health/ready, /v2, /v2/models/MODEL, \
/v2/models/MODEL/infer, and inference.GRPCInferenceService on --grpc-port. Prometheus: /metrics. All but health ask for the token, where there \
is one (Authorization: Bearer TOKEN). SIGINT or SIGTERM: streams are lifted to their ends, clients get a goodbye. Messages, errors and limits: \
docs/server.md.";

#[derive(Args)]
pub struct ServeArgs {
    /// The lifter.
    model: PathBuf,
    /// Address to listen on; any but a loopback address needs a token.
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port of HTTP and WebSocket; 0 = any that is free.
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Port of gRPC; 0 = any that is free [default: no gRPC].
    #[arg(long, value_name = "PORT")]
    grpc_port: Option<u16>,
    /// File with the token that clients must send [default: $POSELIFT_TOKEN].
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Let everybody in who can reach the address.
    #[arg(long, conflicts_with = "token_file")]
    no_token: bool,
    /// Web pages of this origin (https://example.org) may use the server; may be given several times.
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,
    /// Show a page at http://HOST:PORT/ that watches every stream, and streams keypoint files: docs/page.md.
    #[arg(long)]
    ui: bool,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    assumptions: AssumptionArgs,
}

#[derive(Args)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Open connections over HTTP and WebSocket, and again as many over gRPC [default: 256].
    #[arg(long, value_name = "N")]
    max_connections: Option<usize>,
    /// Open streams in all [default: 1024].
    #[arg(long, value_name = "N")]
    max_streams: Option<usize>,
    /// Open streams of one connection [default: 256].
    #[arg(long, value_name = "N")]
    max_streams_per_connection: Option<usize>,
    /// Joints of a skeleton [default: 133].
    #[arg(long, value_name = "N")]
    max_joints: Option<usize>,
    /// Bytes of a WebSocket message [default: 65536].
    #[arg(long, value_name = "BYTES")]
    max_message_bytes: Option<usize>,
    /// Bytes of the body of an HTTP or gRPC request [default: 4194304].
    #[arg(long, value_name = "BYTES")]
    max_body_bytes: Option<usize>,
    /// Frames of one stream that wait for the engine; more drop the oldest [default: 32].
    #[arg(long, value_name = "N")]
    queue_frames: Option<usize>,
    /// Poses of one stream that wait for their client to read; more drop the oldest [default: 64].
    #[arg(long, value_name = "N")]
    output_poses: Option<usize>,
    /// Infer requests that are read, wait or run [default: 16].
    #[arg(long, value_name = "N")]
    max_infer_requests: Option<usize>,
    /// Frames, batch times window, of one infer request [default: 4096].
    #[arg(long, value_name = "N")]
    max_infer_frames: Option<usize>,
    /// Messages within a minute that a connection may send in vain [default: 100].
    #[arg(long, value_name = "N")]
    max_bad_messages: Option<u32>,
    /// Seconds without a frame after which a stream ends, and without a stream or a sign of life a connection [default: 60].
    #[arg(long, value_name = "S", value_parser = seconds)]
    idle: Option<Duration>,
    /// Seconds that a client may take to read what is sent to it [default: 10].
    #[arg(long, value_name = "S", value_parser = seconds)]
    write_timeout: Option<Duration>,
    /// Seconds for the head of a request, and for the whole [default: 30].
    #[arg(long, value_name = "S", value_parser = seconds)]
    request_timeout: Option<Duration>,
    /// Seconds that stopping may take [default: 5].
    #[arg(long, value_name = "S", value_parser = seconds)]
    stop_timeout: Option<Duration>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.01..=86_400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("expected 0.01 to 86400 seconds, found \"{text}\"")),
    }
}

impl LimitArgs {
    fn limits(&self) -> Limits {
        let defaults = Limits::default();
        Limits {
            max_connections: self.max_connections.unwrap_or(defaults.max_connections),
            max_streams: self.max_streams.unwrap_or(defaults.max_streams),
            max_streams_per_connection: self.max_streams_per_connection.unwrap_or(defaults.max_streams_per_connection),
            max_joints: self.max_joints.unwrap_or(defaults.max_joints),
            max_message_bytes: self.max_message_bytes.unwrap_or(defaults.max_message_bytes),
            max_body_bytes: self.max_body_bytes.unwrap_or(defaults.max_body_bytes),
            queue_frames: self.queue_frames.unwrap_or(defaults.queue_frames),
            output_poses: self.output_poses.unwrap_or(defaults.output_poses),
            max_infer_requests: self.max_infer_requests.unwrap_or(defaults.max_infer_requests),
            max_infer_frames: self.max_infer_frames.unwrap_or(defaults.max_infer_frames),
            max_bad_messages: self.max_bad_messages.unwrap_or(defaults.max_bad_messages),
            idle: self.idle.unwrap_or(defaults.idle),
            write_timeout: self.write_timeout.unwrap_or(defaults.write_timeout),
            request_timeout: self.request_timeout.unwrap_or(defaults.request_timeout),
            stop_timeout: self.stop_timeout.unwrap_or(defaults.stop_timeout),
        }
    }
}

/// Serves until it is told to stop. One line says where, as soon as clients may come.
pub fn serve(args: &ServeArgs, options: &EngineOptions, json: bool) -> anyhow::Result<()> {
    let settings = Settings {
        host: args.host.clone(),
        port: args.port,
        grpc_port: args.grpc_port,
        token: token(args)?,
        allow_no_token: args.no_token,
        allow_origins: args.allow_origin.clone(),
        ui: args.ui,
        limits: args.limits.limits(),
    };
    let (path, options, assumptions) = (args.model.clone(), options.clone(), args.assumptions.assumptions());
    let open = move || {
        let lifter = Lifter::new(AnyEngine::open(&path, &options)?, &assumptions)?;
        Ok(Box::new(lifter) as Box<dyn Model>)
    };
    let has_token = settings.token.is_some();
    let server = Server::start(settings, Box::new(open))?;
    let (http, grpc, model) = (server.http_address(), server.grpc_address(), server.model().name.clone());
    if !http.ip().is_loopback() && !has_token {
        tracing::warn!("everybody who can reach {http} is let in");
    }
    let text = match grpc {
        None => format!("{model} at ws://{http}/v1/stream and http://{http}/v2"),
        Some(grpc) => format!("{model} at ws://{http}/v1/stream, http://{http}/v2 and grpc://{grpc}"),
    };
    let text = if args.ui { format!("{text}; page: http://{http}/") } else { text };
    let line = json!({ "model": model, "http": http.to_string(), "grpc": grpc.map(|grpc| grpc.to_string()), "token": has_token });
    print(&if json { line.to_string() } else { text })?;
    server.run_until_signal().map_err(ServeError::into)
}

fn token(args: &ServeArgs) -> anyhow::Result<Option<Token>> {
    let (text, source) = match (&args.token_file, std::env::var(TOKEN_VARIABLE)) {
        _ if args.no_token => return Ok(None),
        (Some(path), _) => (
            std::fs::read_to_string(path).with_context(|| format!("cannot read the token in {}", path.display()))?,
            path.display().to_string(),
        ),
        (None, Ok(text)) => (text, format!("${TOKEN_VARIABLE}")),
        (None, Err(std::env::VarError::NotPresent)) => return Ok(None),
        (None, Err(error)) => bail!("cannot read the token in ${TOKEN_VARIABLE}: {error}"),
    };
    match Token::new(&text) {
        Ok(token) => Ok(Some(token)),
        Err(error) => bail!("{source}: {error}"),
    }
}
