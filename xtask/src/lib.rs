//! What the chores of the workspace are made of; a library, so that `cargo test` runs them too.

pub mod tidy;
