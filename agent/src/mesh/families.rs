//! For which address families a mesh installs rules in a pod, as far as the pod tells.
//!
//! Some meshes have a switch for IPv6, some a mode, some look at the pod's first address. Where
//! nothing says, nothing is claimed: what is not known is left out.

use super::{
    intent::FamilyRules,
    profile::Profile,
    read::{Reader, Sourced, parse_bool},
    setting::Setting,
};
use crate::model::{Family, Pod};

/// The families of which is known whether there are rules.
pub(super) fn of(profile: &Profile, pod: &Pod, reader: &mut Reader) -> Vec<FamilyRules> {
    let mode = reader.get(Setting::Families, |text| profile.families(text));
    if let Some(mode) = mode {
        return [Family::Ipv4, Family::Ipv6]
            .map(|family| FamilyRules {
                family,
                installed: mode.value.contains(&family),
                source: mode.source.clone(),
            })
            .into();
    }
    let switch = reader.get(Setting::Ipv6, parse_bool);
    let six = match (switch, profile.capture.ipv6_follows_first_address) {
        (Some(on), true) if on.value => Some(on),
        (_, true) => first_address(pod),
        (switch, false) => switch,
    };
    six.map(|six| FamilyRules {
        family: Family::Ipv6,
        installed: six.value,
        source: six.source,
    })
    .into_iter()
    .collect()
}

fn first_address(pod: &Pod) -> Option<Sourced<bool>> {
    let first = pod.ips.first()?;
    Some(Sourced {
        value: first.is_ipv6(),
        source: format!("the pod's first address {first}"),
    })
}
