//! CORE: meshes as data. Which pods belong to one, and what must be captured.
//!
//! No mesh is named in code: a profile is a TOML file in `profiles/`, and a new mesh is
//! a new file. Pure: a pod and the profiles in, an [`Intent`] out.

mod arguments;
mod capture;
mod intent;
mod member;
mod nets;
mod ports;
mod profile;
mod profiles;
mod read;

pub use intent::{Exemption, Expectation, Intent, IntentSource};
pub use nets::NetSet;
pub use ports::PortSet;
pub use profile::{
    Argument, Capture, Exempt, ExemptPods, Members, Mode, Profile, ProfileError, Repeated, Setting,
    Sign,
};
pub use profiles::Profiles;
