//! The operations made of plain burn operations, which run on every device and which burn can
//! differentiate. They copy nothing between a device and the host, constants neither.

mod conv;
mod norm;
mod upsample;

pub(crate) use conv::{conv3x3, conv3x3_to_one};
pub(crate) use norm::{normalized, with_statistics};
pub(crate) use upsample::upsample_conv3x3;
