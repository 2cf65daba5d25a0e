//! One picture of the result: on the left the video with the 2D skeleton, on the right the 3D skeleton over its floor.

use opencv::core::{CV_8UC3, Mat, MatTrait, Point, Rect, Scalar, Size};
use opencv::imgproc::{self, FONT_HERSHEY_SIMPLEX, LINE_AA};
use pose::camera::Extrinsics;
use pose::skeleton::{BONES, LEFT, RIGHT};
use pose::{ImageSize, Keypoints17, Pose3};

use crate::viewpoint::Viewpoint;

type Result<T> = opencv::Result<T>;

/// Height of the whole picture, at most; small videos are enlarged to at least the other.
const MAX_HEIGHT_PX: f64 = 720.0;
const MIN_HEIGHT_PX: f64 = 360.0;
/// The left panel's width in heights, whatever the shape of the video.
const WIDTH_RANGE: (f64, f64) = (0.25, 3.0);
/// A keypoint below this confidence is drawn hollow.
const CONFIDENT: f32 = 0.5;
/// Distance of the floor's lines.
const GRID_MM: f32 = 500.0;
/// Coordinates of OpenCV's drawing are integers; with this shift they count sixteenths of a pixel.
const SHIFT: i32 = 4;

// Colours as blue, green, red. Blue and orange are told apart by everyone.
const BACKGROUND: [f64; 3] = [34.0, 28.0, 25.0];
const GRID: [f64; 3] = [92.0, 80.0, 74.0];
const SHADOW: [f64; 3] = [14.0, 11.0, 10.0];
const OUTLINE: [f64; 3] = [20.0, 16.0, 14.0];
const TEXT: [f64; 3] = [225.0, 222.0, 220.0];
const LEFT_SIDE: [f64; 3] = [255.0, 165.0, 70.0];
const RIGHT_SIDE: [f64; 3] = [55.0, 120.0, 250.0];
const MIDDLE: [f64; 3] = [225.0, 225.0, 225.0];

/// Whether and how a frame's person is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// The detector saw the person.
    Seen,
    /// It did not, but shortly before and after: the pose is interpolated.
    Bridged,
    /// Nobody.
    Nobody,
}

/// A person to draw.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Pixels of the video.
    pub keypoints: &'a Keypoints17,
    /// z up, floor at 0.
    pub world_mm: &'a Pose3,
    /// Index of the pose in the clip that the viewpoint was fitted to.
    pub frame: usize,
}

/// Draws pictures of one size.
pub struct Painter {
    video: ImageSize,
    left: Size,
    right: Size,
    view: Viewpoint,
    canvas: Mat,
    /// Size of everything that is drawn, 1 for a picture 720 pixels high.
    scale: f64,
}

/// Size of the 3D panel beside a video of this size.
pub fn panel_size(video: ImageSize) -> ImageSize {
    let (_, right) = sizes(video);
    ImageSize { width_px: right.width.unsigned_abs(), height_px: right.height.unsigned_abs() }
}

/// Sizes of both panels: equally high, all sides even (the encoder halves them).
fn sizes(video: ImageSize) -> (Size, Size) {
    let even = |length: f64| (length / 2.0).round() as i32 * 2;
    let height = even(f64::from(video.height_px).clamp(MIN_HEIGHT_PX, MAX_HEIGHT_PX));
    let aspect = f64::from(video.width_px) / f64::from(video.height_px.max(1));
    let width = even(f64::from(height) * aspect.clamp(WIDTH_RANGE.0, WIDTH_RANGE.1));
    (Size::new(width, height), Size::new(height, height))
}

impl Painter {
    /// For a video of this size and a view fitted to [`panel_size`].
    ///
    /// # Errors
    /// OpenCV's, when there is no memory.
    pub fn new(video: ImageSize, view: Viewpoint) -> Result<Self> {
        let (left, right) = sizes(video);
        let canvas = Mat::new_rows_cols_with_default(left.height, left.width + right.width, CV_8UC3, colour(BACKGROUND))?;
        Ok(Self { video, left, right, view, canvas, scale: f64::from(left.height) / MAX_HEIGHT_PX })
    }

    /// Size of the picture.
    pub fn size(&self) -> Size {
        Size::new(self.left.width + self.right.width, self.left.height)
    }

    /// Draws one picture. Without a video frame the 2D skeleton stands on a blank background.
    ///
    /// # Errors
    /// OpenCV's.
    pub fn paint(&mut self, video: Option<&Mat>, time_s: f64, subject: Option<Subject<'_>>, sight: Sight) -> Result<&Mat> {
        let whole = self.size();
        imgproc::rectangle(
            &mut self.canvas,
            Rect::new(0, 0, whole.width, whole.height),
            colour(BACKGROUND),
            imgproc::FILLED,
            imgproc::LINE_8,
            0,
        )?;
        self.paint_left(video, subject, sight)?;
        self.paint_right(time_s, subject, sight)?;
        Ok(&self.canvas)
    }

    fn paint_left(&mut self, video: Option<&Mat>, subject: Option<Subject<'_>>, sight: Sight) -> Result<()> {
        let mut panel = self.canvas.roi_mut(Rect::new(0, 0, self.left.width, self.left.height))?;
        if let Some(video) = video {
            imgproc::resize(video, &mut panel, self.left, 0.0, 0.0, imgproc::INTER_AREA)?;
        }
        let mut pen = Pen { target: panel, scale: self.scale };
        if let Some(subject) = subject {
            let factor = [
                f64::from(self.left.width) / f64::from(self.video.width_px.max(1)),
                f64::from(self.left.height) / f64::from(self.video.height_px.max(1)),
            ];
            let point = |j: usize| {
                let keypoint = subject.keypoints[j];
                [f64::from(keypoint.x_px) * factor[0], f64::from(keypoint.y_px) * factor[1]]
            };
            let is_drawn = |j: usize| sight == Sight::Bridged || !subject.keypoints[j].is_missing();
            for (parent, child) in BONES.into_iter().filter(|&(parent, child)| is_drawn(parent) && is_drawn(child)) {
                pen.line(point(parent), point(child), side_colour(child, sight), 3.0)?;
            }
            for j in (0..pose::JOINTS).filter(|&j| is_drawn(j)) {
                pen.dot(point(j), 4.5, OUTLINE, true)?;
                pen.dot(point(j), 3.5, side_colour(j, sight), subject.keypoints[j].confidence >= CONFIDENT)?;
            }
        }
        let note = match sight {
            Sight::Seen => return Ok(()),
            Sight::Bridged => "person not seen: interpolated",
            Sight::Nobody => "no person",
        };
        pen.text(note, [14.0, f64::from(self.left.height) / self.scale - 18.0], TEXT)
    }

    fn paint_right(&mut self, time_s: f64, subject: Option<Subject<'_>>, sight: Sight) -> Result<()> {
        let (width, height) = (f64::from(self.right.width), f64::from(self.right.height));
        let panel = self.canvas.roi_mut(Rect::new(self.left.width, 0, self.right.width, self.right.height))?;
        let mut pen = Pen { target: panel, scale: self.scale };
        let frame = subject.map_or(0, |subject| subject.frame);
        let scene = Scene { view: &self.view, camera: self.view.camera(frame) };
        scene.floor(&mut pen, self.view.target_mm(frame), self.view.floor_radius_mm())?;
        if let Some(subject) = subject {
            scene.shadow(&mut pen, subject.world_mm)?;
            scene.skeleton(&mut pen, subject.world_mm, sight)?;
        }
        let (right_edge, bottom) = (width / self.scale, height / self.scale);
        pen.text(&format!("{time_s:.2} s"), [14.0, 30.0], TEXT)?;
        for (x, name, side) in [(14.0, "left", LEFT_SIDE), (84.0, "right", RIGHT_SIDE)] {
            pen.line([x, bottom - 22.0].map(|v| v * self.scale), [x + 14.0, bottom - 22.0].map(|v| v * self.scale), side, 5.0)?;
            pen.text(name, [x + 20.0, bottom - 17.0], TEXT)?;
        }
        pen.text("grid 0.5 m", [right_edge - 108.0, bottom - 17.0], TEXT)
    }
}

/// The 3D scene through one camera.
struct Scene<'v> {
    view: &'v Viewpoint,
    camera: Extrinsics,
}

impl Scene<'_> {
    /// Pixel of a point of the world; `None` behind the camera.
    fn pixel(&self, world_mm: [f32; 3]) -> Option<[f64; 2]> {
        let pixel = self.view.intrinsics.project(self.camera.to_camera(world_mm))?;
        Some(pixel.map(f64::from))
    }

    /// Lines of the floor around a point, fading out with distance.
    fn floor(&self, pen: &mut Pen<'_>, [x_mm, y_mm, _]: [f32; 3], radius_mm: f32) -> Result<()> {
        let cells = (radius_mm / GRID_MM).ceil() as i32;
        let snap = |value: f32| (value / GRID_MM).round() * GRID_MM;
        let (x0, y0) = (snap(x_mm), snap(y_mm));
        let at = |i: i32, j: i32| [x0 + i as f32 * GRID_MM, y0 + j as f32 * GRID_MM, 0.0];
        for i in -cells..=cells {
            for j in -cells..cells {
                // One cell's side along y at column i, and one along x at row i.
                for (a, b) in [(at(i, j), at(i, j + 1)), (at(j, i), at(j + 1, i))] {
                    let distance = ((a[0] + b[0]) / 2.0 - x_mm).hypot((a[1] + b[1]) / 2.0 - y_mm) / radius_mm;
                    if distance < 1.0
                        && let (Some(a), Some(b)) = (self.pixel(a), self.pixel(b))
                    {
                        pen.line(a, b, mix(GRID, BACKGROUND, f64::from(distance)), 1.0)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The skeleton straight down on the floor: shows where the feet are and how high.
    fn shadow(&self, pen: &mut Pen<'_>, world_mm: &Pose3) -> Result<()> {
        let on_floor = |joint: usize| self.pixel([world_mm[joint][0], world_mm[joint][1], 0.0]);
        for (parent, child) in BONES {
            if let (Some(a), Some(b)) = (on_floor(parent), on_floor(child)) {
                pen.line(a, b, SHADOW, 6.0)?;
            }
        }
        Ok(())
    }

    /// Bones from far to near, so that near ones cover far ones.
    fn skeleton(&self, pen: &mut Pen<'_>, world_mm: &Pose3, sight: Sight) -> Result<()> {
        let depth = |joint: usize| self.camera.to_camera(world_mm[joint])[2];
        let mut bones = BONES;
        bones.sort_by(|&(a, b), &(c, d)| (depth(c) + depth(d)).total_cmp(&(depth(a) + depth(b))));
        for (parent, child) in bones {
            if let (Some(a), Some(b)) = (self.pixel(world_mm[parent]), self.pixel(world_mm[child])) {
                pen.line(a, b, OUTLINE, 9.0)?;
                pen.line(a, b, side_colour(child, sight), 6.0)?;
                pen.dot(b, 4.5, side_colour(child, sight), true)?;
            }
        }
        Ok(())
    }
}

/// Draws in units of a picture 720 pixels high, but for positions.
struct Pen<'p> {
    target: opencv::boxed_ref::BoxedRefMut<'p, Mat>,
    scale: f64,
}

impl Pen<'_> {
    fn line(&mut self, from_px: [f64; 2], to_px: [f64; 2], bgr: [f64; 3], width: f64) -> Result<()> {
        let width_px = ((width * self.scale).round() as i32).max(1);
        imgproc::line(&mut self.target, point(from_px), point(to_px), colour(bgr), width_px, LINE_AA, SHIFT)
    }

    fn dot(&mut self, centre_px: [f64; 2], radius: f64, bgr: [f64; 3], filled: bool) -> Result<()> {
        let radius = ((radius * self.scale).max(1.0) * f64::from(1 << SHIFT)) as i32;
        let thickness = if filled { imgproc::FILLED } else { 1 };
        imgproc::circle(&mut self.target, point(centre_px), radius, colour(bgr), thickness, LINE_AA, SHIFT)
    }

    /// `position` is of the text's lower left corner, in units of a picture 720 pixels high.
    fn text(&mut self, text: &str, position: [f64; 2], bgr: [f64; 3]) -> Result<()> {
        let at = Point::new((position[0] * self.scale) as i32, (position[1] * self.scale) as i32);
        // Dark behind light: readable on any video.
        for (bgr, thickness) in [(OUTLINE, 3), (bgr, 1)] {
            let size = 0.6 * self.scale.max(0.6);
            imgproc::put_text(&mut self.target, text, at, FONT_HERSHEY_SIMPLEX, size, colour(bgr), thickness, LINE_AA, false)?;
        }
        Ok(())
    }
}

/// In sixteenths of a pixel. Far-away points are cut off: OpenCV clips lines, but its numbers must not overflow.
fn point([x_px, y_px]: [f64; 2]) -> Point {
    let fixed = |value: f64| (value.clamp(-30_000.0, 30_000.0) * f64::from(1 << SHIFT)).round() as i32;
    Point::new(fixed(x_px), fixed(y_px))
}

fn side_colour(joint: usize, sight: Sight) -> [f64; 3] {
    let side = if LEFT.contains(&joint) {
        LEFT_SIDE
    } else if RIGHT.contains(&joint) {
        RIGHT_SIDE
    } else {
        MIDDLE
    };
    if sight == Sight::Seen { side } else { mix(side, BACKGROUND, 0.55) }
}

/// `share` 0 is all `a`, 1 all `b`.
fn mix(a: [f64; 3], b: [f64; 3], share: f64) -> [f64; 3] {
    std::array::from_fn(|k| a[k] + share * (b[k] - a[k]))
}

fn colour([blue, green, red]: [f64; 3]) -> Scalar {
    Scalar::new(blue, green, red, 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use opencv::core::{MatTraitConst as _, Vec3b};
    use opencv::prelude::MatTraitConstManual;
    use pose::{JOINTS, Keypoint};

    /// Upright and facing the camera: the person's left is at the picture's right.
    fn person() -> (Keypoints17, Pose3) {
        let (mut keypoints, mut world_mm) = ([Keypoint::MISSING; JOINTS], [[0.0; 3]; JOINTS]);
        let places: [[f32; 2]; JOINTS] = [
            [0.0, 950.0],
            [-130.0, 950.0],
            [-130.0, 500.0],
            [-130.0, 80.0],
            [130.0, 950.0],
            [130.0, 500.0],
            [130.0, 80.0],
            [0.0, 1200.0],
            [0.0, 1450.0],
            [0.0, 1550.0],
            [0.0, 1700.0],
            [180.0, 1420.0],
            [350.0, 1420.0],
            [550.0, 1420.0],
            [-180.0, 1420.0],
            [-350.0, 1420.0],
            [-550.0, 1420.0],
        ];
        for j in 0..JOINTS {
            let [x_mm, z_mm] = places[j];
            world_mm[j] = [x_mm, 3000.0, z_mm];
            keypoints[j] = Keypoint::new(320.0 + x_mm / 5.0, 400.0 - z_mm / 5.0, 0.9);
        }
        (keypoints, world_mm)
    }

    /// Columns (mean) and number of the pixels that are nearly of a colour.
    fn find(picture: &Mat, wanted: [f64; 3], columns: std::ops::Range<i32>) -> (f64, usize) {
        let (mut sum, mut count) = (0.0, 0);
        let width = picture.cols();
        for (i, pixel) in picture.data_typed::<Vec3b>().expect("three bytes a pixel").iter().enumerate() {
            let column = i as i32 % width;
            let near = (0..3).all(|k| (f64::from(pixel[k]) - wanted[k]).abs() < 12.0);
            if near && columns.contains(&column) {
                sum += f64::from(column);
                count += 1;
            }
        }
        (sum / count.max(1) as f64, count)
    }

    fn painter(video: ImageSize, world_mm: &Pose3) -> Painter {
        let view = Viewpoint::fit(&[*world_mm], &[0.0], panel_size(video)).expect("a view");
        Painter::new(video, view).expect("a canvas")
    }

    #[test]
    fn both_panels_show_left_as_left_and_right_as_right() {
        let video = ImageSize { width_px: 640, height_px: 480 };
        let (keypoints, world_mm) = person();
        let mut painter = painter(video, &world_mm);
        let size = painter.size();
        let subject = Subject { keypoints: &keypoints, world_mm: &world_mm, frame: 0 };
        let picture = painter.paint(None, 1.5, Some(subject), Sight::Seen).expect("a picture");
        assert_eq!((picture.cols(), picture.rows()), (size.width, size.height));
        for columns in [0..640, 640..size.width] {
            let (left_column, left_count) = find(picture, LEFT_SIDE, columns.clone());
            let (right_column, right_count) = find(picture, RIGHT_SIDE, columns);
            assert!(left_count > 100 && right_count > 100, "{left_count} {right_count}");
            assert!(left_column > right_column, "who faces the camera has the left hand at the right");
        }
    }

    #[test]
    fn sizes_are_even_and_bounded() {
        for (width_px, height_px) in [(1768, 994), (1079, 1919), (1, 1), (10_000, 3), (3, 10_000), (641, 361)] {
            let (left, right) = sizes(ImageSize { width_px, height_px });
            for side in [left.width, left.height, right.width, right.height] {
                assert!(side % 2 == 0 && (90..=2200).contains(&side), "{width_px} x {height_px}: {side}");
            }
            assert_eq!(left.height, right.height);
        }
    }

    #[test]
    fn nobody_and_absurd_coordinates_are_drawn_without_harm() {
        let video = ImageSize { width_px: 641, height_px: 361 };
        let (mut keypoints, mut world_mm) = person();
        let mut painter = painter(video, &world_mm);
        painter.paint(None, 0.0, None, Sight::Nobody).expect("a picture of nobody");
        keypoints[3] = Keypoint::new(1e6, -1e6, 1.0);
        world_mm[16] = [1e8, -1e8, 1e8];
        let subject = Subject { keypoints: &keypoints, world_mm: &world_mm, frame: 99 };
        painter.paint(None, 0.0, Some(subject), Sight::Bridged).expect("a picture");
    }
}
