//! The page: one self-contained HTML file that shows clips, cameras and streams. `demo --serve` and `runtime serve --ui` give it to
//! browsers; `GET /api/session` tells it which of them it is. docs/page.md is for users.
//!
//! Its parts are ES modules beside this file, which `build.rs` puts together; `node --test tests/page` runs them one by one.

/// The page, whole: it asks for nothing but `/api/...`, `/video/...` and a WebSocket of the server that gave it.
pub fn html() -> &'static str {
    include_str!(concat!(env!("OUT_DIR"), "/page.html"))
}

/// What the browser must hold the page to: its own script and style, known by their hashes, and no other server.
pub const CONTENT_SECURITY_POLICY: &str = env!("POSELIFT_PAGE_POLICY");

/// Headers, name and value, for every answer of a server that gives the page: other sites can neither read nor embed it.
pub const HEADERS: [(&str, &str); 5] = [
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-embedder-policy", "require-corp"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_asks_nobody_else() {
        let page = html();
        assert!(page.contains("<style>") && !page.contains("<style></style>"));
        assert!(!page.contains("<script type=\"module\"></script>"));
        // namespaces of SVG are names, not addresses
        let others = page.replace("http://www.w3.org/2000/svg", "");
        for address in ["http://", "https://", "//cdn", "@import", "url("] {
            assert!(!others.contains(address), "the page must not know {address}");
        }
        for word in ["\nimport ", "\nexport "] {
            assert!(!page.contains(word), "{word:?} is left");
        }
        assert!(CONTENT_SECURITY_POLICY.starts_with("default-src 'none'; script-src 'sha256-"));
        assert!(!CONTENT_SECURITY_POLICY.contains("unsafe"));
    }
}
