//! What a session remembers of its caller, for servers that want to hear it with each request.

use std::sync::{Mutex, PoisonError};

use weft_proto::mcp::Params;

use crate::bridge::{Abilities, Caller, Level};

#[derive(Debug, Default)]
pub(crate) struct Client {
    /// As it was, as JSON.
    info: Option<String>,
    pub(crate) abilities: Abilities,
    log_level: Mutex<Option<Level>>,
}

impl Client {
    /// As the parameters of `initialize` say.
    pub(super) fn of(params: &Params<'_>) -> Self {
        Self {
            info: params.client_info.map(|it| it.get().to_owned()),
            abilities: Abilities::of(params.capabilities),
            log_level: Mutex::default(),
        }
    }

    pub(crate) fn new(info: Option<&str>, abilities: Abilities) -> Self {
        Self { info: info.map(str::to_owned), abilities, log_level: Mutex::default() }
    }

    /// What it said of itself, as JSON.
    pub(crate) fn info(&self) -> Option<&str> {
        self.info.as_deref()
    }

    pub(super) fn as_caller(&self) -> Caller<'_> {
        let log_level = *self.log_level.lock().unwrap_or_else(PoisonError::into_inner);
        let client_info = self.info.as_deref();
        Caller { client_info, log_level, abilities: self.abilities, knows_tasks: false }
    }

    pub(super) fn set_log_level(&self, level: Level) {
        *self.log_level.lock().unwrap_or_else(PoisonError::into_inner) = Some(level);
    }
}
