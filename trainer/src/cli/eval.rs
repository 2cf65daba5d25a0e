//! `trainer eval`.

use std::{io::Write, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use datasets::{
    CameraKind, ClipSampler, EvaluationOptions, EvaluationSet, Figures, MocapSet, NoiseRecipe, Report, SamplerOptions, Windowing,
};
use network::{MambaForm, Overrides};
use pose::normalise::Normalisation;
use serde::Serialize;
use trainer::{checkpoint, evaluate};

use super::{DeviceChoice, set_threads};

#[derive(Clone, Copy, ValueEnum)]
enum Split {
    Train,
    Val,
    Test,
}

#[derive(Clone, Copy, ValueEnum)]
enum NormalisationChoice {
    Frame,
    PersonBox,
}

#[derive(Clone, Copy, ValueEnum)]
enum MambaChoice {
    Selective,
    GlobalMean,
}

#[derive(clap::Args)]
pub struct Args {
    /// Checkpoint: ours, the official code's, or the original MambaGCN code's.
    model: PathBuf,
    /// Folder with mocap_train.npz (for the baselines) and the split's file.
    #[arg(long)]
    data: PathBuf,
    /// Which file of the folder.
    #[arg(long, value_enum, default_value = "test")]
    split: Split,
    /// Leave the mean pose and the linear regression out.
    #[arg(long)]
    no_baselines: bool,
    /// Noise recipe of the noisy conditions; the built-in one when absent.
    #[arg(long)]
    noise: Option<PathBuf>,
    /// Normalisation of a model that does not say it; `frame`, the references', when absent.
    #[arg(long, value_enum)]
    normalisation: Option<NormalisationChoice>,
    /// Frames per second of a model that does not say it; 50 when absent.
    #[arg(long)]
    fps: Option<f32>,
    /// Form of the Mamba mixer of a file that does not say it.
    #[arg(long, value_enum)]
    mamba: Option<MambaChoice>,
    /// A flat configuration file of the reference.
    #[arg(long)]
    config: Option<PathBuf>,
    /// What neither shapes nor file say, such as num_heads=4. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Threads to compute with; all cores when absent.
    #[arg(long)]
    threads: Option<usize>,
    /// Where to compute.
    #[arg(long, value_enum, default_value = "cpu")]
    device: DeviceChoice,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Output {
    model: String,
    split: &'static str,
    rows: Vec<evaluate::Row>,
}

const MODEL: &str = "model";
const MODEL_FLIP: &str = "model, flip averaging";
const MEAN_POSE: &str = "mean pose";
const LINEAR: &str = "linear regression";

pub fn run(args: Args) -> Result<ExitCode> {
    set_threads(args.threads)?;
    ensure!(args.data.is_dir(), "{}: no such folder; --data names the folder with mocap_train.npz and mocap_test.npz", args.data.display());
    let overrides = Overrides {
        config_file: args.config.clone(),
        set: args.settings.iter().map(|setting| parse_setting(setting)).collect::<Result<_>>()?,
        mamba: args.mamba.map(|mamba| match mamba {
            MambaChoice::Selective => MambaForm::Selective,
            MambaChoice::GlobalMean => MambaForm::GlobalMean,
        }),
    };
    let opened = checkpoint::open(&args.model, &overrides, args.device.open()?)?;
    opened.checkpoint.notes.iter().for_each(|note| eprintln!("note: {note}"));
    let config = &opened.checkpoint.config;
    let (normalisation, fps) = match &opened.metadata {
        Some(metadata) => (metadata.normalisation, metadata.fps),
        None => (Normalisation::Frame, 50.0),
    };
    let normalisation = args.normalisation.map_or(normalisation, |choice| match choice {
        NormalisationChoice::Frame => Normalisation::Frame,
        NormalisationChoice::PersonBox => Normalisation::PersonBox,
    });
    let fps = args.fps.unwrap_or(fps);
    ensure!((1.0..=1000.0).contains(&fps), "--fps {fps}: expected 1 to 1000");

    let split = match args.split {
        Split::Train => "train",
        Split::Val => "val",
        Split::Test => "test",
    };
    let noise = args.noise.as_deref().map(NoiseRecipe::open).transpose()?.unwrap_or_default();
    let measured = MocapSet::open(&args.data.join(format!("mocap_{split}.npz")))?;
    let set = EvaluationSet::new(&measured, &EvaluationOptions { noise: noise.clone(), ..EvaluationOptions::default() })?;
    let windowing = Windowing { dim_in: config.dim_in, normalisation, fps: Some(f64::from(fps)), ..Windowing::new(config.n_frames) };
    let flipped = Windowing { flip: true, ..windowing };

    let row = |predictor: &str, report: Report| evaluate::Row { predictor: predictor.into(), report };
    let mut rows = vec![
        row(MODEL, evaluate::evaluate_lifter(&opened.lifter, &set, &windowing)?),
        row(MODEL_FLIP, evaluate::evaluate_lifter(&opened.lifter, &set, &flipped)?),
    ];
    if !args.no_baselines {
        let train = Arc::new(MocapSet::open(&args.data.join("mocap_train.npz"))?);
        let mut options = SamplerOptions::new(config.n_frames, 0);
        options.dim_in = config.dim_in;
        options.normalisation = normalisation;
        options.augmentation.fps = datasets::Fps::Fixed(fps); // the rate that it is then measured at: the strongest form
        options.noise = Some(noise);
        let sampler = ClipSampler::new(train, options)?;
        rows.push(row(MEAN_POSE, evaluate::evaluate_mean_pose(&sampler, &set, &windowing)?));
        rows.push(row(LINEAR, evaluate::evaluate_linear_regression(&sampler, &set, &windowing)?));
    }

    let output = Output { model: args.model.display().to_string(), split, rows };
    let text = if args.json {
        serde_json::to_string_pretty(&output)?
    } else {
        let what =
            format!("{} on mocap_{split}, {} frames under each condition, at {fps} frames per second", output.model, measured.frames());
        format!("{what}\n\n{}{}", table(&output.rows), ratios(&output.rows))
    };
    writeln!(std::io::stdout(), "{text}").context("standard output cannot be written")?;
    Ok(ExitCode::SUCCESS)
}

fn parse_setting(setting: &str) -> Result<(String, String)> {
    let (key, value) = setting.split_once('=').with_context(|| format!("--set {setting}: expected key=value, such as num_heads=4"))?;
    Ok((key.into(), value.into()))
}

const COLUMNS: [(&str, fn(&Figures) -> f64); 5] = [
    ("MPJPE@depth", |f| f.mpjpe_root_depth_mm),
    ("N-MPJPE", |f| f.n_mpjpe_mm),
    ("P-MPJPE", |f| f.p_mpjpe_mm),
    ("MPJPE@1.70m", |f| f.mpjpe_default_height_mm),
    ("MPJVE", |f| f.mpjve_mm),
];

/// All conditions of all predictors, mm.
fn table(rows: &[evaluate::Row]) -> String {
    let mut text = format!("{:<11} {:<6} {:<22}", "camera", "noise", "mm, root-relative");
    COLUMNS.iter().for_each(|(name, _)| text += &format!(" {name:>11}"));
    text.push('\n');
    let mut line = |camera: &str, noisy: bool, predictor: &str, figures: &Figures| {
        text += &format!("{camera:<11} {:<6} {predictor:<22}", if noisy { "on" } else { "off" });
        COLUMNS.iter().for_each(|(_, of)| text += &format!(" {:>11.1}", of(figures)));
        text.push('\n');
    };
    for camera in CameraKind::ALL {
        for noisy in [false, true] {
            for row in rows {
                for condition in row.report.conditions.iter().filter(|c| c.camera == camera && c.noisy == noisy) {
                    line(camera.name(), noisy, &row.predictor, &condition.figures);
                }
            }
        }
    }
    for noisy in [false, true] {
        for row in rows {
            if let Some(mean) = row.report.mean(noisy) {
                line("both", noisy, &row.predictor, &mean);
            }
        }
    }
    text + "\nMPJPE@depth: in camera space at the true root depth (oracle scale). N-MPJPE, P-MPJPE: after the best scale, the best similarity of each frame.\nMPJPE@1.70m: with the default height instead of the true depth. MPJVE: error of the motion from frame to frame at the source's 50 frames per second.\n"
}

/// The model over each baseline, noise on, both cameras, with the goals.
fn ratios(rows: &[evaluate::Row]) -> String {
    let with_noise = |name: &str| rows.iter().find(|row| row.predictor == name).and_then(|row| row.report.mean(true));
    let mut text = String::new();
    for (baseline, goal) in [(MEAN_POSE, 0.5), (LINEAR, 0.7)] {
        for model in [MODEL, MODEL_FLIP] {
            if let (Some(ours), Some(theirs)) = (with_noise(model), with_noise(baseline)) {
                let (p, depth) = (ours.p_mpjpe_mm / theirs.p_mpjpe_mm, ours.mpjpe_root_depth_mm / theirs.mpjpe_root_depth_mm);
                text += &format!("\n{model} / {baseline}, noise on: P-MPJPE {p:.3}, MPJPE@depth {depth:.3} (goal: at most {goal})");
            }
        }
    }
    text
}
