//! The user's own network as a detector.

use std::path::Path;

use opencv::core::Mat;
use pose::joint_map::Source;
use runtime::Device;

use super::decode::{
    self, decode_heat_maps, decode_movenet, decode_movenet_multi, decode_rtmo, decode_simcc, decode_yolo, decode_yolo_end_to_end,
};
use super::error::Error;
use super::finder::Finder;
use super::graph::{Graph, Input, Layout, Output};
use super::kind::{self, Kind};
use super::view::{Range, View, is_usable};
use super::{BoxPx, Detected, Detector, Expected};
use crate::blazepose::image_size;

/// Grey bars, as YOLO and RTMO were trained with; the others have black ones.
const GREY: f64 = 114.0;
/// Two people whose boxes overlap more are one, seen twice.
const SAME_PERSON: f32 = 0.7;
/// Two people whose keypoints are this near each other on average are one, whatever their boxes; in diagonals of the box.
const SAME_BODY: f32 = 0.06;
/// While people are in sight, the rest of the frame is searched for others only so often.
const SEARCH_INTERVAL_S: f64 = 0.5;

/// How to open a detector.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where it runs.
    pub device: Device,
    /// Threads within one operation; 0 takes as many as there are processors.
    pub threads: usize,
    /// Its skeleton; `None` = known from the number of keypoints.
    pub joints: Option<Source>,
}

/// Opens an ONNX file of one of the [known kinds](super::kind), which is recognised by its inputs and outputs.
///
/// # Errors
/// A file that is absent, no ONNX model, or of no known kind; a number of keypoints that is of no known skeleton, or not of the one that
/// was asked for; for a network that looks at one person at a time: BlazePose's detector, which finds people for it, is missing.
pub fn open(path: &Path, options: &Options) -> Result<Box<dyn Detector>, Error> {
    let detector = OwnDetector::open(path, options)?;
    let [width, height] = [detector.network.size[1], detector.network.size[0]];
    tracing::info!(
        "{} is a detector of the kind {} ({}, {width} x {height})",
        path.display(),
        detector.network.kind.name(),
        detector.joints
    );
    Ok(Box::new(detector))
}

/// One file, of whatever kind.
struct OwnDetector {
    network: Network,
    joints: Source,
    /// Finds people for networks that look at one at a time; those that look at the whole picture need none.
    finder: Option<Finder>,
    last_search_s: f64,
}

impl OwnDetector {
    fn open(path: &Path, options: &Options) -> Result<Self, Error> {
        let (network, joints) = Network::open(path, options)?;
        let joints = joint_set(path, joints, options.joints)?;
        let finder = match network.kind {
            // It finds the most prominent person of the whole picture itself.
            Kind::MoveNetSingle => Some(Finder::WholePicture),
            kind if kind.is_top_down() => {
                let finder = Finder::blazepose(options.device, options.threads);
                Some(finder.map_err(|reason| Error::Finder { path: path.to_owned(), reason })?)
            }
            _ => None,
        };
        Ok(Self { network, joints, finder, last_search_s: f64::NEG_INFINITY })
    }

    /// People where the tracker expects them, and, from time to time, others.
    fn detect_top_down(&mut self, frame: &Mat, time_s: f64, expected: &[Expected], most: usize) -> Result<Vec<Detected>, Error> {
        let Self { network, finder, last_search_s, .. } = self;
        let known = &expected[..expected.len().min(most)];
        let boxes: Vec<_> = known.iter().map(|person| person.box_px).collect();
        let seen = network.look(frame, &boxes)?;
        let found_for =
            |(person, expected): (Option<Detected>, &Expected)| person.map(|person| Detected { found_for: Some(expected.id), ..person });
        let mut people: Vec<Detected> = seen.into_iter().zip(known).filter_map(found_for).collect();
        // Two tracks on one person: the surer one stays.
        decode::suppress_overlaps(&mut people, SAME_PERSON);

        let due = people.is_empty() || time_s - *last_search_s >= SEARCH_INTERVAL_S;
        if let Some(finder) = finder.as_mut().filter(|_| due && people.len() < most) {
            *last_search_s = time_s;
            let mut boxes = finder.find(frame, time_s, people.is_empty())?;
            boxes.retain(|found| people.iter().all(|person| !is_on(&person.box_px, found)));
            boxes.truncate(most - people.len());
            // The finder's box is coarse: the keypoints in it say better where the person is, and those in that box better still.
            let first: Vec<_> = network.look(frame, &boxes)?.into_iter().flatten().map(|person| person.box_px).collect();
            people.extend(network.look(frame, &first)?.into_iter().flatten());
            keep_known(&mut people);
        }
        Ok(people)
    }
}

impl Detector for OwnDetector {
    fn name(&self) -> String {
        self.network.graph.path().file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn joints(&self) -> Source {
        self.joints
    }

    fn detect(&mut self, frame: &Mat, time_s: f64, expected: &[Expected], most: usize) -> anyhow::Result<Vec<Detected>> {
        anyhow::ensure!(is_usable(frame), "expected a frame of 8-bit BGR pixels, found {frame:?}");
        let mut people = match self.finder {
            Some(_) => self.detect_top_down(frame, time_s, expected, most)?,
            None => self.network.look_at_all(frame)?,
        };
        people.sort_by(|a, b| prominence(b).total_cmp(&prominence(a)));
        people.truncate(most);
        Ok(people)
    }
}

/// Large and certain.
fn prominence(person: &Detected) -> f32 {
    person.score * person.box_px.width.hypot(person.box_px.height)
}

/// Whether someone in the middle of the box `found` is the person of another box.
fn is_on(person: &BoxPx, found: &BoxPx) -> bool {
    let off =
        |start: f32, length: f32, other: f32, other_length: f32| ((start + length / 2.0) - (other + other_length / 2.0)).abs() / length;
    off(person.left, person.width, found.left, found.width) < 0.35 && off(person.top, person.height, found.top, found.height) < 0.35
}

/// Drops new people who are on the place of a known one, or of a surer new one.
fn keep_known(people: &mut Vec<Detected>) {
    let mut kept: Vec<Detected> = Vec::with_capacity(people.len());
    people.sort_by(|a, b| b.found_for.is_some().cmp(&a.found_for.is_some()).then(b.score.total_cmp(&a.score)));
    for person in people.drain(..) {
        let is_same = |other: &Detected| {
            decode::overlap(&other.box_px, &person.box_px) > SAME_PERSON
                || decode::mean_distance_px(&other.keypoints, &person.keypoints)
                    .is_some_and(|distance_px| distance_px < SAME_BODY * other.box_px.width.hypot(other.box_px.height))
        };
        if !kept.iter().any(is_same) {
            kept.push(person);
        }
    }
    *people = kept;
}

/// The skeleton of so many keypoints.
fn joint_set(path: &Path, found: usize, asked: Option<Source>) -> Result<Source, Error> {
    let refuse = |asked: String| Err(Error::Joints { path: path.to_owned(), found, asked });
    match (asked, found) {
        (Some(source), _) if source.joints() == found => Ok(source),
        (Some(source), _) => refuse(format!("and {source} has {}: give another --detector-joints, or none", source.joints())),
        (None, 17) => Ok(Source::Coco17),
        (None, 25) => Ok(Source::Body25),
        (None, 26) => Ok(Source::Halpe26),
        (None, 33) => Ok(Source::BlazePose33),
        (None, 133) => Ok(Source::CocoWholeBody133),
        (None, _) => {
            let known: Vec<String> = Source::ALL.iter().map(|source| format!("{source} ({})", source.joints())).collect();
            refuse(format!("which is no skeleton that is known: {}", known.join(", ")))
        }
    }
}

/// A file whose kind is known, with what lies between a frame and its input.
struct Network {
    graph: Graph,
    kind: Kind,
    input: Input,
    /// Height and width of its input.
    size: [usize; 2],
    range: Range,
    border: f64,
    /// Shapes of the outputs for one picture, without the first axis.
    shapes: Vec<Vec<usize>>,
    /// Most crops in one call.
    most_crops: usize,
    cut: Mat,
    values: Vec<f32>,
}

/// Most crops in one call of a graph that takes any number.
const MOST_CROPS: usize = 8;

impl Network {
    /// The network and its number of keypoints.
    fn open(path: &Path, options: &Options) -> Result<(Self, usize), Error> {
        let mut graph = Graph::open(path, options.device, options.threads)?;
        let unknown = |graph: &Graph| Error::UnknownKind { path: path.to_owned(), found: graph.describe(), known: kind::KNOWN };
        let Some(input) = graph.picture_input() else { return Err(unknown(&graph)) };
        let size = kind::input_size(&input, graph.outputs());
        let rows = input.batch.unwrap_or(1);
        let outputs = graph.run(input.element, shape(&input, rows, size), &vec![0.0; rows * 3 * size[0] * size[1]])?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let named_udp = name.contains("vitpose") || name.contains("udp");
        let Some((kind, joints)) = kind::recognise(&input, size, &outputs, named_udp) else { return Err(unknown(&graph)) };
        let (range, border) = match kind {
            Kind::SimCc { .. } | Kind::HeatMaps { .. } => (Range::IMAGENET, 0.0),
            Kind::Rtmo { .. } => (Range::BYTES_BGR, GREY),
            Kind::Yolo | Kind::YoloEndToEnd => (Range::UNIT, GREY),
            Kind::MoveNetSingle | Kind::MoveNetMulti => (Range::BYTES, 0.0),
        };
        let shapes = outputs.iter().map(|output| output.shape[1..].to_vec()).collect();
        let mut network =
            Self { graph, kind, input, size, range, border, shapes, most_crops: rows, cut: Mat::default(), values: Vec::new() };
        if kind.is_top_down() && input.batch.is_none() {
            network.most_crops = network.try_many();
        }
        Ok((network, joints))
    }

    /// Files say that they take any number of pictures, and some then do not.
    fn try_many(&mut self) -> usize {
        let values = vec![0.0; 2 * 3 * self.size[0] * self.size[1]];
        let outputs = self.graph.run(self.input.element, shape(&self.input, 2, self.size), &values);
        let works = outputs.is_ok_and(|outputs| outputs.iter().all(|output| output.shape.first() == Some(&2)));
        if !works {
            tracing::info!("{} takes one person at a time, whatever it says", self.graph.path().display());
        }
        if works { MOST_CROPS } else { 1 }
    }

    /// The people in these boxes, in their order.
    fn look(&mut self, frame: &Mat, boxes: &[BoxPx]) -> Result<Vec<Option<Detected>>, Error> {
        let udp = self.kind == Kind::HeatMaps { udp: true };
        let views: Vec<View> = match self.kind {
            Kind::MoveNetSingle => boxes.iter().map(|person| View::padded(person, self.size)).collect(),
            _ => boxes.iter().map(|person| View::person(person, self.size, udp)).collect(),
        };
        let mut people = Vec::with_capacity(views.len());
        for views in views.chunks(self.most_crops) {
            let outputs = self.run(frame, views)?;
            people.extend(match self.kind {
                Kind::SimCc { bins_per_px, x_output } => decode_simcc(&outputs[x_output], &outputs[1 - x_output], bins_per_px, views),
                Kind::HeatMaps { udp } => decode_heat_maps(&outputs[0], udp, views),
                _ => decode_movenet(&outputs[0], views),
            });
        }
        Ok(people)
    }

    /// Everyone in a frame.
    fn look_at_all(&mut self, frame: &Mat) -> Result<Vec<Detected>, Error> {
        let centred = !matches!(self.kind, Kind::Rtmo { .. });
        let view = View::letterbox(image_size(frame), self.size, centred);
        let outputs = self.run(frame, &[view])?;
        let mut people = match self.kind {
            Kind::Rtmo { boxes_output } => decode_rtmo(&outputs[boxes_output], &outputs[1 - boxes_output], &view),
            Kind::Yolo => decode_yolo(&outputs[0], &view),
            Kind::YoloEndToEnd => decode_yolo_end_to_end(&outputs[0], &view),
            _ => decode_movenet_multi(&outputs[0], &view),
        };
        decode::suppress_overlaps(&mut people, SAME_PERSON);
        Ok(people)
    }

    /// Cuts out, runs, and checks that the outputs have the shapes of the trial run.
    fn run(&mut self, frame: &Mat, views: &[View]) -> Result<Vec<Output>, Error> {
        let picture = 3 * self.size[0] * self.size[1];
        let rows = self.input.batch.unwrap_or(views.len());
        self.values.clear();
        self.values.resize(rows * picture, 0.0);
        for (view, values) in views.iter().zip(self.values.chunks_exact_mut(picture)) {
            view.cut(frame, self.border, &mut self.cut)?;
            self.range.write(&self.cut, self.input.layout, values)?;
        }
        let outputs = self.graph.run(self.input.element, shape(&self.input, rows, self.size), &self.values)?;
        // Only how many people there are may change: the second axis of those who look at the whole picture.
        let counts_people = !self.kind.is_top_down();
        let same = |output: &Output, expected: &Vec<usize>| {
            let (found, skip) = (output.shape.get(1..).unwrap_or_default(), usize::from(counts_people && self.kind != Kind::Yolo));
            found.len() == expected.len() && found.iter().zip(expected).skip(skip).all(|(a, b)| a == b)
        };
        let rows_fit =
            self.kind.is_top_down().then_some(rows).is_none_or(|rows| outputs.iter().all(|output| output.shape.first() == Some(&rows)));
        if outputs.len() == self.shapes.len()
            && rows_fit
            && outputs.iter().zip(&self.shapes).all(|(output, expected)| same(output, expected))
        {
            return Ok(outputs);
        }
        let found: Vec<_> = outputs.iter().map(|output| &output.shape).collect();
        Err(Error::ShapeChanged { path: self.graph.path().to_owned(), expected: format!("{:?}", self.shapes), found: format!("{found:?}") })
    }
}

fn shape(input: &Input, rows: usize, [height, width]: [usize; 2]) -> [usize; 4] {
    match input.layout {
        Layout::ChannelsFirst => [rows, 3, height, width],
        Layout::ChannelsLast => [rows, height, width, 3],
    }
}
