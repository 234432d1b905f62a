//! What a person may ask about their data.

use std::sync::Arc;

use super::history::{license_entries, subject_entries};
use super::{Service, ServiceError, Staff, reading};
use crate::domain::{Category, Email, Operation, Position, Purpose, SubjectId};
use crate::export::Document;

impl Service {
    /// All that is held about a person, as JSON. The read itself is in it.
    pub async fn export(
        self: &Arc<Self>,
        staff: &Staff,
        email: &Email,
        purpose: Purpose,
    ) -> Result<Vec<u8>, ServiceError> {
        let subject = self.find_subject(email)?;
        let stored: Vec<Category> =
            self.settings.policy.categories.iter().map(|category| category.name).collect();
        self.record(subject, staff.access(purpose, Operation::ExportSubject), &stored).await?;
        let service = Arc::clone(self);
        reading(move || service.read_export(subject)).await
    }

    fn read_export(&self, subject: SubjectId) -> Result<Vec<u8>, ServiceError> {
        let mut positions: Vec<Position> = Vec::new();
        for entry in subject_entries(&self.store, subject)? {
            positions.push(entry.position);
            if let Some(license) = entry.issued {
                let entries = license_entries(&self.store, license)?;
                positions.extend(entries.iter().map(|entry| entry.position));
            }
        }
        positions.sort_unstable();
        let events = self.store.events(positions)?;
        let events = events.iter().map(|(_, event)| event);
        let document = Document::new(events, &self.settings.policy, self.clock.now());
        serde_json::to_vec_pretty(&document).map_err(|_| ServiceError::Stopped)
    }
}
