//! Counts for analytics. They come from events of their own that name nobody, and so outlive what they
//! count; those of small groups are not told.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::writer::Request;
use super::{Service, ServiceError, reading};
use crate::domain::{Day, Product};

/// What happened on a day with a product.
pub struct DayCounts {
    /// The day.
    pub day: Day,
    /// The product.
    pub product: Product,
    /// Licenses issued. `None`: to too few persons to tell.
    pub licenses: Option<u32>,
    /// Seats taken. `None`: of too few persons to tell.
    pub activations: Option<u32>,
}

impl Service {
    /// What happened on these days, as far as they are over: what is told of a day never changes, so
    /// that two answers tell nothing of who came between them.
    pub async fn statistics(
        self: &Arc<Self>,
        days: RangeInclusive<Day>,
    ) -> Result<Vec<DayCounts>, ServiceError> {
        self.count_days().await?;
        let today = self.clock.now().day();
        let (first, last) = days.into_inner();
        let last = last.min(Day(today.0.saturating_sub(1)));
        let service = Arc::clone(self);
        reading(move || {
            let smallest = service.smallest_group();
            let shown = |count: u32, persons: u32| (persons >= smallest).then_some(count);
            let days = service.store.views.counted_days(first..=last)?;
            let counts = days.into_iter().flat_map(|(day, products)| {
                products.into_iter().map(move |(product, counts)| DayCounts {
                    day,
                    product,
                    licenses: shown(counts.licenses, counts.license_persons),
                    activations: shown(counts.activations, counts.activation_persons),
                })
            });
            Ok(counts.collect())
        })
        .await
    }

    /// Counts of fewer persons are not told.
    pub fn smallest_group(&self) -> u32 {
        self.settings.policy.get().statistics.smallest_group
    }

    /// Has the days counted that are over.
    pub async fn count_days(&self) -> Result<(), ServiceError> {
        let today = self.clock.now().day();
        if self.store.views.uncounted_days()?.keys().any(|day| *day < today) {
            self.ask(Request::CloseDays(today)).await?;
        }
        Ok(())
    }
}
