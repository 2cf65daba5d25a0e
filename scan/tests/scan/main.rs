//! The scan against its oracle, the oracle against finite differences, and all of it against the golden vectors.

mod case;
mod forms;
mod golden;
mod limits;
mod oracle;
mod refusals;
