//! Small pictures without a graphics stack: lines, discs, text, PNG.

use std::{io::Write, path::Path};

use anyhow::{Result, anyhow};
use embedded_graphics::{
    Drawable, Pixel,
    draw_target::DrawTarget,
    geometry::{OriginDimensions, Point, Size},
    mono_font::{MonoTextStyle, ascii},
    pixelcolor::{Rgb888, RgbColor},
    text::{Baseline, Text},
};

/// Red, green, blue.
pub type Colour = [u8; 3];

/// Sizes of the built-in fonts: (width, height) of a letter, px.
pub const LETTER_PX: (usize, usize) = (6, 13);

/// A picture; x to the right, y down, px.
pub struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<Colour>,
}

impl Canvas {
    /// One colour all over.
    pub fn new(width: usize, height: usize, background: Colour) -> Self {
        Self { width, height, pixels: vec![background; width * height] }
    }

    /// Width, px.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height, px.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The colour of a pixel; `None` outside.
    pub fn at(&self, x: usize, y: usize) -> Option<Colour> {
        (x < self.width && y < self.height).then(|| self.pixels[y * self.width + x])
    }

    /// Mixes a colour into a pixel, `cover` (0 to 1) of it.
    fn blend(&mut self, x: i64, y: i64, colour: Colour, cover: f32) {
        if x < 0 || y < 0 || x >= self.width as i64 || y >= self.height as i64 || cover <= 0.0 {
            return;
        }
        let pixel = &mut self.pixels[y as usize * self.width + x as usize];
        let cover = cover.min(1.0);
        *pixel = std::array::from_fn(|c| (f32::from(pixel[c]) + cover * (f32::from(colour[c]) - f32::from(pixel[c]))).round() as u8);
    }

    /// A straight line with round ends, smooth at its edges. Ends that are no numbers draw nothing.
    pub fn line(&mut self, a: [f32; 2], b: [f32; 2], thickness: f32, colour: Colour) {
        let limit = 4.0 * (self.width + self.height) as f32;
        if a.iter().chain(&b).any(|v| v.is_nan() || v.abs() > limit) {
            return;
        }
        let reach = thickness / 2.0 + 1.0;
        let bounds = |c: usize, size: usize| {
            let (low, high) = (a[c].min(b[c]) - reach, a[c].max(b[c]) + reach);
            (low.floor().max(0.0) as i64, (high.ceil() as i64).min(size as i64 - 1))
        };
        let ((left, right), (top, bottom)) = (bounds(0, self.width), bounds(1, self.height));
        let along = [b[0] - a[0], b[1] - a[1]];
        let squared = along[0] * along[0] + along[1] * along[1];
        for y in top..=bottom {
            for x in left..=right {
                let from = [x as f32 - a[0], y as f32 - a[1]];
                let t = if squared > 0.0 { ((from[0] * along[0] + from[1] * along[1]) / squared).clamp(0.0, 1.0) } else { 0.0 };
                let distance = (from[0] - t * along[0]).hypot(from[1] - t * along[1]);
                self.blend(x, y, colour, thickness / 2.0 + 0.5 - distance);
            }
        }
    }

    /// A filled circle.
    pub fn disc(&mut self, centre: [f32; 2], radius: f32, colour: Colour) {
        self.line(centre, centre, 2.0 * radius, colour);
    }

    /// The line through points, in order.
    pub fn polyline(&mut self, points: &[[f32; 2]], thickness: f32, colour: Colour) {
        points.windows(2).for_each(|pair| self.line(pair[0], pair[1], thickness, colour));
    }

    /// A line of text whose upper left corner is at `at`. Letters outside ASCII become `?`.
    pub fn text(&mut self, at: [i32; 2], text: &str, colour: Colour) {
        let text: String = text.chars().map(|c| if c.is_ascii() && !c.is_ascii_control() { c } else { '?' }).collect();
        let style = MonoTextStyle::new(&ascii::FONT_6X13, Rgb888::new(colour[0], colour[1], colour[2]));
        // drawing on memory cannot fail
        let _ = Text::with_baseline(&text, Point::new(at[0], at[1]), style, Baseline::Top).draw(self);
    }

    /// Writes a PNG, aside, then renamed.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().map_err(|e| anyhow!("{}: {e}", path.display()))?;
        writer.write_image_data(self.pixels.as_flattened()).map_err(|e| anyhow!("{}: {e}", path.display()))?;
        writer.finish().map_err(|e| anyhow!("{}: {e}", path.display()))?;
        Ok(write_file(path, &bytes)?)
    }
}

/// Writes a file aside and renames it into place.
///
/// # Errors
/// The file cannot be written.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), formats::Error> {
    formats::write_aside(path, |file| {
        file.write_all(bytes).map_err(|cause| formats::Error::Io { action: "write", path: path.to_owned(), cause })
    })
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        Size::new(self.width as u32, self.height as u32)
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = std::convert::Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Self::Error> {
        for Pixel(at, colour) in pixels {
            self.blend(i64::from(at.x), i64::from(at.y), [colour.r(), colour.g(), colour.b()], 1.0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_cover_what_they_should() {
        let mut canvas = Canvas::new(20, 10, [255; 3]);
        canvas.line([2.0, 5.0], [17.0, 5.0], 3.0, [200, 0, 0]);
        assert_eq!(canvas.at(10, 5), Some([200, 0, 0]));
        assert_eq!((canvas.at(10, 1), canvas.at(10, 8), canvas.at(20, 0)), (Some([255; 3]), Some([255; 3]), None));
        canvas.line([f32::NAN, 0.0], [1.0, 1.0], 3.0, [0; 3]);
        canvas.line([-1e30, 0.0], [1.0, 1.0], 3.0, [0; 3]);
        canvas.disc([-50.0, -50.0], 3.0, [0; 3]);
        assert_eq!(canvas.at(0, 0), Some([255; 3]), "what is outside or no number draws nothing");
    }

    #[test]
    fn text_and_file() {
        let mut canvas = Canvas::new(60, 20, [255; 3]);
        canvas.text([2, 2], "Äb", [0; 3]);
        assert!((0..60 * 20).any(|i| canvas.at(i % 60, i / 60) == Some([0; 3])));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("picture.png");
        canvas.save(&path).unwrap();
        let mut reader = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&path).unwrap())).read_info().unwrap();
        let mut read = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut read).unwrap();
        assert_eq!(read, canvas.pixels.as_flattened());
        assert!(canvas.save(&folder.path().join("absent/picture.png")).unwrap_err().to_string().contains("picture.png"));
    }
}
