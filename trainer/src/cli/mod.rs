//! The command line.

mod data;
mod eval;
mod report;
mod train;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
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
    /// Prints a lifter's errors: on motion capture, or by the protocols of Human3.6M and MPI-INF-3DHP.
    Eval(eval::Args),
    /// Writes the page, tables and curves of a run anew from its metrics; `train` does so at its end.
    Report(report::Args),
    /// Inspects, previews and converts data sets.
    Data(data::Args),
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
                Ok(Device::Cuda(0))
            }
        }
    }
}

/// Threads of libtorch's own pool and of everything else.
fn set_threads(threads: Option<usize>) -> Result<()> {
    let available = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = threads.unwrap_or(available);
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
        Command::Eval(args) => eval::run(args),
        Command::Data(args) => data::run(args),
        Command::Report(args) => report::run(&args),
    }
}
