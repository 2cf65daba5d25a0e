//! What a model says about itself.

use crate::{Error, normalise::Normalisation};
use serde::{Deserialize, Serialize};

/// A lifter's description. It lives as JSON in the ONNX metadata property [`ModelMetadata::ONNX_KEY`], and under the key
/// `metadata` in our `.pth` files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelMetadata {
    /// Version of this description: [`ModelMetadata::FORMAT`].
    pub format: u32,
    /// The model's name, for people.
    pub name: String,
    /// Name of the architecture, such as `motionagformer-mamba-gcn`.
    pub architecture: String,
    /// The architecture's configuration, as TOML.
    pub config_toml: String,
    /// The skeleton: [`ModelMetadata::SKELETON`].
    pub skeleton: String,
    /// Frames in a window: exactly so many, or, where `frames_dynamic`, what it was trained with.
    pub frames: usize,
    /// Whether the graph takes any number of frames.
    pub frames_dynamic: bool,
    /// Whether no frame's pose depends on later frames than `look_ahead` says: such a model is fed as [`crate::causal`] has it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub causal: bool,
    /// k of a causal model: what comes out at frame t is the pose of frame t - k, in the units of that frame.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub look_ahead: usize,
    /// Channels of the input: 2 (x, y) or 3 (x, y, confidence).
    pub dim_in: usize,
    /// How pixels become the model's input.
    pub normalisation: Normalisation,
    /// Frames a second that the model was trained at.
    pub fps: f32,
    /// What comes out: [`ModelMetadata::OUTPUT`].
    pub output: String,
    /// Number of parameters.
    pub parameters: u64,
    /// Data it was trained on, with the acknowledgement that data wants.
    pub trained_on: String,
    /// Licence of the weights.
    pub licence: String,
    /// Whether it has a temporal graph of the k most similar frames, whose output is discontinuous.
    pub has_top_k_graph: bool,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl ModelMetadata {
    /// Longest look-ahead that is believed.
    pub const MAX_LOOK_AHEAD: usize = 1024;
    /// The version this code reads and writes.
    pub const FORMAT: u32 = 1;
    /// Key of the ONNX metadata property.
    pub const ONNX_KEY: &str = "poselift";
    /// The one skeleton so far: Human3.6M, 17 joints.
    pub const SKELETON: &str = "h36m17";
    /// The one output so far, see [`crate::world`].
    pub const OUTPUT: &str = "2.5d";
    /// Longest window that is believed.
    pub const MAX_FRAMES: usize = 1 << 16;

    /// Whether it is a step graph: one frame of a causal model, with the states of its layers as inputs and outputs.
    pub fn is_step(&self) -> bool {
        self.causal && !self.frames_dynamic
    }

    /// Refuses a description that this code cannot serve.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] naming the field.
    pub fn validate(&self) -> Result<(), Error> {
        let check = |ok: bool, what, expected, found: &dyn ToString| {
            if ok { Ok(()) } else { Err(Error::out_of_range(what, expected, found.to_string())) }
        };
        check(self.format == Self::FORMAT, "format of the model's metadata", "1 (use a newer poselift for a newer file)", &self.format)?;
        check(self.skeleton == Self::SKELETON, "skeleton of the model", "h36m17", &self.skeleton)?;
        check(self.output == Self::OUTPUT, "output of the model", "2.5d", &self.output)?;
        check((1..=Self::MAX_FRAMES).contains(&self.frames), "frames in a window of the model", "1 to 65536", &self.frames)?;
        check(
            self.look_ahead == 0 || (self.causal && self.look_ahead <= Self::MAX_LOOK_AHEAD),
            "look-ahead of the model",
            "0 to 1024 frames, and 0 of a model that is not causal",
            &self.look_ahead,
        )?;
        check(matches!(self.dim_in, 2 | 3), "input channels of the model", "2 (x, y) or 3 (x, y, confidence)", &self.dim_in)?;
        check(self.fps > 0.0 && self.fps <= 1000.0, "frames a second of the model", "a number above 0, up to 1000", &self.fps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> ModelMetadata {
        ModelMetadata {
            format: 1,
            name: "clip-xs".into(),
            architecture: "motionagformer-mamba-gcn".into(),
            config_toml: "dim = 64\n".into(),
            skeleton: "h36m17".into(),
            frames: 81,
            frames_dynamic: true,
            causal: true,
            look_ahead: 4,
            dim_in: 3,
            normalisation: Normalisation::PersonBox,
            fps: 50.0,
            output: "2.5d".into(),
            parameters: 2_200_000,
            trained_on: "CMU".into(),
            licence: "MIT OR Apache-2.0".into(),
            has_top_k_graph: false,
        }
    }

    #[test]
    fn json_keeps_everything() {
        let json = serde_json::to_string(&metadata()).unwrap();
        assert!(json.contains(r#""normalisation":"person_box""#), "{json}");
        assert_eq!(serde_json::from_str::<ModelMetadata>(&json).unwrap(), metadata());
        assert_eq!(metadata().validate(), Ok(()));
    }

    #[test]
    fn what_cannot_be_served_is_named() {
        type Spoil = fn(&mut ModelMetadata);
        let cases: [(Spoil, &str); 8] = [
            (|m| m.look_ahead = 5000, "look-ahead"),
            (|m| m.causal = false, "look-ahead"),
            (|m| m.format = 2, "format"),
            (|m| m.skeleton = "smpl24".into(), "skeleton"),
            (|m| m.output = "metric".into(), "output"),
            (|m| m.frames = 0, "frames in a window"),
            (|m| m.dim_in = 7, "channels"),
            (|m| m.fps = f32::NAN, "frames a second"),
        ];
        for (spoil, expected) in cases {
            let mut m = metadata();
            spoil(&mut m);
            let message = m.validate().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
