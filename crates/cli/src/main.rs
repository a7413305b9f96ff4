//! The `lavant` program.

fn main() {}
