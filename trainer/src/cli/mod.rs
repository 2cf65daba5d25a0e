//! The command line.

mod bench;
mod data;
mod eval;
mod finetune;
mod look_ahead;
mod ranks;
mod report;
mod train;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use network::MambaForm;
use pose::normalise::Normalisation;
use tch::Device;

/// Trains and evaluates lifters of 2D keypoints to 3D poses.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Trains a lifter by a recipe; writes best.pth, last.pth, final.pth, the log, the figures and a report with curves and pictures.
    Train(train::Args),
    /// Goes on training a checkpoint on other data: your own clips, another style. Same files as `train`, and the errors before and after.
    Finetune(Box<finetune::Args>),
    /// Prints a lifter's errors: on motion capture, or by the protocols of Human3.6M and MPI-INF-3DHP.
    Eval(eval::Args),
    /// Measures lifters in live use: the error against look-ahead, and by time since a stream began; a table, a picture and JSON.
    LookAhead(look_ahead::Args),
    /// Writes the page, tables and curves of a run anew from its metrics; `train` does so at its end.
    Report(report::Args),
    /// Inspects, previews and converts data sets.
    Data(data::Args),
    /// Times a training step: samples per second, each part, peak memory.
    Bench(bench::Args),
}

/// Where to compute.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum DeviceChoice {
    Cpu,
    Cuda,
}

impl DeviceChoice {
    /// The device, if it is there.
    fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda => {
                let loaded = poselift_scan_torch::load_cuda_backend()?;
                if !loaded {
                    bail!(
                        "--device cuda: this libtorch has no CUDA half; set LIBTORCH_CUDA_DIR to the lib folder of a PyTorch 2.11 built for CUDA, or use --device cpu"
                    );
                }
                if !tch::Cuda::is_available() {
                    bail!("--device cuda: no CUDA device was found; check the driver with nvidia-smi, or use --device cpu");
                }
                Ok(Device::Cuda(ranks::gpu()))
            }
        }
    }
}

/// How pixels become input.
#[derive(Clone, Copy, ValueEnum)]
enum NormalisationChoice {
    Frame,
    PersonBox,
}

impl NormalisationChoice {
    const fn normalisation(self) -> Normalisation {
        match self {
            Self::Frame => Normalisation::Frame,
            Self::PersonBox => Normalisation::PersonBox,
        }
    }
}

/// Form of the Mamba mixer.
#[derive(Clone, Copy, ValueEnum)]
enum MambaChoice {
    Selective,
    GlobalMean,
}

impl MambaChoice {
    const fn form(self) -> MambaForm {
        match self {
            Self::Selective => MambaForm::Selective,
            Self::GlobalMean => MambaForm::GlobalMean,
        }
    }
}

/// `key=value` of an option.
fn parse_setting(option: &str, setting: &str) -> Result<(String, String)> {
    let (key, value) = setting.split_once('=').with_context(|| format!("{option} {setting}: expected key=value, such as num_heads=4"))?;
    Ok((key.into(), value.into()))
}

/// Threads of libtorch's own pool and of everything else; this process's share of the machine's when none are given.
fn set_threads(threads: Option<usize>) -> Result<()> {
    let available = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = threads.unwrap_or_else(|| ranks::share_of(available));
    if threads == 0 || threads > 1024 {
        bail!("--threads {threads}: expected 1 to 1024");
    }
    tch::set_num_threads(threads as i32);
    Ok(())
}

/// Runs what was asked for.
pub fn run() -> Result<ExitCode> {
    match Cli::parse().command {
        Command::Train(args) => train::run(args),
        Command::Finetune(args) => finetune::run(*args),
        Command::Eval(args) => eval::run(args),
        Command::LookAhead(args) => look_ahead::run(&args),
        Command::Data(args) => data::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Report(args) => report::run(&args),
    }
}
