//! Charts: the loss of a training run, curves, sheets of images by class, and in [`roofline`] what kernels reach.

mod axes;
mod canvas;
mod curves;
mod loss;
pub mod roofline;
mod sheet;
mod ticks;

pub use curves::{Curve, write_curves};
pub use loss::write_loss_chart;
pub use sheet::{Row, write_sheet};
