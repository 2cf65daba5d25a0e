//! The clip folders of the reference repositories: `H36M-243/{train,test}/%08d.pkl`.

use std::path::{Path, PathBuf};

use formats::{Tensor, Value};
use pose::JOINTS;

use crate::Error;
use crate::clip_options::{ClipOptions, H36M};
use crate::sample::{Sample, SampleSource};

/// Channels of both arrays in the files: x, y, confidence and x, y, z.
const CHANNELS: usize = 3;
/// Both arrays are in units of half the image's width: a value this large is pixels or millimetres.
const LARGEST: f32 = 50.0;

/// One half (`train` or `test`) of a clip folder, read clip by clip as it is asked for.
///
/// A file holds {`data_input`: float32 [n, 17, 3] (x, y, confidence), `data_label`: float32 [n, 17, 3]}, both normalised by the frame; the
/// label is not root-relative.
#[derive(Clone, Debug)]
pub struct ClipFolder {
    files: Vec<PathBuf>,
    frames: usize,
    options: ClipOptions,
}

/// One file's arrays as they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Clip {
    /// (n, 17, 3): x, y, confidence.
    pub input: Vec<f32>,
    /// (n, 17, 3): x, y, z, not root-relative.
    pub label: Vec<f32>,
    /// n.
    pub frames: usize,
}

impl ClipFolder {
    /// Lists the clips of a folder such as `H36M-243/train` and reads the first.
    ///
    /// # Errors
    /// A folder that cannot be read or holds no `.pkl`, a first clip that is refused, options out of range.
    pub fn open(dir: &Path, options: ClipOptions) -> Result<Self, Error> {
        options.validate()?;
        let entries = std::fs::read_dir(dir).map_err(|e| Error::content(dir, format!("the clip folder cannot be read: {e}")))?;
        let mut files = Vec::new();
        for entry in entries {
            let path = entry.map_err(|e| Error::content(dir, format!("the clip folder cannot be read: {e}")))?.path();
            if path.extension().is_some_and(|extension| extension == "pkl") {
                files.push(path);
            }
        }
        files.sort();
        let Some(first) = files.first() else {
            return Err(Error::content(
                dir,
                "holds no .pkl file: expected clips such as 00000000.pkl, is 'train' or 'test' missing at the end?",
            ));
        };
        let frames = read_clip(first)?.frames;
        Ok(Self { files, frames, options })
    }

    /// The first clips, so large a share of them, rounded to the nearest.
    ///
    /// # Errors
    /// None is left.
    pub fn first(mut self, share: f64) -> Result<Self, Error> {
        let count = self.count(share)?;
        self.files.truncate(count);
        Ok(self)
    }

    /// The last clips: with [`Self::first`] of the rest, each clip is in one of the two.
    ///
    /// # Errors
    /// None is left.
    pub fn last(mut self, share: f64) -> Result<Self, Error> {
        self.count(share)?;
        let first = ((1.0 - share) * self.files.len() as f64).round() as usize;
        self.files.drain(..first.min(self.files.len() - 1));
        Ok(self)
    }

    fn count(&self, share: f64) -> Result<usize, Error> {
        let clips = self.files.len();
        let count = (share * clips as f64).round();
        if count >= 1.0 && count <= clips as f64 {
            return Ok(count as usize);
        }
        let dir = self.files.first().and_then(|file| file.parent()).unwrap_or(Path::new(""));
        Err(Error::content(dir, format!("has {clips} clips, of which a share of {share} is none: expected at least one")))
    }

    /// The files, in order.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The arrays of file `index`, untouched.
    ///
    /// # Errors
    /// A file that cannot be read, has other arrays, values that are not normalised, or another number of frames than the first.
    pub fn clip(&self, index: usize) -> Result<Clip, Error> {
        let path = &self.files[index];
        let clip = read_clip(path)?;
        if clip.frames != self.frames {
            return Err(Error::content(
                path,
                format!("has {} frames: expected {}, as the folder's first clip has", clip.frames, self.frames),
            ));
        }
        Ok(clip)
    }
}

fn read_clip(path: &Path) -> Result<Clip, Error> {
    let bytes = std::fs::read(path).map_err(|e| Error::content(path, format!("the clip cannot be read: {e}")))?;
    let value = formats::pickle::read(&bytes).map_err(|e| Error::content(path, e.to_string()))?;
    let (input, frames) = array(&value, "data_input", path)?;
    let (label, label_frames) = array(&value, "data_label", path)?;
    if frames != label_frames {
        return Err(Error::content(path, format!("'data_input' has {frames} frames and 'data_label' {label_frames}: they must agree")));
    }
    Ok(Clip { input, label, frames })
}

/// The values of a (n, 17, 3) array of the file's dict, and n.
fn array(value: &Value, name: &str, path: &Path) -> Result<(Vec<f32>, usize), Error> {
    let tensor: &Tensor = value.get(name).and_then(Value::as_tensor).ok_or_else(|| {
        Error::content(path, format!("array '{name}' is missing: a clip is a dict of the arrays data_input and data_label"))
    })?;
    let frames = match tensor.shape[..] {
        [frames, JOINTS, CHANNELS] if frames > 0 => frames,
        _ => return Err(Error::content(path, format!("'{name}' has shape {:?}: expected (n, {JOINTS}, {CHANNELS})", tensor.shape))),
    };
    let values = tensor.to_f32();
    if let Some(i) = values.iter().position(|v| v.is_nan() || v.abs() > LARGEST) {
        let (frame, joint) = (i / (JOINTS * CHANNELS), i / CHANNELS % JOINTS);
        let problem =
            format!("'{name}' is {} at frame {frame}, joint {joint}: expected values normalised by half the image's width", values[i]);
        return Err(Error::content(path, problem));
    }
    Ok((values, frames))
}

impl SampleSource for ClipFolder {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn frames(&self) -> usize {
        self.frames
    }

    fn dim_in(&self) -> usize {
        self.options.dim_in
    }

    fn seed(&self) -> u64 {
        self.options.seed
    }

    fn sample(&self, epoch: u64, index: usize) -> Result<Sample, Error> {
        let Clip { input, label, .. } = self.clip(index)?;
        Ok(self.options.sample(&H36M, input, label, epoch, index))
    }
}
