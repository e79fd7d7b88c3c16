//! Recordings that another process can run, or a page in a browser: docs/recordings.md has their form.

pub mod form;
mod read;
mod write;

pub use read::{Find, read};
pub use write::{Stored, Writer};
