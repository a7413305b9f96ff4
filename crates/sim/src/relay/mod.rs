//! Nodes that meet: the relay of `lavant-proto` on every node, contacts, links and faults in
//! virtual time.

pub mod air;
mod arena;
mod effects;
pub mod epidemic;
mod links;
pub mod node;
pub mod oracle;
pub mod posted;
mod queue;
pub mod report;
pub mod trace;
pub mod universe;
pub mod world;

#[cfg(test)]
mod tests;
