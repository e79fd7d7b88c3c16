//! Data sets: what a user points at, read into memory as bytes the way the GPU gets them.
//!
//! Sources: `digits`, which is embedded; a directory of IDX files (MNIST and its relatives), of CIFAR's binary files, or
//! of images; NumPy's arrays, Parquet tables and tar archives, by their path or in a directory. All of them end as one
//! [`Dataset`] of one size. Nothing here knows of the GPU.

mod account;
mod arrays;
mod cifar;
mod dataset;
mod decode;
mod encoded;
mod fill;
mod folder;
mod foreign;
mod format;
mod gif;
mod idx;
mod kept;
mod npy;
mod packed;
mod parquet;
mod parts;
mod pixels;
mod place;
mod resize;
mod room;
mod source;
mod split;
mod summary;
mod tar;
mod tiff;
mod tree;
mod watch;
mod webdataset;
mod webp;

pub use account::{Account, Changes, Skipped};
pub use dataset::{Dataset, MEMORY_LIMIT, Picture, Want, parse_bytes};
pub use room::ImageBytes;
pub use source::{load, load_image, load_mask, load_parts};
pub use split::{HELD_OUT, Split, load_split};
pub use watch::{Decoding, Watch};
