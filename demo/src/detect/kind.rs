//! Recognises a detector by the shapes of what goes in and what comes out.
//!
//! | kind | input | outputs |
//! |---|---|---|
//! | RTMPose, RTMW, DWPose (SimCC) | (N, 3, H, W) | (N, K, s W) and (N, K, s H), with the same s, usually 2 |
//! | ViTPose, HRNet (heat maps) | (N, 3, H, W) | (N, K, H / s, W / s), with s = 2, 4 or 8 |
//! | RTMO | (1, 3, H, W) | (1, n, 5) and (1, n, K, 3) |
//! | YOLO-pose v8, 11 | (1, 3, H, W) | (1, 5 + 3 K, anchors), one anchor for each cell of the strides 8, 16, 32 (and 64) |
//! | YOLO-pose end to end (26; `nms=True`) | (1, 3, H, W) | (1, n, 6 + 3 K), n below the number of anchors |
//! | MoveNet single | (1, H, W, 3) | (1, 1, K, 3) |
//! | MoveNet multipose | (1, H, W, 3) | (1, n, 5 + 3 K) |
//!
//! Sizes that a file leaves open are known from a trial run on a black picture.

use super::graph::{Element, Input, Layout, Output, Port};

/// What would be recognised, for messages.
pub const KNOWN: &str = "RTMPose (simcc_x (N, K, 2W) and simcc_y (N, K, 2H)), RTMO (dets (1, n, 5) and keypoints (1, n, K, 3)), ViTPose and HRNet (heat \
     maps (N, K, H/4, W/4)), YOLO-pose (1, 5 + 3K, anchors) or end to end (1, n, 6 + 3K), all with an input of (N, 3, H, W); MoveNet (1, 1, K, \
     3) or (1, 6, 5 + 3K) with an input of (1, H, W, 3)";

/// Most keypoints of one person that are believed (COCO-WholeBody has 133, Halpe 136).
const MAX_JOINTS: usize = 200;

/// A way of seeing people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One person in a crop; for each keypoint one histogram along x and one along y, with so many bins a pixel.
    SimCc {
        /// Bins for each pixel of the input.
        bins_per_px: usize,
        /// Index of the histograms along x among the outputs; those along y are the other one.
        x_output: usize,
    },
    /// One person in a crop; a heat map for each keypoint.
    HeatMaps {
        /// Whether the maps' corner pixels lie on the crop's corner pixels ("unbiased data processing", as ViTPose was trained), rather
        /// than each map pixel on every fourth of the crop.
        udp: bool,
    },
    /// Everyone in a picture, after non-maximum suppression, with boxes apart from keypoints.
    Rtmo {
        /// Index of the boxes among the outputs.
        boxes_output: usize,
    },
    /// Everyone in a picture, one candidate for each anchor.
    Yolo,
    /// Everyone in a picture, each once.
    YoloEndToEnd,
    /// The most prominent person of a picture.
    MoveNetSingle,
    /// Up to six people of a picture.
    MoveNetMulti,
}

impl Kind {
    /// For results and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::SimCc { .. } => "RTMPose (SimCC)",
            Self::HeatMaps { udp: true } => "ViTPose (heat maps, UDP)",
            Self::HeatMaps { udp: false } => "HRNet (heat maps)",
            Self::Rtmo { .. } => "RTMO",
            Self::Yolo => "YOLO-pose",
            Self::YoloEndToEnd => "YOLO-pose, end to end",
            Self::MoveNetSingle => "MoveNet, one person",
            Self::MoveNetMulti => "MoveNet, several people",
        }
    }

    /// Whether it sees one person at a time, in a crop around them.
    pub fn is_top_down(self) -> bool {
        matches!(self, Self::SimCc { .. } | Self::HeatMaps { .. } | Self::MoveNetSingle)
    }
}

/// Height and width of the pictures for a file, where it leaves them open: those that the kinds with such outputs are trained on.
pub fn input_size(input: &Input, outputs: &[Port]) -> [usize; 2] {
    let looks_top_down = match outputs {
        [map] => map.shape.len() == 4,
        [a, b] => a.shape.len() == 3 && b.shape.len() == 3,
        _ => false,
    };
    let usual = match input.layout {
        Layout::ChannelsLast => [256, 256],
        Layout::ChannelsFirst if looks_top_down => [256, 192],
        Layout::ChannelsFirst => [640, 640],
    };
    [input.height.unwrap_or(usual[0]), input.width.unwrap_or(usual[1])]
}

/// The kind and its number of keypoints, from a trial run; `None` for an unknown one. `named_udp`: the file's name speaks for ViTPose.
pub fn recognise(input: &Input, [height, width]: [usize; 2], outputs: &[Output], named_udp: bool) -> Option<(Kind, usize)> {
    let shapes: Vec<&[usize]> = outputs.iter().map(|output| &output.shape[..]).collect();
    let found = match (input.layout, &shapes[..]) {
        (Layout::ChannelsLast, &[&[_, 1, joints, 3]]) => Some((Kind::MoveNetSingle, joints)),
        (Layout::ChannelsLast, &[&[_, _, values]]) => Some((Kind::MoveNetMulti, joints_in(values, 5)?)),
        (Layout::ChannelsFirst, &[&[_, joints, map_height, map_width]]) => {
            let stride = height.checked_div(map_height)?;
            let fits = stride * map_height == height && stride * map_width == width && matches!(stride, 2 | 4 | 8);
            let udp = named_udp || outputs[0].name.eq_ignore_ascii_case("heatmaps");
            fits.then_some((Kind::HeatMaps { udp }, joints))
        }
        (Layout::ChannelsFirst, &[&[_, rows, columns]]) => {
            if is_anchor_count(columns, height, width) {
                Some((Kind::Yolo, joints_in(rows, 5)?))
            } else {
                (rows <= cells(&[8, 16, 32], height, width)).then_some((Kind::YoloEndToEnd, joints_in(columns, 6)?))
            }
        }
        (Layout::ChannelsFirst, &[&[_, a_joints, a], &[_, b_joints, b]]) if a_joints == b_joints => {
            // A square input leaves open which is which; then the names say it, or the order.
            let named_last = outputs[1].name.to_ascii_lowercase().ends_with('x');
            let along = |x: usize, y: usize| {
                let bins = x / width.max(1);
                (bins >= 1 && bins * width == x && bins * height == y).then_some(bins)
            };
            let (first, last) = (along(a, b), along(b, a));
            let (bins_per_px, x_output) = match (first, last) {
                (Some(bins), None) => (bins, 0),
                (None, Some(bins)) => (bins, 1),
                (Some(bins), Some(_)) => (bins, usize::from(named_last)),
                (None, None) => return None,
            };
            Some((Kind::SimCc { bins_per_px, x_output }, a_joints))
        }
        (Layout::ChannelsFirst, &[&[_, a, 5], &[_, b, joints, 3]]) if a == b => Some((Kind::Rtmo { boxes_output: 0 }, joints)),
        (Layout::ChannelsFirst, &[&[_, a, joints, 3], &[_, b, 5]]) if a == b => Some((Kind::Rtmo { boxes_output: 1 }, joints)),
        _ => None,
    };
    // Only MoveNet takes whole numbers.
    let floats = matches!(input.element, Element::F32 | Element::F16) || input.layout == Layout::ChannelsLast;
    found.filter(|&(_, joints)| floats && (1..=MAX_JOINTS).contains(&joints))
}

/// Keypoints of three numbers each in a row that begins or ends with `others`.
fn joints_in(values: usize, others: usize) -> Option<usize> {
    values.checked_sub(others).filter(|rest| rest.is_multiple_of(3)).map(|rest| rest / 3)
}

fn is_anchor_count(count: usize, height: usize, width: usize) -> bool {
    [&[8, 16, 32][..], &[8, 16, 32, 64]].into_iter().any(|strides| cells(strides, height, width) == count)
}

fn cells(strides: &[usize], height: usize, width: usize) -> usize {
    strides.iter().map(|stride| height.div_ceil(*stride) * width.div_ceil(*stride)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(layout: Layout) -> Input {
        Input { layout, batch: Some(1), height: None, width: None, element: Element::F32 }
    }

    fn output(name: &str, shape: &[usize]) -> Output {
        Output { name: name.to_owned(), shape: shape.to_vec(), values: vec![0.0; shape.iter().product()] }
    }

    fn see(layout: Layout, size: [usize; 2], shapes: &[(&str, &[usize])]) -> Option<(Kind, usize)> {
        let outputs: Vec<Output> = shapes.iter().map(|(name, shape)| output(name, shape)).collect();
        recognise(&input(layout), size, &outputs, false)
    }

    #[test]
    fn each_kind_is_known_by_its_shapes() {
        use Layout::{ChannelsFirst, ChannelsLast};
        let first = |size, shapes| see(ChannelsFirst, size, shapes);
        assert_eq!(
            first([256, 192], &[("simcc_x", &[1, 17, 384]), ("simcc_y", &[1, 17, 512])]),
            Some((Kind::SimCc { bins_per_px: 2, x_output: 0 }, 17))
        );
        assert_eq!(
            first([384, 288], &[("b", &[4, 133, 768]), ("a", &[4, 133, 576])]),
            Some((Kind::SimCc { bins_per_px: 2, x_output: 1 }, 133))
        );
        assert_eq!(
            first([256, 256], &[("simcc_y", &[1, 26, 512]), ("simcc_x", &[1, 26, 512])]),
            Some((Kind::SimCc { bins_per_px: 2, x_output: 1 }, 26))
        );
        assert_eq!(first([256, 192], &[("output", &[1, 17, 64, 48])]), Some((Kind::HeatMaps { udp: false }, 17)));
        assert_eq!(first([256, 192], &[("heatmaps", &[1, 17, 64, 48])]), Some((Kind::HeatMaps { udp: true }, 17)));
        assert_eq!(first([640, 640], &[("dets", &[1, 50, 5]), ("keypoints", &[1, 50, 17, 3])]), Some((Kind::Rtmo { boxes_output: 0 }, 17)));
        // nobody on the black picture
        assert_eq!(first([640, 640], &[("dets", &[1, 0, 5]), ("keypoints", &[1, 0, 17, 3])]), Some((Kind::Rtmo { boxes_output: 0 }, 17)));
        assert_eq!(first([640, 640], &[("output0", &[1, 56, 8400])]), Some((Kind::Yolo, 17)));
        assert_eq!(first([384, 640], &[("output0", &[1, 56, 5040])]), Some((Kind::Yolo, 17)));
        assert_eq!(first([1280, 1280], &[("output0", &[1, 56, 34000])]), Some((Kind::Yolo, 17)));
        assert_eq!(first([640, 640], &[("output0", &[1, 300, 57])]), Some((Kind::YoloEndToEnd, 17)));
        assert_eq!(see(ChannelsLast, [192, 192], &[("output_0", &[1, 1, 17, 3])]), Some((Kind::MoveNetSingle, 17)));
        assert_eq!(see(ChannelsLast, [256, 256], &[("output_0", &[1, 6, 56])]), Some((Kind::MoveNetMulti, 17)));
    }

    #[test]
    fn others_are_not_taken_for_detectors() {
        use Layout::{ChannelsFirst, ChannelsLast};
        let first = |shapes| see(ChannelsFirst, [640, 640], shapes);
        assert_eq!(first(&[("logits", &[1, 1000])]), None);
        assert_eq!(
            first(&[("output0", &[1, 84, 8400])]),
            None,
            "a detector of boxes (80 classes) has no keypoints: 79 is no multiple of 3"
        );
        assert_eq!(first(&[("output0", &[1, 300, 6])]), None, "boxes without keypoints");
        assert_eq!(first(&[("masks", &[1, 17, 640, 640])]), None);
        assert_eq!(first(&[("a", &[1, 17, 384]), ("b", &[1, 17, 100])]), None);
        assert_eq!(first(&[("dets", &[1, 10, 5]), ("keypoints", &[1, 9, 17, 3])]), None);
        assert_eq!(first(&[("a", &[]), ("b", &[1])]), None);
        assert_eq!(first(&[]), None);
        assert_eq!(see(ChannelsLast, [192, 192], &[("logits", &[1, 1000])]), None);
        assert_eq!(first(&[("maps", &[1, 100_000, 160, 160])]), None, "no body has so many joints");
        let whole = Input { element: Element::I32, ..input(ChannelsFirst) };
        assert_eq!(recognise(&whole, [640, 640], &[output("output0", &[1, 56, 8400])], false), None);
    }

    #[test]
    fn open_sizes_are_those_of_the_training() {
        let port = |rank: usize| {
            let kind = ort::value::ValueType::Tensor {
                ty: ort::value::TensorElementType::Float32,
                shape: ort::value::Shape::new(vec![-1; rank]),
                dimension_symbols: ort::value::SymbolicDimensions::empty(rank),
            };
            Port::new("out", &kind)
        };
        assert_eq!(input_size(&input(Layout::ChannelsFirst), &[port(3)]), [640, 640]);
        assert_eq!(input_size(&input(Layout::ChannelsFirst), &[port(3), port(3)]), [256, 192]);
        assert_eq!(input_size(&input(Layout::ChannelsFirst), &[port(4)]), [256, 192]);
        assert_eq!(input_size(&input(Layout::ChannelsFirst), &[port(3), port(4)]), [640, 640]);
        assert_eq!(input_size(&input(Layout::ChannelsLast), &[port(3)]), [256, 256]);
        let known = Input { height: Some(384), ..input(Layout::ChannelsFirst) };
        assert_eq!(input_size(&known, &[port(3)]), [384, 640]);
    }
}
