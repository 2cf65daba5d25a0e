//! `runtime serve`, as a user meets it.

use std::{
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpListener},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use assert_cmd::Command;
use runtime::StreamSettings;
use serde_json::Value;

use super::{
    client::{Client, PATIENCE, Reply, SHIPPED, get, request},
    common::IMAGE,
};

/// The built program; it does not outlive the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A server, and what it says at the start.
fn start(args: &[&str], token: Option<&str>) -> (Program, String) {
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("runtime"));
    command.env_remove("RUST_LOG").env_remove("POSELIFT_TOKEN").args(["--threads", "1"]).args(args).stdout(Stdio::piped());
    token.map(|token| command.env("POSELIFT_TOKEN", token));
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (Program(child), line)
}

#[test]
fn it_says_where_it_is_and_ends_when_told_to() {
    for signal in ["-TERM", "-INT"] {
        let (mut program, line) = start(&["--json", "serve", SHIPPED, "--port", "0", "--grpc-port", "0"], None);
        let about: Value = serde_json::from_str(&line).unwrap();
        let address: SocketAddr = about["http"].as_str().unwrap().parse().unwrap();
        assert!(address.ip().is_loopback() && address.port() > 0 && about["grpc"].as_str().unwrap().parse::<SocketAddr>().is_ok());
        assert_eq!((about["token"].as_bool(), about["model"].as_str().unwrap().is_empty()), (Some(false), false));
        assert_eq!(get(address, "/v2/health/ready").0, 200);
        let mut client = Client::connect(address);
        client.open("a", &StreamSettings::new(IMAGE), "json");
        let id = program.0.id().to_string();
        assert!(std::process::Command::new("kill").args([signal, &id]).status().unwrap().success());
        assert_eq!(client.json_with("ended")["ended"]["reason"], "stopping");
        assert!(matches!(client.next(), Reply::Closed(Some((1001, _)))));
        let until = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = program.0.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < until, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(status.code(), Some(0));
    }
}

#[test]
fn a_token_comes_from_a_file_or_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "from-a-file-0123456789\n").unwrap();
    for (args, token) in [(vec!["--token-file", file.to_str().unwrap()], "from-a-file-0123456789"), (vec![], "from-environment-01")] {
        let all = [&["--json", "serve", SHIPPED, "--port", "0", "--host", "0.0.0.0"], &args[..]].concat();
        let (_program, line) = start(&all, Some("from-environment-01"));
        let about: Value = serde_json::from_str(&line).unwrap();
        let port = about["http"].as_str().unwrap().parse::<SocketAddr>().unwrap().port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(about["token"], true);
        assert_eq!(request(address, "GET", "/v2", &[], &[]).0, 401);
        assert_eq!(request(address, "GET", "/v2", &[("authorization", &format!("Bearer {token}"))], &[]).0, 200);
    }
}

/// One sentence on standard error, exit code 1, nothing on standard output.
#[track_caller]
fn refused(args: &[&str], token: Option<&str>, expected: &str) {
    let mut command = Command::cargo_bin("runtime").unwrap();
    command.timeout(PATIENCE).env_remove("RUST_LOG").env_remove("POSELIFT_TOKEN").args(["--threads", "1", "serve"]).args(args);
    token.map(|token| command.env("POSELIFT_TOKEN", token));
    let output = command.assert().code(1).get_output().clone();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.starts_with("error: ") && message.trim_end().lines().count() == 1 && message.contains(expected), "{message}");
    assert!(output.stdout.is_empty());
}

#[test]
fn what_cannot_be_served_is_said_in_one_sentence() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    refused(&[SHIPPED, "--port", &port], None, "--port");
    refused(&[SHIPPED, "--port", "0", "--grpc-port", &port], None, "--grpc-port");
    refused(&[SHIPPED, "--port", "0", "--host", "not an address"], None, "expected a name or address");
    refused(&[SHIPPED, "--port", "0", "--host", "192.0.2.1", "--no-token"], None, "cannot listen on 192.0.2.1");
    refused(&[SHIPPED, "--port", "0", "--host", "0.0.0.0"], None, "a token is needed");
    refused(&[SHIPPED, "--port", "0"], Some("short"), "at least 16 characters");
    refused(&[SHIPPED, "--port", "0", "--token-file", "/no/such/file"], None, "cannot read the token in /no/such/file");
    refused(&[SHIPPED, "--port", "0", "--queue-frames", "0"], None, "expected --queue-frames to be at least 1");
    refused(&["/no/such/model.onnx", "--port", "0"], None, "cannot read the model /no/such/model.onnx");
    refused(&[SHIPPED, "--port", "0", "--onnxruntime", "/no/such/library"], None, "no ONNX Runtime library at /no/such/library");
}
