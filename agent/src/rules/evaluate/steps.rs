//! What happens inside a chain, rule by rule.
//!
//! A rule is followed from its first condition to where it leads away or does not hold. Rules looked at in total and chains
//! inside chains are bounded here: a loop, which no kernel has but an input may, ends as unknown.

use super::super::{
    matching::Match,
    path::Outcome,
    ruleset::{Action, Backend, Chain, Policy, Rule, Statement, Table, Target},
};
use super::answer::Answer;
use super::order::ChainAt;
use super::packet::Tracking;
use super::trail::At;
use super::walk::{Frame, Turn, Walk, Way};

/// Rules that are looked at for one connection.
const MAX_LOOKS: usize = 200_000;
/// Chains inside chains: the kernel itself refuses more than sixteen.
const MAX_DEPTH: usize = 64;

impl<'a> Walk<'a> {
    /// The next statement of a chain.
    pub(super) fn chain(&mut self, way: &mut Way<'a>, frame: Frame) -> Turn {
        self.looks += 1;
        if self.looks > MAX_LOOKS || way.stack.len() > MAX_DEPTH {
            self.exhausted = true;
            self.because("there are too many rules to follow, or chains inside chains");
            return Turn::End(Outcome::Unknown);
        }
        let Some((table, chain)) = self.look_up(frame.at) else {
            self.because("a rule leads to a chain that is not there");
            return Turn::End(Outcome::Unknown);
        };
        let Some(rule) = chain.rules.get(frame.rule) else {
            return way.leave_chain();
        };
        self.rule(way, table, rule, frame)
    }

    fn look_up(&self, at: ChainAt) -> Option<(&'a Table, &'a Chain)> {
        let table = self.rules.tables.get(at.table)?;
        Some((table, table.chains.get(at.chain)?))
    }

    /// A rule, from its first condition to where it leads away or does not hold.
    fn rule(&mut self, way: &mut Way<'a>, table: &'a Table, rule: &'a Rule, frame: Frame) -> Turn {
        let native = table.backend == Backend::Native;
        for (place, statement) in rule.statements.iter().enumerate().skip(frame.statement) {
            match statement {
                Statement::When(condition) => match way.packet.answer(condition, native) {
                    Answer::Yes => {}
                    Answer::No | Answer::Never => break,
                    Answer::Maybe if !has_effect(&rule.statements[place..]) => break,
                    // Another condition may already say no.
                    Answer::Maybe if way.fails(&rule.statements[place..], native) => break,
                    Answer::Maybe => {
                        // The way on which it does not hold comes first: it names no rule that may not apply.
                        self.note(frame, condition);
                        let mut with = way.clone();
                        with.move_to(frame.rule, place + 1, 0);
                        self.divide(with);
                        break;
                    }
                },
                Statement::Do(Action::Nothing) => {}
                Statement::Do(Action::Cases(cases)) => {
                    let skip = if place == frame.statement {
                        frame.case
                    } else {
                        0
                    };
                    for (case, (condition, action)) in cases.iter().enumerate().skip(skip) {
                        match way.packet.answer(condition, native) {
                            Answer::No | Answer::Never => continue,
                            Answer::Yes => {}
                            Answer::Maybe => {
                                self.note(frame, condition);
                                let mut without = way.clone();
                                without.move_to(frame.rule, place, case + 1);
                                self.divide(without);
                            }
                        }
                        if let Some(turn) = self.act(way, frame, action) {
                            return turn;
                        }
                        break;
                    }
                }
                Statement::Do(action) => {
                    if let Some(turn) = self.act(way, frame, action) {
                        return turn;
                    }
                }
            }
        }
        way.move_to(frame.rule + 1, 0, 0);
        Turn::On
    }

    /// Does one action; `None` if the rule goes on behind it.
    fn act(&mut self, way: &mut Way<'a>, frame: Frame, action: &'a Action) -> Option<Turn> {
        let at = At::new(frame.at, frame.rule, way.base);
        if *action != Action::Nothing {
            way.trail.add(at);
        }
        match action {
            Action::Accept => {
                self.let_go(way, at, true);
                way.stack.clear();
                Some(Turn::On)
            }
            Action::Return => {
                self.let_go(way, at, false);
                Some(way.leave_chain())
            }
            Action::Drop | Action::Reject => {
                way.trail.decided = Some(at);
                Some(Turn::End(match action {
                    Action::Drop => Outcome::Dropped,
                    _ => Outcome::Rejected,
                }))
            }
            Action::Jump(target) => Some(self.go(way, frame, target, false)),
            Action::Goto(target) => Some(self.go(way, frame, target, true)),
            Action::Redirect { .. } | Action::Dnat { .. } => Some(self.translate(way, at, action)),
            Action::Unknown(what) => {
                self.because(format!("{}: {what}", self.place(frame)));
                Some(Turn::End(Outcome::Unknown))
            }
            // Nobody takes it: this rule ends here, and the next has its turn.
            Action::Tproxy {
                port, ends: false, ..
            } if way.packet.is_nobodys(*port) => {
                way.move_to(frame.rule + 1, 0, 0);
                Some(Turn::On)
            }
            Action::Nothing
            | Action::Cases(_)
            | Action::SetMark(_)
            | Action::Notrack
            | Action::SourceNat
            | Action::Tproxy { .. } => way.change(at, action).then_some(Turn::On),
        }
    }

    /// Into another chain.
    fn go(&mut self, way: &mut Way<'a>, frame: Frame, to: &Target, for_good: bool) -> Turn {
        let Some(chain) = to.index else {
            let place = self.place(frame);
            let what = format!(
                "{place}: `{}` is neither a chain nor a target that is known",
                to.chain
            );
            self.because(what);
            return Turn::End(Outcome::Unknown);
        };
        way.move_to(frame.rule + 1, 0, 0);
        if for_good {
            way.stack.pop();
        }
        way.stack.push(Frame::at(ChainAt { chain, ..frame.at }));
        Turn::On
    }

    /// Rewrites the destination.
    fn translate(&mut self, way: &mut Way<'a>, at: At, action: &Action) -> Turn {
        way.trail.decided = Some(at);
        way.stack.clear();
        if way.packet.translate(action, self.hook_of(way)) {
            return Turn::On;
        }
        self.because("the kernel chooses one of several addresses or ports");
        Turn::End(Outcome::Unknown)
    }

    /// Remembers the rule that led past one that redirects: it is why a connection goes direct.
    fn let_go(&self, way: &mut Way<'a>, at: At, ends: bool) {
        let past = if ends { way.stack.len() } else { 1 };
        let skipped = way.stack.iter().rev().take(past).enumerate();
        for (depth, frame) in skipped {
            let first = if depth == 0 {
                frame.rule + 1
            } else {
                frame.rule
            };
            if super::trail::can_redirect(self.rules, frame.at, first) {
                way.trail.let_go(at, way.hook);
                return;
            }
        }
    }

    fn note(&mut self, frame: Frame, condition: &Match) {
        let why = super::trail::why(condition);
        self.because(format!("{}: {why}", self.place(frame)));
    }

    fn place(&self, frame: Frame) -> String {
        let chain = self.look_up(frame.at);
        chain.map_or_else(String::new, |(table, chain)| {
            format!("{} {} rule {}", table.name, chain.name, frame.rule + 1)
        })
    }
}

impl Way<'_> {
    fn move_to(&mut self, rule: usize, statement: usize, case: usize) {
        if let Some(frame) = self.stack.last_mut() {
            (frame.rule, frame.statement, frame.case) = (rule, statement, case);
        }
    }

    /// Whether a later condition of the rule certainly does not hold.
    fn fails(&self, rest: &[Statement], native: bool) -> bool {
        // Behind an action that changes the packet a condition may come out otherwise.
        let conditions = rest.iter().map_while(|statement| match statement {
            Statement::When(condition) => Some(condition),
            Statement::Do(_) => None,
        });
        conditions
            .map(|condition| self.packet.answer(condition, native))
            .any(|answer| matches!(answer, Answer::No | Answer::Never))
    }

    /// Changes the packet; whether the base chain is done with it.
    fn change(&mut self, at: At, action: &Action) -> bool {
        match action {
            Action::SetMark(set) => self.packet.set_mark(*set),
            Action::Notrack if self.packet.tracking == Tracking::Before => {
                self.packet.tracking = Tracking::Untracked;
            }
            Action::SourceNat => {
                self.packet.source_done = true;
                self.packet.source_known = false;
                self.stack.clear();
                return true;
            }
            Action::Tproxy {
                address,
                port,
                ends,
            } => {
                let port = if *port == 0 { self.packet.port } else { *port };
                self.packet.tproxy = Some((*address, port));
                self.trail.decided = Some(at);
                if *ends {
                    self.stack.clear();
                }
                return *ends;
            }
            _ => {}
        }
        false
    }

    /// Back to the caller; from a base chain, or one it went to for good, to the base chain's policy.
    fn leave_chain(&mut self) -> Turn {
        self.stack.pop();
        match self.base {
            Some(called) if self.stack.is_empty() && called.policy == Policy::Drop => {
                self.trail.decided = Some(At::policy(called));
                Turn::End(Outcome::Dropped)
            }
            _ => Turn::On,
        }
    }
}

fn has_effect(rest: &[Statement]) -> bool {
    let effective = |statement: &Statement| matches!(statement, Statement::Do(action) if *action != Action::Nothing);
    rest.iter().any(effective)
}
