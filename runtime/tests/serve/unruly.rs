//! Clients that send nonsense, too much, too little, or go away: refused in one sentence, and nobody else is disturbed.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use pose::joint_map::Source;
use runtime::{
    StreamSettings,
    serve::{Limits, Server},
};
use serde_json::json;
use tungstenite::Message;

use super::{
    client::{
        Client, PATIENCE, Reply, alone, eventually, frames_of, get, lifter, metric, open_text, record, request, same_poses, serve, settings,
    },
    common::IMAGE,
    engine::{Command, commanded},
};

fn plain() -> StreamSettings {
    StreamSettings { look_ahead: Some(2), ..StreamSettings::new(IMAGE) }
}

#[test]
fn bad_messages_are_named_and_change_nothing() {
    let server = serve(settings(Limits::default()));
    let mut client = Client::connect(server.http_address());
    let frames = frames_of(Source::H36m17, 20, 30.0, 10.0, 0.0);
    let number = client.open("a", &plain(), "json"); // message 1
    let (good, bad) = (&frames[..], frames[0].1.clone());
    let mut nan = bad.clone();
    nan[4][1] = f32::NAN;
    let mut cut = record(number, 11.0, &bad);
    cut.pop();
    let texts = [
        ("message", "{".to_owned()),
        ("message", "[1, 2]".repeat(1000)),
        ("message", "\u{0}".to_owned()),
        ("message", r#"{"id": {"a": 1}}"#.to_owned()),
        ("message", format!("{{\"id\": \"{}\"}}", "x".repeat(1000))),
        ("stream", json!({ "id": "b", "time_s": 1.0, "keypoints": null }).to_string()),
        ("stream", json!({ "time_s": 1.0, "keypoints": null }).to_string()),
        ("frame", json!({ "id": "a", "time_s": "now", "keypoints": null }).to_string()),
        ("frame", json!({ "id": "a", "time_s": 11.0 }).to_string()),
        ("frame", json!({ "id": "a", "time_s": 11.0, "keypoints": bad[..16] }).to_string()),
        ("frame", json!({ "id": "a", "time_s": 11.0, "keypoints": vec![[1.0, 2.0, 0.5]; 1000] }).to_string()),
        ("frame", json!({ "id": "a", "time_s": 11.0, "keypoints": vec![[1e30, 2.0, 0.5]; 17] }).to_string()),
        ("frame", r#"{"id": "a", "time_s": 11.0, "keypoints": [[NaN, 1, 1]]}"#.to_owned()),
        ("frame", json!({ "id": "a", "time_s": 1e300, "keypoints": null }).to_string()),
        ("frame", json!({ "id": "a", "time_s": 5.0, "keypoints": null }).to_string()), // before the others
        ("stream", open_text("a", &plain(), "json").to_string()),
        ("settings", json!({ "id": "b", "open": {} }).to_string()),
        ("settings", json!({ "id": "b", "open": { "image": { "width": 0, "height": 720 } } }).to_string()),
        (
            "settings",
            json!({ "id": "b", "open": { "image": { "width": 1280, "height": 720 }, "look_ahead": 99_999_999_999u64 } }).to_string(),
        ),
        ("settings", json!({ "id": "b", "open": { "image": { "width": 1280, "height": 720 }, "hop": 0 } }).to_string()),
        ("settings", json!({ "id": "b", "open": { "image": { "width": 1280, "height": 720 }, "height_m": -1 } }).to_string()),
        ("settings", json!({ "id": "b", "open": { "image": { "width": 1280, "height": 720 }, "skeleton": "spider" } }).to_string()),
    ];
    let binaries = [
        ("message", vec![0]),
        ("message", vec![0xff; 300]),
        ("message", cut),
        ("message", record(number, 11.0, &vec![[1.0; 3]; 17])[..100].to_vec()),
        ("stream", record(77, 11.0, &bad)),
        ("frame", record(number, 11.0, &bad[..5])),
        ("frame", record(number, 11.0, &nan)),
        ("frame", record(number, f64::NAN, &bad)),
        ("frame", record(number, f64::INFINITY, &bad)),
    ];
    let mut expected: Vec<(u64, &str)> = Vec::new();
    let mut message = 1;
    let mut sent = good.iter();
    let mut send_good = |client: &mut Client, message: &mut u64| {
        if let Some((time_s, joints)) = sent.next() {
            client.frame("a", *time_s, joints);
            *message += 1;
        }
    };
    for (code, text) in texts {
        send_good(&mut client, &mut message);
        client.socket.send(Message::text(text)).unwrap();
        message += 1;
        expected.push((message, code));
    }
    for (code, bytes) in binaries {
        send_good(&mut client, &mut message);
        client.send_binary(bytes);
        message += 1;
        expected.push((message, code));
    }
    client.end("a");
    let (mut poses, mut errors) = (Vec::new(), Vec::new());
    let ended = loop {
        let value = client.json();
        if value.get("camera_mm").is_some() {
            poses.push(value);
        } else if let Some(error) = value.get("error") {
            let error = error.as_str().unwrap();
            assert!(!error.contains('\n') && error.len() < 500, "{error}");
            errors.push((value["message"].as_u64().unwrap(), value["code"].as_str().unwrap().to_owned()));
        } else if let Some(ended) = value.get("ended") {
            break ended.clone();
        }
    };
    errors.sort();
    assert_eq!(errors, expected.iter().map(|&(message, code)| (message, code.to_owned())).collect::<Vec<_>>());
    same_poses(&poses, &alone(lifter(), &plain(), &frames));
    let bad_frames = expected.iter().filter(|(_, code)| *code == "frame").count();
    assert_eq!((&ended["refused"], &ended["frames"]), (&json!(bad_frames), &json!(20)));
}

#[test]
fn one_bad_message_after_the_other_ends_the_connection() {
    let server = serve(settings(Limits { max_bad_messages: 10, ..Limits::default() }));
    let mut client = Client::connect(server.http_address());
    for _ in 0..30 {
        if client.socket.send(Message::text("garbage")).is_err() {
            break;
        }
    }
    let (code, reason) = client.closed().unwrap();
    assert!(code == 1008 && reason.contains("--max-bad-messages"), "{code} {reason}");
}

#[test]
fn sizes_beyond_the_limit_are_refused_before_they_are_read() {
    let server = serve(settings(Limits { max_message_bytes: 4096, max_joints: 33, ..Limits::default() }));
    let address = server.http_address();
    let mut client = Client::connect(address);
    client.socket.send(Message::text("x".repeat(5000))).unwrap();
    let (code, reason) = client.closed().unwrap();
    assert!(code == 1009 && reason.contains("4096 bytes (--max-message-bytes)"), "{code} {reason}");

    // in pieces
    let mut client = Client::connect(address);
    let piece = |head: u8| [&[head, 0xfe, 0x0f, 0xa0, 0, 0, 0, 0][..], &[b'x'; 4000]].concat(); // masked with 0
    for head in [0x01, 0x00] {
        client.socket.get_mut().write_all(&piece(head)).unwrap();
    }
    assert_eq!(client.closed().unwrap().0, 1009);

    // a frame that says it has 2^31 bytes, 2^63, and one with a length that is not allowed
    for length in [1u64 << 31, 1 << 63, u64::MAX] {
        let mut client = Client::connect(address);
        let mut head = vec![0x82, 0xff];
        head.extend(length.to_be_bytes());
        head.extend([0; 4]);
        client.socket.get_mut().write_all(&head).unwrap();
        let code = client.closed().map(|(code, _)| code);
        assert!(matches!(code, Some(1009 | 1002)), "{length}: {code:?}");
    }
    // no WebSocket frame at all, and one without a mask
    for bytes in [&[0xff; 64][..], &[0x81, 0x01, b'x']] {
        let mut client = Client::connect(address);
        client.socket.get_mut().write_all(bytes).unwrap();
        assert_eq!(client.closed().map(|(code, _)| code), Some(1002));
    }
    let mut client = Client::connect(address);
    client.send(&open_text("a", &StreamSettings { skeleton: Source::CocoWholeBody133, ..plain() }, "json"));
    let refusal = client.json();
    assert!(refusal["code"] == "limit" && refusal["error"].as_str().unwrap().contains("--max-joints"), "{refusal}");
}

#[test]
fn numbers_beyond_the_limits_are_refused_and_places_come_free() {
    let server = serve(settings(Limits { max_connections: 3, max_streams: 3, max_streams_per_connection: 2, ..Limits::default() }));
    let address = server.http_address();
    let (mut first, mut second) = (Client::connect(address), Client::connect(address));
    first.open("a", &plain(), "json");
    first.open("b", &plain(), "json");
    let refused = |client: &mut Client, id: &str, limit: &str| {
        client.send(&open_text(id, &plain(), "json"));
        let refusal = client.json();
        assert!(refusal["code"] == "limit" && refusal["error"].as_str().unwrap().contains(limit) && refusal["id"] == id, "{refusal}");
    };
    refused(&mut first, "c", "--max-streams-per-connection");
    second.open("a", &plain(), "json");
    refused(&mut second, "b", "(--max-streams)");
    // one place is left, and held open
    let third = TcpStream::connect(address).unwrap();
    eventually("the third connection is there", || {
        let (status, _, body) = request(address, "GET", "/v2", &[], &[]);
        status == 503 && String::from_utf8_lossy(&body).contains("3 connections (--max-connections)")
    });
    assert_eq!(Client::try_connect(address, &[]).err(), Some(503));
    drop(third);
    eventually("its place comes free", || get(address, "/v2").0 == 200);
    // a stream that ends, and a client that vanishes, make room
    first.end("a");
    first.json_with("ended");
    second.open("b", &plain(), "json");
    drop(first);
    eventually("streams of those who vanish end", || metric(address, "poselift_streams") == 2.0);
    let mut fourth = Client::connect(address);
    fourth.open("a", &plain(), "json");
    drop((second, fourth));
    eventually("all places come free", || metric(address, "poselift_streams") == 0.0 && metric(address, "poselift_connections") == 1.0);
}

/// A well-behaved client, which waits for the pose of a frame before it goes on, at 30 frames a second where the machine is fast enough.
fn good_client(address: SocketAddr, frames: usize) -> std::thread::JoinHandle<()> {
    let mut client = Client::connect(address);
    client.open("good", &plain(), "json");
    std::thread::spawn(move || {
        let frames = frames_of(Source::H36m17, frames, 30.0, 0.0, 12.0);
        let (mut poses, mut slowest) = (Vec::new(), Duration::ZERO);
        for (t, (time_s, joints)) in frames.iter().enumerate() {
            let start = Instant::now();
            client.frame("good", *time_s, joints);
            if t >= 2 {
                poses.push(client.json()); // of two frames ago: the look-ahead
            }
            slowest = slowest.max(start.elapsed());
            std::thread::sleep(Duration::from_millis(33).saturating_sub(start.elapsed()));
        }
        client.end("good");
        let (rest, others) = client.until_ended("good");
        poses.extend(rest);
        same_poses(&poses, &alone(lifter(), &plain(), &frames));
        assert!(slowest < Duration::from_secs(5), "a frame took {slowest:?}");
        assert_eq!(others.len(), 1, "{others:?}");
    })
}

/// A server whose every call takes so long.
fn slow(milliseconds: u64, limits: Limits) -> Server {
    commanded(settings(limits), Command::Slow(Duration::from_millis(milliseconds))).0
}

#[test]
fn a_flood_drops_its_own_oldest_frames() {
    let server = slow(10, Limits { queue_frames: 8, ..Limits::default() });
    let address = server.http_address();
    let good = good_client(address, 60);
    let mut flood = Client::connect(address);
    flood.open("flood", &plain(), "json");
    let frames = frames_of(Source::H36m17, 400, 30.0, 0.0, 0.0);
    frames.iter().for_each(|(time_s, joints)| flood.frame("flood", *time_s, joints));
    flood.end("flood");
    let (poses, others) = flood.until_ended("flood");
    good.join().unwrap();
    let told: u64 = others.iter().filter_map(|value| value["dropped"]["queue"].as_u64()).sum();
    let ended = &others[others.len() - 1]["ended"];
    assert!(told > 0 && ended["drops"]["queue"] == told, "{others:?}");
    assert_eq!(poses.len() as u64 + told, 400);
    // the oldest went, so the newest are there
    assert_eq!(poses[poses.len() - 1]["time_s"].as_f64().unwrap(), frames[399].0);
    assert_eq!(metric(address, "poselift_dropped_frames_total{reason=\"Queue\"}"), told as f64);
}

#[test]
fn who_does_not_read_loses_their_own_oldest_poses_and_then_the_connection() {
    let limits = Limits { output_poses: 4, write_timeout: Duration::from_secs(2), ..Limits::default() };
    let server = commanded(settings(limits), Command::Work).0;
    let address = server.http_address();
    let good = good_client(address, 100);
    let mut stalled = Client::connect(address);
    let frames = frames_of(Source::H36m17, 100, 30.0, 0.0, 0.0);
    let ids: Vec<String> = (0..32).map(|i| i.to_string()).collect();
    for id in &ids {
        stalled.open(id, &StreamSettings { look_ahead: Some(0), ..plain() }, "json");
    }
    stalled.socket.get_mut().set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let until = Instant::now() + 2 * PATIENCE;
    let dropped = || metric(address, "poselift_dropped_frames_total{reason=\"Output\"}");
    'sending: for lap in 0.. {
        for (time_s, joints) in &frames {
            for id in &ids {
                let frame = json!({ "id": id, "time_s": time_s + 10.0 * f64::from(lap), "keypoints": joints }).to_string();
                match stalled.socket.send(Message::text(frame)) {
                    Ok(()) => {}
                    // the server reads no faster: what is left of the message goes with the next
                    Err(tungstenite::Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => break 'sending,
                }
            }
            assert!(Instant::now() < until, "the connection is never cut, and {} poses are dropped", dropped());
        }
    }
    eventually("its streams are gone", || metric(address, "poselift_streams") <= 1.0);
    assert!(dropped() > 0.0);
    good.join().unwrap();
}

#[test]
fn half_messages_and_half_requests_hold_nobody_up() {
    let limits = Limits { idle: Duration::from_millis(700), request_timeout: Duration::from_millis(700), ..Limits::default() };
    let server = serve(settings(limits));
    let address = server.http_address();
    let good = good_client(address, 60);
    let name = server.model().name.clone();
    let infer = format!("POST /v2/models/{name}/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nhalf");
    let mut halves = Vec::new();
    for half in ["GET /v2/heal", "GET /v2 HTTP/1.1\r\nhost: x\r\nx-", &infer, "\u{16}\u{3}\u{1}\u{2}", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(half.as_bytes()).unwrap();
        halves.push(stream);
    }
    let mut client = Client::connect(address);
    let message = [0x81, 0xfe, 0x01, 0x00, 0, 0, 0, 0, b'{']; // 256 bytes are to come
    client.socket.get_mut().write_all(&message).unwrap();
    assert!(matches!(client.closed(), Some((1008, _)) | None));
    // each is answered or cut off, in time
    for mut stream in halves {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok(); // cut off is as good
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    good.join().unwrap();
    eventually("nobody is left", || metric(address, "poselift_connections") == 1.0);
}

#[test]
fn those_who_vanish_leave_nothing_behind() {
    let server = serve(settings(Limits::default()));
    let address = server.http_address();
    let good = good_client(address, 45);
    let frames = frames_of(Source::H36m17, 5, 30.0, 0.0, 0.0);
    for i in 0..30 {
        let mut client = Client::connect(address);
        client.send(&open_text("a", &plain(), "json"));
        for (time_s, joints) in &frames[..i % 5] {
            client.frame("a", *time_s, joints);
        }
        if i % 3 == 0 {
            client.end("a");
        }
    }
    good.join().unwrap();
    eventually("nobody is left", || metric(address, "poselift_streams") == 0.0 && metric(address, "poselift_connections") == 1.0);
}

#[test]
fn closing_politely_is_answered() {
    let server = serve(settings(Limits::default()));
    let mut client = Client::connect(server.http_address());
    client.socket.close(None).unwrap();
    assert!(matches!(client.next(), Reply::Closed(_)));
}
