//! The tracker on crossings whose truth is known.

use std::collections::{BTreeMap, BTreeSet};

use opencv::core::{CV_8UC3, Mat, Rect, Scalar};
use opencv::imgproc;
use pose::JOINTS;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

const FPS: f64 = 30.0;
const HEIGHT_PX: f32 = 240.0;

/// A walker who turns round or stands still where told.
#[derive(Debug, Clone)]
struct Walker {
    start_px: [f32; 2],
    speed_px_per_s: f32,
    /// 1 for an adult.
    scale: f32,
    phase: f32,
    /// Blue, green, red of the shirt and of the trousers.
    clothes: [[f64; 3]; 2],
    present_s: std::ops::Range<f64>,
}

impl Walker {
    fn new(x: f32, speed_px_per_s: f32) -> Self {
        let clothes = [[40.0, 40.0, 200.0], [90.0, 60.0, 40.0]];
        Self { start_px: [x, 300.0], speed_px_per_s, scale: 1.0, phase: x * 0.01, clothes, present_s: 0.0..1e9 }
    }

    fn keypoints(&self, time_s: f64) -> Keypoints17 {
        let swing = (time_s as f32 * 6.0 + self.phase).sin() * self.speed_px_per_s.signum();
        let mut places: [[f32; 2]; JOINTS] = [
            [0., 0.],
            [-8., 0.],
            [-8. + 14. * swing, 55.],
            [-8. + 30. * swing, 110.],
            [8., 0.],
            [8. - 14. * swing, 55.],
            [8. - 30. * swing, 110.],
            [0., -30.],
            [0., -65.],
            [4., -80.],
            [0., -100.],
            [14., -62.],
            [16. + 12. * swing, -30.],
            [18. + 26. * swing, -2.],
            [-14., -62.],
            [-16. - 12. * swing, -30.],
            [-18. - 26. * swing, -2.],
        ];
        let x = self.start_px[0] + self.speed_px_per_s * time_s as f32;
        places.iter_mut().for_each(|[dx, dy]| (*dx, *dy) = (*dx * self.scale + x, *dy * self.scale + self.start_px[1]));
        places.map(|[x, y]| Keypoint::new(x, y, 0.9))
    }
}

fn box_around(keypoints: &Keypoints17) -> BoxPx {
    let range = |value: fn(&Keypoint) -> f32| {
        keypoints.iter().fold((f32::MAX, f32::MIN), |(low, high), keypoint| (low.min(value(keypoint)), high.max(value(keypoint))))
    };
    let ((left, right), (top, bottom)) = (range(|k| k.x_px), range(|k| k.y_px));
    BoxPx { left, top, width: right - left, height: bottom - top }
}

/// Numbers between -1 and 1 that look random (splitmix64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn happens(&mut self, probability: f32) -> bool {
        self.next() * 0.5 + 0.5 < probability
    }
}

/// What goes wrong in a scene.
#[derive(Debug, Clone, Copy)]
struct Trouble {
    noise_px: f32,
    dropout: f32,
    /// How likely the detector misses whoever is mostly hidden by somebody with a larger number.
    hidden: f32,
    /// How likely it gives the front one's pose a second time, slightly moved, in the hidden one's stead.
    double: f32,
}

const NO_TROUBLE: Trouble = Trouble { noise_px: 0.0, dropout: 0.0, hidden: 0.0, double: 0.0 };

/// A sight: frame, who it is in truth, what the tracker made of it. Where two people stand in one place in one pose, a sight is of
/// either: it is `EITHER`.
type Followed = Vec<(usize, usize, Tracked)>;
const EITHER: usize = usize::MAX;

/// Runs the tracker over a scene. `with_pictures` shows it the clothes.
fn follow(walkers: &[Walker], seconds: f64, trouble: Trouble, seed: u64, with_pictures: bool) -> (Tracker, Followed) {
    let (mut tracker, mut followed, mut noise) = (Tracker::new(6), Vec::new(), Noise(seed));
    for frame in 0..(seconds * FPS) as usize {
        let time_s = frame as f64 / FPS;
        let mut picture =
            with_pictures.then(|| Mat::new_rows_cols_with_default(600, 1400, CV_8UC3, Scalar::all(120.0)).expect("a picture"));
        let mut truth: Vec<(usize, Keypoints17)> = Vec::new();
        for (who, walker) in walkers.iter().enumerate().filter(|(_, walker)| walker.present_s.contains(&time_s)) {
            let keypoints = walker.keypoints(time_s);
            if let Some(picture) = &mut picture {
                dress(picture, &keypoints, &walker.clothes);
            }
            truth.push((who, keypoints));
        }
        let mut seen: Vec<(usize, Keypoints17)> = Vec::new();
        let dropped: Vec<bool> = truth.iter().map(|_| noise.happens(trouble.dropout)).collect();
        for (index, (who, keypoints)) in truth.iter().enumerate() {
            let mine = box_around(keypoints);
            let front = (index + 1..truth.len()).find(|&other| hidden_share(&mine, &box_around(&truth[other].1)) > 0.5);
            // Whoever misses the one in front does not see the one behind.
            if dropped[index] || front.is_some_and(|front| dropped[front]) {
                continue;
            }
            let front = front.map(|front| truth[front]);
            let mut noisy = |keypoints: &Keypoints17| {
                keypoints.map(|k| Keypoint {
                    x_px: k.x_px + trouble.noise_px * noise.next(),
                    y_px: k.y_px + trouble.noise_px * noise.next(),
                    ..k
                })
            };
            let (own, doubled) = (noisy(keypoints), front.map(|(front, other)| (front, noisy(&other))));
            if let Some((front, doubled)) = doubled {
                if noise.happens(trouble.double) {
                    seen.push((front, doubled));
                    continue;
                }
                if noise.happens(trouble.hidden) {
                    continue;
                }
            }
            seen.push((*who, own));
        }
        let detections: Vec<Detected> = seen
            .iter()
            .map(|(_, keypoints)| Detected { keypoints: keypoints.to_vec(), box_px: box_around(keypoints), score: 0.9, found_for: None })
            .collect();
        for tracked in tracker.update(picture.as_ref(), time_s, &detections, Source::H36m17) {
            let who = seen.iter().find(|(_, keypoints)| *keypoints == tracked.keypoints).expect("one of the detections").0;
            let is_like = |other: &Keypoints17| oks(other, &tracked.keypoints, HEIGHT_PX).is_some_and(|oks| oks > 0.6);
            let who = if truth.iter().any(|(other, pose)| *other != who && is_like(pose)) { EITHER } else { who };
            followed.push((frame, who, tracked));
        }
    }
    (tracker, followed)
}

/// Paints shirt and trousers.
fn dress(picture: &mut Mat, keypoints: &Keypoints17, clothes: &[[f64; 3]; 2]) {
    let hip = keypoints[0];
    for (top, height, [b, g, r]) in [(-70.0, 70.0, clothes[0]), (0.0, 60.0, clothes[1])] {
        let area = Rect::new(hip.x_px as i32 - 22, (hip.y_px + top) as i32, 44, height as i32);
        imgproc::rectangle(picture, area, Scalar::new(b, g, r, 0.0), imgproc::FILLED, imgproc::LINE_8, 0).expect("a rectangle");
    }
}

/// Who is on each track.
fn truths_of_tracks(followed: &Followed) -> BTreeMap<u64, BTreeSet<usize>> {
    let mut truths: BTreeMap<u64, BTreeSet<usize>> = BTreeMap::new();
    followed.iter().filter(|(_, who, _)| *who != EITHER).for_each(|(_, who, tracked)| {
        truths.entry(tracked.track).or_default().insert(*who);
    });
    truths
}

/// Who is on each person's tracks.
fn truths_of_people(tracker: &Tracker, followed: &Followed) -> BTreeMap<u64, BTreeSet<usize>> {
    let mut truths: BTreeMap<u64, BTreeSet<usize>> = BTreeMap::new();
    for (_, who, tracked) in followed.iter().filter(|(_, who, _)| *who != EITHER) {
        if let Some(person) = tracker.person_of(tracked.track) {
            truths.entry(person).or_default().insert(*who);
        }
    }
    truths
}

/// No track and no person is two people, and nobody teleports.
fn assert_pure(tracker: &Tracker, followed: &Followed) {
    for truths in [truths_of_tracks(followed), truths_of_people(tracker, followed)] {
        assert!(truths.values().all(|who| who.len() == 1), "two people in one: {truths:?}");
    }
    assert_no_teleport(followed);
}

fn assert_no_teleport(followed: &Followed) {
    let mut last: BTreeMap<u64, (usize, BoxPx)> = BTreeMap::new();
    for (frame, _, tracked) in followed {
        if let Some((before, from)) = last.insert(tracked.track, (*frame, tracked.box_px)) {
            let elapsed_s = (frame - before) as f64 / FPS;
            assert!(elapsed_s > 0.0 && elapsed_s <= LOST_S + 1e-6, "track {}: twice in a frame, or gone for {elapsed_s} s", tracked.track);
            let moved = distance(&from, &tracked.box_px) / HEIGHT_PX;
            assert!(f64::from(moved) <= 0.35 + 4.0 * elapsed_s, "track {} teleports by {moved} heights in {elapsed_s} s", tracked.track);
        }
    }
}

fn crossing() -> [Walker; 2] {
    [Walker::new(200.0, 150.0), Walker { phase: 1.3, ..Walker::new(1000.0, -140.0) }]
}

fn dressed_differently() -> [Walker; 2] {
    let [a, b] = crossing();
    [a, Walker { clothes: [[200.0, 120.0, 30.0], [200.0, 200.0, 200.0]], ..b }]
}

#[test]
fn two_people_who_pass_keep_their_numbers() {
    let (tracker, followed) = follow(&crossing(), 5.0, NO_TROUBLE, 1, false);
    assert_pure(&tracker, &followed);
    assert_eq!(truths_of_people(&tracker, &followed), BTreeMap::from([(1, BTreeSet::from([0])), (2, BTreeSet::from([1]))]));
    assert_eq!(followed.len(), 2 * 150, "everyone is followed in every frame");
}

#[test]
fn who_comes_back_in_the_same_clothes_is_the_same() {
    let [a, mut b] = dressed_differently();
    b.present_s = 0.0..1.0;
    let back = Walker { start_px: [600.0, 300.0], speed_px_per_s: 30.0, present_s: 4.0..6.0, ..b.clone() };
    let (tracker, followed) = follow(&[a, b, back], 6.0, NO_TROUBLE, 1, true);
    assert_eq!(truths_of_people(&tracker, &followed), BTreeMap::from([(1, BTreeSet::from([0])), (2, BTreeSet::from([1, 2]))]));
    assert_no_teleport(&followed);
}

#[test]
fn who_comes_in_other_clothes_is_somebody_else() {
    let [a, mut b] = dressed_differently();
    b.present_s = 0.0..1.0;
    let other = Walker {
        clothes: [[60.0, 160.0, 60.0], [30.0, 30.0, 30.0]],
        present_s: 4.0..6.0,
        start_px: [600.0, 300.0],
        speed_px_per_s: 30.0,
        ..b.clone()
    };
    let (tracker, followed) = follow(&[a, b, other], 6.0, NO_TROUBLE, 1, true);
    assert_pure(&tracker, &followed);
    assert_eq!(truths_of_people(&tracker, &followed).len(), 3);
}

/// The detector's square stays where it is while somebody else walks into it.
#[test]
fn somebody_else_in_a_lost_persons_place_is_not_taken_for_them() {
    let standing = Walker { present_s: 0.0..2.0, ..Walker::new(600.0, 0.0) };
    let other = Walker { clothes: [[200.0, 120.0, 30.0], [200.0, 200.0, 200.0]], present_s: 2.1..4.0, ..Walker::new(600.0, 0.0) };
    let (tracker, followed) = follow(&[standing, other], 4.0, NO_TROUBLE, 1, true);
    assert_pure(&tracker, &followed);
    assert_eq!(truths_of_people(&tracker, &followed).len(), 2);
}

#[test]
fn a_cut_begins_anew() {
    let before = Walker { present_s: 0.0..2.0, ..Walker::new(200.0, 10.0) };
    let after = Walker { present_s: 2.0..4.0, start_px: [1100.0, 300.0], ..before.clone() };
    let (tracker, followed) = follow(&[before, after], 4.0, NO_TROUBLE, 1, false);
    assert_pure(&tracker, &followed);
}

#[test]
fn one_frame_is_enough_for_the_first_people() {
    let (tracker, followed) = follow(&crossing(), 1.5 / FPS, NO_TROUBLE, 1, false);
    assert_eq!(followed.len(), 2);
    assert!(tracker.person_of(followed[0].2.track).is_some());
}

#[test]
fn a_flash_of_somebody_is_nobody() {
    let flash = Walker { present_s: 1.0..1.05, ..Walker::new(900.0, 0.0) };
    let (tracker, followed) = follow(&[Walker::new(200.0, 50.0), flash], 4.0, NO_TROUBLE, 1, false);
    assert_eq!(truths_of_people(&tracker, &followed).len(), 1);
}

#[test]
fn nonsense_is_nobody() {
    let mut tracker = Tracker::new(3);
    let keypoints = Walker::new(200.0, 0.0).keypoints(0.0);
    let good = Detected { keypoints: keypoints.to_vec(), box_px: box_around(&keypoints), score: 0.9, found_for: Some(7) };
    let nonsense = [
        Detected { keypoints: vec![], ..good.clone() },
        Detected { keypoints: vec![Keypoint::new(f32::NAN, 0.0, 0.5); JOINTS], ..good.clone() },
        Detected { box_px: BoxPx { width: f32::NAN, ..good.box_px }, ..good.clone() },
        Detected { box_px: BoxPx { height: 0.0, ..good.box_px }, ..good.clone() },
        Detected { score: f32::NAN, ..good.clone() },
    ];
    assert!(tracker.update(None, 0.0, &nonsense, Source::H36m17).is_empty());
    assert_eq!(tracker.update(None, 0.1, &[good], Source::H36m17).len(), 1);
}

#[test]
fn no_more_than_asked_for() {
    let crowd: Vec<Walker> = (0..8).map(|i| Walker::new(100.0 + 150.0 * i as f32, 0.0)).collect();
    let (_, followed) = follow(&crowd, 1.0, NO_TROUBLE, 1, false);
    for frame in 0..30 {
        assert_eq!(followed.iter().filter(|(at, ..)| *at == frame).count(), 6);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(6), failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the detector misses, doubles and shakes: nobody is ever mixed with somebody else.
    #[test]
    fn crossings_never_mix_two_people(
        seed in any::<u64>(),
        speeds in prop::array::uniform2(60.0f32..300.0),
        gap_px in 250.0f32..700.0,
        scale in 0.8f32..1.1,
        same_way in any::<bool>(),
        noise_px in 0.0f32..5.0,
        dropout in 0.0f32..0.15,
        hidden in 0.0f32..1.0,
        double in 0.0f32..0.6,
    ) {
        let a = Walker::new(300.0, speeds[0]);
        let b = Walker { scale, phase: 2.0, ..Walker::new(300.0 + gap_px, if same_way { 0.3 * speeds[1] } else { -speeds[1] }) };
        let trouble = Trouble { noise_px, dropout, hidden, double };
        let (tracker, followed) = follow(&[a, b], 6.0, trouble, seed, false);
        assert_pure(&tracker, &followed);
    }

    /// With clothes that differ they are known again, so that two people stay two people.
    #[test]
    fn crossings_in_different_clothes_keep_both_numbers(
        seed in any::<u64>(),
        speeds in prop::array::uniform2(100.0f32..250.0),
        noise_px in 0.0f32..4.0,
        dropout in 0.0f32..0.1,
        hidden in 0.0f32..1.0,
    ) {
        let [mut a, mut b] = dressed_differently();
        (a.speed_px_per_s, b.speed_px_per_s) = (speeds[0], -speeds[1]);
        let (tracker, followed) = follow(&[a, b], 5.0, Trouble { noise_px, dropout, hidden, double: 0.0 }, seed, true);
        assert_pure(&tracker, &followed);
        prop_assert_eq!(truths_of_people(&tracker, &followed).len(), 2);
    }
}
