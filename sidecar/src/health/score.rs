//! What a row of checks says: a server is well after so many that passed in a row, and not well after so many that
//! failed. Pure.

use std::sync::Arc;

use weft_proto::resource::kinds::HealthCheck;

use super::Health;

/// Checks in a row that make a server healthy, and unhealthy, if nothing else is said.
const HEALTHY_THRESHOLD: u32 = 1;
const UNHEALTHY_THRESHOLD: u32 = 3;

/// The checks of one server so far.
#[derive(Clone, Debug)]
pub struct Score {
    healthy_threshold: u32,
    unhealthy_threshold: u32,
    health: Health,
    passed: u32,
    failed: u32,
}

impl Score {
    /// Goes on from what was known before.
    pub fn new(check: &HealthCheck, health: Health) -> Self {
        Self {
            healthy_threshold: check.healthy_threshold.map_or(HEALTHY_THRESHOLD, |count| count.get()),
            unhealthy_threshold: check.unhealthy_threshold.map_or(UNHEALTHY_THRESHOLD, |count| count.get()),
            health,
            passed: 0,
            failed: 0,
        }
    }

    pub const fn health(&self) -> &Health {
        &self.health
    }

    /// A check passed, or failed for a reason.
    pub fn note(&mut self, outcome: Result<(), Arc<str>>) {
        match outcome {
            Ok(()) => {
                (self.passed, self.failed) = (self.passed.saturating_add(1), 0);
                if self.passed >= self.healthy_threshold {
                    self.health = Health::Serving;
                }
            }
            Err(why) => {
                (self.passed, self.failed) = (0, self.failed.saturating_add(1));
                let is_unhealthy = matches!(self.health, Health::Degraded(_));
                if is_unhealthy || self.failed >= self.unhealthy_threshold {
                    self.health = Health::Degraded(why);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each check makes of a server: `+` one that passes, `-` one that fails.
    #[track_caller]
    fn check(spec: &str, checks: &str, expected: &str) {
        let spec: HealthCheck = serde_json::from_str(spec).unwrap();
        let mut score = Score::new(&spec, Health::Starting);
        let after = checks.chars().map(|it| {
            score.note(if it == '+' { Ok(()) } else { Err("why".into()) });
            score.health().word()
        });
        assert_eq!(after.collect::<Vec<_>>().join(" "), expected, "{checks}");
    }

    #[test]
    fn it_takes_as_many_checks_in_a_row_as_the_server_says() {
        check("{}", "+---+", "serving serving serving degraded serving");
        check("{}", "--+", "starting starting serving");
        check("{}", "----+", "starting starting degraded degraded serving");
        let twice = r#"{"healthyThreshold":2,"unhealthyThreshold":2}"#;
        check(twice, "+-++-+--", "starting starting starting serving serving serving serving degraded");
        check(twice, "--+-++", "starting degraded degraded degraded degraded serving");
        check(r#"{"unhealthyThreshold":1}"#, "-+-", "degraded serving degraded");
    }

    #[test]
    fn the_reason_is_that_of_the_last_check() {
        let mut score =
            Score::new(&serde_json::from_str("{\"unhealthyThreshold\":1}").unwrap(), Health::Serving);
        score.note(Err("one".into()));
        score.note(Err("two".into()));
        assert_eq!(score.health().detail(), "two");
    }
}
