//! Charts: the loss of a training run, curves, and in [`roofline`] what kernels reach.

mod axes;
mod canvas;
mod curves;
mod loss;
pub mod roofline;
mod ticks;

pub use curves::{Curve, write_curves};
pub use loss::write_loss_chart;
