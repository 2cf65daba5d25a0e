//! The page's server, as a browser meets it, and results that are none.
#![allow(missing_docs)]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use demo::serve::{Clip, Feed, Server, Show};
use serde_json::{Value, json};

const FRAMES: usize = 900;
const FPS: f64 = 30.0;

/// Results of somebody who stands and lets an arm swing.
fn results(person: Option<u64>, width: u32) -> Value {
    let pose = |t: usize| -> Vec<[f64; 3]> {
        let swing = (t as f64 / FPS).sin();
        (0..17).map(|j| [100.0 * j as f64 + 50.0 * swing, 4000.0 + 20.0 * j as f64 * swing, 95.0 * j as f64]).collect()
    };
    let all = |entry: &dyn Fn(usize) -> Value| (0..FRAMES).map(entry).collect::<Vec<_>>();
    let mut document = json!({
        "format": "poselift-3d-1", "model": "test", "image": { "width_px": width, "height_px": 720 },
        "times_s": all(&|t| json!(10.0 + t as f64 / FPS)),
        "confidence": all(&|_| json!(vec![0.9; 17])), "pose25": all(&|_| json!(vec![[0.0; 3]; 17])),
        "transforms": all(&|_| json!({ "centre_px": [640.0, 360.0], "half_size_px": 300.0 })),
        "root_px": all(&|_| json!([640.0, 360.0])), "camera_mm": all(&|t| json!(pose(t))), "root_depth_mm": vec![4000.0; FRAMES],
        "world_mm": all(&|t| json!(pose(t))),
        "intrinsics": { "focal_px": [1100.0, 1100.0], "centre_px": [640.0, 360.0] },
        "world_from_camera": { "rotation": [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]], "translation_mm": [0.0, 0.0, 1300.0] },
        "scale_source": "height", "height_m": 1.8, "bone_lengths_mm": vec![300.0; 16],
    });
    if let Some(person) = person {
        document["person"] = person.into();
    }
    document
}

fn write(folder: &Path, name: &str, document: &Value) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, document.to_string()).expect("a writable folder");
    path
}

/// Status, head in lower case, body.
fn ask(server: &Server, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, String, Vec<u8>) {
    let url = server.url();
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(address).expect("the server listens");
    let host = headers.iter().find(|(name, _)| *name == "host").map_or(address, |(_, host)| host);
    let others = headers.iter().filter(|(name, _)| *name != "host").map(|(name, value)| format!("{name}: {value}\r\n")).collect::<String>();
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{others}\r\n").expect("the server reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, head, answer[end + 4..].to_vec())
}

fn serve(show: Show) -> Server {
    Server::start(show, "127.0.0.1:0".parse().expect("an address")).expect("a free port")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[test]
fn results_come_in_pieces_and_every_format() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = [
        write(folder.path(), "walk.person2.3d.json", &results(Some(2), 1280)),
        write(folder.path(), "walk.person1.3d.json", &results(Some(1), 1280)),
    ];
    std::fs::write(folder.path().join("walk.mp4"), [7; 1000]).expect("a writable folder");
    let server = serve(Show::results(&files, None).expect("results"));

    let (status, _, body) = ask(&server, "GET", "/api/session", &[]);
    let session: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!((status, &session["kind"], &session["title"], &session["frames"]), (200, &json!("clip"), &json!("walk"), &json!(FRAMES)));
    assert_eq!(session["chunks"], 2);
    let ids: Vec<_> = session["people"].as_array().expect("people").iter().map(|person| person["id"].as_u64()).collect();
    assert_eq!(ids, [Some(1), Some(2)]);
    assert_eq!(session["people"][0]["spans_s"], json!([[10.0, 10.0 + (FRAMES - 1) as f64 / FPS]]));

    // 20 s of both people, then the rest; nothing twice
    let frames: usize = [0, 1]
        .map(|index| {
            let (status, _, piece) = ask(&server, "GET", &format!("/api/chunks/{index}"), &[]);
            let (people, frames) = (u32_at(&piece, 4), u32_at(&piece, 8) as usize);
            assert_eq!((status, &piece[..4], people), (200, &b"PLC1"[..], 2));
            assert_eq!((u32_at(&piece, 24 + 4 * frames), u32_at(&piece, 28 + 4 * frames) as usize), (1, frames), "the first is person 1");
            assert_eq!(piece.len(), 24 + 4 * frames + 2 * (8 + 4 * frames * (2 + 17 * 6)));
            frames
        })
        .iter()
        .sum();
    assert_eq!(frames, FRAMES);
    assert_eq!(ask(&server, "GET", "/api/chunks/2", &[]).0, 404);

    let (status, _, overview) = ask(&server, "GET", "/api/people/2/overview", &[]);
    let buckets = u32_at(&overview, 4) as usize;
    assert_eq!((status, overview.len(), buckets), (200, 8 + buckets * 4 * (16 + 3), FRAMES));
    assert_eq!(u32_at(&overview, 0), u32::from_le_bytes(*b"PLO1"));
    let places = overview[8 + buckets * 64..].chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes")));
    assert!(places.into_iter().all(f32::is_finite), "every frame has a stretch of its own");
    assert_eq!(ask(&server, "GET", "/api/people/3/overview", &[]).0, 404);

    for file in session["people"][1]["files"].as_array().expect("files") {
        let (status, head, body) = ask(&server, "GET", file["url"].as_str().expect("an address"), &[]);
        assert!(status == 200 && body.len() > 1000, "{file}: {status} {}", String::from_utf8_lossy(&body));
        assert!(head.contains("attachment; filename=\"walk.person2.3d."), "{head}");
    }
    for path in
        ["/api/people/2/files/exe", "/api/people/9/files/bvh", "/api/people/1/files/..%2f..%2fetc%2fpasswd", "/walk.mp4", "/../walk.mp4"]
    {
        assert_eq!(ask(&server, "GET", path, &[]).0, 404, "{path}");
    }

    let (status, head, part) = ask(&server, "GET", "/video/0", &[("range", "bytes=10-19")]);
    assert!(status == 206 && part == [7; 10] && head.contains("content-range: bytes 10-19/1000"), "{head}");
    assert_eq!(ask(&server, "GET", "/video/1", &[]).0, 404);
}

#[test]
fn only_reading_and_only_by_our_own_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = write(folder.path(), "walk.3d.json", &results(None, 1280));
    let server = serve(Show::results(&[file], None).expect("results"));
    let (status, head, page) = ask(&server, "GET", "/", &[]);
    assert!(status == 200 && page == runtime::page::html().as_bytes());
    for header in [
        "content-security-policy: default-src 'none'; script-src 'sha256-",
        "x-content-type-options: nosniff",
        "cross-origin-resource-policy: same-origin",
    ] {
        assert!(head.contains(header), "{header} in {head}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        assert_eq!(ask(&server, method, "/api/session", &[]).0, 405, "{method}");
    }
    assert_eq!(ask(&server, "GET", "/api/session", &[("host", "evil.example")]).0, 403);
    assert_eq!(ask(&server, "GET", "/api/session", &[("origin", "http://evil.example")]).0, 403);
    assert_eq!(ask(&server, "GET", "/api/session", &[("host", "localhost:1234")]).0, 200);
    assert_eq!(ask(&server, "GET", "/api/live", &[("upgrade", "websocket")]).0, 400, "this is no WebSocket");
}

#[test]
fn what_is_no_result_is_refused_in_one_sentence() {
    let folder = tempfile::tempdir().expect("a folder");
    let good = results(None, 1280);
    let with = |field: &str, value: Value| {
        let mut document = good.clone();
        document[field] = value;
        document
    };
    let mut late = good["times_s"].clone();
    late[5] = json!(0.0);
    let cases = [
        (json!([]), "does not hold results"),
        (json!({ "format": "poselift-3d-1" }), "missing field"),
        (with("format", json!("other")), "its format is \"other\", expected \"poselift-3d-1\""),
        (with("confidence", json!([])), "expected 900 entries of confidence, one for each of times_s, found 0"),
        (with("times_s", late), "times must rise"),
        (with("all_times_s", json!([1.0, 2.0])), "a time of times_s is none of all_times_s"),
        (with("image", json!({ "width_px": 0, "height_px": 720 })), "no pixels"),
    ];
    for (document, sentence) in cases {
        let path = write(folder.path(), "bad.3d.json", &document);
        let error = Clip::open(&[path]).expect_err("no results").to_string();
        assert!(error.contains(sentence) && error.contains("bad.3d.json"), "{error}");
    }
    let absent = Clip::open(&[folder.path().join("absent.3d.json")]).expect_err("no file").to_string();
    assert!(absent.contains("cannot read the results"), "{absent}");
    let files = [write(folder.path(), "a.3d.json", &good), write(folder.path(), "b.3d.json", &results(None, 640))];
    let error = Clip::open(&files).expect_err("two clips").to_string();
    assert!(error.contains("expected results of one clip"), "{error}");
    assert!(Clip::open(&[]).is_err());
}

#[test]
fn results_of_one_person_by_two_lifters_stand_side_by_side() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = ["a.3d.json", "b.3d.json"].map(|name| write(folder.path(), name, &results(None, 1280)));
    let clip = Clip::open(&files).expect("results");
    assert_eq!(clip.people.iter().map(|person| person.id).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn an_address_that_is_taken_is_said() {
    let server = serve(Show::Live(Feed::new("camera")));
    let address = server.url().trim_start_matches("http://").trim_end_matches('/').parse().expect("an address");
    let error = Server::start(Show::Live(Feed::new("camera")), address).err().expect("it is taken").to_string();
    assert!(error.contains("cannot show the page on") && error.contains("--serve"), "{error}");
    let (status, _, body) = ask(&server, "GET", "/api/session", &[]);
    assert_eq!((status, &body[..]), (200, &br#"{"kind":"live","title":"camera"}"#[..]));
}
