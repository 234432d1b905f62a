//! What is kept together: one rule for the sweep, which erases, and for exports, which say when.

use std::collections::BTreeSet;

use crate::domain::Timestamp;

/// When a seat was in use.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// When it was taken.
    pub begun: Timestamp,
    /// When it was freed, by an end of the license too. `None`: it still is in use.
    pub ended: Option<Timestamp>,
}

/// Years whose activations go together.
#[derive(Debug, PartialEq, Eq)]
pub struct SeatYears {
    /// Which.
    pub years: BTreeSet<u16>,
    /// When the last seat of theirs was freed. `None`: one is still in use.
    pub ended: Option<Timestamp>,
}

/// Puts years together. Those that a seat was taken and freed in go together, so that nobody reads of
/// the one without the other.
pub fn seat_years(spans: impl IntoIterator<Item = Span>) -> Vec<SeatYears> {
    let mut groups: Vec<SeatYears> = Vec::new();
    for Span { begun, ended } in spans {
        // Where the clock was put back, a seat may be freed before it was taken.
        let mut ended = ended.map(|ended| ended.max(begun));
        let last = ended.map_or(begun.year(), Timestamp::year);
        let mut years = BTreeSet::from([begun.year(), last]);
        groups.retain(|other| {
            let is_apart = other.years.is_disjoint(&years);
            if !is_apart {
                years.extend(&other.years);
                ended = ended.zip(other.ended).map(|(one, other)| one.max(other));
            }
            is_apart
        });
        groups.push(SeatYears { years, ended });
    }
    groups
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(year: u16) -> Timestamp {
        Timestamp::start_of_year(year).plus(Duration::from_secs(1_000_000))
    }

    #[test]
    fn years_go_when_all_that_a_seat_was_in_them_for_can_go() {
        let span = |begun, ended: Option<u16>| Span { begun: at(begun), ended: ended.map(at) };
        let expired = |spans: &[Span]| -> Vec<u16> {
            let groups = seat_years(spans.iter().copied()).into_iter();
            let expired = groups.filter(|group| group.ended.is_some_and(|end| end.year() <= 2024));
            let years: BTreeSet<u16> = expired.flat_map(|group| group.years).collect();
            years.into_iter().collect()
        };
        let none = Vec::<u16>::new();
        assert_eq!(expired(&[]), none);
        assert_eq!(expired(&[span(2020, Some(2020)), span(2021, None)]), [2020]);
        assert_eq!(expired(&[span(2020, Some(2023)), span(2021, None)]), [2020, 2023]);
        assert_eq!(expired(&[span(2020, Some(2021)), span(2021, None)]), none);
        assert_eq!(expired(&[span(2020, Some(2021)), span(2021, Some(2025))]), none);
        assert_eq!(
            expired(&[span(2020, Some(2021)), span(2022, Some(2024)), span(2021, Some(2022))]),
            [2020, 2021, 2022, 2024]
        );
    }
}
