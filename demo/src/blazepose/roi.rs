//! The regions of a picture that the two networks look at.

use pose::ImageSize;

/// A person's square is this much larger than the circle through the hips' centre and the farthest point of the body.
const ROI_MARGIN: f32 = 1.25;

/// A square that a person fits into, turned so that the person stands upright in it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Roi {
    /// Its centre: the middle of the hips.
    pub centre_px: [f32; 2],
    /// Length of its sides.
    pub size_px: f32,
    /// How far the person is turned, clockwise in the picture (y down); 0 for someone upright.
    pub angle_rad: f32,
}

impl Roi {
    /// The square around a person whose body a circle around the hips' centre encloses, from that centre and the point
    /// of the circle above the head. MediaPipe's `AlignmentPointsRectsCalculator` with its pose graphs' options.
    pub fn from_alignment_points(hip_centre_px: [f32; 2], circle_point_px: [f32; 2]) -> Self {
        let [dx, dy] = [circle_point_px[0] - hip_centre_px[0], circle_point_px[1] - hip_centre_px[1]];
        let angle = std::f32::consts::FRAC_PI_2 - (-dy).atan2(dx);
        Self {
            centre_px: hip_centre_px,
            size_px: 2.0 * dx.hypot(dy) * ROI_MARGIN,
            angle_rad: (angle + std::f32::consts::PI).rem_euclid(std::f32::consts::TAU) - std::f32::consts::PI,
        }
    }

    /// The pixel at (u, v) of the square: (0, 0) is its top left corner, (1, 1) its bottom right one.
    pub fn to_px(&self, [u, v]: [f32; 2]) -> [f32; 2] {
        let [x, y] = [(u - 0.5) * self.size_px, (v - 0.5) * self.size_px];
        let (sin, cos) = self.angle_rad.sin_cos();
        [self.centre_px[0] + x * cos - y * sin, self.centre_px[1] + x * sin + y * cos]
    }

    /// The inverse of [`Self::to_px`].
    pub fn from_px(&self, [x_px, y_px]: [f32; 2]) -> [f32; 2] {
        let [x, y] = [(x_px - self.centre_px[0]) / self.size_px, (y_px - self.centre_px[1]) / self.size_px];
        let (sin, cos) = self.angle_rad.sin_cos();
        [x * cos + y * sin + 0.5, -x * sin + y * cos + 0.5]
    }

    /// Whether numbers of a network made a square that can be cut out of a picture.
    pub fn is_usable(&self, image: ImageSize) -> bool {
        let longest_px = image.width_px.max(image.height_px) as f32;
        let near = |value: f32, size: u32| value > -longest_px && value < size as f32 + longest_px;
        // A comparison with NaN is false.
        self.size_px > 8.0
            && self.size_px < 8.0 * longest_px
            && near(self.centre_px[0], image.width_px)
            && near(self.centre_px[1], image.height_px)
            && self.angle_rad.is_finite()
    }

    /// Distance of the centres in units of this square's size.
    pub fn relative_distance(&self, other: &Self) -> f32 {
        let [dx, dy] = [other.centre_px[0] - self.centre_px[0], other.centre_px[1] - self.centre_px[1]];
        dx.hypot(dy) / self.size_px
    }
}

/// An upright square of the picture, possibly larger than it (the rest is black): what the detector sees.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Letterbox {
    /// Its top left corner.
    pub corner_px: [f32; 2],
    /// Length of its sides.
    pub size_px: f32,
}

impl Letterbox {
    /// The whole picture, with bars on its shorter sides.
    pub fn whole(image: ImageSize) -> Self {
        let [width, height] = [image.width_px as f32, image.height_px as f32];
        let size_px = width.max(height);
        Self { corner_px: [(width - size_px) / 2.0, (height - size_px) / 2.0], size_px }
    }

    /// The square of this size around a point.
    pub fn around(centre_px: [f32; 2], size_px: f32) -> Self {
        Self { corner_px: centre_px.map(|centre| centre - size_px / 2.0), size_px }
    }

    /// Overlapping squares that cover the picture at about twice the resolution of [`Self::whole`].
    pub fn tiles(image: ImageSize) -> Vec<Self> {
        let [width, height] = [image.width_px as f32, image.height_px as f32];
        let size_px = (width.max(height) / 2.0).max(width.min(height) * 0.75).min(width.min(height));
        let starts = |length: f32| {
            // Neighbours share at least a third, so that a person at a border is whole in one of them.
            let count = ((length - size_px) / (size_px * 2.0 / 3.0)).ceil() as usize + 1;
            let step = if count > 1 { (length - size_px) / (count - 1) as f32 } else { 0.0 };
            (0..count).map(move |i| i as f32 * step)
        };
        starts(height).flat_map(|y| starts(width).map(move |x| Self { corner_px: [x, y], size_px })).collect()
    }

    /// The pixel of the picture at (u, v) of the square, 0..1.
    pub fn to_px(&self, [u, v]: [f32; 2]) -> [f32; 2] {
        [self.corner_px[0] + u * self.size_px, self.corner_px[1] + v * self.size_px]
    }

    /// The inverse of [`Self::to_px`].
    pub fn from_px(&self, [x_px, y_px]: [f32; 2]) -> [f32; 2] {
        [(x_px - self.corner_px[0]) / self.size_px, (y_px - self.corner_px[1]) / self.size_px]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: ImageSize = ImageSize { width_px: 1768, height_px: 994 };

    fn assert_near(a: [f32; 2], b: [f32; 2]) {
        assert!((a[0] - b[0]).abs() < 1e-2 && (a[1] - b[1]).abs() < 1e-2, "{a:?} is not {b:?}");
    }

    #[test]
    fn someone_upright_gets_an_upright_square() {
        let roi = Roi::from_alignment_points([500.0, 400.0], [500.0, 200.0]);
        assert_eq!(roi, Roi { centre_px: [500.0, 400.0], size_px: 500.0, angle_rad: 0.0 });
        assert_near(roi.to_px([0.0, 0.0]), [250.0, 150.0]);
    }

    #[test]
    fn someone_lying_gets_a_turned_square() {
        // The head points right: a quarter turn clockwise.
        let roi = Roi::from_alignment_points([500.0, 400.0], [700.0, 400.0]);
        assert!((roi.angle_rad - std::f32::consts::FRAC_PI_2).abs() < 1e-6);
        // The top of the square is where the head is.
        assert_near(roi.to_px([0.5, 0.0]), [750.0, 400.0]);
    }

    #[test]
    fn squares_are_inverted_exactly() {
        let roi = Roi { centre_px: [123.0, 456.0], size_px: 321.0, angle_rad: 2.5 };
        let letterbox = Letterbox::whole(IMAGE);
        for point in [[0.0, 0.0], [0.3, 0.9], [1.0, 0.5], [-0.2, 1.4]] {
            assert_near(roi.from_px(roi.to_px(point)), point);
            assert_near(letterbox.from_px(letterbox.to_px(point)), point);
        }
    }

    #[test]
    fn the_letterbox_has_bars_above_and_below_a_wide_picture() {
        let letterbox = Letterbox::whole(IMAGE);
        assert_near(letterbox.to_px([0.0, 0.0]), [0.0, -387.0]);
        assert_near(letterbox.to_px([0.5, 0.5]), [884.0, 497.0]);
        assert_near(letterbox.to_px([1.0, 1.0]), [1768.0, 994.0 + 387.0]);
    }

    #[test]
    fn tiles_cover_the_picture() {
        for image in [IMAGE, ImageSize { width_px: 1080, height_px: 1920 }, ImageSize { width_px: 500, height_px: 500 }] {
            let tiles = Letterbox::tiles(image);
            assert!(tiles.len() <= 8, "{} tiles", tiles.len());
            for corner in [[0.0, 0.0], [image.width_px as f32, image.height_px as f32], [image.width_px as f32 / 2.0, 0.0]] {
                let covered = |tile: &Letterbox| tile.from_px(corner).iter().all(|v| (-1e-3..=1.001).contains(v));
                assert!(tiles.iter().any(covered), "{corner:?} is in no tile of {image:?}");
            }
        }
    }

    #[test]
    fn nonsense_is_no_usable_square() {
        let good = Roi { centre_px: [500.0, 400.0], size_px: 300.0, angle_rad: 0.1 };
        assert!(good.is_usable(IMAGE));
        for bad in [
            Roi { size_px: f32::NAN, ..good },
            Roi { size_px: 1.0, ..good },
            Roi { size_px: 1e9, ..good },
            Roi { centre_px: [f32::INFINITY, 0.0], ..good },
            Roi { centre_px: [-5000.0, 0.0], ..good },
            Roi { angle_rad: f32::NAN, ..good },
        ] {
            assert!(!bad.is_usable(IMAGE), "{bad:?}");
        }
    }
}
