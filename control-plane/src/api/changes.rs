//! Carrying changes of objects out: plan against the present state, commit, and plan again if somebody was faster.

use std::sync::Arc;

use serde_json::json;
use weft_proto::resource::Key;

use super::call::Call;
use super::{Action, Api, ApplyResult, Error, ObjectResult};
use crate::desired::{self, Changes, Mesh, Outcome, Present};
use crate::store::Revision;

/// How often a change is planned again when another replica was faster.
const ATTEMPTS_MAX: usize = 16;
/// Most objects that an audit record names.
const AUDITED_MAX: usize = 32;

/// How a change is meant.
#[derive(Clone, Debug)]
pub(super) struct Intent {
    /// As the audit trail calls it.
    pub(super) action: &'static str,
    pub(super) reason: String,
    pub(super) dry_run: bool,
}

impl Api {
    /// The objects as they are now.
    pub(super) async fn present(&self) -> Result<Arc<Present>, Error> {
        Ok(self.objects.present().await?)
    }

    /// The objects as they were.
    pub(super) async fn past(&self, at: Revision) -> Result<Present, Error> {
        Ok(self.objects.past(at).await?)
    }

    /// Plans and commits; a dry run does everything but commit.
    pub(super) async fn change(
        &self,
        call: &Call,
        intent: Intent,
        plan: impl Fn(&Mesh, &Present) -> Result<Changes, Error> + Send + Sync + 'static,
    ) -> Result<ApplyResult, Error> {
        if self.deps.managed && !intent.dry_run {
            return Err(Error::Managed);
        }
        let plan = Arc::new(plan);
        for _ in 0..ATTEMPTS_MAX {
            let _turn = if intent.dry_run { None } else { Some(self.writing.lock().await) };
            let (plan, mesh, present) = (Arc::clone(&plan), self.mesh.clone(), self.present().await?);
            let changes = self.heavy(move || plan(&mesh, &present)).await??;
            if intent.dry_run {
                return Ok(result(true, changes.seen, changes));
            }
            match self.commit(call, &intent, &changes).await {
                Ok(revision) => return Ok(result(false, revision, changes)),
                Err(Error::Contended) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Contended)
    }

    async fn commit(&self, call: &Call, intent: &Intent, changes: &Changes) -> Result<Revision, Error> {
        let actor = call.actor();
        let mut record = actor.did(intent.action, object(&changes.outcomes), &*intent.reason);
        let done = changes.outcomes.iter().filter(|it| it.action != desired::Action::Unchanged);
        let named = done.take(AUDITED_MAX).map(|it| json!([it.key.to_string(), Action::from(it.action)]));
        record.details = json!({ "changes": named.collect::<Vec<_>>(), "count": changes.writes.len() });
        let txn = changes.transaction(&actor.name, &intent.reason).audited(record);
        Ok(self.deps.store.commit(txn).await?.revision())
    }
}

fn object(outcomes: &[Outcome]) -> String {
    match outcomes {
        [one] => one.key.to_string(),
        many => format!("{} objects", many.len()),
    }
}

fn result(dry_run: bool, revision: Revision, changes: Changes) -> ApplyResult {
    let told = changes.outcomes.into_iter().map(|outcome| {
        let Outcome { key: Key { kind, namespace, name }, action, diff, warnings } = outcome;
        ObjectResult {
            kind: kind.name().to_owned(),
            namespace: namespace.to_string(),
            name: name.to_string(),
            action: action.into(),
            diff,
            warnings,
        }
    });
    ApplyResult { dry_run, revision: revision.0, results: told.collect(), warnings: changes.warnings }
}
