//! Data sets: what a user points at, read into memory as bytes the way the GPU gets them.
//!
//! Three sources: `digits`, which is embedded; a directory of IDX files (MNIST and its relatives); a folder
//! of images. All of them end as one [`Dataset`] of one size. Nothing here knows of the GPU.

mod dataset;
mod fill;
mod folder;
mod idx;
mod place;
mod resize;
mod source;
mod split;

pub use dataset::{Dataset, Want};
pub use source::{load, load_image};
pub use split::{HELD_OUT, Split, load_split};
