//! Values that the domain and the events both have names for.

use super::DecodeError;
use crate::domain::{
    Category, ErasureReason, NoticeOutcome, Operation, Purpose, RequestKind, RestrictionKind,
};
use crate::proto::events as wire;

/// The value, if this version knows it.
pub(super) fn known<W, D: TryFrom<W>>(value: W, field: &'static str) -> Result<D, DecodeError> {
    D::try_from(value).map_err(|_| DecodeError(field))
}

/// An enum of the domain and the one of the wire that has the same names and `Unspecified`.
macro_rules! same_names {
    ($domain:ident, $wire:ident, $($name:ident)*) => {
        impl From<$domain> for wire::$wire {
            fn from(value: $domain) -> Self {
                match value { $($domain::$name => Self::$name,)* }
            }
        }

        impl TryFrom<wire::$wire> for $domain {
            type Error = ();

            fn try_from(value: wire::$wire) -> Result<Self, ()> {
                match value {
                    wire::$wire::Unspecified => Err(()),
                    $(wire::$wire::$name => Ok(Self::$name),)*
                }
            }
        }
    };
}

same_names!(Purpose, AccessPurpose, CustomerSupport AccessRequest LicenseAdministration FraudPrevention);
same_names!(
    Operation, Operation,
    IssueLicense GetLicense SuspendLicense ReinstateLicense RevokeLicense FreeSeat GetHistory
    ListActivations ExportSubject OpenRequest GetRequest IssueVerificationCode VerifyIdentity
    ExtendRequest ApproveRequest RefuseRequest FulfilRequest RectifySubject EraseSubject
    SetRestriction RecordDisclosure ListNotices SettleNotice
);
same_names!(RestrictionKind, RestrictionKind, Restriction LegalHold);
same_names!(
    RequestKind, RequestKind,
    Access Rectification Erasure Restriction Objection Portability
);
same_names!(ErasureReason, ErasureReason, Request Rectification Retention);
same_names!(NoticeOutcome, NoticeOutcome, Delivered ByHand GivenUp);

impl From<Category> for wire::Category {
    fn from(category: Category) -> Self {
        match category {
            Category::Email => Self::Email,
            Category::Name => Self::Name,
            Category::License => Self::License,
            Category::ActivationTime => Self::ActivationTime,
            Category::AccessRecord => Self::AccessRecord,
        }
    }
}

impl TryFrom<wire::Category> for Category {
    type Error = ();

    fn try_from(category: wire::Category) -> Result<Self, ()> {
        match category {
            wire::Category::Email => Ok(Self::Email),
            wire::Category::Name => Ok(Self::Name),
            wire::Category::License => Ok(Self::License),
            wire::Category::ActivationTime => Ok(Self::ActivationTime),
            wire::Category::AccessRecord => Ok(Self::AccessRecord),
            wire::Category::Unspecified | wire::Category::Technical => Err(()),
        }
    }
}
