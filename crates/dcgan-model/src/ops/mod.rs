#![allow(missing_docs)]
pub mod conv;
pub mod norm;
pub mod upsample;
