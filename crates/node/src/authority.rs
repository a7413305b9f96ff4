//! Whom a service of the operator lets publish and watch.
//!
//! The node asks it by `POST`, with a JSON body that is signed like every hook (see [`Caller`]).
//! Answers 200 to 299 mean yes, 400 to 499 mean no; a service that does not answer lets nobody in.

mod caller;

pub use caller::{BadHook, Caller, Failed, fresh_id};

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long an answer holds. Players fetch several resources a second.
const YES: Duration = Duration::from_secs(60);
const NO: Duration = Duration::from_secs(5);
/// The most answers that are kept.
const ANSWERS_MAX: usize = 100_000;

/// Why somebody may not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The service said so.
    #[error("the service that decides for this node does not allow it")]
    Refused,
    /// It cannot be asked.
    #[error("the service that decides for this node cannot be asked: {0}; try again later")]
    Unknown(String),
}

/// Somebody who wants to publish.
#[derive(Clone, Copy, Debug)]
pub struct Applicant<'a> {
    /// Name of the stream.
    pub name: &'a str,
    /// How: `http`, `rtmp`.
    pub by: &'a str,
    /// The address that it comes from, where that is known.
    pub address: Option<IpAddr>,
    /// What it gave as its stream key.
    pub key: Option<&'a str>,
}

/// Asks the service, if there is one; else everybody may.
#[derive(Debug, Default)]
pub struct Authority {
    caller: Option<Caller>,
    answers: Mutex<HashMap<(IpAddr, String), Answer>>,
}

#[derive(Clone, Debug)]
struct Answer {
    until: Instant,
    may: bool,
    token: Option<String>,
}

impl Authority {
    /// The rules of a service, or of none.
    #[must_use]
    pub fn new(caller: Option<Caller>) -> Self {
        Self {
            caller,
            answers: Mutex::default(),
        }
    }

    /// Whether a service decides.
    #[must_use]
    pub const fn is_asked(&self) -> bool {
        self.caller.is_some()
    }

    /// Whether somebody may publish.
    ///
    /// # Errors
    /// See [`Denied`].
    pub async fn may_publish(&self, who: Applicant<'_>) -> Result<(), Denied> {
        let Some(caller) = &self.caller else {
            return Ok(());
        };
        let question = json!({
            "action": "publish",
            "stream": who.name,
            "by": who.by,
            "address": who.address,
            "key": who.key,
        });
        match ask(caller, &question).await? {
            true => Ok(()),
            false => Err(Denied::Refused),
        }
    }

    /// Whether somebody may watch a content. The token is what the player has in the query of its
    /// playlist; what it fetches without one, from the same address, is judged by the same answer.
    ///
    /// # Errors
    /// See [`Denied`].
    pub async fn may_play(
        &self,
        name: &str,
        address: IpAddr,
        token: Option<&str>,
    ) -> Result<(), Denied> {
        let Some(caller) = &self.caller else {
            return Ok(());
        };
        let place = (address, name.to_owned());
        let held = self.answers().get(&place).cloned();
        let token = token.or(held.as_ref().and_then(|held| held.token.as_deref()));
        let may = match &held {
            Some(held) if held.until > Instant::now() && held.token.as_deref() == token => held.may,
            _ => {
                let question = json!({
                    "action": "play",
                    "stream": name,
                    "address": address,
                    "token": token,
                });
                let may = ask(caller, &question).await?;
                self.keep(place, may, token);
                may
            }
        };
        match may {
            true => Ok(()),
            false => Err(Denied::Refused),
        }
    }

    fn keep(&self, place: (IpAddr, String), may: bool, token: Option<&str>) {
        let mut answers = self.answers();
        if answers.len() >= ANSWERS_MAX {
            let now = Instant::now();
            answers.retain(|_, answer| answer.until > now);
        }
        // Without a place for the answer, the service is only asked more often.
        if answers.len() < ANSWERS_MAX || answers.contains_key(&place) {
            let answer = Answer {
                until: Instant::now() + if may { YES } else { NO },
                may,
                token: token.map(str::to_owned),
            };
            answers.insert(place, answer);
        }
    }

    fn answers(&self) -> std::sync::MutexGuard<'_, HashMap<(IpAddr, String), Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask(caller: &Caller, question: &Value) -> Result<bool, Denied> {
    match caller.call(question).await {
        Ok(()) => Ok(true),
        Err(Failed::Refused(_)) => Ok(false),
        Err(failed) => Err(Denied::Unknown(failed.to_string())),
    }
}
