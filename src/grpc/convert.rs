//! Between the messages on the wire and the domain's types.

use std::collections::BTreeSet;

use crate::domain::{
    Category, Change, Day, Purpose, RequestKind, RestrictionKind, SealedActor, Status, Timestamp,
    WrongLength,
};
use crate::proto::v1;
use crate::service::history::ActivationDetails;
use crate::service::license::LicenseDetails;
use crate::service::notices::{NoticeDetails, TOLD_WITHIN};
use crate::service::privacy::{Counts, ErasureDetails, FINAL_WITHIN};
use crate::service::requests::RequestDetails;
use crate::service::statistics::DayCounts;

/// A field does not hold what it must.
#[derive(Debug, thiserror::Error)]
pub(super) enum FieldError {
    /// No purpose, or one that this version does not know.
    #[error("must say why the data is read")]
    Purpose,
    /// Not a moment of the years 1 to 9999.
    #[error("is not a valid time")]
    Time,
    /// No kind, or one that this version does not know.
    #[error("must say what is asked for")]
    Kind,
    /// Not a day.
    #[error("must be a day such as 2030-01-31")]
    Day,
    /// Not a category.
    #[error("must name categories of the policy, such as email")]
    Category,
    /// Nothing where something must be.
    #[error("is missing")]
    Missing,
    /// More than there may be.
    #[error("must be at most {0}")]
    TooMany(u32),
}

/// Bytes of a fixed length.
pub(super) fn bytes<'a, T: TryFrom<&'a [u8], Error = WrongLength>>(
    bytes: &'a [u8],
) -> Result<T, WrongLength> {
    T::try_from(bytes)
}

/// Why data is read.
pub(super) fn purpose(value: i32) -> Result<Purpose, FieldError> {
    match v1::Purpose::try_from(value) {
        Ok(v1::Purpose::CustomerSupport) => Ok(Purpose::CustomerSupport),
        Ok(v1::Purpose::AccessRequest) => Ok(Purpose::AccessRequest),
        Ok(v1::Purpose::LicenseAdministration) => Ok(Purpose::LicenseAdministration),
        Ok(v1::Purpose::FraudPrevention) => Ok(Purpose::FraudPrevention),
        Ok(v1::Purpose::Unspecified) | Err(_) => Err(FieldError::Purpose),
    }
}

/// A moment, rounded down to milliseconds.
pub(super) fn time(value: Option<prost_types::Timestamp>) -> Result<Option<Timestamp>, FieldError> {
    let Some(value) = value else { return Ok(None) };
    if !(0..1_000_000_000).contains(&value.nanos) {
        return Err(FieldError::Time);
    }
    let millis = value.seconds.checked_mul(1000);
    let millis = millis.and_then(|millis| millis.checked_add(i64::from(value.nanos / 1_000_000)));
    millis.and_then(Timestamp::from_millis).map(Some).ok_or(FieldError::Time)
}

fn to_wire(time: Timestamp) -> prost_types::Timestamp {
    let millis = time.as_millis();
    let nanos = millis.rem_euclid(1000) * 1_000_000;
    prost_types::Timestamp {
        seconds: millis.div_euclid(1000),
        nanos: i32::try_from(nanos).unwrap_or_default(),
    }
}

/// A license as staff see it.
pub(super) fn license(license: &LicenseDetails) -> v1::License {
    let status = match license.status {
        Status::Active => v1::LicenseStatus::Active,
        Status::Suspended => v1::LicenseStatus::Suspended,
        Status::Revoked => v1::LicenseStatus::Revoked,
    };
    v1::License {
        license_key: license.key.expose(),
        product: license.terms.product.as_str().to_owned(),
        seats: license.terms.seats.get(),
        used: license.used,
        status: status.into(),
        issued_at: Some(to_wire(license.issued_at)),
        expires_at: license.terms.expires_at.map(to_wire),
        updates_until: license.terms.updates_until.map(to_wire),
    }
}

/// One use of a seat.
pub(super) fn activation(activation: &ActivationDetails) -> v1::Activation {
    v1::Activation {
        activation_id: activation.id.as_bytes().to_vec(),
        activated_at: Some(to_wire(activation.activated_at)),
        deactivated_at: activation.deactivated_at.map(to_wire),
    }
}

/// What a person asks for.
pub(super) fn request_kind(value: i32) -> Result<RequestKind, FieldError> {
    match v1::RequestKind::try_from(value) {
        Ok(v1::RequestKind::Access) => Ok(RequestKind::Access),
        Ok(v1::RequestKind::Rectification) => Ok(RequestKind::Rectification),
        Ok(v1::RequestKind::Erasure) => Ok(RequestKind::Erasure),
        Ok(v1::RequestKind::Restriction) => Ok(RequestKind::Restriction),
        Ok(v1::RequestKind::Objection) => Ok(RequestKind::Objection),
        Ok(v1::RequestKind::Portability) => Ok(RequestKind::Portability),
        Ok(v1::RequestKind::Unspecified) | Err(_) => Err(FieldError::Kind),
    }
}

/// How the use of data is narrowed.
pub(super) fn restriction_kind(value: i32) -> Result<RestrictionKind, FieldError> {
    match v1::RestrictionKind::try_from(value) {
        Ok(v1::RestrictionKind::Restriction) => Ok(RestrictionKind::Restriction),
        Ok(v1::RestrictionKind::LegalHold) => Ok(RestrictionKind::LegalHold),
        Ok(v1::RestrictionKind::Unspecified) | Err(_) => Err(FieldError::Kind),
    }
}

/// A request as the privacy officer sees it.
pub(super) fn request(details: &RequestDetails) -> v1::Request {
    let RequestDetails { id, request, needs_approval } = details;
    let kind = match request.kind {
        RequestKind::Access => v1::RequestKind::Access,
        RequestKind::Rectification => v1::RequestKind::Rectification,
        RequestKind::Erasure => v1::RequestKind::Erasure,
        RequestKind::Restriction => v1::RequestKind::Restriction,
        RequestKind::Objection => v1::RequestKind::Objection,
        RequestKind::Portability => v1::RequestKind::Portability,
    };
    let progress = request.progress;
    let state = match (progress.fulfilled, progress.refused) {
        (true, _) => v1::RequestState::Fulfilled,
        (_, true) => v1::RequestState::Refused,
        _ => v1::RequestState::Open,
    };
    v1::Request {
        request_id: id.as_bytes().to_vec(),
        kind: kind.into(),
        state: state.into(),
        received_at: Some(to_wire(request.received_at)),
        gdpr_due: Some(to_wire(request.gdpr_due())),
        swiss_due: Some(to_wire(request.swiss_due())),
        verified: progress.verified,
        approved: progress.approved,
        needs_approval: *needs_approval,
        extended: progress.extended,
    }
}

/// What became of an erasure.
pub(super) fn erasure(details: &ErasureDetails) -> v1::Erasure {
    let told = details.to_be_told.iter().map(|recipient| {
        format!("{} is still to be told, and the notice holds the address", recipient.as_str())
    });
    let mut remains: Vec<String> = told.collect();
    let wait = if remains.is_empty() { FINAL_WITHIN } else { TOLD_WITHIN };
    if details.final_at.is_none() {
        remains.push(
            "copies of the vault that were made before the erasure open with the master key of today, \
             which is destroyed when the next epoch begins"
                .to_owned(),
        );
    }
    v1::Erasure {
        erasure_id: details.id.as_bytes().to_vec(),
        erased_at: Some(to_wire(details.erased_at)),
        final_at: details.final_at.map(to_wire),
        final_by: match details.final_at {
            Some(_) => None,
            None => Some(to_wire(details.erased_at.plus(wait))),
        },
        remains,
        records: counts(&details.records),
        certificate: details.certificate.clone().unwrap_or_default(),
        reason: details.reason.name().to_owned(),
        approved: details.authority.approved,
        keeps_licenses: details.authority.keeps_licenses,
        opened_by: sealed(details.authority.opened_by.as_ref()),
        approved_by: sealed(details.authority.approved_by.as_ref()),
        carried_out_by: sealed(details.authority.carried_out_by.as_ref()),
    }
}

fn sealed(actor: Option<&SealedActor>) -> Vec<u8> {
    actor.map(|sealed| sealed.as_bytes().to_vec()).unwrap_or_default()
}

/// How many records of which category.
pub(super) fn counts(counts: &Counts) -> Vec<v1::CategoryCount> {
    let count = |(category, records): (&Category, &u64)| v1::CategoryCount {
        category: category.name().to_owned(),
        records: *records,
    };
    counts.iter().map(count).collect()
}

/// A day; empty: the one given.
pub(super) fn day(text: &str, otherwise: Day) -> Result<Day, FieldError> {
    if text.is_empty() { Ok(otherwise) } else { Day::parse(text).ok_or(FieldError::Day) }
}

/// Categories by their names, each once.
pub(super) fn categories(names: &[String]) -> Result<Vec<Category>, FieldError> {
    let category = |name: &String| Category::ALL.into_iter().find(|known| known.name() == name);
    let categories = names.iter().map(category).collect::<Option<BTreeSet<_>>>();
    Ok(categories.ok_or(FieldError::Category)?.into_iter().collect())
}

/// What happened on a day with a product.
pub(super) fn day_statistics(counts: &DayCounts) -> v1::DayStatistics {
    v1::DayStatistics {
        day: counts.day.to_string(),
        product: counts.product.as_str().to_owned(),
        licenses: counts.licenses,
        activations: counts.activations,
    }
}

/// What a recipient is to be told.
pub(super) fn notice(details: &NoticeDetails) -> v1::Notice {
    let NoticeDetails { notice, created_at, has_webhook } = details;
    let (erased, new_email) = match &notice.change {
        Change::Erased => (true, None),
        Change::Rectified { email } => (false, email.as_ref()),
    };
    v1::Notice {
        notice_id: notice.id.as_bytes().to_vec(),
        recipient: notice.recipient.as_str().to_owned(),
        email: notice.email.expose().to_owned(),
        erased,
        new_email: new_email.map(|email| email.expose().to_owned()).unwrap_or_default(),
        created_at: Some(to_wire(*created_at)),
        has_webhook: *has_webhook,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_category_counts_once_however_often_it_is_named() {
        let names =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(categories(&vec!["email".to_owned(); 1200]).unwrap(), [Category::Email]);
        let both = categories(&names(&["license", "email", "license"])).unwrap();
        assert_eq!(both, [Category::Email, Category::License]);
        assert!(categories(&names(&["email", "shoe_size"])).is_err());
    }
}
