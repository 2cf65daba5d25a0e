//! The scan against its oracle, the oracle against finite differences, and all of it against the golden vectors.

mod case;
mod cuda;
mod forms;
mod golden;
mod limits;
mod nvrtc;
mod oracle;
mod refusals;
