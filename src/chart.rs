//! Charts: the loss of a training run, curves as pictures and as SVG, sheets of images by class, and in [`roofline`] what kernels reach.

mod axes;
mod canvas;
mod curves;
mod loss;
pub mod roofline;
mod sheet;
mod svg;
mod thinned;
mod ticks;

pub use curves::{Curve, write_curves};
pub use loss::write_loss_chart;
pub use sheet::{Row, write_sheet};
pub use svg::{Line, Scale, svg};
pub use thinned::Thinned;
pub use ticks::{significant, whole};
