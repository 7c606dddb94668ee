//! All profiles the agent knows: those built in, and those of the operator's directory.
//!
//! Files are embedded as a directory, so that no code names a mesh. Reading a directory is
//! somebody else's job: this module gets texts.

use std::collections::BTreeSet;

use include_dir::{Dir, include_dir};

use super::{
    check::ProfileError,
    intent::Intent,
    member,
    profile::Profile,
    standing::{self, Standing},
};
use crate::model::{Listener, Pod};

static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/src/mesh/profiles");

/// The meshes the agent knows. The first one that a pod belongs to counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profiles(Vec<Profile>);

impl Profiles {
    /// The profiles built into the agent.
    ///
    /// # Errors
    /// Never in a build whose tests pass: they read every file of it.
    pub fn embedded() -> Result<Self, ProfileError> {
        let files = EMBEDDED.files().map(|file| {
            let name = file.path().display().to_string();
            (name, file.contents_utf8().unwrap_or_default().to_owned())
        });
        read(files.collect()).map(Self)
    }

    /// The profiles built in and those of `extra` (file name and text of each). One of `extra`
    /// comes before those built in, and replaces the one of the same name.
    ///
    /// # Errors
    /// The first file with a mistake: what, where, and what to do.
    pub fn with_dir(extra: Vec<(String, String)>) -> Result<Self, ProfileError> {
        let mut profiles = read(extra)?;
        for built_in in Self::embedded()?.0 {
            if !profiles.iter().any(|p| p.name == built_in.name) {
                profiles.push(built_in);
            }
        }
        Ok(Self(profiles))
    }

    /// What must be captured in this pod; `None` if it is in no mesh that is known.
    ///
    /// The manifest decides. Where there is none (the pod is known only from the node), the
    /// listening sockets of its namespace do: each with the uid that owns it.
    #[must_use]
    pub fn intent(&self, pod: &Pod, listeners: &[(Listener, u32)]) -> Option<Intent> {
        if member::has_manifest(pod) {
            // A proxy in the pod comes first: where both are, the node's leaves the pod alone.
            let mut all = self.0.iter().filter_map(|p| member::by_manifest(p, pod));
            let first = all.next()?;
            let own = |intent: &Intent| !intent.node_proxy;
            match own(&first) {
                true => Some(first),
                false => all.find(own).or(Some(first)),
            }
        } else {
            self.0
                .iter()
                .find_map(|p| member::by_listeners(p, pod, listeners))
        }
    }

    /// What meshes say of this pod beside what they capture in it.
    #[must_use]
    pub fn standing(&self, pod: &Pod) -> Standing {
        standing::of(&self.0, pod)
    }

    /// Names of the environment variables that any profile asks for; of all others, sources of
    /// pods keep nothing.
    #[must_use]
    pub fn variables(&self) -> BTreeSet<String> {
        self.0.iter().flat_map(Profile::variables).collect()
    }

    /// Names and the versions each was checked against, in order.
    pub fn names(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|p| (p.name.as_str(), p.checked_against.as_str()))
    }
}

fn read(mut files: Vec<(String, String)>) -> Result<Vec<Profile>, ProfileError> {
    // The order of a directory is no order.
    files.sort();
    let mut profiles: Vec<(String, Profile)> = Vec::new();
    for (file, text) in files {
        let profile = Profile::parse(&file, &text)?;
        if let Some((first, _)) = profiles.iter().find(|(_, p)| p.name == profile.name) {
            return Err(ProfileError::Twice {
                name: profile.name,
                first: first.clone(),
                second: file,
            });
        }
        profiles.push((file, profile));
    }
    Ok(profiles.into_iter().map(|(_, profile)| profile).collect())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::{EMBEDDED, Profile, Profiles};
    use crate::mesh::Sign;
    use crate::model::{Container, ContainerKind, Pod, PodKey};

    const SMALL: &str = r#"
name = "small"
checked_against = "nothing"
sources = []
members = { proxy_containers = ["proxy"] }
capture = { outbound_port = 1, inbound_port = 2, ipv6_setting = "nothing" }
defaults = { include-inbound-ports = "*", include-outbound-ranges = "*" }
"#;

    fn one(text: &str) -> Result<Profiles, String> {
        let file = ("small.toml".to_owned(), text.to_owned());
        Profiles::with_dir(vec![file]).map_err(|error| error.to_string())
    }

    #[test]
    fn every_embedded_file_is_a_profile() {
        let profiles = Profiles::embedded().unwrap();
        assert_eq!(profiles.names().count(), EMBEDDED.files().count());
        assert!(EMBEDDED.files().all(|f| f.contents_utf8().is_some()));
        assert!(profiles.names().all(|(_, checked)| !checked.is_empty()));
    }

    #[test]
    fn a_file_of_the_operator_comes_first_and_replaces_its_namesake() {
        let built_in = Profiles::embedded().unwrap();
        let name = built_in.names().next().unwrap().0;
        let profiles = one(SMALL).unwrap();
        assert_eq!(profiles.names().next(), Some(("small", "nothing")));
        assert_eq!(profiles.names().count(), built_in.names().count() + 1);
        let replaced = one(&SMALL.replace("small", name)).unwrap();
        assert_eq!(replaced.names().count(), built_in.names().count());
        assert_eq!(replaced.names().next(), Some((name, "nothing")));
    }

    #[test]
    fn a_mistake_is_told_with_file_and_key() {
        for (text, told) in [
            (SMALL.replace("sources", "source"), "unknown field `source`"),
            (
                SMALL.replace("inbound_port = 2, ", ""),
                "missing field `inbound_port`",
            ),
            (SMALL.replace("= 2", "= 70000"), "70000"),
            (SMALL.replace("= 2", "= 0"), "capture: a port is 0"),
            (
                SMALL.replace("\"proxy\"", ""),
                "members.proxy_containers: names no container",
            ),
            (
                SMALL.replace("ports = \"*\"", "ports = \"http\""),
                "\"http\" is not a port",
            ),
            (
                SMALL.replace("include-inbound-ports = \"*\", ", ""),
                "defaults.include-inbound-ports: is missing",
            ),
            (SMALL.replace("\"small\"", "\"\""), "name: is empty"),
            (
                SMALL.to_owned() + "[[arguments]]\nflags = [\"o\"]\nmeans = \"ipv6\"",
                "\"o\" is not a flag",
            ),
            (
                SMALL.to_owned() + "[annotations]\n\"a/b\" = \"ports\"",
                "unknown variant `ports`",
            ),
            (
                SMALL.to_owned() + "[[skip]]\nkind = \"label\"",
                "missing field `key`",
            ),
        ] {
            let error = one(&text).unwrap_err();
            assert!(error.contains(told), "{told} not in: {error}");
            assert!(error.contains("small.toml"), "{error}");
        }
    }

    #[test]
    fn two_files_with_one_name_are_told() {
        let files = ["a.toml", "b.toml"].map(|f| (f.to_owned(), SMALL.to_owned()));
        let error = Profiles::with_dir(files.to_vec()).unwrap_err().to_string();
        assert!(
            error.contains("a.toml") && error.contains("b.toml"),
            "{error}"
        );
    }

    fn container(name: &str, kind: ContainerKind, args: Vec<String>) -> Container {
        Container {
            name: name.to_owned(),
            kind,
            id: None,
            args,
            run_as_user: None,
            run_as_group: None,
            ports: vec![],
            env: [].into(),
            status: None,
        }
    }

    /// A member of the mesh, with values for its annotations and arguments, in turn.
    fn member(profile: &Profile, values: &[String], init: bool) -> Pod {
        let mut values = values.iter().cycle().cloned();
        let members = &profile.members;
        let proxy = members
            .proxy_containers
            .first()
            .map_or("app", String::as_str);
        let mut containers = vec![container(proxy, ContainerKind::Main, vec![])];
        if let (true, Some(name)) = (init, members.init_containers.first()) {
            let flags = profile
                .arguments
                .iter()
                .flat_map(|argument| &argument.flags);
            let args = flags
                .flat_map(|flag| [Some(flag.clone()), values.next()])
                .flatten();
            containers.push(container(name, ContainerKind::Init, args.collect()));
        }
        let keys = profile.annotations.keys();
        let needed = required(profile);
        Pod {
            key: PodKey {
                namespace: "n".to_owned(),
                name: "p".to_owned(),
            },
            uid: String::new(),
            workload: None,
            labels: [].into(),
            annotations: keys
                .filter_map(|key| Some((key.clone(), values.next()?)))
                .chain(needed)
                .collect(),
            namespace_labels: [].into(),
            host_network: false,
            ips: vec![],
            containers,
            netns_path: None,
        }
    }

    /// Annotations without which the pod would be no member.
    fn required(profile: &Profile) -> Vec<(String, String)> {
        let skip = profile.skip.iter().filter_map(|sign| match sign {
            Sign::NoAnnotation { key, values } => Some((key, values)),
            _ => None,
        });
        let signs = profile.members.signs.iter().filter_map(|sign| match sign {
            Sign::Annotation { key, values } => Some((key, values)),
            _ => None,
        });
        skip.chain(signs)
            .map(|(key, values)| (key.clone(), values.first().cloned().unwrap_or_default()))
            .collect()
    }

    proptest! {
        #[test]
        fn any_value_leaves_a_member_a_member(
            values in prop::collection::vec("[0-9,.:/*-]{0,12}|\\PC{0,8}|10\\.0\\.0\\.0/8|80-90|true", 1..6),
            init in any::<bool>(),
            ip in any::<IpAddr>(),
            port in any::<u16>(),
        ) {
            for profile in &Profiles::embedded().unwrap().0 {
                let pod = member(profile, &values, init);
                let profiles = Profiles(vec![profile.clone()]);
                let intent = profiles.intent(&pod, &[]);
                let intent = intent.ok_or_else(|| TestCaseError::fail("no member any more"))?;
                let _ = intent.outbound((ip, port).into(), &[ip]);
                let _ = intent.inbound(ip, port, &[]);
                prop_assert!(intent.problems.iter().all(|problem| problem.contains("is ignored")));
            }
        }
    }
}
