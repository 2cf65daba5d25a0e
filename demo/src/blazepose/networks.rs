//! The two networks in ONNX Runtime, with the cutting out of what they see.

use std::path::{Path, PathBuf};
use std::thread;

use opencv::core::{self, Mat, MatTraitConst, Point2f, Scalar, Size};
use opencv::imgproc;
use opencv::prelude::MatTraitConstManual;
use ort::ep;
use ort::session::Session;
use ort::value::TensorRef;
use pose::ImageSize;
use runtime::Device;

use super::anchors::{self, DETECTOR_SIZE_PX};
use super::detection::{self, Detection, VALUES_PER_ANCHOR};
use super::landmarks::{self, ALL_LANDMARKS, CROP_SIZE_PX, HEATMAP_SIZE, Outputs, Person, VALUES_PER_LANDMARK};
use super::roi::{Letterbox, Roi};

/// Where `scripts/blazepose.sh` puts the converted models, below the workspace.
pub const MODELS_FOLDER: &str = ".native/blazepose";

/// Which of the three landmark networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Quality {
    /// 1.3 million parameters.
    Lite,
    /// 3.2 million parameters.
    Full,
    /// 13.7 million parameters: the most exact, and hardly ever confuses left and right.
    #[default]
    Heavy,
}

impl Quality {
    /// Its name in file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lite => "lite",
            Self::Full => "full",
            Self::Heavy => "heavy",
        }
    }
}

/// Why the detector could not be opened or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The converted models are not there.
    #[error("BlazePose's model {} is missing: run scripts/blazepose.sh, which fetches and converts it", .0.display())]
    Missing(PathBuf),
    /// The ONNX Runtime library.
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    /// ONNX Runtime refused the model, or running it failed.
    #[error("BlazePose's model {} cannot be run: {reason}", path.display())]
    Run {
        /// The model.
        path: PathBuf,
        /// What the engine says.
        reason: String,
    },
    /// A file in the place of a model is another one.
    #[error("{} is not BlazePose's model: its output {output} does not have {expected} numbers", path.display())]
    WrongModel {
        /// The file.
        path: PathBuf,
        /// Name of the output.
        output: &'static str,
        /// Size that was expected.
        expected: usize,
    },
    /// OpenCV failed to cut out a part of a frame.
    #[error("OpenCV cannot cut out a part of the frame: {0}")]
    OpenCv(#[from] opencv::Error),
}

/// How to open the networks.
#[derive(Debug, Clone, Default)]
pub struct NetworksOptions {
    /// Which landmark network.
    pub quality: Quality,
    /// Where they run.
    pub device: Device,
    /// Threads within one operation; 0 takes as many as there are processors.
    pub threads: usize,
    /// Folder of the converted models; `None` searches `.native/blazepose` above the executable and the working folder.
    pub folder: Option<PathBuf>,
}

/// The detector and a landmark network, open.
#[derive(Debug)]
pub struct Networks {
    detector: Network,
    landmarker: Network,
    anchors: Vec<[f32; 2]>,
}

impl Networks {
    /// Opens both.
    ///
    /// # Errors
    /// Models that are missing or not BlazePose's, an ONNX Runtime library that is missing, a device that cannot be used.
    pub fn open(options: &NetworksOptions) -> Result<Self, Error> {
        let folder = options.folder.clone().unwrap_or_else(find_folder);
        let landmarker = format!("landmarks-{}.onnx", options.quality.name());
        Ok(Self {
            detector: Network::open(folder.join("detector.onnx"), DETECTOR_SIZE_PX, options)?,
            landmarker: Network::open(folder.join(landmarker), CROP_SIZE_PX, options)?,
            anchors: anchors::centres(),
        })
    }

    /// People in a part of a frame (BGR), the most certain first.
    ///
    /// # Errors
    /// A failure of the engine or of OpenCV.
    pub fn detect(&mut self, frame: &Mat, view: &Letterbox) -> Result<Vec<Detection>, Error> {
        let corners = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]].map(|corner| view.to_px(corner));
        self.detector.fill_input(frame, corners, |byte| f32::from(byte) / 127.5 - 1.0)?;
        let anchors = &self.anchors;
        self.detector.run(|outputs| {
            let boxes = outputs.values("boxes", anchors.len() * VALUES_PER_ANCHOR)?;
            let scores = outputs.values("scores", anchors.len())?;
            Ok(detection::decode(boxes, scores, anchors, view))
        })
    }

    /// The person in a square of a frame (BGR), whatever its score; `None` if the network's numbers are useless.
    ///
    /// # Errors
    /// A failure of the engine or of OpenCV.
    pub fn landmarks(&mut self, frame: &Mat, roi: &Roi) -> Result<Option<Person>, Error> {
        let image = image_size(frame);
        if !roi.is_usable(image) {
            return Ok(None);
        }
        let corners = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]].map(|corner| roi.to_px(corner));
        self.landmarker.fill_input(frame, corners, |byte| f32::from(byte) / 255.0)?;
        self.landmarker.run(|outputs| {
            let outputs = Outputs {
                landmarks: outputs.values("landmarks", ALL_LANDMARKS * VALUES_PER_LANDMARK)?,
                world: outputs.values("world", ALL_LANDMARKS * 3)?,
                heatmap: outputs.values("heatmap", HEATMAP_SIZE * HEATMAP_SIZE * ALL_LANDMARKS)?,
                score: outputs.values("score", 1)?[0],
            };
            Ok(landmarks::decode(&outputs, roi).filter(|person| person.next_roi.is_usable(image)))
        })
    }
}

/// Size of a frame.
pub fn image_size(frame: &Mat) -> ImageSize {
    ImageSize { width_px: frame.cols().unsigned_abs(), height_px: frame.rows().unsigned_abs() }
}

/// One network that takes a square RGB image, and its input: (1, side, side, 3).
#[derive(Debug)]
struct Network {
    path: PathBuf,
    session: Session,
    side_px: usize,
    crop: Mat,
    input: Vec<f32>,
}

impl Network {
    fn open(path: PathBuf, side_px: usize, options: &NetworksOptions) -> Result<Self, Error> {
        if !path.is_file() {
            return Err(Error::Missing(path));
        }
        let environment = runtime::environment(None)?;
        let threads = if options.threads == 0 { thread::available_parallelism().map_or(1, usize::from) } else { options.threads };
        let mut builder = Session::builder(&environment)
            // Idle threads that spin would take the processor from decoding and drawing, which alternate with the networks.
            .and_then(|builder| Ok(builder.with_intra_threads(threads)?.with_intra_op_spinning(false)?))
            .map_err(|error| run_error(&path, &error))?;
        if let Some(index) = options.device.gpu() {
            // Without `error_on_failure` a provider that cannot start leaves the model on the CPU, silently.
            let provider = ep::CUDA::default().with_device_id(index).build().error_on_failure();
            builder = builder.with_execution_providers([provider]).map_err(|error| run_error(&path, &error.into()))?;
        }
        let session = builder.commit_from_file(&path).map_err(|error| run_error(&path, &error))?;
        Ok(Self { path, session, side_px, crop: Mat::default(), input: vec![0.0; side_px * side_px * 3] })
    }

    /// Cuts out the parallelogram whose top left, top right and bottom left corners are given, black outside the frame.
    fn fill_input(&mut self, frame: &Mat, corners_px: [[f32; 2]; 3], scale: impl Fn(u8) -> f32) -> Result<(), Error> {
        let side = self.side_px as f32;
        let target = [Point2f::new(0.0, 0.0), Point2f::new(side, 0.0), Point2f::new(0.0, side)];
        let source = corners_px.map(|[x, y]| Point2f::new(x, y));
        let crop_from_frame = imgproc::get_affine_transform_slice(source, target)?;
        imgproc::warp_affine(
            frame,
            &mut self.crop,
            &crop_from_frame,
            Size::new(self.side_px as i32, self.side_px as i32),
            imgproc::INTER_LINEAR,
            core::BORDER_CONSTANT,
            Scalar::default(),
        )?;
        let (pixels, _) = self.crop.data_bytes()?.as_chunks::<3>();
        for (rgb, &[blue, green, red]) in self.input.chunks_exact_mut(3).zip(pixels) {
            rgb.copy_from_slice(&[scale(red), scale(green), scale(blue)]);
        }
        Ok(())
    }

    fn run<T>(&mut self, read: impl FnOnce(&NetworkOutputs<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let shape = [1, self.side_px, self.side_px, 3];
        let input = TensorRef::from_array_view((shape, &*self.input)).map_err(|error| run_error(&self.path, &error))?;
        let outputs = self.session.run(ort::inputs![input]).map_err(|error| run_error(&self.path, &error))?;
        read(&NetworkOutputs { path: &self.path, outputs })
    }
}

struct NetworkOutputs<'s> {
    path: &'s Path,
    outputs: ort::session::SessionOutputs<'s>,
}

impl NetworkOutputs<'_> {
    /// All numbers of an output, as many as expected.
    fn values(&self, output: &'static str, expected: usize) -> Result<&[f32], Error> {
        let values = self.outputs.get(output).and_then(|value| value.try_extract_tensor::<f32>().ok());
        match values {
            Some((_, values)) if values.len() == expected => Ok(values),
            _ => Err(Error::WrongModel { path: self.path.to_owned(), output, expected }),
        }
    }
}

fn run_error(path: &Path, error: &ort::Error) -> Error {
    Error::Run { path: path.to_owned(), reason: error.message().lines().collect::<Vec<_>>().join(" ") }
}

/// The models' folder above the executable or the working folder; where it should be if it is nowhere.
fn find_folder() -> PathBuf {
    crate::paths::find_above(Path::new(MODELS_FOLDER)).unwrap_or_else(|| PathBuf::from(MODELS_FOLDER))
}
