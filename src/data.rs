//! Data sets: what a user points at, read into memory as bytes the way the GPU gets them.
//!
//! Four sources: `digits`, which is embedded; a directory of IDX files (MNIST and its relatives), of CIFAR's binary files, or
//! of images. All of them end as one [`Dataset`] of one size. Nothing here knows of the GPU.

mod account;
mod cifar;
mod dataset;
mod decode;
mod fill;
mod folder;
mod foreign;
mod idx;
mod kept;
mod parts;
mod place;
mod resize;
mod room;
mod source;
mod split;
mod summary;

pub use account::{Account, Changes, Skipped};
pub use dataset::{Dataset, Picture, Want};
pub use room::ImageBytes;
pub use source::{load, load_image, load_mask, load_parts};
pub use split::{HELD_OUT, Split, load_split};
