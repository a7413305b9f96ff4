//! lavant-sim
