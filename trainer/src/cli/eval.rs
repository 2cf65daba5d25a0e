//! `trainer eval`: which model, fed how, measured by which protocol; and the figures on motion capture.

mod protocols;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use datasets::{
    CameraKind, CausalFeeding, ClipSampler, EvaluationOptions, EvaluationSet, Figures, MocapSet, NoiseRecipe, OwnClips, Report,
    SamplerOptions, Windowing, inspect::Kind,
};
use network::Overrides;
use pose::normalise::Normalisation;
use serde::Serialize;
use trainer::{checkpoint, evaluate, protocol};

use super::{DeviceChoice, MambaChoice, NormalisationChoice, parse_setting, set_threads};

#[derive(Clone, Copy, ValueEnum)]
enum Split {
    Train,
    Val,
    Test,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ProtocolChoice {
    /// Motion capture through random cameras, beside the mean pose and a linear regression.
    Mocap,
    /// Standard Human3.6M: MPJPE, P-MPJPE and the rest at the true scale of each frame.
    H36m,
    /// Human3.6M, every frame, with and without the true root depth.
    H36mPlain,
    /// MPI-INF-3DHP: MPJPE, PCK, AUC.
    #[value(name = "3dhp")]
    Mpi3dhp,
    /// The original MambaGCN report's own figure, in pixels.
    Report,
}

impl ProtocolChoice {
    /// A protocol of the field; `None` is motion capture.
    const fn of_the_field(self) -> Option<protocol::Protocol> {
        match self {
            Self::Mocap => None,
            Self::H36m => Some(protocol::Protocol::H36m),
            Self::H36mPlain => Some(protocol::Protocol::H36mPlain),
            Self::Mpi3dhp => Some(protocol::Protocol::Mpi3dhp),
            Self::Report => Some(protocol::Protocol::Report),
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum JointsChoice {
    H36m,
    #[value(name = "3dhp")]
    Mpi3dhp,
}

#[derive(clap::Args)]
#[command(after_long_help = protocol::Protocol::table())]
pub struct Args {
    /// Checkpoint: ours, the official code's, or the original MambaGCN code's.
    model: PathBuf,
    /// What is measured, how; the table below says what the figures may be compared with.
    #[arg(long, value_enum, default_value = "mocap")]
    protocol: ProtocolChoice,
    /// `mocap`: folder with mocap_train.npz (for the baselines) and the split's file, one .npz of motion capture, or your own clips. `h36m`, `h36m-plain`:
    /// h36m_sh_conf_cam_source_final.pkl, or its folder. `3dhp`: data_test_3dhp.npz, or its folder. `report`: that pickle, its folder, or
    /// a clip folder such as H36M-243.
    #[arg(long)]
    data: PathBuf,
    /// `mocap`: which file of the folder; `test` when absent.
    #[arg(long, value_enum)]
    split: Option<Split>,
    /// `mocap`: leave the mean pose and the linear regression out.
    #[arg(long)]
    no_baselines: bool,
    /// `mocap`: noise recipe of the noisy conditions; the built-in one when absent.
    #[arg(long)]
    noise: Option<PathBuf>,
    /// The other protocols: no averaging with the prediction for the mirrored input (`report` never averages, `mocap` prints both).
    #[arg(long)]
    no_flip: bool,
    /// `h36m`: the model was trained on labels that are not root-relative, as the original MambaGCN's were; its own root is subtracted
    /// instead of taken for 0.
    #[arg(long)]
    absolute_root: bool,
    /// `3dhp`: order of the joints that the model takes and gives; `h36m` for our own files, `3dhp` for others when absent.
    #[arg(long, value_enum)]
    joints: Option<JointsChoice>,
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
    split: String,
    rows: Vec<evaluate::Row>,
}

const MODEL: &str = "model";
const MODEL_FLIP: &str = "model, flip averaging";
const MEAN_POSE: &str = "mean pose";
const LINEAR: &str = "linear regression";

/// A live lifter's row.
fn look_ahead_name(k: usize) -> String {
    format!("{MODEL}, look-ahead {k}")
}

/// A model and how it is fed.
struct Subject {
    opened: checkpoint::Opened,
    normalisation: Normalisation,
    fps: f32,
}

pub fn run(args: Args) -> Result<ExitCode> {
    set_threads(args.threads)?;
    let chosen = args.protocol.of_the_field();
    refuse_options_of_others(&args)?;
    ensure!(
        chosen.is_some() || args.data.exists(),
        "{}: no such folder; --data names the folder with mocap_train.npz and mocap_test.npz, one such file, or your own clips",
        args.data.display()
    );
    let subject = open(&args)?;
    match chosen {
        Some(protocol) => protocols::run(&args, &subject, protocol),
        None => mocap(&args, &subject),
    }
}

/// An option that the protocol does not know would be ignored in silence.
fn refuse_options_of_others(args: &Args) -> Result<()> {
    let named = args.protocol.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned());
    let is = |wanted: &[ProtocolChoice]| wanted.contains(&args.protocol);
    let field = [ProtocolChoice::H36m, ProtocolChoice::H36mPlain, ProtocolChoice::Mpi3dhp];
    for (given, option, allowed) in [
        (args.split.is_some(), "--split", &[ProtocolChoice::Mocap][..]),
        (args.no_baselines, "--no-baselines", &[ProtocolChoice::Mocap]),
        (args.noise.is_some(), "--noise", &[ProtocolChoice::Mocap]),
        (args.no_flip, "--no-flip", &field),
        (args.absolute_root, "--absolute-root", &[ProtocolChoice::H36m]),
        (args.joints.is_some(), "--joints", &[ProtocolChoice::Mpi3dhp]),
    ] {
        ensure!(!given || is(allowed), "{option} means nothing to --protocol {named}: leave it out");
    }
    Ok(())
}

fn open(args: &Args) -> Result<Subject> {
    let overrides = Overrides {
        config_file: args.config.clone(),
        set: args.settings.iter().map(|setting| parse_setting("--set", setting)).collect::<Result<_>>()?,
        mamba: args.mamba.map(MambaChoice::form),
    };
    let opened = checkpoint::open(&args.model, &overrides, args.device.open()?)?;
    opened.checkpoint.notes.iter().for_each(|note| eprintln!("note: {note}"));
    let (normalisation, fps) = match &opened.metadata {
        Some(metadata) => (metadata.normalisation, metadata.fps),
        None => (Normalisation::Frame, 50.0),
    };
    let normalisation = args.normalisation.map_or(normalisation, NormalisationChoice::normalisation);
    let fps = args.fps.unwrap_or(fps);
    ensure!((1.0..=1000.0).contains(&fps), "--fps {fps}: expected 1 to 1000");
    Ok(Subject { opened, normalisation, fps })
}

/// What the figures are over.
struct Measured {
    set: EvaluationSet,
    /// Such as `mocap_test`.
    name: String,
    /// Frames under each condition.
    frames: usize,
    /// Whether there is training data beside it, for the baselines.
    has_train: bool,
}

impl Measured {
    /// A split of a folder of motion capture, one file of it, or a user's own clips.
    fn open(args: &Args, noise: &NoiseRecipe) -> Result<Self> {
        let data = &args.data;
        let split = args.split.map(|split| match split {
            Split::Train => "train",
            Split::Val => "val",
            Split::Test => "test",
        });
        let options = EvaluationOptions { noise: noise.clone(), ..EvaluationOptions::default() };
        let is_file = data.is_file();
        let mocap = |path: &Path, name: String| -> Result<Self> {
            let measured = MocapSet::open(path)?;
            let set = EvaluationSet::new(&measured, &options)?;
            Ok(Self { set, name, frames: measured.frames(), has_train: !is_file })
        };
        if Kind::of(data).is_ok_and(|kind| kind == Kind::OwnClips) {
            let part = split.map_or_else(|| data.clone(), |split| data.join(split));
            ensure!(part.exists(), "{}: no such folder; own clips have a --split where they lie in folders of that name", part.display());
            let clips = OwnClips::open(&part)?;
            let set = clips.evaluation_set();
            return Ok(Self { frames: set.frames(), set, name: part.display().to_string(), has_train: false });
        }
        if is_file {
            ensure!(split.is_none(), "--split means nothing to the file {}: leave it out, or name its folder", data.display());
            return mocap(data, data.display().to_string());
        }
        let split = split.unwrap_or("test");
        mocap(&data.join(format!("mocap_{split}.npz")), format!("mocap_{split}"))
    }
}

fn mocap(args: &Args, subject: &Subject) -> Result<ExitCode> {
    let Subject { opened, normalisation, fps } = subject;
    let (normalisation, fps, config) = (*normalisation, *fps, &opened.checkpoint.config);
    let noise = args.noise.as_deref().map(NoiseRecipe::open).transpose()?.unwrap_or_default();
    let Measured { set, name, frames, has_train } = Measured::open(args, &noise)?;
    // a live lifter has no windows: the baselines then get those of the box that it looks back over
    let n_frames = config.window().unwrap_or(pose::causal::BOX_FRAMES);
    let windowing = Windowing { dim_in: config.dim_in(), normalisation, fps: Some(f64::from(fps)), ..Windowing::new(n_frames) };

    let row = |predictor: &str, report: Report| evaluate::Row { predictor: predictor.into(), report };
    let mut rows = match config.live() {
        None => vec![
            row(MODEL, evaluate::evaluate_lifter(&opened.lifter, &set, &windowing)?),
            row(MODEL_FLIP, evaluate::evaluate_lifter(&opened.lifter, &set, &Windowing { flip: true, ..windowing })?),
        ],
        Some(live) => {
            let feeding = CausalFeeding { dim_in: live.dim_in, normalisation, fps: f64::from(fps), flip: false };
            let reports = evaluate::evaluate_live(&opened.lifter, live, &set, &feeding)?;
            live.look_aheads.iter().zip(reports).map(|(&k, report)| row(&look_ahead_name(k), report)).collect()
        }
    };
    if has_train && !args.no_baselines {
        let train = Arc::new(MocapSet::open(&args.data.join("mocap_train.npz"))?);
        let mut options = SamplerOptions::new(n_frames, 0);
        options.dim_in = config.dim_in();
        options.normalisation = normalisation;
        options.augmentation.fps = datasets::Fps::Fixed(fps); // the rate that it is then measured at: the strongest form
        options.noise = Some(noise);
        let sampler = ClipSampler::new(train, options)?;
        rows.push(row(MEAN_POSE, evaluate::evaluate_mean_pose(&sampler, &set, &windowing)?));
        rows.push(row(LINEAR, evaluate::evaluate_linear_regression(&sampler, &set, &windowing)?));
    }

    let output = Output { model: args.model.display().to_string(), split: name, rows };
    let text = if args.json {
        serde_json::to_string_pretty(&output)?
    } else {
        let what = format!("{} on {}, {frames} frames under each condition, at {fps} frames per second", output.model, output.split);
        format!("{what}\n\n{}{}", table(&output.rows), ratios(&output.rows))
    };
    writeln!(std::io::stdout(), "{text}").context("standard output cannot be written")?;
    Ok(ExitCode::SUCCESS)
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
    let cameras: Vec<Option<CameraKind>> = CameraKind::ALL.map(Some).into_iter().chain([None]).collect();
    let name = |camera: Option<CameraKind>| camera.map_or("real", CameraKind::name);
    for camera in cameras {
        for noisy in [false, true] {
            for row in rows {
                for condition in row.report.conditions.iter().filter(|c| c.camera == camera && c.noisy == noisy) {
                    line(name(camera), noisy, &row.predictor, &condition.figures);
                }
            }
        }
    }
    let real = rows.iter().flat_map(|row| &row.report.conditions).all(|c| c.camera.is_none());
    for noisy in [false, true].into_iter().filter(|_| !real) {
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
        for model in rows.iter().map(|row| row.predictor.as_str()).filter(|name| name.starts_with(MODEL)) {
            if let (Some(ours), Some(theirs)) = (with_noise(model), with_noise(baseline)) {
                let (p, depth) = (ours.p_mpjpe_mm / theirs.p_mpjpe_mm, ours.mpjpe_root_depth_mm / theirs.mpjpe_root_depth_mm);
                text += &format!("\n{model} / {baseline}, noise on: P-MPJPE {p:.3}, MPJPE@depth {depth:.3} (goal: at most {goal})");
            }
        }
    }
    text
}
