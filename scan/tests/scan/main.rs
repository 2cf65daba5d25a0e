//! The scan against its oracle, the oracle against finite differences, and all of it against the golden vectors.

mod case;
mod cuda;
mod driver;
mod forms;
mod golden;
mod limits;
mod nvrtc;
mod on_device;
mod oracle;
mod refusals;
mod scripts;
mod stand_in;
