//! What crosses crates: parity with the reference, command lines, end to end.
