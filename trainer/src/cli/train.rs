//! `trainer train`.

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, Result, ensure};
use trainer::{
    progress,
    recipe::Recipe,
    train::{Outcome, Run, RunOptions},
};

use super::{DeviceChoice, ranks, set_threads};

/// Exit status of a run that was stopped by Ctrl-C, as shells have it: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

#[derive(clap::Args)]
pub struct Args {
    /// Recipe, such as models/configs/clip-xs.toml.
    #[arg(long)]
    config: PathBuf,
    /// What the recipe's data.kind says. `motion-capture`: folder with mocap_train.npz and mocap_val.npz. `motionbert`:
    /// h36m_sh_conf_cam_source_final.pkl or its folder. `clip-folder`: such as H36M-243. `mpi-inf-3dhp`: folder with data_train_3dhp.npz.
    /// `videopose3d`: folder with data_3d_h36m.npz and data_2d_*.npz.
    #[arg(long)]
    data: PathBuf,
    /// Folder for checkpoints, log and figures.
    #[arg(long)]
    out: PathBuf,
    /// Go on from last.pth in the folder; starts anew where there is none.
    #[arg(long)]
    resume: bool,
    /// Changes a key of the recipe, such as train.batch_size=16. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Passes over the data, instead of the recipe's.
    #[arg(long)]
    epochs: Option<u64>,
    /// Instead of the recipe's.
    #[arg(long)]
    seed: Option<u64>,
    /// Threads to compute with; all cores when absent.
    #[arg(long)]
    threads: Option<usize>,
    /// Where to compute.
    #[arg(long, value_enum, default_value = "cpu")]
    device: DeviceChoice,
    /// Ends the run after so many minutes, resumes included; a cosine schedule anneals over this time.
    #[arg(long)]
    max_minutes: Option<f64>,
    /// Stops after so many steps as Ctrl-C would, to be resumed.
    #[arg(long)]
    max_steps: Option<u64>,
    /// Print each epoch's figures as a line of JSON on standard output.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    ranks: ranks::RankArgs,
}

pub fn run(args: Args) -> Result<ExitCode> {
    set_threads(args.threads)?;
    let mut settings = args.settings;
    settings.extend(args.epochs.map(|epochs| format!("train.epochs={epochs}")));
    settings.extend(args.seed.map(|seed| format!("train.seed={seed}")));
    let recipe = Recipe::read(&args.config, &settings)?;
    if let Some(minutes) = args.max_minutes {
        ensure!(minutes > 0.0 && minutes.is_finite(), "--max-minutes {minutes}: expected a number above 0");
    }
    let options = RunOptions {
        data: args.data,
        out: args.out,
        resume: args.resume,
        device: args.device.open()?,
        max_minutes: args.max_minutes,
        max_steps: args.max_steps,
        json: args.json,
        start: None,
    };
    carry_out(&recipe, &options, args.ranks)
}

/// Trains until the end or until Ctrl-C, with the other processes of the job where there are some.
pub(super) fn carry_out(recipe: &Recipe, options: &RunOptions, ranks: ranks::RankArgs) -> Result<ExitCode> {
    let mut run = Run::among(recipe, options, ranks.join(options.device)?)?;
    if ranks::writes() {
        progress::start_log(Some(&options.out))?;
    } else {
        progress::start_warnings();
    }
    let stop = stop_on_ctrl_c()?;
    match run.train(&stop)? {
        Outcome::Finished => Ok(ExitCode::SUCCESS),
        Outcome::Interrupted => {
            tracing::info!("stopped; go on with --resume");
            Ok(if stop.load(Ordering::Relaxed) { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
        }
    }
}

/// The first Ctrl-C asks for a stop after the step, the second ends at once.
fn stop_on_ctrl_c() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(INTERRUPTED));
        }
    })
    .context("Ctrl-C cannot be handled")?;
    Ok(stop)
}
