//! A few seconds of `examples/soak.rs`, which may run for as long as you like.

#[allow(dead_code)]
#[path = "../../examples/soak.rs"]
mod example;

#[test]
fn seconds_of_the_soak() {
    let folder = tempfile::tempdir().unwrap();
    let soak = example::Soak {
        server: Some(assert_cmd::cargo::cargo_bin("runtime")),
        model: super::client::small_model(folder.path()),
        seconds: 8.0,
        streams: 4,
        bad: 1,
        lap: 60,
        threads: 1,
    };
    let verdict = soak.run().unwrap();
    // memory has not settled in so short a time: the long run looks at it
    let problems: Vec<&str> = verdict["problems"].as_array().unwrap().iter().filter_map(|problem| problem.as_str()).collect();
    assert!(problems.iter().all(|problem| problem.contains("memory grew")), "{verdict:#}");
}
