//! CORE: the pure heart. Inputs in, findings and a board out.
//!
//! A sans-IO state machine with a single owner: no locks, no async, no I/O, no clock of
//! its own. The same inputs give the same outputs, bit for bit; that is what makes a
//! recording of a customer's node a test.

mod accepts;
mod binding;
mod blame;
mod board;
mod collide;
mod consult;
mod control;
mod datagrams;
mod diagnose;
mod directory;
mod draw;
mod drops;
mod edges;
mod ended;
mod evidence;
mod expiry;
mod explain;
mod facts;
mod finding;
mod findings;
mod flow;
mod given;
mod hang;
mod input;
mod itself;
mod late;
mod ledger;
mod lost_in_tables;
mod machine;
mod marked;
mod memory;
mod on_node;
mod passages;
mod people;
mod queue;
mod reading;
pub mod record;
mod resets;
mod rewrites;
mod rulebook;
mod rules_view;
mod runs;
mod samples;
mod severed;
mod signals;
mod sockets;
mod stage;
mod streams;
mod surroundings;
mod tables;
mod throttle;
mod top;
mod turned_away;
mod unanswered;
mod verdict;
mod waiting;
mod watch;
mod why;

pub use accepts::{AcceptRow, Accepts};
pub use board::{
    Board, ConnectionRow, EdgeRow, HandshakeRow, InterceptionRow, Leg, LiveRules, PodRow, QueueRow,
    Reason, RulesRow, StuckRow, Verdict,
};
pub use drops::{DropRow, SynAckRow};
pub use finding::{Code, Confidence, Evidence, Finding, FindingState, Severity};
pub use input::{Change, Config, Input, Inquiry, Output};
pub use machine::Engine;
pub use reading::{RulesRead, RulesReading, RulesSource};
pub use rulebook::RulesChange;
pub use rules_view::{
    ChainView, Example, Mark, RuleView, RulesView, SourceView, TableView, rules_view,
};
pub use stage::Stage;
use why::live_in_words;
pub use why::{
    Agreement, Ask, Before, By, Conclusion, Known, Live, OwnerSource, Wanted, Way, Why, why,
};
