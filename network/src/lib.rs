//! The architecture of the lifters, written once over one trait.
