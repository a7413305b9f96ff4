//! A node: everything of lavant that has IO, as a library.
//!
//! | question | place |
//! |---|---|
//! | what can be configured | [`config`] |
//! | how bytes reach disk | [`store`] |
//! | what a player is told | [`playlist`] |
//! | whom it meets, how contents reach it | [`delivery`] |
//! | which path does what | [`http`] |
//! | who this node is | [`identity`] |
//! | how nodes reach each other | [`link`] |
//! | how a live stream comes in, and is watched while it does | [`live`] |
//! | which services of the operator decide, and which hear of it | [`authority`], [`hooks`] |
//! | whether every part of it works | [`health`] |
//! | how a file becomes segments, how the shell talks to a node | [`shell`] |

pub mod authority;
pub mod config;
pub mod delivery;
pub mod doctor;
pub mod health;
pub mod hooks;
pub mod http;
pub mod identity;
pub mod link;
pub mod live;
pub mod playlist;
pub mod run;
pub mod shell;
mod shown;
pub mod signals;
pub mod store;
