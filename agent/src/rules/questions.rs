//! Small questions that a diagnosis asks of a rule set, besides where one connection goes.
//!
//! They are about what *could* happen under the rules, for any connection; [`super::evaluate`] is about one of them.

use super::{
    matching::{Field, Match},
    ruleset::{Action, Rule, Statement},
};

impl Rule {
    /// What it does, in order.
    pub fn actions(&self) -> impl Iterator<Item = &Action> {
        self.statements
            .iter()
            .filter_map(|statement| match statement {
                Statement::Do(action) => Some(action),
                Statement::When(_) => None,
            })
    }

    /// Its conditions, in order.
    pub fn matches(&self) -> impl Iterator<Item = &Match> {
        self.statements
            .iter()
            .filter_map(|statement| match statement {
                Statement::When(condition) => Some(condition),
                Statement::Do(_) => None,
            })
    }

    /// Whether one of its conditions is about the field: tells *why* a rule let a connection go.
    #[must_use]
    pub fn asks_for(&self, field: Field) -> bool {
        self.matches().any(|condition| condition.is_about(field))
    }

    /// Whether it redirects itself.
    #[must_use]
    pub fn redirects(&self) -> bool {
        self.actions().any(Action::redirects)
    }
}
