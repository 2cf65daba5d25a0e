//! Runs lifters from the command line.

mod bench;
mod doctor;
mod lines;
#[cfg(feature = "serve")]
mod serve;
mod vmc;

use std::{
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::ExitCode,
    str::FromStr,
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};
use formats::{Data, Tensor};
use indicatif::{ProgressBar, ProgressStyle};
use pose::{ImageSize, camera::Intrinsics, joint_map::Source, normalise::Normalisation, world::Scale};
use runtime::{
    AnyEngine, Assumptions, Backend, Binding, Device, Engine, EngineOptions, LiftOptions, Lifter, OneEuroSettings, StreamSettings,
};
use serde_json::json;

/// Lifts 2D human keypoints to 3D poses with an ONNX model.
#[derive(Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    /// Print the result as one JSON object.
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct EngineArgs {
    /// What runs the model: ort (ONNX Runtime) or tract (pure Rust, needs no library).
    #[arg(long, global = true, default_value = "ort", value_name = "ort|tract")]
    engine: Backend,
    /// Where the model runs: cpu, cuda, cuda:N, tensorrt, tensorrt:N, or auto (the first GPU that works, else cpu; the log says which). A
    /// device that was named and cannot be used is an error.
    #[arg(long, global = true, default_value = "cpu")]
    device: Device,
    /// Threads; 0 = as many as there are processors.
    #[arg(long, global = true, default_value_t = 0)]
    threads: usize,
    /// Run the function of standard operators in the file instead of our selective scan.
    #[arg(long, global = true)]
    no_custom_op: bool,
    /// Whether inputs, outputs and the states of streams stay in memory that the engine keeps on its device: auto (on a GPU), on or off.
    #[arg(long, global = true, default_value = "auto", value_name = "auto|on|off")]
    binding: Binding,
    /// Capture the model's run as a CUDA graph, one for each shape of its inputs, and replay it. On --device cuda.
    #[arg(long, global = true)]
    cuda_graph: bool,
    /// The ONNX Runtime library, or its folder [default: $ORT_DYLIB_PATH, then .native/onnxruntime/lib].
    #[arg(long, global = true, value_name = "PATH")]
    onnxruntime: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Runs raw tensors through a model: the way to check one from outside.
    Run {
        /// The lifter.
        model: PathBuf,
        /// f32 (B, T, 17, C), in the model's normalised units.
        #[arg(long, value_name = "X.npy")]
        input: PathBuf,
        /// f32 (B, T, 17, 3).
        #[arg(long, value_name = "Y.npy")]
        output: PathBuf,
    },
    /// Lifts the 2D keypoints of a clip, or of live streams (--stream).
    #[command(after_long_help = STREAM_HELP)]
    Lift(Box<LiftArgs>),
    /// Serves a model to clients on the network: live streams over WebSocket, the Open Inference Protocol over HTTP and gRPC, metrics.
    #[cfg(feature = "serve")]
    #[command(after_help = serve::HELP)]
    Serve(Box<serve::ServeArgs>),
    /// Says what a model is and expects.
    Info {
        /// The lifter.
        model: PathBuf,
    },
    /// Says what is there, what is missing, and the command that mends it. Exit status 1 when models cannot be run.
    Doctor {
        /// A lifter to try [default: the first in the project's models/].
        model: Option<PathBuf>,
    },
    /// Measures a model: times of a call, clips and frames a second, memory; or live streams (--streams).
    Bench(bench::BenchArgs),
}

/// What `--stream` reads and writes.
const STREAM_HELP: &str = "\
Live streams (--stream): one JSON object a line, in and out, each line flushed at once.

In, a frame of one person:

  {\"time_s\": 12.345, \"keypoints\": [[960.5, 210.0, 0.98], null, ...], \"id\": \"left camera\"}

Joints stand in the order of --skeleton: x right and y down from the top left corner in pixels, confidence 0 to 1; null is a joint that is \
missing, and \"keypoints\": null a frame in which nobody is seen. Times rise. The id (a text or a whole number) may be left out; it tells \
several streams apart. {\"end\": true, \"id\": ...} ends a stream, the end of the input ends all.

Out, a pose for each frame, in order: time_s (that of the frame), delay_s (how much later the newest frame is that was waited for), held (the \
person was not seen), restarted (the first pose of a person), confidence (17), pose25 (17 x 3, normalised), transform (centre_px, \
half_size_px), root_px, camera_mm (17 x 3: x right, y down, z away), root_depth_mm, world_mm (17 x 3: z up, floor at 0), world_from_camera, \
scale_source, height_m; and the id. Joints are those of Human3.6M.

With --udp, each datagram is such a line. With --vmc, every pose goes out by the VMC protocol (OSC) too: /VMC/Ext/OK, T, Root/Pos and a \
Bone/Pos for each bone, Unity's axes and names.

A line that is no good is answered by {\"error\": \"one sentence\", \"line\": its number, from 1}, and the stream goes on.";

#[derive(Args)]
struct LiftArgs {
    /// The lifter.
    model: PathBuf,
    /// 2D keypoints of one person over a clip; - means --stream.
    #[arg(long, value_name = "FILE.json|npz", required_unless_present = "stream", conflicts_with = "stream")]
    keypoints: Option<PathBuf>,
    /// The 3D poses.
    #[arg(long, value_name = "FILE.json|npz", conflicts_with = "stream")]
    output: Option<PathBuf>,
    /// The person's height in metres [default: 1.70].
    #[arg(long, value_name = "M", allow_negative_numbers = true)]
    height: Option<f32>,
    /// The camera's horizontal field of view in degrees [default: 60].
    #[arg(long, value_name = "DEG", allow_negative_numbers = true)]
    fov: Option<f32>,
    /// Average with the prediction for the mirrored picture.
    #[arg(long)]
    flip: bool,
    /// Frames that neighbouring windows of a clip share at least [default: a third of a window].
    #[arg(long, value_name = "N", conflicts_with = "stream")]
    overlap: Option<usize>,
    #[command(flatten)]
    assumptions: AssumptionArgs,
    #[command(flatten)]
    stream: StreamArgs,
}

/// For lines from a live source.
#[derive(Args)]
#[command(next_help_heading = "Live streams")]
struct StreamArgs {
    /// Read frames from standard input as lines of JSON and write a line for each pose to standard output, see the end of --help.
    #[arg(long)]
    stream: bool,
    /// Read frames from datagrams at this address instead, a line in each.
    #[arg(long, value_name = "ADDRESS:PORT", requires = "stream")]
    udp: Option<SocketAddr>,
    /// Send poses to the avatar or game engine at this address too, by the VMC protocol; of several streams, the first.
    #[arg(long, value_name = "ADDRESS:PORT", requires = "stream")]
    vmc: Option<SocketAddr>,
    /// Size of the picture that the keypoints come from, in pixels: needed for a stream.
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = image_size)]
    image_size: Option<ImageSize>,
    /// Whose joints the lines hold: h36m17, blazepose33, coco17, halpe26, body25, mpi3dhp17 or cocowholebody133.
    #[arg(long, default_value_t = Source::H36m17)]
    skeleton: Source,
    /// Frames at the model's rate that are waited for after a frame: a later and better pose; 0 = none [default: 4].
    #[arg(long, value_name = "N")]
    look_ahead: Option<usize>,
    /// Frames at the model's rate between two runs of the model: more is cheaper, and poses come in groups [default: 1].
    #[arg(long, value_name = "N")]
    hop: Option<usize>,
    /// Seconds over which a person who is not seen is held [default: 0.5].
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    hold: Option<f64>,
    /// Time constant in seconds with which poses pass from one window to the next; 0 = they may jump [default: 0.05].
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    blend: Option<f64>,
    /// Take jitter out with a One-Euro filter; or with these cutoff at rest (Hz) and beta (Hz s/mm) [default: 1,0.01].
    #[arg(long, value_name = "HZ,BETA", num_args = 0..=1, default_missing_value = "1,0.01", value_parser = one_euro)]
    one_euro: Option<OneEuroSettings>,
    /// Give each bone one length.
    #[arg(long)]
    constant_bones: bool,
    /// Streams at a time.
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_streams: usize,
}

/// `1920x1080`.
fn image_size(text: &str) -> Result<ImageSize, String> {
    let sides = text.split_once('x').and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    match sides {
        Some((width_px, height_px)) if width_px > 0 && height_px > 0 => Ok(ImageSize { width_px, height_px }),
        _ => Err(format!("expected width and height in pixels, such as 1920x1080, found \"{text}\"")),
    }
}

/// `HZ,BETA`.
fn one_euro(text: &str) -> Result<OneEuroSettings, String> {
    let number = |text: &str| f64::from_str(text.trim()).ok();
    match text.split_once(',').and_then(|(hz, beta)| Some((number(hz)?, number(beta)?))) {
        Some((min_cutoff_hz, beta)) => Ok(OneEuroSettings { min_cutoff_hz, beta }),
        None => Err(format!("expected a cutoff in Hz and a beta, such as 1,0.01, found \"{text}\"")),
    }
}

/// For a file that does not describe itself.
#[derive(Args)]
#[command(next_help_heading = "For a model without metadata")]
struct AssumptionArgs {
    /// How pixels become its input: frame or person_box [default: frame].
    #[arg(long)]
    normalisation: Option<Normalisation>,
    /// Frames in a window, where the graph takes any number.
    #[arg(long, value_name = "N")]
    frames: Option<usize>,
    /// Frames a second that it was trained at [default: any].
    #[arg(long, value_name = "FPS")]
    fps: Option<f32>,
}

impl AssumptionArgs {
    fn assumptions(&self) -> Assumptions {
        Assumptions { normalisation: self.normalisation, frames: self.frames, fps: self.fps }
    }
}

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    match run(&Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes, without the causes that it names itself.
fn sentence(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| match said.as_str() {
        "" => cause,
        _ if said.contains(&cause) => said,
        _ => format!("{said}: {cause}"),
    })
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let options = EngineOptions {
        backend: cli.engine.engine,
        device: cli.engine.device,
        threads: cli.engine.threads,
        custom_op: !cli.engine.no_custom_op,
        binding: cli.engine.binding,
        cuda_graph: cli.engine.cuda_graph,
        onnxruntime: cli.engine.onnxruntime.clone(),
    };
    if let Command::Doctor { model } = &cli.command {
        let diagnosis = doctor::examine(model.as_deref(), &options);
        print(if cli.json { &diagnosis.json } else { &diagnosis.text })?;
        return Ok(if diagnosis.can_run { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let (text, json) = match &cli.command {
        Command::Run { model, input, output } => run_tensor(model, input, output, &options)?,
        Command::Lift(args) if args.stream.stream || args.keypoints.as_deref() == Some(Path::new("-")) => {
            return lift_lines(args, &options).map(|()| ExitCode::SUCCESS);
        }
        Command::Lift(args) => lift(args, &options)?,
        #[cfg(feature = "serve")]
        Command::Serve(args) => return serve::serve(args, &options, cli.json).map(|()| ExitCode::SUCCESS),
        Command::Info { model } => info(model, &options)?,
        Command::Bench(args) => bench::bench(args, &options)?,
        Command::Doctor { .. } => return Ok(ExitCode::SUCCESS), // answered above
    };
    print(if cli.json { &json } else { &text })?;
    Ok(ExitCode::SUCCESS)
}

/// One line or block on standard output; a reader that has gone away is no error.
#[allow(clippy::print_stdout)]
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to standard output"),
    }
}

/// The result for people and as JSON.
type Report = (String, String);

fn run_tensor(model: &Path, input: &Path, output: &Path, options: &EngineOptions) -> anyhow::Result<Report> {
    check_writable(output)?;
    let tensor = formats::npy::read(input)?;
    let Ok(shape) = <[usize; 4]>::try_from(tensor.shape.as_slice()) else {
        bail!("{}: expected the shape (B, T, 17, C), found {:?}", input.display(), tensor.shape);
    };
    let Data::F32(values) = &tensor.data else {
        bail!("{}: expected f32, found {:?}: save it with .astype(\"float32\")", input.display(), tensor.dtype());
    };
    let engine = Engine::open(model, options)?;
    let start = Instant::now();
    let poses = engine.run(values, shape)?;
    let seconds = start.elapsed().as_secs_f64();
    let shape_out = [shape[0], shape[1], pose::JOINTS, 3];
    formats::npy::write(output, &Tensor::new(shape_out, Data::F32(poses))?)?;
    let text = format!("{shape:?} -> {shape_out:?} in {:.1} ms: {}", seconds * 1e3, output.display());
    let json = json!({ "input_shape": shape, "output_shape": shape_out, "seconds": seconds, "output": output });
    Ok((text, json.to_string()))
}

/// Lines in, lines out; the log says how many.
fn lift_lines(args: &LiftArgs, options: &EngineOptions) -> anyhow::Result<()> {
    let stream = &args.stream;
    let Some(image) = stream.image_size else {
        bail!("expected the size of the picture that a stream's keypoints come from: give --image-size WIDTHxHEIGHT");
    };
    if args.output.is_some() || args.overlap.is_some() {
        bail!(
            "--output and --overlap are for clips: a stream's poses go to standard output, and --look-ahead and --hop say how windows lie"
        );
    }
    if stream.max_streams == 0 {
        bail!("expected --max-streams to be at least 1, found 0");
    }
    let streaming = StreamSettings {
        image,
        skeleton: stream.skeleton,
        look_ahead: stream.look_ahead,
        hop: stream.hop,
        hold_s: stream.hold,
        blend_s: stream.blend,
        flip: args.flip,
        height_m: args.height,
        fov_deg: args.fov,
        one_euro: stream.one_euro,
        constant_bones: stream.constant_bones,
    };
    let streaming = streaming.options()?;
    let lifter = Arc::new(Lifter::new(AnyEngine::open(&args.model, options)?, &args.assumptions.assumptions())?);
    // said now, not with the first line
    lifter.stream_core(image, streaming.clone())?;
    let settings = lines::Settings { lifter, image, source: stream.skeleton, options: streaming, max_streams: stream.max_streams };
    let vmc = stream.vmc.map(vmc::Vmc::new).transpose()?;
    let output = std::io::BufWriter::new(std::io::stdout().lock());
    let summary = match stream.udp {
        None => lines::lift(std::io::stdin().lock(), output, &settings, vmc),
        Some(address) => {
            let socket = UdpSocket::bind(address).with_context(|| format!("cannot listen for datagrams at {address}"))?;
            tracing::info!("frames are taken as datagrams at {}", socket.local_addr()?);
            lines::lift_datagrams(&socket, output, &settings, vmc)
        }
    };
    let summary = summary.context("a stream cannot be read or written")?;
    tracing::info!("{} lines, {} poses, {} refused", summary.lines, summary.poses, summary.refused);
    Ok(())
}

fn lift(args: &LiftArgs, options: &EngineOptions) -> anyhow::Result<Report> {
    let Some(keypoints) = &args.keypoints else { bail!("expected the 2D keypoints of a clip: give --keypoints FILE, or --stream") };
    let Some(output) = &args.output else { bail!("expected a file for the 3D poses: give --output FILE.json or FILE.npz") };
    let npz = match output.extension().and_then(|extension| extension.to_str()) {
        Some("npz") => true,
        Some("json") => false,
        _ => bail!("expected an output file that ends in .json or .npz, found {}", output.display()),
    };
    check_writable(output)?;
    let clip = formats::keypoints::read(keypoints)?;
    let intrinsics = args.fov.map(|fov| Intrinsics::from_horizontal_fov_deg(clip.image, fov)).transpose()?;
    let scale = args.height.map_or(Scale::DefaultHeight, |height_m| Scale::Height { height_m });
    let lifter = Lifter::new(AnyEngine::open(&args.model, options)?, &args.assumptions.assumptions())?;

    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template("lifting {wide_bar} {pos}/{len} windows, {eta} left")?);
    let start = Instant::now();
    let options = LiftOptions { flip: args.flip, overlap: args.overlap, scale, intrinsics, ..LiftOptions::default() };
    let lifted = lifter.lift_with_progress(&clip, &options, &mut |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let lifted = lifted?;
    let seconds = start.elapsed().as_secs_f64();
    if npz {
        lifted.write_npz(output)?
    } else {
        lifted.write_json(output)?
    }

    let frames_per_s = lifted.len() as f64 / seconds;
    let text = format!(
        "{} frames in {seconds:.2} s ({frames_per_s:.0} frames/s), a person of {:.2} m (scale from {}): {}",
        lifted.len(),
        lifted.height_m,
        lifted.scale_source,
        output.display()
    );
    let json = json!({
        "model": lifted.model,
        "frames": lifted.len(),
        "seconds": seconds,
        "scale_source": lifted.scale_source,
        "height_m": lifted.height_m,
        "output": output,
    });
    Ok((text, json.to_string()))
}

fn info(model: &Path, options: &EngineOptions) -> anyhow::Result<Report> {
    let engine = AnyEngine::open(model, options)?;
    let mut lines = vec![format!("file           {}", model.display())];
    lines.extend(engine.inputs().iter().map(|port| format!("input          {port}")));
    lines.extend(engine.outputs().iter().map(|port| format!("output         {port}")));
    match engine.metadata() {
        None => lines.push("metadata       none: by default windows are normalised by the frame and clips not resampled".into()),
        Some(m) => lines.extend([
            format!("name           {}", m.name),
            format!("architecture   {} ({} parameters)", m.architecture, m.parameters),
            format!("skeleton       {}", m.skeleton),
            match (m.is_step(), m.frames_dynamic) {
                (true, _) => "window         one frame at a time, with states".to_owned(),
                (false, dynamic) => format!("window         {} frames{}", m.frames, if dynamic { " (any number runs)" } else { "" }),
            },
            match m.causal {
                true => {
                    format!("look-ahead     {} frames ({:.0} ms): the model is causal", m.look_ahead, 1e3 * m.look_ahead as f32 / m.fps)
                }
                false => "look-ahead     a whole window: the model is not causal".to_owned(),
            },
            format!("trained at     {} frames/s", m.fps),
            format!("normalisation  {}", m.normalisation),
            format!("top-k graph    {}", if m.has_top_k_graph { "yes: engines may differ where frames are alike" } else { "no" }),
            format!("trained on     {}", m.trained_on),
            format!("licence        {}", m.licence),
        ]),
    }
    let json = json!({
        "file": model,
        "input": engine.inputs()[0],
        "output": engine.outputs()[0],
        "inputs": engine.inputs(),
        "outputs": engine.outputs(),
        "metadata": engine.metadata(),
        "engine": engine.backend().to_string(),
        "onnxruntime": runtime::loaded_library(),
    });
    Ok((lines.join("\n"), json.to_string()))
}

/// Fails before the work, not after it, where the result could not be written.
fn check_writable(output: &Path) -> anyhow::Result<()> {
    if output.is_dir() {
        bail!("cannot write {}: it is a folder", output.display());
    }
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        bail!("cannot write {}: there is no folder {}", output.display(), folder.display());
    }
    match tempfile::tempfile_in(folder) {
        Ok(_) => Ok(()),
        Err(error) => bail!("cannot write {}: {}", output.display(), error),
    }
}
