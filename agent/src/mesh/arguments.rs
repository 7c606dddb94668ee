//! Finds a profile's settings among the arguments of an init container.
//!
//! Understands the forms of the usual command line libraries: `-o 1`, `-o=1`, `-o1`,
//! `--long 1`, `--long=1`. Whatever the profile does not know is passed over: an init
//! container may take arguments that have nothing to do with capture.

use super::setting::{Argument, Repeated, Setting};

/// One setting found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// What it sets.
    pub setting: Setting,
    /// The flag as written, for people.
    pub flag: String,
    /// Its value.
    pub value: String,
}

/// The settings among `args`, each at most once.
pub(super) fn find(known: &[Argument], args: &[String]) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let Some((argument, flag, inline)) = recognise(known, arg) else {
            continue;
        };
        let value = match inline {
            Some(value) => value.to_owned(),
            None if argument.means.is_switch() => "true".to_owned(),
            None => rest.next().cloned().unwrap_or_default(),
        };
        add(&mut found, argument, flag, value);
    }
    found
}

fn add(found: &mut Vec<Found>, argument: &Argument, flag: &str, value: String) {
    let earlier = found.iter_mut().find(|f| f.setting == argument.means);
    match (earlier, argument.repeated) {
        (None, _) => found.push(Found {
            setting: argument.means,
            flag: flag.to_owned(),
            value,
        }),
        (Some(earlier), Repeated::Last) => earlier.value = value,
        (Some(earlier), Repeated::Join) => {
            earlier.value.push(',');
            earlier.value.push_str(&value);
        }
    }
}

/// The argument meant by this word, the flag as spelt, and the value if it is in the same word.
fn recognise<'a>(
    known: &'a [Argument],
    word: &'a str,
) -> Option<(&'a Argument, &'a str, Option<&'a str>)> {
    let all = || {
        known
            .iter()
            .flat_map(|a| a.flags.iter().map(move |f| (a, f.as_str())))
    };
    if let Some((argument, flag)) = all().find(|(_, flag)| *flag == word) {
        return Some((argument, flag, None));
    }
    if let Some((name, value)) = word.split_once('=')
        && let Some((argument, flag)) = all().find(|(_, flag)| *flag == name)
    {
        return Some((argument, flag, Some(value)));
    }
    // `-o9000`: only a one-letter flag can have its value glued on.
    let glued = |flag: &str| flag.len() == 2 && word.len() > 2 && word.starts_with(flag);
    let (argument, flag) = all().find(|(_, flag)| glued(flag))?;
    Some((argument, flag, word.get(2..)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Argument, Repeated, Setting, find};

    fn known() -> Vec<Argument> {
        let argument = |flags: &[&str], means, repeated| Argument {
            flags: flags.iter().map(|f| (*f).to_owned()).collect(),
            means,
            repeated,
        };
        vec![
            argument(
                &["-o", "--out"],
                Setting::ExcludeOutboundPorts,
                Repeated::Last,
            ),
            argument(&["--skip"], Setting::ExcludeInboundPorts, Repeated::Join),
            argument(&["--six"], Setting::Ipv6, Repeated::Last),
        ]
    }

    #[test]
    fn every_form_is_understood() {
        use Setting::{ExcludeInboundPorts as Skip, ExcludeOutboundPorts as Out, Ipv6};
        for (line, expected) in [
            ("run -o 1,2", vec![(Out, "-o", "1,2")]),
            ("-o=1", vec![(Out, "-o", "1")]),
            ("-o1", vec![(Out, "-o", "1")]),
            ("--out 1", vec![(Out, "--out", "1")]),
            ("--out=1=2", vec![(Out, "--out", "1=2")]),
            ("-o 1 -o 2", vec![(Out, "-o", "2")]),
            ("--skip 1 --skip=2-3", vec![(Skip, "--skip", "1,2-3")]),
            (
                "--six -o 1",
                vec![(Ipv6, "--six", "true"), (Out, "-o", "1")],
            ),
            ("--six=false", vec![(Ipv6, "--six", "false")]),
            ("--outer 1 --unknown", vec![]),
            ("-o", vec![(Out, "-o", "")]),
        ] {
            let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let found = find(&known(), &args);
            let found: Vec<_> = found
                .iter()
                .map(|f| (f.setting, f.flag.as_str(), f.value.as_str()))
                .collect();
            assert_eq!(found, expected, "{line}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(args in prop::collection::vec("\\PC{0,12}|-o\\PC{0,4}|--out=?\\PC{0,4}", 0..6)) {
            let _ = find(&known(), &args);
        }
    }
}
