//! From the numbers of each kind of network to people. Pure functions: nothing here knows of files or frames.
//!
//! Numbers that are not finite, and people below a kind's threshold, are left out.

use pose::Keypoint;

use super::graph::Output;
use super::view::View;
use super::{BoxPx, Detected};

/// A keypoint below this confidence says nothing of where the body is.
const CONFIDENT: f32 = 0.3;
/// A crop whose surer half of keypoints is less sure than this on average holds nobody.
const MIN_CROP_SCORE: f32 = 0.3;
/// MoveNet's own confidences are lower.
const MIN_MOVENET_SCORE: f32 = 0.2;
/// RTMO's candidates below this are noise (its files keep those above 0.05).
const MIN_RTMO_SCORE: f32 = 0.4;
/// YOLO's candidates below this are noise (Ultralytics' default).
const MIN_YOLO_SCORE: f32 = 0.25;
/// Boxes that overlap more (intersection over union) are of one person (Ultralytics' default).
const MAX_YOLO_OVERLAP: f32 = 0.7;
/// How much larger a body is than the box around its keypoints, in each direction: nobody marks the top of the head, the soles, the skin.
const BODY_MARGIN: f32 = 1.15;
/// The body's keypoints come first in every joint set; hands and faces, which are often hidden, do not decide whether there is a person.
const BODY_KEYPOINTS: usize = 17;

/// One person for each crop, from histograms along x (N, K, bins W) and y (N, K, bins H). The place is the highest bin, the confidence the
/// lower of the two highest values (SimCC as RTMPose uses it). `None` for a crop that holds nobody.
pub fn decode_simcc(x: &Output, y: &Output, bins_per_px: usize, views: &[View]) -> Vec<Option<Detected>> {
    let (&[_, joints, x_bins], &[_, _, y_bins]) = (&x.shape[..], &y.shape[..]) else { return vec![None; views.len()] };
    let place = |output: &Output, bins: usize, row: usize, joint: usize| {
        let histogram = output.values.get((row * joints + joint) * bins..)?.get(..bins)?;
        let (at, value) = highest(histogram)?;
        Some((at as f32 / bins_per_px.max(1) as f32, value))
    };
    let person = |(row, view): (usize, &View)| {
        let keypoints = (0..joints).map(|joint| match (place(x, x_bins, row, joint), place(y, y_bins, row, joint)) {
            (Some((x, x_value)), Some((y, y_value))) => keypoint(view.frame_px([x, y]), x_value.min(y_value)),
            _ => Keypoint::MISSING,
        });
        from_keypoints(keypoints.collect(), MIN_CROP_SCORE)
    };
    views.iter().enumerate().map(person).collect()
}

/// One person for each crop, from heat maps (N, K, h, w): the highest value, moved towards the maximum of the parabola through the
/// logarithms of the smoothed map around it (DARK: Zhang et al., "Distribution-Aware Coordinate Representation", CVPR 2020).
///
/// With `udp` the maps' corners lie on the crop's corners, otherwise map pixel i on pixel `i W / w` of the crop.
pub fn decode_heat_maps(maps: &Output, udp: bool, views: &[View]) -> Vec<Option<Detected>> {
    let &[_, joints, height, width] = &maps.shape[..] else { return vec![None; views.len()] };
    let size = width * height;
    let person = |(row, view): (usize, &View)| {
        let scale = [0, 1].map(|axis| {
            let [crop, map] = [view.size()[axis] as f32, [width, height][axis] as f32];
            if udp { (crop - 1.0) / (map - 1.0).max(1.0) } else { crop / map }
        });
        let keypoints = (0..joints).map(|joint| {
            let map = maps.values.get((row * joints + joint) * size..).and_then(|map| map.get(..size));
            match map.and_then(|map| Some((map, highest(map)?))) {
                Some((map, (at, value))) => {
                    let [x, y] = refine(map, width, [at % width, at / width]);
                    keypoint(view.frame_px([x * scale[0], y * scale[1]]), value)
                }
                None => Keypoint::MISSING,
            }
        });
        from_keypoints(keypoints.collect(), MIN_CROP_SCORE)
    };
    views.iter().enumerate().map(person).collect()
}

/// Everyone, from boxes (1, n, 5: left, top, right, bottom, score) and keypoints (1, n, K, 3), in pixels of the input.
pub fn decode_rtmo(boxes: &Output, keypoints: &Output, view: &View) -> Vec<Detected> {
    let &[_, people, joints, 3] = &keypoints.shape[..] else { return Vec::new() };
    let (boxes, _) = boxes.values.as_chunks::<5>();
    let rows = boxes.iter().take(people).zip(keypoints.values.chunks_exact((3 * joints).max(1)));
    rows.filter_map(|(&[left, top, right, bottom, score], keypoints)| {
        person([left, top, right, bottom], score, keypoints, MIN_RTMO_SCORE, view)
    })
    .collect()
}

/// Everyone, from candidates (1, 5 + 3K, anchors): middle, width, height, score, then x, y and visibility of each keypoint, in pixels of the
/// input. Overlapping candidates are of one person: the surest stays.
pub fn decode_yolo(candidates: &Output, view: &View) -> Vec<Detected> {
    let &[_, rows, anchors] = &candidates.shape[..] else { return Vec::new() };
    let value = |row: usize, anchor: usize| candidates.values.get(row * anchors + anchor).copied().unwrap_or(f32::NAN);
    let mut people: Vec<Detected> = (0..anchors)
        .filter(|&anchor| value(4, anchor) >= MIN_YOLO_SCORE)
        .filter_map(|anchor| {
            let [x, y, width, height, score] = std::array::from_fn(|row| value(row, anchor));
            let corners = [x - width / 2.0, y - height / 2.0, x + width / 2.0, y + height / 2.0];
            let keypoints: Vec<f32> = (5..rows).map(|row| value(row, anchor)).collect();
            person(corners, score, &keypoints, MIN_YOLO_SCORE, view)
        })
        .collect();
    suppress_overlaps(&mut people, MAX_YOLO_OVERLAP);
    people
}

/// Everyone, from (1, n, 6 + 3K): left, top, right, bottom, score, class, then x, y and visibility of each keypoint, in pixels of the input.
pub fn decode_yolo_end_to_end(people: &Output, view: &View) -> Vec<Detected> {
    let &[_, count, values] = &people.shape[..] else { return Vec::new() };
    let rows = people.values.chunks_exact(values.max(1)).take(count);
    rows.filter_map(|row| {
        let (&[left, top, right, bottom, score, class], keypoints) = row.split_first_chunk::<6>()?;
        // Files of more than one class have people first, as COCO has.
        (class.abs() < 0.5).then(|| person([left, top, right, bottom], score, keypoints, MIN_YOLO_SCORE, view))?
    })
    .collect()
}

/// One person for each crop, from (N, 1, K, 3): y, x in parts of the input, and confidence.
pub fn decode_movenet(people: &Output, views: &[View]) -> Vec<Option<Detected>> {
    let &[_, 1, joints, 3] = &people.shape[..] else { return vec![None; views.len()] };
    let person = |(row, view): (usize, &View)| {
        let values = people.values.get(row * 3 * joints..)?.get(..3 * joints)?;
        from_keypoints(movenet_keypoints(values, view), MIN_MOVENET_SCORE)
    };
    views.iter().enumerate().map(person).collect()
}

/// Everyone, from (1, n, 3K + 5): y, x and confidence of each keypoint, then top, left, bottom, right and score, in parts of the input.
pub fn decode_movenet_multi(people: &Output, view: &View) -> Vec<Detected> {
    let &[_, count, values] = &people.shape[..] else { return Vec::new() };
    let rows = people.values.chunks_exact(values.max(1)).take(count);
    rows.filter_map(|row| {
        let (keypoints, &[top, left, bottom, right, score]) = row.split_last_chunk::<5>()?;
        let [width, height] = view.size().map(|size| size as f32);
        let box_px = box_between(view.frame_px([left * width, top * height]), view.frame_px([right * width, bottom * height]))?;
        let keypoints = movenet_keypoints(keypoints, view);
        let usable = score >= MIN_MOVENET_SCORE && keypoints.iter().any(|keypoint| !keypoint.is_missing());
        usable.then(|| Detected { keypoints, box_px, score: score.min(1.0), found_for: None })
    })
    .collect()
}

fn movenet_keypoints(values: &[f32], view: &View) -> Vec<Keypoint> {
    let [width, height] = view.size().map(|size| size as f32);
    let (keypoints, _) = values.as_chunks::<3>();
    keypoints.iter().map(|&[y, x, confidence]| keypoint(view.frame_px([x * width, y * height]), confidence)).collect()
}

/// A person in pixels of the input; `None` below the threshold or without a box.
fn person([left, top, right, bottom]: [f32; 4], score: f32, keypoints: &[f32], min_score: f32, view: &View) -> Option<Detected> {
    if score.is_nan() || score < min_score {
        return None;
    }
    let box_px = box_between(view.frame_px([left, top]), view.frame_px([right, bottom]))?;
    let (keypoints, _) = keypoints.as_chunks::<3>();
    let keypoints: Vec<Keypoint> = keypoints.iter().map(|&[x, y, confidence]| keypoint(view.frame_px([x, y]), confidence)).collect();
    let anything = keypoints.iter().any(|keypoint| !keypoint.is_missing());
    anything.then(|| Detected { keypoints, box_px, score: score.min(1.0), found_for: None })
}

/// A person of whom only keypoints are known; `None` if they are too unsure.
fn from_keypoints(keypoints: Vec<Keypoint>, min_score: f32) -> Option<Detected> {
    let body = &keypoints[..keypoints.len().min(BODY_KEYPOINTS)];
    // The surer half: who sits at a table is as much of a person as who stands.
    let mut confidences: Vec<f32> = body.iter().map(|keypoint| keypoint.confidence).collect();
    confidences.sort_by(|a, b| b.total_cmp(a));
    confidences.truncate(body.len().div_ceil(2));
    let score = confidences.iter().sum::<f32>() / confidences.len().max(1) as f32;
    let box_px = body_box(body)?;
    (score >= min_score).then_some(Detected { keypoints, box_px, score, found_for: None })
}

/// The box around a body whose confident keypoints are these; around all of them where few are confident.
pub fn body_box(keypoints: &[Keypoint]) -> Option<BoxPx> {
    let around = |min_confidence: f32| {
        let mut corners: Option<[f32; 4]> = None;
        let mut count = 0;
        for keypoint in keypoints.iter().filter(|keypoint| !keypoint.is_missing() && keypoint.confidence >= min_confidence) {
            let (x, y) = (keypoint.x_px, keypoint.y_px);
            let [left, top, right, bottom] = corners.unwrap_or([x, y, x, y]);
            corners = Some([left.min(x), top.min(y), right.max(x), bottom.max(y)]);
            count += 1;
        }
        corners.map(|corners| (corners, count))
    };
    let confident = around(CONFIDENT).filter(|&(_, count)| count >= 4);
    let ([left, top, right, bottom], _) = confident.or_else(|| around(0.0))?;
    // Limbs on one line make no box: a body is never thinner than a fifth of its length.
    let longest = (right - left).max(bottom - top).max(4.0);
    let [width, height] = [right - left, bottom - top].map(|side| BODY_MARGIN * side.max(longest / 5.0));
    Some(BoxPx { left: (left + right - width) / 2.0, top: (top + bottom - height) / 2.0, width, height })
}

/// A keypoint within the rules of `pose`; missing where its numbers are none.
fn keypoint([x_px, y_px]: [f32; 2], confidence: f32) -> Keypoint {
    let usable = x_px.abs() <= pose::MAX_COORDINATE_PX && y_px.abs() <= pose::MAX_COORDINATE_PX && confidence > 0.0;
    if usable { Keypoint::new(x_px, y_px, confidence.min(1.0)) } else { Keypoint::MISSING }
}

/// `None` where the corners span nothing.
fn box_between([left, top]: [f32; 2], [right, bottom]: [f32; 2]) -> Option<BoxPx> {
    let (width, height) = (right - left, bottom - top);
    let usable = width > 0.0 && height > 0.0 && [left, top, width, height].iter().all(|value| value.abs() <= pose::MAX_COORDINATE_PX);
    usable.then_some(BoxPx { left, top, width, height })
}

/// The first of the highest values, if any is above 0.
fn highest(values: &[f32]) -> Option<(usize, f32)> {
    let mut best = None;
    for (i, &value) in values.iter().enumerate() {
        if value > best.map_or(0.0, |(_, best)| best) && value.is_finite() {
            best = Some((i, value));
        }
    }
    best
}

/// Standard deviation of the smoothing before [`refine`], in pixels of the map, and how far it reaches (an 11 x 11 window, as in MMPose).
const SMOOTHING_PX: f32 = 2.0;
const SMOOTHING_REACH: isize = 5;

/// The maximum between the pixels of a heat map, near its highest one.
fn refine(map: &[f32], width: usize, [x, y]: [usize; 2]) -> [f32; 2] {
    let height = map.len() / width.max(1);
    let here = [x as f32, y as f32];
    if x == 0 || y == 0 || x + 1 >= width || y + 1 >= height {
        return here;
    }
    let log = |dx: isize, dy: isize| smoothed(map, width, height, x as isize + dx, y as isize + dy).max(1e-10).ln();
    let centre = log(0, 0);
    let (left, right, up, down) = (log(-1, 0), log(1, 0), log(0, -1), log(0, 1));
    let gradient = [(right - left) / 2.0, (down - up) / 2.0];
    let (xx, yy) = (right - 2.0 * centre + left, down - 2.0 * centre + up);
    let xy = (log(1, 1) - log(1, -1) - log(-1, 1) + log(-1, -1)) / 4.0;
    let determinant = xx * yy - xy * xy;
    // Only a maximum (a negative definite Hessian) near this pixel is one.
    if determinant <= 1e-12 || xx >= 0.0 {
        return here;
    }
    let step = [-(yy * gradient[0] - xy * gradient[1]) / determinant, -(xx * gradient[1] - xy * gradient[0]) / determinant];
    if step.iter().all(|step| step.abs() <= 1.0) { [here[0] + step[0], here[1] + step[1]] } else { here }
}

/// A pixel of the map under a Gaussian window; what lies outside the map is left out of the mean.
fn smoothed(map: &[f32], width: usize, height: usize, x: isize, y: isize) -> f32 {
    let (mut sum, mut weights) = (0.0, 0.0);
    for dy in -SMOOTHING_REACH..=SMOOTHING_REACH {
        for dx in -SMOOTHING_REACH..=SMOOTHING_REACH {
            let (Ok(column), Ok(row)) = (usize::try_from(x + dx), usize::try_from(y + dy)) else { continue };
            if column >= width || row >= height {
                continue;
            }
            let weight = (-((dx * dx + dy * dy) as f32) / (2.0 * SMOOTHING_PX * SMOOTHING_PX)).exp();
            sum += weight * map[row * width + column].max(0.0);
            weights += weight;
        }
    }
    sum / weights
}

/// Keeps the surest of each group of people whose boxes overlap by more than `most`; the surest come first.
pub fn suppress_overlaps(people: &mut Vec<Detected>, most: f32) {
    people.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut kept: Vec<Detected> = Vec::new();
    for person in people.drain(..) {
        if kept.iter().all(|other| overlap(&other.box_px, &person.box_px) <= most) {
            kept.push(person);
        }
    }
    *people = kept;
}

/// Mean distance of the body's keypoints of which both are confident; `None` where there are fewer than four.
pub fn mean_distance_px(a: &[Keypoint], b: &[Keypoint]) -> Option<f32> {
    let both = a.iter().zip(b).take(BODY_KEYPOINTS).filter(|(a, b)| a.confidence.min(b.confidence) >= CONFIDENT);
    let distances: Vec<f32> = both.map(|(a, b)| (a.x_px - b.x_px).hypot(a.y_px - b.y_px)).collect();
    (distances.len() >= 4).then(|| distances.iter().sum::<f32>() / distances.len() as f32)
}

/// Intersection over union.
pub fn overlap(a: &BoxPx, b: &BoxPx) -> f32 {
    let side = |a_start: f32, a_length: f32, b_start: f32, b_length: f32| {
        ((a_start + a_length).min(b_start + b_length) - a_start.max(b_start)).max(0.0)
    };
    let shared = side(a.left, a.width, b.left, b.width) * side(a.top, a.height, b.top, b.height);
    shared / (a.width * a.height + b.width * b.height - shared)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pose::ImageSize;
    use proptest::prelude::*;

    const FRAME: ImageSize = ImageSize { width_px: 1281, height_px: 721 };
    const PERSON: BoxPx = BoxPx { left: 400.0, top: 100.0, width: 240.0, height: 500.0 };

    fn output(shape: &[usize], values: Vec<f32>) -> Output {
        assert_eq!(values.len(), shape.iter().product::<usize>());
        Output { name: "out".to_owned(), shape: shape.to_vec(), values }
    }

    fn zeros(shape: &[usize]) -> Output {
        output(shape, vec![0.0; shape.iter().product()])
    }

    /// 17 places inside a box.
    fn places(within: &BoxPx, u: f32, v: f32) -> Vec<[f32; 2]> {
        (0..17)
            .map(|i| {
                let share = |offset: f32, step: f32| (offset + step * i as f32).fract();
                [within.left + within.width * share(u, 0.381_966), within.top + within.height * share(v, 0.618_034)]
            })
            .collect()
    }

    fn assert_places(person: &Detected, places: &[[f32; 2]], tolerance_px: f32) -> Result<(), TestCaseError> {
        prop_assert_eq!(person.keypoints.len(), places.len());
        for (keypoint, place) in person.keypoints.iter().zip(places) {
            let near = (keypoint.x_px - place[0]).abs() <= tolerance_px && (keypoint.y_px - place[1]).abs() <= tolerance_px;
            prop_assert!(near, "{keypoint:?} is not at {place:?}");
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn simcc_comes_back_within_half_a_pixel_of_the_crop(u in 0.0f32..1.0, v in 0.0f32..1.0, wide in 0.2f32..3.0) {
            let person = BoxPx { width: PERSON.width * wide, ..PERSON };
            let view = View::person(&person, [256, 192], false);
            let places = places(&person, u, v);
            let (mut x, mut y) = (zeros(&[1, 17, 384]), zeros(&[1, 17, 512]));
            for (joint, &place) in places.iter().enumerate() {
                let [at_x, at_y] = view.input_at(place);
                x.values[joint * 384 + (2.0 * at_x).round() as usize] = 0.9;
                y.values[joint * 512 + (2.0 * at_y).round() as usize] = 0.8;
            }
            let people = decode_simcc(&x, &y, 2, &[view]);
            let found = people[0].as_ref().expect("a person");
            let px_of_crop = 1.25 * person.height.max(person.width / 0.75) / 256.0;
            assert_places(found, &places, 0.26 * px_of_crop)?;
            prop_assert!(found.keypoints.iter().all(|keypoint| (keypoint.confidence - 0.8).abs() < 1e-6));
            prop_assert!((found.score - 0.8).abs() < 1e-5);
        }

        #[test]
        fn a_gaussian_in_a_heat_map_comes_back_within_a_tenth_of_its_pixel(u in 0.0f32..1.0, v in 0.0f32..1.0, udp: bool) {
            let view = View::person(&PERSON, [256, 192], udp);
            let places = places(&PERSON, u, v);
            let mut maps = zeros(&[1, 17, 64, 48]);
            let scale = if udp { [191.0 / 47.0, 255.0 / 63.0] } else { [4.0, 4.0] };
            for (joint, &place) in places.iter().enumerate() {
                let [x, y] = view.input_at(place);
                let centre = [x / scale[0], y / scale[1]];
                for row in 0..64 {
                    for column in 0..48 {
                        let [dx, dy] = [column as f32 - centre[0], row as f32 - centre[1]];
                        maps.values[(joint * 64 + row) * 48 + column] = 0.9 * (-(dx * dx + dy * dy) / 8.0).exp();
                    }
                }
            }
            let people = decode_heat_maps(&maps, udp, &[view]);
            let px_of_map = 1.25 * PERSON.height / 64.0;
            assert_places(people[0].as_ref().expect("a person"), &places, 0.1 * px_of_map)?;
        }

        #[test]
        fn people_of_a_whole_picture_come_back_within_a_hundredth_of_a_pixel(u in 0.0f32..1.0, v in 0.0f32..1.0) {
            let size = [640, 640];
            let places = places(&PERSON, u, v);
            let corner_px = [[PERSON.left, PERSON.top], [PERSON.left + PERSON.width, PERSON.top + PERSON.height]];

            // YOLO: bars on both sides; the same person twice, slightly moved, and someone else
            let view = View::letterbox(FRAME, size, true);
            let (mut yolo, anchors) = (zeros(&[1, 56, 8400]), 8400);
            for (anchor, shift, score) in [(17, 0.0, 0.9), (18, 2.0, 0.6), (4000, 300.0, 0.5), (5000, 0.0, 0.2)] {
                let [a, b] = corner_px.map(|corner| view.input_at([corner[0] + shift, corner[1]]));
                let column = [(a[0] + b[0]) / 2.0, (a[1] + b[1]) / 2.0, b[0] - a[0], b[1] - a[1], score];
                let joints = places.iter().flat_map(|place| {
                    let [x, y] = view.input_at([place[0] + shift, place[1]]);
                    [x, y, 0.7]
                });
                column.into_iter().chain(joints).enumerate().for_each(|(row, value)| yolo.values[row * anchors + anchor] = value);
            }
            let people = decode_yolo(&yolo, &view);
            prop_assert_eq!(people.len(), 2);
            assert_places(&people[0], &places, 0.01)?;
            prop_assert!((people[0].score - 0.9).abs() < 1e-6 && (people[1].score - 0.5).abs() < 1e-6);
            prop_assert!((people[0].box_px.left - PERSON.left).abs() < 0.01 && (people[0].box_px.height - PERSON.height).abs() < 0.01);
            prop_assert!((people[1].box_px.left - PERSON.left - 300.0).abs() < 0.01);

            // end to end
            let mut rows = zeros(&[1, 300, 57]);
            let [a, b] = corner_px.map(|corner| view.input_at(corner));
            let joints: Vec<f32> = places.iter().flat_map(|&place| { let [x, y] = view.input_at(place); [x, y, 0.7] }).collect();
            rows.values[57..63].copy_from_slice(&[a[0], a[1], b[0], b[1], 0.9, 0.0]);
            rows.values[63..114].copy_from_slice(&joints);
            let people = decode_yolo_end_to_end(&rows, &view);
            prop_assert_eq!(people.len(), 1);
            assert_places(&people[0], &places, 0.01)?;

            // RTMO: bars right or below
            let view = View::letterbox(FRAME, size, false);
            let [a, b] = corner_px.map(|corner| view.input_at(corner));
            let boxes = output(&[1, 2, 5], vec![a[0], a[1], b[0], b[1], 0.8, a[0], a[1], b[0], b[1], 0.1]);
            let joints: Vec<f32> = places.iter().flat_map(|&place| { let [x, y] = view.input_at(place); [x, y, 0.7] }).collect();
            let keypoints = output(&[1, 2, 17, 3], [joints.clone(), joints].concat());
            let people = decode_rtmo(&boxes, &keypoints, &view);
            prop_assert_eq!(people.len(), 1);
            assert_places(&people[0], &places, 0.01)?;

            // MoveNet: y before x, parts of the input
            let view = View::letterbox(FRAME, [256, 256], true);
            let share = |place: [f32; 2]| view.input_at(place).map(|at| at / 256.0);
            let joints: Vec<f32> = places.iter().flat_map(|&place| { let [x, y] = share(place); [y, x, 0.6] }).collect();
            let single = decode_movenet(&output(&[1, 1, 17, 3], joints.clone()), &[view]);
            assert_places(single[0].as_ref().expect("a person"), &places, 0.01)?;
            let [a, b] = corner_px.map(share);
            let mut multi = zeros(&[1, 6, 56]);
            multi.values[..51].copy_from_slice(&joints);
            multi.values[51..56].copy_from_slice(&[a[1], a[0], b[1], b[0], 0.9]);
            let people = decode_movenet_multi(&multi, &view);
            prop_assert_eq!(people.len(), 1);
            assert_places(&people[0], &places, 0.01)?;
            prop_assert!((people[0].box_px.width - PERSON.width).abs() < 0.01);
        }

        /// Whatever comes out of a network, what is decoded is within the rules of `pose`.
        #[test]
        fn no_numbers_make_a_keypoint_that_is_none(
            values in proptest::collection::vec(prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY), Just(3e38), any::<f32>(), 0.0f32..1.0], 114..115),
        ) {
            let view = View::letterbox(FRAME, [640, 640], true);
            let crop = View::person(&PERSON, [256, 192], false);
            let mut people = decode_yolo_end_to_end(&output(&[1, 2, 57], values.clone()), &view);
            people.extend(decode_yolo(&output(&[1, 57, 2], values.clone()), &view));
            people.extend(decode_movenet_multi(&output(&[1, 2, 56], values[..112].to_vec()), &view));
            people.extend(decode_rtmo(&output(&[1, 2, 5], values[..10].to_vec()), &output(&[1, 2, 17, 3], values[..102].to_vec()), &view));
            people.extend(decode_movenet(&output(&[2, 1, 17, 3], values[..102].to_vec()), &[crop, crop]).into_iter().flatten());
            people.extend(decode_heat_maps(&output(&[1, 2, 8, 6], values[..96].to_vec()), false, &[crop]).into_iter().flatten());
            people.extend(decode_simcc(&output(&[1, 2, 24], values[..48].to_vec()), &output(&[1, 2, 32], values[..64].to_vec()), 2, &[crop]).into_iter().flatten());
            for person in people {
                prop_assert!(person.keypoints.iter().all(Keypoint::is_valid), "{person:?}");
                let BoxPx { left, top, width, height } = person.box_px;
                prop_assert!(left.is_finite() && top.is_finite() && width > 0.0 && height > 0.0 && width.is_finite() && height.is_finite(), "{person:?}");
                prop_assert!((0.0..=1.0).contains(&person.score), "{person:?}");
            }
        }
    }

    #[test]
    fn an_empty_crop_holds_nobody() {
        let view = View::person(&PERSON, [256, 192], false);
        assert_eq!(decode_simcc(&zeros(&[1, 17, 384]), &zeros(&[1, 17, 512]), 2, &[view]), [None]);
        assert_eq!(decode_heat_maps(&zeros(&[1, 17, 64, 48]), true, &[view]), [None]);
        assert_eq!(decode_movenet(&zeros(&[1, 1, 17, 3]), &[view]), [None]);
        assert!(decode_yolo(&zeros(&[1, 56, 8400]), &view).is_empty());
        assert!(decode_yolo_end_to_end(&zeros(&[1, 300, 57]), &view).is_empty());
        assert!(decode_movenet_multi(&zeros(&[1, 6, 56]), &view).is_empty());
        assert!(decode_rtmo(&zeros(&[1, 0, 5]), &zeros(&[1, 0, 17, 3]), &view).is_empty());
    }

    #[test]
    fn the_same_keypoints_are_the_same_body() {
        let at = |x: f32, confidence: f32| Keypoint::new(x, 0.0, confidence);
        let body = [at(0.0, 0.9), at(10.0, 0.9), at(20.0, 0.9), at(30.0, 0.9), at(40.0, 0.1)];
        let moved = body.map(|keypoint| Keypoint { x_px: keypoint.x_px + if keypoint.confidence > 0.5 { 3.0 } else { 500.0 }, ..keypoint });
        assert_eq!(mean_distance_px(&body, &moved), Some(3.0), "what is unsure does not count");
        assert_eq!(mean_distance_px(&body[..3], &moved[..3]), None);
    }

    #[test]
    fn a_body_is_larger_than_its_keypoints_and_never_a_line() {
        let at = |x: f32, y: f32, confidence: f32| Keypoint::new(x, y, confidence);
        let standing = [at(100.0, 100.0, 0.9), at(100.0, 200.0, 0.9), at(100.0, 300.0, 0.9), at(100.0, 250.0, 0.9), at(900.0, 0.0, 0.1)];
        let body = body_box(&standing).expect("a box");
        assert!((body.height - 230.0).abs() < 1e-3 && (body.width - 46.0).abs() < 1e-3, "{body:?}");
        assert!((body.left + body.width / 2.0 - 100.0).abs() < 1e-3, "an unsure keypoint does not widen it");
        assert!(body_box(&[Keypoint::MISSING; 17]).is_none());
    }
}
