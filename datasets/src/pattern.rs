//! Names chosen by a pattern.

/// Whether a name is what a pattern says, in which each `*` stands for any characters, none included.
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn stars_are_anything() {
        for (pattern, name, expected) in [
            ("dance", "dance", true),
            ("dance", "dance_1", false),
            ("dance*", "dance_1", true),
            ("*_1", "dance_1", true),
            ("d*_*1", "dance_11", true),
            ("layers.*.fc1.weight", "layers.10.mlp.fc1.weight", true),
            ("layers.*.fc1.weight", "layers.10.mlp.fc2.weight", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*a", "a", false),
            ("**", "ab", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
