//! `runtime lift --stream --udp --vmc`: frames come as datagrams, and poses go to an avatar; both by loopback.
#![allow(missing_docs)]

mod common;

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read as _},
    net::{SocketAddr, UdpSocket},
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use common::{metadata, rooted_plus, walk};
use pose::{Keypoints17, normalise::Normalisation};
use rosc::{OscMessage, OscPacket, OscType};
use serde_json::{Value, json};

/// The program, stopped when the test is over.
struct Running {
    child: Child,
    poses: BufReader<ChildStdout>,
    source: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(sink: SocketAddr, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // a depth for every joint that is not that of the root
        let model = rooted_plus(9, &[0.1; 9]).metadata(&metadata(9, Normalisation::PersonBox, 50.0)).write(folder.path(), "model.onnx");
        let mut child = Command::new(assert_cmd::cargo::cargo_bin("runtime"))
            .args(["--threads", "1", "lift"])
            .arg(model)
            .args(["--stream", "--image-size", "1280x720", "--look-ahead", "0", "--udp", "127.0.0.1:0", "--vmc", &sink.to_string()])
            .args(arguments)
            .env("RUST_LOG", "runtime=info")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let source = loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "the program ended before it listened");
            if let Some((_, address)) = line.trim().rsplit_once("datagrams at ") {
                break address.parse().unwrap();
            }
        };
        // The log may go on; nobody reads it, and it must not fill up.
        std::thread::spawn(move || log.read_to_string(&mut String::new()));
        let poses = BufReader::new(child.stdout.take().unwrap());
        Self { child, poses, source, _folder: folder }
    }

    /// The next line that the program writes.
    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.poses.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

fn line(time_s: f64, frame: &Keypoints17, id: Option<&str>) -> Vec<u8> {
    let joints: Value = frame.iter().map(|k| json!([k.x_px, k.y_px, k.confidence])).collect();
    json!({ "time_s": time_s, "keypoints": joints, "id": id }).to_string().into_bytes()
}

fn messages(packet: OscPacket, found: &mut Vec<OscMessage>) {
    match packet {
        OscPacket::Message(message) => found.push(message),
        OscPacket::Bundle(bundle) => bundle.content.into_iter().for_each(|packet| messages(packet, found)),
    }
}

/// A bone's name, position and rotation (x, y, z, w).
fn placed(message: &OscMessage) -> (String, [f32; 3], [f32; 4]) {
    let [OscType::String(name), numbers @ ..] = &message.args[..] else { panic!("{message:?}") };
    let numbers: Vec<f32> = numbers.iter().map(|number| number.clone().float().unwrap()).collect();
    (name.clone(), numbers[..3].try_into().unwrap(), numbers[3..].try_into().unwrap())
}

/// q v q*: the same formula in left-handed axes and in right-handed ones.
fn rotate([x, y, z, w]: [f32; 4], v: [f32; 3]) -> [f32; 3] {
    let cross = |a: [f32; 3], b: [f32; 3]| [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
    let t = cross([x, y, z], v).map(|c| 2.0 * c);
    let tt = cross([x, y, z], t);
    std::array::from_fn(|k| v[k] + w * t[k] + tt[k])
}

fn times([ax, ay, az, aw]: [f32; 4], [bx, by, bz, bw]: [f32; 4]) -> [f32; 4] {
    [
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    ]
}

/// Unity's bones: the bone above, and the joint of Human3.6M where it starts; written down here once more, from Unity's documentation.
const HUMANOID: [(&str, &str, usize); 19] = [
    ("Hips", "", 0),
    ("RightUpperLeg", "Hips", 1),
    ("RightLowerLeg", "RightUpperLeg", 2),
    ("RightFoot", "RightLowerLeg", 3),
    ("LeftUpperLeg", "Hips", 4),
    ("LeftLowerLeg", "LeftUpperLeg", 5),
    ("LeftFoot", "LeftLowerLeg", 6),
    ("Spine", "Hips", 0),
    ("Chest", "Spine", 7),
    ("Neck", "Chest", 8),
    ("Head", "Neck", 9),
    ("LeftShoulder", "Chest", 8),
    ("LeftUpperArm", "LeftShoulder", 11),
    ("LeftLowerArm", "LeftUpperArm", 12),
    ("LeftHand", "LeftLowerArm", 13),
    ("RightShoulder", "Chest", 8),
    ("RightUpperArm", "RightShoulder", 14),
    ("RightLowerArm", "RightUpperArm", 15),
    ("RightHand", "RightLowerArm", 16),
];

#[test]
fn an_avatar_stands_as_the_pose_says() {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut program = Running::start(receiver.local_addr().unwrap(), &[]);
    let source = UdpSocket::bind("127.0.0.1:0").unwrap();
    let clip = walk(12, 50.0);
    for (t, (frame, time_s)) in clip.frames.iter().zip(&clip.times_s).enumerate() {
        source.send_to(&line(1000.0 + time_s, frame, None), program.source).unwrap();
        let pose = program.answer();
        assert!((pose["time_s"].as_f64().unwrap() - 1000.0 - time_s).abs() < 1e-6, "{pose}");

        let mut found = Vec::new();
        while found.len() < 3 + HUMANOID.len() {
            let mut datagram = [0; 2048];
            let length = receiver.recv(&mut datagram).unwrap();
            assert!(length <= 1400);
            messages(rosc::decoder::decode_udp(&datagram[..length]).unwrap().1, &mut found);
        }
        assert_eq!((found[0].addr.as_str(), &found[0].args[..]), ("/VMC/Ext/OK", &[1, 3, 0, 1].map(OscType::Int)[..]));
        assert_eq!(found[1].addr, "/VMC/Ext/T");
        assert!((found[1].args[0].clone().float().unwrap() - t as f32 / 50.0).abs() < 1e-4);
        assert_eq!((found[2].addr.as_str(), placed(&found[2])), ("/VMC/Ext/Root/Pos", ("root".into(), [0.0; 3], [0.0, 0.0, 0.0, 1.0])));
        let bones: HashMap<String, ([f32; 3], [f32; 4])> = found[3..]
            .iter()
            .map(|message| {
                assert_eq!(message.addr, "/VMC/Ext/Bone/Pos");
                let (name, position, rotation) = placed(message);
                (name, (position, rotation))
            })
            .collect();
        assert_eq!(bones.len(), HUMANOID.len());

        // forward kinematics, against the same pose as it stands in the line of JSON
        let mut stands: HashMap<&str, ([f32; 3], [f32; 4])> = HashMap::from([("", ([0.0; 3], [0.0, 0.0, 0.0, 1.0]))]);
        for (name, above, joint) in HUMANOID {
            let ((from, turned), (position, rotation)) = (stands[above], bones[name]);
            let offset = rotate(turned, position);
            let at: [f32; 3] = std::array::from_fn(|k| from[k] + offset[k]);
            stands.insert(name, (at, times(turned, rotation)));
            let [x, y, z] = std::array::from_fn(|k| pose["world_mm"][joint][k].as_f64().unwrap() as f32);
            let expected = [-x, z, -y]; // Unity: left-handed, y up
            for (a, b) in at.iter().zip(expected) {
                assert!((1000.0 * a - b).abs() < 5.0, "{name}: {at:?} m is not {expected:?} mm");
            }
        }
        // The rotations alone point the limbs: an avatar of other proportions stands alike.
        for (name, next, rest) in
            [("LeftUpperArm", 12, [-1.0, 0.0, 0.0]), ("RightLowerLeg", 3, [0.0, -1.0, 0.0]), ("Chest", 8, [0.0, 1.0, 0.0])]
        {
            let joint = HUMANOID.iter().find(|(bone, ..)| *bone == name).unwrap().2;
            let along: [f32; 3] = std::array::from_fn(|k| {
                (pose["world_mm"][next][k].as_f64().unwrap() - pose["world_mm"][joint][k].as_f64().unwrap()) as f32
            });
            let length = along.iter().map(|v| v * v).sum::<f32>().sqrt();
            let found = rotate(stands[name].1, rest);
            let expected = [-along[0] / length, along[2] / length, -along[1] / length];
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 5e-3), "{name}: {found:?} is not {expected:?}");
        }
    }
}

#[test]
fn bad_datagrams_are_answered_and_one_person_is_shown() {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut program = Running::start(receiver.local_addr().unwrap(), &["--max-streams", "2"]);
    let source = UdpSocket::bind("127.0.0.1:0").unwrap();
    let send = |bytes: &[u8]| assert!(source.send_to(bytes, program.source).is_ok());
    let clip = walk(4, 50.0);
    send(b"no line");
    send(&[0xff; 60_000]);
    send(b"");
    send(&line(0.0, &clip.frames[0], Some("anna")));
    send(&line(0.0, &clip.frames[0], Some("ben")));
    send(&line(0.0, &clip.frames[0], Some("carl")));
    send(&line(0.02, &clip.frames[1], Some("anna")));
    for expected in ["JSON", "JSON"] {
        let answer = program.answer();
        assert!(answer["error"].as_str().unwrap().contains(expected), "{answer}");
    }
    assert_eq!(program.answer()["id"], "anna");
    assert_eq!(program.answer()["id"], "ben");
    let refused = program.answer();
    assert!(
        refused["id"] == "carl" && refused["line"] == 6 && refused["error"].as_str().unwrap().contains("2 streams already"),
        "{refused}"
    );
    assert_eq!(program.answer()["time_s"], 0.02);

    // Anna's two poses, and none of Ben's
    receiver.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let (mut hips, mut datagram) = (0, [0; 2048]);
    while let Ok(length) = receiver.recv(&mut datagram) {
        let mut found = Vec::new();
        messages(rosc::decoder::decode_udp(&datagram[..length]).unwrap().1, &mut found);
        hips += found.iter().filter(|message| message.args.first() == Some(&OscType::String("Hips".into()))).count();
    }
    assert_eq!(hips, 2);
}
