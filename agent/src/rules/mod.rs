//! The live netfilter rules of one network namespace, and what they do to one connection.
//!
//! Three sources ([`Backend`]) become one [`Ruleset`]; [`evaluate`] walks it as the kernel would for the first packet of a
//! [`Connection`] and tells the [`Path`]: where it went, and which rule decided. The answer has three values: what depends
//! on something that nobody can know from outside is *unknown*, unless it comes out the same either way. Saying "direct"
//! where the kernel redirects would be a false alarm, so whatever is not understood stays visible and never counts as absent.
//!
//! Pure: text and JSON come in, plain data goes out. No I/O, no clock, and no mesh is named here.

mod connection;
mod evaluate;
mod matching;
mod nft;
mod path;
mod ruleset;
mod save;
mod survey;

pub use connection::{Connection, Interface, Protocol};
pub use evaluate::evaluate;
pub use matching::{Field, Match, Name, Test, address_kind, listener, state};
pub use nft::{NftError, parse_nft};
pub use path::{Outcome, Path, Redirection, Step};
pub use ruleset::{
    Action, Backend, Base, Chain, ChainKind, Hook, MAX_CHAINS, MAX_PROBLEMS, MAX_RULES, MAX_TABLES,
    MAX_TEXT, MarkOf, Policy, Problem, Rule, Ruleset, SetMark, Statement, Table, TableFamily,
    Target,
};
pub use save::{IpSets, parse_save, parse_save_with};
pub use survey::{Redirector, Stray, drops_invalid, redirectors, strays};
