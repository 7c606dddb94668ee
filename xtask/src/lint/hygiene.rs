//! Tracked files name no machine: no folder of the one they were written on, no server that only works from there.
//!
//! Addresses are looked for where they would be *used* (build files, scripts, the developer's own commands), and are free in
//! documentation. Known places of documentation and the names reserved for examples are free everywhere.

use super::Violation;

/// Hosts that are read by people, or exist nowhere.
const FREE_HOSTS: [&str; 12] = [
    ".example",
    ".example.com",
    ".invalid",
    ".local",
    ".test",
    "127.0.0.1",
    "docs.kernel.org",
    "docs.rs",
    "github.com",
    "kubernetes.io",
    "localhost",
    "www.apache.org",
];
/// Folders of a developer's or builder's machine, with the slash that begins them left out. What root keeps in dot folders
/// (tool chains, caches) is meant, not root's home in a container or virtual machine.
const FOLDERS: [&str; 4] = ["work/", "root/.", "home/", "Users/"];
/// Where an address would be used.
const USED_IN: [&str; 9] = [
    ".toml",
    ".sh",
    ".bash",
    ".yml",
    ".yaml",
    "build.rs",
    ".mk",
    "Dockerfile",
    ".ci/run",
];

/// What a file breaks.
pub(crate) fn check(path: &str, content: &str) -> Vec<Violation> {
    let mut found = Vec::new();
    for (index, line) in content.lines().enumerate() {
        let mut add = |what: String| {
            found.push(Violation {
                path: path.to_owned(),
                line: index + 1,
                what,
            });
        };
        for folder in FOLDERS.iter().filter(|folder| names_folder(line, folder)) {
            add(format!("names a folder of one machine, /{folder}…"));
        }
        if !is_used(path) {
            continue;
        }
        for host in hosts(line).filter(|host| !is_free(host)) {
            add(format!(
                "names the server {host}; leave it to the tool's own configuration"
            ));
        }
    }
    found
}

fn is_used(path: &str) -> bool {
    path.starts_with("xtask/") || USED_IN.iter().any(|end| path.ends_with(end))
}

/// An absolute path into the folder, not a part of a longer or relative one.
fn names_folder(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(index, _)| {
        let before = line[..index].strip_suffix('/');
        let named = line[index + folder.len()..]
            .starts_with(|character: char| character.is_alphanumeric() || character == '.');
        named
            && before.is_some_and(|before| {
                !before.ends_with(|character: char| {
                    character.is_alphanumeric() || "_.-/}*$".contains(character)
                })
            })
    })
}

fn hosts(line: &str) -> impl Iterator<Item = &str> {
    ["http://", "https://"].into_iter().flat_map(|scheme| {
        line.match_indices(scheme).map(|(index, scheme)| {
            let rest = &line[index + scheme.len()..];
            let end = rest.find(|character: char| {
                !(character.is_ascii_alphanumeric() || ".-".contains(character))
            });
            &rest[..end.unwrap_or(rest.len())]
        })
    })
}

/// An address made up at run time has no host to read, and a name without a dot leads nowhere outside.
fn is_free(host: &str) -> bool {
    !host.contains('.')
        || FREE_HOSTS.iter().any(|free| {
            host == *free || free.starts_with('.') && (host.ends_with(free) || host == &free[1..])
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_in_scripts_are_found() {
        let script = |line: &str| check("deploy/get.sh", line).len();
        assert_eq!(
            script(&["curl https", "://registry.somewhere.net/x"].concat()),
            1
        );
        assert_eq!(
            script("curl http://localhost:9090/metrics http://pod.test/"),
            0
        );
        assert_eq!(script("# see https://docs.kernel.org/bpf"), 0);
        assert_eq!(script("format!(\"http://{address}/\")"), 0);
        assert_eq!(
            check(
                "docs/x.md",
                &["https", "://registry.somewhere.net"].concat()
            )
            .len(),
            0
        );
    }

    #[test]
    fn folders_of_one_machine_are_found() {
        let line = |line: &str| check("docs/x.md", line).len();
        assert_eq!(line(&["see ", "/wo", "rk/main/x"].concat()), 1);
        assert_eq!(line(&["\"", "/ro", "ot/.cache\""].concat()), 1);
        assert_eq!(line("a/work/b ./root/x target/root/y /network/x"), 0);
        assert_eq!(line("cd /root && ls"), 0);
    }
}
