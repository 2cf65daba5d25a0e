//! What crosses crates lives in `tests/`: the built binaries, one after the other, as a user types them.
