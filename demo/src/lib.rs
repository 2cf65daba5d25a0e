//! A video into a 3D skeleton.
//!
//! * [`run`]: the whole path, as the `demo` program takes it;
//! * [`observe`]: the 2D half: [`video`] in, everyone's keypoints out, by a detector ([`detect`], [`blazepose`]) and [`track`];
//! * the 3D half is [`runtime::Lifter`];
//! * [`results`] and [`film`]: the files that come out;
//! * [`serve`]: them in a browser.

pub mod blazepose;
pub mod compare;
pub mod decode;
pub mod detect;
pub mod film;
pub mod live;
pub mod observe;
pub mod outputs;
pub mod picture;
pub mod progress;
pub mod results;
pub mod room;
pub mod run;
pub mod serve;
pub mod track;
pub mod video;
pub mod viewpoint;

mod paths;
