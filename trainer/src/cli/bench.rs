//! `trainer bench`.

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Result, ensure};
use trainer::{
    bench::{self, BenchOptions, Parts, Step, Summary},
    recipe::Recipe,
};

use super::{DeviceChoice, set_threads};

#[derive(clap::Args)]
pub struct Args {
    /// Recipe, such as models/configs/motionagformer-b.toml: its model, batch, optimiser, loss, precision and replicas are timed.
    #[arg(long)]
    config: PathBuf,
    /// Data as for `trainer train`; noise when absent, which takes the same time once it is there.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Changes a key of the recipe, such as train.replicas=2. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Frames of a sample, instead of the recipe's.
    #[arg(long)]
    frames: Option<usize>,
    /// Samples of a step, instead of the recipe's.
    #[arg(long)]
    batch: Option<usize>,
    /// Threads to compute with; all cores when absent.
    #[arg(long)]
    threads: Option<usize>,
    /// Where to compute.
    #[arg(long, value_enum, default_value = "cpu")]
    device: DeviceChoice,
    /// Steps that are not counted.
    #[arg(long, default_value_t = 2)]
    warm_up: usize,
    /// Steps that are.
    #[arg(long, default_value_t = 10)]
    steps: usize,
    /// Print a line of JSON for each step, and one with the medians.
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<ExitCode> {
    ensure!(args.steps > 0, "--steps 0: expected at least 1");
    set_threads(args.threads)?;
    let mut settings = args.settings;
    settings.extend(args.batch.map(|batch| format!("train.batch_size={batch}")));
    if let Some(frames) = args.frames {
        let is_live = Recipe::read(&args.config, &settings)?.model.live().is_some();
        settings.push(format!("{}={frames}", if is_live { "data.sequence_frames" } else { "model.n_frames" }));
    }
    let recipe = Recipe::read(&args.config, &settings)?;
    let options = BenchOptions { warm_up: args.warm_up, steps: args.steps, device: args.device.open()? };
    let mut out = std::io::stdout().lock();
    let summary = bench::run(&recipe, args.data.as_deref(), options, |step| {
        if args.json {
            writeln!(out, "{}", serde_json::to_string(step)?)?
        } else {
            eprintln!("{}", in_words(step))
        }
        Ok(())
    })?;
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&summary)?)?
    } else {
        print(&mut out, &summary)?
    }
    Ok(ExitCode::SUCCESS)
}

fn in_words(step: &Step) -> String {
    format!("step {}{}: {:.0} ms, loss {:.4}", step.step, if step.warm_up { " (warm-up)" } else { "" }, step.step_ms, step.loss)
}

fn print(out: &mut impl Write, s: &Summary) -> Result<()> {
    writeln!(
        out,
        "{}: {:.2} M parameters, {} frames, batch {}, {} threads, {}",
        s.model,
        s.parameters as f64 / 1e6,
        s.frames,
        s.batch,
        s.threads,
        s.device
    )?;
    writeln!(out, "{:.3} samples/s; a step takes {:.1} ms (median of {}), of it", s.samples_per_s, s.step_ms, s.steps)?;
    let Parts { data, forward, loss, backward, optimiser } = s.parts_ms;
    let first = if loss.is_some() { "forward" } else { "gradient" };
    let rows = [("data", Some(data)), (first, Some(forward)), ("loss", loss), ("backward", backward), ("optimiser", Some(optimiser))];
    for (name, time_ms) in rows.into_iter().filter_map(|(name, time)| time.map(|time| (name, time))) {
        writeln!(out, "  {name:<10} {time_ms:>9.1} ms  {:>3.0} %", 100.0 * time_ms / s.step_ms)?;
    }
    if let Some(memory) = s.peak_memory_mib {
        writeln!(out, "peak memory {memory:.0} MiB")?;
    }
    Ok(())
}
