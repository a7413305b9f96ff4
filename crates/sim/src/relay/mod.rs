//! Nodes that meet: the relay of `lavant-proto` on every node, contacts, links and faults in
//! virtual time.

pub mod node;
pub mod universe;
pub mod world;

#[cfg(test)]
mod tests;
