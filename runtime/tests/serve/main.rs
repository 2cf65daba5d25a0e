//! The server, as its clients meet it: most tests in one process with a server of their own, some with the built program.
#![cfg(feature = "serve")]
#![allow(missing_docs)]

mod client;
#[path = "../common/mod.rs"]
mod common;
mod engine;
mod grpc;
mod http;
mod program;
mod soak;
mod stop;
mod streams;
mod token;
mod ui;
mod unruly;
