//! `trainer finetune`.

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use network::Overrides;
use trainer::{
    checkpoint,
    data::DataKind,
    finetune::{self, Asked},
    report::Change,
    train::{Base, RunOptions, Start},
    tuning::Forgetting,
};

use super::{DeviceChoice, MambaChoice, NormalisationChoice, parse_setting, ranks, set_threads, train::carry_out};

#[derive(clap::Args)]
pub struct Args {
    /// Checkpoint to start from: ours, the official code's, or the original MambaGCN code's.
    checkpoint: PathBuf,
    /// The new data: your own clips, motion capture (a folder with mocap_train.npz and mocap_val.npz, or one .npz whose last takes are held
    /// out), or any other set that `trainer data inspect` knows.
    #[arg(long)]
    data: PathBuf,
    /// Folder for checkpoints, log and figures.
    #[arg(long)]
    out: PathBuf,
    /// Data that the model was trained on before, or the like: its error is reported beside the new one. A folder, or one .npz of motion
    /// capture, which is then only watched.
    #[arg(long, alias = "base")]
    base_data: Option<PathBuf>,
    /// Share of the samples that are of --base-data, such as 0.3.
    #[arg(long, value_name = "SHARE")]
    replay: Option<f64>,
    /// How much the error on --base-data may rise, in mm or percent (3 or 5%): an epoch beyond it is not kept, and the run stops.
    #[arg(long, value_name = "LIMIT")]
    max_forgetting: Option<Forgetting>,
    /// Parameters that stay as they are, * for any characters, such as joints_embed*. May be repeated.
    #[arg(long, value_name = "PATTERN")]
    freeze: Vec<String>,
    /// Rate of each layer, as a factor on that of the layer above it; 1 is the same for all.
    #[arg(long, value_name = "FACTOR")]
    layer_decay: Option<f64>,
    /// Trains adapters of this rank on the linear layers instead of whole weights; they are merged into what is saved.
    #[arg(long, value_name = "RANK")]
    lora: Option<usize>,
    /// Scale of the adapters: alpha / rank; the rank when absent.
    #[arg(long, value_name = "ALPHA", requires = "lora")]
    lora_alpha: Option<f64>,
    /// Ends the run after so many epochs without a lower error on the held-out clips.
    #[arg(long, value_name = "EPOCHS")]
    patience: Option<u64>,
    /// Peak learning rate.
    #[arg(long, value_name = "RATE")]
    learning_rate: Option<f64>,
    /// Passes over the new data.
    #[arg(long)]
    epochs: Option<u64>,
    /// Ends the run after so many minutes, resumes included; the learning rate anneals over this time.
    #[arg(long)]
    max_minutes: Option<f64>,
    /// Stops after so many steps as Ctrl-C would, to be resumed.
    #[arg(long)]
    max_steps: Option<u64>,
    /// A recipe's keys (no [model]) on top of the defaults.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Changes a key of the recipe, such as train.batch_size=8. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Seed of samples and adapters.
    #[arg(long)]
    seed: Option<u64>,
    /// Go on from last.pth in the folder; starts anew where there is none.
    #[arg(long)]
    resume: bool,
    /// Normalisation of a checkpoint that does not say it; `frame`, the references', when absent.
    #[arg(long, value_enum)]
    normalisation: Option<NormalisationChoice>,
    /// Frames per second of a checkpoint that does not say it; 50 when absent.
    #[arg(long)]
    fps: Option<f32>,
    /// Form of the Mamba mixer of a checkpoint that does not say it.
    #[arg(long, value_enum)]
    mamba: Option<MambaChoice>,
    /// What neither shapes nor file of the checkpoint say, such as num_heads=4. May be repeated.
    #[arg(long = "model-set", value_name = "KEY=VALUE")]
    model_settings: Vec<String>,
    /// Threads to compute with; all cores when absent.
    #[arg(long)]
    threads: Option<usize>,
    /// Where to compute.
    #[arg(long, value_enum, default_value = "cpu")]
    device: DeviceChoice,
    /// Print each epoch's figures, and at the end what has changed, as lines of JSON on standard output.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    ranks: ranks::RankArgs,
}

pub fn run(args: Args) -> Result<ExitCode> {
    set_threads(args.threads)?;
    let overrides = Overrides {
        config_file: None,
        set: args.model_settings.iter().map(|setting| parse_setting("--model-set", setting)).collect::<Result<_>>()?,
        mamba: args.mamba.map(MambaChoice::form),
    };
    let (start, metadata) = checkpoint::read(&args.checkpoint, &overrides)?;
    start.notes.iter().for_each(|note| eprintln!("note: {note}"));
    let asked = Asked {
        checkpoint: args.checkpoint.clone(),
        data: args.data.clone(),
        kind: DataKind::of(&args.data)?,
        normalisation: args.normalisation.map(NormalisationChoice::normalisation),
        fps: args.fps,
        config: args.config.clone(),
        settings: settings(&args),
        threads: tch::get_num_threads().max(1) as usize,
    };
    let recipe = finetune::recipe(&start, metadata.as_ref(), &asked)?;
    if let Some(minutes) = args.max_minutes {
        ensure!(minutes > 0.0 && minutes.is_finite(), "--max-minutes {minutes}: expected a number above 0");
    }
    let base = args.base_data.map(|data| Ok::<_, anyhow::Error>(Base { kind: DataKind::of(&data)?, data })).transpose()?;
    let options = RunOptions {
        data: args.data,
        out: args.out,
        resume: args.resume,
        device: args.device.open()?,
        max_minutes: args.max_minutes,
        max_steps: args.max_steps,
        json: args.json,
        start: Some(Start { weights: start.state, base }),
    };
    let code = carry_out(&recipe, &options, args.ranks)?;
    if code == ExitCode::SUCCESS
        && ranks::writes()
        && let Some(change) = Change::read(&options.out)?
    {
        let text = if args.json { serde_json::to_string(&serde_json::json!({ "change": change }))? } else { change.table() };
        writeln!(std::io::stdout(), "{}", text.trim_end()).context("standard output cannot be written")?;
    }
    Ok(code)
}

/// The options that are keys of the recipe; `--set` comes last, and wins.
fn settings(args: &Args) -> Vec<String> {
    let mut settings = Vec::new();
    let mut put = |key: &str, value: Option<String>| settings.extend(value.map(|value| format!("{key}={value}")));
    put("finetune.freeze", (!args.freeze.is_empty()).then(|| format!("{:?}", args.freeze)));
    put("finetune.layer_decay", args.layer_decay.map(|factor| format!("{factor:?}")));
    put("finetune.lora.rank", args.lora.map(|rank| rank.to_string()));
    put("finetune.lora.alpha", args.lora_alpha.map(|alpha| format!("{alpha:?}")));
    put("finetune.patience", args.patience.map(|epochs| epochs.to_string()));
    put("finetune.replay", args.replay.map(|share| format!("{share:?}")));
    put("finetune.max_forgetting", args.max_forgetting.map(|limit| format!("\"{limit}\"")));
    put("train.learning_rate", args.learning_rate.map(|rate| format!("{rate:?}")));
    put("train.epochs", args.epochs.map(|epochs| epochs.to_string()));
    put("train.seed", args.seed.map(|seed| seed.to_string()));
    settings.extend(args.settings.iter().cloned());
    settings
}
