//! lavant-node
