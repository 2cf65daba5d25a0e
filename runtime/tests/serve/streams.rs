//! Poses over the network are those of a stream alone.

use std::sync::Arc;

use pose::joint_map::Source;
use runtime::{Lifter, OneEuroSettings, StreamSettings, serve::Limits};
use serde_json::json;

use super::{
    client::{
        Client, Reply, alone, close_poses, close_to, end_record, flat, frames_of, get, lifter, metric, read_pose, record, same_poses,
        serve, serve_model, settings, shipped,
    },
    common::IMAGE,
};

/// Nothing is dropped, however fast frames come.
pub fn patient() -> Limits {
    Limits { queue_frames: 1000, output_poses: 1000, ..Limits::default() }
}

fn stream(skeleton: Source) -> StreamSettings {
    StreamSettings { skeleton, ..StreamSettings::new(IMAGE) }
}

/// One of each: skeletons, look-aheads, filters.
fn variety() -> Vec<StreamSettings> {
    vec![
        stream(Source::H36m17),
        StreamSettings { look_ahead: Some(0), ..stream(Source::Coco17) },
        StreamSettings { look_ahead: Some(6), hop: Some(2), height_m: Some(1.85), ..stream(Source::Body25) },
        StreamSettings { flip: true, one_euro: Some(OneEuroSettings::default()), ..stream(Source::BlazePose33) },
        StreamSettings { constant_bones: true, fov_deg: Some(80.0), blend_s: Some(0.0), ..stream(Source::Halpe26) },
        StreamSettings { hold_s: Some(0.2), ..stream(Source::CocoWholeBody133) },
    ]
}

#[test]
fn two_clients_with_many_streams_get_the_poses_of_streams_alone() {
    same_as_alone(lifter(), 1e-5, 0.05);
}

/// The order of a sum depends on the size of the batch; a deep model carries that on, and its graph of the most similar frames jumps.
#[test]
fn so_do_those_of_the_shipped_model() {
    same_as_alone(shipped(), 1e-2, 20.0);
}

fn same_as_alone(lifter: Arc<Lifter>, tolerance_25: f32, tolerance_mm: f32) {
    let server = serve_model(settings(patient()), lifter.clone());
    let address = server.http_address();
    let client = |sway: f32, form: &'static str| {
        let lifter = lifter.clone();
        std::thread::spawn(move || {
            let mut client = Client::connect(address);
            let all: Vec<(StreamSettings, Vec<_>)> = variety()
                .into_iter()
                .enumerate()
                // each at a rate, a length and a clock of its own
                .map(|(i, set)| {
                    (set.clone(), frames_of(set.skeleton, 20 + 3 * i, [30.0, 30.0, 25.0, 50.0, 30.0, 29.0][i], 100.0 * i as f64, sway))
                })
                .collect();
            let numbers: Vec<u32> = all.iter().enumerate().map(|(i, (set, _))| client.open(&format!("s{i}"), set, form)).collect();
            for t in 0..40 {
                for (i, (_, frames)) in all.iter().enumerate() {
                    match frames.get(t) {
                        Some((time_s, joints)) if form == "json" => client.frame(&format!("s{i}"), *time_s, joints),
                        Some((time_s, joints)) => client.send_binary(record(numbers[i], *time_s, joints)),
                        None => {}
                    }
                }
            }
            if form == "json" {
                (0..all.len()).for_each(|i| client.end(&format!("s{i}")));
            } else {
                client.send_binary(numbers.iter().flat_map(|&number| end_record(number)).collect());
            }
            let (mut texts, mut binary, mut ended) = (vec![Vec::new(); all.len()], vec![Vec::new(); all.len()], Vec::new());
            while ended.len() < all.len() {
                match client.next() {
                    Reply::Json(value) if value.get("ended").is_some() => ended.push(value),
                    Reply::Json(value) if value.get("camera_mm").is_some() => {
                        let i: usize = value["id"].as_str().unwrap()[1..].parse().unwrap();
                        texts[i].push(value);
                    }
                    Reply::Binary(bytes) => {
                        let pose = read_pose(&bytes);
                        let i = numbers.iter().position(|&number| number == pose.stream).unwrap();
                        binary[i].push(pose);
                    }
                    other => panic!("{other:?}"),
                }
            }
            for (i, (set, frames)) in all.iter().enumerate() {
                let expected = alone(lifter.clone(), set, frames);
                assert_eq!(expected.len(), frames.len());
                if form == "json" {
                    close_poses(&texts[i], &expected, tolerance_25, tolerance_mm);
                    continue;
                }
                assert_eq!(binary[i].len(), expected.len());
                for (found, expected) in binary[i].iter().zip(&expected) {
                    assert_eq!((found.time_s, found.delay_s), (expected.time_s, expected.delay_s as f32));
                    assert_eq!(
                        found.flags,
                        u8::from(expected.held) | u8::from(expected.restarted) << 1 | u8::from(set.height_m.is_some()) << 2
                    );
                    close_to(&found.confidence, &expected.confidence, 0.0);
                    close_to(&[found.height_m], &[expected.height_m], 1e-3);
                    close_to(&found.pose25, expected.pose25.as_flattened(), tolerance_25);
                    close_to(&found.camera_mm, expected.camera_mm.as_flattened(), tolerance_mm);
                    close_to(&found.world_mm, expected.world_mm.as_flattened(), tolerance_mm);
                }
            }
            for value in ended {
                assert_eq!(
                    (&value["ended"]["reason"], &value["ended"]["dropped"], &value["ended"]["drops"]),
                    (&json!("client"), &json!(0), &json!({}))
                );
            }
            all.iter().map(|(_, frames)| frames.len()).sum::<usize>()
        })
    };
    let clients = [client(0.0, "json"), client(25.0, "binary")];
    let frames: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert_eq!(metric(address, "poselift_frames_total"), frames as f64);
    assert_eq!(metric(address, "poselift_poses_total"), frames as f64);
    assert_eq!(metric(address, "poselift_latency_seconds_count"), frames as f64);
    assert_eq!(metric(address, "poselift_dropped_frames_total{reason=\"Queue\"}"), 0.0);
    let (streams, batches) = (metric(address, "poselift_batch_streams_sum"), metric(address, "poselift_batch_streams_count"));
    assert!(streams > 1.2 * batches, "{streams} windows in {batches} batches: streams that are due together run together");
}

#[test]
fn a_frame_is_answered_before_the_next_one_comes() {
    let server = serve(settings(Limits::default()));
    let mut client = Client::connect(server.http_address());
    let set = StreamSettings { look_ahead: Some(0), ..stream(Source::H36m17) };
    let frames = frames_of(Source::H36m17, 6, 30.0, 0.0, 0.0);
    client.open("a", &set, "json");
    for ((time_s, joints), expected) in frames.iter().zip(alone(lifter(), &set, &frames)) {
        client.frame("a", *time_s, joints);
        same_poses(&[client.json()], &[expected]);
    }
    // nobody is seen, a joint is missing, [x, y] means confidence 1
    client.send(&json!({ "id": "a", "time_s": 0.3, "keypoints": null }));
    assert_eq!(client.json()["held"], true);
    let mut joints: Vec<serde_json::Value> = frames[5].1.iter().map(|[x, y, _]| json!([x, y])).collect();
    joints[3] = serde_json::Value::Null;
    client.send(&json!({ "id": "a", "time_s": 0.33, "keypoints": joints }));
    let confidence = flat(&client.json()["confidence"]);
    assert_eq!((confidence[2], confidence[3]), (1.0, 0.0));
}

#[test]
fn what_a_stream_is_opened_with_is_told() {
    let server = serve(settings(Limits::default()));
    let mut client = Client::connect(server.http_address());
    client.send(&json!({ "open": { "image": { "width": 1280, "height": 720 }, "skeleton": "coco17", "look_ahead": 3, "form": "binary" } }));
    let opened = client.json();
    assert!(opened.get("id").is_none());
    let fps = lifter().fps().unwrap();
    let expected = json!({ "stream": 0, "model": lifter().name(), "skeleton": "coco17", "joints": 17, "fps": fps, "delay_s": 3.0 / fps, "form": "binary" });
    assert_eq!(opened["opened"], expected);
    // the one stream without a name ends, and another takes its place
    client.send(&json!({ "end": true }));
    assert_eq!(client.json_with("ended")["ended"]["frames"], 0);
    client.send(&json!({ "open": { "image": { "width": 1280, "height": 720 } } }));
    assert_eq!(client.json()["opened"]["stream"], 1);
    assert_eq!(get(server.http_address(), "/v2/health/ready").0, 200);
}
