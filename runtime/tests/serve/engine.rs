//! An engine that fails, panics, or is slow.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use pose::{ImageSize, joint_map::Source};
use runtime::{
    Error, StreamCore, StreamOptions, StreamSettings,
    serve::{Give, Limits, Model, ModelCard, Server, Settings},
};
use serde_json::{Value, json};

use super::{
    client::{Client, FRAMES, alone, eventually, frames_of, get, lifter, metric, request, same_poses, settings},
    common::IMAGE,
};

/// What the model is to do from now on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Command {
    Work,
    /// Each call takes so long.
    Slow(Duration),
    Fail,
    Panic,
    /// Fail when a stream of this hop is among those that run, and panic.
    FailAt(usize),
    PanicAt(usize),
}

/// A model under command.
pub struct Commanded {
    pub command: Arc<Mutex<Command>>,
}

impl Commanded {
    fn obey(&self, hops: &[usize]) -> Result<(), Error> {
        let command = *self.command.lock().unwrap();
        match command {
            Command::Work => Ok(()),
            Command::Slow(time) => {
                std::thread::sleep(time);
                Ok(())
            }
            Command::Fail => Err(Error::Stream("it was told to fail".into())),
            Command::FailAt(hop) if hops.contains(&hop) => Err(Error::Stream("it was told to fail at one".into())),
            Command::Panic => panic!("it was told to panic"),
            Command::PanicAt(hop) if hops.contains(&hop) => panic!("it was told to panic at one"),
            Command::FailAt(_) | Command::PanicAt(_) => Ok(()),
        }
    }
}

impl Model for Commanded {
    fn card(&self) -> ModelCard {
        lifter().card()
    }

    fn stream_core(&self, image: ImageSize, options: StreamOptions) -> Result<StreamCore, Error> {
        lifter().stream_core(image, options)
    }

    fn run_due(&self, streams: &mut [&mut StreamCore], give: Give<'_>) -> usize {
        let hops: Vec<usize> = streams.iter().map(|stream| stream.options().hop).collect();
        match self.obey(&hops) {
            Ok(()) => runtime::run_due(&lifter(), streams, give),
            Err(error) => {
                // as `run_due` does when the engine fails
                for (i, stream) in streams.iter_mut().enumerate() {
                    while stream.start_run().is_some() {
                        stream.abandon_run();
                    }
                    give(i, Err(Error::Stream(error.to_string())));
                }
                streams.len()
            }
        }
    }

    fn infer(&self, input: &[f32], shape: [usize; 4]) -> Result<Vec<f32>, Error> {
        self.obey(&[])?;
        lifter().infer(input, shape)
    }
}

/// A server that is started at this command, the switch for the next ones, and how often the model was opened.
pub fn commanded(settings: Settings, command: Command) -> (Server, Arc<Mutex<Command>>, Arc<AtomicUsize>) {
    let (command, opened) = (Arc::new(Mutex::new(command)), Arc::new(AtomicUsize::new(0)));
    let (switch, count) = (command.clone(), opened.clone());
    let open = move || {
        count.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(Commanded { command: switch.clone() }) as Box<dyn Model>)
    };
    (Server::start(settings, Box::new(open)).unwrap(), command, opened)
}

fn plain(hop: usize) -> StreamSettings {
    StreamSettings { look_ahead: Some(0), hop: Some(hop), ..StreamSettings::new(IMAGE) }
}

/// The next message of this stream that is no pose.
fn word(client: &mut Client, id: &str) -> Value {
    loop {
        let value = client.json();
        if value["id"] == id && value.get("camera_mm").is_none() {
            return value;
        }
    }
}

#[test]
fn a_broken_engine_is_told_and_opened_again() {
    for breakage in [Command::Fail, Command::Panic] {
        let (server, command, opened) = commanded(settings(Limits::default()), Command::Work);
        let address = server.http_address();
        let mut client = Client::connect(address);
        client.open("a", &plain(1), "json");
        client.open("b", &plain(1), "json");
        let frames = frames_of(Source::H36m17, 40, 30.0, 0.0, 0.0);
        for (time_s, joints) in &frames[..5] {
            client.frame("a", *time_s, joints);
            client.json_with("camera_mm");
        }
        *command.lock().unwrap() = breakage;
        client.frame("a", frames[5].0, &frames[5].1);
        let (mut codes_a, mut told_b) = (Vec::new(), false);
        while !(told_b && codes_a.len() >= 2) {
            let value = client.json();
            match value["id"].as_str() {
                Some("a") if value.get("error").is_some() => codes_a.push(value["code"].as_str().unwrap().to_owned()),
                // the stream that had nothing in the run hears of it too
                Some("b") => told_b = value["error"].as_str().is_some_and(|error| error.contains("it was told to")),
                _ => {}
            }
        }
        assert!(codes_a.iter().all(|code| code == "engine"), "{codes_a:?}");
        eventually("it is not ready", || get(address, "/v2/health/ready") == (503, json!({ "ready": false })));
        assert_eq!(get(address, "/v2/health/live").0, 200);
        assert_eq!(metric(address, "poselift_engine_ready"), 0.0);
        let name = server.model().name.clone();
        let card = lifter().card();
        let body = json!({ "inputs": [{ "name": card.input.name, "shape": [1, FRAMES, 17, 3], "datatype": "FP32", "data": vec![0.1; FRAMES * 17 * 3] }] });
        assert_eq!(request(address, "POST", &format!("/v2/models/{name}/infer"), &[], body.to_string().as_bytes()).0, 503);
        // frames wait in the queue, a stream that ends is not kept waiting
        client.frame("a", frames[6].0, &frames[6].1);
        client.end("b");
        while word(&mut client, "b").get("ended").is_none() {}
        let attempts = opened.load(Ordering::Relaxed);
        eventually("it is tried again and again", || opened.load(Ordering::Relaxed) > attempts);
        *command.lock().unwrap() = Command::Work;
        loop {
            let value = client.json();
            if value["id"] == "a" && value["code"] == "engine_ready" {
                break;
            }
        }
        let pose = client.json_with("camera_mm");
        assert_eq!(pose["time_s"].as_f64().unwrap(), frames[6].0);
        assert_eq!(get(address, "/v2/health/ready").0, 200);
        for (time_s, joints) in &frames[7..] {
            client.frame("a", *time_s, joints);
        }
        client.end("a");
        let (poses, others) = client.until_ended("a");
        let ended = &others[others.len() - 1]["ended"];
        assert!(poses.len() + 7 >= 40 - 1 && ended["reason"] == "client" && ended["dropped"] == 1, "{} poses, {ended}", poses.len());
        assert!(metric(address, "poselift_engine_failures_total") >= 1.0);
        assert_eq!(metric(address, "poselift_dropped_frames_total{reason=\"Engine\"}"), 1.0);
    }
}

#[test]
fn a_stream_at_which_the_engine_fails_harms_only_itself() {
    for (command, may_drop) in [(Command::FailAt(7), 1), (Command::PanicAt(7), 3)] {
        let (server, ..) = commanded(settings(Limits { queue_frames: 100, ..Limits::default() }), command);
        let address = server.http_address();
        let poisoned = std::thread::spawn(move || {
            let mut client = Client::connect(address);
            client.open("poison", &plain(7), "json");
            let (mut t, mut told) = (0, 0);
            loop {
                // seven frames make a run
                for (time_s, joints) in frames_of(Source::H36m17, 7, 30.0, f64::from(t), 0.0) {
                    client.frame("poison", time_s, &joints);
                }
                t += 1;
                let value = loop {
                    let value = word(&mut client, "poison");
                    if value.get("dropped").is_none() {
                        break value;
                    }
                };
                if let Some(ended) = value.get("ended") {
                    assert_eq!(ended["reason"], "engine");
                    return told;
                }
                told += 1;
                assert!(told < 200, "{value}");
            }
        });
        let mut good = Client::connect(address);
        good.open("good", &plain(1), "json");
        let frames = frames_of(Source::H36m17, 60, 30.0, 0.0, 0.0);
        for (time_s, joints) in &frames {
            good.frame("good", *time_s, joints);
            std::thread::sleep(Duration::from_millis(10));
        }
        let told = poisoned.join().unwrap();
        assert!(told >= 2, "{told}");
        good.end("good");
        let (poses, others) = good.until_ended("good");
        // one run had both in it, and a panic costs the stream its state
        assert!(poses.len() + may_drop >= 60, "{} poses, {others:?}", poses.len());
        assert_eq!(get(address, "/v2/health/ready").0, 200);
    }
}

#[test]
fn a_model_that_cannot_run_does_not_start() {
    let open = || Ok(Box::new(Commanded { command: Arc::new(Mutex::new(Command::Fail)) }) as Box<dyn Model>);
    let error = Server::start(settings(Limits::default()), Box::new(open)).map(drop).unwrap_err();
    assert_eq!(error.to_string(), "it was told to fail");
}

#[test]
fn infer_requests_wait_their_turn_and_streams_go_first() {
    let (server, command, _) =
        commanded(settings(Limits { max_infer_requests: 2, ..Limits::default() }), Command::Slow(Duration::from_millis(50)));
    let address = server.http_address();
    let card = lifter().card();
    let values = vec![0.1; 300 * FRAMES * 17 * 3];
    // 2700 frames: six slices
    let body =
        json!({ "inputs": [{ "name": card.input.name, "shape": [300, FRAMES, 17, 3], "datatype": "FP32", "data": values }] }).to_string();
    let askers: Vec<_> = (0..6)
        .map(|_| {
            let (body, path) = (body.clone(), format!("/v2/models/{}/infer", card.name));
            std::thread::spawn(move || {
                let (status, _, answer) = request(address, "POST", &path, &[], body.as_bytes());
                (status, String::from_utf8_lossy(&answer).contains("--max-infer-requests"))
            })
        })
        .collect();
    let mut client = Client::connect(address);
    client.open("a", &plain(1), "json");
    let frames = frames_of(Source::H36m17, 10, 30.0, 0.0, 0.0);
    let mut poses = Vec::new();
    for (time_s, joints) in &frames {
        client.frame("a", *time_s, joints);
        poses.push(client.json());
    }
    same_poses(&poses, &alone(lifter(), &plain(1), &frames));
    let answers: Vec<(u16, bool)> = askers.into_iter().map(|asker| asker.join().unwrap()).collect();
    assert!(answers.iter().all(|&answer| answer == (200, false) || answer == (503, true)), "{answers:?}");
    assert!(answers.iter().any(|answer| answer.0 == 200) && answers.iter().any(|answer| answer.0 == 503), "{answers:?}");
    *command.lock().unwrap() = Command::Work;
}
