//! Fetching the manifest of a finished content, and its rows, before its first segment.

use std::collections::VecDeque;

use super::contact::Remote;
use super::engine::Relay;
use super::entry::{Entry, Upgrade};
use super::io::{ContactNo, Output};
use super::message::{Message, ROWS_MAX};
use crate::runs::Run;

impl Relay {
    /// A manifest was verified.
    pub(super) fn manifest(&mut self, at: u32, hash: [u8; 32], total: u64, known: u64) {
        if let Some(entry) = self.entries.get_mut(&at)
            && let Some(upgrade) = &mut entry.upgrade
        {
            // What was said of it before it came counts for nothing.
            upgrade.hash = hash;
            (upgrade.total, upgrade.known) = (Some(total), known);
            self.ask_rows(at);
        }
    }

    pub(super) fn rows(&mut self, at: u32, known: u64) {
        if let Some(entry) = self.entries.get_mut(&at)
            && let Some(upgrade) = &mut entry.upgrade
        {
            upgrade.known = known;
            self.ask_rows(at);
        }
    }

    fn ask_rows(&mut self, at: u32) {
        let Some(upgrade) = self
            .entries
            .get(&at)
            .and_then(|entry| entry.upgrade.as_ref())
        else {
            return;
        };
        let (Some(total), Some(no)) = (upgrade.total, upgrade.contact) else {
            return;
        };
        let run = Run::new(upgrade.known, (upgrade.known + ROWS_MAX).min(total));
        let theirs = self
            .contacts
            .get(&no)
            .and_then(|contact| contact.remote.get(&at))
            .map(|remote| remote.no);
        if let (Some(theirs), true) = (theirs, run.count() > 0) {
            self.send(no, Message::GetRows(theirs, run));
            self.owes(no, at);
        }
    }
}

/// Asks for the manifest of a content that is finished elsewhere, or goes on with its rows.
pub(super) fn upgrade(
    no: ContactNo,
    entry: &mut Entry,
    remote: &Remote,
    hash: [u8; 32],
    out: &mut VecDeque<Output>,
) {
    entry.came_by(remote.hops, remote.copies);
    match &mut entry.upgrade {
        Some(upgrade) if upgrade.contact.is_some() => {}
        // The rows that came stay with whoever verified them; asking for the manifest again
        // brings them back, from any node.
        Some(upgrade) => {
            upgrade.contact = Some(no);
            upgrade.hash = hash;
            out.push_back(Output::Send(no, Message::GetManifest(remote.no)));
        }
        None => {
            entry.upgrade = Some(Upgrade {
                hash,
                contact: Some(no),
                total: None,
                known: 0,
            });
            out.push_back(Output::Send(no, Message::GetManifest(remote.no)));
        }
    }
}
