//! Which combinations of a scenario run in a place when places share them.
//!
//! A matrix of backends and families on every kernel of another matrix is a product that takes an hour, and most of it
//! says the same again. So every scenario runs on every kernel, and its combinations take turns: together the kernels run
//! all of them, and a kernel meets every backend and family in some scenarios.

use crate::load::Loaded;

/// How many places share the combinations: the kernels of the matrix.
pub(crate) const PLACES: usize = 4;

/// Keeps those whose turn it is in this place, 0 to [`PLACES`] less one; `all` as they were loaded.
pub(crate) fn keep(all: &mut Vec<Loaded>, place: usize) {
    let names: Vec<&str> = all.iter().map(|l| l.scenario.name.as_str()).collect();
    let mut turns = turns(&names, place).into_iter();
    all.retain(|_| turns.next().unwrap_or(true));
}

/// For each combination, given by its scenario's name, whether it is its turn. Those of one scenario are side by side.
fn turns(names: &[&str], place: usize) -> Vec<bool> {
    let scenarios = names.chunk_by(|one, next| one == next).enumerate();
    let of_one = |(scenario, combinations): (usize, &[&str])| {
        let shares = combinations.len().min(PLACES);
        // Each scenario begins elsewhere, or one kernel would meet IPv4 alone.
        (0..combinations.len()).map(move |at| at % shares == (place + scenario) % shares)
    };
    scenarios.flat_map(of_one).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::load;

    fn ids(all: &[Loaded]) -> BTreeSet<String> {
        all.iter().map(|loaded| loaded.id.clone()).collect()
    }

    fn names(all: &[Loaded]) -> BTreeSet<String> {
        all.iter().map(|l| l.scenario.name.clone()).collect()
    }

    fn corpus() -> Vec<Loaded> {
        load::folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")).unwrap()
    }

    #[test]
    fn every_scenario_is_everywhere_and_every_combination_somewhere() {
        let all = corpus();
        let mut somewhere = BTreeSet::new();
        for place in 0..PLACES {
            let mut here = corpus();
            keep(&mut here, place);
            assert_eq!(names(&here), names(&all), "place {place}");
            assert!(
                here.len() < all.len() * 6 / 10,
                "{} are no share",
                here.len()
            );
            somewhere.extend(ids(&here));
        }
        assert_eq!(somewhere, ids(&all));
    }

    #[test]
    fn every_place_meets_every_backend_and_family() {
        for place in 0..PLACES {
            let mut here = corpus();
            keep(&mut here, place);
            for end in ["/legacy/ipv4", "/legacy/ipv6", "/nft/ipv4", "/nft/ipv6"] {
                let some = here.iter().filter(|l| l.id.ends_with(end)).count();
                assert!(some >= 5, "place {place} has {some} of {end}");
            }
        }
    }

    #[test]
    fn turns_follow_the_number_of_combinations() {
        let names = ["a", "b", "b", "c", "c", "c", "c", "d", "d", "d", "d", "d"];
        let here: Vec<Vec<usize>> = (0..PLACES)
            .map(|place| {
                let all = turns(&names, place).into_iter().enumerate();
                all.filter(|(_, turn)| *turn).map(|(at, _)| at).collect()
            })
            .collect();
        assert_eq!(
            here,
            [
                vec![0, 2, 5, 10],
                vec![0, 1, 6, 7, 11],
                vec![0, 2, 3, 8],
                vec![0, 1, 4, 9],
            ]
        );
    }
}
