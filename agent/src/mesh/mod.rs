//! CORE: meshes as data. Which pods belong to one, and what must be captured.
//!
//! No mesh is named in code: a profile is a TOML file in `profiles/`, and a new mesh is
//! a new file. Pure: a pod and the profiles in, an [`Intent`] out.

mod arguments;
mod capture;
mod check;
mod describe;
mod document;
mod families;
mod intent;
mod member;
mod nets;
mod ports;
mod profile;
mod profiles;
mod read;
mod setting;
mod sign;
mod standing;
mod users;

pub use check::ProfileError;
pub use intent::{DnsCapture, Exemption, Expectation, FamilyRules, Intent, IntentSource, SharedId};
pub use nets::NetSet;
pub use ports::PortSet;
pub use profile::{
    Capture, Dns, Exempt, ExemptPods, LocalScope, Members, Mode, Place, Profile, Protocol,
    Resolvers,
};
pub use profiles::Profiles;
pub use setting::{Argument, Document, Repeated, Setting};
pub use sign::Sign;
pub use standing::{Asked, Standing};
