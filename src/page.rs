//! A trained model as one HTML file that draws in a browser: docs/recordings.md has what is in it.

mod document;
mod envelope;
mod frames;
mod programs;
mod weights;

pub use document::{Options, write};
