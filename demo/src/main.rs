//! `demo`: a video into a 3D skeleton.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use demo::blazepose::Quality;
use demo::detect::DetectorArgs;
use demo::live::{self, LiveArgs};
use demo::observe::Section;
use demo::progress::Progress;
use demo::room::Room;
use demo::run::{Input, MOST_PEOPLE, MotionFile, PersonSummary, Request, Summary, Who, run};
use demo::serve::{Feed, FeedSink, Server, Show};
use runtime::Device;
use tracing_subscriber::EnvFilter;

/// Lifts the people of a clip to 3D and writes CLIP.3d.mp4 (side by side), CLIP.3d.json and CLIP.3d.npz.
#[derive(Debug, Parser)]
#[command(name = "demo", version)]
#[command(group(clap::ArgGroup::new("input").required(true).multiple(true).args(["video", "keypoints", "show", "compare", "camera"])))]
struct Args {
    /// The clip, or the address of a live stream (rtsp://..., http://..., udp://...)
    #[arg(long, value_name = "FILE|URL")]
    video: Option<PathBuf>,
    /// 2D keypoints (JSON or NPZ) instead of a clip: the detector is skipped, the film shows no pictures
    #[arg(long, value_name = "FILE", conflicts_with = "video")]
    keypoints: Option<PathBuf>,
    /// Results of one clip (CLIP.3d.json, a file for each person) to be shown in a browser: nothing is lifted
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "keypoints")]
    show: Vec<PathBuf>,
    /// Two results (CLIP.3d.json) of one motion, whose differences are printed (--json: for programs)
    #[arg(long, value_names = ["A", "B"], num_args = 2, conflicts_with_all = ["video", "keypoints", "show"])]
    compare: Vec<PathBuf>,
    /// Where --compare draws the differences, a name that ends with .svg
    #[arg(long, value_name = "FILE", requires = "compare")]
    picture: Option<PathBuf>,
    /// Show the results in a browser when they are done: docs/page.md [default address: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = demo::serve::DEFAULT_ADDRESS)]
    serve: Option<SocketAddr>,
    /// The lifter, an ONNX file written by `export onnx` [default: the shipped one in models/]
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    #[command(flatten)]
    detector: DetectorArgs,
    #[command(flatten)]
    live: LiveArgs,
    /// Folder for the results, made if need be [default: that of the clip]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Whose pose is wanted: largest (who is in sight longest and largest), all (files CLIP.person1.3d.json and so on), or a number
    #[arg(long, value_name = "largest|N|all", default_value = "largest")]
    person: Who,
    /// How many people are followed at a time
    #[arg(long, value_name = "NUMBER", default_value_t = 6, value_parser = most_people, conflicts_with = "keypoints")]
    most_people: usize,
    /// Height in metres, of everyone, or several with commas, in the order of the people's numbers [default: 1.70, and the result
    /// says that it is assumed]
    #[arg(long, value_name = "METRES", value_delimiter = ',')]
    height: Vec<f32>,
    #[command(flatten)]
    room: Room,
    /// Start so many seconds into the clip
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0, value_parser = seconds, conflicts_with = "keypoints")]
    start: f64,
    /// Take only so many seconds of the clip
    #[arg(long, value_name = "SECONDS", value_parser = seconds, conflicts_with = "keypoints")]
    duration: Option<f64>,
    /// Average with the lifted mirror image: twice the time, a slightly smaller error
    #[arg(long)]
    flip: bool,
    /// More files of the motion in the world, for other tools; several with commas
    #[arg(long, value_name = "FORMAT", value_enum, value_delimiter = ',')]
    format: Vec<MotionFile>,
    /// Write no film, only the data
    #[arg(long)]
    no_video: bool,
    /// Where the networks run: cpu, cuda, cuda:N, tensorrt (the lifter alone; the detector then takes cuda), or auto (the first GPU that
    /// works, else cpu; the log says which). A device that was named and cannot be used is an error
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Threads of the networks [default: all processors]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    threads: usize,
    /// Also write a recording for the viewer Rerun, by the program demo-rerun, which is built apart: cargo build --release --manifest-path
    /// demo/rerun/Cargo.toml
    #[arg(long, value_name = "FILE.rrd", conflicts_with_all = ["show", "compare", "camera"])]
    rerun: Option<PathBuf>,
    /// Print the summary as JSON, for programs
    #[arg(long)]
    json: bool,
}

fn most_people(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=MOST_PEOPLE).contains(&number) => Ok(number),
        _ => Err(format!("expected 1 to {MOST_PEOPLE} people")),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.0..1e9).contains(&seconds) => Ok(seconds),
        _ => Err("expected a number of seconds, 0 or more".to_owned()),
    }
}

impl Args {
    fn request(self) -> anyhow::Result<Request> {
        let input = match (self.video, self.keypoints) {
            (Some(path), None) => {
                let section = Section { start_s: self.start, duration_s: self.duration.unwrap_or(f64::INFINITY) };
                Input::Video { path, section, detector: self.detector.choice(Quality::Heavy)? }
            }
            (None, Some(path)) => Input::Keypoints(path),
            // clap has checked it
            _ => anyhow::bail!("give either --video or --keypoints"),
        };
        Ok(Request {
            input,
            model: self.model,
            out: self.out,
            who: self.person,
            most_people: self.most_people,
            heights_m: self.height,
            room: self.room,
            flip: self.flip,
            film: !self.no_video,
            motion_files: self.format,
            device: self.device,
            threads: self.threads,
            progress: Progress { visible: !self.json },
        })
    }
}

fn main() -> ExitCode {
    // SAFETY: this is the first thing that the program does, so no other thread reads the environment meanwhile.
    unsafe { set_unset(&[("OPENCV_FFMPEG_LOGLEVEL", "-8")]) };
    // OpenCV has read its own variable by now.
    if std::env::var_os("OPENCV_LOG_LEVEL").is_none() {
        let _ = opencv::core::set_log_level(opencv::core::LogLevel::LOG_LEVEL_SILENT);
    }
    let args = Args::parse();
    if args.live.source(args.video.as_deref()).is_some_and(|source| source.is_pushed()) {
        // SAFETY: reading the command line has started no thread.
        unsafe { set_unset(&[live::FFMPEG_LIVE]) };
    }
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_target(false).without_time().with_ansi(ansi).with_writer(std::io::stderr).init();
    let as_json = args.json;
    match start(args, as_json) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Our errors name their causes themselves.
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Sets variables of OpenCV's FFmpeg that are not set: its own messages are kept away from the terminal (what matters comes back as an
/// error), and live streams are not held back. Who sets the variables is not overruled.
///
/// # Safety
/// No other thread may read the environment meanwhile.
unsafe fn set_unset(variables: &[(&str, &str)]) {
    for (variable, value) in variables.iter().filter(|(variable, _)| std::env::var_os(variable).is_none()) {
        // SAFETY: the caller has seen to it.
        unsafe { std::env::set_var(variable, value) };
    }
}

fn start(args: Args, as_json: bool) -> anyhow::Result<()> {
    let args = if args.show.is_empty() { Args { device: args.device.settled(None)?, ..args } } else { args };
    ctrlc::set_handler(|| {
        // A live session ends by itself when it is told to.
        if !live::stop_running() {
            demo::outputs::remove_unfinished();
            std::process::exit(130);
        }
    })
    .map_err(|e| anyhow::anyhow!("cannot watch for interruptions: {e}"))?;
    let source = if args.show.is_empty() { args.live.source(args.video.as_deref()) } else { None };
    if let Some(source) = source {
        return watch(&args, source);
    }
    args.live.refuse_for_clips()?;
    let (serve, video) = (args.serve, args.video.clone());
    let recording = args.rerun.clone().map(|file| Ok::<_, anyhow::Error>((rerun_program()?, file))).transpose()?; // asked before the slow part
    if !args.show.is_empty() {
        return show(&args.show, video.as_deref(), serve, as_json);
    }
    if let [a, b] = &args.compare[..] {
        return compare(a, b, args.picture.as_deref(), as_json);
    }
    let summary = run(&args.request()?)?;
    if let Some((program, file)) = recording {
        record(&program, &file, &summary)?;
    }
    print(&summary, as_json);
    match serve {
        Some(_) => {
            let everyone: Vec<PathBuf> = summary.people.iter().filter_map(|person| person.json.clone()).collect();
            let files = if everyone.is_empty() { vec![summary.json] } else { everyone };
            show(&files, video.as_deref(), serve, as_json)
        }
        None => Ok(()),
    }
}

/// Prints and draws how two results differ.
fn compare(a: &Path, b: &Path, picture: Option<&Path>, as_json: bool) -> anyhow::Result<()> {
    if let Some(picture) = picture {
        demo::compare::check_picture(picture)?;
    }
    let comparison = demo::compare::compare(a, b)?;
    if let Some(picture) = picture {
        comparison.draw(picture)?;
    }
    let mut out = std::io::stdout().lock();
    // A reader that goes away early (`| head`) is no error of ours.
    let _ = match as_json {
        true => writeln!(out, "{}", serde_json::to_string(&comparison)?),
        false => comparison.print(&mut out),
    };
    Ok(())
}

/// The program that writes recordings for Rerun: beside this one, in its own build folder, or on the PATH.
fn rerun_program() -> anyhow::Result<PathBuf> {
    let executable = std::env::current_exe().unwrap_or_default();
    let beside = executable.with_file_name("demo-rerun");
    let built = executable.ancestors().map(|folder| folder.join("demo/rerun/target/release/demo-rerun"));
    let found = std::iter::once(beside).chain(built).find(|path| path.is_file()).unwrap_or_else(|| PathBuf::from("demo-rerun"));
    let runs = std::process::Command::new(&found).arg("--version").output().is_ok_and(|output| output.status.success());
    anyhow::ensure!(
        runs,
        "--rerun needs the program demo-rerun, which is not there: cargo build --release --manifest-path demo/rerun/Cargo.toml"
    );
    Ok(found)
}

/// Has everyone's results written as a recording.
fn record(program: &Path, file: &Path, summary: &Summary) -> anyhow::Result<()> {
    let everyone = summary.people.iter().filter_map(|person| person.json.as_ref());
    let output = std::process::Command::new(program).args(everyone).arg("--out").arg(file).output()?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim().trim_start_matches("ERROR "));
    tracing::info!("{}", file.display());
    Ok(())
}

/// Serves the page until it is interrupted. A line says where.
fn show(files: &[PathBuf], video: Option<&Path>, address: Option<SocketAddr>, as_json: bool) -> anyhow::Result<()> {
    let address = address.map_or_else(|| demo::serve::DEFAULT_ADDRESS.parse(), Ok)?;
    let server = Server::start(Show::results(files, video)?, address)?;
    say_where(&server, as_json);
    Ok(server.wait()?)
}

/// A line that says where the page is.
fn say_where(server: &Server, as_json: bool) {
    let url = server.url();
    if server.is_public() {
        tracing::warn!("everybody who can reach {url} sees it");
    }
    let line = if as_json { serde_json::json!({ "page": url }).to_string() } else { format!("{url} (Ctrl-C ends)") };
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A live session.
fn watch(args: &Args, source: live::Source) -> anyhow::Result<()> {
    let is_clips_own = [
        ("--format", !args.format.is_empty()),
        ("--out", args.out.is_some()),
        ("--start", args.start > 0.0),
        ("--duration", args.duration.is_some()),
        ("--flip", args.flip),
        ("--no-video", args.no_video),
        ("--no-contact", args.room.no_contact),
    ];
    if let Some((flag, _)) = is_clips_own.into_iter().find(|(_, is_given)| *is_given) {
        anyhow::bail!("{flag} is for clips: a live session writes lines of JSON (--ndjson FILE) and nothing else");
    }
    let common = live::Common {
        model: args.model.clone(),
        who: match args.person {
            Who::Largest => live::Who::Largest,
            Who::All => live::Who::All { most: args.most_people },
            Who::Number(id) => live::Who::Only { id, most: args.most_people },
        },
        heights_m: args.height.clone(),
        room: args.room.clone(),
        device: args.device,
        threads: args.threads,
        progress: Progress { visible: !args.json },
    };
    let mut detector = args.detector.choice(Quality::Full)?.open(args.device, args.threads)?;
    let mut sinks: Vec<Box<dyn live::Sink>> = Vec::new();
    let mut server = None;
    if let Some(address) = args.serve {
        let feed = Feed::new(&source.to_string());
        let page = server.insert(Server::start(Show::Live(feed.clone()), address)?);
        if args.live.takes_stdout() {
            tracing::info!("{}", page.url());
        } else {
            say_where(page, args.json);
        }
        sinks.push(Box::new(FeedSink::new(feed)?));
    }
    let summary = match args.live.start(source, common, detector.as_mut(), sinks) {
        // `| head` is no error of ours.
        Err(live::Error::ReaderGone) => return Ok(()),
        ended => ended?,
    };
    let text = if args.json { serde_json::to_string(&summary)? } else { summary.to_string() };
    if args.live.takes_stdout() {
        tracing::info!("{text}");
    } else {
        let _ = writeln!(std::io::stdout(), "{text}");
    }
    Ok(())
}

/// A reader that goes away early (`| head`) is no error of ours: failed writes are let go.
fn print(summary: &Summary, as_json: bool) {
    let mut out = std::io::stdout().lock();
    if as_json {
        // A struct of plain fields always serialises.
        let _ = writeln!(out, "{}", serde_json::to_string(summary).unwrap_or_default());
        return;
    }
    let rate = |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}"));
    let rates = &summary.stage_fps;
    let _ = writeln!(out, "{} frames in {:.1} s", summary.frames, summary.elapsed_s);
    for person in &summary.people {
        let lifted = person.height_m.map_or_else(|| "not lifted".to_owned(), |height_m| format!("height {height_m:.2} m"));
        let PersonSummary { id, first_s, last_s, frames_seen, frames_bridged, .. } = person;
        let _ =
            writeln!(out, "person {id}: {first_s:.2} to {last_s:.2} s, seen in {frames_seen} frames, {frames_bridged} bridged, {lifted}");
    }
    let _ = writeln!(
        out,
        "frames a second: decode {}, detect {}, lift {}, draw {}, encode {}",
        rate(rates.decode),
        rate(rates.detect),
        rate(rates.lift),
        rate(rates.draw),
        rate(rates.encode)
    );
    let _ = writeln!(out, "scale: {}", summary.scale_source);
    let files = summary.people.iter().flat_map(|person| person.json.iter().chain(&person.npz));
    for path in summary.video.iter().chain(files).chain(&summary.motion_files) {
        let _ = writeln!(out, "{}", path.display());
    }
}
