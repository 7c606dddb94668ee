//! A pod's control plane, as its traffic shows it: which destinations are it, and when one was last reached.
//!
//! A destination is known by its port, which the mesh's profile names. An app may use the same port for
//! something else: whatever port an app's captured connections ask for is not taken for the control plane's.

use std::collections::BTreeSet;

use super::Code;
use crate::{mesh::Intent, model::Time};

/// What a pod's traffic has shown of its control plane.
#[derive(Debug, Default)]
pub(super) struct Control {
    /// Ports of the control plane that the app asks for as well.
    shared: BTreeSet<u16>,
    /// When the proxy last reached it.
    pub(super) reached: Option<Time>,
}

impl Control {
    /// The app's connections to this port go through the proxy.
    pub(super) fn asked(&mut self, intent: &Intent, port: u16) {
        // Bounded by the profile's list.
        if intent.control_ports.contains(&port) {
            self.shared.insert(port);
        }
    }

    /// Whether what the proxy dials there is the control plane.
    pub(super) fn is_it(&self, intent: &Intent, port: u16) -> bool {
        intent.control_ports.contains(&port) && !self.shared.contains(&port)
    }

    /// The code under which trouble of the proxy with a destination is told.
    pub(super) fn code(&self, intent: &Intent, port: u16, otherwise: Code) -> Code {
        if self.is_it(intent, port) {
            Code::StuckControlPlane
        } else {
            otherwise
        }
    }
}
