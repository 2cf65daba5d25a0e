//! Finished results as the page asks for them: what there is, the poses piece by piece, an overview of a whole clip.
//!
//! The pieces are what keeps a tab small: the page holds the few around its cursor, however long the clip is.

use std::ops::Range;
use std::path::{Path, PathBuf};

use formats::motion::MotionClip;
use pose::angle::joint_angles;
use pose::camera::{Extrinsics, Intrinsics};
use pose::normalise::ImageTransform;
use pose::world::ScaleSource;
use pose::{ImageSize, JOINTS, Pose3};
use runtime::LiftedClip;
use serde::{Deserialize, Serialize};

use super::download;

/// Seconds of a piece.
pub const CHUNK_S: f64 = 20.0;
/// Entries of an overview, at most.
pub const OVERVIEW_BUCKETS: usize = 2000;
/// First bytes of a piece, and of an overview: "PLC1", "PLO1".
const CHUNK_MAGIC: u32 = u32::from_le_bytes(*b"PLC1");
const OVERVIEW_MAGIC: u32 = u32::from_le_bytes(*b"PLO1");
/// Flexions of an overview: knee, hip, elbow, shoulder of the left side, then of the right one; where they stand in
/// [`pose::angle::NAMES`].
const FLEXIONS: [usize; 8] = [0, 1, 3, 4, 6, 7, 9, 10];
/// Somebody who is away for longer than this has left.
const SPAN_GAP_S: f64 = 0.5;
/// Stretches that are told of a person, at most.
const MOST_SPANS: usize = 500;
/// Larger files are no results of ours: some 8 hours of one person.
const MOST_BYTES: u64 = 4 << 30;

/// Why results cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system's.
    #[error("cannot read the results {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Something else than results.
    #[error("{} does not hold results: {reason}; expected a CLIP.3d.json that `demo` or `runtime lift` wrote", path.display())]
    NoResults {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Files that do not belong together.
    #[error("expected results of one clip, found {} of another picture size than {}: show them one after the other", path.display(), first.display())]
    OtherClip {
        /// The file.
        path: PathBuf,
        /// The one before.
        first: PathBuf,
    },
}

/// What is read of a `.3d.json`; docs/formats.md describes its fields. What is absent in files of `runtime lift` is optional.
#[derive(Deserialize)]
struct Document {
    format: String,
    person: Option<u64>,
    detector: Option<String>,
    all_times_s: Option<Vec<f64>>,
    person_found: Option<Vec<bool>>,
    keypoints_px: Option<Vec<[[f32; 2]; JOINTS]>>,
    world_mm: Option<Vec<Pose3>>,
    model: String,
    image: ImageSize,
    times_s: Vec<f64>,
    confidence: Vec<[f32; JOINTS]>,
    pose25: Vec<Pose3>,
    transforms: Vec<ImageTransform>,
    root_px: Vec<[f32; 2]>,
    camera_mm: Vec<Pose3>,
    intrinsics: Intrinsics,
    world_from_camera: Extrinsics,
    scale_source: ScaleSource,
    height_m: f32,
}

/// One person's results.
#[derive(Debug)]
pub struct Person {
    /// Told apart by this; from 1.
    pub id: u64,
    /// The file that they come from.
    pub path: PathBuf,
    label: String,
    times_s: Vec<f64>,
    world_mm: Vec<Pose3>,
    keypoints_px: Vec<[[f32; 2]; JOINTS]>,
    confidence: Vec<[f32; JOINTS]>,
    found: Vec<bool>,
    height_m: f32,
    scale_source: ScaleSource,
    model: String,
    detector: Option<String>,
}

/// What is shown: the results of a clip.
#[derive(Debug)]
pub struct Clip {
    title: String,
    image: ImageSize,
    intrinsics: Intrinsics,
    world_from_camera: Extrinsics,
    frame_times_s: Vec<f64>,
    /// In the order of their ids, at least one.
    pub people: Vec<Person>,
}

impl Clip {
    /// Reads the results of one clip, a file for each person. Ids are the files' own; where there are none, or one twice (two
    /// lifters of the same person), they are counted.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(files: &[PathBuf]) -> Result<Self, Error> {
        let mut clip: Option<(Self, &Path)> = None;
        for path in files {
            let (document, title) = read(path)?;
            let (clip, first) = clip.get_or_insert_with(|| {
                let clip = Self {
                    title: title.clone(),
                    image: document.image,
                    intrinsics: document.intrinsics,
                    world_from_camera: document.world_from_camera,
                    frame_times_s: Vec::new(),
                    people: Vec::new(),
                };
                (clip, path)
            });
            if clip.image != document.image {
                return Err(Error::OtherClip { path: path.clone(), first: first.to_owned() });
            }
            clip.add(path, document, &title);
        }
        let Some((mut clip, _)) = clip else {
            return Err(Error::NoResults { path: PathBuf::new(), reason: "no file was given".to_owned() });
        };
        clip.people.sort_by_key(|person| person.id);
        clip.frame_times_s.sort_by(f64::total_cmp);
        clip.frame_times_s.dedup();
        Ok(clip)
    }

    fn add(&mut self, path: &Path, document: Document, title: &str) {
        let taken = |id: u64| self.people.iter().any(|person| person.id == id);
        let own = document.person.filter(|&id| !taken(id) && u32::try_from(id).is_ok());
        let id = own.unwrap_or_else(|| (1..).find(|&id| !taken(id)).unwrap_or(u64::MAX));
        let label = if document.person.is_some() { format!("Person {id}") } else { title.to_owned() };
        let camera = document.world_from_camera;
        let world_mm = document.world_mm.unwrap_or_else(|| document.camera_mm.iter().map(|pose| camera.pose_to_world(pose)).collect());
        let keypoints_px = document.keypoints_px.unwrap_or_else(|| {
            let to_px = |((pose, transform), root): ((&Pose3, &ImageTransform), &[f32; 2])| {
                pose.map(|[x, y, _]| [root[0] + transform.half_size_px * x, root[1] + transform.half_size_px * y])
            };
            document.pose25.iter().zip(&document.transforms).zip(&document.root_px).map(to_px).collect()
        });
        self.frame_times_s.extend(document.all_times_s.as_ref().unwrap_or(&document.times_s));
        self.people.push(Person {
            id,
            path: path.to_owned(),
            label,
            found: document.person_found.unwrap_or_else(|| vec![true; world_mm.len()]),
            world_mm,
            keypoints_px,
            times_s: document.times_s,
            confidence: document.confidence,
            height_m: document.height_m,
            scale_source: document.scale_source,
            model: document.model,
            detector: document.detector,
        });
    }

    /// The person of this id.
    pub fn person(&self, id: u64) -> Option<&Person> {
        self.people.iter().find(|person| person.id == id)
    }

    /// Width over height of the picture.
    pub fn aspect(&self) -> f64 {
        f64::from(self.image.width_px) / f64::from(self.image.height_px.max(1))
    }

    /// First frame, and end of the last one.
    pub fn span_s(&self) -> (f64, f64) {
        let (Some(&first), Some(&last)) = (self.frame_times_s.first(), self.frame_times_s.last()) else { return (0.0, 0.0) };
        (first, last + self.fps().map_or(0.04, |fps| 1.0 / fps))
    }

    fn fps(&self) -> Option<f64> {
        let (first, last) = (self.frame_times_s.first()?, self.frame_times_s.last()?);
        (last > first).then(|| (self.frame_times_s.len() - 1) as f64 / (last - first))
    }

    /// Number of pieces.
    pub fn chunks(&self) -> usize {
        let (start, end) = self.span_s();
        (((end - start) / CHUNK_S).ceil() as usize).max(1)
    }

    /// What there is, for the page.
    pub fn session<'a>(&'a self, videos: &'a [Video]) -> Session<'a> {
        let (start_s, end_s) = self.span_s();
        Session {
            kind: "clip",
            title: &self.title,
            image: self.image,
            start_s,
            end_s,
            fps: self.fps(),
            frames: self.frame_times_s.len(),
            chunk_s: CHUNK_S,
            chunks: self.chunks(),
            video: videos,
            intrinsics: self.intrinsics,
            world_from_camera: self.world_from_camera,
            people: self.people.iter().map(Person::card).collect(),
        }
    }

    /// The poses of everybody in a stretch of [`CHUNK_S`], little-endian:
    ///
    /// u32 "PLC1", u32 people P, u32 frames F, u32 0, f64 `start_s`; F f32: times of the frames after `start_s`; for each person
    /// u32 id, u32 poses T; T u32: index of each pose's frame; T f32: 1 = the person was seen, 0 = bridged; T x 17 x 3 f32: world mm;
    /// T x 17 x 2 f32: pixels; T x 17 f32: confidence.
    pub fn chunk(&self, index: usize) -> Option<Vec<u8>> {
        if index >= self.chunks() {
            return None;
        }
        let start_s = self.span_s().0 + index as f64 * CHUNK_S;
        let end_s = if index + 1 == self.chunks() { f64::INFINITY } else { start_s + CHUNK_S };
        let frames = &self.frame_times_s[range(&self.frame_times_s, start_s, end_s)];
        let mut bytes = Bytes::default();
        bytes.u32s([CHUNK_MAGIC, self.people.len() as u32, frames.len() as u32, 0]);
        bytes.0.extend(start_s.to_le_bytes());
        bytes.f32s(frames.iter().map(|time| (time - start_s) as f32));
        for person in &self.people {
            let rows = range(&person.times_s, start_s, end_s);
            bytes.u32s([u32::try_from(person.id).unwrap_or(u32::MAX), rows.len() as u32]);
            // every time of a pose is one of a frame
            bytes.u32s(person.times_s[rows.clone()].iter().map(|time| frames.partition_point(|frame| frame < time) as u32));
            bytes.f32s(person.found[rows.clone()].iter().map(|&found| f32::from(u8::from(found))));
            bytes.f32s(person.world_mm[rows.clone()].as_flattened().as_flattened().iter().copied());
            bytes.f32s(person.keypoints_px[rows.clone()].as_flattened().as_flattened().iter().copied());
            bytes.f32s(person.confidence[rows].as_flattened().iter().copied());
        }
        Some(bytes.0)
    }

    /// The whole clip of a person in at most 2000 stretches of equal length, little-endian:
    ///
    /// u32 "PLO1", u32 stretches B; B x 8 x 2 f32: least and greatest flexion of knee, hip, elbow, shoulder (left), then right, in degrees;
    /// B x 3 f32: mean place of the hip, world mm. NaN where there is nothing.
    pub fn overview(&self, id: u64) -> Option<Vec<u8>> {
        let person = self.person(id)?;
        let (start_s, end_s) = self.span_s();
        let buckets = self.frame_times_s.len().clamp(1, OVERVIEW_BUCKETS);
        let mut angles_deg = vec![[[f32::NAN; 2]; FLEXIONS.len()]; buckets];
        let mut places_mm = vec![([0.0_f64; 3], 0_u32); buckets];
        for (pose, time_s) in person.world_mm.iter().zip(&person.times_s) {
            // where there is a stretch for each frame, rounding must not put two frames into one
            let bucket = ((time_s - start_s) / (end_s - start_s) * buckets as f64 + 1e-4) as usize;
            let bucket = bucket.min(buckets - 1);
            let values_deg = joint_angles(pose).values_deg();
            for ([low, high], angle) in angles_deg[bucket].iter_mut().zip(FLEXIONS) {
                // the minimum of a number and NaN is the number
                *low = low.min(values_deg[angle]);
                *high = high.max(values_deg[angle]);
            }
            let (sum, count) = &mut places_mm[bucket];
            (0..3).for_each(|axis| sum[axis] += f64::from(pose[pose::ROOT][axis]));
            *count += 1;
        }
        let mut bytes = Bytes::default();
        bytes.u32s([OVERVIEW_MAGIC, buckets as u32]);
        bytes.f32s(angles_deg.iter().flatten().flatten().copied());
        bytes.f32s(places_mm.iter().flat_map(|(sum, count)| sum.map(|sum| (sum / f64::from(*count)) as f32)));
        Some(bytes.0)
    }
}

impl Person {
    /// The motion for [`formats::motion`].
    ///
    /// # Errors
    /// None that [`Clip::open`] would not have found.
    pub fn motion(&self) -> Result<MotionClip<'_>, formats::Error> {
        MotionClip::new(&self.world_mm, &self.times_s)
    }

    fn card(&self) -> Card<'_> {
        let mut spans_s: Vec<[f64; 2]> = Vec::new();
        for &time_s in &self.times_s {
            // somebody who comes and goes too often is drawn as one who stays
            let is_full = spans_s.len() >= MOST_SPANS;
            match spans_s.last_mut() {
                Some(span) if is_full || time_s - span[1] <= SPAN_GAP_S => span[1] = time_s,
                _ => spans_s.push([time_s, time_s]),
            }
        }
        Card {
            id: self.id,
            label: &self.label,
            height_m: self.height_m,
            scale_source: self.scale_source,
            model: &self.model,
            detector: self.detector.as_deref(),
            poses: self.times_s.len(),
            bridged: self.found.iter().filter(|&&found| !found).count(),
            spans_s,
            files: download::offers(self),
        }
    }
}

/// What the page is told first.
#[derive(Serialize)]
pub struct Session<'a> {
    kind: &'static str,
    title: &'a str,
    image: ImageSize,
    start_s: f64,
    end_s: f64,
    fps: Option<f64>,
    frames: usize,
    chunk_s: f64,
    chunks: usize,
    video: &'a [Video],
    intrinsics: Intrinsics,
    world_from_camera: Extrinsics,
    people: Vec<Card<'a>>,
}

#[derive(Serialize)]
struct Card<'a> {
    id: u64,
    label: &'a str,
    height_m: f32,
    scale_source: ScaleSource,
    model: &'a str,
    detector: Option<&'a str>,
    poses: usize,
    bridged: usize,
    spans_s: Vec<[f64; 2]>,
    files: Vec<download::Offer>,
}

/// A video of the clip that the browser may try; the next one where it cannot.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Video {
    /// The file.
    #[serde(skip)]
    pub path: PathBuf,
    /// Where the page finds it.
    pub url: String,
    /// The clip's time of the video's first frame.
    pub offset_s: f64,
    /// Share of its width that is the picture: our film has the skeleton beside it.
    pub crop: Option<f64>,
}

/// Numbers as bytes.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn u32s(&mut self, values: impl IntoIterator<Item = u32>) {
        self.0.extend(values.into_iter().flat_map(u32::to_le_bytes));
    }

    fn f32s(&mut self, values: impl IntoIterator<Item = f32>) {
        self.0.extend(values.into_iter().flat_map(f32::to_le_bytes));
    }
}

/// Indices of the times in `start_s..end_s`.
fn range(times_s: &[f64], start_s: f64, end_s: f64) -> Range<usize> {
    times_s.partition_point(|&time| time < start_s)..times_s.partition_point(|&time| time < end_s)
}

/// The document, checked, and the clip's name.
fn read(path: &Path) -> Result<(Document, String), Error> {
    let unreadable = |source| Error::Read { path: path.to_owned(), source };
    let no_results = |reason: String| Error::NoResults { path: path.to_owned(), reason };
    let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
    if bytes > MOST_BYTES {
        return Err(no_results(format!("it has {bytes} bytes, more than {MOST_BYTES}")));
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    let document: Document = serde_json::from_slice(&bytes).map_err(|error| no_results(error.to_string()))?;
    document.check().map_err(no_results)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let title = name.strip_suffix(".json").unwrap_or(&name);
    let title = title.strip_suffix(".3d").unwrap_or(title);
    // a person's file is named CLIP.person1.3d.json
    let of_person = document.person.map(|id| format!(".person{id}")).unwrap_or_default();
    Ok((document, title.strip_suffix(&of_person).unwrap_or(title).to_owned()))
}

impl Document {
    /// What indexing relies on.
    fn check(&self) -> Result<(), String> {
        if self.format != LiftedClip::JSON_FORMAT {
            return Err(format!("its format is \"{}\", expected \"{}\"", self.format, LiftedClip::JSON_FORMAT));
        }
        let frames = self.times_s.len();
        let lengths = [
            ("confidence", Some(self.confidence.len())),
            ("pose25", Some(self.pose25.len())),
            ("transforms", Some(self.transforms.len())),
            ("root_px", Some(self.root_px.len())),
            ("camera_mm", Some(self.camera_mm.len())),
            ("world_mm", self.world_mm.as_ref().map(Vec::len)),
            ("keypoints_px", self.keypoints_px.as_ref().map(Vec::len)),
            ("person_found", self.person_found.as_ref().map(Vec::len)),
        ];
        if let Some((field, Some(found))) = lengths.into_iter().find(|(_, length)| length.is_some_and(|length| length != frames)) {
            return Err(format!("expected {frames} entries of {field}, one for each of times_s, found {found}"));
        }
        let poses = self.world_mm.as_ref().unwrap_or(&self.camera_mm);
        MotionClip::new(poses, &self.times_s).map_err(|error| error.to_string())?;
        let all = self.all_times_s.as_ref().unwrap_or(&self.times_s);
        if !all.windows(2).all(|pair| pair[0] < pair[1]) || !all.iter().all(|time| time.is_finite()) {
            return Err("all_times_s must be finite and rise".to_owned());
        }
        // the page looks frames of poses up among all frames
        if self.times_s.iter().any(|time| all.binary_search_by(|frame| frame.total_cmp(time)).is_err()) {
            return Err("a time of times_s is none of all_times_s".to_owned());
        }
        if self.image.width_px == 0 || self.image.height_px == 0 {
            return Err("its picture has no pixels".to_owned());
        }
        Ok(())
    }
}

/// What may be shown beside results: the clip itself, by `video` or found beside them, then the film that `demo` made of it.
pub fn videos(clip: &Clip, video: Option<&Path>) -> Vec<Video> {
    const ENDINGS: [&str; 5] = ["mp4", "mov", "m4v", "webm", "mkv"];
    let Some(first) = clip.people.first() else { return Vec::new() };
    let folder = first.path.parent().unwrap_or(Path::new(""));
    let stem = &clip.title;
    let beside = ENDINGS.map(|ending| folder.join(format!("{stem}.{ending}"))).into_iter().find(|path| path.is_file());
    let film = folder.join(format!("{stem}.3d.mp4"));
    let source = video.map(Path::to_owned).or(beside).map(|path| (path, 0.0, None));
    // the film's left panel has the video's shape, the right one is a square
    let film =
        film.is_file().then(|| (film, clip.span_s().0, Some(clip.aspect().clamp(0.25, 3.0) / (clip.aspect().clamp(0.25, 3.0) + 1.0))));
    let found = source.into_iter().chain(film);
    found.enumerate().map(|(i, (path, offset_s, crop))| Video { path, url: format!("/video/{i}"), offset_s, crop }).collect()
}
