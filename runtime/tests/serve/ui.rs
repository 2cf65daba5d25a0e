//! The page of `--ui`, and those who look on.

use runtime::serve::{Limits, Settings, Token};
use serde_json::{Value, json};
use tungstenite::{Message, client::IntoClientRequest as _};

use super::client::{Client, get, request, serve, settings};

const TOKEN: &str = "0123456789abcdef";
const TOKEN_PROTOCOLS: &str = "poselift, poselift.bearer.30313233343536373839616263646566";

fn with_ui() -> Settings {
    Settings { ui: true, ..settings(Limits::default()) }
}

/// A watcher, or the status that it is refused with.
fn watch(address: std::net::SocketAddr, headers: &[(&'static str, &str)]) -> Result<tungstenite::WebSocket<std::net::TcpStream>, u16> {
    let stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    let mut request = format!("ws://{address}/v1/watch").into_client_request().unwrap();
    headers.iter().for_each(|(name, value)| drop(request.headers_mut().insert(*name, value.parse().unwrap())));
    match tungstenite::client(request, stream) {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(response))) => Err(response.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn there_is_no_page_unless_it_is_asked_for() {
    let server = serve(settings(Limits::default()));
    let address = server.http_address();
    for path in ["/", "/api/session", "/v1/watch"] {
        assert_eq!(get(address, path).0, 404, "{path}");
    }
    assert_eq!(watch(address, &[]).err(), Some(404));
}

#[test]
fn the_page_comes_with_its_policy_and_says_what_is_served() {
    let server = serve(with_ui());
    let address = server.http_address();
    let (status, head, body) = request(address, "GET", "/", &[], &[]);
    assert_eq!((status, body), (200, runtime::page::html().as_bytes().to_vec()));
    for header in ["content-security-policy: default-src 'none'; script-src 'sha256-", "cross-origin-opener-policy: same-origin"] {
        assert!(head.contains(header), "{header} in {head}");
    }
    let model = server.model().name.clone();
    assert_eq!(get(address, "/api/session"), (200, json!({ "kind": "server", "model": model, "token": false })));
}

#[test]
fn a_watcher_sees_the_poses_of_others() {
    let server = serve(with_ui());
    let address = server.http_address();
    let mut watcher = watch(address, &[]).unwrap();
    let mut client = Client::connect(address);
    client.send(&json!({ "open": { "image": { "width": 1280, "height": 720 }, "look_ahead": 0 }, "id": "left camera" }));
    let joints: Vec<[f64; 3]> = (0..17).map(|j| [600.0 + 5.0 * f64::from(j), 200.0 + 20.0 * f64::from(j), 0.9]).collect();
    for frame in 0..12 {
        client.send(&json!({ "time_s": f64::from(frame) / 25.0, "keypoints": joints, "id": "left camera" }));
    }
    let told: Value = loop {
        if let Message::Text(text) = watcher.read().unwrap() {
            break serde_json::from_str(&text).unwrap();
        }
    };
    let person = &told["people"][0];
    assert_eq!((&person["label"], &told["image"]), (&json!("left camera"), &json!({ "width": 1280, "height": 720 })));
    for (field, joints) in [("world_mm", 17), ("keypoints_px", 17), ("confidence", 17)] {
        assert_eq!(person[field].as_array().unwrap().len(), joints, "{field}");
    }
    assert!(told["world_from_camera"]["rotation"].is_array());
    // who says what nobody asked for goes
    watcher.send(Message::text("hello")).unwrap();
    let gone = (0..10_000).any(|_| watcher.read().is_err());
    assert!(gone);
}

#[test]
fn a_page_sends_the_token_as_a_subprotocol() {
    let server = serve(Settings { token: Some(Token::new(TOKEN).unwrap()), ..with_ui() });
    let address = server.http_address();
    // the page is no secret, and knows that a token is needed
    assert_eq!(request(address, "GET", "/", &[], &[]).0, 200);
    assert_eq!(get(address, "/api/session").1["token"], true);
    for headers in [vec![], vec![("sec-websocket-protocol", "poselift, poselift.bearer.00")]] {
        assert_eq!(watch(address, &headers).err(), Some(401));
        assert_eq!(Client::try_connect(address, &headers).err(), Some(401));
    }
    let right = [("sec-websocket-protocol", TOKEN_PROTOCOLS)];
    assert!(watch(address, &right).is_ok() && Client::try_connect(address, &right).is_ok());
    // without a page there is no such way in
    let server = serve(Settings { token: Some(Token::new(TOKEN).unwrap()), ..settings(Limits::default()) });
    assert_eq!(Client::try_connect(server.http_address(), &right).err(), Some(401));
}

#[test]
fn strangers_pages_may_not_watch() {
    let server = serve(with_ui());
    let address = server.http_address();
    assert_eq!(watch(address, &[("origin", "http://evil.example")]).err(), Some(403));
    assert!(watch(address, &[("origin", &format!("http://{address}"))]).is_ok());
}
