//! Priorities and the times to live that come with them.

use std::fmt;
use std::time::Duration;

/// A text that names no priority.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a priority is one of live, near_live, vod; not {0:?}")]
pub struct PriorityError(String);

/// How urgent a content is. Ordered: what is higher is kept longer under pressure and sent first.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// On demand.
    Vod,
    /// Recent, watched within hours.
    NearLive,
    /// Watched now.
    Live,
}

impl Priority {
    /// All of them, lowest first.
    pub const ALL: [Self; 3] = [Self::Vod, Self::NearLive, Self::Live];

    /// The default time to live of its segments: 30 days, 6 hours, 30 minutes.
    #[must_use]
    pub const fn default_ttl(self) -> Duration {
        match self {
            Self::Vod => Duration::from_secs(30 * 86_400),
            Self::NearLive => Duration::from_secs(6 * 3600),
            Self::Live => Duration::from_secs(30 * 60),
        }
    }

    /// 0 for the lowest.
    #[must_use]
    pub const fn rank(self) -> u8 {
        // These numbers stand in records and in the index, whatever order the variants have.
        match self {
            Self::Vod => 0,
            Self::NearLive => 1,
            Self::Live => 2,
        }
    }

    /// The inverse of [`Priority::rank`].
    #[must_use]
    pub const fn from_rank(rank: u8) -> Option<Self> {
        match rank {
            0 => Some(Self::Vod),
            1 => Some(Self::NearLive),
            2 => Some(Self::Live),
            _ => None,
        }
    }

    /// The name used in flags, JSON and pages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vod => "vod",
            Self::NearLive => "near_live",
            Self::Live => "live",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Priority {
    type Err = PriorityError;

    fn from_str(text: &str) -> Result<Self, PriorityError> {
        let found = Self::ALL.into_iter().find(|p| p.as_str() == text);
        found.ok_or_else(|| PriorityError(text.chars().take(40).collect()))
    }
}
