//! Who is let in.

use runtime::{
    EngineOptions, Lifter,
    serve::{Limits, ServeError, Server, Settings, Token},
};

use super::client::{Client, SHIPPED, metric, request, serve, settings};

const TOKEN: &str = "0123456789abcdef";

#[test]
fn everything_but_health_asks_for_the_token() {
    let server = serve(Settings { token: Some(Token::new(TOKEN).unwrap()), ..settings(Limits::default()) });
    let address = server.http_address();
    let right = format!("Bearer {TOKEN}");
    let name = server.model().name.clone();
    let paths = ["/v2", "/metrics", "/v1/stream", "/nothing", &format!("/v2/models/{name}"), &format!("/v2/models/{name}/ready")];
    for wrong in [None, Some("Bearer 0123456789abcdeF"), Some("Bearer "), Some("Basic 0123456789abcdef")] {
        let headers: Vec<(&str, &str)> = wrong.iter().map(|value| ("authorization", *value)).collect();
        for path in paths {
            let (status, head, _) = request(address, "GET", path, &headers, &[]);
            assert!(status == 401 && head.contains("www-authenticate: bearer"), "{path}: {status}");
        }
        assert_eq!(request(address, "POST", &format!("/v2/models/{name}/infer"), &headers, b"{}").0, 401);
        for path in ["/v2/health/live", "/v2/health/ready"] {
            assert_eq!(request(address, "GET", path, &headers, &[]).0, 200);
        }
        let headers: Vec<(&'static str, &str)> = wrong.iter().map(|value| ("authorization", *value)).collect();
        assert_eq!(Client::try_connect(address, &headers).err(), Some(401));
    }
    assert_eq!(request(address, "GET", "/v2", &[("authorization", &right)], &[]).0, 200);
    assert!(Client::try_connect(address, &[("authorization", &right)]).is_ok());
}

#[test]
fn other_machines_need_a_token() {
    let never = || panic!("the model is not opened before it is known that the server may listen");
    let start = |settings: Settings| Server::start(settings, Box::new(never)).map(drop).unwrap_err();
    for host in ["0.0.0.0", "::"] {
        let error = start(Settings { host: host.into(), ..settings(Limits::default()) });
        assert!(matches!(error, ServeError::TokenMissing { .. }), "{error}");
        let sentence = error.to_string();
        assert!(["--token-file", "POSELIFT_TOKEN", "--no-token"].iter().all(|way| sentence.contains(way)), "{sentence}");
    }
    let error = start(Settings { host: "no.such.host.invalid".into(), ..settings(Limits::default()) });
    assert!(matches!(error, ServeError::Address { .. }), "{error}");
    let open = || Ok(Box::new(Lifter::open(SHIPPED, &EngineOptions { threads: 1, ..Default::default() })?) as Box<_>);
    let token = Some(Token::new(TOKEN).unwrap());
    for settings in [Settings { token, ..settings(Limits::default()) }, Settings { allow_no_token: true, ..settings(Limits::default()) }] {
        Server::start(Settings { host: "0.0.0.0".into(), ..settings }, Box::new(open)).unwrap();
    }
}

#[test]
fn pages_of_strangers_are_refused() {
    let server = serve(Settings { allow_origins: vec!["https://good.example".into()], ..settings(Limits::default()) });
    let address = server.http_address();
    let own = format!("http://{address}");
    for (origin, status) in
        [(own.as_str(), 200), ("https://good.example", 200), ("https://bad.example", 403), ("null", 403), ("http://127.0.0.1:1", 403)]
    {
        assert_eq!(request(address, "GET", "/v2", &[("origin", origin)], &[]).0, status, "{origin}");
        let expected = if status == 200 { None } else { Some(status) };
        assert_eq!(Client::try_connect(address, &[("origin", origin)]).err(), expected, "{origin}");
    }
    assert_eq!(metric(address, "poselift_refused_total{what=\"Token\"}"), 6.0);
}
