//! The end of a server, of a stream that is idle, and of a connection that is.

use std::{net::TcpStream, time::Duration};

use pose::joint_map::Source;
use runtime::{StreamSettings, serve::Limits};

use super::{
    client::{Client, Reply, alone, eventually, frames_of, lifter, metric, same_poses, serve, settings},
    common::IMAGE,
};

#[test]
fn a_stop_lifts_what_is_there_and_says_goodbye() {
    let server = serve(settings(Limits::default()));
    let address = server.http_address();
    let mut clients = [Client::connect(address), Client::connect(address)];
    let frames = frames_of(Source::H36m17, 12, 30.0, 0.0, 0.0);
    let set = StreamSettings { look_ahead: Some(6), ..StreamSettings::new(IMAGE) };
    for client in &mut clients {
        client.open("a", &set, "json");
        frames.iter().for_each(|(time_s, joints)| client.frame("a", *time_s, joints));
    }
    eventually("frames arrive", || metric(address, "poselift_frames_total") == 24.0);
    // nothing asks for their poses yet: 6 frames wait for more to come
    let stopping = std::thread::spawn(move || server.stop());
    for client in &mut clients {
        let (poses, others) = client.until_ended("a");
        same_poses(&poses, &alone(lifter(), &set, &frames));
        assert_eq!(others.len(), 1);
        assert_eq!((&others[0]["ended"]["reason"], &others[0]["ended"]["poses"]), (&"stopping".into(), &12.into()));
        let Reply::Closed(Some((1001, reason))) = client.next() else { panic!("expected a goodbye") };
        assert_eq!(reason, "the server stops");
    }
    stopping.join().unwrap();
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_client_that_does_not_listen_does_not_hold_a_stop_up() {
    let server = serve(settings(Limits { stop_timeout: Duration::from_millis(300), ..Limits::default() }));
    let _silent = Client::connect(server.http_address());
    let _half = TcpStream::connect(server.http_address()).unwrap();
    let start = std::time::Instant::now();
    server.stop();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn what_is_idle_ends() {
    let server = serve(settings(Limits { idle: Duration::from_millis(400), ..Limits::default() }));
    let address = server.http_address();
    let mut client = Client::connect(address);
    let set = StreamSettings { look_ahead: Some(2), ..StreamSettings::new(IMAGE) };
    client.open("quiet", &set, "json");
    client.open("lively", &set, "json");
    let frames = frames_of(Source::H36m17, 30, 30.0, 0.0, 0.0);
    client.frame("quiet", 0.0, &frames[0].1);
    let mut ended = None;
    for (time_s, joints) in &frames {
        client.frame("lively", *time_s, joints);
        std::thread::sleep(Duration::from_millis(50));
    }
    client.end("lively");
    let mut lively = 0;
    while lively < 30 || ended.is_none() {
        let value = client.json();
        match (value["id"].as_str(), value.get("ended")) {
            (Some("quiet"), Some(end)) => ended = Some(end.clone()),
            (Some("lively"), None) => lively += 1,
            _ => {}
        }
    }
    let ended = ended.unwrap();
    assert_eq!((&ended["reason"], &ended["frames"], &ended["poses"]), (&"idle".into(), &1.into(), &1.into()));
    // no stream is left: the connection is next
    let (code, reason) = client.closed().unwrap();
    assert!(code == 1008 && reason.contains("--idle"), "{code} {reason}");
    drop(client);
    // a connection that sends no request, and one that sends half of one
    let silent = TcpStream::connect(address).unwrap();
    eventually("idle connections are closed", || metric(address, "poselift_connections") == 1.0);
    drop(silent);
}
