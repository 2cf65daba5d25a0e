//! Which part of a frame a network sees, and the way back into pixels of the frame.

use opencv::core::{self, Mat, MatTraitConst as _, Scalar, Size};
use opencv::imgproc;
use opencv::prelude::MatTraitConstManual as _;
use pose::ImageSize;

use super::BoxPx;
use super::graph::Layout;

/// A person's box is this much larger in each direction than what it encloses (the padding of all top-down networks of MMPose and
/// ViTPose).
pub const BOX_PADDING: f32 = 1.25;

/// How a network's coordinates count pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counting {
    /// Whole numbers are the middles of pixels (MMPose, ViTPose).
    Middles,
    /// Whole numbers are the edges between pixels: the middle of the first is at 0.5 (YOLO, RTMO, MoveNet).
    Edges,
}

/// A network's input laid over a frame: `input = scale * frame + shift`, for each axis, in the network's way of counting.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct View {
    scale: [f32; 2],
    shift: [f32; 2],
    counting: Counting,
    /// Width and height of the input.
    size: [usize; 2],
}

impl View {
    /// The whole frame as large as it fits, in the middle (YOLO, MoveNet) or in the upper left corner (RTMO) of the input.
    pub fn letterbox(image: ImageSize, [height, width]: [usize; 2], centred: bool) -> Self {
        let frame = [image.width_px.max(1) as f32, image.height_px.max(1) as f32];
        let size = [width, height];
        let scale = (width as f32 / frame[0]).min(height as f32 / frame[1]);
        let bar = |axis: usize| if centred { (size[axis] as f32 - scale * frame[axis]) / 2.0 } else { 0.0 };
        Self { scale: [scale; 2], shift: [bar(0), bar(1)], counting: Counting::Edges, size }
    }

    /// A person's box, padded, and made as wide or high as the input's proportions ask. A box that is no box becomes a tiny one.
    ///
    /// `corners_on_pixels`: the box's edges lie on the middles of the input's outermost pixels (UDP) instead of at 0 and at its size.
    pub fn person(person: &BoxPx, size: [usize; 2], corners_on_pixels: bool) -> Self {
        Self::around(person, size, corners_on_pixels, Counting::Middles)
    }

    /// [`Self::person`] for MoveNet, which counts from the edges of its input.
    pub fn padded(person: &BoxPx, size: [usize; 2]) -> Self {
        Self::around(person, size, false, Counting::Edges)
    }

    fn around(person: &BoxPx, [height, width]: [usize; 2], corners_on_pixels: bool, counting: Counting) -> Self {
        let aspect = width as f32 / height as f32;
        let side = |value: f32| if value.is_finite() { value.clamp(1.0, 1e6) } else { 1.0 };
        let middle = |start: f32, length: f32| if start.is_finite() { start.clamp(-1e6, 1e6) + length / 2.0 } else { 0.0 };
        let [box_width, box_height] = [side(person.width), side(person.height)];
        let centre = [middle(person.left, box_width), middle(person.top, box_height)];
        let seen_height = BOX_PADDING * box_height.max(box_width / aspect);
        let seen = [seen_height * aspect, seen_height];
        let size = [width, height];
        let steps = size.map(|size| if corners_on_pixels { size as f32 - 1.0 } else { size as f32 });
        let scale = [steps[0] / seen[0], steps[1] / seen[1]];
        let shift = [0, 1].map(|axis| steps[axis] / 2.0 - scale[axis] * centre[axis]);
        Self { scale, shift, counting, size }
    }

    /// A pixel of the frame from a place in the input.
    pub fn frame_px(&self, input: [f32; 2]) -> [f32; 2] {
        // Frames count the middles of their pixels.
        let edge = self.frame_offset();
        [0, 1].map(|axis| (input[axis] - self.shift[axis]) / self.scale[axis] - edge)
    }

    /// The inverse of [`Self::frame_px`].
    #[cfg(test)]
    pub fn input_at(&self, pixel: [f32; 2]) -> [f32; 2] {
        let edge = self.frame_offset();
        [0, 1].map(|axis| self.scale[axis] * (pixel[axis] + edge) + self.shift[axis])
    }

    /// Width and height of the input.
    pub fn size(&self) -> [usize; 2] {
        self.size
    }

    fn frame_offset(&self) -> f32 {
        match self.counting {
            Counting::Middles => 0.0,
            Counting::Edges => 0.5,
        }
    }

    /// Cuts it out of a BGR frame; what lies outside the frame has the value `border`.
    ///
    /// # Errors
    /// A failure of OpenCV.
    pub fn cut(&self, frame: &Mat, border: f64, cut: &mut Mat) -> opencv::Result<()> {
        // OpenCV counts the middles of pixels on both sides.
        let middle = self.frame_offset();
        let shift = [0, 1].map(|axis| self.scale[axis] * middle + self.shift[axis] - middle);
        let rows = [[self.scale[0], 0.0, shift[0]], [0.0, self.scale[1], shift[1]]].map(|row| row.map(f64::from));
        let input_from_frame = Mat::from_slice_2d(&rows)?;
        let size = Size::new(self.size[0] as i32, self.size[1] as i32);
        imgproc::warp_affine(frame, cut, &input_from_frame, size, imgproc::INTER_LINEAR, core::BORDER_CONSTANT, Scalar::all(border))
    }
}

/// How bytes of a picture become numbers of an input: `(byte - mean) / deviation`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// Red first; otherwise blue first, as OpenCV has them.
    pub rgb: bool,
    /// For each channel, in the input's order.
    pub mean: [f32; 3],
    /// For each channel, in the input's order.
    pub deviation: [f32; 3],
}

impl Range {
    /// ImageNet's means and deviations, as all of MMPose and ViTPose use them.
    pub const IMAGENET: Self = Self { rgb: true, mean: [123.675, 116.28, 103.53], deviation: [58.395, 57.12, 57.375] };
    /// 0..1.
    pub const UNIT: Self = Self { rgb: true, mean: [0.0; 3], deviation: [255.0; 3] };
    /// The bytes' values.
    pub const BYTES: Self = Self { rgb: true, mean: [0.0; 3], deviation: [1.0; 3] };
    /// The bytes' values in OpenCV's order (RTMO).
    pub const BYTES_BGR: Self = Self { rgb: false, ..Self::BYTES };

    /// Writes a picture that was cut out (BGR) into an input of as many pixels.
    ///
    /// # Errors
    /// A picture that is not of bytes in three channels.
    pub fn write(&self, picture: &Mat, layout: Layout, input: &mut [f32]) -> opencv::Result<()> {
        let (pixels, _) = picture.data_bytes()?.as_chunks::<3>();
        let plane = input.len() / 3;
        let factor = self.deviation.map(f32::recip);
        for (i, &bgr) in pixels.iter().enumerate().take(plane) {
            for channel in 0..3 {
                let byte = bgr[if self.rgb { 2 - channel } else { channel }];
                let at = match layout {
                    Layout::ChannelsFirst => channel * plane + i,
                    Layout::ChannelsLast => 3 * i + channel,
                };
                input[at] = (f32::from(byte) - self.mean[channel]) * factor[channel];
            }
        }
        Ok(())
    }
}

/// Whether a frame is what OpenCV decodes: bytes of blue, green and red, without gaps between its rows.
pub fn is_usable(frame: &Mat) -> bool {
    frame.typ() == core::CV_8UC3 && !frame.empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_view_is_inverted(
            width_px in 1u32..5000, height_px in 1u32..5000, x in -100.0f32..5000.0, y in -100.0f32..5000.0, centred: bool, udp: bool,
            left in -500.0f32..3000.0, top in -500.0f32..3000.0, width in 1.0f32..3000.0, height in 1.0f32..3000.0,
        ) {
            let image = ImageSize { width_px, height_px };
            let person = BoxPx { left, top, width, height };
            for view in [View::letterbox(image, [640, 640], centred), View::letterbox(image, [192, 256], centred), View::person(&person, [256, 192], udp)] {
                let back = view.frame_px(view.input_at([x, y]));
                let tolerance = 1e-3 * (1.0 + width_px.max(height_px) as f32 / 100.0);
                prop_assert!((back[0] - x).abs() < tolerance && (back[1] - y).abs() < tolerance, "{back:?} is not {:?} in {view:?}", [x, y]);
            }
        }

        #[test]
        fn a_letterbox_holds_the_whole_frame_and_touches_two_edges(width_px in 8u32..5000, height_px in 8u32..5000, centred: bool) {
            let image = ImageSize { width_px, height_px };
            let view = View::letterbox(image, [320, 640], centred);
            let first = view.input_at([-0.5, -0.5]);
            let last = view.input_at([width_px as f32 - 0.5, height_px as f32 - 0.5]);
            prop_assert!(first.iter().all(|&v| v >= -0.01) && last[0] <= 640.01 && last[1] <= 320.01);
            prop_assert!((last[0] - first[0] - 640.0).abs() < 0.02 || (last[1] - first[1] - 320.0).abs() < 0.02);
            if centred {
                prop_assert!((first[0] + last[0] - 640.0).abs() < 0.02 && (first[1] + last[1] - 320.0).abs() < 0.02);
            } else {
                prop_assert!(first == [0.0, 0.0]);
            }
        }

        /// A spot painted at a pixel of the frame is brightest where the view says, through OpenCV itself.
        #[test]
        fn a_painted_spot_comes_back_within_a_pixel(
            width in 40i32..700, height in 40i32..700, u in 0.2f32..0.8, v in 0.2f32..0.8, which in 0usize..4,
        ) {
            let spot = [(u * width as f32).round(), (v * height as f32).round()];
            let mut frame = Mat::new_size_with_default(Size::new(width, height), core::CV_8UC3, Scalar::all(0.0)).unwrap();
            let centre = core::Point::new(spot[0] as i32, spot[1] as i32);
            imgproc::circle(&mut frame, centre, 6, Scalar::all(255.0), -1, imgproc::LINE_8, 0).unwrap();
            let image = ImageSize { width_px: width.unsigned_abs(), height_px: height.unsigned_abs() };
            let person = BoxPx { left: spot[0] - 45.0, top: spot[1] - 70.0, width: 100.0, height: 120.0 };
            let view = match which {
                0 => View::letterbox(image, [640, 640], true),
                1 => View::letterbox(image, [416, 640], false),
                2 => View::person(&person, [256, 192], false),
                _ => View::person(&person, [256, 192], true),
            };
            let mut cut = Mat::default();
            view.cut(&frame, 0.0, &mut cut).unwrap();
            let mut plane = vec![0.0; 3 * view.size()[0] * view.size()[1]];
            Range::BYTES.write(&cut, Layout::ChannelsFirst, &mut plane).unwrap();
            // the spot's centre of mass, counted as the network counts
            let (mut sum, mut at) = (0.0f64, [0.0f64; 2]);
            for row in 0..view.size()[1] {
                for column in 0..view.size()[0] {
                    let weight = f64::from(plane[row * view.size()[0] + column]);
                    let offset = f64::from(view.frame_offset());
                    sum += weight;
                    at = [at[0] + weight * (column as f64 + offset), at[1] + weight * (row as f64 + offset)];
                }
            }
            prop_assume!(sum > 0.0);
            let found = view.frame_px(at.map(|at| (at / sum) as f32));
            prop_assert!((found[0] - spot[0]).abs() < 0.25 && (found[1] - spot[1]).abs() < 0.25, "{found:?} is not {spot:?}");
        }
    }

    #[test]
    fn the_border_and_the_channels_are_as_asked() {
        let frame = Mat::new_size_with_default(Size::new(64, 32), core::CV_8UC3, Scalar::new(10.0, 20.0, 30.0, 0.0)).unwrap();
        let view = View::letterbox(ImageSize { width_px: 64, height_px: 32 }, [64, 64], true);
        let mut cut = Mat::default();
        view.cut(&frame, 114.0, &mut cut).unwrap();
        let mut input = vec![0.0; 3 * 64 * 64];
        Range::BYTES.write(&cut, Layout::ChannelsFirst, &mut input).unwrap();
        let pixel = |channel: usize, row: usize| input[channel * 4096 + row * 64 + 5];
        assert_eq!([pixel(0, 2), pixel(1, 2), pixel(2, 2)], [114.0; 3], "a bar");
        assert_eq!([pixel(0, 32), pixel(1, 32), pixel(2, 32)], [30.0, 20.0, 10.0], "red first");
        Range::BYTES_BGR.write(&cut, Layout::ChannelsLast, &mut input).unwrap();
        assert_eq!(input[3 * (32 * 64)..][..3], [10.0, 20.0, 30.0], "blue first");
        Range::IMAGENET.write(&cut, Layout::ChannelsFirst, &mut input).unwrap();
        assert!((input[32 * 64] - (30.0 - 123.675) / 58.395).abs() < 1e-5);
    }

    #[test]
    fn a_box_that_is_none_does_no_harm() {
        for bad in [f32::NAN, f32::INFINITY, -5.0, 0.0, 1e30] {
            for person in [
                BoxPx { left: bad, top: 0.0, width: 10.0, height: 10.0 },
                BoxPx { left: 0.0, top: 0.0, width: bad, height: bad },
                BoxPx { left: bad, top: bad, width: bad, height: bad },
            ] {
                let back = View::person(&person, [256, 192], false).frame_px([3.0, 4.0]);
                assert!(back.iter().all(|v| v.is_finite()), "{person:?} gives {back:?}");
            }
        }
    }
}
