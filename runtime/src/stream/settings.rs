//! The settings of a stream as its user gives them: flags of `runtime lift --stream`, or JSON to `runtime serve`.

use pose::{ImageSize, camera::Intrinsics, filter::OneEuro, joint_map::Source, world::Scale};
use serde::{Deserialize, Serialize};

use super::StreamOptions;
use crate::Error;

/// What a stream is opened with. What is left out is as in [`StreamOptions::default`].
///
/// ```
/// let settings: runtime::StreamSettings = serde_json::from_str(
///     r#"{"image": {"width": 1280, "height": 720}, "skeleton": "coco17", "look_ahead": 2, "one_euro": {}}"#,
/// )?;
/// assert_eq!(settings.options()?.look_ahead, Some(2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamSettings {
    /// Size of the picture that the keypoints come from; JSON: `{"width": 1280, "height": 720}`.
    #[serde(with = "picture")]
    pub image: ImageSize,
    /// Whose joints the frames hold.
    #[serde(default = "h36m17")]
    pub skeleton: Source,
    /// See [`StreamOptions::look_ahead`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub look_ahead: Option<usize>,
    /// See [`StreamOptions::hop`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hop: Option<usize>,
    /// See [`StreamOptions::hold_s`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_s: Option<f64>,
    /// See [`StreamOptions::blend_s`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blend_s: Option<f64>,
    /// See [`StreamOptions::flip`].
    #[serde(default)]
    pub flip: bool,
    /// The person's height in metres.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height_m: Option<f32>,
    /// The camera's horizontal field of view in degrees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fov_deg: Option<f32>,
    /// The One-Euro filter, where there is to be one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_euro: Option<OneEuroSettings>,
    /// See [`StreamOptions::constant_bones`].
    #[serde(default)]
    pub constant_bones: bool,
}

/// See [`OneEuro`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OneEuroSettings {
    /// Cutoff frequency at rest, Hz.
    pub min_cutoff_hz: f64,
    /// How fast the cutoff rises with speed, Hz s/mm.
    pub beta: f64,
}

impl Default for OneEuroSettings {
    fn default() -> Self {
        let OneEuro { min_cutoff_hz, beta, .. } = OneEuro::default();
        Self { min_cutoff_hz, beta }
    }
}

impl StreamSettings {
    /// Keypoints of Human3.6M's joints from pictures of this size; all else as in [`StreamOptions::default`].
    pub fn new(image: ImageSize) -> Self {
        Self {
            image,
            skeleton: Source::H36m17,
            look_ahead: None,
            hop: None,
            hold_s: None,
            blend_s: None,
            flip: false,
            height_m: None,
            fov_deg: None,
            one_euro: None,
            constant_bones: false,
        }
    }

    /// What [`StreamCore::new`](super::StreamCore::new) takes, which checks the rest.
    ///
    /// # Errors
    /// A field of view that no camera has, or an empty picture.
    pub fn options(&self) -> Result<StreamOptions, Error> {
        let defaults = StreamOptions::default();
        let intrinsics = self.fov_deg.map(|fov_deg| Intrinsics::from_horizontal_fov_deg(self.image, fov_deg)).transpose();
        Ok(StreamOptions {
            look_ahead: self.look_ahead,
            hop: self.hop.unwrap_or(defaults.hop),
            hold_s: self.hold_s.unwrap_or(defaults.hold_s),
            blend_s: self.blend_s.unwrap_or(defaults.blend_s),
            flip: self.flip,
            scale: self.height_m.map_or(Scale::DefaultHeight, |height_m| Scale::Height { height_m }),
            intrinsics: intrinsics.map_err(|error| Error::Stream(error.to_string()))?,
            one_euro: self.one_euro.map(|set| OneEuro { min_cutoff_hz: set.min_cutoff_hz, beta: set.beta, ..OneEuro::default() }),
            constant_bones: self.constant_bones,
            ..defaults
        })
    }
}

fn h36m17() -> Source {
    Source::H36m17
}

/// As keypoint files write it.
mod picture {
    use pose::ImageSize;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Picture {
        width: u32,
        height: u32,
    }

    pub fn serialize<S: Serializer>(image: &ImageSize, serializer: S) -> Result<S::Ok, S::Error> {
        Picture { width: image.width_px, height: image.height_px }.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ImageSize, D::Error> {
        let Picture { width, height } = Picture::deserialize(deserializer)?;
        Ok(ImageSize { width_px: width, height_px: height })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_the_default() {
        let settings: StreamSettings = serde_json::from_str(r#"{"image": {"width": 1280, "height": 720}}"#).unwrap();
        assert_eq!(settings, StreamSettings::new(ImageSize { width_px: 1280, height_px: 720 }));
        assert_eq!(settings.options().unwrap(), StreamOptions::default());
        let all = r#"{"image": {"width": 640, "height": 480}, "skeleton": "body25", "look_ahead": 1, "hop": 2, "hold_s": 0.25, "blend_s": 0.125,
            "flip": true, "height_m": 1.5, "fov_deg": 70.0, "one_euro": {"beta": 0.5}, "constant_bones": true}"#;
        let settings: StreamSettings = serde_json::from_str(all).unwrap();
        let options = settings.options().unwrap();
        assert_eq!(settings.skeleton, Source::Body25);
        assert_eq!((options.look_ahead, options.hop, options.hold_s, options.blend_s), (Some(1), 2, 0.25, 0.125));
        assert_eq!(options.scale, Scale::Height { height_m: 1.5 });
        assert_eq!(options.one_euro, Some(OneEuro { beta: 0.5, ..OneEuro::default() }));
        assert!(options.flip && options.constant_bones && options.intrinsics.is_some());
        let again: StreamSettings = serde_json::from_str(&serde_json::to_string(&settings).unwrap()).unwrap();
        assert_eq!(again, settings);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for bad in [
            r#"{}"#,
            r#"{"image": {"width": 1280}}"#,
            r#"{"image": {"width": -1, "height": 720}}"#,
            r#"{"image": {"width": 1280, "height": 720}, "lookahead": 2}"#,
            r#"{"image": {"width": 1280, "height": 720}, "skeleton": "spider"}"#,
        ] {
            assert!(serde_json::from_str::<StreamSettings>(bad).is_err(), "{bad}");
        }
        let image = ImageSize { width_px: 1280, height_px: 720 };
        assert!(StreamSettings { fov_deg: Some(0.0), ..StreamSettings::new(image) }.options().is_err());
    }
}
