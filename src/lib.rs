//! Trains and samples small diffusion U-Nets on any GPU that Vulkan, Metal or DX12 reaches, with compute kernels
//! written by hand in WGSL and backward passes derived by hand.

pub mod certify;
pub mod chart;
pub mod checkpoint;
pub mod cpu;
pub mod data;
pub mod diffusion;
pub mod error;
pub mod evaluate;
pub mod files;
pub mod gpu;
pub mod nn;
pub mod ops;
pub mod page;
pub mod picture;
pub mod privacy;
pub mod profile;
pub mod random;
pub mod ranks;
pub mod run;
pub mod secret;
pub mod tensors;
pub mod train;
pub mod tune;
pub mod verify;
