//! Who may come in.

use std::fmt;

use axum::http::{HeaderMap, header};
use subtle::ConstantTimeEq as _;

/// Shortest token that is taken, in bytes: 16 random letters and digits are beyond guessing.
pub const SHORTEST_TOKEN: usize = 16;

/// A secret that requests carry as `Authorization: Bearer TOKEN`.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Takes the text without the white space around it.
    ///
    /// # Errors
    /// One sentence: less than [`SHORTEST_TOKEN`] bytes, or characters that a header cannot carry.
    pub fn new(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.len() < SHORTEST_TOKEN {
            return Err(format!(
                "expected a token of at least {SHORTEST_TOKEN} characters, found {}: make one with `openssl rand -hex 32`",
                text.len()
            ));
        }
        match text.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(Self(text.to_owned())),
            false => Err("expected a token of one line of letters, digits and signs without spaces".to_owned()),
        }
    }

    /// Whether these headers carry the token; takes as long for a wrong one as for the right one.
    pub(super) fn is_in(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
        let Some((scheme, given)) = given.split_at_checked(7) else { return false };
        scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(given.trim_ascii().ct_eq(self.0.as_bytes()))
    }
}

impl Token {
    /// Whether these headers offer the WebSocket subprotocol `poselift.bearer.HEX`, the token's bytes in hexadecimal digits: a page has no
    /// other way to send it.
    pub(super) fn is_in_protocols(&self, headers: &HeaderMap) -> bool {
        let expected: String = self.0.bytes().map(|byte| format!("{byte:02x}")).collect();
        let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter().filter_map(|value| value.to_str().ok());
        let mut given = offered.flat_map(|value| value.split(',')).filter_map(|name| name.trim().strip_prefix("poselift.bearer."));
        given.any(|given| bool::from(given.as_bytes().ct_eq(expected.as_bytes())))
    }
}

/// The secret is not shown.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_opens() {
        let token = Token::new("  0123456789abcdef\n").unwrap();
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            token.is_in(&headers)
        };
        assert!(with("Bearer 0123456789abcdef") && with("bearer  0123456789abcdef"));
        for wrong in
            ["", "Bearer", "Bearer ", "Bearer 0123456789abcde", "Bearer 0123456789abcdefg", "Basic 0123456789abcdef", "0123456789abcdef"]
        {
            assert!(!with(wrong), "{wrong}");
        }
        assert!(!token.is_in(&HeaderMap::new()));
        let offering = |protocols: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocols.parse().unwrap());
            token.is_in_protocols(&headers)
        };
        assert!(offering("poselift, poselift.bearer.30313233343536373839616263646566"));
        for wrong in ["poselift", "poselift.bearer.", "poselift.bearer.3031", "poselift.bearer.30313233343536373839616263646567"] {
            assert!(!offering(wrong), "{wrong}");
        }
        assert!(!format!("{token:?}").contains("0123"));
        for bad in ["", "short", "0123456789 abcdef", "0123456789\nabcdef", "0123456789abcdé"] {
            assert!(Token::new(bad).is_err());
        }
    }
}
