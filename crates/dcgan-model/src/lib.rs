#![allow(missing_docs)]
pub mod ops;
