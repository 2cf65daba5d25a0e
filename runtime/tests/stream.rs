//! Streams through small models whose answer can be computed by hand, and through the shipped one.
#![allow(missing_docs)]

mod common;

use std::sync::{Arc, LazyLock};

use common::{Graph, IMAGE, WEIGHTS, metadata, person, rooted, rooted_plus, walk};
use pose::{Keypoint, KeypointClip, Keypoints17, filter::OneEuro, normalise::Normalisation, skeleton, world::Scale};
use proptest::prelude::*;
use runtime::{
    Assumptions, Engine, EngineOptions, LiftOptions, LiftStream, Lifter, MAX_WINDOWS_WAITING, StreamOptions, StreamPose, run_due,
};

const FPS: f64 = 50.0;

fn lifter(graph: Graph, frames: usize, normalisation: Normalisation) -> Arc<Lifter> {
    let folder = tempfile::tempdir().unwrap();
    let options = EngineOptions { threads: 1, ..Default::default() };
    let path = graph.metadata(&metadata(frames, normalisation, FPS as f32)).write(folder.path(), "small.onnx");
    Arc::new(Lifter::new(Engine::open(path, &options).unwrap(), &Assumptions::default()).unwrap())
}

static PLAIN: LazyLock<Arc<Lifter>> = LazyLock::new(|| lifter(rooted(-1, -1, 3), 27, Normalisation::PersonBox));
/// Answers differently at every place of its window, so that a window that lies elsewhere is seen.
static PLACED: LazyLock<Arc<Lifter>> = LazyLock::new(|| lifter(rooted_plus(27, &ramp()), 27, Normalisation::PersonBox));
static SHIPPED: LazyLock<Arc<Lifter>> = LazyLock::new(|| {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/clip-xs.onnx");
    Arc::new(Lifter::open(path, &EngineOptions { threads: 1, ..Default::default() }).unwrap())
});

fn ramp() -> Vec<f32> {
    (0..27).map(|t| 0.01 * t as f32).collect()
}

fn stream(lifter: &Arc<Lifter>, options: StreamOptions) -> LiftStream {
    LiftStream::new(lifter.clone(), IMAGE, options).unwrap()
}

/// Every pose of a clip that is pushed frame by frame, and after how many frames it came.
fn push_all(stream: &mut LiftStream, clip: &KeypointClip) -> Vec<(usize, StreamPose)> {
    let mut poses = Vec::new();
    for (t, (frame, &time_s)) in clip.frames.iter().zip(&clip.times_s).enumerate() {
        poses.extend(stream.push(time_s, Some(frame)).unwrap().into_iter().map(|pose| (t, pose)));
    }
    poses
}

fn pose_px(pose: &StreamPose) -> [[f32; 3]; 17] {
    pose.pose25.map(|p| p.map(|v| v * pose.transform.half_size_px))
}

/// Pixels (17, 3) that [`rooted`] must give for a frame, whatever its window and box.
fn rooted_px(frame: &Keypoints17) -> [[f32; 3]; 17] {
    frame.map(|k| {
        let relative = [k.x_px - frame[0].x_px, k.y_px - frame[0].y_px];
        std::array::from_fn(|i| relative[0] * WEIGHTS[0][i] + relative[1] * WEIGHTS[1][i])
    })
}

fn largest_difference(a: &[[f32; 3]; 17], b: &[[f32; 3]; 17]) -> f32 {
    a.as_flattened().iter().zip(b.as_flattened()).fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}

#[test]
fn where_windows_coincide_a_stream_is_the_clip() {
    for (lifter, tolerance) in [(&*PLACED, 1e-6), (&*SHIPPED, 1e-5)] {
        let clip = walk(27, lifter.fps().unwrap());
        let lifted = lifter.lift(&clip, &LiftOptions::default()).unwrap();
        let options = StreamOptions { look_ahead: Some(26), ..Default::default() };
        let mut stream = stream(lifter, options);
        let mut poses: Vec<StreamPose> = push_all(&mut stream, &clip).into_iter().map(|(_, pose)| pose).collect();
        assert_eq!(poses.len(), 1, "one frame has all the look-ahead");
        poses.extend(stream.finish().unwrap());
        assert_eq!(poses.iter().map(|pose| pose.time_s).collect::<Vec<_>>(), clip.times_s);
        for (t, pose) in poses.iter().enumerate() {
            let difference = largest_difference(&pose.pose25, &lifted.pose25[t]);
            assert!(difference <= tolerance, "frame {t}: {difference}");
            assert!((pose.transform.half_size_px - lifted.transforms[t].half_size_px).abs() < 1e-3);
            assert!((0..2).all(|k| (pose.root_px[k] - lifted.root_px[t][k]).abs() < 0.01));
        }
    }
}

#[test]
fn windows_one_after_the_other_are_those_of_a_clip() {
    // a hop of a window and no look-ahead: windows 0..27, 27..54, 54..81, as a clip without overlap has them
    let clip = walk(81, FPS);
    let lifted = PLACED.lift(&clip, &LiftOptions { overlap: Some(0), ..Default::default() }).unwrap();
    let mut stream = stream(&PLACED, StreamOptions { look_ahead: Some(0), hop: 27, ..Default::default() });
    let poses = push_all(&mut stream, &clip);
    assert_eq!(poses.iter().map(|(after, _)| *after).collect::<Vec<_>>(), [[26; 27], [53; 27], [80; 27]].concat());
    for (t, (_, pose)) in poses.iter().enumerate() {
        let lifted_px = lifted.pose25[t].map(|p| p.map(|v| v * lifted.transforms[t].half_size_px));
        let difference = largest_difference(&pose_px(pose), &lifted_px);
        assert!(difference < 0.02, "frame {t}: {difference} px");
    }
}

#[test]
fn a_pose_comes_when_it_says() {
    for (look_ahead, hop) in [(0, 1), (4, 1), (0, 5), (7, 3), (26, 1)] {
        let clip = walk(120, FPS);
        let mut stream = stream(&PLAIN, StreamOptions { look_ahead: Some(look_ahead), hop, ..Default::default() });
        let mut poses = push_all(&mut stream, &clip);
        for (t, (after, pose)) in poses.iter().enumerate() {
            assert_eq!(pose.time_s, clip.times_s[t]);
            let late = after - t;
            assert!((look_ahead..look_ahead + hop).contains(&late), "frame {t} came after {late} frames");
            assert!((pose.delay_s - late as f64 / FPS).abs() < 1e-9);
            assert!(pose.delay_s <= stream.core().delay_s() + 1e-9);
            assert_eq!(pose.restarted, t == 0);
        }
        poses.extend(stream.finish().unwrap().into_iter().map(|pose| (120, pose)));
        assert_eq!(poses.len(), 120);
        for ((_, pose), frame) in poses.iter().zip(&clip.frames) {
            assert!(largest_difference(&pose_px(pose), &rooted_px(frame)) < 0.02);
            assert_eq!(pose.pose25[0], [0.0; 3]);
        }
    }
}

#[derive(Clone, Debug)]
struct Live {
    times_s: Vec<f64>,
    /// `None`: nobody; joints with the bit are missing.
    missing: Vec<Option<u32>>,
}

/// A stream with jitter, dropped frames, pauses, people and joints that are not seen.
fn live(length: usize) -> impl Strategy<Value = Live> {
    let step = prop_oneof![6 => 0.018f64..0.022, 3 => 0.003f64..0.06, 1 => 0.1f64..0.9];
    let missing = prop_oneof![8 => Just(Some(0)), 2 => any::<u32>().prop_map(Some), 1 => Just(None)];
    (prop::collection::vec(step, length), prop::collection::vec(missing, length)).prop_map(|(steps, missing)| {
        let mut time_s = 100.0;
        let times_s = steps.into_iter().map(|step_s| {
            time_s += step_s;
            time_s
        });
        Live { times_s: times_s.collect(), missing }
    })
}

fn live_frame(live: &Live, t: usize, place: f32) -> Option<Keypoints17> {
    let s = (live.times_s[t] - 100.0) as f32;
    let mut frame = person([300.0 + place + 50.0 * s, 360.0 + 20.0 * (2.0 * s).sin()], 20.0 * (5.0 * s).sin());
    let missing = live.missing[t]?;
    (0..17).filter(|j| missing >> j & 1 == 1).for_each(|j| frame[j] = Keypoint::MISSING);
    Some(frame)
}

/// Poses of a stream whose frames from `cut` on stand elsewhere.
fn poses_with_future(lifter: &Arc<Lifter>, options: &StreamOptions, live: &Live, cut: usize, elsewhere: f32) -> Vec<(usize, StreamPose)> {
    let mut stream = stream(lifter, options.clone());
    let mut poses = Vec::new();
    for t in 0..live.times_s.len() {
        let frame = live_frame(live, t, if t < cut { 0.0 } else { elsewhere });
        let late_s = if t < cut || elsewhere == 0.0 { 0.0 } else { 0.0007 };
        poses.extend(stream.push(live.times_s[t] + late_s, frame.as_ref()).unwrap().into_iter().map(|pose| (t, pose)));
    }
    poses
}

fn assert_no_future(lifter: &Arc<Lifter>, options: &StreamOptions, live: &Live, cut: usize) {
    let (one, other) = (poses_with_future(lifter, options, live, cut, 0.0), poses_with_future(lifter, options, live, cut, 200.0));
    let before = |poses: &[(usize, StreamPose)]| poses.iter().take_while(|(after, _)| *after < cut).cloned().collect::<Vec<_>>();
    let (one, other) = (before(&one), before(&other));
    assert_eq!(one.len(), other.len());
    for (a, b) in one.iter().zip(&other) {
        // as text: NaN would not equal itself, and -0 would equal 0
        assert_eq!(format!("{a:?}"), format!("{b:?}"));
    }
    // and all that was to be there by then is there
    let newest_s = live.times_s[cut - 1];
    let interval_s = 1.0 / lifter.fps().unwrap();
    let answered_s = one.last().map_or(f64::NEG_INFINITY, |(_, pose)| pose.time_s);
    let due_s = newest_s - (options.look_ahead.unwrap() + options.hop) as f64 * 1.1 * interval_s;
    let overdue = (0..cut).filter(|&t| live.times_s[t] < due_s && live.missing[t].is_some_and(|bits| bits & 0x1ffff != 0x1ffff));
    // a frame less than an eighth of an interval after another may be left out
    let overdue: Vec<f64> = overdue.map(|t| live.times_s[t]).filter(|&t| t > answered_s + interval_s / 8.0).collect();
    assert!(overdue.is_empty(), "no pose by {newest_s} s for {overdue:?}; the last is for {answered_s} s");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn no_future(live in live(90), cut in 1usize..90, look_ahead in 0usize..20, hop in 1usize..7, filtered in any::<bool>()) {
        let one_euro = filtered.then(OneEuro::default);
        let options = StreamOptions { look_ahead: Some(look_ahead), hop, one_euro, constant_bones: filtered, ..Default::default() };
        assert_no_future(&PLACED, &options, &live, cut);
    }

    #[test]
    fn irregular_times_come_back_as_they_were(
        steps in prop::collection::vec(0.004f64..0.055, 2..120), look_ahead in 0usize..12, hop in 1usize..6
    ) {
        // straight-line motion, so that resampling must not change it
        let mut time_s = 3.0;
        let times_s: Vec<f64> = steps.iter().map(|step| { time_s += step; time_s }).collect();
        let frame = |s: f64| person([200.0 + 50.0 * s as f32, 300.0], 20.0 * s as f32);
        let clip = KeypointClip { frames: times_s.iter().map(|&t| frame(t)).collect(), times_s, image: IMAGE };
        let mut stream = stream(&PLAIN, StreamOptions { look_ahead: Some(look_ahead), hop, ..Default::default() });
        let mut poses: Vec<StreamPose> = push_all(&mut stream, &clip).into_iter().map(|(_, pose)| pose).collect();
        poses.extend(stream.finish().unwrap());
        prop_assert_eq!(poses.iter().map(|pose| pose.time_s).collect::<Vec<_>>(), clip.times_s);
        for (t, (pose, frame)) in poses.iter().zip(&clip.frames).enumerate() {
            let difference = largest_difference(&pose_px(pose), &rooted_px(frame));
            prop_assert!(difference < 0.1, "frame {}: {} px", t, difference);
            // look-ahead and hop, and the wait for a frame that comes after them
            prop_assert!(pose.delay_s <= stream.core().delay_s() + 1.1 / FPS + 0.056, "{}", pose.delay_s);
        }
        let stats = stream.core().stats();
        prop_assert_eq!((stats.frames, stats.poses, stats.dropped), (clip.frames.len() as u64, clip.frames.len() as u64, 0));
    }

    #[test]
    fn every_frame_of_a_live_stream_is_accounted_for(live in live(200), look_ahead in 0usize..20, hop in 1usize..7) {
        let mut stream = stream(&PLAIN, StreamOptions { look_ahead: Some(look_ahead), hop, ..Default::default() });
        let mut poses = Vec::new();
        for t in 0..live.times_s.len() {
            poses.extend(stream.push(live.times_s[t], live_frame(&live, t, 0.0).as_ref()).unwrap());
        }
        poses.extend(stream.finish().unwrap());
        prop_assert!(poses.windows(2).all(|pair| pair[0].time_s < pair[1].time_s));
        let stats = stream.core().stats();
        prop_assert_eq!(stats.frames + stats.empty + stats.too_fast, 200);
        prop_assert_eq!((stats.frames, stats.dropped), (poses.len() as u64, 0));
        for pose in &poses {
            prop_assert!(pose.camera_mm.iter().chain(&pose.world_mm).flatten().all(|v| v.is_finite()));
            prop_assert!(pose.camera_mm[0][2] > 0.0 && pose.delay_s >= 0.0);
            prop_assert_eq!(pose.held, pose.confidence == [0.0; 17]);
        }
    }
}

#[test]
fn no_future_through_the_shipped_model() {
    let times_s = (0..60).map(|i| 100.0 + f64::from(i) / 30.0).collect();
    let live = Live { times_s, missing: (0..60).map(|t| Some(if t % 7 == 3 { 1 << 16 } else { 0 })).collect() };
    for (look_ahead, hop, cut) in [(0, 1, 40), (4, 1, 45), (2, 6, 50)] {
        assert_no_future(&SHIPPED, &StreamOptions { look_ahead: Some(look_ahead), hop, ..Default::default() }, &live, cut);
    }
}

#[test]
fn windows_that_disagree_do_not_jump() {
    // each window says 0.01 more with each of its frames, so that a hop of 9 is a saw tooth of 0.09 in joint 5's z
    let clip = KeypointClip::from_fps(vec![person([640.0, 360.0], 0.0); 240], FPS, IMAGE).unwrap();
    let largest_step = |look_ahead: usize, blend_s: f64| {
        let mut stream = stream(&PLACED, StreamOptions { look_ahead: Some(look_ahead), hop: 9, blend_s, ..Default::default() });
        let z: Vec<f32> = push_all(&mut stream, &clip).iter().map(|(_, pose)| pose.pose25[5][2]).collect();
        z[30..].windows(2).map(|pair| (pair[1] - pair[0]).abs()).fold(0.0, f32::max)
    };
    for look_ahead in [0, 6] {
        assert!(largest_step(look_ahead, 0.0) > 0.075, "without blending the seam shows");
        let step = largest_step(look_ahead, 0.1);
        assert!(step < 0.02, "look-ahead {look_ahead}: a step of {step} where a window itself makes 0.01");
    }
}

#[test]
fn short_gaps_are_held_and_long_ones_begin_anew() {
    let mut stream = stream(&PLAIN, StreamOptions { look_ahead: Some(3), hold_s: 0.3, ..Default::default() });
    let mut poses: Vec<StreamPose> = Vec::new();
    let mut push = |stream: &mut LiftStream, i: u32, frame: Option<Keypoints17>| {
        let new = stream.push(f64::from(i) / FPS, frame.as_ref()).unwrap();
        let came = new.len();
        poses.extend(new);
        came
    };
    let at = |x_px: f32| Some(person([x_px, 360.0], 0.0));
    assert_eq!(push(&mut stream, 0, None), 0, "nobody yet");
    for i in 1..=20 {
        push(&mut stream, i, at(400.0));
    }
    // 0.2 s without a person: held
    (21..=30).for_each(|i| assert_eq!(push(&mut stream, i, None), 1, "frame {i}"));
    for i in 31..=40 {
        push(&mut stream, i, at(410.0));
    }
    // 15 frames (0.3 s) are held; with the 16th the stream gives what waited for its look-ahead, and then nothing
    (41..=55).for_each(|i| assert_eq!(push(&mut stream, i, None), 1, "frame {i}"));
    assert_eq!(push(&mut stream, 56, None), 3);
    (57..=60).for_each(|i| assert_eq!(push(&mut stream, i, None), 0, "frame {i}"));
    // somebody else, elsewhere; and a second later, without a frame in between, a third
    for i in 61..=70 {
        push(&mut stream, i, at(1000.0));
    }
    for i in 120..=130 {
        push(&mut stream, i, at(200.0));
    }
    poses.extend(stream.finish().unwrap());

    let frame_of = |pose: &StreamPose| (pose.time_s * FPS).round() as u32;
    let expected: Vec<u32> = (1..=55).chain(61..=70).chain(120..=130).collect();
    assert_eq!(poses.iter().map(frame_of).collect::<Vec<_>>(), expected);
    assert_eq!(poses.iter().filter(|pose| pose.restarted).map(frame_of).collect::<Vec<_>>(), [1, 61, 120]);
    let held: Vec<u32> = poses.iter().filter(|pose| pose.held).map(frame_of).collect();
    assert_eq!(held, (21..=30).chain(41..=55).collect::<Vec<_>>());
    for pose in poses.iter().filter(|pose| pose.held) {
        assert!((pose.root_px[0] - 400.0).abs() < 11.0 && pose.confidence == [0.0; 17]);
    }
    // nothing of the one before is in the first pose of the next
    assert!((poses.iter().find(|pose| frame_of(pose) == 61).unwrap().root_px[0] - 1000.0).abs() < 0.1);
    assert_eq!(stream.core().stats().restarts, 3);
}

#[test]
fn wrong_frames_are_one_sentence_and_change_nothing() {
    let clip = walk(40, FPS);
    let mut undisturbed = stream(&PLACED, StreamOptions::default());
    let expected = push_all(&mut undisturbed, &clip);
    let mut stream = stream(&PLACED, StreamOptions::default());
    let mut found = Vec::new();
    let good = clip.frames[0];
    let spoiled = |joint: usize, keypoint: Keypoint| {
        let mut frame = good;
        frame[joint] = keypoint;
        frame
    };
    let bad: [(f64, Keypoints17, &str); 9] = [
        (f64::NAN, good, "in seconds"),
        (f64::INFINITY, good, "in seconds"),
        (1.7e12, good, "in seconds"), // Unix time in milliseconds
        (-1.0, good, "times must rise"),
        (0.0, good, "times must rise"),
        (9.0, spoiled(5, Keypoint::new(f32::NAN, 0.0, 1.0)), "joint 5 (LKnee)"),
        (9.0, spoiled(0, Keypoint::new(0.0, f32::NEG_INFINITY, 1.0)), "finite pixels"),
        (9.0, spoiled(16, Keypoint::new(0.0, 0.0, 1.5)), "confidence 1.5"),
        (9.0, spoiled(2, Keypoint::new(1e7, 0.0, 0.5)), "±1000000"),
    ];
    for (t, (frame, &time_s)) in clip.frames.iter().zip(&clip.times_s).enumerate() {
        found.extend(stream.push(time_s, Some(frame)).unwrap().into_iter().map(|pose| (t, pose)));
        for (time_s, frame, expected) in &bad {
            let message = stream.push(*time_s, Some(frame)).unwrap_err().to_string();
            assert!(message.contains(expected) && message.lines().count() == 1, "{message}");
        }
    }
    assert_eq!(found, expected);
    // another clock
    stream.reset().unwrap();
    assert!(stream.push(-50.0, Some(&good)).is_ok());
}

#[test]
fn wrong_settings_are_one_sentence() {
    let refused = |options: StreamOptions, expected: &str| {
        let message = LiftStream::new(PLAIN.clone(), IMAGE, options).unwrap_err().to_string();
        assert!(message.contains(expected) && message.lines().count() == 1, "{message}");
    };
    let options = StreamOptions::default;
    refused(StreamOptions { look_ahead: Some(27), ..options() }, "window of 27 frames together, found 27 and 1");
    refused(StreamOptions { look_ahead: Some(usize::MAX), ..options() }, "look-ahead");
    refused(StreamOptions { hop: 0, ..options() }, "hop");
    refused(StreamOptions { hold_s: -1.0, ..options() }, "pause to hold over");
    refused(StreamOptions { hold_s: f64::NAN, ..options() }, "pause to hold over");
    refused(StreamOptions { blend_s: f64::INFINITY, ..options() }, "blend");
    refused(StreamOptions { scale: Scale::Height { height_m: 170.0 }, ..options() }, "height of the person");
    refused(StreamOptions { one_euro: Some(OneEuro { beta: f64::NAN, ..OneEuro::default() }), ..options() }, "beta");
    let image = pose::ImageSize { width_px: 0, height_px: 10 };
    assert!(LiftStream::new(PLAIN.clone(), image, options()).unwrap_err().to_string().contains("1 x 1 pixel"));

    let folder = tempfile::tempdir().unwrap();
    let bare = Engine::open(rooted(1, 9, 3).write(folder.path(), "bare.onnx"), &EngineOptions::default()).unwrap();
    let bare = Arc::new(Lifter::new(bare, &Assumptions::default()).unwrap());
    let message = LiftStream::new(bare, IMAGE, options()).unwrap_err().to_string();
    assert!(message.contains("--fps"), "{message}");
}

#[test]
fn a_model_that_answers_nonsense_costs_its_frames_and_no_more() {
    let clip = walk(20, FPS);
    let mut core = PLAIN.stream_core(IMAGE, StreamOptions { look_ahead: Some(0), ..Default::default() }).unwrap();
    let mut poses = 0;
    for (t, (frame, &time_s)) in clip.frames.iter().zip(&clip.times_s).enumerate() {
        core.push(time_s, Some(frame)).unwrap();
        let input = core.start_run().unwrap();
        assert_eq!(input.len(), 27 * 17 * 3);
        assert!(core.start_run().is_none(), "one at a time");
        let mut answer = vec![0.01; 27 * 17 * 3];
        match t % 5 {
            1 => answer[700] = f32::NAN,
            2 => answer.truncate(100),
            3 => {
                core.abandon_run();
                continue;
            }
            _ => {}
        }
        match core.finish_run(&answer) {
            Ok(new) => poses += new.len(),
            Err(error) => assert!(t % 5 == 1 && error.to_string().contains("NaN") || t % 5 == 2 && error.to_string().contains("100")),
        }
    }
    let stats = core.stats();
    assert_eq!((stats.frames, stats.poses, stats.dropped, poses), (20, 8, 12, 8));
    assert!(core.finish_run(&[]).is_err(), "nobody asked");
}

#[test]
fn a_stream_that_is_never_run_drops_its_oldest_frames() {
    let clip = walk(200, FPS);
    let mut core = PLAIN.stream_core(IMAGE, StreamOptions { look_ahead: Some(0), ..Default::default() }).unwrap();
    clip.frames.iter().zip(&clip.times_s).for_each(|(frame, &time_s)| core.push(time_s, Some(frame)).unwrap());
    assert_eq!(core.stats().dropped, (200 - MAX_WINDOWS_WAITING) as u64);
    let mut poses = Vec::new();
    run_due(&PLAIN, &mut [&mut core], &mut |_, answer| poses.extend(answer.unwrap()));
    assert_eq!(poses.iter().map(|pose| pose.time_s).collect::<Vec<_>>(), clip.times_s[200 - MAX_WINDOWS_WAITING..]);
}

#[test]
fn streams_in_one_batch_are_what_they_are_alone() {
    let clips: Vec<KeypointClip> = (0..7).map(|i| walk(20 + 9 * i, FPS)).collect();
    let options = |i: usize| StreamOptions { look_ahead: Some(i), hop: 1 + i % 3, flip: i == 3, ..Default::default() };
    for lifter in [&*PLACED, &lifter(rooted(4, 27, 3), 27, Normalisation::PersonBox)] {
        let mut cores: Vec<_> = (0..7).map(|i| lifter.stream_core(IMAGE, options(i)).unwrap()).collect();
        let mut together: Vec<Vec<StreamPose>> = vec![Vec::new(); 7];
        // streams join one after the other, and end at different times
        for t in 0..110 {
            for (i, core) in cores.iter_mut().enumerate() {
                let Some(local) = usize::checked_sub(t, 3 * i) else { continue };
                match clips[i].frames.get(local) {
                    Some(frame) => core.push(clips[i].times_s[local], Some(frame)).unwrap(),
                    None => core.finish(),
                }
            }
            let mut due: Vec<_> = cores.iter_mut().collect();
            run_due(lifter, &mut due, &mut |i, answer| together[i].extend(answer.unwrap()));
        }
        for (i, clip) in clips.iter().enumerate() {
            let mut alone = stream(lifter, options(i));
            let mut expected: Vec<StreamPose> = push_all(&mut alone, clip).into_iter().map(|(_, pose)| pose).collect();
            expected.extend(alone.finish().unwrap());
            assert_eq!(together[i].len(), clip.frames.len());
            for (a, b) in together[i].iter().zip(&expected) {
                assert!(a.time_s == b.time_s && largest_difference(&a.pose25, &b.pose25) < 1e-5);
                assert!(largest_difference(&a.camera_mm, &b.camera_mm) < 0.5);
            }
        }
    }
}

#[test]
fn poses_stand_where_they_are_seen_and_filters_do_as_they_say() {
    let clip = walk(150, FPS);
    let height = Scale::Height { height_m: 1.85 };
    let options = StreamOptions { look_ahead: Some(0), scale: height, ..Default::default() };
    let plain = push_all(&mut stream(&PLAIN, options.clone()), &clip);
    for (t, pose) in &plain {
        let intrinsics = pose::camera::Intrinsics::from_horizontal_fov_deg(IMAGE, 60.0).unwrap();
        for (joint, seen) in pose.camera_mm.iter().zip(rooted_px(&clip.frames[*t])) {
            let pixel = intrinsics.project(*joint).unwrap();
            let expected = [pose.root_px[0] + seen[0], pose.root_px[1] + seen[1]];
            assert!((pixel[0] - expected[0]).abs() < 0.1 && (pixel[1] - expected[1]).abs() < 0.1, "{pixel:?} {expected:?}");
        }
        assert!((pose.height_m - 1.85).abs() < 0.01);
        assert_eq!(pose.world_mm, pose.world_from_camera.pose_to_world(&pose.camera_mm));
    }
    let level = pose::camera::Extrinsics::level(1234.0);
    let fixed = StreamOptions { world_from_camera: Some(level), constant_bones: true, one_euro: Some(OneEuro::default()), ..options };
    let filtered = push_all(&mut stream(&PLAIN, fixed), &clip);
    for ((_, a), (_, b)) in plain.iter().zip(&filtered) {
        assert_eq!(b.world_from_camera, level);
        assert_eq!((a.pose25, a.root_px), (b.pose25, b.root_px), "what the model says is not filtered");
        let (left, right) = (skeleton::bone_lengths(&b.camera_mm)[4], skeleton::bone_lengths(&b.camera_mm)[1]);
        assert!((left - right).abs() < 0.1, "both thighs have one length: {left} {right}");
    }
    assert_ne!(plain[149].1.camera_mm, filtered[149].1.camera_mm);
}
