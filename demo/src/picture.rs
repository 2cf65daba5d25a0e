//! One picture of the result: on the left the video with the 2D skeletons, on the right the 3D skeletons over their floor.

use opencv::core::{CV_8UC3, Mat, MatTrait, MatTraitConst as _, Point, Rect, Scalar, Size};
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

/// Colours that tell several people apart: of their numbers and their backs.
const PEOPLE: [[f64; 3]; 6] = [
    [225.0, 225.0, 225.0],
    [90.0, 220.0, 250.0],
    [140.0, 210.0, 90.0],
    [230.0, 140.0, 230.0],
    [220.0, 220.0, 110.0],
    [130.0, 150.0, 255.0],
];

/// How a person of a frame is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// The detector saw the person.
    Seen,
    /// It did not, but shortly before and after: the pose is interpolated.
    Bridged,
}

/// A person to draw.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The number that stands beside them where there are several.
    pub id: u64,
    /// Pixels of the video.
    pub keypoints: &'a Keypoints17,
    /// z up, floor at 0.
    pub world_mm: &'a Pose3,
    /// Whether the pose is interpolated.
    pub sight: Sight,
}

/// Draws pictures of one size.
#[derive(Debug)]
pub struct Painter {
    video: ImageSize,
    left: Size,
    right: Size,
    view: Viewpoint,
    /// Whether people's numbers are drawn.
    numbered: bool,
    /// All that is the same in every picture: the floor too, if the view is steady.
    backdrop: Mat,
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
    /// For a video of this size and a view fitted to [`panel_size`]. With `numbered`, everyone's number stands beside them.
    ///
    /// # Errors
    /// OpenCV's, when there is no memory.
    pub fn new(video: ImageSize, view: Viewpoint, numbered: bool) -> Result<Self> {
        let (left, right) = sizes(video);
        let backdrop = Mat::new_rows_cols_with_default(left.height, left.width + right.width, CV_8UC3, colour(BACKGROUND))?;
        let mut painter = Self { video, left, right, view, numbered, backdrop, scale: f64::from(left.height) / MAX_HEIGHT_PX };
        let mut backdrop = std::mem::take(&mut painter.backdrop);
        let mut pen = painter.right_pen(&mut backdrop)?;
        if painter.view.is_steady() {
            painter.scene(0).floor(&mut pen, painter.view.target_mm(0), painter.view.floor_radius_mm())?;
        }
        painter.legend(&mut pen)?;
        drop(pen);
        painter.backdrop = backdrop;
        Ok(painter)
    }

    /// Size of the picture.
    pub fn size(&self) -> Size {
        Size::new(self.left.width + self.right.width, self.left.height)
    }

    /// Size of the video in the picture.
    pub fn video_size(&self) -> Size {
        self.left
    }

    /// Draws one picture onto `canvas`, whatever is on it. `video` has [`Self::video_size`]; without it the 2D skeletons stand on a
    /// blank background. `frame` is an index among the frames that the view was fitted to.
    ///
    /// # Errors
    /// OpenCV's.
    pub fn paint(&self, canvas: &mut Mat, video: Option<&Mat>, frame: usize, time_s: f64, subjects: &[Subject<'_>]) -> Result<()> {
        self.backdrop.copy_to(canvas)?;
        self.paint_left(canvas, video, subjects)?;
        self.paint_right(canvas, frame, time_s, subjects)
    }

    fn paint_left(&self, canvas: &mut Mat, video: Option<&Mat>, subjects: &[Subject<'_>]) -> Result<()> {
        let mut panel = canvas.roi_mut(Rect::new(0, 0, self.left.width, self.left.height))?;
        if let Some(video) = video {
            video.copy_to(&mut panel)?;
        }
        let mut pen = Pen { target: panel, scale: self.scale };
        for subject in subjects {
            self.paint_keypoints(&mut pen, subject)?;
        }
        let note = match subjects {
            [] => "no person",
            [Subject { sight: Sight::Bridged, .. }] => "person not seen: interpolated",
            _ => return Ok(()),
        };
        pen.text(note, [14.0, f64::from(self.left.height) / self.scale - 18.0], TEXT)
    }

    fn paint_keypoints(&self, pen: &mut Pen<'_>, subject: &Subject<'_>) -> Result<()> {
        let factor = [
            f64::from(self.left.width) / f64::from(self.video.width_px.max(1)),
            f64::from(self.left.height) / f64::from(self.video.height_px.max(1)),
        ];
        let point = |j: usize| {
            let keypoint = subject.keypoints[j];
            [f64::from(keypoint.x_px) * factor[0], f64::from(keypoint.y_px) * factor[1]]
        };
        let is_drawn = |j: usize| subject.sight == Sight::Bridged || !subject.keypoints[j].is_missing();
        let joint_colour = |j: usize| self.joint_colour(j, subject);
        for (parent, child) in BONES.into_iter().filter(|&(parent, child)| is_drawn(parent) && is_drawn(child)) {
            pen.line(point(parent), point(child), joint_colour(child), 3.0)?;
        }
        for j in (0..pose::JOINTS).filter(|&j| is_drawn(j)) {
            pen.dot(point(j), 4.5, OUTLINE, true)?;
            pen.dot(point(j), 3.5, joint_colour(j), subject.keypoints[j].confidence >= CONFIDENT)?;
        }
        self.number(pen, subject, (0..pose::JOINTS).filter(|&j| is_drawn(j)).map(point))
    }

    /// The person's number, above all their joints.
    fn number(&self, pen: &mut Pen<'_>, subject: &Subject<'_>, joints_px: impl Iterator<Item = [f64; 2]>) -> Result<()> {
        let Some([x, y]) = joints_px.min_by(|a, b| a[1].total_cmp(&b[1])).filter(|_| self.numbered) else { return Ok(()) };
        pen.text(&subject.id.to_string(), [x / self.scale - 6.0, y / self.scale - 14.0], person_colour(subject.id))
    }

    fn joint_colour(&self, joint: usize, subject: &Subject<'_>) -> [f64; 3] {
        let middle = if self.numbered { person_colour(subject.id) } else { MIDDLE };
        side_colour(joint, middle, subject.sight)
    }

    fn paint_right(&self, canvas: &mut Mat, frame: usize, time_s: f64, subjects: &[Subject<'_>]) -> Result<()> {
        let mut pen = self.right_pen(canvas)?;
        let scene = self.scene(frame);
        if !self.view.is_steady() {
            scene.floor(&mut pen, self.view.target_mm(frame), self.view.floor_radius_mm())?;
            self.legend(&mut pen)?;
        }
        for subject in subjects {
            scene.shadow(&mut pen, subject.world_mm)?;
        }
        let mut far_to_near: Vec<&Subject<'_>> = subjects.iter().collect();
        far_to_near.sort_by(|a, b| scene.depth_mm(b.world_mm[pose::ROOT]).total_cmp(&scene.depth_mm(a.world_mm[pose::ROOT])));
        for subject in far_to_near {
            scene.skeleton(&mut pen, subject.world_mm, |joint| self.joint_colour(joint, subject))?;
            self.number(&mut pen, subject, subject.world_mm.iter().filter_map(|&joint| scene.pixel(joint)))?;
        }
        pen.text(&format!("{time_s:.2} s"), [14.0, 30.0], TEXT)
    }

    fn right_pen<'c>(&self, canvas: &'c mut Mat) -> Result<Pen<'c>> {
        let target = canvas.roi_mut(Rect::new(self.left.width, 0, self.right.width, self.right.height))?;
        Ok(Pen { target, scale: self.scale })
    }

    fn scene(&self, frame: usize) -> Scene<'_> {
        Scene { view: &self.view, camera: self.view.camera(frame) }
    }

    fn legend(&self, pen: &mut Pen<'_>) -> Result<()> {
        let (right_edge, bottom) = (f64::from(self.right.width) / self.scale, f64::from(self.right.height) / self.scale);
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

    fn depth_mm(&self, world_mm: [f32; 3]) -> f32 {
        self.camera.to_camera(world_mm)[2]
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
    fn skeleton(&self, pen: &mut Pen<'_>, world_mm: &Pose3, joint_colour: impl Fn(usize) -> [f64; 3]) -> Result<()> {
        let depth = |joint: usize| self.depth_mm(world_mm[joint]);
        let mut bones = BONES;
        bones.sort_by(|&(a, b), &(c, d)| (depth(c) + depth(d)).total_cmp(&(depth(a) + depth(b))));
        for (parent, child) in bones {
            if let (Some(a), Some(b)) = (self.pixel(world_mm[parent]), self.pixel(world_mm[child])) {
                pen.line(a, b, OUTLINE, 9.0)?;
                pen.line(a, b, joint_colour(child), 6.0)?;
                pen.dot(b, 4.5, joint_colour(child), true)?;
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

fn person_colour(id: u64) -> [f64; 3] {
    PEOPLE[(id.saturating_sub(1) % PEOPLE.len() as u64) as usize]
}

fn side_colour(joint: usize, middle: [f64; 3], sight: Sight) -> [f64; 3] {
    let side = if LEFT.contains(&joint) {
        LEFT_SIDE
    } else if RIGHT.contains(&joint) {
        RIGHT_SIDE
    } else {
        middle
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
    use opencv::core::Vec3b;
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
        let view = Viewpoint::fit(&[vec![world_mm]], &[0.0], panel_size(video)).expect("a view");
        Painter::new(video, view, false).expect("a canvas")
    }

    #[test]
    fn both_panels_show_left_as_left_and_right_as_right() {
        let video = ImageSize { width_px: 640, height_px: 480 };
        let (keypoints, world_mm) = person();
        let painter = painter(video, &world_mm);
        let size = painter.size();
        let subject = Subject { id: 1, keypoints: &keypoints, world_mm: &world_mm, sight: Sight::Seen };
        let mut picture = Mat::default();
        painter.paint(&mut picture, None, 0, 1.5, &[subject]).expect("a picture");
        assert_eq!((picture.cols(), picture.rows()), (size.width, size.height));
        for columns in [0..640, 640..size.width] {
            let (left_column, left_count) = find(&picture, LEFT_SIDE, columns.clone());
            let (right_column, right_count) = find(&picture, RIGHT_SIDE, columns);
            assert!(left_count > 100 && right_count > 100, "{left_count} {right_count}");
            assert!(left_column > right_column, "who faces the camera has the left hand at the right");
        }
    }

    #[test]
    fn several_people_have_their_numbers_colours() {
        let video = ImageSize { width_px: 640, height_px: 480 };
        let (keypoints, world_mm) = person();
        let moved = |x: f32| (keypoints.map(|k| Keypoint { x_px: k.x_px + x / 5.0, ..k }), world_mm.map(|[a, b, c]| [a + x, b, c]));
        let ((keypoints_2, world_2), (keypoints_3, world_3)) = (moved(-700.0), moved(700.0));
        let view = Viewpoint::fit(&[vec![&world_2, &world_3]], &[0.0], panel_size(video)).expect("a view");
        let (painter, mut picture) = (Painter::new(video, view, true).expect("a canvas"), Mat::default());
        let subjects = [(2, &keypoints_2, &world_2), (3, &keypoints_3, &world_3)].map(|(id, keypoints, world_mm)| Subject {
            id,
            keypoints,
            world_mm,
            sight: Sight::Seen,
        });
        painter.paint(&mut picture, None, 0, 0.0, &subjects).expect("a picture");
        for columns in [0..640, 640..painter.size().width] {
            let [(second, count_2), (third, count_3)] = [2, 3].map(|id| find(&picture, person_colour(id), columns.clone()));
            assert!(count_2 > 50 && count_3 > 50, "{count_2} {count_3}");
            assert!(second < third, "{second} {third}");
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
        let (painter, mut picture) = (painter(video, &world_mm), Mat::default());
        painter.paint(&mut picture, None, 0, 0.0, &[]).expect("a picture of nobody");
        keypoints[3] = Keypoint::new(1e6, -1e6, 1.0);
        world_mm[16] = [1e8, -1e8, 1e8];
        let subject = Subject { id: 1, keypoints: &keypoints, world_mm: &world_mm, sight: Sight::Bridged };
        painter.paint(&mut picture, None, 99, 0.0, &[subject, Subject { id: u64::MAX, ..subject }]).expect("a picture");
    }
}
