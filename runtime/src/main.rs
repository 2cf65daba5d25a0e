//! Runs lifters from the command line.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};
use formats::{Data, Tensor};
use indicatif::{ProgressBar, ProgressStyle};
use pose::{camera::Intrinsics, normalise::Normalisation, world::Scale};
use runtime::{Assumptions, Device, Engine, EngineOptions, LiftOptions, Lifter};
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
    /// Where the model runs: cpu, cuda or cuda:N.
    #[arg(long, global = true, default_value = "cpu")]
    device: Device,
    /// Threads; 0 = as many as there are processors.
    #[arg(long, global = true, default_value_t = 0)]
    threads: usize,
    /// Run the function of standard operators in the file instead of our selective scan.
    #[arg(long, global = true)]
    no_custom_op: bool,
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
    /// Lifts the 2D keypoints of a clip.
    Lift(LiftArgs),
    /// Says what a model is and expects.
    Info {
        /// The lifter.
        model: PathBuf,
    },
}

#[derive(Args)]
struct LiftArgs {
    /// The lifter.
    model: PathBuf,
    /// 2D keypoints of one person over a clip.
    #[arg(long, value_name = "FILE.json|npz")]
    keypoints: PathBuf,
    /// The 3D poses.
    #[arg(long, value_name = "FILE.json|npz")]
    output: PathBuf,
    /// The person's height in metres [default: 1.70].
    #[arg(long, value_name = "M", allow_negative_numbers = true)]
    height: Option<f32>,
    /// The camera's horizontal field of view in degrees [default: 60].
    #[arg(long, value_name = "DEG", allow_negative_numbers = true)]
    fov: Option<f32>,
    /// Average with the prediction for the mirrored picture.
    #[arg(long)]
    flip: bool,
    /// Frames that neighbouring windows share at least [default: a third of a window].
    #[arg(long, value_name = "N")]
    overlap: Option<usize>,
    #[command(flatten)]
    assumptions: AssumptionArgs,
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

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
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

fn run(cli: &Cli) -> anyhow::Result<()> {
    let options = EngineOptions {
        device: cli.engine.device,
        threads: cli.engine.threads,
        custom_op: !cli.engine.no_custom_op,
        onnxruntime: cli.engine.onnxruntime.clone(),
    };
    let (text, json) = match &cli.command {
        Command::Run { model, input, output } => run_tensor(model, input, output, &options)?,
        Command::Lift(args) => lift(args, &options)?,
        Command::Info { model } => info(model, &options)?,
    };
    print(if cli.json { &json } else { &text })
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

fn lift(args: &LiftArgs, options: &EngineOptions) -> anyhow::Result<Report> {
    let npz = match args.output.extension().and_then(|extension| extension.to_str()) {
        Some("npz") => true,
        Some("json") => false,
        _ => bail!("expected an output file that ends in .json or .npz, found {}", args.output.display()),
    };
    check_writable(&args.output)?;
    let clip = formats::keypoints::read(&args.keypoints)?;
    let intrinsics = args.fov.map(|fov| Intrinsics::from_horizontal_fov_deg(clip.image, fov)).transpose()?;
    let scale = args.height.map_or(Scale::DefaultHeight, |height_m| Scale::Height { height_m });
    let AssumptionArgs { normalisation, frames, fps } = args.assumptions;
    let lifter = Lifter::new(Engine::open(&args.model, options)?, &Assumptions { normalisation, frames, fps })?;

    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template("lifting {wide_bar} {pos}/{len} windows, {eta} left")?);
    let start = Instant::now();
    let options = LiftOptions { flip: args.flip, overlap: args.overlap, scale, intrinsics };
    let lifted = lifter.lift_with_progress(&clip, &options, &mut |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let lifted = lifted?;
    let seconds = start.elapsed().as_secs_f64();
    if npz {
        lifted.write_npz(&args.output)?
    } else {
        lifted.write_json(&args.output)?
    }

    let frames_per_s = lifted.len() as f64 / seconds;
    let text = format!(
        "{} frames in {seconds:.2} s ({frames_per_s:.0} frames/s), a person of {:.2} m (scale from {}): {}",
        lifted.len(),
        lifted.height_m,
        lifted.scale_source,
        args.output.display()
    );
    let json = json!({
        "model": lifted.model,
        "frames": lifted.len(),
        "seconds": seconds,
        "scale_source": lifted.scale_source,
        "height_m": lifted.height_m,
        "output": args.output,
    });
    Ok((text, json.to_string()))
}

fn info(model: &Path, options: &EngineOptions) -> anyhow::Result<Report> {
    let engine = Engine::open(model, options)?;
    let mut lines = vec![
        format!("file           {}", model.display()),
        format!("input          {}", engine.input()),
        format!("output         {}", engine.output()),
    ];
    match engine.metadata() {
        None => lines.push("metadata       none: by default windows are normalised by the frame and clips not resampled".into()),
        Some(m) => lines.extend([
            format!("name           {}", m.name),
            format!("architecture   {} ({} parameters)", m.architecture, m.parameters),
            format!("skeleton       {}", m.skeleton),
            format!("window         {} frames{}", m.frames, if m.frames_dynamic { " (any number runs)" } else { "" }),
            format!("trained at     {} frames/s", m.fps),
            format!("normalisation  {}", m.normalisation),
            format!("top-k graph    {}", if m.has_top_k_graph { "yes: engines may differ where frames are alike" } else { "no" }),
            format!("trained on     {}", m.trained_on),
            format!("licence        {}", m.licence),
        ]),
    }
    let json = json!({
        "file": model,
        "input": engine.input(),
        "output": engine.output(),
        "metadata": engine.metadata(),
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
