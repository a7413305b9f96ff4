//! Fetching the manifest of a finished content, and its rows, before its first segment.

use super::Relay;
use super::choose::{ask, fits};
use super::entry::Entry;
use super::message::{Question, ROWS_MAX, RelayMessage};
use super::session::Session;
use crate::delivery::Base;
use crate::numbers::{ContactNo, ContentNo};
use crate::runs::Run;

/// Bytes of a row of a manifest, without its part of the proof.
const ROW_BYTES: u64 = 40;

impl Relay {
    /// A manifest was verified.
    pub(super) fn manifest(&mut self, base: &mut Base, at: ContentNo, (total, known): (u64, u64)) {
        self.proven(base, at);
        if let Some(entry) = self.entries.get_mut(&at)
            && let Some(upgrade) = &mut entry.upgrade
        {
            (upgrade.total, upgrade.known) = (Some(total), known);
            self.ask_rows(base, at);
        }
    }

    pub(super) fn rows(&mut self, base: &mut Base, at: ContentNo, known: u64) {
        if let Some(entry) = self.entries.get_mut(&at)
            && let Some(upgrade) = &mut entry.upgrade
        {
            upgrade.known = known;
            self.ask_rows(base, at);
        }
    }

    fn ask_rows(&mut self, base: &mut Base, at: ContentNo) {
        let entry = self.entries.get(&at);
        let Some(upgrade) = entry.and_then(|entry| entry.upgrade.as_ref()) else {
            return;
        };
        let (Some(total), Some(no)) = (upgrade.total, upgrade.contact) else {
            return;
        };
        // One batch after another, as each begins where the rows that are proven end.
        let most = fits(base, no, ROW_BYTES).min(ROWS_MAX);
        let run = Run::new(upgrade.known, (upgrade.known + most).min(total));
        let Some(session) = self.sessions.get_mut(&no).filter(|_| run.count() > 0) else {
            return;
        };
        let question = Question::Rows(at, run);
        // Messages that change nothing here may come in between.
        if session.owed.contains_key(&question) {
            return;
        }
        if let Some(theirs) = session.remote.get(&at).map(|remote| remote.no) {
            let message = RelayMessage::GetRows(theirs.asked(), run);
            ask(base, no, session, question, message);
        }
    }
}

/// Asks for the manifest of a content that is finished elsewhere, or goes on with its rows.
pub(super) fn upgrade(
    base: &mut Base,
    (no, session): (ContactNo, &mut Session),
    (at, entry): (ContentNo, &mut Entry),
) {
    let Some(remote) = session.remote.get(&at).filter(|_| session.can_owe()) else {
        return;
    };
    entry.came_by(remote.hops, remote.copies);
    let upgrade = entry.upgrade.get_or_insert_with(Box::default);
    // The rows that came stay with whoever verified them; asking for the manifest again brings them
    // back, from any node.
    if upgrade.contact.is_none() {
        upgrade.contact = Some(no);
        let message = RelayMessage::GetManifest(remote.no.asked());
        ask(base, no, session, Question::Manifest(at), message);
    }
}
