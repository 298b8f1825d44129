//! What a modern server asks for before it answers, put to a caller who has a session, as requests of the legacy era.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until, timeout_at};
use weft_proto::mcp::method;

use crate::bridge::input::{Needs, Wish};
use crate::refusal::Refusal;

use super::questions::{Given, Open, Questions};

/// How often one call may ask for something.
pub(super) const ROUNDS_MAX: u32 = 16;

/// Before a server is asked again that asked for nothing but that; each time so much longer.
const PAUSE: Duration = Duration::from_millis(100);

/// One time that a server asks.
#[derive(Debug)]
pub(super) struct Round {
    needs: Needs,
    open: Open,
    /// How many of the questions were told.
    told: usize,
    answers: Vec<Option<String>>,
    until: Instant,
    after: Duration,
    again_at: Instant,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The caller is told this.
    Ask(Bytes),
    /// Everything is known: each answer under its name, as JSON.
    Met(Vec<(String, String)>),
}

impl Round {
    /// The `number`th of one call.
    pub(super) fn new(needs: Needs, questions: &Questions, after: Duration, number: u32) -> Self {
        let (now, count) = (Instant::now(), needs.wishes.len());
        Self {
            open: questions.open(count),
            told: 0,
            answers: vec![None; count],
            until: now + after,
            after,
            again_at: now + PAUSE * number,
            needs,
        }
    }

    pub(super) fn needs(&self) -> &Needs {
        &self.needs
    }

    /// Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<Step, Refusal> {
        if let Some((_, wish)) = self.needs.wishes.get(self.told) {
            let id = &self.open.ids()[self.told];
            self.told += 1;
            return Ok(Step::Ask(wish.clone().in_legacy(id).asked(id)));
        }
        if self.needs.wishes.is_empty() {
            sleep_until(self.again_at).await;
            return Ok(Step::Met(Vec::new()));
        }
        while self.answers.contains(&None) {
            let late = |_| Refusal::InputOverdue { after: self.after };
            let given = timeout_at(self.until, self.open.next()).await.map_err(late)?;
            let Given { id, result } = given.ok_or(Refusal::SessionUnknown)?;
            let at = self.open.ids().iter().position(|own| *own == id);
            let at = at.ok_or_else(|| Refusal::Invalid("an answer to nothing".to_owned()))?;
            self.answers[at] = Some(result.map_or_else(|| unwilling(&self.needs.wishes[at].1), Ok)?);
        }
        let names = self.needs.wishes.iter().map(|(name, _)| name.clone());
        Ok(Step::Met(names.zip(self.answers.iter().flatten().cloned()).collect()))
    }
}

/// What stands for an error: whoever is asked to fill in a form has a word for not doing it.
fn unwilling(wish: &Wish) -> Result<String, Refusal> {
    match &*wish.method {
        method::ELICITATION_CREATE => Ok(r#"{"action":"cancel"}"#.to_owned()),
        other => Err(Refusal::InputRefused(other.to_owned())),
    }
}
