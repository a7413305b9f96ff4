//! How much there may be, and who asks for room in it.

use lavant_proto::content::Priority;
use lavant_proto::ids::PublisherKey;
use lavant_proto::relay::evict::Standing;

use super::catalog::Catalog;
use super::settings::Settings;

/// Most bytes of payload files.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub(super) bytes: u64,
    /// Nobody set it: it keeps others from filling the disk, and what is the node's own neither
    /// goes for it nor is refused.
    pub(super) automatic: bool,
}

impl Limit {
    /// The one that was set; else a part of what the disk has free, beside what is here.
    pub(super) fn of(settings: &Settings, held: u64) -> Option<Self> {
        if let Some(bytes) = settings.limit {
            return Some(Self {
                bytes,
                automatic: false,
            });
        }
        let free = settings.disk.space(settings.layout.root()).free;
        let percent = settings.disk_share.filter(|_| free < u64::MAX)?;
        Some(Self {
            bytes: held.saturating_add(percent_of(free, percent)),
            automatic: true,
        })
    }
}

/// Who wants room, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// None when that is not known.
    pub(super) publisher: Option<PublisherKey>,
    pub(super) standing: Standing,
    pub(super) priority: Priority,
}

impl Claim {
    /// What the operator stores.
    pub(super) const fn own(priority: Priority) -> Self {
        Self {
            publisher: None,
            standing: Standing::Own,
            priority,
        }
    }

    /// What comes of a publisher.
    pub(super) fn of(catalog: &Catalog, publisher: &PublisherKey, priority: Priority) -> Self {
        Self {
            publisher: Some(*publisher),
            standing: catalog.standing(publisher),
            priority,
        }
    }

    /// Whether it is the operator's, whom no limit holds that he did not set.
    pub(super) const fn is_free_of(&self, limit: Limit) -> bool {
        limit.automatic && matches!(self.standing, Standing::Own)
    }
}

pub(super) fn percent_of(bytes: u64, percent: u8) -> u64 {
    u64::try_from(u128::from(bytes) * u128::from(percent) / 100).unwrap_or(u64::MAX)
}
